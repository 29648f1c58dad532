// Prices of options by simulation: random number, path, payoff and moments in one pass that touches no memory between them.
//
// The paths are those of the workloads' own kernels (routerd/workloads/options): path 4·counter + lane has the normal number
// of that lane of that counter, so any range of paths is the same range on every device.
//
// `range` holds the first path, their number, the two words of the seed and the steps of a path; `moments` gets number, mean
// and scatter of the payoffs of each threadgroup.

#include "philox.metal"
#include "moments.metal"

// Counters that hold the paths first…first+count−1.
inline uint first_counter(device const uint* range) { return range[0] / 4u; }
inline uint last_counter(device const uint* range) { return (range[0] + range[1] - 1u) / 4u; }

inline Moments with_paths(Moments moments, float4 payoffs, uint counter, device const uint* range) {
    for (uint lane = 0; lane < 4; ++lane) {
        // Without a sign, a path before the first is as far away as one behind the last.
        if (4u * counter + lane - range[0] < range[1]) moments = with_value(moments, payoffs[lane]);
    }
    return moments;
}

// `terms` are drift, deviation, sign and strike of routerd.workloads.options.european.PathTerms.
kernel void monte_carlo_european(
    device const uint* range [[buffer(0)]],
    device const float* terms [[buffer(1)]],
    device float* moments [[buffer(2)]],
    uint number [[thread_position_in_grid]],
    uint threads [[threads_per_grid]],
    uint index [[thread_index_in_threadgroup]],
    uint group [[threadgroup_position_in_grid]]) {
    threadgroup Moments scratch[moments_group];
    Moments own = {0.0f, 0.0f, 0.0f};
    for (uint counter = first_counter(range) + number; counter <= last_counter(range); counter += threads) {
        const float4 normals = philox_normals(counter, 0u, range[2], range[3]);
        float4 payoffs;
        for (uint lane = 0; lane < 4; ++lane) {
            const float gain = terms[2] * metal::precise::exp(normals[lane] * terms[1] + terms[0]) - terms[3];
            payoffs[lane] = metal::max(gain, 0.0f);
        }
        own = with_paths(own, payoffs, counter, range);
    }
    gather_moments(own, scratch, moments + 3u * group, index);
}

// The average of the asset along the four paths of a counter. At step i the logarithm of the asset is
// deviation·motion + drift[i] + loading[i]·change + weight, where motion is the sum of the normal numbers so far.
inline float4 average_asset(
    uint counter,
    device const uint* range,
    float deviation,
    device const float* drift,
    device const float* loading,
    float4 change,
    float4 weight) {
    CompensatedSum motion[4];
    CompensatedSum total[4];
    for (uint lane = 0; lane < 4; ++lane) motion[lane] = total[lane] = {0.0f, 0.0f};
    for (uint step = 0; step < range[4]; ++step) {
        const float4 normals = philox_normals(counter, step, range[2], range[3]);
        for (uint lane = 0; lane < 4; ++lane) {
            motion[lane].add(normals[lane]);
            const float tilted = drift[step] + loading[step] * change[lane] + weight[lane];
            total[lane].add(metal::precise::exp(deviation * motion[lane].total + tilted));
        }
    }
    float4 average;
    for (uint lane = 0; lane < 4; ++lane) average[lane] = total[lane].total / float(range[4]);
    return average;
}

// An Asian option without control variate. `terms` are deviation, sign and strike; `loading` is not needed but read.
kernel void monte_carlo_asian(
    device const uint* range [[buffer(0)]],
    device const float* terms [[buffer(1)]],
    device const float* drift [[buffer(2)]],
    device const float* loading [[buffer(3)]],
    device float* moments [[buffer(4)]],
    uint number [[thread_position_in_grid]],
    uint threads [[threads_per_grid]],
    uint index [[thread_index_in_threadgroup]],
    uint group [[threadgroup_position_in_grid]]) {
    threadgroup Moments scratch[moments_group];
    Moments own = {0.0f, 0.0f, 0.0f};
    for (uint counter = first_counter(range) + number; counter <= last_counter(range); counter += threads) {
        const float4 zero = float4(0.0f);
        const float4 average = average_asset(counter, range, terms[0], drift, loading, zero, zero);
        float4 payoffs;
        for (uint lane = 0; lane < 4; ++lane) payoffs[lane] = metal::max(terms[1] * (average[lane] - terms[2]), 0.0f);
        own = with_paths(own, payoffs, counter, range);
    }
    gather_moments(own, scratch, moments + 3u * group, index);
}

// What an Asian option pays although its geometric average is below the strike, over the chance of it: what the control
// variate leaves to simulate. The level of each path is replaced by one `depth` bands below the threshold, which takes the
// path's own level first, and so every step twice: to make its numbers again costs less than to keep them in memory.
//
// `terms` are deviation, level of a unit of summed motion, threshold, band, strike and band/√(2π).
kernel void monte_carlo_asian_below(
    device const uint* range [[buffer(0)]],
    device const float* terms [[buffer(1)]],
    device const float* drift [[buffer(2)]],
    device const float* loading [[buffer(3)]],
    device float* moments [[buffer(4)]],
    uint number [[thread_position_in_grid]],
    uint threads [[threads_per_grid]],
    uint index [[thread_index_in_threadgroup]],
    uint group [[threadgroup_position_in_grid]]) {
    threadgroup Moments scratch[moments_group];
    Moments own = {0.0f, 0.0f, 0.0f};
    const uint steps = range[4];
    for (uint counter = first_counter(range) + number; counter <= last_counter(range); counter += threads) {
        CompensatedSum motions[4];
        for (uint lane = 0; lane < 4; ++lane) motions[lane] = {0.0f, 0.0f};
        for (uint step = 0; step < steps; ++step) {
            const float4 normals = philox_normals(counter, step, range[2], range[3]);
            // A step's number is in the motion of every step from there on.
            for (uint lane = 0; lane < 4; ++lane) motions[lane].add(float(steps - step) * normals[lane]);
        }
        const float4 left = philox_normals(counter, steps, range[2], range[3]);
        const float4 right = philox_normals(counter, steps + 1u, range[2], range[3]);
        float4 change, weight;
        for (uint lane = 0; lane < 4; ++lane) {
            // Half the square of a normal vector's length in the plane is exponentially distributed.
            const float depth = 0.5f * (left[lane] * left[lane] + right[lane] * right[lane]);
            const float level = terms[2] - terms[3] * depth;
            change[lane] = level - terms[1] * motions[lane].total;
            weight[lane] = depth - 0.5f * level * level;
        }
        const float4 average = average_asset(counter, range, terms[0], drift, loading, change, weight);
        float4 payoffs;
        for (uint lane = 0; lane < 4; ++lane) {
            const float gain = average[lane] - terms[4] * metal::precise::exp(weight[lane]);
            payoffs[lane] = metal::max(gain * terms[5], 0.0f);
        }
        own = with_paths(own, payoffs, counter, range);
    }
    gather_moments(own, scratch, moments + 3u * group, index);
}
