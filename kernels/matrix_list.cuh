// SPDX-License-Identifier: Apache-2.0
// matrix_list.cuh - lists of what a few tokens have chosen of a few experts. A
// warp looks through all choices of the tokens; the order of those it lists is
// always the same. Of choices of the same expert by one token, the first in the
// list gets the weight of all.
#pragma once

#include "arguments.h"
#include "choices.cuh"
#include "element.cuh"
#include "warp.cuh"

// ---- Constants: from the prelude ROUTING_DTYPE, INDEX_TYPE, TOP_K, LIST_MAX

constexpr int UNIT_TOKENS = FEX_MATRIX_UNIT;    // of a list
constexpr int UNIT_EXPERTS = FEX_MATRIX_ACROSS; // at most
constexpr int FOUR = 4; // slots that a lane reads at one time,
constexpr int FOURS = ceil_div(TOP_K, FOUR); // of a row's
constexpr int AHEAD = 2;                     // and so many times
constexpr int NOT_SEEN = 0xffff;

static_assert(TOP_K <= LIST_MAX, "a token's choices fit in a list");
static_assert(LIST_MAX < NOT_SEEN && TOP_K <= 1 << 16);
static_assert(UNIT_TOKENS <= 1 << 3 && UNIT_EXPERTS <= 1 << 8,
              "fit in a place");
static_assert(AHEAD * FOUR <= 32, "a bit for each slot that a lane has read");

using Index = decltype(load_index<INDEX_TYPE>(fex_choices{}, 0, 0));
template <typename T> struct BitsOf {
    using type = unsigned;
};
template <> struct BitsOf<fex_i64> {
    using type = unsigned long long;
};
using IndexBits = BitsOf<Index>::type;
using Weight = Dtype<ROUTING_DTYPE>::Storage;

// ---- Shared memory

struct Choice {
    unsigned place; // row << 29 | repeat << 28 | column << 16 | slot k
    float weight;   // g, or the sum of all that are merged
};

__device__ __forceinline__ int row_of(const Choice &choice)
{
    return static_cast<int>(choice.place >> 29);
}

__device__ __forceinline__ bool is_repeat(const Choice &choice)
{
    return (choice.place & 1u << 28) != 0;
}

__device__ __forceinline__ int column_of(const Choice &choice)
{
    return static_cast<int>(choice.place >> 16 & 0xffu);
}

__device__ __forceinline__ int slot_of(const Choice &choice)
{
    return static_cast<int>(choice.place & 0xffffu);
}

// Alike for choices of the same expert by the same token.
__device__ __forceinline__ int key_of(const Choice &choice)
{
    return row_of(choice) * UNIT_EXPERTS + column_of(choice);
}

struct List {
    Choice choices[LIST_MAX];
    int count;
    int first, end; // rows that it is of
};

// A bit for each column of each row, and where in the list the first choice of
// it is.
struct Seen {
    unsigned bits[UNIT_TOKENS * UNIT_EXPERTS / 32];
    unsigned short places[UNIT_TOKENS * UNIT_EXPERTS];
    Choice nowhere[32];
};

// ---- Load

// What is looked through: choices of tokens from `token` on, for UNIT_EXPERTS
// experts from `expert` on.
struct Field {
    fex_i64 token;
    int expert;
};

template <typename T> struct alignas(min_of(4 * sizeof(T), 16)) Four {
    T values[FOUR];
};

// Of `left` values at least one.
template <typename T>
__device__ __forceinline__ Four<T> load_four(const T *from, int left,
                                             bool whole)
{
    Four<T> four;
    if (whole)
        return *reinterpret_cast<const Four<T> *>(from);
#pragma unroll
    for (int i = 0; i < FOUR; ++i)
        four.values[i] = from[min_of(i, left - 1)];
    return four;
}

// Whether rows can be read four values at a time.
__device__ __forceinline__ bool is_whole(const void *array, fex_i64 stride,
                                         int bytes)
{
    const fex_i64 address = reinterpret_cast<fex_i64>(array);
    return TOP_K % FOUR == 0 &&
           (address | stride * bytes) % min_of(FOUR * bytes, 16) == 0;
}

// What a lane has read: of every 32nd four slots of `total` fours of rows. All
// is read before the first is looked at; where there is none, the last.
struct Batch {
    Four<Index> indices[AHEAD];
    Four<Weight> weights[AHEAD];

    template <bool WHOLE>
    __device__ __forceinline__ void load_all(const fex_matrix_scores_args &args,
                                             fex_i64 token, int total, int base)
    {
#pragma unroll
        for (int j = 0; j < AHEAD; ++j) {
            const int four = min_of(
                base + j * 32 + static_cast<int>(threadIdx.x % 32), total - 1);
            const fex_i64 own = token + four / FOURS;
            const int slot = four % FOURS * FOUR;
            indices[j] =
                load_four(static_cast<const Index *>(args.choices.indices) +
                              own * args.choices.indices_stride + slot,
                          TOP_K - slot, WHOLE);
            weights[j] =
                load_four(static_cast<const Weight *>(args.routing_weights) +
                              own * args.routing_weights_stride + slot,
                          TOP_K - slot, WHOLE);
        }
    }
    __device__ __forceinline__ void load(const fex_matrix_scores_args &args,
                                         fex_i64 token, int total, int base)
    {
        if (base >= total)
            return;
        if (is_whole(args.choices.indices, args.choices.indices_stride,
                     sizeof(Index)) &&
            is_whole(args.routing_weights, args.routing_weights_stride,
                     sizeof(Weight)))
            load_all<true>(args, token, total, base);
        else
            load_all<false>(args, token, total, base);
    }
};

// The rows from `first` on that there are.
__device__ __forceinline__ int rows_from(const fex_matrix_scores_args &args,
                                         const Field &field, int first)
{
    const fex_i64 left = args.choices.num_tokens - field.token;
    const int end = static_cast<int>(left < 0             ? 0
                                     : left < UNIT_TOKENS ? left
                                                          : UNIT_TOKENS);
    return max_of(end - first, 0);
}

// Of this lane's slots of the batch, those that chose one of the experts.
__device__ __forceinline__ unsigned
chosen_of(const fex_matrix_scores_args &args, const Field &field,
          const Batch &batch, int total, int base)
{
    const int experts =
        min_of(static_cast<int>(args.choices.num_experts) - field.expert,
               UNIT_EXPERTS);
    unsigned chosen = 0;
#pragma unroll
    for (int j = 0; j < AHEAD; ++j) {
        const int four = base + j * 32 + static_cast<int>(threadIdx.x % 32);
        const int left = four < total ? TOP_K - four % FOURS * FOUR : 0;
        const auto most = static_cast<unsigned>(left > 0 ? experts : 0);
#pragma unroll
        for (int i = 0; i < FOUR; ++i) {
            // Indices below are far above, as they wrap around.
            const IndexBits column =
                static_cast<IndexBits>(batch.indices[j].values[i]) -
                static_cast<IndexBits>(field.expert);
            const bool own = column < most && (TOP_K % FOUR == 0 || i < left);
            chosen |= static_cast<unsigned>(own) << (j * FOUR + i);
        }
    }
    return chosen;
}

// Slots that chose no expert there is have a score of 0.
__device__ __forceinline__ void store_empty(const fex_matrix_scores_args &args,
                                            fex_i64 token, const Batch &batch,
                                            int total, int base)
{
#pragma unroll
    for (int j = 0; j < AHEAD; ++j)
#pragma unroll
        for (int i = 0; i < FOUR; ++i) {
            const int four = base + j * 32 + static_cast<int>(threadIdx.x % 32);
            const int slot = four % FOURS * FOUR + i;
            if (four < total && slot < TOP_K &&
                expert_at(args.choices, batch.indices[j].values[i]) ==
                    EMPTY_SLOT)
                args.scores[(token + four / FOURS) * args.scores_stride +
                            slot] = 0.0f;
        }
}

// How many there are in all lanes below this one; `all` gets how many there are.
__device__ __forceinline__ int count_below(int own, int &all)
{
    const int lane = threadIdx.x % 32;
    int sum = own;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
        const int below =
            __shfl_up_sync(FULL_WARP, sum, static_cast<unsigned>(offset));
        sum += lane >= offset ? below : 0;
    }
    all = __shfl_sync(FULL_WARP, sum, 31);
    return sum - own;
}

// Adds a batch to the list as long as there is room; `count` are there. Returns
// how many there would be. What is not chosen is written to this lane's
// `nowhere`: branches would take longer.
__device__ __forceinline__ int list_batch(const fex_matrix_scores_args &args,
                                          List &list, const Field &field,
                                          const Batch &batch, Choice &nowhere,
                                          int first, int total, int base,
                                          int count)
{
    const unsigned chosen = chosen_of(args, field, batch, total, base);
    int all;
    int at = count + count_below(__popc(chosen), all);
#pragma unroll
    for (int j = 0; j < AHEAD; ++j) {
        const int four = base + j * 32 + static_cast<int>(threadIdx.x % 32);
        const unsigned row = first + four / FOURS;
        const unsigned place = row << 29 | four % FOURS * FOUR;
#pragma unroll
        for (int i = 0; i < FOUR; ++i) {
            const bool own = (chosen & 1u << (j * FOUR + i)) != 0;
            const auto column =
                static_cast<unsigned>(batch.indices[j].values[i]) -
                static_cast<unsigned>(field.expert);
            Choice *const to =
                own && at < LIST_MAX ? &list.choices[at] : &nowhere;
            *to = {place + i | column << 16,
                   Dtype<ROUTING_DTYPE>::widen(batch.weights[j].values[i])};
            at += own;
        }
    }
    if (field.expert == 0)
        store_empty(args, field.token + first, batch, total, base);
    return count + all;
}

// ---- Repeats

// Of the lanes that have the same choice the first takes all their weights; adds
// them to the choice that was seen before, if one was.
__device__ __forceinline__ void merge_lanes(List &list, Seen &seen, int i,
                                            unsigned same, int key)
{
    const int lane = threadIdx.x % 32;
    Choice &own = list.choices[i];
    if ((same & lanes_below(lane)) != 0) {
        own.place |= 1u << 28;
        return;
    }
    float weight = own.weight;
    for (unsigned rest = same & ~(1u << lane); rest != 0; rest &= rest - 1)
        weight +=
            list.choices[i - lane + __ffs(static_cast<int>(rest)) - 1].weight;
    const int before = seen.places[key];
    if (before == NOT_SEEN) {
        seen.places[key] = static_cast<unsigned short>(i);
        own.weight = weight;
    } else {
        list.choices[before].weight += weight;
        own.place |= 1u << 28;
    }
}

// Whether the list has any.
__device__ __forceinline__ bool has_repeats(const List &list, Seen &seen)
{
    const int lane = threadIdx.x % 32;
    for (int i = lane; i < UNIT_TOKENS * UNIT_EXPERTS / 32; i += 32)
        seen.bits[i] = 0;
    __syncwarp();
    bool found = false;
    for (int i = lane; i < list.count; i += 32) {
        const int key = key_of(list.choices[i]);
        const unsigned own = 1u << key % 32;
        found |= (atomicOr(&seen.bits[key / 32], own) & own) != 0;
    }
    return __any_sync(FULL_WARP, found);
}

__device__ __forceinline__ void merge_repeats(List &list, Seen &seen)
{
    const int lane = threadIdx.x % 32;
    if (!has_repeats(list, seen))
        return;
    for (int i = lane; i < UNIT_TOKENS * UNIT_EXPERTS; i += 32)
        seen.places[i] = NOT_SEEN;
    __syncwarp();
    for (int first = 0; first < list.count; first += 32) {
        const int i = first + lane;
        const bool own = i < list.count;
        const int key = own ? key_of(list.choices[i]) : -1;
        const unsigned same = __match_any_sync(FULL_WARP, key);
        if (own)
            merge_lanes(list, seen, i, same, key);
        __syncwarp();
    }
}

// The list of the rows from `first` on, as far as it has room for them; their
// first batch has been loaded.
__device__ __forceinline__ void list_choices(const fex_matrix_scores_args &args,
                                             List &list, Seen &seen,
                                             const Field &field, Batch &batch,
                                             int first)
{
    constexpr int STEP = 32 * AHEAD;
    const int lane = threadIdx.x % 32;
    const fex_i64 token = field.token + first;
    const int most = rows_from(args, field, first);
    int rows = most;
    int count = 0;
#pragma unroll 1
    for (int base = 0; base < rows * FOURS;) {
        count = list_batch(args, list, field, batch, seen.nowhere[lane], first,
                           rows * FOURS, base, count);
        base += STEP;
        if (count > LIST_MAX) { // anew, with fewer
            rows /= 2;
            base = 0;
            count = 0;
            __syncwarp();
        }
        batch.load(args, token, rows * FOURS, base);
    }
    __syncwarp(); // all know where this list began
    if (lane == 0) {
        list.count = count;
        list.first = first;
        list.end = rows < most ? first + rows : UNIT_TOKENS;
    }
    __syncwarp();
}
