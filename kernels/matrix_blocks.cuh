// SPDX-License-Identifier: Apache-2.0
// matrix_blocks.cuh - the blocks of experts by which choices are listed.
#pragma once

#include "arguments.h"
#include "element.cuh"

// Those of the last tile that are behind the last expert included.
__device__ __forceinline__ int blocks_of_experts(int experts)
{
    return ceil_div(experts, FEX_MATRIX_ACROSS) *
           (FEX_MATRIX_ACROSS / FEX_MATRIX_BLOCK);
}
