/* SPDX-License-Identifier: Apache-2.0 */
/* data.h - inputs made up: the same for the same seed on every machine. */
#ifndef TOOL_DATA_H
#define TOOL_DATA_H

#include "tensors.h"

/* How tokens choose experts, in the order of DATA_DISTRIBUTIONS. */
typedef enum data_distribution {
    DATA_UNIFORM, /* every expert as likely as any other */
    DATA_ZIPF,    /* the n-th most popular with probability ~ 1/n */
    DATA_SAME     /* every token chooses the same experts */
} data_distribution;
#define DATA_DISTRIBUTIONS "uniform|zipf|same"

/* Allocates and fills the inputs of a shape. Values are normal and scaled as
 * in a trained model, so that scores and outputs neither vanish nor saturate:
 * x and dy with deviation 1, table rows with 1/sqrt(H), routing weights even
 * in (0, 2)/sqrt(K). FEX_ERROR_OUT_OF_MEMORY; what was allocated stays. */
fex_status data_generate(const tool_shape *shape,
                         data_distribution distribution, uint64_t seed,
                         tool_tensors *tensors);

/* Writes `from` to `to` with every valid index moved on by `turn` strides
 * around the table: another choice with the same pattern. */
void data_shift_indices(const tool_shape *shape, const void *from, void *to,
                        int64_t turn);

/* 64 random bits for each position of each seed. */
uint64_t data_random(uint64_t seed, uint64_t position);

#endif
