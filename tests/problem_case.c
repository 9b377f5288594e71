/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "problem_case.h"
#include "suite.h"

fex_problem test_problem(fex_dtype dtype, int64_t hidden_size, int64_t top_k,
                         int64_t num_experts)
{
    fex_problem problem;
    const fex_op_desc desc = {.size = sizeof desc,
                              .dtype = dtype,
                              .hidden_size = hidden_size,
                              .top_k = top_k,
                              .num_experts = num_experts};
    test_ok(fex_problem_init(&problem, &desc));
    return problem;
}
