/* SPDX-License-Identifier: Apache-2.0 */
/* problem.h - a caller's fex_op_desc, validated, its defaults resolved. */
#ifndef FEX_PROBLEM_H
#define FEX_PROBLEM_H

#include "status.h"

typedef struct fex_problem {
    fex_dtype dtype;
    fex_dtype routing_dtype;
    fex_dtype weight_grad_dtype;
    fex_index_type index_type;
    int64_t hidden_size;
    int64_t top_k;
    int64_t num_experts;
    int check_indices;
} fex_problem;

#define FEX_HIDDEN_SIZE_MAX (INT64_C(1) << 20)
#define FEX_PAIRS_MAX INT64_C(0x7fffffff) /* num_tokens * top_k in one call */

fex_status fex_problem_init(fex_problem *problem, const fex_op_desc *desc);

/* 0 <= num_tokens and num_tokens * top_k <= FEX_PAIRS_MAX, else
 * FEX_ERROR_INVALID_ARGUMENT. */
fex_status fex_problem_check_tokens(const fex_problem *problem,
                                    int64_t num_tokens);

/* FEX_ERROR_INVALID_ARGUMENT for what is not a set of FEX_PASS_... */
fex_status fex_problem_check_passes(fex_pass passes);

/* FEX_ERROR_INDEX, naming pair t * top_k + k as the offender. */
fex_status fex_problem_fail_index(const fex_problem *problem, int64_t pair);

size_t fex_dtype_bytes(fex_dtype dtype);
size_t fex_index_bytes(fex_index_type type);
const char *fex_dtype_name(fex_dtype dtype); /* "bf16" */

/* The forward and backward arguments that a launch and the oracle check alike:
 * struct size, tokens, NULL and misaligned pointers, strides. *resolved is a
 * copy with every 0 stride made dense. */
fex_status fex_problem_check_forward(const fex_problem *problem,
                                     const fex_forward_args *args,
                                     fex_forward_args *resolved);
fex_status fex_problem_check_backward(const fex_problem *problem,
                                      const fex_backward_args *args,
                                      fex_backward_args *resolved);

#endif
