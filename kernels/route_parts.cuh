// SPDX-License-Identifier: Apache-2.0
// route_parts.cuh - a part: a token's choices of one block of experts, as keys,
// which are places of routes. Sorted, and choices of the same expert merged.
#pragma once

#include "arguments.h"
#include "element.cuh"
#include "routes.cuh"
#include "warp.cuh"

// ---- Constants: from the prelude TOP_K

constexpr unsigned NO_KEY = 0xffffffffu;

// Routing weights of a token, by slot.
template <int DTYPE> struct SlotWeights {
    const typename Dtype<DTYPE>::Storage *weights;

    __device__ __forceinline__ float of_key(unsigned key) const
    {
        return Dtype<DTYPE>::widen(weights[slot_of({key, 0.0f})]);
    }
};

__device__ __forceinline__ unsigned mark(unsigned key, bool repeat, bool merged)
{
    return key | (repeat ? ROUTE_REPEAT : merged ? ROUTE_MERGED : 0u);
}

// Of one token; before there are marks.
__device__ __forceinline__ bool same_expert(unsigned key, unsigned other)
{
    return (key ^ other) < ROUTE_SLOTS;
}

__device__ __forceinline__ void order(unsigned &a, unsigned &b)
{
    const unsigned smaller = a < b ? a : b;
    b = a < b ? b : a;
    a = smaller;
}

// ---- Short parts, by a lane

// Batcher's merges of odd and even keys: of runs of SIZE, first those STEP apart.
template <int SIZE, int STEP, int COUNT>
__device__ __forceinline__ void merge_runs(unsigned (&keys)[COUNT])
{
    constexpr int FIRST = STEP % SIZE;
#pragma unroll
    for (int i = FIRST; i + STEP < COUNT; ++i)
        if ((i - FIRST) / STEP % 2 == 0 &&
            i / (2 * SIZE) == (i + STEP) / (2 * SIZE))
            order(keys[i], keys[i + STEP]);
    if constexpr (STEP > 1)
        merge_runs<SIZE, STEP / 2>(keys);
    else if constexpr (SIZE * 2 < COUNT)
        merge_runs<SIZE * 2, SIZE * 2>(keys);
}

// Marks repeats and merged ones; the merged weights, summed from the last key
// to the first, go to their routes.
template <int MOST, int DTYPE>
__device__ __forceinline__ void
merge_short(SlotWeights<DTYPE> weights, const unsigned (&keys)[MOST],
            unsigned *part, int count, fex_route *to)
{
    float weight = 0.0f;
#pragma unroll
    for (int i = MOST - 1; i >= 0; --i) {
        if (i >= count)
            continue;
        const bool repeat =
            i > 0 && same_expert(keys[max_of(i - 1, 0)], keys[i]);
        const bool merged =
            i + 1 < MOST && same_expert(keys[min_of(i + 1, MOST - 1)], keys[i]);
        weight = weights.of_key(keys[i]) + (merged ? weight : 0.0f);
        part[i] = mark(keys[i], repeat, merged);
        if (merged && !repeat)
            to[i].weight = weight;
    }
}

// Puts a part of at most MOST keys in order. Repeats stay.
template <int MOST, int DTYPE>
__device__ __forceinline__ void finish_short(SlotWeights<DTYPE> weights,
                                             unsigned *part, int count,
                                             fex_route *to)
{
    unsigned keys[MOST];
#pragma unroll
    for (int i = 0; i < MOST; ++i) // what is missing is large, and not the same
        keys[i] = i < count ? part[i]
                            : NO_KEY - static_cast<unsigned>(i) * ROUTE_SLOTS;
    merge_runs<1, 1>(keys);
    bool repeats = false;
#pragma unroll
    for (int i = 0; i < MOST; ++i) {
        repeats |= i > 0 && same_expert(keys[max_of(i - 1, 0)], keys[i]);
        if (i < count)
            part[i] = keys[i];
    }
    if (repeats)
        merge_short(weights, keys, part, count, to);
}

// ---- Long parts, by all lanes

// Keys of which lane i has the numbers i, i + 32 and so on: of two lanes that are
// `step` apart one keeps the smaller ones.
template <int EACH>
__device__ __forceinline__ void order_lanes(unsigned (&keys)[EACH], int size,
                                            int step)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < EACH; ++j) {
        const unsigned own = keys[j];
        const unsigned other =
            __shfl_xor_sync(FULL_WARP, own, static_cast<unsigned>(step));
        const bool up = ((j * 32 + lane) & size) == 0;
        const bool smaller = ((lane & step) == 0) == up;
        keys[j] =
            smaller ? (own < other ? own : other) : (own < other ? other : own);
    }
}

// A bitonic network; keys that are missing are large.
template <int EACH>
__device__ __forceinline__ void sort_in_registers(unsigned *part, int count)
{
    const int lane = threadIdx.x % 32;
    unsigned keys[EACH];
#pragma unroll
    for (int j = 0; j < EACH; ++j)
        keys[j] = j * 32 + lane < count ? part[j * 32 + lane] : NO_KEY;
#pragma unroll 1
    for (int size = 2; size < 32; size *= 2)
#pragma unroll 1
        for (int step = size / 2; step > 0; step /= 2)
            order_lanes(keys, size, step);
#pragma unroll
    for (int size = 32; size <= EACH * 32; size *= 2) {
#pragma unroll
        for (int step = size / 2; step >= 32; step /= 2)
#pragma unroll
            for (int j = 0; j < EACH; ++j)
                if ((j & step / 32) == 0) {
                    const bool up = (j * 32 & size) == 0;
                    order(keys[up ? j : j + step / 32],
                          keys[up ? j + step / 32 : j]);
                }
#pragma unroll 1
        for (int step = 16; step > 0; step /= 2)
            order_lanes(keys, size, step);
    }
    __syncwarp();
#pragma unroll
    for (int j = 0; j < EACH; ++j)
        if (j * 32 + lane < count)
            part[j * 32 + lane] = keys[j];
    __syncwarp();
}

__device__ __forceinline__ void sort_step(unsigned *keys, int count, int mask,
                                          int bit)
{
    const int lane = threadIdx.x % 32;
    for (int i = lane; i < count; i += 32)
        if ((i & bit) == 0 && (i ^ mask) < count)
            order(keys[i], keys[i ^ mask]);
    __syncwarp();
}

// A network whose comparisons all point up, so that what is missing at the end
// counts as large.
__device__ __forceinline__ void sort_in_memory(unsigned *keys, int count)
{
    for (int size = 2; size / 2 < count; size *= 2) {
        sort_step(keys, count, size - 1, size / 2);
        for (int step = size / 4; step > 0; step /= 2)
            sort_step(keys, count, step, step);
    }
}

// A part has no more keys than a token has slots.
template <int EACH> __device__ __forceinline__ bool fits_registers(int count)
{
    return TOP_K <= EACH * 32 || count <= EACH * 32;
}

__device__ __forceinline__ void sort_long(unsigned *part, int count)
{
    __syncwarp();
    if (fits_registers<1>(count))
        sort_in_registers<1>(part, count);
    else if (fits_registers<4>(count))
        sort_in_registers<4>(part, count);
    else if (fits_registers<8>(count))
        sort_in_registers<8>(part, count);
    else if (fits_registers<16>(count))
        sort_in_registers<16>(part, count);
    else
        sort_in_memory(part, count);
}

// The places of those lanes that have a copy.
__device__ __forceinline__ void store_copies(fex_route *copies,
                                             unsigned *next_copy, bool has_copy,
                                             unsigned place)
{
    const int lane = threadIdx.x % 32;
    const unsigned lanes = __ballot_sync(FULL_WARP, has_copy);
    unsigned at = 0;
    if (lane == 0 && lanes != 0)
        at = atomicAdd(next_copy, static_cast<unsigned>(__popc(lanes)));
    at = __shfl_sync(FULL_WARP, at, 0) +
         static_cast<unsigned>(__popc(lanes & lanes_below(lane)));
    if (has_copy)
        copies[at].place = place;
}

// What is known of the expert of the keys before: its first key, where the route
// of that one is, and the sum of the weights so far.
struct Run {
    unsigned first = NO_KEY;
    int route = 0;
    float weight = 0.0f;
};

// Sums over the lanes from `start` up to each, in an order that their numbers
// alone decide.
__device__ __forceinline__ float sum_from(int start, float weight)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
        const float below =
            __shfl_up_sync(FULL_WARP, weight, static_cast<unsigned>(offset));
        if (lane - offset >= start)
            weight += below;
    }
    return weight;
}

// Puts a part in order. Merged weights go to its routes. A crowded part's routes
// all go there, repeats become copies, from copies[*next_copy] on in any order, and
// no keys stay.
template <int DTYPE>
__device__ __forceinline__ void
finish_long(SlotWeights<DTYPE> weights, unsigned *part, int count,
            fex_route *to, bool crowded, fex_route *copies, unsigned *next_copy)
{
    const int lane = threadIdx.x % 32;
    sort_long(part, count);
    Run run;
    int routes = 0; // before these keys
    unsigned last = NO_KEY;
    for (int base = 0; base < count; base += 32) {
        const int i = base + lane;
        const bool inside = i < count;
        const unsigned key = inside ? part[i] : NO_KEY;
        unsigned before = __shfl_up_sync(FULL_WARP, key, 1);
        before = lane == 0 ? last : before;
        last = __shfl_sync(FULL_WARP, key, 31);
        const bool is_first = inside && !same_expert(before, key);
        const bool is_last = i + 1 >= count || !same_expert(part[i + 1], key);
        const unsigned firsts = __ballot_sync(FULL_WARP, is_first);
        const unsigned listed = crowded ? firsts : FULL_WARP;
        const unsigned found = firsts & (lanes_below(lane) << 1 | 1u);
        const int start = 31 - __clz(static_cast<int>(found)); // or -1
        const unsigned own_first = __shfl_sync(FULL_WARP, key, start & 31);
        const Run own = {
            found != 0 ? own_first : run.first,
            found != 0 ? routes + __popc(listed & lanes_below(start & 31))
                       : run.route,
            sum_from(max_of(start, 0), inside ? weights.of_key(key) : 0.0f) +
                (found != 0 ? 0.0f : run.weight)};
        if (inside && is_last && (crowded || !is_first))
            to[own.route].weight = own.weight;
        const unsigned marked = mark(key, !is_first, !is_last);
        if (crowded && is_first)
            to[own.route].place = marked;
        if (crowded)
            store_copies(copies, next_copy, inside && !is_first,
                         copy_place(key, own.first));
        __syncwarp();
        if (inside)
            part[i] = crowded ? NO_KEY : marked;
        run = {__shfl_sync(FULL_WARP, own.first, 31),
               __shfl_sync(FULL_WARP, own.route, 31),
               __shfl_sync(FULL_WARP, own.weight, 31)};
        routes += __popc(listed);
    }
    __syncwarp();
}
