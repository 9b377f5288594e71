// SPDX-License-Identifier: Apache-2.0
// route_parts.cuh - a part: a token's choices of one block of experts, as keys,
// which are places of routes. Sorted, and choices of the same expert merged.
#pragma once

#include "arguments.h"
#include "element.cuh"
#include "routes.cuh"
#include "warp.cuh"

constexpr unsigned NO_KEY = 0xffffffffu;

// Routing weights of a token, by slot.
template <int DTYPE> struct SlotWeights {
    const typename Dtype<DTYPE>::Storage *weights;

    __device__ __forceinline__ float of_key(unsigned key) const
    {
        return Dtype<DTYPE>::widen(weights[slot_of({key, 0.0f})]);
    }
};

// With the token; marks do not count.
__device__ __forceinline__ unsigned expert_of_key(unsigned key)
{
    return (key & ~(ROUTE_REPEAT | ROUTE_MERGED)) / ROUTE_SLOTS;
}

__device__ __forceinline__ unsigned mark(unsigned key, bool repeat, bool merged)
{
    return key | (repeat ? ROUTE_REPEAT : merged ? ROUTE_MERGED : 0u);
}

__device__ __forceinline__ void order(unsigned &a, unsigned &b)
{
    const unsigned smaller = a < b ? a : b;
    b = a < b ? b : a;
    a = smaller;
}

// ---- Short parts, by a lane

// A bitonic network whose comparisons all point up, so that what is missing at
// the end counts as large.
template <int COUNT>
__device__ __forceinline__ void sort_short(unsigned (&keys)[COUNT])
{
#pragma unroll
    for (int size = 2; size <= COUNT; size *= 2) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
            if ((i & size / 2) == 0)
                order(keys[i], keys[i ^ (size - 1)]);
#pragma unroll
        for (int step = size / 4; step > 0; step /= 2)
#pragma unroll
            for (int i = 0; i < COUNT; ++i)
                if ((i & step) == 0)
                    order(keys[i], keys[i ^ step]);
    }
}

// The sum of the weights from key i on that are of its expert, in their order.
template <int DTYPE>
__device__ __forceinline__ float merged_weight(SlotWeights<DTYPE> weights,
                                               const unsigned *keys, int i,
                                               int count)
{
    const unsigned expert = expert_of_key(keys[i]);
    float weight = 0.0f;
    for (; i < count && expert_of_key(keys[i]) == expert; ++i)
        weight += weights.of_key(keys[i]);
    return weight;
}

// Puts a part of at most MOST keys in order. Merged weights go to its routes;
// repeats stay.
template <int MOST, int DTYPE>
__device__ __forceinline__ void finish_short(SlotWeights<DTYPE> weights,
                                             unsigned *part, int count,
                                             fex_route *to)
{
    unsigned keys[MOST];
#pragma unroll
    for (int i = 0; i < MOST; ++i)
        keys[i] = i < count ? part[i] : NO_KEY;
    sort_short(keys);
#pragma unroll
    for (int i = 0; i < MOST; ++i) {
        const unsigned own = keys[i] / ROUTE_SLOTS;
        const bool repeat =
            i > 0 && keys[max_of(i - 1, 0)] / ROUTE_SLOTS == own;
        const bool merged =
            i + 1 < MOST && keys[min_of(i + 1, MOST - 1)] / ROUTE_SLOTS == own;
        if (i < count)
            part[i] = mark(keys[i], repeat, merged);
    }
    for (int i = 0; i < count; ++i)
        if (is_merged({part[i], 0.0f}))
            to[i].weight = merged_weight(weights, part, i, count);
}

// ---- Long parts, by all lanes

__device__ __forceinline__ void sort_step(unsigned *keys, int count, int mask,
                                          int bit)
{
    const int lane = threadIdx.x % 32;
    for (int i = lane; i < count; i += 32)
        if ((i & bit) == 0 && (i ^ mask) < count)
            order(keys[i], keys[i ^ mask]);
    __syncwarp();
}

// The network of sort_short in shared memory.
__device__ __forceinline__ void sort_long(unsigned *keys, int count)
{
    __syncwarp();
    for (int size = 2; size / 2 < count; size *= 2) {
        sort_step(keys, count, size - 1, size / 2);
        for (int step = size / 4; step > 0; step /= 2)
            sort_step(keys, count, step, step);
    }
}

// As merged_weight, in an order that their number alone decides.
template <int DTYPE>
__device__ __forceinline__ float merged_by_warp(SlotWeights<DTYPE> weights,
                                                const unsigned *keys, int i,
                                                int count)
{
    const unsigned expert = expert_of_key(keys[i]);
    float weight = 0.0f;
    for (i += static_cast<int>(threadIdx.x % 32);
         i < count && expert_of_key(keys[i]) == expert; i += 32)
        weight += weights.of_key(keys[i]);
    __syncwarp();
    for (unsigned offset = 16; offset > 0; offset /= 2)
        weight += __shfl_xor_sync(FULL_WARP, weight, offset);
    return weight;
}

// Puts a part in order. Merged weights go to its routes. Of a crowded part,
// repeats become copies.
template <int DTYPE>
__device__ __forceinline__ void finish_long(SlotWeights<DTYPE> weights,
                                            unsigned *part, int count,
                                            fex_route *to, bool crowded)
{
    const int lane = threadIdx.x % 32;
    sort_long(part, count);
    unsigned last = NO_KEY;  // the key before these
    unsigned first = NO_KEY; // of the last one's expert
    for (int base = 0; base < count; base += 32) {
        const int i = base + lane;
        const unsigned key = i < count ? part[i] : NO_KEY;
        const unsigned next = i + 1 < count ? part[i + 1] : NO_KEY;
        unsigned before = __shfl_up_sync(FULL_WARP, key, 1);
        before = lane == 0 ? last : before;
        const unsigned own = key / ROUTE_SLOTS;
        const bool is_first = i < count && before / ROUTE_SLOTS != own;
        const bool merged = is_first && next / ROUTE_SLOTS == own;
        const unsigned firsts = __ballot_sync(FULL_WARP, is_first);
        const unsigned routes = crowded ? firsts : FULL_WARP;
        unsigned left = __ballot_sync(FULL_WARP, merged);
        for (; left != 0; left &= left - 1) {
            const int owner = __ffs(static_cast<int>(left)) - 1;
            const float weight =
                merged_by_warp(weights, part, base + owner, count);
            if (lane == owner)
                to[__popc(routes & lanes_below(lane))].weight = weight;
        }
        const unsigned found = firsts & (lanes_below(lane) << 1 | 1u);
        const unsigned nearest =
            __shfl_sync(FULL_WARP, key, 31 - __clz(static_cast<int>(found)));
        first = found != 0 ? nearest : first;
        __syncwarp();
        if (i < count)
            part[i] = crowded && !is_first ? copy_place(key, first)
                                           : mark(key, !is_first, merged);
        last = __shfl_sync(FULL_WARP, key, 31);
        first = __shfl_sync(FULL_WARP, first, 31);
        to += __popc(routes);
        __syncwarp();
    }
}
