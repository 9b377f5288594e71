// SPDX-License-Identifier: Apache-2.0
// matrix_repeats.cuh - choices of the same expert by the same token, as the warps
// find them that have all of the token's: the first gets the weights of all, and
// the others its slot.
//
// Bits for the experts tell those choices that may be of the same one. Only these
// are compared, 32 at a time, and always in the same order; if they are many and
// a token has more warps than one, by some of these, each of which takes some of
// the experts.
#pragma once

#include "arguments.h"
#include "element.cuh"
#include "warp.cuh"

// ---- Constants: from the prelude TOP_K, GROUP: tokens, THREADS

__device__ constexpr int power_from(int n)
{
    return n <= 1 ? 1 : 2 * power_from(ceil_div(n, 2));
}

constexpr int TOKEN_THREADS = THREADS / GROUP;
constexpr int TOKEN_WARPS = TOKEN_THREADS / 32;
constexpr int ROUNDS = ceil_div(TOP_K, TOKEN_THREADS); // slots of a thread
constexpr int SLOTS = ROUNDS * TOKEN_THREADS;
constexpr int WORDS = power_from(max_of(TOP_K, 32));
constexpr int WARP_KEYS = 16; // that are worth a warp, if there are more keys
constexpr unsigned KEY_SLOTS = FEX_MATRIX_TOP_K; // keys of an expert
constexpr unsigned NO_KEY = 0xffffffffu;         // of no expert

static_assert(2 * WARP_KEYS >= 32, "up to 32 keys have no table of firsts");
static_assert(THREADS == GROUP * TOKEN_THREADS && TOKEN_THREADS % 32 == 0);
static_assert(FEX_MATRIX_EXPERTS <= NO_KEY / KEY_SLOTS - 32,
              "expert and slot fit a key, beside those of lanes without one");

// A thread's slots.
struct Slots {
    unsigned experts[ROUNDS]; // after count_choices, number * NUMBER + expert
    float weights[ROUNDS]; // or of a repeat the bits of the slot of the first
    unsigned full; // a bit for each; where it is empty, there is some expert
    unsigned repeats;
};

// The token's first threads have its first slots, then come the same again.
__device__ __forceinline__ int slot_of(int round)
{
    return round * TOKEN_THREADS +
           static_cast<int>(threadIdx.x % TOKEN_THREADS);
}

__device__ __forceinline__ int warp_of_token()
{
    return static_cast<int>(threadIdx.x) / 32 % TOKEN_WARPS;
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
    unsigned keys[SLOTS];         // expert * KEY_SLOTS + slot
    float weights[SLOTS];         // by slot; as above
    unsigned repeats[SLOTS / 32]; // a bit for each slot
    unsigned firsts[WORDS];  // hash table of keys, the first of each expert
    int counts[TOKEN_WARPS]; // of a warp's keys
    unsigned queues[TOKEN_WARPS][TOKEN_WARPS > 1 ? 64 : 1];
};
static_assert(sizeof(Merge::keys) + sizeof(Merge::weights) +
                      sizeof(Merge::repeats) + sizeof(Merge::firsts) >=
                  sizeof(Marks),
              "counts of keys come while marks are still read");

union alignas(8) Token {
    Marks marks;
    Merge merge;
};

// ---- The threads of a token: a warp, or all those of the block meet

__device__ __forceinline__ void token_sync()
{
    if constexpr (TOKEN_WARPS == 1)
        __syncwarp();
    else
        __syncthreads();
}

__device__ __forceinline__ bool token_any(bool some)
{
    if constexpr (TOKEN_WARPS == 1)
        return __any_sync(FULL_WARP, some) != 0;
    else
        return __syncthreads_or(some) != 0;
}

// ---- Compute

// Sets `alike` to those of the thread's slots whose expert may be that of others,
// a bit for each. Returns whether there are any. Without branches, as is all
// that waits for shared memory: so that rounds wait together.
__device__ __forceinline__ bool find_alike(Marks &marks, const Slots &slots,
                                           unsigned &alike)
{
    const auto word = [&](int j) -> unsigned {
        return slots.experts[j] % WORDS;
    };
    const auto bit = [&](int j) -> unsigned { // none of an empty slot
        return (slots.full >> j & 1u) << slots.experts[j] / WORDS % 32;
    };
    unsigned later = 0;
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j) {
        const unsigned before = atomicOr(&marks.once[word(j)], bit(j));
        later |= static_cast<unsigned>((before & bit(j)) != 0) << j;
    }
    if (!token_any(later != 0))
        return false;
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j)
        if ((later >> j & 1u) != 0)
            atomicOr(&marks.again[word(j)], bit(j));
    token_sync();
    alike = 0;
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j) {
        const unsigned again = marks.again[word(j)];
        alike |= static_cast<unsigned>((again & bit(j)) != 0) << j;
    }
    return true;
}

// How many keys warps before this one have; of all of them, in `count`.
__device__ __forceinline__ int keys_before(Merge &merge, unsigned alike,
                                           int &count)
{
    int own = 0;
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j)
        own += __popc(__ballot_sync(FULL_WARP, (alike >> j & 1u) != 0));
    if (threadIdx.x % 32 == 0)
        merge.counts[warp_of_token()] = own; // where no marks are
    token_sync();                            // marks are no more
    int before = 0;
    count = 0;
#pragma unroll
    for (int i = 0; i < TOKEN_WARPS; ++i) {
        const int keys = merge.counts[i];
        before += i < warp_of_token() ? keys : 0;
        count += keys;
    }
    return before;
}

// By warps, and those of a warp in the order of slots.
__device__ __forceinline__ void list_keys(Merge &merge, const Slots &slots,
                                          unsigned alike, int first)
{
    const unsigned below = lanes_below(threadIdx.x % 32);
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j) {
        const bool own = (alike >> j & 1u) != 0;
        const unsigned all = __ballot_sync(FULL_WARP, own);
        if (own) {
            merge.keys[first + __popc(all & below)] =
                slots.experts[j] * KEY_SLOTS +
                static_cast<unsigned>(slot_of(j));
            merge.weights[slot_of(j)] = slots.weights[j];
        }
        first += __popc(all);
    }
}

// The key of the first of an expert, which may be `key`.
__device__ __forceinline__ unsigned find_first(Merge &merge, unsigned key)
{
    const unsigned expert = key / KEY_SLOTS;
    for (unsigned at = expert * 0x9e3779b1u >> 16;; ++at) {
        const unsigned first =
            atomicCAS(&merge.firsts[at % WORDS], NO_KEY, key);
        if (first == NO_KEY)
            return key;
        if (first / KEY_SLOTS == expert)
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

// A key of each lane that has one. `others`: whether an expert may have been
// merged before.
__device__ __forceinline__ void merge_keys(Merge &merge, unsigned key, bool own,
                                           bool others)
{
    const unsigned lane = threadIdx.x % 32;
    key = own ? key : NO_KEY - lane * KEY_SLOTS;
    const unsigned slot = key % KEY_SLOTS;
    const unsigned same = __match_any_sync(FULL_WARP, key / KEY_SLOTS);
    const unsigned above = same & ~lanes_below(lane) & ~(1u << lane);
    const float sum = sum_of_lanes(own ? merge.weights[slot] : 0.0f,
                                   __ffs(static_cast<int>(above)) - 1);
    const bool leads = own && (same & lanes_below(lane)) == 0;
    unsigned first = leads && others ? find_first(merge, key) : key;
    first = __shfl_sync(FULL_WARP, first, __ffs(static_cast<int>(same)) - 1) %
            KEY_SLOTS;
    if (own && first == slot) {
        merge.weights[slot] = sum;
    } else if (own) {
        if (leads)
            merge.weights[first] += sum;
        merge.weights[slot] = __uint_as_float(first);
        atomicOr(&merge.repeats[slot / 32], 1u << slot % 32);
    }
    __syncwarp();
}

// Of the token's keys those of a warp's experts, as soon as they are 32. So many
// warps, a power of two, share the experts.
__device__ __forceinline__ void merge_own_keys(Merge &merge, int count,
                                               unsigned warps)
{
    const unsigned warp = warp_of_token();
    const unsigned lane = threadIdx.x % 32;
    unsigned *const queue = merge.queues[warp];
    int queued = 0;
    for (int first = 0; first < count; first += 32) {
        const int i = first + static_cast<int>(lane);
        const unsigned key = i < count ? merge.keys[i] : NO_KEY;
        const bool own = i < count && (key / KEY_SLOTS & (warps - 1)) == warp;
        const unsigned all = __ballot_sync(FULL_WARP, own);
        if (own)
            queue[queued + __popc(all & lanes_below(lane))] = key;
        queued += __popc(all);
        __syncwarp();
        if (queued < 32)
            continue;
        merge_keys(merge, queue[lane], true, true);
        const unsigned next = queue[32 + lane];
        queued -= 32;
        __syncwarp();
        if (static_cast<int>(lane) < queued)
            queue[lane] = next;
    }
    __syncwarp();
    merge_keys(merge, queue[lane], static_cast<int>(lane) < queued, true);
}

// A power of two.
__device__ __forceinline__ int merging_warps(int count)
{
    int warps = 1;
    while (warps < TOKEN_WARPS && 2 * warps * WARP_KEYS < count)
        warps *= 2;
    return warps;
}

__device__ __forceinline__ void merge_all_keys(Merge &merge, int count)
{
    const int lane = threadIdx.x % 32;
    for (int first = 0; first < count; first += 32) {
        const bool own = first + lane < count;
        merge_keys(merge, own ? merge.keys[first + lane] : NO_KEY, own,
                   count > 32);
    }
}

__device__ __forceinline__ void merge_repeats(Merge &merge, Slots &slots,
                                              unsigned alike)
{
    const int thread = static_cast<int>(threadIdx.x) % TOKEN_THREADS;
    int count;
    const int before = keys_before(merge, alike, count);
    list_keys(merge, slots, alike, before);
    for (int i = thread; i < SLOTS / 32; i += TOKEN_THREADS)
        merge.repeats[i] = 0;
    for (int i = thread; i < WORDS && count > 32; i += TOKEN_THREADS)
        merge.firsts[i] = NO_KEY;
    token_sync();
    const int warps = merging_warps(count);
    if (warps > 1 && warp_of_token() < warps)
        merge_own_keys(merge, count, static_cast<unsigned>(warps));
    else if (warps == 1 && warp_of_token() == 0)
        merge_all_keys(merge, count);
    token_sync();
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j) {
        if ((alike >> j & 1u) != 0)
            slots.weights[j] = merge.weights[slot_of(j)];
        slots.repeats |=
            (merge.repeats[slot_of(j) / 32] >> slot_of(j) % 32 & 1u) << j;
    }
}
