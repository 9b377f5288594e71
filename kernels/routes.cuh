// SPDX-License-Identifier: Apache-2.0
// routes.cuh - walking the routes of a tile of tokens and experts.
#pragma once

#include "arguments.h"
#include "element.cuh"
#include "warp.cuh"

__device__ __forceinline__ int slot_of(const fex_route &route)
{
    return static_cast<int>(route.place &
                            ((1u << FEX_ROUTE_SLOT_BITS) - 1u));
}

// Of its expert's number what a route keeps.
__device__ __forceinline__ int expert_of(const fex_route &route)
{
    return static_cast<int>(route.place >> FEX_ROUTE_SLOT_BITS);
}

__device__ __forceinline__ fex_route load_route(const fex_route *route)
{
    const uint2 words = *reinterpret_cast<const uint2 *>(route);
    return {words.x, __uint_as_float(words.y)};
}

__device__ __forceinline__ void store_route(fex_route *to,
                                            const fex_route &route)
{
    *reinterpret_cast<uint2 *>(to) =
        make_uint2(route.place, __float_as_uint(route.weight));
}

// The routes of at most 32 tokens to a range of blocks, one token's after the
// other's: a warp numbers them through and its lanes take them 32 at a time,
// however uneven they are. Positions count from the first token's first route, a
// token having TOP_K.
struct Segments {
    int first; // position of the first route of this lane's token
    int end;   // and after the last; once numbered, the number after it
    int below; // number of the first
    int total;

    // Only reads, so that nothing waits for it.
    __device__ __forceinline__ Segments(const int *starts, int num_tokens,
                                        int token, int tokens, int block,
                                        int end_block)
    {
        const int lane = threadIdx.x % 32;
        first = 0;
        end = 0;
        if (lane < tokens && token + lane < num_tokens) {
            const int *const column = starts + token + lane;
            first = column[static_cast<fex_i64>(block) * num_tokens];
            end = column[static_cast<fex_i64>(end_block) * num_tokens];
        }
    }

    // Comes first, once.
    template <int TOP_K> __device__ __forceinline__ void number()
    {
        const int lane = threadIdx.x % 32;
        const int count = end - first;
        end = count;
#pragma unroll
        for (int offset = 1; offset < 32; offset *= 2) {
            const int before =
                __shfl_up_sync(FULL_WARP, end, static_cast<unsigned>(offset));
            if (lane >= offset)
                end += before;
        }
        first += lane * TOP_K;
        below = end - count;
        total = __shfl_sync(FULL_WARP, end, 31);
    }

    // The position of route i, different for every lane; -1 past the last. All
    // lanes call it.
    __device__ __forceinline__ int locate(int i) const
    {
        int owner = 0;
#pragma unroll
        for (int step = 16; step > 0; step /= 2)
            if (__shfl_sync(FULL_WARP, end, owner + step - 1) <= i)
                owner += step;
        const int start = __shfl_sync(FULL_WARP, first - below, owner);
        return i < total ? start + i : -1;
    }
};

// ---- Weights in f16: each token's are scaled by the power of two that brings
// the largest to [2, 4). What is lost of small ones does not count beside it, and
// an expert chosen 2^14 times has room. bfloat16 rows are multiplied by ROW_SCALE.

constexpr float ROW_SCALE = 1024.0f;

// From the bits of the largest magnitude. Zero and what is not finite pass
// through as they are.
__device__ __forceinline__ float scale_of(unsigned largest)
{
    const int exponent = static_cast<int>(largest >> 23);
    if (exponent == 0 || exponent == 255)
        return 1.0f;
    // 2^(128 - exponent), as far as a float has it.
    const int scaled = 255 - exponent;
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

// Two elements of a row of U.
__device__ __forceinline__ unsigned bfloats_to_halves(unsigned word)
{
    return floats_to_halves(__uint_as_float(word << 16) * ROW_SCALE,
                            __uint_as_float(word & 0xffff0000u) * ROW_SCALE);
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
    constexpr unsigned LEAST = (127u - 20u) << 7; // 2^-20 in bfloat16
    constexpr unsigned TOO_LARGE = (127u + 5u) << 7; // 2^5
    return most == 0 || (most >= LEAST && most < TOO_LARGE);
}
