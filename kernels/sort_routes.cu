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
// TOKENS, THREADS, SHARED_BYTES

// A part that one lane sorts: longer than most are.
constexpr int SHORT = TOP_K / BLOCKS > 2 ? 16 : 8;

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

// The parts of a token, a lane each; the long ones by all lanes.
__device__ __forceinline__ void finish_parts(Shared &shared, int row,
                                             int first_row, fex_route *routes)
{
    const int lane = threadIdx.x % 32;
    const SlotWeights<ROUTING_DTYPE> weights = {shared.weights[row % TOKENS]};
    // A part ends where this token's counters are now, and the next one began.
    const unsigned *const ends = shared.counts.before[row];
    const unsigned *const begins =
        row == first_row ? nullptr : shared.counts.before[row - 1];
    for (int base = threadIdx.x % ROW_THREADS / 32 * 32; base < BLOCKS;
         base += ROW_THREADS) {
        const int block = min_of(base + lane, BLOCKS - 1);
        const unsigned begin = begins != nullptr ? half_of(begins, block) : 0;
        const int count = base + lane < BLOCKS
                              ? static_cast<int>(half_of(ends, block) - begin)
                              : 0;
        const int part = static_cast<int>(shared.counts.owns[block] + begin);
        const int to = static_cast<int>(
            shared.counts.starts[block] + shared.counts.firsts[block] +
            half_of(shared.counts.listed(row), block));
        if (count > 1 && count <= SHORT)
            finish_short<SHORT>(weights, shared.keys + part, count,
                                routes + to);
        unsigned left = __ballot_sync(FULL_WARP, count > SHORT);
        for (; left != 0; left &= left - 1) {
            const int owner = __ffs(static_cast<int>(left)) - 1;
            const int own_count = __shfl_sync(FULL_WARP, count, owner);
            finish_long(weights,
                        shared.keys + __shfl_sync(FULL_WARP, part, owner),
                        own_count, routes + __shfl_sync(FULL_WARP, to, owner),
                        own_count > CROWD);
        }
    }
}

// ---- Store: this block's tokens' routes to a block of experts are neighbours

// Those keys of the lanes that are copies.
__device__ __forceinline__ void store_copies(Shared &shared, fex_route *copies,
                                             unsigned key, unsigned lanes)
{
    const int lane = threadIdx.x % 32;
    unsigned at = 0;
    if (lane == 0)
        at = atomicAdd(&shared.counts.next_copy,
                       static_cast<unsigned>(__popc(lanes)));
    at = __shfl_sync(FULL_WARP, at, 0) +
         static_cast<unsigned>(__popc(lanes & lanes_below(lane)));
    if ((lanes >> lane & 1u) != 0)
        copies[at].place = key;
}

__device__ __forceinline__ void store_routes(Shared &shared, fex_route *routes)
{
    const int lane = threadIdx.x % 32;
    for (int block = threadIdx.x / 32; block < BLOCKS; block += WARPS) {
        const unsigned end = shared.counts.owns[block + 1];
        fex_route *to =
            routes + shared.counts.starts[block] + shared.counts.firsts[block];
        for (unsigned base = shared.counts.owns[block]; base < end;
             base += 32) {
            const bool inside = base + lane < end;
            const unsigned key = inside ? shared.keys[base + lane] : NO_KEY;
            const bool is_route = !is_copy(key);
            const unsigned lanes = __ballot_sync(FULL_WARP, is_route);
            const unsigned copies =
                __ballot_sync(FULL_WARP, inside && !is_route);
            if (copies != 0)
                store_copies(shared, routes + shared.counts.starts[BLOCKS], key,
                             copies);
            if (is_route) {
                const fex_route route = {key, 0.0f};
                fex_route *const own = to + __popc(lanes & lanes_below(lane));
                own->place = key;
                if (!is_merged(route)) // the sum is there
                    own->weight = Dtype<ROUTING_DTYPE>::widen(
                        shared.weights[row_of(route) % TOKENS][slot_of(route)]);
            }
            to += __popc(lanes);
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

extern "C" __global__ void __launch_bounds__(THREADS, 1)
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
    if (has_crowded_parts(counts))
        count_experts(args, counts, shared.crowded, group, first_row);
    add_up(counts, shared.crowded, first_row);
    __syncthreads();
    if (first_row == 0)
        store_starts(counts, starts_of(args.starts, first, BLOCKS));
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
