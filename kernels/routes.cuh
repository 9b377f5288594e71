// SPDX-License-Identifier: Apache-2.0
// routes.cuh - walking the routes of a tile of tokens and experts.
#pragma once

#include "arguments.h"
#include "element.cuh"
#include "warp.cuh"

// ---- What a route's place is made of

__device__ __forceinline__ int row_of(const fex_route &route)
{
    return static_cast<int>(route.place >> 28);
}

__device__ __forceinline__ bool is_repeat(const fex_route &route)
{
    return (route.place >> 27 & 1u) != 0;
}

__device__ __forceinline__ bool is_merged(const fex_route &route)
{
    return (route.place >> 26 & 1u) != 0;
}

__device__ __forceinline__ int expert_of(const fex_route &route)
{
    return static_cast<int>(route.place >> 19 & (FEX_ROUTE_BLOCK - 1u));
}

__device__ __forceinline__ int slot_of(const fex_route &route)
{
    return static_cast<int>(route.place & ((1u << 19) - 1u));
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

// Whether rows are good in f16, from their largest magnitudes, two of them in a
// word: finite, not too large, and not all so small that bits are lost.
template <int DTYPE> __device__ __forceinline__ bool fits_half(unsigned largest)
{
    const unsigned low = largest & 0xffffu;
    const unsigned high = largest >> 16;
    const unsigned most = low > high ? low : high;
    if constexpr (DTYPE == FEX_KERNEL_F16)
        return most < 0x7c00u;
    constexpr unsigned LEAST = (127u - 22u) << 7; // 2^-22 in bfloat16
    constexpr unsigned TOO_LARGE = (127u + 4u) << 7; // 2^4
    return most == 0 || (most >= LEAST && most < TOO_LARGE);
}
