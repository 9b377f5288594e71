// SPDX-License-Identifier: Apache-2.0
// route_counts.cuh - where the parts of sort_routes.cu begin: a part is what a
// token chose of a block of experts.
#pragma once

#include "arguments.h"
#include "choices.cuh"
#include "element.cuh"
#include "warp.cuh"

// ---- Constants: from the prelude INDEX_TYPE, TOP_K, BLOCKS, TOKENS, THREADS

constexpr int WARPS = THREADS / 32;
constexpr int ROWS_AT_ONCE = TOKENS; // that blocks' threads count together
constexpr int ROW_THREADS = THREADS / ROWS_AT_ONCE;
constexpr int LANE_COUNTERS = 8;
constexpr int COUNTERS = ceil_div(BLOCKS + 1, LANE_COUNTERS) * LANE_COUNTERS;
constexpr int PAIRS = COUNTERS / 2;                // of counters, in a word
constexpr int PART_WORDS = ceil_div(COUNTERS, 32); // a bit for each of a token
constexpr int LEFT_WORDS = 2 * TOKENS * PART_WORDS;
constexpr int ROUNDS = 8; // of loads in flight at once
// A crowded part has so many more slots than expected, or more than there are
// experts. Counting experts takes a block as long for one part as for many: with
// few choices, where most blocks have no such part, more repeats are let pass.
constexpr int REPEATS = TOP_K < 1024 ? 48 : 16;
constexpr int CROWD = min_of(REPEATS + TOP_K / BLOCKS * 2, FEX_ROUTE_BLOCK);
constexpr int CROWDED_PARTS = max_of(TOP_K / (CROWD + 1), 1); // of a token
// A counter that is the number of a crowded part.
constexpr unsigned CROWDED = 0x8000;

static_assert(FEX_ROUTE_GROUP % (2 * TOKENS) == 0 && WARPS >= TOKENS);
static_assert(TOP_K < static_cast<int>(CROWDED));
static_assert(TOP_K * TOKENS <= 0xffff, "offsets are halves");

// ---- Shared memory

struct RouteCounts {
    // Of each token of the group and block its slots or number of a crowded
    // part. Then of this block's tokens the slots of those of them before, and
    // on from there, as its own get their place; and TOKENS further on the
    // routes of those before.
    unsigned before[FEX_ROUTE_GROUP][PAIRS];
    unsigned starts[COUNTERS]; // where this block's routes begin in the group's
    unsigned owns[COUNTERS];   // where this block's keys begin
    // Parts that are left for whole warps: the crowded ones of each token, then
    // other long ones. A bit each; neighbours are of different words.
    unsigned left[LEFT_WORDS];
    unsigned long long sums[WARPS];
    unsigned copies;    // of the group
    unsigned next_copy; // of this block

    // Leaves a part of one of this block's tokens.
    __device__ __forceinline__ void leave(bool crowded, int row, int block)
    {
        const int first = (crowded ? 0 : TOKENS) + row % TOKENS;
        atomicOr(&left[first * PART_WORDS + block % PART_WORDS],
                 1u << block / PART_WORDS);
    }
    // The routes before of one of this block's tokens.
    __device__ __forceinline__ unsigned (&listed(int row))[PAIRS]
    {
        return before[(row + TOKENS) % FEX_ROUTE_GROUP];
    }
};

__device__ __forceinline__ unsigned half_of(const unsigned *words, int i)
{
    return words[i / 2] >> i % 2 * 16 & 0xffffu;
}

// A token's part of a block.
struct Part {
    int keys, count; // in shared memory
    int routes;      // in the group's

    __device__ __forceinline__ Part(RouteCounts &counts, int row, int block)
    {
        // It ends where the token's counters are when all its slots have a
        // place, and where the one of the token before ends it begins.
        const int begin =
            row % TOKENS == 0
                ? 0
                : static_cast<int>(half_of(counts.before[row - 1], block));
        keys = static_cast<int>(counts.owns[block]) + begin;
        count = static_cast<int>(half_of(counts.before[row], block)) - begin;
        routes = static_cast<int>(counts.starts[block] +
                                  half_of(counts.listed(row), block));
    }
};

struct CrowdedPart {
    unsigned experts[FEX_ROUTE_BLOCK / 32]; // a bit each
    unsigned slots;

    __device__ __forceinline__ unsigned routes() const
    {
        unsigned count = 0;
        for (const unsigned word : experts)
            count += static_cast<unsigned>(__popc(word));
        return count;
    }
};

// Of TOKENS tokens.
struct Crowd {
    CrowdedPart parts[TOKENS][CROWDED_PARTS];
    unsigned count[TOKENS];
};

__device__ __forceinline__ void set_half(unsigned &word, int shift,
                                         unsigned half)
{
    word = (word & ~(0xffffu << shift)) | half << shift;
}

// ---- Load

__device__ __forceinline__ int load_slot(const fex_sort_routes_args &args,
                                         fex_i64 token, int k)
{
    return k < TOP_K && token < args.choices.num_tokens
               ? load_expert<INDEX_TYPE>(args.choices, token, k)
               : EMPTY_SLOT;
}

// Calls visit(expert) for all choices of a token, by the threads of a row.
template <typename Visit>
__device__ __forceinline__ void visit_choices(const fex_sort_routes_args &args,
                                              fex_i64 token, Visit visit)
{
    for (int base = threadIdx.x % ROW_THREADS; base < TOP_K;
         base += ROW_THREADS * ROUNDS) {
        int experts[ROUNDS];
#pragma unroll
        for (int j = 0; j < ROUNDS; ++j)
            experts[j] = load_slot(args, token, base + j * ROW_THREADS);
#pragma unroll
        for (int j = 0; j < ROUNDS; ++j)
            if (experts[j] != EMPTY_SLOT)
                visit(experts[j]);
    }
}

// ---- Compute

__device__ __forceinline__ void clear_counts(RouteCounts &counts)
{
    for (int i = threadIdx.x; i < FEX_ROUTE_GROUP * PAIRS; i += THREADS)
        counts.before[i / PAIRS][i % PAIRS] = 0;
    for (int i = threadIdx.x; i < LEFT_WORDS; i += THREADS)
        counts.left[i] = 0;
    if (threadIdx.x == 0)
        counts.copies = counts.next_copy = 0;
}

__device__ __forceinline__ void count_blocks(const fex_sort_routes_args &args,
                                             RouteCounts &counts, fex_i64 group)
{
    for (int row = 0; row < FEX_ROUTE_GROUP; row += ROWS_AT_ONCE) {
        const int own = row + static_cast<int>(threadIdx.x) / ROW_THREADS;
        visit_choices(args, group * FEX_ROUTE_GROUP + own, [&](int expert) {
            const int block = expert / FEX_ROUTE_BLOCK;
            atomicAdd(&counts.before[own][block / 2], 1u << block % 2 * 16);
        });
    }
}

// For all threads of the block.
__device__ __forceinline__ bool has_crowded_parts(const RouteCounts &counts)
{
    bool found = false;
    for (int i = threadIdx.x; i < FEX_ROUTE_GROUP * PAIRS; i += THREADS) {
        const unsigned pair = counts.before[i / PAIRS][i % PAIRS];
        found |= (pair & 0xffffu) > CROWD || pair >> 16 > CROWD;
    }
    return __syncthreads_or(found);
}

// Numbers the crowded parts of TOKENS tokens, in any order.
__device__ __forceinline__ void
number_crowded_parts(RouteCounts &counts, Crowd &crowded, int first_row)
{
    for (int i = threadIdx.x; i < TOKENS * PAIRS; i += THREADS) {
        const int row = i / PAIRS;
        unsigned &pair = counts.before[first_row + row][i % PAIRS];
        for (int shift = 0; shift < 32; shift += 16) {
            const unsigned count = pair >> shift & 0xffffu;
            if (count <= CROWD)
                continue;
            const unsigned number = atomicAdd(&crowded.count[row], 1u);
            crowded.parts[row][number] = {{}, count};
            set_half(pair, shift, CROWDED | number);
        }
    }
}

// Adds up the copies, and of tokens that other blocks sort leaves the number of
// routes.
__device__ __forceinline__ void count_copies(RouteCounts &counts,
                                             const Crowd &crowded,
                                             int first_row, int own_row)
{
    for (int i = threadIdx.x; i < TOKENS * PAIRS; i += THREADS) {
        const int row = i / PAIRS;
        unsigned &pair = counts.before[first_row + row][i % PAIRS];
        for (int shift = 0; shift < 32; shift += 16) {
            const unsigned count = pair >> shift & 0xffffu;
            if ((count & CROWDED) == 0)
                continue;
            const CrowdedPart &part = crowded.parts[row][count & ~CROWDED];
            const unsigned routes = part.routes();
            atomicAdd(&counts.copies, part.slots - routes);
            if (first_row < own_row)
                atomicAdd(&counts.next_copy, part.slots - routes);
            if (first_row != own_row)
                set_half(pair, shift, routes);
        }
    }
}

// Finds the experts of crowded parts, of this block's tokens last: theirs stay.
__device__ __forceinline__ void count_experts(const fex_sort_routes_args &args,
                                              RouteCounts &counts,
                                              Crowd &crowded, fex_i64 group,
                                              int own_row)
{
    for (int turn = TOKENS; turn <= FEX_ROUTE_GROUP; turn += TOKENS) {
        const int first_row = (own_row + turn) % FEX_ROUTE_GROUP;
        const int row = static_cast<int>(threadIdx.x) / ROW_THREADS;
        if (threadIdx.x < TOKENS)
            crowded.count[threadIdx.x] = 0;
        __syncthreads();
        number_crowded_parts(counts, crowded, first_row);
        __syncthreads();
        const fex_i64 token = group * FEX_ROUTE_GROUP + first_row + row;
        visit_choices(args, token, [&](int expert) {
            const unsigned number = half_of(counts.before[first_row + row],
                                            expert / FEX_ROUTE_BLOCK);
            const int own = expert % FEX_ROUTE_BLOCK;
            if ((number & CROWDED) != 0)
                atomicOr(
                    &crowded.parts[row][number & ~CROWDED].experts[own / 32],
                    1u << own % 32);
        });
        __syncthreads();
        count_copies(counts, crowded, first_row, own_row);
        __syncthreads();
    }
}

// Of two blocks of experts: fills in what is said of `before`. Routes and slots
// are then those of the group and of this block, firsts the routes of the tokens
// before this block's.
__device__ __forceinline__ void
add_up_pair(RouteCounts &counts, const Crowd &crowded, int own_row, int pair,
            unsigned (&firsts)[2], unsigned (&routes)[2], unsigned (&slots)[2])
{
    unsigned pairs[FEX_ROUTE_GROUP];
    for (int row = 0; row < FEX_ROUTE_GROUP; ++row)
        pairs[row] = counts.before[row][pair];
#pragma unroll
    for (int row = 0; row < FEX_ROUTE_GROUP; ++row) {
        const bool own = row >= own_row && row < own_row + TOKENS;
        if (row == own_row)
            for (int j = 0; j < 2; ++j)
                firsts[j] = routes[j];
        if (own) {
            counts.before[row][pair] = slots[0] | slots[1] << 16;
            counts.listed(row)[pair] =
                (routes[0] - firsts[0]) | (routes[1] - firsts[1]) << 16;
        }
        for (int j = 0; j < 2; ++j) {
            const unsigned count = pairs[row] >> j * 16 & 0xffffu;
            if ((count & CROWDED) != 0) { // of this block's tokens only
                const CrowdedPart &part =
                    crowded.parts[row - own_row][count & ~CROWDED];
                routes[j] += part.routes();
                slots[j] += part.slots;
            } else {
                routes[j] += count;
                slots[j] += own ? count : 0;
            }
        }
    }
}

// Of the group's routes and of this block's slots where each block of experts
// begins, and of each token the number of those of this block's tokens before.
__device__ __forceinline__ void add_up(RouteCounts &counts,
                                       const Crowd &crowded, int own_row)
{
    using Sums = unsigned long long; // routes, and above them slots
    constexpr int OWN = ceil_div(PAIRS, THREADS); // of a thread
    const int first = static_cast<int>(threadIdx.x) * OWN;
    const int end = min_of(first + OWN, PAIRS);
    const int lane = threadIdx.x % 32;
    Sums sum = 0;
    for (int pair = first; pair < end; ++pair) {
        unsigned firsts[2] = {};
        unsigned routes[2] = {};
        unsigned slots[2] = {};
        add_up_pair(counts, crowded, own_row, pair, firsts, routes, slots);
        for (int j = 0; j < 2; ++j) {
            counts.starts[pair * 2 + j] =
                static_cast<unsigned>(sum) + firsts[j];
            counts.owns[pair * 2 + j] = static_cast<unsigned>(sum >> 32);
            sum += routes[j] | static_cast<Sums>(slots[j]) << 32;
        }
    }
    Sums inclusive = sum;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
        const Sums below =
            __shfl_up_sync(FULL_WARP, inclusive, static_cast<unsigned>(offset));
        if (lane >= offset)
            inclusive += below;
    }
    if (lane == 31)
        counts.sums[threadIdx.x / 32] = inclusive;
    __syncthreads();
    Sums before = inclusive - sum;
    for (int warp = 0; warp < static_cast<int>(threadIdx.x) / 32; ++warp)
        before += counts.sums[warp];
    for (int i = first * 2; i < end * 2; ++i) {
        counts.starts[i] += static_cast<unsigned>(before);
        counts.owns[i] += static_cast<unsigned>(before >> 32);
    }
}
