// SPDX-License-Identifier: Apache-2.0
// routes.cuh - walking the routes of a tile of tokens and experts.
#pragma once

#include "arguments.h"
#include "element.cuh"
#include "warp.cuh"

// ---- What a route's place is made of

constexpr unsigned ROUTE_REPEAT = 1u << 27;
constexpr unsigned ROUTE_MERGED = 1u << 26;
constexpr unsigned ROUTE_SLOTS = 1u << 19; // places of an expert
constexpr unsigned COPY_SLOTS = 1u << 13;

__device__ __forceinline__ unsigned place_of_route(int row, int expert, int k)
{
    return static_cast<unsigned>(row) << 28 |
           static_cast<unsigned>(expert) * ROUTE_SLOTS |
           static_cast<unsigned>(k);
}

__device__ __forceinline__ int row_of(const fex_route &route)
{
    return static_cast<int>(route.place >> 28);
}

__device__ __forceinline__ bool is_repeat(const fex_route &route)
{
    return (route.place & ROUTE_REPEAT) != 0;
}

__device__ __forceinline__ bool is_merged(const fex_route &route)
{
    return (route.place & ROUTE_MERGED) != 0;
}

__device__ __forceinline__ int expert_of(const fex_route &route)
{
    return static_cast<int>(route.place / ROUTE_SLOTS &
                            (FEX_ROUTE_BLOCK - 1u));
}

__device__ __forceinline__ int slot_of(const fex_route &route)
{
    return static_cast<int>(route.place & (ROUTE_SLOTS - 1u));
}

// Of a choice and the first of its token and expert, before they have marks.
__device__ __forceinline__ unsigned copy_place(unsigned place, unsigned first)
{
    return (place & 0xfu << 28) | ROUTE_REPEAT | ROUTE_MERGED |
           (first & (COPY_SLOTS - 1)) * COPY_SLOTS | (place & (COPY_SLOTS - 1));
}

__device__ __forceinline__ bool is_copy(unsigned place)
{
    return (~place & (ROUTE_REPEAT | ROUTE_MERGED)) == 0;
}

__device__ __forceinline__ int copy_slot(const fex_route &copy)
{
    return static_cast<int>(copy.place & (COPY_SLOTS - 1));
}

// The slot whose score it has too.
__device__ __forceinline__ int copy_first(const fex_route &copy)
{
    return static_cast<int>(copy.place / COPY_SLOTS & (COPY_SLOTS - 1));
}

// ---- Where routes are

// Of a group of tokens, from token on.
template <int TOP_K, typename Route>
__device__ __forceinline__ Route *routes_of(Route *routes, int token)
{
    const fex_i64 group = token / FEX_ROUTE_GROUP;
    return routes + group * (FEX_ROUTE_GROUP * TOP_K);
}

// Where in them each block of experts begins, then their number, then that of
// routes and copies.
template <typename Start>
__device__ __forceinline__ Start *starts_of(Start *starts, int token,
                                            int blocks)
{
    const fex_i64 group = token / FEX_ROUTE_GROUP;
    return starts + group * (blocks + 2);
}

__device__ __forceinline__ fex_route load_route(const fex_route *route)
{
    const uint2 words = *reinterpret_cast<const uint2 *>(route);
    return {words.x, __uint_as_float(words.y)};
}

// ---- Weights in f16: each token's are scaled by the power of two that brings
// the largest to [2^14, 2^15); bfloat16 rows are multiplied by ROW_SCALE, with
// which elements from 2^-26 to 2^4 keep all their bits.

constexpr float ROW_SCALE = 4096.0f;
constexpr unsigned ROW_SCALE_PAIR = 0x45804580; // two bfloat16

// From the bits of the largest magnitude. What is not finite passes through.
__device__ __forceinline__ float scale_of(unsigned largest)
{
    const int exponent = static_cast<int>(largest >> 23);
    if (exponent == 255)
        return 1.0f;
    // 2^(127 + 14 - exponent), as far as a float has it.
    const int scaled = 254 + 14 - exponent;
    return __uint_as_float(static_cast<unsigned>(min_of(scaled, 253)) << 23);
}

// What brings sums of scaled weights times rows back.
template <int DTYPE>
__device__ __forceinline__ float unscale_of(unsigned largest)
{
    const unsigned one = 254u << 23; // exponents of a number and its inverse
    const float inverse =
        __uint_as_float(one - __float_as_uint(scale_of(largest)));
    return DTYPE == FEX_KERNEL_BF16 ? inverse / ROW_SCALE : inverse;
}

// Of two magnitudes in a word.
__device__ __forceinline__ unsigned larger_magnitude(unsigned pair)
{
    const unsigned low = pair & 0xffffu;
    const unsigned high = pair >> 16;
    return low > high ? low : high;
}

// Whether rows are good in f16, from their largest magnitudes, two of them in a
// word: finite, not too large, and not all so small that bits are lost.
template <int DTYPE> __device__ __forceinline__ bool fits_half(unsigned largest)
{
    const unsigned most = larger_magnitude(largest);
    if constexpr (DTYPE == FEX_KERNEL_F16)
        return most < 0x7c00u;
    constexpr unsigned LEAST = (127u - 22u) << 7; // 2^-22 in bfloat16
    constexpr unsigned TOO_LARGE = (127u + 4u) << 7; // 2^4
    return most == 0 || (most >= LEAST && most < TOO_LARGE);
}
