// SPDX-License-Identifier: Apache-2.0
// hopper_simulated.cuh - the twins of kernels/hopper.cuh in plain C++, for the
// simulated device.
#pragma once

#include "element.cuh"
#include "tensor.cuh"
#include "tensor_map.h"

// ---- Barriers. Who waits looks again and again while others run.

struct SimtBarrier {
    short count;    // arrivals of a phase
    short pending;  // that are still to come
    int bytes : 31; // announced and still to come, or come before
    unsigned parity : 1;
};

using Barrier = unsigned long long;
static_assert(sizeof(SimtBarrier) == sizeof(Barrier));

__forceinline__ void simt_barrier_change(Barrier *barrier, int arrivals,
                                         int bytes, int line)
{
    SimtBarrier *const own = reinterpret_cast<SimtBarrier *>(barrier);
    simt_runtime_of_module->tell(barrier, bytes < 0);
    const SimtAtomic atomic;
    if (own->pending < arrivals)
        simt_runtime_of_module->fault(
            "more than %d arrivals at the barrier in line %d", own->count, line);
    own->pending = static_cast<short>(own->pending - arrivals);
    own->bytes += bytes;
    if (own->pending == 0 && own->bytes == 0) {
        own->pending = own->count;
        own->parity ^= 1;
    }
    ++simt_runtime_of_module->events;
}

__device__ __forceinline__ void barrier_init(Barrier *barrier, unsigned count)
{
    *reinterpret_cast<SimtBarrier *>(barrier) = {
        static_cast<short>(count), static_cast<short>(count), 0, 0};
}

__device__ __forceinline__ void barrier_init_fence() {}

__device__ __forceinline__ void barrier_arrive(Barrier *barrier,
                                               int line = __builtin_LINE())
{
    simt_barrier_change(barrier, 1, 0, line);
}

__device__ __forceinline__ void barrier_expect(Barrier *barrier, unsigned bytes,
                                               int line = __builtin_LINE())
{
    simt_barrier_change(barrier, 1, static_cast<int>(bytes), line);
}

__forceinline__ unsigned simt_barrier_parity(const Barrier *barrier)
{
    const SimtAtomic atomic;
    return reinterpret_cast<const volatile SimtBarrier *>(barrier)->parity;
}

__device__ __forceinline__ void barrier_wait(Barrier *barrier, unsigned parity,
                                             int line = __builtin_LINE())
{
    while (simt_barrier_parity(barrier) == parity)
        simt_runtime_of_module->look_again(line);
    simt_runtime_of_module->learn(barrier);
}

// ---- Copies of tiles

constexpr int TILE_ALIGNMENT = 1024;

__device__ __forceinline__ void *align_tile(void *memory)
{
    return reinterpret_cast<void *>(
        (reinterpret_cast<uintptr_t>(memory) + TILE_ALIGNMENT - 1) /
        TILE_ALIGNMENT * TILE_ALIGNMENT);
}

// Where what would be at an address of a tile is, for the 128-byte swizzle.
__forceinline__ uintptr_t simt_swizzled(uintptr_t address)
{
    return address ^ (address >> 7 & 7) << 4;
}

__device__ __forceinline__ void copy_tile(const fex_tensor_map *map, void *to,
                                          Barrier *barrier, int column, int row,
                                          int line = __builtin_LINE())
{
    using Element = unsigned short;
    const simt_tensor_map &from =
        *reinterpret_cast<const simt_tensor_map *>(map);
    const uintptr_t tile = reinterpret_cast<uintptr_t>(to);
    const unsigned elements =
        static_cast<unsigned>(from.box_rows * from.box_columns);
    if (tile % TILE_ALIGNMENT != 0)
        simt_runtime_of_module->fault("a tile at %p in line %d", to, line);
    for (unsigned i = 0; i < elements; ++i) {
        const uint64_t r = static_cast<uint64_t>(row) + i / from.box_columns;
        const uint64_t c = static_cast<uint64_t>(column) + i % from.box_columns;
        *reinterpret_cast<Element *>(
            simt_swizzled(tile + i * sizeof(Element))) =
            r < from.rows && c < from.columns
                ? reinterpret_cast<const Element *>(
                      from.address + r * from.stride_bytes)[c]
                : Element(0);
    }
    simt_barrier_change(barrier, 0,
                        -static_cast<int>(elements * sizeof(Element)), line);
}

__device__ __forceinline__ void prefetch_row(const void *, unsigned) {}

__device__ __forceinline__ void publish_shared() {}

template <int REGISTERS> __device__ __forceinline__ void registers_drop() {}
template <int REGISTERS> __device__ __forceinline__ void registers_take() {}

// ---- Products: a thread's share is done when its group is waited for, as late
// as may be, so that operands that change too early give wrong sums.

using Descriptor = unsigned long long; // an address / 16

__device__ __forceinline__ Descriptor descriptor_of(const void *tile)
{
    return reinterpret_cast<uintptr_t>(tile) / 16;
}

struct SimtProduct {
    float *sums;
    int count; // of sums: half the columns
    bool from_registers;
    float a[2][32]; // then this; else from a tile
    Descriptor a_tile, b;
    void (*carry_out)(const SimtProduct &product);
    bool add;
    int group;
};

struct SimtProducts {
    SimtProduct waiting[32];
    int count;
    int group; // that is being filled
    int done;  // groups
};

SimtProducts simt_all_products[1024];

__forceinline__ uintptr_t simt_tile_byte(Descriptor tile, int row, int byte)
{
    return simt_swizzled(tile * 16 + static_cast<uintptr_t>(row) * 128 +
                         static_cast<uintptr_t>(byte));
}

// Elements of operands. Of 16 bits:
template <int DTYPE> struct SimtElement {
    using Storage = typename Dtype<DTYPE>::Storage;
    static constexpr int DEPTH = 16; // of a product: 32 bytes
    static float widen(Storage bits) { return Dtype<DTYPE>::widen(bits); }
};

// And of 8 bits, the upper ones of an f16.
struct SimtElement8 {
    using Storage = unsigned char;
    static constexpr int DEPTH = 32;
    static float widen(Storage bits)
    {
        return half_to_float(static_cast<unsigned short>(bits << 8));
    }
};

template <typename Element>
__forceinline__ float simt_tile_element(Descriptor tile, int row, int k)
{
    using Storage = typename Element::Storage;
    return Element::widen(*reinterpret_cast<const Storage *>(simt_tile_byte(
        tile, row, k * static_cast<int>(sizeof(Storage)))));
}

// Rows that a product reads, as far as their 32 bytes.
__forceinline__ void simt_read_rows(Descriptor tile, int first, int count)
{
    for (int row = first; row < first + count; ++row)
        for (int byte = 0; byte < 32; byte += 16)
            simt_runtime_of_module->access(
                reinterpret_cast<const void *>(simt_tile_byte(tile, row, byte)),
                16, SIMT_READ);
}

// Lane l of warp w has rows 16 w + l / 4 and that + 8, columns 8 j + 2 (l % 4)
// and the next, of sums and of a alike. What a warp reads is told once.
template <typename Element>
__attribute__((no_sanitize("thread"))) void simt_multiply(const SimtProduct &p)
{
    constexpr int DEPTH = Element::DEPTH;
    const int lane = threadIdx.x % 32;
    const int warp_row = static_cast<int>(threadIdx.x) / 32 % 4 * 16;
    const int first = warp_row + lane / 4;
    if (lane == 0) {
        simt_read_rows(p.b, 0, p.count * 2);
        if (!p.from_registers)
            simt_read_rows(p.a_tile, warp_row, 16);
    }
    float a[2][DEPTH];
    for (int half = 0; half < 2; ++half)
        for (int k = 0; k < DEPTH; ++k)
            a[half][k] = p.from_registers
                             ? p.a[half][k]
                             : simt_tile_element<Element>(
                                   p.a_tile, first + half * 8, k);
    for (int i = 0; i < p.count; ++i) {
        const int column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        float sum = p.add ? p.sums[i] : 0.0f;
        for (int k = 0; k < DEPTH; ++k)
            sum += a[i / 2 % 2][k] * simt_tile_element<Element>(p.b, column, k);
        p.sums[i] = sum;
    }
}

__forceinline__ void simt_begin_product(const SimtProduct &product)
{
    SimtProducts &own = simt_all_products[threadIdx.x];
    if (own.count == 32)
        simt_runtime_of_module->fault("more products than the simulator keeps");
    own.waiting[own.count] = product;
    own.waiting[own.count++].group = own.group;
}

__device__ __forceinline__ void product_begin() {}

__device__ __forceinline__ void product_commit()
{
    ++simt_all_products[threadIdx.x].group;
}

// Groups end for a whole warp; other warps of the warpgroup may still read.
template <int PENDING>
__device__ __forceinline__ void product_wait(int line = __builtin_LINE())
{
    SimtProducts &own = simt_all_products[threadIdx.x];
    int kept = 0;
    for (int i = 0; i < own.count; ++i) {
        if (own.waiting[i].group < own.group - PENDING)
            own.waiting[i].carry_out(own.waiting[i]);
        else
            own.waiting[kept++] = own.waiting[i];
    }
    own.count = kept;
    const int done = own.group - PENDING;
    if (own.done < done)
        own.done = done;
    ++simt_runtime_of_module->events;
    const SimtProducts *const warp =
        simt_all_products + threadIdx.x / 32 * 32;
    for (int i = 0; i < 32; ++i)
        while (static_cast<const volatile int &>(warp[i].done) < done)
            simt_runtime_of_module->look_again(line);
    simt_runtime_of_module->lanes_met();
}

template <int DTYPE, int COUNT>
__device__ __forceinline__ void product(float (&sums)[COUNT], Descriptor a,
                                        Descriptor b, bool add)
{
    simt_begin_product(
        {sums, COUNT, false, {}, a, b, simt_multiply<SimtElement<DTYPE>>,
         add, 0});
}

// Lanes tell each other their registers when the product begins: that they are
// left alone after it is not seen here. A register has the elements of STEP
// columns from STEP * (l % 4) on, the next but one those half the depth
// further.
template <typename Element, int COUNT>
__forceinline__ void simt_product_of_registers(float (&sums)[COUNT],
                                               const unsigned (&a)[4],
                                               Descriptor b, bool add, int line)
{
    using Storage = typename Element::Storage;
    constexpr int DEPTH = Element::DEPTH;
    constexpr int STEP = DEPTH / 8;
    SimtProduct product = {
        sums, COUNT, true, {}, 0, b, simt_multiply<Element>, add, 0};
    const SimtWords *const lanes =
        simt_tell(simt_words, {{a[0], a[1], a[2], a[3]}}, line);
    const int first = static_cast<int>(threadIdx.x) % 32 / 4 * 4;
    for (int half = 0; half < 2; ++half)
        for (int k = 0; k < DEPTH; ++k)
            product.a[half][k] = Element::widen(static_cast<Storage>(
                lanes[first + k % (DEPTH / 2) / STEP]
                    .words[k / (DEPTH / 2) * 2 + half] >>
                k % STEP * (32 / STEP)));
    simt_begin_product(product);
}

template <int COUNT>
__device__ __forceinline__ void product(float (&sums)[COUNT],
                                        const unsigned (&a)[4], Descriptor b,
                                        bool add, int line = __builtin_LINE())
{
    simt_product_of_registers<SimtElement<FEX_KERNEL_F16>>(sums, a, b, add,
                                                           line);
}

__device__ __forceinline__ void product_8(float (&sums)[64],
                                          const unsigned (&a)[4], Descriptor b,
                                          bool add,
                                          int line = __builtin_LINE())
{
    simt_product_of_registers<SimtElement8>(sums, a, b, add, line);
}
