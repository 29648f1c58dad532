// Number, mean, and sum of squared deviations from the mean of values, kept so that single precision loses little.

#include <metal_stdlib>

// Threads of a threadgroup that gathers moments.
constexpr constant uint moments_group = 256;

struct Moments {
    float count;
    float mean;
    float scatter;
};

// Source: Welford (1962), Note on a Method for Calculating Corrected Sums of Squares and Products, Technometrics 4(3).
inline Moments with_value(Moments moments, float value) {
    moments.count += 1.0f;
    const float gap = value - moments.mean;
    moments.mean += gap / moments.count;
    moments.scatter += gap * (value - moments.mean);
    return moments;
}

// Source: Chan, Golub, LeVeque (1983), Algorithms for Computing the Sample Variance, The American Statistician 37(3).
inline Moments together(Moments left, Moments right) {
    const float count = left.count + right.count;
    if (count == 0.0f) return left;
    const float gap = right.mean - left.mean;
    const float share = right.count / count;
    const Moments both = {count, left.mean + gap * share, left.scatter + right.scatter + gap * gap * (left.count * share)};
    return both;
}

// Writes the moments of a whole threadgroup, whose threads give theirs, to found[0…2]. The scratch has room for each thread.
inline void gather_moments(Moments own, threadgroup Moments* scratch, device float* found, uint index) {
    scratch[index] = own;
    for (uint distance = moments_group / 2; distance > 0; distance /= 2) {
        metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
        if (index < distance) scratch[index] = together(scratch[index], scratch[index + distance]);
    }
    if (index > 0) return;
    found[0] = scratch[0].count;
    found[1] = scratch[0].mean;
    found[2] = scratch[0].scatter;
}

// A sum that carries what each addition rounded away.
//
// Source: Kahan (1965), Further Remarks on Reducing Truncation Errors, Communications of the ACM 8(1).
struct CompensatedSum {
    float total;
    float excess;

    void add(float value) {
        const float corrected = value - excess;
        const float next = total + corrected;
        excess = (next - total) - corrected;
        total = next;
    }
};
