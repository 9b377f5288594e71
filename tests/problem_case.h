/* SPDX-License-Identifier: Apache-2.0 */
/* problem_case.h - problems for tests of what is decided by their sizes. */
#ifndef TEST_PROBLEM_CASE_H
#define TEST_PROBLEM_CASE_H

#include "problem.h"

/* One of these sizes, all else as it is by default. */
fex_problem test_problem(fex_dtype dtype, int64_t hidden_size, int64_t top_k,
                         int64_t num_experts);

#endif
