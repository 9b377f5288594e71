/* SPDX-License-Identifier: Apache-2.0 */
/* tensors.h - the arrays of one evaluation: what there is, of which size.
 *
 * The table is the single source for the names in files and reports, for
 * sizes, and for what is an input and what a result. */
#ifndef TOOL_TENSORS_H
#define TOOL_TENSORS_H

#include "shape.h"

typedef enum tensor_id {
    TENSOR_HIDDEN_STATES,
    TENSOR_DOWN_WEIGHTS,
    TENSOR_UP_WEIGHTS,
    TENSOR_INDICES,
    TENSOR_ROUTING_WEIGHTS,
    TENSOR_GRAD_OUTPUT,
    TENSOR_EXPERT_STATES,
    TENSOR_SCORES,
    TENSOR_GRAD_HIDDEN_STATES,
    TENSOR_GRAD_DOWN_WEIGHTS,
    TENSOR_GRAD_UP_WEIGHTS,
    TENSOR_GRAD_ROUTING_WEIGHTS,
    TENSOR_COUNT
} tensor_id;

/* The type of a tensor's elements, as a role in the shape. */
typedef enum tensor_type {
    TYPE_DATA,
    TYPE_INDEX,
    TYPE_ROUTING,
    TYPE_WEIGHT_GRAD,
    TYPE_SCORE
} tensor_type;

typedef struct tensor_row {
    const char *name;
    char rows;    /* 'T' or 'E' */
    char columns; /* 'H' or 'K' */
    tensor_type type;
    unsigned read_by;    /* the passes that read it */
    unsigned written_by; /* the passes that write it; a backward pass may also
                          * read scores */
} tensor_row;

extern const tensor_row tensor_table[TENSOR_COUNT];

/* One pointer a tensor, all host or all device memory; NULL where the passes
 * of the shape have no use for it. */
typedef struct tool_tensors {
    void *data[TENSOR_COUNT];
} tool_tensors;

int64_t tensor_rows(const tool_shape *shape, tensor_id id);
int64_t tensor_columns(const tool_shape *shape, tensor_id id);
size_t tensor_element_bytes(const tool_shape *shape, tensor_id id);
size_t tensor_bytes(const tool_shape *shape, tensor_id id);

/* FEX_DTYPE_AUTO for indices. */
fex_dtype tensor_dtype(const tool_shape *shape, tensor_id id);

/* Index `position` of an array of the shape's index type. fex_convert_index
 * reads them. */
void tensor_store_index(const tool_shape *shape, void *indices,
                        int64_t position, int64_t value);

/* Whether the passes of the shape read it from outside, or write it. */
int tensor_is_input(const tool_shape *shape, tensor_id id);
int tensor_is_output(const tool_shape *shape, tensor_id id);

/* Whether the forward pass saves scores for a backward pass, as in training,
 * which one alone, as in inference, need not. */
int tensor_scores_are_used(const tool_shape *shape);

/* Allocates those inputs or outputs that are NULL, not initialised (one byte
 * where the size is 0). FEX_ERROR_OUT_OF_MEMORY; what was allocated stays. */
fex_status tensors_allocate_inputs(tool_tensors *tensors,
                                   const tool_shape *shape);
fex_status tensors_allocate_outputs(tool_tensors *tensors,
                                    const tool_shape *shape);
void tensors_free(tool_tensors *tensors);

/* The arguments of a call on these tensors: dense, no workspace. A backward
 * pass uses the scores of the forward pass if the shape has both. */
fex_forward_args tensors_forward_args(const tool_tensors *tensors,
                                      const tool_shape *shape);
fex_backward_args tensors_backward_args(const tool_tensors *tensors,
                                        const tool_shape *shape);

#endif
