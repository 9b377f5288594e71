/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "device_case.h"

#include <check.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert.h"
#include "problem.h"

const char *device_case_words(const device_case *c)
{
    static _Thread_local char words[256];
    const case_spec *const s = &c->spec;
    snprintf(words, sizeof words,
             "%s H=%" PRId64 " K=%" PRId64 " E=%" PRId64 " T=%" PRId64
             " %s%s padding=%" PRId64 "+%" PRId64
             " misalignment=%zu without=%#x "
             "accumulate=%#x scores=%d flags=%#x seed=%" PRIu64,
             fex_dtype_name(s->dtype), s->hidden_size, s->top_k,
             s->num_experts, s->num_tokens,
             test_distribution_name(s->distribution), s->empty ? "+empty" : "",
             s->row_padding, s->choice_padding, s->misalignment, s->without, s->accumulate,
             (int)s->scores, s->flags, s->seed);
    return words;
}

static void need(const device_case *c, fex_status status)
{
    ck_assert_msg(status == FEX_OK, "%s: %s", device_case_words(c),
                  fex_last_error());
}

/* ---- Arrays -------------------------------------------------------------- */

/* The FEX_ACCUMULATE_... of a gradient, 0 for any other array. */
static unsigned gradient_bit(int which)
{
    return which >= CASE_GRAD_HIDDEN_STATES
               ? 1u << (which - CASE_GRAD_HIDDEN_STATES)
               : 0;
}

int device_case_is_output(const device_case *c, int which, fex_pass passes)
{
    if (c->arrays[which].element == 0)
        return 0;
    if (which == CASE_SCORES)
        return (passes & FEX_PASS_FORWARD) != 0 && !c->spec.no_scores_output;
    if (which == CASE_EXPERT_STATES)
        return (passes & FEX_PASS_FORWARD) != 0;
    return (passes & FEX_PASS_BACKWARD) != 0 && gradient_bit(which) != 0;
}

size_t case_array_bytes(const case_array *a)
{
    return a->rows == 0 ? 0
                        : (size_t)((a->rows - 1) * a->stride + a->columns) *
                              a->element;
}

/* Names, types and shapes of all arrays. */
static void describe_arrays(device_case *c)
{
    const case_spec *const s = &c->spec;
    const fex_dtype dtype = s->dtype;
    const fex_dtype routing =
        s->routing_dtype != FEX_DTYPE_AUTO ? s->routing_dtype : dtype;
    const fex_dtype gradient =
        s->weight_grad_dtype != FEX_DTYPE_AUTO ? s->weight_grad_dtype : dtype;
    const int64_t T = s->num_tokens, H = s->hidden_size, K = s->top_k,
                  E = s->num_experts;
    const struct {
        const char *name;
        fex_dtype dtype;
        int64_t rows, columns;
    } shapes[CASE_ARRAYS] = {
        [CASE_HIDDEN_STATES] = {"hidden_states", dtype, T, H},
        [CASE_DOWN_WEIGHTS] = {"down_weights", dtype, E, H},
        [CASE_UP_WEIGHTS] = {"up_weights", dtype, E, H},
        [CASE_ROUTING_WEIGHTS] = {"routing_weights", routing, T, K},
        [CASE_GRAD_OUTPUT] = {"grad_output", dtype, T, H},
        [CASE_INDICES] = {"indices", FEX_DTYPE_AUTO, T, K},
        [CASE_SCORES] = {"scores", FEX_DTYPE_F32, T, K},
        [CASE_EXPERT_STATES] = {"expert_states", dtype, T, H},
        [CASE_GRAD_HIDDEN_STATES] = {"grad_hidden_states", dtype, T, H},
        [CASE_GRAD_DOWN_WEIGHTS] = {"grad_down_weights", gradient, E, H},
        [CASE_GRAD_UP_WEIGHTS] = {"grad_up_weights", gradient, E, H},
        [CASE_GRAD_ROUTING_WEIGHTS] = {"grad_routing_weights", routing, T, K}};
    for (int i = 0; i < CASE_ARRAYS; i++) {
        case_array *const a = &c->arrays[i];
        a->name = shapes[i].name;
        a->dtype = shapes[i].dtype;
        a->rows = shapes[i].rows;
        a->columns = shapes[i].columns;
        a->stride = a->columns + s->row_padding;
        if (i == CASE_INDICES || i == CASE_ROUTING_WEIGHTS)
            a->stride += s->choice_padding;
        if ((gradient_bit(i) & s->without) == 0)
            a->element = i == CASE_INDICES ? fex_index_bytes(s->index_type)
                                           : fex_dtype_bytes(a->dtype);
    }
}

/* So that scores, gates and products with dy are all near 1. Means other than
 * 0 keep sums from cancelling: what is left of one that cancels says little
 * about how it was taken. */
static void fill_row(const case_spec *spec, int which, int64_t count,
                     double *values, test_random *random)
{
    const double row = 1 / sqrt((double)spec->hidden_size);
    const double choices = 1 / sqrt((double)spec->top_k);
    switch (which) {
    case CASE_HIDDEN_STATES:
    case CASE_GRAD_OUTPUT:
        test_random_row(random, 1, 0.5, count, values);
        break;
    case CASE_DOWN_WEIGHTS:
    case CASE_UP_WEIGHTS:
        test_random_row(random, 0, row, count, values);
        break;
    case CASE_ROUTING_WEIGHTS:
        test_random_row(random, choices, choices, count, values);
        break;
    default:
        test_random_row(random, 0, 1, count, values);
        break;
    }
}

static void fill_indices(const case_spec *spec, case_array *a,
                         test_random *random)
{
    for (int64_t row = 0; row < a->rows; row++)
        for (int64_t column = 0; column < a->columns; column++) {
            const int64_t at = row * a->stride + column;
            const int64_t index = test_random_index(
                random, spec->distribution, spec->num_experts, spec->empty);
            if (spec->index_type == FEX_INDEX_I64)
                ((int64_t *)(void *)a->initial)[at] = index;
            else
                ((int32_t *)(void *)a->initial)[at] = (int32_t)index;
        }
}

/* Random numbers, rounded to the array's type, and exactly those as float. */
static void fill_numbers(const case_spec *spec, int which, case_array *a,
                         test_random *random)
{
    double *const values =
        test_allocate((size_t)a->columns * sizeof *values);
    for (int64_t row = 0; row < a->rows; row++) {
        const int64_t at = row * a->stride;
        fill_row(spec, which, a->columns, values, random);
        fex_convert_store(a->dtype, a->initial, at, a->columns, values);
        fex_convert_load(a->dtype, a->initial, at, a->columns, values);
        fex_convert_store(FEX_DTYPE_F32, a->exact, row * a->columns,
                          a->columns, values);
    }
    free(values);
}

static void make_array(device_case *c, int which)
{
    const case_spec *const s = &c->spec;
    case_array *const a = &c->arrays[which];
    test_random random = {s->seed * CASE_ARRAYS + (uint64_t)which};
    const size_t bytes = case_array_bytes(a);
    const int empty_output = which >= CASE_EXPERT_STATES &&
                             (gradient_bit(which) & s->accumulate) == 0;
    if (a->element == 0)
        return;
    a->exact = test_allocate((size_t)(a->rows * a->columns) * sizeof *a->exact);
    a->initial = test_allocate(bytes);
    a->result = test_allocate(bytes);
    memset(a->initial, TEST_POISON, bytes);
    if (which == CASE_INDICES)
        fill_indices(s, a, &random);
    else if (!empty_output &&
             (which != CASE_SCORES || s->scores == CASE_SCORES_OTHER))
        fill_numbers(s, which, a, &random);
}

static void place_array(device_case *c, case_array *a)
{
    if (a->element == 0)
        return;
    test_buffer_create(c->device, case_array_bytes(a),
                       c->spec.misalignment * a->element, &a->buffer);
    test_buffer_upload(c->device, &a->buffer, a->initial);
}

/* ---- Arguments ----------------------------------------------------------- */

/* The arguments for the device, or, with `host`, for the reference: then
 * everything but the indices is dense and float. */
typedef struct argument {
    void *pointer;
    int64_t stride;
} argument;

static argument argument_of(const device_case *c, int which, int host)
{
    const case_array *const a = &c->arrays[which];
    if (a->element == 0)
        return (argument){NULL, 0};
    if (!host)
        return (argument){a->buffer.pointer, a->stride};
    if (which == CASE_INDICES)
        return (argument){a->initial, a->stride};
    return (argument){a->exact, a->columns};
}

#define SET(args, member, which)                                               \
    ((args)->member = argument_of(c, which, host).pointer,                     \
     (args)->member##_stride = argument_of(c, which, host).stride)

static fex_forward_args forward_args(const device_case *c, int host)
{
    fex_forward_args args = {.size = sizeof args,
                             .num_tokens = c->spec.num_tokens,
                             .workspace = c->workspace.pointer,
                             .workspace_size = c->workspace.bytes};
    SET(&args, hidden_states, CASE_HIDDEN_STATES);
    SET(&args, down_weights, CASE_DOWN_WEIGHTS);
    SET(&args, up_weights, CASE_UP_WEIGHTS);
    SET(&args, indices, CASE_INDICES);
    SET(&args, routing_weights, CASE_ROUTING_WEIGHTS);
    SET(&args, expert_states, CASE_EXPERT_STATES);
    if (!c->spec.no_scores_output)
        SET(&args, scores, CASE_SCORES);
    return args;
}

static fex_backward_args backward_args(const device_case *c, int host)
{
    fex_backward_args args = {.size = sizeof args,
                              .num_tokens = c->spec.num_tokens,
                              .accumulate = c->spec.accumulate,
                              .workspace = c->workspace.pointer,
                              .workspace_size = c->workspace.bytes};
    SET(&args, grad_output, CASE_GRAD_OUTPUT);
    SET(&args, hidden_states, CASE_HIDDEN_STATES);
    SET(&args, down_weights, CASE_DOWN_WEIGHTS);
    SET(&args, up_weights, CASE_UP_WEIGHTS);
    SET(&args, indices, CASE_INDICES);
    SET(&args, routing_weights, CASE_ROUTING_WEIGHTS);
    SET(&args, grad_hidden_states, CASE_GRAD_HIDDEN_STATES);
    SET(&args, grad_down_weights, CASE_GRAD_DOWN_WEIGHTS);
    SET(&args, grad_up_weights, CASE_GRAD_UP_WEIGHTS);
    SET(&args, grad_routing_weights, CASE_GRAD_ROUTING_WEIGHTS);
    /* Saved scores are the device's; the truth does without. */
    if (c->spec.scores == CASE_SCORES_OTHER ||
        (c->spec.scores == CASE_SCORES_SAVED && !host))
        SET(&args, scores, CASE_SCORES);
    return args;
}

/* ---- A case -------------------------------------------------------------- */

fex_op_desc device_case_desc(const case_spec *spec)
{
    return (fex_op_desc){.size = sizeof(fex_op_desc),
                         .dtype = spec->dtype,
                         .routing_dtype = spec->routing_dtype,
                         .weight_grad_dtype = spec->weight_grad_dtype,
                         .index_type = spec->index_type,
                         .hidden_size = spec->hidden_size,
                         .top_k = spec->top_k,
                         .num_experts = spec->num_experts,
                         .flags = spec->flags};
}

void device_case_make(const case_spec *spec, device_case *made)
{
    *made = (device_case){.spec = *spec, .desc = device_case_desc(spec)};
    describe_arrays(made);
    for (int i = 0; i < CASE_ARRAYS; i++)
        make_array(made, i);
}

void device_case_place(device_case *c, const test_device *device)
{
    size_t bytes;
    c->device = device;
    need(c, fex_op_create(device->context, &c->desc, &c->op));
    for (int i = 0; i < CASE_ARRAYS; i++)
        place_array(c, &c->arrays[i]);
    need(c, fex_op_workspace_size(c->op, FEX_PASS_BOTH, c->spec.num_tokens,
                                  &bytes));
    test_buffer_create(device, bytes, 0, &c->workspace);
    c->forward = forward_args(c, 0);
    c->backward = backward_args(c, 0);
}

void device_case_create(const test_device *device, const case_spec *spec,
                        device_case *made)
{
    device_case_make(spec, made);
    device_case_place(made, device);
}

void device_case_forget(device_case *c)
{
    for (int i = CASE_ARRAYS - 1; i >= 0; i--) {
        free(c->arrays[i].result);
        free(c->arrays[i].initial);
        free(c->arrays[i].exact);
    }
}

void device_case_remove(device_case *c)
{
    test_buffer_destroy(c->device, &c->workspace);
    for (int i = CASE_ARRAYS - 1; i >= 0; i--)
        if (c->arrays[i].element != 0)
            test_buffer_destroy(c->device, &c->arrays[i].buffer);
    fex_op_destroy(c->op);
}

void device_case_destroy(device_case *c)
{
    device_case_remove(c);
    device_case_forget(c);
}

fex_status device_case_reference(device_case *c, fex_pass passes)
{
    fex_op_desc desc = c->desc;
    desc.dtype = FEX_DTYPE_F32;
    desc.routing_dtype = desc.weight_grad_dtype = FEX_DTYPE_AUTO;
    desc.flags = 0;
    if ((passes & FEX_PASS_FORWARD) != 0) {
        const fex_forward_args args = forward_args(c, 1);
        return_if_error(fex_reference_forward(&desc, &args));
    }
    if ((passes & FEX_PASS_BACKWARD) != 0) {
        const fex_backward_args args = backward_args(c, 1);
        return_if_error(fex_reference_backward(&desc, &args));
    }
    return FEX_OK;
}

void device_case_reset(device_case *c, fex_pass passes)
{
    for (int i = 0; i < CASE_ARRAYS; i++)
        if (device_case_is_output(c, i, passes))
            test_buffer_upload(c->device, &c->arrays[i].buffer,
                               c->arrays[i].initial);
}

fex_status device_case_launch(device_case *c, fex_pass pass, CUstream stream)
{
    return pass == FEX_PASS_FORWARD
               ? fex_forward(c->op, &c->forward, stream)
               : fex_backward(c->op, &c->backward, stream);
}

void device_case_run(device_case *c, fex_pass passes)
{
    if ((passes & FEX_PASS_FORWARD) != 0)
        need(c, device_case_launch(c, FEX_PASS_FORWARD, NULL));
    if ((passes & FEX_PASS_BACKWARD) != 0)
        need(c, device_case_launch(c, FEX_PASS_BACKWARD, NULL));
    TEST_DRIVER(c->device, cuCtxSynchronize());
}
