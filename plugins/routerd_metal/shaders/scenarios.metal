// The loss of a portfolio in every scenario, and how the losses are distributed, in one pass over the returns.

#include <metal_stdlib>

// Lanes of a SIMD group, which share a scenario and read its returns side by side.
constexpr constant uint scenario_lanes = 32;

// Bits of a loss's place in the order of all floats that number its bin: sign, exponent and three of the fraction.
constexpr constant uint histogram_bits = 12;

// Unsigned numbers in the order of the floats; of the two zeros there is one.
inline uint ordered(float value) {
    const uint bits = as_type<uint>(value);
    if (bits == 0x80000000u) return bits;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// A sum, and what its roundings left out.
struct ExactSum {
    float total;
    float rest;

    // Source: Knuth (1969), The Art of Computer Programming 2, section 4.2.2: the rounding of a sum is itself a float.
    void add(float value) {
        const float next = total + value;
        const float taken = next - total;
        rest += (total - (next - taken)) + (value - taken);
        total = next;
    }
};

// `returns` (scenarios, assets), `weights` (assets), `sizes` are those two; 32 threads for each scenario.
//
// `losses` are rounded once. `magnitudes` are the sums of the terms without their signs, what roundings are measured
// by.
kernel void scenario_losses(
    device const float* returns [[buffer(0)]],
    device const float* weights [[buffer(1)]],
    device const uint* sizes [[buffer(2)]],
    device float* losses [[buffer(3)]],
    device float* magnitudes [[buffer(4)]],
    device uint* histogram [[buffer(5)]],
    uint thread_number [[thread_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]]) {
    const uint scenario = thread_number / scenario_lanes;
    const uint assets = sizes[1];
    const ulong first = ulong(scenario) * assets;
    ExactSum sum = {0.0f, 0.0f};
    float magnitude = 0.0f;
    for (uint asset = lane; asset < assets; asset += scenario_lanes) {
        const float weight = weights[asset];
        const float change = returns[first + asset];
        const float product = change * weight;
        sum.rest += metal::fma(change, weight, -product);
        sum.add(product);
        magnitude += metal::fabs(product);
    }
    for (ushort distance = scenario_lanes / 2; distance > 0; distance /= 2) {
        const float total = metal::simd_shuffle_xor(sum.total, distance);
        sum.rest += metal::simd_shuffle_xor(sum.rest, distance);
        sum.add(total);
        magnitude += metal::simd_shuffle_xor(magnitude, distance);
    }
    if (lane > 0) return;
    const float loss = -(sum.total + sum.rest);
    losses[scenario] = loss;
    magnitudes[scenario] = magnitude;
    device metal::atomic_uint* bins = (device metal::atomic_uint*)histogram;
    metal::atomic_fetch_add_explicit(bins + (ordered(loss) >> (32u - histogram_bits)), 1u, metal::memory_order_relaxed);
}
