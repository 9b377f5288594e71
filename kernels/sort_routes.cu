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
//
// A token may choose the same few experts again and again. Of its crowded parts
// the experts are counted too, and repeats kept out of the routes, so that the
// kernels after this one take no longer for them.
#include "arguments.h"
#include "choices.cuh"
#include "element.cuh"
#include "route_counts.cuh"
#include "route_parts.cuh"
#include "routes.cuh"
#include "warp.cuh"

// ---- Constants: from the prelude INDEX_TYPE, TOP_K, ROUTING_DTYPE, BLOCKS,
// TOKENS, THREADS, MIN_BLOCKS, SHARED_BYTES

// A part that one lane sorts: longer than most are.
constexpr int SHORT = TOP_K / BLOCKS > 2 ? 12 : 8;

static_assert(SHORT <= CROWD);
static_assert(TOP_K <= static_cast<int>(COPY_SLOTS));

// ---- Shared memory

using Weight = Dtype<ROUTING_DTYPE>::Storage;

struct Shared {
    RouteCounts counts;
    union {
        Crowd crowded; // until counts are added up
        struct {
            unsigned keys[TOKENS * TOP_K]; // places of routes
            Weight weights[TOKENS][TOP_K]; // by slot
        };
    };
};
static_assert((sizeof(Shared) + 7) / 8 * 8 == SHARED_BYTES);

// ---- Compute: parts

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
                weights[k] =
                    __ldcs(static_cast<const Weight *>(args.routing_weights) +
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
                atomicAdd(&shared.counts.before[row][block / 2], 1u << shift) >>
                    shift &
                0xffffu;
            shared.keys[shared.counts.owns[block] + number] =
                place_of_route(row, experts[j] % FEX_ROUTE_BLOCK, k);
        }
    }
}

// The parts of a token, a lane each; long ones are left for whole warps.
__device__ __forceinline__ void finish_short_parts(Shared &shared, int row,
                                                   fex_route *routes)
{
    const SlotWeights<ROUTING_DTYPE> weights = {shared.weights[row % TOKENS]};
    for (int block = threadIdx.x % ROW_THREADS; block < BLOCKS;
         block += ROW_THREADS) {
        const Part part(shared.counts, row, block);
        if (part.count > SHORT)
            shared.counts.leave(part.count > CROWD, row, block);
        else if (part.count > 1)
            finish_short<SHORT>(weights, shared.keys + part.keys, part.count,
                                routes + part.routes);
    }
}

__device__ __forceinline__ void finish_left_part(Shared &shared, int word,
                                                 int bit, int first_row,
                                                 fex_route *routes)
{
    const int row = word / PART_WORDS % TOKENS;
    const SlotWeights<ROUTING_DTYPE> weights = {shared.weights[row]};
    const Part part(shared.counts, first_row + row,
                    bit * PART_WORDS + word % PART_WORDS);
    finish_long(weights, shared.keys + part.keys, part.count,
                routes + part.routes, part.count > CROWD,
                routes + shared.counts.starts[BLOCKS],
                &shared.counts.next_copy);
}

// The parts that were left, each by whichever warp takes it first.
__device__ __forceinline__ void finish_long_parts(Shared &shared, int first_row,
                                                  fex_route *routes)
{
    const int shift = static_cast<int>(threadIdx.x) / 32 + threadIdx.x % 32;
    for (int base = 0; base < LEFT_WORDS; base += 32)
        for (;;) {
            const int own = base + shift % 32; // other warps look elsewhere
            unsigned left = 0;
            if (own < LEFT_WORDS)
                left = atomicOr(&shared.counts.left[own], 0u);
            const unsigned lanes = __ballot_sync(FULL_WARP, left != 0);
            if (lanes == 0)
                break;
            const int lane = __ffs(static_cast<int>(lanes)) - 1;
            const int bit =
                __shfl_sync(FULL_WARP, __ffs(static_cast<int>(left)) - 1, lane);
            const int word = __shfl_sync(FULL_WARP, own, lane);
            unsigned before = 0;
            if (threadIdx.x % 32 == 0)
                before = atomicAnd(&shared.counts.left[word], ~(1u << bit));
            before = __shfl_sync(FULL_WARP, before, 0);
            if ((before >> bit & 1u) != 0)
                finish_left_part(shared, word, bit, first_row, routes);
        }
}

// ---- Store: this block's tokens' routes to a block of experts are neighbours

__device__ __forceinline__ void store_route(const Shared &shared, fex_route *to,
                                            unsigned key)
{
    const fex_route route = {key, 0.0f};
    if (is_merged(route)) { // the sum is there
        to->place = key;
        return;
    }
    const float weight = Dtype<ROUTING_DTYPE>::widen(
        shared.weights[row_of(route) % TOKENS][slot_of(route)]);
    *reinterpret_cast<uint2 *>(to) = make_uint2(key, __float_as_uint(weight));
}

// CROWDED_TOO: whether there may be crowded parts. They have less routes than
// slots, and are stored already.
template <bool CROWDED_TOO>
__device__ __forceinline__ void store_routes(Shared &shared, fex_route *routes)
{
    const int lane = threadIdx.x % 32;
    for (int block = threadIdx.x / 32; block < BLOCKS; block += WARPS) {
        const int begin = static_cast<int>(shared.counts.owns[block]);
        const int end = static_cast<int>(shared.counts.owns[block + 1]);
        const int to = static_cast<int>(shared.counts.starts[block]) - begin;
        for (int i = begin + lane; i < end; i += 32) {
            const unsigned key = shared.keys[i];
            int own = to + i;
            if (CROWDED_TOO) {
                if (key == NO_KEY)
                    continue;
                const Part part(shared.counts, row_of({key, 0.0f}), block);
                own = part.routes + i - part.keys;
            }
            store_route(shared, routes + own, key);
        }
    }
}

// Of a group, by one of its blocks.
__device__ __forceinline__ void store_starts(const RouteCounts &counts,
                                             int *starts)
{
    for (int i = threadIdx.x; i <= BLOCKS; i += THREADS)
        starts[i] = static_cast<int>(counts.starts[i]);
    if (threadIdx.x == 0)
        starts[BLOCKS + 1] =
            static_cast<int>(counts.starts[BLOCKS] + counts.copies);
}

// ---- One block, TOKENS tokens of a group

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    fex_sort_routes(const __grid_constant__ fex_sort_routes_args args)
{
    extern __shared__ uint4 memory[];
    Shared &shared = *reinterpret_cast<Shared *>(memory);
    RouteCounts &counts = shared.counts;
    const int first = static_cast<int>(blockIdx.x) * TOKENS;
    const fex_i64 group = first / FEX_ROUTE_GROUP;
    const int first_row = first % FEX_ROUTE_GROUP;
    const int row = first_row + static_cast<int>(threadIdx.x) / ROW_THREADS;
    const fex_i64 token = group * FEX_ROUTE_GROUP + row;
    fex_route *const routes = routes_of<TOP_K>(args.routes, first);

    launch_dependents();
    clear_counts(counts);
    __syncthreads();
    count_blocks(args, counts, group);
    __syncthreads();
    const bool crowded = has_crowded_parts(counts);
    if (crowded)
        count_experts(args, counts, shared.crowded, group, first_row);
    add_up(counts, shared.crowded, first_row);
    __syncthreads();
    if (first_row == 0)
        store_starts(counts, starts_of(args.starts, first, BLOCKS));
    if (token < args.choices.num_tokens)
        place_slots(args, shared, row, token);
    __syncthreads();
    if (token < args.choices.num_tokens) {
        finish_short_parts(shared, row, routes);
        if (threadIdx.x % ROW_THREADS == 0)
            args.largest[token] = 0;
    }
    __syncthreads();
    finish_long_parts(shared, first_row, routes);
    __syncthreads();
    if (crowded)
        store_routes<true>(shared, routes);
    else
        store_routes<false>(shared, routes);
}
