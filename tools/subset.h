/* SPDX-License-Identifier: Apache-2.0 */
/* subset.h - a part of an evaluation as a small evaluation of its own, widened
 * to float32, so that the oracle need not do all of a large one. */
#ifndef TOOL_SUBSET_H
#define TOOL_SUBSET_H

#include "tensors.h"

typedef struct tool_subset {
    tool_shape shape;     /* float32, int32 */
    tool_tensors tensors; /* inputs copied; those outputs allocated that the
                           * subset gets in full */
    int64_t *tokens;      /* which row of the whole each of its rows is */
    int64_t *experts;
    int64_t row_count;   /* of tokens, or of experts: what was sampled */
    int64_t longest_sum; /* terms of the longest sum over pairs */
} tool_subset;

/* Some tokens, spread evenly and at random, with all experts they chose; all
 * tokens, if pairs * H stays within budget. At least one, if there are any. */
fex_status subset_of_tokens(const tool_shape *shape, const tool_tensors *inputs,
                            int64_t budget, uint64_t seed, tool_subset *subset);

/* Some experts with all pairs that chose them: the busiest, one that is idle,
 * and others at random. */
fex_status subset_of_experts(const tool_shape *shape,
                             const tool_tensors *inputs, int64_t budget,
                             uint64_t seed, tool_subset *subset);

void subset_free(tool_subset *subset);

#endif
