// SPDX-License-Identifier: Apache-2.0
// weight_tile.cuh - P of a tile of tokens and a block of experts, in shared
// memory: zeros, but for the weights of the routes, which warps set and clear.
// Where rounding a weight to f16 must not show, what is left of it makes up a
// second part, in 8 bits.
#pragma once

#include "arguments.h"
#include "hopper.cuh"
#include "routes.cuh"
#include "tensor.cuh"
#include "warp.cuh"
#include "words.cuh"

// ---- Constants: from the prelude DTYPE, TILE_TOKENS, ROUNDS

constexpr int PARTS = DTYPE == FEX_KERNEL_BF16 ? 1 : 2; // of P
constexpr int HALF_TOKENS = 128;                        // of one product
constexpr int DEPTH = FEX_ROUTE_BLOCK;                  // experts of a tile
constexpr int SWIZZLE = 64; // of a row of half of them, 128 bytes
constexpr int PLACE_WARPS = 8;
constexpr int WARP_TOKENS = TILE_TOKENS / PLACE_WARPS;
constexpr int LANES = 32 * FEX_ROUTE_GROUP / WARP_TOKENS; // of a group

static_assert(DTYPE == FEX_KERNEL_BF16 || DTYPE == FEX_KERNEL_F16);
static_assert(TILE_TOKENS == 2 * HALF_TOKENS / PARTS);
static_assert(DEPTH == 2 * SWIZZLE);

using Element = unsigned short;
using Weights =
    Element[2][2][HALF_TOKENS][SWIZZLE]; // experts; tokens, or parts

// Where that of a route is, in elements from its group's first row on, as
// descriptor_of has it.
__device__ __forceinline__ unsigned place_of(const fex_route &route)
{
    constexpr unsigned TILE = 2 * HALF_TOKENS * SWIZZLE;
    const auto row = static_cast<unsigned>(row_of(route));
    const auto expert = static_cast<unsigned>(expert_of(route));
    return expert / SWIZZLE * TILE + row * SWIZZLE +
           (expert % SWIZZLE ^ row % 8 * 8);
}

// By what a rest is multiplied so that e5m2 holds the least of them: those of
// the largest weights are up to 2^3, and become no more than 2^15.
constexpr float REST_SCALE = 4096.0f;

// What is left of a weight, of which `place` is where it is: in the same row of
// the second part, as e5m2. Of 16 experts the bytes are in the order in which a
// lane has these in registers, four of them as upper_bytes puts them together.
__device__ __forceinline__ unsigned char &rest_at(Element *weights,
                                                  unsigned place)
{
    const unsigned row = place / SWIZZLE;
    const unsigned expert = place % SWIZZLE ^ row % 8 * 8;
    const unsigned byte = (expert & 6) * 2 | (expert & 8) / 4 | (expert & 1);
    auto *const rests =
        reinterpret_cast<unsigned char *>(weights + HALF_TOKENS * SWIZZLE);
    return rests[row * (2 * SWIZZLE) + (expert / 16 ^ row % 8) * 16 + byte];
}

// Where a lane has set weights; more than it remembers if they are many.
struct Trail {
    int count; // of the lane's group
    unsigned places[ceil_div(ROUNDS, 2)];

    static constexpr int MANY = ROUNDS * LANES + 1;

    __device__ __forceinline__ void set(int j, unsigned place)
    {
        unsigned &pair = places[j / 2];
        pair = j % 2 == 0 ? place : pair | place << 16;
    }
    __device__ __forceinline__ bool has(int j) const
    {
        return j * LANES + static_cast<int>(threadIdx.x) % LANES < count;
    }
    __device__ __forceinline__ unsigned get(int j) const
    {
        return places[j / 2] >> j % 2 * 16 & 0xffffu;
    }
};

__device__ __forceinline__ void set_weight(Element *weights, unsigned place,
                                           float weight)
{
    const Element high = float_to_half(weight);
    weights[place] = high;
    // What is not finite has no rest.
    const float rest = weight - half_to_float(high);
    if (PARTS == 2)
        rest_at(weights, place) =
            fabsf(rest) < fabsf(weight) ? float_to_e5m2(rest * REST_SCALE) : 0;
}

__device__ __forceinline__ void clear_weight(Element *weights, unsigned place)
{
    weights[place] = 0;
    if (PARTS == 2)
        rest_at(weights, place) = 0;
}

// All rows of a warp that puts them in.
__device__ __forceinline__ void clear_rows(Weights &weights, int warp)
{
    constexpr int VECTORS = WARP_TOKENS * SWIZZLE / 8;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int tile = 0; tile < 2 * PARTS; ++tile) {
        const int row = tile % PARTS * HALF_TOKENS + warp * WARP_TOKENS;
        auto *const vectors = reinterpret_cast<uint4 *>(
            reinterpret_cast<Element *>(weights) +
            (tile / PARTS * 2 * HALF_TOKENS + row) * SWIZZLE);
        for (int i = lane; i < VECTORS; i += 32)
            vectors[i] = make_uint4(0, 0, 0, 0);
    }
}

// Back to zeros where weights were. own: those of the lane's group.
__device__ __forceinline__ void clear(Weights &weights, int warp, Element *own,
                                      const Trail &trail)
{
    if (__any_sync(FULL_WARP, trail.count >= Trail::MANY)) {
        clear_rows(weights, warp);
    } else {
#pragma unroll
        for (int j = 0; j < ROUNDS; ++j)
            if (trail.has(j))
                clear_weight(own, trail.get(j));
    }
    __syncwarp();
}
