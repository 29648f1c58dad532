// A threadgroup on one thread of the host: each of its threads is a fibre that runs until it must wait for the others.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <memory>
#include <vector>

#include "memory.h"

namespace metal_shim {

constexpr size_t stack_bytes = 128 * 1024;
constexpr unsigned simd_width = 32;
constexpr size_t widest_value = 16;

enum class State { ready, at_barrier, at_simd, done };

struct Fibre {
    ucontext_t context;
    jmp_buf resume_here;
    bool begun = false;
    State state = State::done;
    int line = 0;
    unsigned exchanges = 0;
    unsigned active_lanes = 0;
};

// Where the running thread is, as Metal's attributes tell it; a grid has one dimension here.
struct Place {
    unsigned grid, groups, group_size, group, index, full_group_size;
};

using Kernel = void (*)(const Region* buffers);

inline std::vector<Fibre> fibres;
inline std::unique_ptr<char[]> stacks;
inline jmp_buf scheduler;
inline Fibre* current = nullptr;
inline Place place;
inline Kernel running = nullptr;
inline const Region* arguments = nullptr;
inline bool faulted = false;
inline Fault first_fault;
// Values that lanes give each other: two sets, so that a fast lane does not overwrite what a slow one still reads.
alignas(16) inline char exchanged[2][1024][widest_value];

inline void suspend() {
    Fibre* self = current;
    if (_setjmp(self->resume_here) == 0) _longjmp(scheduler, 1);
}

inline void live() {
    for (;;) {
        try {
            running(arguments);
        } catch (const Fault& fault) {
            first_fault = fault;
            faulted = true;
        }
        current->state = State::done;
        suspend();
    }
}

inline void resume(unsigned index) {
    Fibre& fibre = fibres[index];
    current = &fibre;
    place.index = index;
    if (_setjmp(scheduler)) return;
    if (fibre.begun) _longjmp(fibre.resume_here, 1);
    fibre.begun = true;
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = stacks.get() + index * stack_bytes;
    fibre.context.uc_stack.ss_size = stack_bytes;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, live, 0);
    setcontext(&fibre.context);
}

inline void wait(State state, int line) {
    current->state = state;
    current->line = line;
    suspend();
}

// Lets threads first…last−1 go on if all of them that have not ended wait in the same place for the same thing.
inline bool release(unsigned first, unsigned last, State state) {
    int line = 0;
    for (unsigned index = first; index < last; ++index) {
        const Fibre& fibre = fibres[index];
        if (fibre.state == State::done && state == State::at_simd) continue;
        if (fibre.state != state || (line && fibre.line != line)) return false;
        line = fibre.line;
    }
    if (!line) return false;
    unsigned waited = 0;
    for (unsigned index = first; index < last && state == State::at_simd; ++index)
        if (fibres[index].state == state) waited |= 1u << (index - first);
    for (unsigned index = first; index < last; ++index) {
        if (fibres[index].state != state) continue;
        fibres[index].state = State::ready;
        fibres[index].active_lanes = waited;
    }
    return true;
}

inline void run_threadgroup() {
    const unsigned size = place.group_size;
    const bool descending = place.group % 2;
    for (unsigned index = 0; index < size; ++index) {
        fibres[index].state = State::ready;
        fibres[index].exchanges = 0;
    }
    for (;;) {
        for (unsigned number = 0; number < size; ++number) {
            const unsigned index = descending ? size - 1 - number : number;
            if (fibres[index].state == State::ready) resume(index);
            if (faulted) return;
        }
        bool released = release(0, size, State::at_barrier);
        for (unsigned first = 0; first < size; first += simd_width)
            released |= release(first, first + simd_width < size ? first + simd_width : size, State::at_simd);
        if (released) continue;
        for (unsigned index = 0; index < size; ++index) {
            if (fibres[index].state == State::done) continue;
            place.index = index;
            std::snprintf(first_fault.message, sizeof first_fault.message,
                          "it waits in line %d for threads that have ended or wait elsewhere", fibres[index].line);
            faulted = true;
            return;
        }
        return;
    }
}

// Every lane's value, in the order of lanes: what this thread gave and what the others of its SIMD group did.
template <typename T>
class Lanes {
  public:
    Lanes(T value, int line) : set_(current->exchanges++ % 2), first_(place.index / simd_width * simd_width) {
        static_assert(sizeof(T) <= widest_value, "a SIMD group exchanges at most 16 bytes");
        std::memcpy(exchanged[set_][place.index], &value, sizeof value);
        wait(State::at_simd, line);
        active_ = current->active_lanes;
    }

    bool active(unsigned lane) const { return lane < simd_width && active_ >> lane & 1u; }

    T operator[](unsigned lane) const {
        if (!active(lane)) fail("lane %u of a SIMD group was asked for its value and has ended or does not exist", lane);
        T value;
        std::memcpy(&value, exchanged[set_][first_ + lane], sizeof value);
        return value;
    }

    unsigned own() const { return place.index - first_; }

  private:
    unsigned set_, first_, active_ = 0;
};

// Runs `threads` threads in threadgroups of `size`, the last one smaller where they do not divide. 0 where all went well.
inline int launch(Kernel kernel, void* const* data, const size_t* bytes, const char* const* names, unsigned count,
                  unsigned threads, unsigned size, char* message, size_t room) {
    std::vector<Region> buffers;
    for (unsigned number = 0; number < count; ++number)
        buffers.push_back({names[number], static_cast<char*>(data[number]), bytes[number]});
    fibres = std::vector<Fibre>(size);
    stacks.reset(new char[size * stack_bytes]);
    running = kernel;
    arguments = buffers.data();
    faulted = false;
    const unsigned groups = (threads + size - 1) / size;
    for (unsigned group = 0; group < groups && !faulted; ++group) {
        const unsigned first = group * size;
        place = {threads, groups, threads - first < size ? threads - first : size, group, 0, size};
        region_count = 0;
        for (const Region& buffer : buffers) add_region(buffer.name, buffer.begin, buffer.bytes);
        run_threadgroup();
    }
    stacks.reset();  // what threads were in the middle of when one failed is given up
    if (!faulted) return 0;
    std::snprintf(message, room, "thread %u of threadgroup %u: %s", place.index, place.group, first_fault.message);
    return 1;
}

}  // namespace metal_shim
