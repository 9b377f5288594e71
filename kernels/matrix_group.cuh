// SPDX-License-Identifier: Apache-2.0
// matrix_group.cuh - what matrix_lists.cu lists of a group of tokens: where it is,
// and what a choice's place is made of.
#pragma once

#include "arguments.h"
#include "element.cuh"

// ---- Places

__device__ __forceinline__ unsigned place_of_choice(unsigned row, int expert,
                                                    int slot)
{
    return row << 28 | static_cast<unsigned>(expert) % FEX_MATRIX_BLOCK << 16 |
           static_cast<unsigned>(slot);
}

__device__ __forceinline__ int row_of(const fex_choice &choice)
{
    return static_cast<int>(choice.place >> 28);
}

__device__ __forceinline__ int column_of(const fex_choice &choice)
{
    return static_cast<int>(choice.place >> 16 & (FEX_MATRIX_BLOCK - 1u));
}

__device__ __forceinline__ int slot_of(const fex_choice &choice)
{
    return static_cast<int>(choice.place & 0xffffu);
}

// ---- Lists

template <int TOP_K, typename Choice>
__device__ __forceinline__ Choice *list_of(Choice *lists, fex_i64 group)
{
    return lists + group * (FEX_MATRIX_GROUP * TOP_K);
}

// A bin is what a block of experts has of choices, or of repeats. Those of blocks
// of the last tile that are behind the last expert are included.
__device__ __forceinline__ int bins_of(int experts)
{
    return 2 * (ceil_div(experts, FEX_MATRIX_ACROSS) *
                (FEX_MATRIX_ACROSS / FEX_MATRIX_BLOCK));
}
