// SPDX-License-Identifier: Apache-2.0
// matrix_weight.cuh - an element of P, what a token's choices of an expert weigh,
// as f16 holds it.
#pragma once

#include "arguments.h"
#include "routes.cuh"

// ---- Constants: from the prelude DTYPE

// Weights are multiplied by this, that f16 may hold them: the largest of a token
// from 2^-19 to 2^7.
constexpr float WEIGHT_SCALE = 512.0f;
constexpr float LARGEST_MIN = 0x1p-10f; // of a token, when scaled
// As what is left of a weight in f16, they have a second part where more bits
// than 11 count.
constexpr int WEIGHT_PARTS = DTYPE == FEX_KERNEL_BF16 ? 1 : 2;
// Brings sums of weights times U back.
constexpr float UNSCALE =
    1 / WEIGHT_SCALE / (DTYPE == FEX_KERNEL_BF16 ? ROW_SCALE : 1.0f);
constexpr unsigned NO_NUMBER = 0x7fffffffu;
