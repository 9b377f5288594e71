// SPDX-License-Identifier: Apache-2.0
// matrix_weight.cuh - an element of P, what a token's choices of an expert weigh,
// as f16 holds it.
#pragma once

#include "arguments.h"
#include "routes.cuh"

// ---- Constants: from the prelude DTYPE, TOP_K

// Weights are multiplied by this, that f16 may hold them: the largest of a token
// from 2^-19 to 2^7; of many, which lose more together, from 2^-17. There must be
// room for the sum of many that are of the same expert.
constexpr float WEIGHT_SCALE = 512.0f;
constexpr float LARGEST_MIN = // of a token, scaled
    TOP_K > 512 ? 0x1p-8f : 0x1p-10f;
// Where more bits than 11 count, a weight has a second part: what rounding left.
constexpr int WEIGHT_PARTS = DTYPE == FEX_KERNEL_BF16 ? 1 : 2;
// Brings sums of weights times U back.
constexpr float UNSCALE =
    1 / WEIGHT_SCALE / (DTYPE == FEX_KERNEL_BF16 ? ROW_SCALE : 1.0f);
constexpr unsigned NO_NUMBER = 0x7fffffffu;
