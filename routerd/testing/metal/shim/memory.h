// Address spaces of a Metal shader on a processor: pointers that know where their buffer ends.
#pragma once

#include <cstdarg>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <type_traits>

namespace metal_shim {

// What a shader must not do; it ends the launch and becomes an error of the host.
struct Fault {
    char message[240];
};

[[noreturn]] inline void fail(const char* format, ...) {
    Fault fault;
    va_list values;
    va_start(values, format);
    std::vsnprintf(fault.message, sizeof fault.message, format, values);
    va_end(values);
    throw fault;
}

// Memory that the running threadgroup may touch through a pointer: buffers of the launch and its own shared variables.
struct Region {
    const char* name;
    char* begin;
    size_t bytes;
};

constexpr int most_regions = 64;
inline Region regions[most_regions];
inline int region_count = 0;

inline void add_region(const char* name, void* begin, size_t bytes) {
    if (region_count == most_regions) fail("more than %d buffers and shared variables", most_regions);
    regions[region_count++] = {name, static_cast<char*>(begin), bytes};
}

template <typename T>
class Pointer {
  public:
    Pointer() = default;

    Pointer(T* base, long count, long offset, const char* name)
        : base_(base), count_(count), offset_(offset), name_(name) {}

    // The address of an element: its region says how far it reaches.
    Pointer(T* address) {
        const char* place = reinterpret_cast<const char*>(address);
        for (int number = 0; number < region_count; ++number) {
            const Region& region = regions[number];
            if (place >= region.begin && place <= region.begin + region.bytes) {
                *this = Pointer(reinterpret_cast<T*>(region.begin), long(region.bytes / sizeof(T)),
                                address - reinterpret_cast<T*>(region.begin), region.name);
                return;
            }
        }
        fail("a device or threadgroup pointer was made from an address outside of every buffer");
    }

    template <typename U, std::enable_if_t<std::is_convertible<U*, T*>::value && !std::is_same<U, T>::value, int> = 0>
    Pointer(const Pointer<U>& other) : Pointer(other.base(), other.count(), other.offset(), other.name()) {}

    template <typename U, std::enable_if_t<!std::is_convertible<U*, T*>::value, int> = 0>
    explicit Pointer(const Pointer<U>& other)
        : Pointer(reinterpret_cast<T*>(other.base() + other.offset()),
                  (other.count() - other.offset()) * long(sizeof(U)) / long(sizeof(T)), 0, other.name()) {}

    template <typename Index>
    T& operator[](Index index) const {
        const long place = offset_ + long(index);
        if (place < 0 || place >= count_) fail("%s[%ld] is outside of its %ld elements", name_, place, count_);
        return base_[place];
    }

    T& operator*() const { return (*this)[0]; }
    T* operator->() const { return &(*this)[0]; }
    Pointer operator+(long steps) const { return Pointer(base_, count_, offset_ + steps, name_); }
    Pointer operator-(long steps) const { return *this + -steps; }
    long operator-(const Pointer& other) const { return offset_ - other.offset_; }
    Pointer& operator+=(long steps) { return *this = *this + steps; }
    Pointer& operator-=(long steps) { return *this = *this - steps; }
    Pointer& operator++() { return *this += 1; }
    bool operator==(const Pointer& other) const { return base_ + offset_ == other.base_ + other.offset_; }
    bool operator!=(const Pointer& other) const { return !(*this == other); }
    bool operator<(const Pointer& other) const { return base_ + offset_ < other.base_ + other.offset_; }

    T* base() const { return base_; }
    long count() const { return count_; }
    long offset() const { return offset_; }
    const char* name() const { return name_; }

  private:
    T* base_ = nullptr;
    long count_ = 0;
    long offset_ = 0;
    const char* name_ = "a pointer that was never set";
};

// A threadgroup variable holds nothing when its threadgroup begins: here bytes that read as NaN or as a huge number.
inline void share_bytes(void* storage, size_t bytes, const char* name) {
    for (int number = 0; number < region_count; ++number)
        if (regions[number].begin == storage) return;
    add_region(name, storage, bytes);
    std::memset(storage, 0xff, bytes);
}

template <typename T, size_t N>
Pointer<T> share(T (&storage)[N], const char* name) {
    share_bytes(storage, sizeof storage, name);
    return Pointer<T>(storage, long(N), 0, name);
}

template <typename T>
T& share(T& storage, const char* name) {
    share_bytes(&storage, sizeof storage, name);
    return storage;
}

template <typename T>
Pointer<T> pointer_argument(const Region& buffer) {
    if (buffer.bytes % sizeof(T)) fail("%s has %zu bytes, which are no whole elements of %zu", buffer.name, buffer.bytes, sizeof(T));
    return Pointer<T>(reinterpret_cast<T*>(buffer.begin), long(buffer.bytes / sizeof(T)), 0, buffer.name);
}

template <typename T>
T& reference_argument(const Region& buffer) {
    if (buffer.bytes < sizeof(T)) fail("%s has %zu bytes and is read as %zu", buffer.name, buffer.bytes, sizeof(T));
    return *reinterpret_cast<T*>(buffer.begin);
}

}  // namespace metal_shim
