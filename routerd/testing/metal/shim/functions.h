// Metal's scalar and vector types and the functions of metal_stdlib, in single precision as on a GPU.
#pragma once

#include <cmath>
#include <cstdint>

#include "execution.h"

using uchar = unsigned char;
using ushort = unsigned short;
using uint = unsigned int;
using ulong = unsigned long;

namespace metal_shim {

template <typename T, int N>
struct Components;
template <typename T>
struct Components<T, 2> {
    T x, y;
};
template <typename T>
struct Components<T, 3> {
    T x, y, z;
    T unused;  // Metal gives three components the room of four
};
template <typename T>
struct Components<T, 4> {
    T x, y, z, w;
};

}  // namespace metal_shim

namespace metal {

template <typename T, int N>
struct vec : metal_shim::Components<T, N> {
    vec() = default;
    vec(T value) {
        for (int number = 0; number < N; ++number) (*this)[number] = value;
    }
    vec(T x, T y) {
        static_assert(N == 2, "two values make a vector of two");
        (*this)[0] = x, (*this)[1] = y;
    }
    vec(T x, T y, T z) {
        static_assert(N == 3, "three values make a vector of three");
        (*this)[0] = x, (*this)[1] = y, (*this)[2] = z;
    }
    vec(T x, T y, T z, T w) {
        static_assert(N == 4, "four values make a vector of four");
        (*this)[0] = x, (*this)[1] = y, (*this)[2] = z, (*this)[3] = w;
    }
    template <typename U>
    explicit vec(const vec<U, N>& other) {
        for (int number = 0; number < N; ++number) (*this)[number] = T(other[number]);
    }
    T& operator[](int number) { return check(number), (&this->x)[number]; }
    const T& operator[](int number) const { return check(number), (&this->x)[number]; }

  private:
    static void check(int number) {
        if (number < 0 || number >= N) metal_shim::fail("component %d of a vector of %d", number, N);
    }
};

#define METAL_SHIM_VECTOR_OPERATOR(op)                                                                   \
    template <typename T, int N>                                                                         \
    vec<T, N> operator op(vec<T, N> left, vec<T, N> right) {                                             \
        for (int number = 0; number < N; ++number) left[number] = T(left[number] op right[number]);      \
        return left;                                                                                     \
    }                                                                                                    \
    template <typename T, int N, typename S>                                                             \
    std::enable_if_t<std::is_arithmetic<S>::value, vec<T, N>> operator op(vec<T, N> left, S right) {     \
        return left op vec<T, N>(T(right));                                                              \
    }                                                                                                    \
    template <typename T, int N, typename S>                                                             \
    std::enable_if_t<std::is_arithmetic<S>::value, vec<T, N>> operator op(S left, vec<T, N> right) {     \
        return vec<T, N>(T(left)) op right;                                                              \
    }                                                                                                    \
    template <typename T, int N, typename S>                                                             \
    vec<T, N>& operator op##=(vec<T, N>& left, const S& right) {                                         \
        return left = left op right;                                                                     \
    }
METAL_SHIM_VECTOR_OPERATOR(+)
METAL_SHIM_VECTOR_OPERATOR(-)
METAL_SHIM_VECTOR_OPERATOR(*)
METAL_SHIM_VECTOR_OPERATOR(/)
METAL_SHIM_VECTOR_OPERATOR(^)
METAL_SHIM_VECTOR_OPERATOR(&)
METAL_SHIM_VECTOR_OPERATOR(|)
METAL_SHIM_VECTOR_OPERATOR(<<)
METAL_SHIM_VECTOR_OPERATOR(>>)
#undef METAL_SHIM_VECTOR_OPERATOR

template <typename T, int N>
vec<T, N> operator-(vec<T, N> value) {
    return vec<T, N>(T(0)) - value;
}

#define METAL_SHIM_FLOAT_FUNCTION(name)                                                \
    using std::name;                                                                   \
    template <int N>                                                                   \
    vec<float, N> name(vec<float, N> value) {                                          \
        for (int number = 0; number < N; ++number) value[number] = name(value[number]); \
        return value;                                                                  \
    }
METAL_SHIM_FLOAT_FUNCTION(exp)
METAL_SHIM_FLOAT_FUNCTION(exp2)
METAL_SHIM_FLOAT_FUNCTION(log)
METAL_SHIM_FLOAT_FUNCTION(log2)
METAL_SHIM_FLOAT_FUNCTION(sqrt)
METAL_SHIM_FLOAT_FUNCTION(sin)
METAL_SHIM_FLOAT_FUNCTION(cos)
METAL_SHIM_FLOAT_FUNCTION(tan)
METAL_SHIM_FLOAT_FUNCTION(floor)
METAL_SHIM_FLOAT_FUNCTION(ceil)
METAL_SHIM_FLOAT_FUNCTION(round)
METAL_SHIM_FLOAT_FUNCTION(rint)
METAL_SHIM_FLOAT_FUNCTION(trunc)
METAL_SHIM_FLOAT_FUNCTION(fabs)
#undef METAL_SHIM_FLOAT_FUNCTION
using std::fma;
using std::fmod;
using std::isfinite;
using std::isinf;
using std::isnan;
using std::pow;

// The angle in half turns, reduced before it is rounded to radians.
inline float sinpi(float value) {
    const double reduced = double(value) - 2.0 * std::rint(0.5 * double(value));
    return float(std::sin(reduced * 3.14159265358979323846));
}
inline float cospi(float value) {
    const double reduced = double(value) - 2.0 * std::rint(0.5 * double(value));
    return float(std::cos(reduced * 3.14159265358979323846));
}
inline float rsqrt(float value) { return 1.0f / std::sqrt(value); }
inline float sincos(float value, float& cosine) {
    cosine = std::cos(value);
    return std::sin(value);
}
template <typename T>
T abs(T value) {
    return value < T(0) ? T(-value) : value;
}
template <typename T>
T min(T left, T right) {
    return right < left ? right : left;
}
template <typename T>
T max(T left, T right) {
    return left < right ? right : left;
}
inline float fmin(float left, float right) { return std::fmin(left, right); }
inline float fmax(float left, float right) { return std::fmax(left, right); }
template <typename T>
T clamp(T value, T low, T high) {
    return min(max(value, low), high);
}
template <typename T>
T select(T otherwise, T chosen, bool condition) {
    return condition ? chosen : otherwise;
}
inline uint mulhi(uint left, uint right) { return uint(uint64_t(left) * right >> 32); }
inline int mulhi(int left, int right) { return int(int64_t(left) * right >> 32); }
inline ulong mulhi(ulong left, ulong right) { return ulong(static_cast<unsigned __int128>(left) * right >> 64); }
inline uint popcount(uint value) { return uint(__builtin_popcount(value)); }
inline uint clz(uint value) { return value ? uint(__builtin_clz(value)) : 32u; }
inline uint ctz(uint value) { return value ? uint(__builtin_ctz(value)) : 32u; }

// On a GPU these choose between fast and precise versions; a processor has the precise ones alone.
namespace precise {
using namespace metal;
}
namespace fast {
using namespace metal;
}

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };

inline void threadgroup_barrier(mem_flags, int line = __builtin_LINE()) {
    metal_shim::wait(metal_shim::State::at_barrier, line);
}
inline void simdgroup_barrier(mem_flags, int line = __builtin_LINE()) { metal_shim::Lanes<int>(0, line); }

template <typename T>
T simd_shuffle(T value, ushort lane, int line = __builtin_LINE()) {
    return metal_shim::Lanes<T>(value, line)[lane];
}
template <typename T>
T simd_broadcast(T value, ushort lane, int line = __builtin_LINE()) {
    return metal_shim::Lanes<T>(value, line)[lane];
}
// Beyond the last lane the result is undefined in Metal; here it is the thread's own value.
template <typename T>
T simd_shuffle_down(T value, ushort distance, int line = __builtin_LINE()) {
    const metal_shim::Lanes<T> lanes(value, line);
    const uint lane = lanes.own() + distance;
    return lanes.active(lane) ? lanes[lane] : value;
}
template <typename T>
T simd_shuffle_xor(T value, ushort mask, int line = __builtin_LINE()) {
    const metal_shim::Lanes<T> lanes(value, line);
    return lanes[lanes.own() ^ mask];
}

#define METAL_SHIM_SIMD_REDUCTION(name, combined)                       \
    template <typename T>                                               \
    T name(T value, int line = __builtin_LINE()) {                      \
        const metal_shim::Lanes<T> lanes(value, line);                  \
        bool first = true;                                              \
        T total = value;                                                \
        for (uint lane = 0; lane < metal_shim::simd_width; ++lane) {    \
            if (!lanes.active(lane)) continue;                          \
            const T next = lanes[lane];                                 \
            total = first ? next : combined;                            \
            first = false;                                              \
        }                                                               \
        return total;                                                   \
    }
METAL_SHIM_SIMD_REDUCTION(simd_sum, T(total + next))
METAL_SHIM_SIMD_REDUCTION(simd_max, metal::max(total, next))
METAL_SHIM_SIMD_REDUCTION(simd_min, metal::min(total, next))
#undef METAL_SHIM_SIMD_REDUCTION

enum memory_order { memory_order_relaxed };

// One thread runs at a time, so what is atomic on a GPU is a plain value here.
template <typename T>
struct atomic {
    T value;
};
using atomic_int = atomic<int>;
using atomic_uint = atomic<uint>;
using atomic_float = atomic<float>;

template <typename P>
auto atomic_load_explicit(P place, memory_order) {
    return (*place).value;
}
template <typename P, typename V>
void atomic_store_explicit(P place, V value, memory_order) {
    (*place).value = value;
}
#define METAL_SHIM_ATOMIC(name, combined)                \
    template <typename P, typename V>                    \
    auto name(P place, V operand, memory_order) {        \
        auto& value = (*place).value;                    \
        const auto before = value;                       \
        using T = std::decay_t<decltype(value)>;         \
        value = combined;                                \
        return before;                                   \
    }
METAL_SHIM_ATOMIC(atomic_exchange_explicit, T(operand))
METAL_SHIM_ATOMIC(atomic_fetch_add_explicit, T(value + operand))
METAL_SHIM_ATOMIC(atomic_fetch_max_explicit, metal::max(value, T(operand)))
METAL_SHIM_ATOMIC(atomic_fetch_min_explicit, metal::min(value, T(operand)))
#undef METAL_SHIM_ATOMIC

}  // namespace metal

#define METAL_SHIM_VECTOR_TYPE(type)      \
    using type##2 = metal::vec<type, 2>;  \
    using type##3 = metal::vec<type, 3>;  \
    using type##4 = metal::vec<type, 4>;
METAL_SHIM_VECTOR_TYPE(int)
METAL_SHIM_VECTOR_TYPE(uint)
METAL_SHIM_VECTOR_TYPE(ulong)
METAL_SHIM_VECTOR_TYPE(float)
#undef METAL_SHIM_VECTOR_TYPE

template <typename To, typename From>
To as_type(From value) {
    static_assert(sizeof(To) == sizeof(From), "as_type needs types of one size");
    To result;
    std::memcpy(&result, &value, sizeof result);
    return result;
}

#define M_PI_F 3.14159265358979323846f
#define M_LN2_F 0.693147180559945309417f
#define M_SQRT2_F 1.41421356237309504880f

using metal::atomic;
using metal::atomic_float;
using metal::atomic_int;
using metal::atomic_uint;
using metal::mem_flags;
