/* SPDX-License-Identifier: Apache-2.0 */
/* verify.h - results held against the oracle.
 *
 * Inputs are widened to float32 and evaluated by fex_reference_forward and
 * _backward, so that what is measured is the distance to the sums in double,
 * not to a rounding of them. Where that would take long, tensors with a row a
 * token are checked for an even random sample of tokens, and gradients of the
 * tables for a sample of experts that includes the busiest and an idle one. */
#ifndef TOOL_VERIFY_H
#define TOOL_VERIFY_H

#include "tensors.h"

typedef struct verify_result {
    int64_t rows; /* looked at; 0: not a result of this shape */
    int64_t rows_total;
    double error; /* relative, in the Frobenius norm */
    double tolerance;
    int passed;
} verify_result;

/* Multiply-adds of one dot product each way that either sample may cost. */
#define VERIFY_BUDGET (INT64_C(1) << 29)

/* Compares all outputs that the shape's passes write. Inputs and outputs are
 * host memory. budget as VERIFY_BUDGET. FEX_OK also where a result is wrong. */
fex_status verify_outputs(const tool_shape *shape, const tool_tensors *inputs,
                          const tool_tensors *outputs, int64_t budget,
                          uint64_t seed, verify_result results[TENSOR_COUNT]);

#endif
