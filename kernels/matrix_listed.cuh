// SPDX-License-Identifier: Apache-2.0
// matrix_listed.cuh - the lists that matrix_lists.cu made, as a warp reads them
// that finishes its rows of a tile of scores: a group's list by some of the lanes.
#pragma once

#include "arguments.h"
#include "element.cuh"
#include "matrix_group.cuh"

// ---- Constants: from the prelude GROUP: tokens, AHEAD: choices of a tile that a
// lane has while it is multiplied

constexpr int LISTS = FEX_MATRIX_ROWS / GROUP; // of a warp's rows
constexpr int LANES = 32 / LISTS;              // that read a list

static_assert(LISTS * GROUP == FEX_MATRIX_ROWS);

// ---- Load

// What is listed of a tile: the lane's choices are every so many-th.
struct Listed {
    fex_choice *list;
    int begin, end; // the lane's first, and where those of all lanes end
    fex_choice ahead[AHEAD];

    // The lane's group's first row.
    __device__ __forceinline__ static int first_row()
    {
        return static_cast<int>(threadIdx.x) % 32 / LANES * GROUP;
    }
    // Of blocks of experts from `block` on, so many.
    __device__ __forceinline__ void
    load_starts(const fex_matrix_scores_args &args, int token, int block,
                int blocks)
    {
        const int own = token + first_row();
        const fex_i64 group = own / GROUP;
        const int *const starts =
            starts_of(args.starts, group, bins_of(args.num_experts)) + block;
        list = list_of(args.lists, group);
        begin = 0;
        end = 0;
        if (own < args.num_tokens) {
            begin = starts[0] + static_cast<int>(threadIdx.x) % LANES;
            end = starts[blocks];
        }
    }
    __device__ __forceinline__ void load_ahead()
    {
#pragma unroll
        for (int j = 0; j < AHEAD; ++j) {
            ahead[j].place = NO_PLACE;
            if (begin + j * LANES < end)
                ahead[j] = load_choice(list + begin + j * LANES);
        }
    }
};
