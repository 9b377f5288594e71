// SPDX-License-Identifier: Apache-2.0
// matrix_halves.cuh - U in f16, as matrix_states.cu multiplies it, from bfloat16:
// exact but for what is very small or too large, of which the largest tells.
#pragma once

#include "arguments.h"
#include "element.cuh"
#include "hopper.cuh"
#include "matrix_tile.cuh"
#include "routes.cuh"
#include "warp.cuh"
#include "words.cuh"

// ---- Constants: from the prelude DTYPE, HIDDEN_SIZE

constexpr int AIDE_WARPS = COPY_WARP - COMPUTE_WARPS;
constexpr int WIDTH = 8; // elements of a vector

static_assert(AIDE_WARPS > 0);

// Of all lanes the larger magnitudes, of both elements of a word.
__device__ __forceinline__ unsigned max_of_warp(unsigned largest)
{
    for (int offset = 16; offset > 0; offset /= 2)
        largest = max_magnitudes<DTYPE>(
            largest, __shfl_xor_sync(FULL_WARP, largest, offset));
    return largest;
}

// An aide converts some rows of a tile of columns, a lane WIDTH of these.
__device__ __forceinline__ unsigned
convert_rows(const fex_matrix_scores_args &args, int column, int first,
             int stride)
{
    constexpr int EACH = 8; // rows at one time
    const int end = column < HIDDEN_SIZE ? args.num_experts : 0;
    unsigned largest = 0;
    for (int row = first; row < end; row += stride * EACH) {
        Vector<WIDTH * 2> up[EACH];
#pragma unroll
        for (int i = 0; i < EACH; ++i)
            up[i] = load_vector<WIDTH * 2>(
                static_cast<const Half *>(args.up_weights) +
                    min_of(row + i * stride, end - 1) * args.up_weights_stride +
                    column,
                l2_stream());
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            for (unsigned &word : up[i].words) {
                largest = max_magnitudes<DTYPE>(largest, word);
                word = times_halves(word, ROW_SCALE_PAIR);
            }
            const uint4 halves = make_uint4(up[i].words[0], up[i].words[1],
                                            up[i].words[2], up[i].words[3]);
            if (row + i * stride < end)
                *reinterpret_cast<uint4 *>(
                    args.halves +
                    static_cast<fex_i64>(row + i * stride) * HIDDEN_SIZE +
                    column) = halves;
        }
    }
    return largest;
}

__device__ __forceinline__ void convert_up(const fex_matrix_scores_args &args)
{
    static_assert(FEX_MATRIX_ACROSS == 32 * WIDTH);
    constexpr int TILES = ceil_div(HIDDEN_SIZE, FEX_MATRIX_ACROSS);
    const int aides = static_cast<int>(gridDim.x) * AIDE_WARPS;
    const int shares = max_of(aides / TILES, 1); // of a tile
    const int aide = (static_cast<int>(threadIdx.x) / 32 - COMPUTE_WARPS) *
                         static_cast<int>(gridDim.x) +
                     static_cast<int>(blockIdx.x);
    for (int own = aide; own < shares * TILES; own += aides) {
        const int tile = own % TILES;
        const int column =
            (tile * 32 + static_cast<int>(threadIdx.x) % 32) * WIDTH;
        const unsigned largest =
            max_of_warp(convert_rows(args, column, own / TILES, shares));
        wait_for_primary(); // it has set them to 0
        if (threadIdx.x % 32 == 0)
            atomicMax(&args.up_largest[tile], larger_magnitude(largest));
    }
    wait_for_primary(); // as blocks without tiles have to
}
