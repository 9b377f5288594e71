/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "tensor_file.h"

#include <stdio.h>
#include <string.h>

#include "problem.h"

/* The format's names of types; index types and data types do not mix. */
static const struct {
    const char *name;
    fex_dtype dtype;
    fex_index_type index_type;
} types[] = {
    {"F16", FEX_DTYPE_F16, FEX_INDEX_AUTO},
    {"BF16", FEX_DTYPE_BF16, FEX_INDEX_AUTO},
    {"F32", FEX_DTYPE_F32, FEX_INDEX_AUTO},
    {"I32", FEX_DTYPE_AUTO, FEX_INDEX_I32},
    {"I64", FEX_DTYPE_AUTO, FEX_INDEX_I64},
};

enum { TYPE_COUNT = sizeof types / sizeof types[0] };

/* ---- Reading ------------------------------------------------------------ */

static fex_status find_array(const char *path, const safetensors_file *file,
                             tensor_id id, const safetensors_array **array)
{
    const char *name = tensor_table[id].name;

    *array = safetensors_find(file, name);
    if (*array == NULL)
        return fex_fail(FEX_ERROR_CORRUPT, "%s: there is no '%s'", path, name);
    if ((*array)->rank != 2)
        return fex_fail(FEX_ERROR_CORRUPT, "%s: '%s' has %zu dimensions, not 2",
                        path, name, (*array)->rank);
    return FEX_OK;
}

/* The type of an array, which must be one of data, or one of indices. */
static fex_status find_type(const char *path, const safetensors_array *array,
                            fex_dtype *dtype, fex_index_type *index_type)
{
    for (size_t i = 0; i < TYPE_COUNT; i++)
        if (strcmp(types[i].name, array->dtype) == 0) {
            if (dtype != NULL && types[i].dtype != FEX_DTYPE_AUTO) {
                *dtype = types[i].dtype;
                return FEX_OK;
            }
            if (index_type != NULL && types[i].index_type != FEX_INDEX_AUTO) {
                *index_type = types[i].index_type;
                return FEX_OK;
            }
        }
    return fex_fail(FEX_ERROR_CORRUPT, "%s: '%s' is %s, not %s", path,
                    array->name, array->dtype,
                    dtype != NULL ? "F16, BF16 or F32" : "I32 or I64");
}

/* An array has the type and the size that the shape gives it. */
static fex_status check_array(const char *path, const safetensors_array *array,
                              const tool_shape *shape, tensor_id id)
{
    const int64_t rows = tensor_rows(shape, id);
    const int64_t columns = tensor_columns(shape, id);
    fex_dtype dtype = FEX_DTYPE_AUTO;
    fex_index_type index_type = FEX_INDEX_AUTO;
    const int indices = tensor_table[id].type == TYPE_INDEX;

    return_if_error(find_type(path, array, indices ? NULL : &dtype,
                              indices ? &index_type : NULL));
    if (array->shape[0] != rows || array->shape[1] != columns)
        return fex_fail(FEX_ERROR_CORRUPT,
                        "%s: '%s' is %lld x %lld where the other arrays need "
                        "%lld x %lld",
                        path, array->name, (long long)array->shape[0],
                        (long long)array->shape[1], (long long)rows,
                        (long long)columns);
    if (dtype != tensor_dtype(shape, id))
        return fex_fail(FEX_ERROR_CORRUPT,
                        "%s: '%s' is %s, but hidden_states "
                        "is %s",
                        path, array->name, array->dtype,
                        fex_dtype_name(shape->desc.dtype));
    return FEX_OK;
}

/* Sizes and types come from three arrays; the others have to agree. */
static fex_status read_shape(const char *path, const safetensors_file *file,
                             tool_shape *shape)
{
    const safetensors_array *hidden, *down, *indices, *routing;
    fex_op_desc *desc = &shape->desc;

    return_if_error(find_array(path, file, TENSOR_HIDDEN_STATES, &hidden));
    return_if_error(find_array(path, file, TENSOR_DOWN_WEIGHTS, &down));
    return_if_error(find_array(path, file, TENSOR_INDICES, &indices));
    return_if_error(find_array(path, file, TENSOR_ROUTING_WEIGHTS, &routing));
    *shape = (tool_shape){.desc = {.size = sizeof(fex_op_desc),
                                   .hidden_size = hidden->shape[1],
                                   .top_k = indices->shape[1],
                                   .num_experts = down->shape[0]},
                          .tokens = hidden->shape[0],
                          .passes = FEX_PASS_FORWARD};
    if (safetensors_find(file, tensor_table[TENSOR_GRAD_OUTPUT].name) != NULL)
        shape->passes = FEX_PASS_BOTH;
    return_if_error(find_type(path, hidden, &desc->dtype, NULL));
    return_if_error(find_type(path, indices, NULL, &desc->index_type));
    return_if_error(find_type(path, routing, &desc->routing_dtype, NULL));
    if (desc->routing_dtype == desc->dtype)
        desc->routing_dtype = FEX_DTYPE_AUTO;
    return FEX_OK;
}

fex_status tensor_file_shape(const char *path, const safetensors_file *file,
                             tool_shape *shape)
{
    char sentence[256];
    fex_problem problem;

    return_if_error(read_shape(path, file, shape));
    fex_status status = fex_problem_init(&problem, &shape->desc);
    if (status == FEX_OK)
        status = fex_problem_check_tokens(&problem, shape->tokens);
    if (status != FEX_OK) {
        snprintf(sentence, sizeof sentence, "%s", fex_last_error());
        return fex_fail(FEX_ERROR_CORRUPT, "%s: %s", path, sentence);
    }
    for (tensor_id id = 0; id < TENSOR_COUNT; id++) {
        const safetensors_array *array;
        if (!tensor_is_input(shape, id))
            continue;
        return_if_error(find_array(path, file, id, &array));
        return_if_error(check_array(path, array, shape, id));
    }
    return FEX_OK;
}

fex_status tensor_file_load(const char *path, const safetensors_file *file,
                            const tool_shape *shape, tool_tensors *inputs)
{
    return_if_error(tensors_allocate_inputs(inputs, shape));
    for (tensor_id id = 0; id < TENSOR_COUNT; id++) {
        const safetensors_array *array;
        if (!tensor_is_input(shape, id))
            continue;
        return_if_error(find_array(path, file, id, &array));
        return_if_error(check_array(path, array, shape, id));
        memcpy(inputs->data[id], array->data, array->bytes);
    }
    return FEX_OK;
}

/* ---- Writing ------------------------------------------------------------ */

static const char *type_name(fex_dtype dtype)
{
    size_t i = 0;
    while (types[i].dtype != dtype)
        i++;
    return types[i].name;
}

fex_status tensor_file_save(const char *path, const tool_shape *shape,
                            const tool_tensors *outputs)
{
    safetensors_array arrays[TENSOR_COUNT];
    size_t count = 0;

    for (tensor_id id = 0; id < TENSOR_COUNT; id++)
        if (tensor_is_output(shape, id))
            arrays[count++] = (safetensors_array){
                .name = tensor_table[id].name,
                .dtype = type_name(tensor_dtype(shape, id)),
                .rank = 2,
                .shape = {tensor_rows(shape, id), tensor_columns(shape, id)},
                .data = outputs->data[id],
                .bytes = tensor_bytes(shape, id)};
    return safetensors_write(path, arrays, count);
}
