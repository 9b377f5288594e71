/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "traffic.h"

#include <stdlib.h>

#include "convert.h"

typedef struct choice_counts {
    int64_t pairs;   /* that are no empty slots */
    int64_t experts; /* distinct */
} choice_counts;

static choice_counts count_choices(const tool_shape *shape,
                                   const tool_tensors *inputs)
{
    const fex_op_desc *desc = &shape->desc;
    choice_counts counts = {0, 0};
    /* Without memory for it, every pair counts as an expert of its own. */
    unsigned char *seen = calloc((size_t)desc->num_experts, 1);

    for (int64_t i = 0; i < shape->tokens * desc->top_k; i++) {
        const int64_t index = fex_convert_index(
            desc->index_type, inputs->data[TENSOR_INDICES], i);
        if (index < 0 || index >= desc->num_experts)
            continue;
        counts.pairs++;
        if (seen == NULL) {
            counts.experts = counts.pairs;
        } else if (!seen[index]) {
            seen[index] = 1;
            counts.experts++;
        }
    }
    free(seen);
    return counts;
}

static double row_bytes(const tool_shape *shape)
{
    return (double)shape->desc.hidden_size *
           (double)tensor_element_bytes(shape, TENSOR_HIDDEN_STATES);
}

/* The inputs that `passes` read, chosen rows of the tables counted once. */
static double input_bytes(const tool_shape *shape, int64_t experts,
                          unsigned passes)
{
    double bytes = 2 * row_bytes(shape) * (double)experts;
    for (tensor_id id = 0; id < TENSOR_COUNT; id++)
        if (tensor_table[id].rows == 'T' && tensor_table[id].read_by & passes)
            bytes += (double)tensor_bytes(shape, id);
    return bytes;
}

double traffic_gathered_bytes(const tool_shape *shape,
                              const tool_tensors *inputs, fex_pass pass)
{
    const choice_counts counts = count_choices(shape, inputs);
    const int rows = pass == FEX_PASS_FORWARD ? 2 : 4;
    return rows * row_bytes(shape) * (double)counts.pairs;
}

double traffic_compulsory_bytes(const tool_shape *shape,
                                const tool_tensors *inputs, fex_pass pass)
{
    const choice_counts counts = count_choices(shape, inputs);
    double bytes = input_bytes(shape, counts.experts, pass);

    for (tensor_id id = 0; id < TENSOR_COUNT; id++)
        if (id != TENSOR_SCORES && tensor_table[id].written_by & (unsigned)pass)
            bytes += (double)tensor_bytes(shape, id);
    if (tensor_scores_are_used(shape))
        bytes += (double)tensor_bytes(shape, TENSOR_SCORES);
    return bytes;
}

double traffic_touched_bytes(const tool_shape *shape,
                             const tool_tensors *inputs)
{
    const choice_counts counts = count_choices(shape, inputs);
    return input_bytes(shape, counts.experts, (unsigned)shape->passes);
}
