/* SPDX-License-Identifier: Apache-2.0 */
/* problem.c - what a caller asks for, checked argument by argument. */
#include "config.h"

#include <inttypes.h>
#include <stdio.h>

#include "problem.h"

static const struct {
    const char *name;
    size_t bytes;
} dtypes[] = {[FEX_DTYPE_AUTO] = {"auto", 0},
              [FEX_DTYPE_F16] = {"f16", 2},
              [FEX_DTYPE_BF16] = {"bf16", 2},
              [FEX_DTYPE_F32] = {"f32", 4}};

size_t fex_dtype_bytes(fex_dtype dtype)
{
    return dtypes[dtype].bytes;
}

const char *fex_dtype_name(fex_dtype dtype)
{
    return dtypes[dtype].name;
}

size_t fex_index_bytes(fex_index_type type)
{
    return type == FEX_INDEX_I64 ? 8 : 4;
}

/* ---- The operation ------------------------------------------------------ */

static fex_status check_range(const char *name, int64_t value, int64_t first,
                              int64_t last)
{
    if (value < first || value > last)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "%s is %" PRId64 ", not in %" PRId64 " .. %" PRId64,
                        name, value, first, last);
    return FEX_OK;
}

/* A value of an enumeration, by its name where it has one. */
typedef struct value_text {
    char text[24];
} value_text;

static value_text name_dtype(int value)
{
    value_text named;
    if (value >= FEX_DTYPE_AUTO && value <= FEX_DTYPE_F32)
        snprintf(named.text, sizeof named.text, "%s", dtypes[value].name);
    else
        snprintf(named.text, sizeof named.text, "%d", value);
    return named;
}

static fex_status check_dtype(fex_dtype dtype)
{
    if ((int)dtype < FEX_DTYPE_F16 || (int)dtype > FEX_DTYPE_F32)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "dtype is %s, not f16, bf16 or f32",
                        name_dtype((int)dtype).text);
    return FEX_OK;
}

static fex_status check_index_type(fex_index_type type)
{
    if ((int)type < FEX_INDEX_AUTO || (int)type > FEX_INDEX_I64)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "index_type is %d, not auto, i32 or i64",
                        (int)type);
    return FEX_OK;
}

/* AUTO is the data type; else it must be that or F32. */
static fex_status resolve_dtype(const char *name, fex_dtype dtype,
                                fex_dtype given, fex_dtype *resolved)
{
    if (given != FEX_DTYPE_AUTO && given != dtype && given != FEX_DTYPE_F32)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "%s is %s, neither auto nor dtype, %s, nor f32", name,
                        name_dtype((int)given).text,
                        name_dtype((int)dtype).text);
    *resolved = given == FEX_DTYPE_AUTO ? dtype : given;
    return FEX_OK;
}

fex_status fex_problem_init(fex_problem *problem, const fex_op_desc *desc)
{
    if (desc == NULL)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT, "desc is NULL");
    return_if_error(fex_check_size(desc, desc->size, sizeof *desc, sizeof *desc,
                                   "fex_op_desc"));
    return_if_error(check_dtype(desc->dtype));
    return_if_error(check_index_type(desc->index_type));
    return_if_error(
        check_range("hidden_size", desc->hidden_size, 1, FEX_HIDDEN_SIZE_MAX));
    return_if_error(check_range("top_k", desc->top_k, 1, FEX_TOP_K_MAX));
    return_if_error(
        check_range("num_experts", desc->num_experts, 1, INT32_MAX));
    if ((desc->flags & ~FEX_OP_CHECK_INDICES) != 0)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "flags is %#x, with unknown bits", desc->flags);

    fex_problem made = {
        .dtype = desc->dtype,
        .index_type = desc->index_type == FEX_INDEX_AUTO ? FEX_INDEX_I32
                                                         : desc->index_type,
        .hidden_size = desc->hidden_size,
        .top_k = desc->top_k,
        .num_experts = desc->num_experts,
        .check_indices = (desc->flags & FEX_OP_CHECK_INDICES) != 0};
    return_if_error(resolve_dtype("routing_dtype", made.dtype,
                                  desc->routing_dtype, &made.routing_dtype));
    return_if_error(resolve_dtype("weight_grad_dtype", made.dtype,
                                  desc->weight_grad_dtype,
                                  &made.weight_grad_dtype));
    *problem = made;
    return FEX_OK;
}

fex_status fex_problem_check_tokens(const fex_problem *problem,
                                    int64_t num_tokens)
{
    if (num_tokens < 0 || num_tokens > FEX_PAIRS_MAX / problem->top_k)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "num_tokens is %" PRId64 ", not in 0 .. %" PRId64
                        " (num_tokens * top_k must not exceed 2^31 - 1)",
                        num_tokens, FEX_PAIRS_MAX / problem->top_k);
    return FEX_OK;
}

fex_status fex_problem_check_passes(fex_pass passes)
{
    if ((int)passes < FEX_PASS_FORWARD || (int)passes > FEX_PASS_BOTH)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "passes is %d, not a set of FEX_PASS_...", (int)passes);
    return FEX_OK;
}

fex_status fex_problem_fail_index(const fex_problem *problem, int64_t pair)
{
    return fex_fail(FEX_ERROR_INDEX,
                    "indices[%" PRId64 ", %" PRId64
                    "] is not below num_experts %" PRId64,
                    pair / problem->top_k, pair % problem->top_k,
                    problem->num_experts);
}

/* ---- Arrays ------------------------------------------------------------- */

/* One array of a call: what must hold of it. */
typedef struct array {
    const char *name;
    const void *pointer;
    int64_t *stride; /* 0 becomes dense */
    int64_t rows;
    int64_t columns;
    size_t element; /* bytes */
    int optional;
} array;

static fex_status check_array(const array *a)
{
    if (*a->stride != 0 && *a->stride < a->columns)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "%s_stride is %" PRId64 ", less than a row of %" PRId64,
                        a->name, *a->stride, a->columns);
    if (*a->stride == 0)
        *a->stride = a->columns;
    if (a->rows > 0 && *a->stride > INT64_MAX / 8 / a->rows)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "%s_stride is %" PRId64 ", too large for %" PRId64
                        " rows",
                        a->name, *a->stride, a->rows);
    if (a->pointer == NULL) {
        if (!a->optional)
            return fex_fail(FEX_ERROR_INVALID_ARGUMENT, "%s is NULL", a->name);
        return FEX_OK;
    }
    if ((uintptr_t)a->pointer % a->element != 0)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "%s %p is not aligned to its element of %zu bytes",
                        a->name, a->pointer, a->element);
    return FEX_OK;
}

static fex_status check_arrays(const array *arrays, size_t count)
{
    for (size_t i = 0; i < count; i++)
        return_if_error(check_array(&arrays[i]));
    return FEX_OK;
}

fex_status fex_problem_check_forward(const fex_problem *problem,
                                     const fex_forward_args *args,
                                     fex_forward_args *resolved)
{
    if (args == NULL)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT, "args is NULL");
    return_if_error(fex_check_size(args, args->size, sizeof *args, sizeof *args,
                                   "fex_forward_args"));
    return_if_error(fex_problem_check_tokens(problem, args->num_tokens));

    fex_forward_args r = *args;
    const size_t element = fex_dtype_bytes(problem->dtype);
    const size_t routing = fex_dtype_bytes(problem->routing_dtype);
    const size_t index = fex_index_bytes(problem->index_type);
    const int64_t T = r.num_tokens, H = problem->hidden_size,
                  K = problem->top_k, E = problem->num_experts;
    const int unused = T == 0;
    const array arrays[] = {
        {"hidden_states", r.hidden_states, &r.hidden_states_stride, T, H,
         element, unused},
        {"down_weights", r.down_weights, &r.down_weights_stride, E, H, element,
         unused},
        {"up_weights", r.up_weights, &r.up_weights_stride, E, H, element,
         unused},
        {"indices", r.indices, &r.indices_stride, T, K, index, unused},
        {"routing_weights", r.routing_weights, &r.routing_weights_stride, T, K,
         routing, unused},
        {"expert_states", r.expert_states, &r.expert_states_stride, T, H,
         element, unused},
        {"scores", r.scores, &r.scores_stride, T, K, sizeof(float), 1},
    };
    return_if_error(check_arrays(arrays, sizeof arrays / sizeof *arrays));
    *resolved = r;
    return FEX_OK;
}

fex_status fex_problem_check_backward(const fex_problem *problem,
                                      const fex_backward_args *args,
                                      fex_backward_args *resolved)
{
    if (args == NULL)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT, "args is NULL");
    return_if_error(fex_check_size(args, args->size, sizeof *args, sizeof *args,
                                   "fex_backward_args"));
    return_if_error(fex_problem_check_tokens(problem, args->num_tokens));
    const unsigned known =
        FEX_ACCUMULATE_HIDDEN_STATES | FEX_ACCUMULATE_DOWN_WEIGHTS |
        FEX_ACCUMULATE_UP_WEIGHTS | FEX_ACCUMULATE_ROUTING_WEIGHTS;
    if ((args->accumulate & ~known) != 0)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "accumulate is %#x, with unknown bits",
                        args->accumulate);

    fex_backward_args r = *args;
    const size_t element = fex_dtype_bytes(problem->dtype);
    const size_t routing = fex_dtype_bytes(problem->routing_dtype);
    const size_t gradient = fex_dtype_bytes(problem->weight_grad_dtype);
    const size_t index = fex_index_bytes(problem->index_type);
    const int64_t T = r.num_tokens, H = problem->hidden_size,
                  K = problem->top_k, E = problem->num_experts;
    const int unused = T == 0;
    const array arrays[] = {
        {"grad_output", r.grad_output, &r.grad_output_stride, T, H, element,
         unused},
        {"hidden_states", r.hidden_states, &r.hidden_states_stride, T, H,
         element, unused},
        {"down_weights", r.down_weights, &r.down_weights_stride, E, H, element,
         unused},
        {"up_weights", r.up_weights, &r.up_weights_stride, E, H, element,
         unused},
        {"indices", r.indices, &r.indices_stride, T, K, index, unused},
        {"routing_weights", r.routing_weights, &r.routing_weights_stride, T, K,
         routing, unused},
        {"scores", r.scores, &r.scores_stride, T, K, sizeof(float), 1},
        {"grad_hidden_states", r.grad_hidden_states,
         &r.grad_hidden_states_stride, T, H, element, 1},
        {"grad_down_weights", r.grad_down_weights, &r.grad_down_weights_stride,
         E, H, gradient, 1},
        {"grad_up_weights", r.grad_up_weights, &r.grad_up_weights_stride, E, H,
         gradient, 1},
        {"grad_routing_weights", r.grad_routing_weights,
         &r.grad_routing_weights_stride, T, K, routing, 1},
    };
    return_if_error(check_arrays(arrays, sizeof arrays / sizeof *arrays));
    *resolved = r;
    return FEX_OK;
}
