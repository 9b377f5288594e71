// SPDX-License-Identifier: Apache-2.0
// matrix_listed.cuh - the lists that matrix_lists.cu made, as a warp reads them
// that finishes its rows of a tile of scores, a block of experts at a time.
#pragma once

#include "arguments.h"
#include "element.cuh"
#include "matrix_group.cuh"
#include "warp.cuh"

// ---- Constants: from the prelude TOP_K, ACROSS

constexpr int COLUMNS = FEX_MATRIX_BLOCK; // of a piece
constexpr int PIECES = ACROSS / COLUMNS;
constexpr int AT_ONCE = 2; // choices of a piece that a lane looks at together

// ---- Load

// A lane's choices of a piece: every 32nd, so many at a time.
struct Batch {
    fex_choice choices[AT_ONCE];

    // Those from number k on, of which there are none from `end` on.
    __device__ __forceinline__ void load(const fex_choice *list, int k, int end)
    {
#pragma unroll
        for (int j = 0; j < AT_ONCE; ++j)
            if (k + j * 32 < end)
                choices[j] = list[k + j * 32];
    }
};

// What is listed of a warp's rows and a tile's experts. Where each piece's
// choices and repeats begin is read at once, and the first of a piece while the
// piece before is finished.
struct Listed {
    const fex_choice *list;
    int starts; // of this lane's number, from the tile's first on
    Batch ahead;

    __device__ __forceinline__ void
    load_starts(const fex_matrix_scores_args &args, int token, int expert)
    {
        static_assert(2 * PIECES < 32);
        const fex_i64 group = token / FEX_MATRIX_GROUP;
        const int bins = bins_of(args.num_experts);
        const int lane = threadIdx.x % 32;
        list = list_of<TOP_K>(args.lists, group);
        starts = token < args.num_tokens
                     ? args.starts[group * (bins + 1) +
                                   expert / FEX_MATRIX_BLOCK * 2 +
                                   min_of(lane, 2 * PIECES)]
                     : 0;
    }
    __device__ __forceinline__ int begin(int piece) const
    {
        return __shfl_sync(FULL_WARP, starts, 2 * piece);
    }
    __device__ __forceinline__ int repeats(int piece) const
    {
        return __shfl_sync(FULL_WARP, starts, 2 * piece + 1);
    }
    __device__ __forceinline__ int end(int piece) const
    {
        return begin(piece + 1);
    }
    __device__ __forceinline__ void read_ahead(int piece)
    {
        ahead.load(list, begin(piece) + static_cast<int>(threadIdx.x % 32),
                   end(piece));
    }
};
