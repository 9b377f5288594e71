// SPDX-License-Identifier: Apache-2.0
// route_list.cuh - the routes of a warp's tokens, a block of experts after the
// other, read ahead of their use.
#pragma once

#include "routes.cuh"

// Of a block first those of one group of tokens, then those of the other, if
// there are two, numbered through. Lanes take them 32 at a time.
template <int GROUPS, int ROUNDS, int TOP_K> struct RouteList {
    static_assert(GROUPS == 1 || GROUPS == 2);

    const fex_dense_states_args &args;
    const fex_route *routes; // of the first group
    int token;               // the first
    int last;                // end of the blocks that are asked for
    int base;                // a block
    int window[GROUPS];      // in lane i: where block i after `base` begins
    int begin[GROUPS];       // of the block that was loaded
    int first, count;        // of the first group, of all
    fex_route ahead[ROUNDS]; // the first of them

    __device__ __forceinline__ RouteList(const fex_dense_states_args &args,
                                         int token, int block, int end_block)
        : args(args), token(token), last(end_block), base(block)
    {
        routes = routes_of<TOP_K>(args.routes, token);
        slide();
    }
    // Where the blocks from `base` on begin; past the last group all do at 0.
    __device__ __forceinline__ void slide()
    {
        const int blocks = ceil_div(args.num_experts, FEX_ROUTE_BLOCK);
        const int own = min_of(base + static_cast<int>(threadIdx.x % 32), last);
#pragma unroll
        for (int j = 0; j < GROUPS; ++j)
            window[j] = token + j * FEX_ROUTE_GROUP < args.num_tokens
                            ? starts_of(args.starts,
                                        token + j * FEX_ROUTE_GROUP,
                                        blocks)[own]
                            : 0;
    }
    // Goes on to a block; past the last there are none.
    __device__ __forceinline__ void load(int block)
    {
        if (block + 1 - base >= 32) {
            base = block;
            slide();
        }
        count = 0;
#pragma unroll
        for (int j = 0; j < GROUPS; ++j) {
            begin[j] = __shfl_sync(FULL_WARP, window[j], block - base);
            count += __shfl_sync(FULL_WARP, window[j], block + 1 - base) -
                     begin[j];
            if (j == 0)
                first = count;
        }
        read(0);
    }
    // Routes from number i on come to `ahead`.
    __device__ __forceinline__ void read(int i)
    {
        i += static_cast<int>(threadIdx.x % 32);
#pragma unroll
        for (int j = 0; j < ROUNDS; ++j)
            if (i + j * 32 < count)
                ahead[j] = load_route(at(i + j * 32));
    }
    __device__ __forceinline__ const fex_route *at(int i) const
    {
        int position = begin[0] + i;
        if (GROUPS == 2 && i >= first)
            position = begin[1] + i - first + FEX_ROUTE_GROUP * TOP_K;
        return routes + position;
    }
    // Of the warp's tokens, for route i.
    __device__ __forceinline__ int row(const fex_route &route, int i) const
    {
        return row_of(route) +
               (GROUPS == 2 && i >= first ? FEX_ROUTE_GROUP : 0);
    }
};
