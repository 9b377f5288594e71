// SPDX-License-Identifier: Apache-2.0
// weight_fill.cuh - puts the routes of a warp's tokens to a block of experts
// into a tile of weights.
#pragma once

#include "route_list.cuh"
#include "routes.cuh"
#include "warp.cuh"
#include "weight_tile.cuh"

// ---- Constants: from the prelude TOP_K, ROUNDS: routes a lane reads ahead,
// BLOCKS_LONG: whether blocks of experts usually have more for it

using List = RouteList<LANES, ROUNDS, TOP_K>;

// Sets the route in the lane's j-th place of those from number `first` on, if
// it has one. scale: of the tokens, in lanes.
__device__ __forceinline__ void set_route(Element *own, Trail &trail,
                                          const List &list, int first, int j,
                                          const fex_route &route, float scale)
{
    const float weight =
        route.weight * __shfl_sync(FULL_WARP, scale, row_of(route), LANES);
    const unsigned place = place_of(route);
    if (first == 0)
        trail.set(j, place);
    if (list.has(first, j) && !is_repeat(route))
        set_weight(own, place, weight);
}

__device__ __forceinline__ void set_block(Element *own, Trail &trail,
                                          List &list, float scale)
{
    constexpr int AHEAD = ROUNDS * LANES;
    trail.count = list.count;
#pragma unroll
    for (int j = 0; j < ROUNDS; ++j)
        set_route(own, trail, list, 0, j, list.ahead[j], scale);
#pragma unroll 1
    for (int first = AHEAD; __any_sync(FULL_WARP, first < list.count);
         first += AHEAD) {
        list.read(first);
#pragma unroll
        for (int j = 0; j < ROUNDS; ++j)
            set_route(own, trail, list, first, j, list.ahead[j], scale);
    }
}

// The same for blocks that usually have more routes than are read ahead: others
// come as their room gets free.
__device__ __forceinline__ void set_long_block(Element *own, Trail &trail,
                                               List &list, float scale)
{
    constexpr int AHEAD = ROUNDS * LANES;
    trail.count = list.count;
#pragma unroll 1
    for (int first = 0; __any_sync(FULL_WARP, first < list.count);
         first += AHEAD)
#pragma unroll
        for (int j = 0; j < ROUNDS; ++j) {
            const fex_route route = list.ahead[j];
            list.read(first + AHEAD, j);
            set_route(own, trail, list, first, j, route, scale);
        }
}

__device__ __forceinline__ void set_weights(Element *own, Trail &trail,
                                            List &list, float scale)
{
    if constexpr (BLOCKS_LONG)
        set_long_block(own, trail, list, scale);
    else
        set_block(own, trail, list, scale);
}
