// Philox, a counter-based random number generator: the same words for the same counter and key on every device.
//
// philox<uint> is Philox4x32-10, the generator of routerd's workloads (routerd/workloads/randomness.py);
// philox<ulong> is Philox4x64-10, that of numpy.random.Philox.
//
// Source: Salmon, Moraes, Dror, Shaw (2011), Parallel Random Numbers: As Easy as 1, 2, 3, SC'11.

#include <metal_stdlib>

// The first word of a counter and of what it gives is x.
template <typename Word>
struct PhiloxWords {
    Word x, y, z, w;
};

template <typename Word>
struct PhiloxConstants;

template <>
struct PhiloxConstants<uint> {
    static constexpr uint left_multiplier() { return 0xD2511F53u; }
    static constexpr uint right_multiplier() { return 0xCD9E8D57u; }
    static constexpr uint left_key_step() { return 0x9E3779B9u; }
    static constexpr uint right_key_step() { return 0xBB67AE85u; }
};

template <>
struct PhiloxConstants<ulong> {
    static constexpr ulong left_multiplier() { return 0xD2E7470EE14C6C93ul; }
    static constexpr ulong right_multiplier() { return 0xCA5A826395121157ul; }
    static constexpr ulong left_key_step() { return 0x9E3779B97F4A7C15ul; }
    static constexpr ulong right_key_step() { return 0xBB67AE8584CAA73Bul; }
};

constexpr int philox_rounds() { return 10; }

template <typename Word>
PhiloxWords<Word> philox(PhiloxWords<Word> counter, Word left_key, Word right_key) {
    typedef PhiloxConstants<Word> Constants;
    for (int round = 0; round < philox_rounds(); ++round) {
        const Word left_high = metal::mulhi(counter.x, Constants::left_multiplier());
        const Word left_low = counter.x * Constants::left_multiplier();
        const Word right_high = metal::mulhi(counter.z, Constants::right_multiplier());
        const Word right_low = counter.z * Constants::right_multiplier();
        counter.x = right_high ^ counter.y ^ left_key;
        counter.y = right_low;
        counter.z = left_high ^ counter.w ^ right_key;
        counter.w = left_low;
        left_key += Constants::left_key_step();
        right_key += Constants::right_key_step();
    }
    return counter;
}

// Streams of one seed, the third word of a counter: the numbers of routerd.workloads.randomness.
constexpr uint philox_paths() { return 0u; }

// Four standard normal numbers of a path counter below 2^32 and a step, one for each lane.
//
// Source: Box and Muller (1958), Annals of Mathematical Statistics 29.
inline float4 philox_normals(uint counter, uint step, uint seed_low, uint seed_high) {
    const PhiloxWords<uint> first = {counter, 0u, philox_paths(), step};
    const PhiloxWords<uint> words = philox(first, seed_low, seed_high);
    // The unit interval without 0, so the logarithm is finite; rounded up to 1 it gives a radius of 0.
    const float word = 1.0f / 4294967296.0f;
    const float left_radius = metal::sqrt(-2.0f * metal::precise::log((float(words.x) + 0.5f) * word));
    const float right_radius = metal::sqrt(-2.0f * metal::precise::log((float(words.z) + 0.5f) * word));
    // In half turns no rounding of pi enters the angle.
    const float left_angle = (float(words.y) + 0.5f) * (2.0f * word);
    const float right_angle = (float(words.w) + 0.5f) * (2.0f * word);
    return float4(left_radius * metal::precise::cospi(left_angle), right_radius * metal::precise::cospi(right_angle),
                  left_radius * metal::precise::sinpi(left_angle), right_radius * metal::precise::sinpi(right_angle));
}
