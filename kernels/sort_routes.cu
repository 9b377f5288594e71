// SPDX-License-Identifier: Apache-2.0
// sort_routes.cu - what the dense family needs to know of the choices: each
// token's, sorted by block of experts, and where in them each block begins.
//
// A warp sorts one token by counting: it counts the blocks its slots name, adds
// the counts up to starts, and takes the slots 32 at a time in their order, each
// to the next place of its block. Slots of one block so keep their order, and
// what is summed over them is reproducible.
#include "arguments.h"
#include "choices.cuh"
#include "element.cuh"
#include "ptx.cuh"
#include "routes.cuh"
#include "warp.cuh"

// ---- Constants: from the prelude INDEX_TYPE, TOP_K, ROUTING_DTYPE, BLOCKS,
// WARPS, SHARED_BYTES

constexpr int THREADS = WARPS * 32;
constexpr int ROUNDS = min_of(16, ceil_div(TOP_K, 32)); // in flight at once
constexpr int LANE_COUNTERS = 8;
constexpr int COUNTERS = ceil_div(BLOCKS + 1, LANE_COUNTERS) * LANE_COUNTERS;

static_assert(TOP_K < 1 << FEX_ROUTE_SLOT_BITS, "slots and counts are halves");

// ---- Shared memory, of each warp: two counters a word; and the routes in their
// new order, so that they are written in one sweep.

constexpr int WORDS = COUNTERS / 2 + TOP_K;

struct alignas(16) WarpShared {
    unsigned counters[COUNTERS / 2];
    // The places, and so much that counters of one block in neighbouring warps
    // are in different banks.
    unsigned places[ceil_div(WORDS, 32) * 32 + 4 - COUNTERS / 2];
};
static_assert(WARPS * sizeof(WarpShared) == SHARED_BYTES);

// ---- Load

__device__ __forceinline__ int load_slot(const fex_sort_routes_args &args,
                                         fex_i64 token, int k)
{
    return k < TOP_K ? load_expert<INDEX_TYPE>(args.choices, token, k)
                     : EMPTY_SLOT;
}

__device__ __forceinline__ float load_weight(const fex_sort_routes_args &args,
                                             fex_i64 token, int k)
{
    using Storage = typename Dtype<ROUTING_DTYPE>::Storage;
    return Dtype<ROUTING_DTYPE>::widen(
        __ldg(static_cast<const Storage *>(args.routing_weights) +
              token * args.routing_weights_stride + k));
}

// ---- Compute

__device__ __forceinline__ void count_blocks(const fex_sort_routes_args &args,
                                             WarpShared &shared, fex_i64 token)
{
    const int lane = threadIdx.x % 32;
    for (int i = lane; i < COUNTERS / 2; i += 32)
        shared.counters[i] = 0;
    __syncwarp();
    for (int base = lane; base < TOP_K; base += 32 * ROUNDS) {
        int experts[ROUNDS];
#pragma unroll
        for (int j = 0; j < ROUNDS; ++j)
            experts[j] = load_slot(args, token, base + j * 32);
#pragma unroll
        for (int j = 0; j < ROUNDS; ++j) {
            const int block = experts[j] / FEX_ROUTE_BLOCK;
            if (experts[j] != EMPTY_SLOT)
                atomicAdd(&shared.counters[block / 2], 1u << block % 2 * 16);
        }
    }
    __syncwarp();
}

// Counts become starts: the sum of all counts before.
__device__ __forceinline__ void add_up(WarpShared &shared)
{
    const int lane = threadIdx.x % 32;
    unsigned before = 0;
    for (int base = 0; base < COUNTERS; base += 32 * LANE_COUNTERS) {
        const int first = base + lane * LANE_COUNTERS;
        const bool inside = first < COUNTERS;
        uint4 *const own = reinterpret_cast<uint4 *>(shared.counters) +
                           first / LANE_COUNTERS;
        const uint4 counts = inside ? *own : make_uint4(0, 0, 0, 0);
        unsigned words[4] = {counts.x, counts.y, counts.z, counts.w};
        unsigned sum = 0;
#pragma unroll
        for (unsigned &word : words) {
            const unsigned low = word & 0xffffu;
            const unsigned high = word >> 16;
            word = sum | (sum + low) << 16;
            sum += low + high;
        }
        unsigned inclusive = sum;
#pragma unroll
        for (int offset = 1; offset < 32; offset *= 2) {
            const unsigned below = __shfl_up_sync(
                FULL_WARP, inclusive, static_cast<unsigned>(offset));
            if (lane >= offset)
                inclusive += below;
        }
        const unsigned both = (before + inclusive - sum) * 0x10001u;
        if (inside)
            *own = make_uint4(words[0] + both, words[1] + both,
                              words[2] + both, words[3] + both);
        before += __shfl_sync(FULL_WARP, inclusive, 31);
    }
}

// ---- Store

// Those of consecutive tokens are neighbours.
__device__ __forceinline__ void store_starts(const fex_sort_routes_args &args,
                                             const WarpShared *warps)
{
    const fex_i64 first = static_cast<fex_i64>(blockIdx.x) * WARPS;
    for (int i = threadIdx.x; i < (BLOCKS + 1) * WARPS; i += THREADS) {
        const int block = i / WARPS;
        const int warp = i % WARPS;
        const unsigned both = warps[warp].counters[block / 2];
        if (first + warp < args.choices.num_tokens)
            args.starts[block * args.choices.num_tokens + first + warp] =
                static_cast<int>(both >> block % 2 * 16 & 0xffffu);
    }
}

// Each slot to the next place of its block.
__device__ __forceinline__ void place_slots(const fex_sort_routes_args &args,
                                            WarpShared &shared, fex_i64 token)
{
    auto *const next = reinterpret_cast<unsigned short *>(shared.counters);
    const int lane = threadIdx.x % 32;
    for (int base = 0; base < TOP_K; base += 32 * ROUNDS) {
        int experts[ROUNDS];
        unsigned equals[ROUNDS];
#pragma unroll
        for (int j = 0; j < ROUNDS; ++j)
            experts[j] = load_slot(args, token, base + j * 32 + lane);
#pragma unroll
        for (int j = 0; j < ROUNDS; ++j)
            equals[j] = __match_any_sync(
                FULL_WARP,
                experts[j] == EMPTY_SLOT ? -1 : experts[j] / FEX_ROUTE_BLOCK);
#pragma unroll
        for (int j = 0; j < ROUNDS; ++j) {
            const bool valid = experts[j] != EMPTY_SLOT;
            const int block = valid ? experts[j] / FEX_ROUTE_BLOCK : 0;
            const int k = base + j * 32 + lane;
            const int rank = __popc(equals[j] & lanes_below(lane));
            const int position = next[block] + rank;
            __syncwarp();
            if (valid && rank == 0)
                next[block] = static_cast<unsigned short>(
                    position + __popc(equals[j]));
            __syncwarp();
            if (valid)
                shared.places[position] =
                    static_cast<unsigned>(experts[j]) << FEX_ROUTE_SLOT_BITS |
                    static_cast<unsigned>(k);
            else if (k < TOP_K && args.scores != nullptr)
                args.scores[token * args.scores_stride + k] = 0.0f;
        }
    }
}

__device__ __forceinline__ void store_routes(const fex_sort_routes_args &args,
                                             const WarpShared &shared,
                                             fex_i64 token)
{
    const int count = shared.counters[BLOCKS / 2] >> BLOCKS % 2 * 16 & 0xffff;
    __syncwarp();
    const int lane = threadIdx.x % 32;
    for (int base = lane; base - lane < count; base += 32 * ROUNDS) {
        fex_route routes[ROUNDS];
#pragma unroll
        for (int j = 0; j < ROUNDS; ++j) {
            const bool inside = base + j * 32 < count;
            routes[j].place = inside ? shared.places[base + j * 32] : 0;
            routes[j].weight = load_weight(args, token, slot_of(routes[j]));
        }
#pragma unroll
        for (int j = 0; j < ROUNDS; ++j)
            if (base + j * 32 < count)
                store_route(args.routes + token * TOP_K + base + j * 32,
                            routes[j]);
    }
}

// ---- One block, WARPS tokens

extern "C" __global__ void __launch_bounds__(THREADS)
    fex_sort_routes(const __grid_constant__ fex_sort_routes_args args)
{
    extern __shared__ uint4 memory[];
    WarpShared *const warps = reinterpret_cast<WarpShared *>(memory);
    WarpShared &shared = warps[threadIdx.x / 32];
    const fex_i64 token =
        static_cast<fex_i64>(blockIdx.x) * WARPS + threadIdx.x / 32;
    const bool inside = token < args.choices.num_tokens;

    launch_dependents();
    if (inside) {
        count_blocks(args, shared, token);
        add_up(shared);
    }
    __syncthreads();
    store_starts(args, warps);
    __syncthreads();
    if (inside) {
        place_slots(args, shared, token);
        store_routes(args, shared, token);
        if (threadIdx.x % 32 == 0)
            args.largest[token] = 0;
    }
}
