// The newest message of each symbol to every client that subscribes to it, in three passes over messages and
// subscriptions.
//
// A GPU's atomic maximum has 32 bits, so the newest message, the one with the greatest (sequence, position), takes two
// passes: the greatest sequence number of each symbol, then the greatest position among those that have it. What each
// pass needs of all threads of the one before cannot be had within one launch; so the first two take the subscriptions
// along.
//
// `sizes` are the numbers of messages and of subscriptions. A message's `order` is its sequence number − the least of
// all. A `position` counts from 1, so that 0 is no message.

#include <metal_stdlib>

// Most attempts are below what is there already, and a read is cheaper than a write that others wait for.
inline void raise_to(device uint* place, uint value) {
    device metal::atomic_uint* shared = (device metal::atomic_uint*)place;
    if (metal::atomic_load_explicit(shared, metal::memory_order_relaxed) < value)
        metal::atomic_fetch_max_explicit(shared, value, metal::memory_order_relaxed);
}

// The order of each symbol's newest message, each client's number of subscriptions, and a number for each within its
// client's.
kernel void conflate_orders(
    device const uint* symbol [[buffer(0)]],
    device const uint* order [[buffer(1)]],
    device const uint* subscriber [[buffer(2)]],
    device const uint* sizes [[buffer(3)]],
    device uint* newest [[buffer(4)]],
    device uint* lengths [[buffer(5)]],
    device uint* number [[buffer(6)]],
    uint index [[thread_position_in_grid]]) {
    if (index < sizes[0]) raise_to(newest + symbol[index], order[index]);
    if (index >= sizes[1]) return;
    device metal::atomic_uint* length = (device metal::atomic_uint*)(lengths + subscriber[index]);
    number[index] = metal::atomic_fetch_add_explicit(length, 1u, metal::memory_order_relaxed);
}

// The position of each symbol's newest message, and each client's list of symbols, which begins at starts[client].
kernel void conflate_positions(
    device const uint* symbol [[buffer(0)]],
    device const uint* order [[buffer(1)]],
    device const uint* newest [[buffer(2)]],
    device const uint* subscriber [[buffer(3)]],
    device const uint* subscribed [[buffer(4)]],
    device const uint* number [[buffer(5)]],
    device const uint* starts [[buffer(6)]],
    device const uint* sizes [[buffer(7)]],
    device uint* position [[buffer(8)]],
    device uint* listed [[buffer(9)]],
    uint index [[thread_position_in_grid]]) {
    if (index < sizes[0] && order[index] == newest[symbol[index]]) raise_to(position + symbol[index], index + 1u);
    if (index < sizes[1]) listed[starts[subscriber[index]] + number[index]] = subscribed[index];
}

// Each client's list by rank: a subscription's place is the number of those before it, of equal ranks by their numbers.
// To count is quadratic in the length of a list and needs no thread to wait for another, which for the lists that
// clients have is less than a sort of all.
kernel void conflate_lists(
    device const uint* subscriber [[buffer(0)]],
    device const uint* subscribed [[buffer(1)]],
    device const uint* number [[buffer(2)]],
    device const uint* starts [[buffer(3)]],
    device const uint* listed [[buffer(4)]],
    device const uint* rank [[buffer(5)]],
    device uint* sorted [[buffer(6)]],
    uint index [[thread_position_in_grid]]) {
    const uint first = starts[subscriber[index]];
    const uint length = starts[subscriber[index] + 1u] - first;
    const uint own = rank[subscribed[index]];
    uint before = 0u;
    for (uint other = 0u; other < length; ++other) {
        const uint its = rank[listed[first + other]];
        if (its < own || (its == own && other < number[index])) ++before;
    }
    sorted[first + before] = own;
}
