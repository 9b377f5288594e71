// SPDX-License-Identifier: Apache-2.0
// matrix_repeats.cuh - choices of the same expert by the same token, as a warp
// finds them that has all of the token's: the first gets the weights of all.
//
// Bits for the experts tell those choices that may be of the same one. Only these
// are compared, 32 at a time, and always in the same order.
#pragma once

#include "arguments.h"
#include "element.cuh"
#include "warp.cuh"

// ---- Constants: from the prelude TOP_K

__device__ constexpr int power_from(int n)
{
    return n <= 1 ? 1 : 2 * power_from(ceil_div(n, 2));
}

constexpr int ROUNDS = ceil_div(TOP_K, 32); // slots of a lane: every 32nd
constexpr int WORDS = power_from(max_of(TOP_K, 32));
constexpr unsigned NO_KEY = 0xffffffffu; // of no expert

static_assert(FEX_MATRIX_EXPERTS <= 0x8000 && FEX_MATRIX_TOP_K <= 0x10000,
              "expert and slot fit a key, beside those of lanes without one");

// A lane's slots.
struct Slots {
    int experts[ROUNDS]; // after count_choices, number * NUMBER + expert
    float weights[ROUNDS];
    unsigned full; // a bit for each; where it is empty, there is some expert
    unsigned repeats;
};

__device__ __forceinline__ int slot_of(int round)
{
    return round * 32 + static_cast<int>(threadIdx.x % 32);
}

// ---- Shared memory

// Of a token: the experts chosen, and those chosen again. Where there are more
// than 32 * WORDS, some share a bit.
struct Marks {
    unsigned once[WORDS];
    unsigned again[WORDS];
};

// Then its choices that may be of the same expert.
struct Merge {
    unsigned keys[32 * ROUNDS]; // in the order of slots: expert << 16 | slot
    float weights[32 * ROUNDS]; // by slot
    unsigned repeats[32];       // a bit for each slot
    unsigned firsts[WORDS];     // hash table of keys, the first of each expert
};

union Token {
    Marks marks;
    Merge merge;
};

// ---- Compute

// Sets `alike` to those of the lane's slots whose expert may be that of others,
// a bit for each. Returns whether any lane has any. Without branches, as is all
// that waits for shared memory: so that rounds wait together.
__device__ __forceinline__ bool find_alike(Marks &marks, const Slots &slots,
                                           unsigned &alike)
{
    const auto word = [&](int j) -> unsigned {
        return static_cast<unsigned>(slots.experts[j]) % WORDS;
    };
    const auto bit = [&](int j) -> unsigned { // none of an empty slot
        return (slots.full >> j & 1u)
               << static_cast<unsigned>(slots.experts[j]) / WORDS % 32;
    };
    unsigned later = 0;
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j) {
        const unsigned before = atomicOr(&marks.once[word(j)], bit(j));
        later |= static_cast<unsigned>((before & bit(j)) != 0) << j;
    }
    if (!__any_sync(FULL_WARP, later != 0))
        return false;
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j)
        if ((later >> j & 1u) != 0)
            atomicOr(&marks.again[word(j)], bit(j));
    __syncwarp();
    alike = 0;
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j) {
        const unsigned again = marks.again[word(j)];
        alike |= static_cast<unsigned>((again & bit(j)) != 0) << j;
    }
    __syncwarp(); // marks are no more
    return true;
}

// Returns how many there are.
__device__ __forceinline__ int list_keys(Merge &merge, const Slots &slots,
                                         unsigned alike)
{
    const unsigned below = lanes_below(threadIdx.x % 32);
    int count = 0;
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j) {
        const bool own = (alike >> j & 1u) != 0;
        const unsigned all = __ballot_sync(FULL_WARP, own);
        if (own) {
            merge.keys[count + __popc(all & below)] =
                static_cast<unsigned>(slots.experts[j] << 16 | slot_of(j));
            merge.weights[slot_of(j)] = slots.weights[j];
        }
        count += __popc(all);
    }
    return count;
}

// The key of the first of an expert, which may be `key`.
__device__ __forceinline__ unsigned find_first(Merge &merge, unsigned key)
{
    for (unsigned at = (key >> 16) * 0x9e3779b1u >> 16;; ++at) {
        const unsigned first =
            atomicCAS(&merge.firsts[at % WORDS], NO_KEY, key);
        if (first == NO_KEY)
            return key;
        if (first >> 16 == key >> 16)
            return first;
    }
}

// Adds up what lanes have, of which each knows the next, or -1, in as many steps
// as it takes if every step doubles what sums are of. The first gets the sum.
__device__ __forceinline__ float sum_of_lanes(float sum, int next)
{
    while (__any_sync(FULL_WARP, next >= 0)) {
        const int from = next >= 0 ? next : static_cast<int>(threadIdx.x % 32);
        const float more = __shfl_sync(FULL_WARP, sum, from);
        sum += next >= 0 ? more : 0.0f;
        next = __shfl_sync(FULL_WARP, next, from);
    }
    return sum;
}

// Key i of `count`, of which 32 are merged at one time.
__device__ __forceinline__ void merge_key(Merge &merge, int i, int count)
{
    const unsigned lane = threadIdx.x % 32;
    const bool own = i < count;
    const unsigned key = own ? merge.keys[i] : NO_KEY - (lane << 16);
    const unsigned slot = key & 0xffffu;
    const unsigned same = __match_any_sync(FULL_WARP, key >> 16);
    const unsigned above = same & ~lanes_below(lane) & ~(1u << lane);
    const float sum = sum_of_lanes(own ? merge.weights[slot] : 0.0f,
                                   __ffs(static_cast<int>(above)) - 1);
    if (!own)
        return;
    const bool leads = (same & lanes_below(lane)) == 0;
    const unsigned first = leads && count > 32 ? find_first(merge, key) : key;
    if (leads && first == key) {
        merge.weights[slot] = sum;
        return;
    }
    if (leads)
        merge.weights[first & 0xffffu] += sum;
    atomicOr(&merge.repeats[slot / 32], 1u << slot % 32);
}

__device__ __forceinline__ void merge_repeats(Merge &merge, Slots &slots,
                                              unsigned alike)
{
    const int lane = threadIdx.x % 32;
    const int count = list_keys(merge, slots, alike);
    merge.repeats[lane] = 0;
    for (int i = lane; i < WORDS && count > 32; i += 32)
        merge.firsts[i] = NO_KEY;
    __syncwarp();
    for (int first = 0; first < count; first += 32) {
        merge_key(merge, first + lane, count);
        __syncwarp();
    }
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j) {
        if ((alike >> j & 1u) != 0)
            slots.weights[j] = merge.weights[slot_of(j)];
        slots.repeats |= (merge.repeats[j] >> lane & 1u) << j;
    }
}
