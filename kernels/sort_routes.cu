// SPDX-License-Identifier: Apache-2.0
// sort_routes.cu - what the dense family needs to know of the choices: those of
// each group of 16 tokens sorted by block of experts, then token, expert and
// slot, and where each block begins.
//
// A block sorts TOKENS tokens of a group. All blocks of a group count how many
// slots of each of its tokens name each block of experts; from that follows
// where every token's part of every block begins. Slots then go to their parts
// in shared memory, in any order, and each part is sorted: what is summed over
// routes is reproducible. Repeats of an expert are next to each other then.
#include "arguments.h"
#include "choices.cuh"
#include "element.cuh"
#include "routes.cuh"
#include "warp.cuh"

// ---- Constants: from the prelude INDEX_TYPE, TOP_K, ROUTING_DTYPE, BLOCKS,
// TOKENS, THREADS, SHARED_BYTES

constexpr int WARPS = THREADS / 32;
constexpr int ROWS_AT_ONCE = TOKENS; // that blocks' threads count together
constexpr int ROW_THREADS = THREADS / ROWS_AT_ONCE;
constexpr int LANE_COUNTERS = 8;
constexpr int COUNTERS = ceil_div(BLOCKS + 1, LANE_COUNTERS) * LANE_COUNTERS;
constexpr int ROUNDS = 8; // of loads in flight at once
// A part that one lane sorts: longer than most are.
constexpr int SHORT = TOP_K / BLOCKS > 2 ? 16 : 8;
constexpr unsigned NONE = 0xffffffffu;
constexpr unsigned REPEAT = 1u << 27;
constexpr unsigned MERGED = 1u << 26;
constexpr unsigned SLOTS = 1u << 19; // a place / SLOTS: token and expert

static_assert(FEX_ROUTE_GROUP % TOKENS == 0 && WARPS >= TOKENS);
static_assert(TOP_K < static_cast<int>(SLOTS));
static_assert(TOP_K * TOKENS <= 0xffff, "offsets are halves");

// ---- Shared memory

using Weight = Dtype<ROUTING_DTYPE>::Storage;

struct Shared {
    // Two counters a word: of each token of the group and block its slots; then
    // of this block's tokens the slots of those of them before, and on from
    // there, as its own get their place.
    unsigned before[FEX_ROUTE_GROUP][COUNTERS / 2];
    unsigned starts[COUNTERS]; // of the group's blocks
    unsigned firsts[COUNTERS]; // the slots of the tokens before this block's
    unsigned owns[COUNTERS];   // where this block's keys begin
    unsigned long long sums[WARPS];
    unsigned keys[TOKENS * TOP_K]; // places of routes
    Weight weights[TOKENS][TOP_K]; // by slot
};
static_assert(sizeof(Shared) == SHARED_BYTES);

__device__ __forceinline__ unsigned half_of(const unsigned *words, int i)
{
    return words[i / 2] >> i % 2 * 16 & 0xffffu;
}

__device__ __forceinline__ unsigned place_of(int row, int expert, int k)
{
    return static_cast<unsigned>(row) << 28 |
           static_cast<unsigned>(expert) * SLOTS | static_cast<unsigned>(k);
}

// ---- Load

__device__ __forceinline__ int load_slot(const fex_sort_routes_args &args,
                                         fex_i64 token, int k)
{
    return k < TOP_K && token < args.choices.num_tokens
               ? load_expert<INDEX_TYPE>(args.choices, token, k)
               : EMPTY_SLOT;
}

// ---- Compute: where parts begin

__device__ __forceinline__ void count_blocks(const fex_sort_routes_args &args,
                                             Shared &shared, fex_i64 group)
{
    for (int row = 0; row < FEX_ROUTE_GROUP; row += ROWS_AT_ONCE) {
        const int own = row + static_cast<int>(threadIdx.x) / ROW_THREADS;
        for (int base = threadIdx.x % ROW_THREADS; base < TOP_K;
             base += ROW_THREADS * ROUNDS) {
            int experts[ROUNDS];
#pragma unroll
            for (int j = 0; j < ROUNDS; ++j)
                experts[j] = load_slot(args, group * FEX_ROUTE_GROUP + own,
                                       base + j * ROW_THREADS);
#pragma unroll
            for (int j = 0; j < ROUNDS; ++j) {
                const int block = experts[j] / FEX_ROUTE_BLOCK;
                if (experts[j] != EMPTY_SLOT)
                    atomicAdd(&shared.before[own][block / 2],
                              1u << block % 2 * 16);
            }
        }
    }
}

// Of the group's slots and of this block's where each block of experts begins,
// and of each token the number of slots of this block's tokens before.
__device__ __forceinline__ void add_up(Shared &shared, int first_row)
{
    using Sums = unsigned long long; // the group's, and above this block's
    constexpr int OWN = ceil_div(COUNTERS / 2, THREADS) * 2; // of a thread
    const int first = static_cast<int>(threadIdx.x) * OWN;
    const int lane = threadIdx.x % 32;
    Sums sum = 0;
    for (int i = first; i < min_of(first + OWN, COUNTERS); i += 2) {
        unsigned before[2] = {}; // of the two blocks, all slots
        unsigned owns[2] = {};   // and this block's
        for (int row = 0; row < FEX_ROUTE_GROUP; ++row) {
            const unsigned counts = shared.before[row][i / 2];
            if (row == first_row)
                for (int j = 0; j < 2; ++j)
                    shared.firsts[i + j] = before[j];
            if (row >= first_row && row < first_row + TOKENS) {
                shared.before[row][i / 2] = owns[0] | owns[1] << 16;
                owns[0] += counts & 0xffffu;
                owns[1] += counts >> 16;
            }
            before[0] += counts & 0xffffu;
            before[1] += counts >> 16;
        }
        for (int j = 0; j < 2; ++j) {
            shared.starts[i + j] = static_cast<unsigned>(sum);
            shared.owns[i + j] = static_cast<unsigned>(sum >> 32);
            sum += before[j] | static_cast<Sums>(owns[j]) << 32;
        }
    }
    Sums inclusive = sum;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
        const Sums below = __shfl_up_sync(FULL_WARP, inclusive,
                                          static_cast<unsigned>(offset));
        if (lane >= offset)
            inclusive += below;
    }
    if (lane == 31)
        shared.sums[threadIdx.x / 32] = inclusive;
    __syncthreads();
    Sums before = inclusive - sum;
    for (int warp = 0; warp < static_cast<int>(threadIdx.x) / 32; ++warp)
        before += shared.sums[warp];
    for (int i = first; i < min_of(first + OWN, COUNTERS); ++i) {
        shared.starts[i] += static_cast<unsigned>(before);
        shared.owns[i] += static_cast<unsigned>(before >> 32);
    }
}

// Each slot to its token's part of its block, in any order.
__device__ __forceinline__ void place_slots(const fex_sort_routes_args &args,
                                            Shared &shared, int row,
                                            fex_i64 token)
{
    Weight(&weights)[TOP_K] = shared.weights[row % TOKENS];
    for (int base = threadIdx.x % ROW_THREADS; base < TOP_K;
         base += ROW_THREADS * ROUNDS) {
        int experts[ROUNDS];
#pragma unroll
        for (int j = 0; j < ROUNDS; ++j)
            experts[j] = load_slot(args, token, base + j * ROW_THREADS);
#pragma unroll
        for (int j = 0; j < ROUNDS; ++j) {
            const int k = base + j * ROW_THREADS;
            if (k < TOP_K)
                weights[k] = __ldcs(
                    static_cast<const Weight *>(args.routing_weights) +
                    token * args.routing_weights_stride + k);
        }
#pragma unroll
        for (int j = 0; j < ROUNDS; ++j) {
            const int k = base + j * ROW_THREADS;
            if (experts[j] == EMPTY_SLOT) {
                if (k < TOP_K && args.scores != nullptr)
                    args.scores[token * args.scores_stride + k] = 0.0f;
                continue;
            }
            const int block = experts[j] / FEX_ROUTE_BLOCK;
            const int shift = block % 2 * 16;
            const unsigned number =
                atomicAdd(&shared.before[row][block / 2], 1u << shift) >>
                    shift & 0xffffu;
            shared.keys[shared.owns[block] + number] =
                place_of(row, experts[j] % FEX_ROUTE_BLOCK, k);
        }
    }
}

// ---- Compute: a part in order

__device__ __forceinline__ void order(unsigned &a, unsigned &b)
{
    const unsigned smaller = a < b ? a : b;
    b = a < b ? b : a;
    a = smaller;
}

// A bitonic network whose comparisons all point up, so that what is missing at
// the end counts as large.
__device__ __forceinline__ void sort_short(unsigned (&keys)[SHORT])
{
#pragma unroll
    for (int size = 2; size <= SHORT; size *= 2) {
#pragma unroll
        for (int i = 0; i < SHORT; ++i)
            if ((i & size / 2) == 0)
                order(keys[i], keys[i ^ (size - 1)]);
#pragma unroll
        for (int step = size / 4; step > 0; step /= 2)
#pragma unroll
            for (int i = 0; i < SHORT; ++i)
                if ((i & step) == 0)
                    order(keys[i], keys[i ^ step]);
    }
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

// The same by all lanes, in shared memory.
__device__ __forceinline__ void sort_long(unsigned *keys, int count)
{
    __syncwarp();
    for (int size = 2; size / 2 < count; size *= 2) {
        sort_step(keys, count, size - 1, size / 2);
        for (int step = size / 4; step > 0; step /= 2)
            sort_step(keys, count, step, step);
    }
}

// ---- Compute: repeats, in a part that is in order

// With the token; marks do not count.
__device__ __forceinline__ unsigned expert_of_key(unsigned key)
{
    return (key & ~(REPEAT | MERGED)) / SLOTS;
}

// The sum of the weights from key i on that are of its expert, in their order.
__device__ __forceinline__ float merged_weight(const Weight *weights,
                                               const unsigned *keys, int i,
                                               int count)
{
    const unsigned expert = expert_of_key(keys[i]);
    float weight = 0.0f;
    for (; i < count && expert_of_key(keys[i]) == expert; ++i)
        weight +=
            Dtype<ROUTING_DTYPE>::widen(weights[slot_of({keys[i], 0.0f})]);
    return weight;
}

__device__ __forceinline__ unsigned mark(unsigned key, bool repeat, bool merged)
{
    return key | (repeat ? REPEAT : merged ? MERGED : 0u);
}

__device__ __forceinline__ void finish_short(const Weight *weights,
                                             unsigned *part, int count,
                                             fex_route *to)
{
    unsigned keys[SHORT];
#pragma unroll
    for (int i = 0; i < SHORT; ++i)
        keys[i] = i < count ? part[i] : NONE;
    sort_short(keys);
#pragma unroll
    for (int i = 0; i < SHORT; ++i) {
        const unsigned own = keys[i] / SLOTS;
        const bool repeat = i > 0 && keys[max_of(i - 1, 0)] / SLOTS == own;
        const bool merged =
            i + 1 < SHORT && keys[min_of(i + 1, SHORT - 1)] / SLOTS == own;
        if (i < count)
            part[i] = mark(keys[i], repeat, merged);
    }
    for (int i = 0; i < count; ++i)
        if ((part[i] & MERGED) != 0)
            to[i].weight = merged_weight(weights, part, i, count);
}

// By all lanes.
__device__ __forceinline__ void finish_long(const Weight *weights,
                                            unsigned *part, int count,
                                            fex_route *to)
{
    sort_long(part, count);
    for (int base = 0; base < count; base += 32) {
        const int i = base + static_cast<int>(threadIdx.x % 32);
        const auto expert_at = [&](int j) {
            return j >= 0 && j < count ? expert_of_key(part[j]) : NONE;
        };
        const bool inside = i < count;
        const bool repeat = inside && expert_at(i - 1) == expert_at(i);
        const bool merged = inside && expert_at(i + 1) == expert_at(i);
        if (merged && !repeat)
            to[i].weight = merged_weight(weights, part, i, count);
        __syncwarp();
        if (inside)
            part[i] = mark(part[i], repeat, merged);
        __syncwarp();
    }
}

// The parts of a token, a lane each; the long ones by all lanes.
__device__ __forceinline__ void finish_parts(Shared &shared, int row,
                                             int first_row, fex_route *routes)
{
    const int lane = threadIdx.x % 32;
    const Weight *const weights = shared.weights[row % TOKENS];
    // A part ends where this token's counters are now, and the next one began.
    const unsigned *const ends = shared.before[row];
    const unsigned *const begins =
        row == first_row ? nullptr : shared.before[row - 1];
    for (int base = threadIdx.x % ROW_THREADS / 32 * 32; base < BLOCKS;
         base += ROW_THREADS) {
        const int block = min_of(base + lane, BLOCKS - 1);
        const unsigned begin = begins != nullptr ? half_of(begins, block) : 0;
        const int count = base + lane < BLOCKS
                              ? static_cast<int>(half_of(ends, block) - begin)
                              : 0;
        const int part = static_cast<int>(shared.owns[block] + begin);
        const int to = static_cast<int>(shared.starts[block] +
                                        shared.firsts[block] + begin);
        if (count > 1 && count <= SHORT)
            finish_short(weights, shared.keys + part, count, routes + to);
        unsigned left = __ballot_sync(FULL_WARP, count > SHORT);
        for (; left != 0; left &= left - 1) {
            const int owner = __ffs(static_cast<int>(left)) - 1;
            finish_long(weights,
                        shared.keys + __shfl_sync(FULL_WARP, part, owner),
                        __shfl_sync(FULL_WARP, count, owner),
                        routes + __shfl_sync(FULL_WARP, to, owner));
        }
    }
}

// ---- Store: this block's tokens' routes to a block of experts are neighbours

__device__ __forceinline__ void store_routes(const Shared &shared,
                                             fex_route *routes)
{
    for (int block = threadIdx.x / 32; block < BLOCKS; block += WARPS) {
        const unsigned begin = shared.owns[block];
        const unsigned end = shared.owns[block + 1];
        fex_route *const to =
            routes + shared.starts[block] + shared.firsts[block];
        for (unsigned i = begin + threadIdx.x % 32; i < end; i += 32) {
            const fex_route route = {shared.keys[i], 0.0f};
            to[i - begin].place = route.place;
            if (!is_merged(route)) // the sum is there
                to[i - begin].weight = Dtype<ROUTING_DTYPE>::widen(
                    shared.weights[row_of(route) % TOKENS][slot_of(route)]);
        }
    }
}

// ---- One block, TOKENS tokens of a group

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    fex_sort_routes(const __grid_constant__ fex_sort_routes_args args)
{
    extern __shared__ uint4 memory[];
    Shared &shared = *reinterpret_cast<Shared *>(memory);
    const fex_i64 first = static_cast<fex_i64>(blockIdx.x) * TOKENS;
    const fex_i64 group = first / FEX_ROUTE_GROUP;
    const int first_row = static_cast<int>(first % FEX_ROUTE_GROUP);
    const int row = first_row + static_cast<int>(threadIdx.x) / ROW_THREADS;
    const fex_i64 token = group * FEX_ROUTE_GROUP + row;
    fex_route *const routes = args.routes + group * (FEX_ROUTE_GROUP * TOP_K);

    launch_dependents();
    for (int i = threadIdx.x; i < FEX_ROUTE_GROUP * COUNTERS / 2; i += THREADS)
        shared.before[i / (COUNTERS / 2)][i % (COUNTERS / 2)] = 0;
    __syncthreads();
    count_blocks(args, shared, group);
    __syncthreads();
    add_up(shared, first_row);
    __syncthreads();
    if (first_row == 0)
        for (int i = threadIdx.x; i <= BLOCKS; i += THREADS)
            args.starts[group * (BLOCKS + 1) + i] =
                static_cast<int>(shared.starts[i]);
    if (token < args.choices.num_tokens)
        place_slots(args, shared, row, token);
    __syncthreads();
    if (token < args.choices.num_tokens) {
        finish_parts(shared, row, first_row, routes);
        if (threadIdx.x % ROW_THREADS == 0)
            args.largest[token] = 0;
    }
    __syncthreads();
    store_routes(shared, routes);
}
