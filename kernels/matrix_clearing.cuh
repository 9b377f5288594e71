// SPDX-License-Identifier: Apache-2.0
// matrix_clearing.cuh - clears P while products run: of a tile of scores some vectors
// with every stage of its product, and all of them with the last.
#pragma once

#include "arguments.h"
#include "element.cuh"
#include "matrix_tile.cuh"
#include "matrix_weight.cuh"

// ---- Constants: from the prelude DTYPE, HIDDEN_SIZE, ACROSS

constexpr int STEPS = ceil_div(HIDDEN_SIZE, DEPTH); // stages of a product

// A warp's rows of a tile, which it writes weights to next, by vectors of 8 elements:
// a lane has one every so many rows.
struct Clearing {
    static constexpr int WIDTH = 8;
    static constexpr int LANES = ACROSS / WIDTH; // of a row
    static constexpr int STEP = 32 / LANES;      // rows
    static constexpr int COUNT = ROWS / STEP;
    static constexpr int EACH = ceil_div(COUNT, STEPS);
    static_assert(EACH * STEPS >= COUNT);
    Half *to;           // the lane's next vector
    fex_i64 step, part; // to the one after it, and to the same of the next part
    int left;

    __device__ __forceinline__ static int first_row()
    {
        return static_cast<int>(threadIdx.x) % 32 / LANES;
    }
    __device__ __forceinline__ static int column()
    {
        return static_cast<int>(threadIdx.x) % LANES * WIDTH;
    }
    // Of so many rows a lane's, which may be negative.
    __device__ __forceinline__ static int count_of(fex_i64 rows)
    {
        const int own = static_cast<int>(rows < ROWS ? rows : ROWS);
        return (own - first_row() + STEP - 1) / STEP;
    }
    __device__ __forceinline__ Clearing(const fex_matrix_scores_args &args,
                                        int token, int expert)
        : to(args.weights + (token + first_row()) * args.weights_stride +
             expert + column()),
          step(STEP * args.weights_stride),
          part(args.num_tokens * args.weights_stride), left(0)
    {
        if (expert + column() < args.weights_stride)
            left = count_of(args.num_tokens - token);
    }
    __device__ __forceinline__ void go_on()
    {
#pragma unroll
        for (int i = 0; i < EACH; ++i, --left, to += step)
            if (left > 0)
#pragma unroll
                for (int j = 0; j < WEIGHT_PARTS; ++j)
                    *reinterpret_cast<uint4 *>(to + j * part) =
                        make_uint4(0, 0, 0, 0);
    }
};
