// SPDX-License-Identifier: Apache-2.0
// matrix_group.cuh - what matrix_lists.cu lists of a group of tokens: where it is,
// and what a choice's place is made of.
#pragma once

#include "arguments.h"
#include "element.cuh"

// ---- Constants: from the prelude TOP_K, GROUP: tokens

// ---- Places

constexpr unsigned NO_PLACE = 0xffffffffu; // of no choice

__device__ __forceinline__ unsigned place_of_choice(unsigned row, bool repeat,
                                                    unsigned expert, int slot)
{
    return row << 28 | static_cast<unsigned>(repeat) << 27 |
           expert % FEX_MATRIX_ACROSS << 16 | static_cast<unsigned>(slot);
}

__device__ __forceinline__ int row_of(unsigned place)
{
    return static_cast<int>(place >> 28);
}

__device__ __forceinline__ bool is_repeat(unsigned place)
{
    return (place >> 27 & 1u) != 0;
}

// In FEX_MATRIX_ACROSS experts.
__device__ __forceinline__ int column_of(unsigned place)
{
    return static_cast<int>(place >> 16 & (FEX_MATRIX_ACROSS - 1u));
}

// Of those of FEX_MATRIX_ACROSS experts the block; of no choice none.
__device__ __forceinline__ int block_of(unsigned place)
{
    return static_cast<int>(place >> 16 & 0x7ffu) / FEX_MATRIX_BLOCK;
}

__device__ __forceinline__ int slot_of(unsigned place)
{
    return static_cast<int>(place & 0xffffu);
}

__device__ __forceinline__ fex_choice load_choice(const fex_choice *from)
{
    const uint2 words = *reinterpret_cast<const uint2 *>(from);
    return {words.x, __uint_as_float(words.y)};
}

__device__ __forceinline__ void store_choice(fex_choice *to, unsigned place,
                                             float weight)
{
    *reinterpret_cast<uint2 *>(to) = make_uint2(place, __float_as_uint(weight));
}

// ---- Lists

template <typename Choice>
__device__ __forceinline__ Choice *list_of(Choice *lists, fex_i64 group)
{
    constexpr int EACH = ceil_div(GROUP * TOP_K, 2) * 2; // whole 16 bytes
    return lists + group * EACH;
}

// Blocks of experts, and those of the last tile that are behind the last expert.
__device__ __forceinline__ int bins_of(int experts)
{
    return ceil_div(experts, FEX_MATRIX_ACROSS) *
           (FEX_MATRIX_ACROSS / FEX_MATRIX_BLOCK);
}

// Where a group's choices of each block begin, and where the last ones and then the
// repeats end.
template <typename Start>
__device__ __forceinline__ Start *starts_of(Start *starts, fex_i64 group,
                                            int bins)
{
    return starts + group * (bins + 2);
}
