// SPDX-License-Identifier: Apache-2.0
// matrix_plain.cuh - states that f16 is no good for: how they are known, and
// computed anew without matrices. What is too large for f16 makes sums that are no
// numbers, and so does matrix_states.cu where U is too small; of tokens whose P is
// too small it is known.
#pragma once

#include "arguments.h"
#include "choices.cuh"
#include "element.cuh"
#include "matrix_group.cuh"
#include "routes.cuh"
#include "warp.cuh"
#include "words.cuh"

// ---- Constants: from the prelude DTYPE, INDEX_TYPE, HIDDEN_SIZE, TOP_K, GROUP

constexpr int WIDTH = 8;   // columns of a vector
constexpr int VECTORS = 2; // computed anew together

using Half = unsigned short;

// ---- Judge

// Whether a state is no number, or too large for one.
__device__ __forceinline__ bool is_unfit(const Vector<WIDTH * 2> &states)
{
    constexpr unsigned INFINITE = DTYPE == FEX_KERNEL_BF16 ? 0x7f80 : 0x7c00;
    unsigned largest = 0;
#pragma unroll
    for (const unsigned word : states.words)
        largest = max_magnitudes<DTYPE>(largest, word);
    return larger_magnitude(largest) >= INFINITE;
}

// ---- Compute

// In the place of a weight; a number that is none, as no sum or product makes.
constexpr unsigned REPEAT = 0xffffffffu;

// By slot; all lanes of a warp, for the same token. Other warps and blocks may put the
// same numbers there meanwhile. Lanes meet before they read what others have put.
__device__ __forceinline__ const float *
order_weights(const fex_matrix_plain &args, fex_i64 token)
{
    const fex_i64 group = token / GROUP;
    const int bins = bins_of(static_cast<int>(args.choices.num_experts));
    const fex_choice *const list = list_of(args.lists, group);
    const int count = starts_of(args.starts, group, bins)[bins + 1];
    float *const weights = args.weights + token * TOP_K;
    for (int i = threadIdx.x % 32; i < count; i += 32) {
        const fex_choice choice = load_choice(list + i);
        if (row_of(choice.place) == static_cast<int>(token % GROUP))
            weights[slot_of(choice.place)] = is_repeat(choice.place)
                                                 ? __uint_as_float(REPEAT)
                                                 : choice.weight;
    }
    __syncwarp();
    return weights;
}

// The same, of vectors from `column` on: lane 4 i + v gets the state of vector v's
// column i, and so does lane 4 i + v + 2.
__device__ __forceinline__ float state_plainly(const fex_matrix_plain &args,
                                               fex_i64 token, int column)
{
    const int lane = threadIdx.x % 32;
    const float *const weights = order_weights(args, token);
    float sums[VECTORS][WIDTH] = {};
    for (int k = lane; k < TOP_K; k += 32) {
        const int expert = load_expert<INDEX_TYPE>(args.choices, token, k);
        if (expert == EMPTY_SLOT || __float_as_uint(weights[k]) == REPEAT)
            continue;
        const Half *const up = static_cast<const Half *>(args.up_weights) +
                               expert * args.up_weights_stride + column;
#pragma unroll
        for (int v = 0; v < VECTORS; ++v) {
            Vector<WIDTH * sizeof(Half)> own = {};
            if (column + v * WIDTH < HIDDEN_SIZE)
                own = load_vector<WIDTH * sizeof(Half)>(up + v * WIDTH,
                                                        l2_keep());
#pragma unroll
            for (int j = 0; j < WIDTH; ++j)
                sums[v][j] = fmaf(weights[k], widen<DTYPE>(own, j), sums[v][j]);
        }
    }
#pragma unroll
    for (float(&own)[WIDTH] : sums)
        reduce_scatter<WIDTH, 32>(own, lane);
    static_assert(VECTORS == 2);
    return lane % 2 == 0 ? sums[0][0] : sums[1][0];
}
