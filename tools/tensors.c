/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "tensors.h"

#include <stdlib.h>

#include "problem.h"

enum { FORWARD = FEX_PASS_FORWARD, BACKWARD = FEX_PASS_BACKWARD };
enum { BOTH = FEX_PASS_BOTH };

const tensor_row tensor_table[TENSOR_COUNT] = {
    [TENSOR_HIDDEN_STATES] = {"hidden_states", 'T', 'H', TYPE_DATA, BOTH, 0},
    [TENSOR_DOWN_WEIGHTS] = {"down_weights", 'E', 'H', TYPE_DATA, BOTH, 0},
    [TENSOR_UP_WEIGHTS] = {"up_weights", 'E', 'H', TYPE_DATA, BOTH, 0},
    [TENSOR_INDICES] = {"indices", 'T', 'K', TYPE_INDEX, BOTH, 0},
    [TENSOR_ROUTING_WEIGHTS] = {"routing_weights", 'T', 'K', TYPE_ROUTING, BOTH,
                                0},
    [TENSOR_GRAD_OUTPUT] = {"grad_output", 'T', 'H', TYPE_DATA, BACKWARD, 0},
    [TENSOR_EXPERT_STATES] = {"expert_states", 'T', 'H', TYPE_DATA, 0, FORWARD},
    [TENSOR_SCORES] = {"scores", 'T', 'K', TYPE_SCORE, 0, FORWARD},
    [TENSOR_GRAD_HIDDEN_STATES] = {"grad_hidden_states", 'T', 'H', TYPE_DATA, 0,
                                   BACKWARD},
    [TENSOR_GRAD_DOWN_WEIGHTS] = {"grad_down_weights", 'E', 'H',
                                  TYPE_WEIGHT_GRAD, 0, BACKWARD},
    [TENSOR_GRAD_UP_WEIGHTS] = {"grad_up_weights", 'E', 'H', TYPE_WEIGHT_GRAD,
                                0, BACKWARD},
    [TENSOR_GRAD_ROUTING_WEIGHTS] = {"grad_routing_weights", 'T', 'K',
                                     TYPE_ROUTING, 0, BACKWARD},
};

int64_t tensor_rows(const tool_shape *shape, tensor_id id)
{
    return tensor_table[id].rows == 'T' ? shape->tokens
                                        : shape->desc.num_experts;
}

int64_t tensor_columns(const tool_shape *shape, tensor_id id)
{
    return tensor_table[id].columns == 'H' ? shape->desc.hidden_size
                                           : shape->desc.top_k;
}

fex_dtype tensor_dtype(const tool_shape *shape, tensor_id id)
{
    const fex_op_desc *desc = &shape->desc;
    fex_dtype dtype = FEX_DTYPE_AUTO;

    switch (tensor_table[id].type) {
    case TYPE_INDEX:
        return FEX_DTYPE_AUTO;
    case TYPE_SCORE:
        return FEX_DTYPE_F32;
    case TYPE_ROUTING:
        dtype = desc->routing_dtype;
        break;
    case TYPE_WEIGHT_GRAD:
        dtype = desc->weight_grad_dtype;
        break;
    case TYPE_DATA:
        break;
    }
    return dtype == FEX_DTYPE_AUTO ? desc->dtype : dtype;
}

size_t tensor_element_bytes(const tool_shape *shape, tensor_id id)
{
    if (tensor_table[id].type == TYPE_INDEX)
        return fex_index_bytes(shape->desc.index_type);
    return fex_dtype_bytes(tensor_dtype(shape, id));
}

size_t tensor_bytes(const tool_shape *shape, tensor_id id)
{
    return (size_t)tensor_rows(shape, id) * (size_t)tensor_columns(shape, id) *
           tensor_element_bytes(shape, id);
}

void tensor_store_index(const tool_shape *shape, void *indices,
                        int64_t position, int64_t value)
{
    if (shape->desc.index_type == FEX_INDEX_I64)
        ((int64_t *)indices)[position] = value;
    else
        ((int32_t *)indices)[position] = (int32_t)value;
}

int tensor_is_input(const tool_shape *shape, tensor_id id)
{
    return (tensor_table[id].read_by & (unsigned)shape->passes) != 0;
}

int tensor_is_output(const tool_shape *shape, tensor_id id)
{
    return (tensor_table[id].written_by & (unsigned)shape->passes) != 0;
}

int tensor_scores_are_used(const tool_shape *shape)
{
    return shape->passes == FEX_PASS_BOTH;
}

static fex_status allocate(tool_tensors *tensors, const tool_shape *shape,
                           int (*wanted)(const tool_shape *, tensor_id))
{
    for (tensor_id id = 0; id < TENSOR_COUNT; id++) {
        const size_t bytes = tensor_bytes(shape, id);
        if (!wanted(shape, id) || tensors->data[id] != NULL)
            continue;
        tensors->data[id] = malloc(bytes > 0 ? bytes : 1);
        if (tensors->data[id] == NULL)
            return fex_fail(FEX_ERROR_OUT_OF_MEMORY,
                            "%s needs %zu bytes of host memory",
                            tensor_table[id].name, bytes);
    }
    return FEX_OK;
}

fex_status tensors_allocate_inputs(tool_tensors *tensors,
                                   const tool_shape *shape)
{
    return allocate(tensors, shape, tensor_is_input);
}

fex_status tensors_allocate_outputs(tool_tensors *tensors,
                                    const tool_shape *shape)
{
    return allocate(tensors, shape, tensor_is_output);
}

void tensors_free(tool_tensors *tensors)
{
    for (tensor_id id = 0; id < TENSOR_COUNT; id++)
        free(tensors->data[id]);
    *tensors = (tool_tensors){{NULL}};
}

fex_forward_args tensors_forward_args(const tool_tensors *tensors,
                                      const tool_shape *shape)
{
    return (fex_forward_args){
        .size = sizeof(fex_forward_args),
        .num_tokens = shape->tokens,
        .hidden_states = tensors->data[TENSOR_HIDDEN_STATES],
        .down_weights = tensors->data[TENSOR_DOWN_WEIGHTS],
        .up_weights = tensors->data[TENSOR_UP_WEIGHTS],
        .indices = tensors->data[TENSOR_INDICES],
        .routing_weights = tensors->data[TENSOR_ROUTING_WEIGHTS],
        .expert_states = tensors->data[TENSOR_EXPERT_STATES],
        .scores = tensors->data[TENSOR_SCORES],
    };
}

fex_backward_args tensors_backward_args(const tool_tensors *tensors,
                                        const tool_shape *shape)
{
    return (fex_backward_args){
        .size = sizeof(fex_backward_args),
        .num_tokens = shape->tokens,
        .grad_output = tensors->data[TENSOR_GRAD_OUTPUT],
        .hidden_states = tensors->data[TENSOR_HIDDEN_STATES],
        .down_weights = tensors->data[TENSOR_DOWN_WEIGHTS],
        .up_weights = tensors->data[TENSOR_UP_WEIGHTS],
        .indices = tensors->data[TENSOR_INDICES],
        .routing_weights = tensors->data[TENSOR_ROUTING_WEIGHTS],
        .scores = tensors->data[TENSOR_SCORES],
        .grad_hidden_states = tensors->data[TENSOR_GRAD_HIDDEN_STATES],
        .grad_down_weights = tensors->data[TENSOR_GRAD_DOWN_WEIGHTS],
        .grad_up_weights = tensors->data[TENSOR_GRAD_UP_WEIGHTS],
        .grad_routing_weights = tensors->data[TENSOR_GRAD_ROUTING_WEIGHTS],
    };
}
