// SPDX-License-Identifier: Apache-2.0
// route_list.cuh - the routes of a group of tokens, a block of experts after the
// other, read ahead of their use.
#pragma once

#include "routes.cuh"

// LANES of a warp, numbered through, share a group, and take its routes to a
// block in turn. Of the blocks each `stride`-th is asked for.
template <int LANES, int ROUNDS, int TOP_K> struct RouteList {
    const fex_route *routes; // of the group
    const int *starts;       // of its blocks; NULL past the last token
    int block, stride, end;  // the first block, and the end of all
    int base;                // number of the window's first
    int begins, ends;        // of the window's block that is this lane's
    int begin, count;        // of the block that was loaded
    fex_route ahead[ROUNDS]; // this lane's first of them

    __device__ __forceinline__ RouteList(const fex_dense_states_args &args,
                                         int token, int block, int stride)
        : block(block), stride(stride), base(-LANES)
    {
        end = ceil_div(args.num_experts, FEX_ROUTE_BLOCK);
        routes = routes_of<TOP_K>(args.routes, token);
        starts = token < args.num_tokens ? starts_of(args.starts, token, end)
                                         : nullptr;
    }
    __device__ __forceinline__ static int lane()
    {
        return static_cast<int>(threadIdx.x) % LANES;
    }
    // Where LANES blocks from number i on begin and end; those past the last
    // are empty.
    __device__ __forceinline__ void slide(int i)
    {
        const int own = block + (i + lane()) * stride;
        base = i;
        begins = starts != nullptr ? starts[min_of(own, end)] : 0;
        ends = starts != nullptr ? starts[min_of(own + 1, end)] : 0;
    }
    // Goes to block number i, which is the last one or the one after it.
    __device__ __forceinline__ void load(int i)
    {
        if (i - base >= LANES)
            slide(i);
        begin = __shfl_sync(FULL_WARP, begins, i - base, LANES);
        count = __shfl_sync(FULL_WARP, ends, i - base, LANES) - begin;
        read(0);
    }
    // Routes from number i on come to `ahead`.
    __device__ __forceinline__ void read(int i)
    {
        const fex_route *const own = routes + begin + i + lane();
#pragma unroll
        for (int j = 0; j < ROUNDS; ++j)
            if (i + j * LANES + lane() < count)
                ahead[j] = load_route(own + j * LANES);
    }
    // The lane's j-th of those from number i on.
    __device__ __forceinline__ void read(int i, int j)
    {
        if (has(i, j))
            ahead[j] = load_route(routes + begin + i + j * LANES + lane());
    }
    // Whether the lane's j-th of those read from number i on is a route.
    __device__ __forceinline__ bool has(int i, int j) const
    {
        return i + j * LANES + lane() < count;
    }
};
