// SPDX-License-Identifier: Apache-2.0
// choices.cuh - reading a token's choice of experts, and the gate's function.
#pragma once

#include "arguments.h"

constexpr int EMPTY_SLOT = -1;

// The index of pair (token, k) as it was given.
template <int INDEX>
__device__ __forceinline__ auto load_index(const fex_choices &choices,
                                           fex_i64 token, int k)
{
    const fex_i64 position = token * choices.indices_stride + k;
    if constexpr (INDEX == FEX_KERNEL_I64)
        return __ldcs(static_cast<const fex_i64 *>(choices.indices) + position);
    else
        return __ldcs(static_cast<const int *>(choices.indices) + position);
}

// An index as an expert, or EMPTY_SLOT if it is out of range.
__device__ __forceinline__ int expert_at(const fex_choices &choices,
                                         fex_i64 expert)
{
    const bool valid = expert >= 0 && expert < choices.num_experts;
    return valid ? static_cast<int>(expert) : EMPTY_SLOT;
}

// The expert of pair (token, k), or EMPTY_SLOT.
template <int INDEX>
__device__ __forceinline__ int load_expert(const fex_choices &choices,
                                           fex_i64 token, int k)
{
    return expert_at(choices, load_index<INDEX>(choices, token, k));
}

__device__ __forceinline__ float sigmoid(float s)
{
    return 1.0f / (1.0f + expf(-s));
}

__device__ __forceinline__ float silu(float s)
{
    return s * sigmoid(s);
}

__device__ __forceinline__ float silu_derivative(float s)
{
    const float gate = sigmoid(s);
    return gate * (1.0f + s * (1.0f - gate));
}
