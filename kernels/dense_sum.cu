// SPDX-License-Identifier: Apache-2.0
// dense_sum.cu - the last step of a dense forward pass: the sums over ranges of
// experts, added up in their order, unscaled and rounded. Where U was no good
// in f16 for a tile of a range, the tile's states are computed anew, plainly.
// And the scores of choices that were no routes are copied.
#include "arguments.h"
#include "choices.cuh"
#include "element.cuh"
#include "routes.cuh"

// ---- Constants: from the prelude DTYPE, HIDDEN_SIZE, TOP_K, TILE_TOKENS,
// TILE_COLUMNS, THREADS

constexpr int WIDTH = 4; // columns of a thread
constexpr int ROW_THREADS = ceil_div(HIDDEN_SIZE, WIDTH);
constexpr int COLUMN_TILES = ceil_div(HIDDEN_SIZE, TILE_COLUMNS);
constexpr int SPLITS_AT_ONCE = 4;

static_assert(HIDDEN_SIZE % WIDTH == 0 && TILE_COLUMNS % WIDTH == 0);

using Element = Dtype<DTYPE>::Storage;

// ---- Compute

__device__ __forceinline__ bool is_unfit(const fex_dense_sum_args &args,
                                         int token, int column)
{
    const int token_tiles = ceil_div(args.num_tokens, TILE_TOKENS);
    const int *const tile =
        args.unfit + token / TILE_TOKENS * COLUMN_TILES + column / TILE_COLUMNS;
    int unfit = 0;
#pragma unroll 4
    for (int split = 0; split < args.splits; ++split)
        unfit |= __ldcg(tile + split * token_tiles * COLUMN_TILES);
    return unfit != 0;
}

// The first of a block's routes that is of a row or one after it.
__device__ __forceinline__ int first_of_row(const fex_route *routes, int begin,
                                            int end, int row)
{
    while (begin < end) {
        const int middle = begin + (end - begin) / 2;
        if (row_of(load_route(routes + middle)) < row)
            begin = middle + 1;
        else
            end = middle;
    }
    return begin;
}

// In the order of the routes.
__device__ __forceinline__ void sum_plainly(const fex_dense_sum_args &args,
                                            int token, int column,
                                            float (&sums)[WIDTH])
{
    for (float &sum : sums)
        sum = 0.0f;
    const int blocks = ceil_div(args.num_experts, FEX_ROUTE_BLOCK);
    const fex_route *const routes = routes_of<TOP_K>(args.routes, token);
    const int *const starts = starts_of(args.starts, token, blocks);
    const int row = token % FEX_ROUTE_GROUP;
    for (int block = 0; block < blocks; ++block) {
        const int end = starts[block + 1];
        for (int i = first_of_row(routes, starts[block], end, row); i < end;
             ++i) {
            const fex_route route = load_route(routes + i);
            if (row_of(route) != row)
                break;
            if (is_repeat(route))
                continue;
            const fex_i64 expert =
                static_cast<fex_i64>(block) * FEX_ROUTE_BLOCK +
                expert_of(route);
            const auto up = load_vector<WIDTH * sizeof(Element)>(
                static_cast<const Element *>(args.up_weights) +
                    expert * args.up_weights_stride + column,
                l2_stream());
#pragma unroll
            for (int j = 0; j < WIDTH; ++j)
                sums[j] += route.weight * widen<DTYPE>(up, j);
        }
    }
}

__device__ __forceinline__ void add_partials(const fex_dense_sum_args &args,
                                             int token, int column,
                                             float (&sums)[WIDTH])
{
    const float *const own =
        args.partials + static_cast<fex_i64>(token) * HIDDEN_SIZE + column;
    const fex_i64 split_size =
        static_cast<fex_i64>(args.num_tokens) * HIDDEN_SIZE;
    for (int base = 0; base < args.splits; base += SPLITS_AT_ONCE) {
        float4 parts[SPLITS_AT_ONCE];
#pragma unroll
        for (int i = 0; i < SPLITS_AT_ONCE; ++i)
            if (base + i < args.splits)
                parts[i] = __ldcs(reinterpret_cast<const float4 *>(
                    own + (base + i) * split_size));
#pragma unroll
        for (int i = 0; i < SPLITS_AT_ONCE; ++i)
            if (base + i < args.splits) {
                sums[0] += parts[i].x;
                sums[1] += parts[i].y;
                sums[2] += parts[i].z;
                sums[3] += parts[i].w;
            }
    }
    const float unscale = unscale_of<DTYPE>(args.largest[token]);
#pragma unroll
    for (float &sum : sums)
        sum *= unscale;
}

// ---- Store

__device__ __forceinline__ void store_states(const fex_dense_sum_args &args)
{
    const fex_i64 i = static_cast<fex_i64>(blockIdx.x) * THREADS + threadIdx.x;
    const int token = static_cast<int>(i / ROW_THREADS);
    const int column = static_cast<int>(i % ROW_THREADS) * WIDTH;
    if (token >= args.num_tokens)
        return;
    float sums[WIDTH] = {};
    // Read while it is not known yet whether they are good.
    add_partials(args, token, column, sums);
    if (is_unfit(args, token, column))
        sum_plainly(args, token, column, sums);
    store_vector<WIDTH * sizeof(Element)>(
        static_cast<Element *>(args.expert_states) +
            token * args.expert_states_stride + column,
        narrow<DTYPE, WIDTH>(sums));
}

// The scores of a group's copies, by some of the blocks.
__device__ __forceinline__ void copy_scores(const fex_dense_sum_args &args)
{
    const int blocks = ceil_div(args.num_experts, FEX_ROUTE_BLOCK);
    const int groups = ceil_div(args.num_tokens, FEX_ROUTE_GROUP);
    const int shares = max_of(static_cast<int>(gridDim.x) / groups, 1);
    for (int share = static_cast<int>(blockIdx.x); share < groups * shares;
         share += static_cast<int>(gridDim.x)) {
        const int token = share / shares * FEX_ROUTE_GROUP;
        const fex_route *const routes = routes_of<TOP_K>(args.routes, token);
        const int *const ends = starts_of(args.starts, token, blocks) + blocks;
        for (int i = ends[0] + share % shares * THREADS +
                     static_cast<int>(threadIdx.x);
             i < ends[1]; i += shares * THREADS) {
            const fex_route copy = load_route(routes + i);
            const fex_i64 own = token + row_of(copy);
            float *const scores = args.scores + own * args.scores_stride;
            scores[copy_slot(copy)] = scores[copy_first(copy)];
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    fex_dense_sum(const __grid_constant__ fex_dense_sum_args args)
{
    wait_for_primary();
    store_states(args);
    if (args.scores != nullptr)
        copy_scores(args);
}
