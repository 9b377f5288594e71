/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "verify.h"

#include <math.h>

#include "element.h"
#include "parallel.h"
#include "subset.h"

/* ---- How far off a result may be ---------------------------------------- */

/* One rounding to the type: the mean relative error of rounding is 0.58 of the
 * largest, which is 2^-9, 2^-12 and 2^-24; float32 has its sums on top. */
static const double tolerances[] = {
    [FEX_DTYPE_F16] = 2.8e-4,
    [FEX_DTYPE_BF16] = 2.2e-3,
    [FEX_DTYPE_F32] = 1e-6,
};

/* Sums in float32 of more than this many terms may be off by more. */
static const double long_sum = 4096;

static double tolerance_of(const tool_shape *shape, tensor_id id,
                           int64_t longest_sum)
{
    const fex_dtype dtype = tensor_dtype(shape, id);
    const double excess = (double)longest_sum / long_sum;
    return tolerances[dtype] *
           (dtype == FEX_DTYPE_F32 && excess > 1 ? sqrt(excess) : 1);
}

/* ---- Comparing ---------------------------------------------------------- */

/* The relative distance of rows of `got` to the rows that were evaluated. */
static double distance(const void *got, fex_dtype dtype, const float *want,
                       const int64_t *rows, int64_t count, int64_t columns)
{
    double difference = 0;
    double norm = 0;

    for (int64_t r = 0; r < count; r++)
        for (int64_t c = 0; c < columns; c++) {
            const double value =
                element_load(got, dtype, rows[r] * columns + c);
            const double exact = want[r * columns + c];
            difference += (value - exact) * (value - exact);
            norm += exact * exact;
        }
    if (difference == 0)
        return 0;
    return sqrt(difference / norm); /* NaN where a value is one */
}

/* Compares the outputs with a row a token ('T') or an expert ('E'). */
static void compare(const tool_shape *shape, const tool_tensors *outputs,
                    const tool_subset *subset, char kind,
                    verify_result results[TENSOR_COUNT])
{
    const int64_t *rows = kind == 'T' ? subset->tokens : subset->experts;

    for (tensor_id id = 0; id < TENSOR_COUNT; id++) {
        if (tensor_table[id].rows != kind || !tensor_is_output(shape, id))
            continue;
        verify_result *result = &results[id];
        const int64_t count = subset->row_count;
        result->rows = count;
        result->rows_total = tensor_rows(shape, id);
        result->error = distance(outputs->data[id], tensor_dtype(shape, id),
                                 subset->tensors.data[id], rows, count,
                                 tensor_columns(shape, id));
        result->tolerance = tolerance_of(shape, id, subset->longest_sum);
        result->passed = result->error <= result->tolerance;
    }
}

/* ---- The oracle on a subset --------------------------------------------- */

typedef struct oracle {
    const tool_subset *subset;
    fex_pass passes;
    _Atomic int status; /* of the last call that failed */
} oracle;

static const void *from_row(const void *array, int64_t row, int64_t columns)
{
    return (const float *)array + row * columns;
}

static float *into_row(void *array, int64_t row, int64_t columns)
{
    return array != NULL ? (float *)array + row * columns : NULL;
}

/* A range of tokens; each has its own rows of everything but the tables. */
static void evaluate_tokens(void *user, int64_t begin, int64_t end)
{
    oracle *o = user;
    const tool_shape *shape = &o->subset->shape;
    const int64_t h = shape->desc.hidden_size;
    const int64_t k = shape->desc.top_k;
    fex_status status = FEX_OK;

    if (o->passes & FEX_PASS_FORWARD) {
        fex_forward_args args =
            tensors_forward_args(&o->subset->tensors, shape);
        args.num_tokens = end - begin;
        args.hidden_states = from_row(args.hidden_states, begin, h);
        args.indices = (const int32_t *)args.indices + begin * k;
        args.routing_weights = from_row(args.routing_weights, begin, k);
        args.expert_states = into_row(args.expert_states, begin, h);
        args.scores = into_row(args.scores, begin, k);
        status = fex_reference_forward(&shape->desc, &args);
    }
    if (status == FEX_OK && (o->passes & FEX_PASS_BACKWARD)) {
        fex_backward_args args =
            tensors_backward_args(&o->subset->tensors, shape);
        args.num_tokens = end - begin;
        args.scores = NULL;
        args.grad_output = from_row(args.grad_output, begin, h);
        args.hidden_states = from_row(args.hidden_states, begin, h);
        args.indices = (const int32_t *)args.indices + begin * k;
        args.routing_weights = from_row(args.routing_weights, begin, k);
        args.grad_hidden_states = into_row(args.grad_hidden_states, begin, h);
        args.grad_routing_weights =
            into_row(args.grad_routing_weights, begin, k);
        status = fex_reference_backward(&shape->desc, &args);
    }
    if (status != FEX_OK)
        o->status = (int)status;
}

static fex_status check_tokens(const tool_shape *shape,
                               const tool_tensors *inputs,
                               const tool_tensors *outputs, int64_t budget,
                               uint64_t seed,
                               verify_result results[TENSOR_COUNT])
{
    tool_subset subset = {0};
    oracle o = {.subset = &subset, .passes = shape->passes};
    fex_status status = subset_of_tokens(shape, inputs, budget, seed, &subset);

    if (status == FEX_OK) {
        parallel_for(subset.shape.tokens, 1, evaluate_tokens, &o);
        status = (fex_status)o.status;
        if (status != FEX_OK)
            status = fex_fail(status, "the oracle failed: %s",
                              fex_status_string(status));
    }
    if (status == FEX_OK)
        compare(shape, outputs, &subset, 'T', results);
    subset_free(&subset);
    return status;
}

static fex_status check_experts(const tool_shape *shape,
                                const tool_tensors *inputs,
                                const tool_tensors *outputs, int64_t budget,
                                uint64_t seed,
                                verify_result results[TENSOR_COUNT])
{
    tool_subset subset = {0};
    fex_status status = subset_of_experts(shape, inputs, budget, seed, &subset);

    if (status == FEX_OK) {
        fex_backward_args args =
            tensors_backward_args(&subset.tensors, &subset.shape);
        args.scores = NULL;
        status = fex_reference_backward(&subset.shape.desc, &args);
    }
    if (status == FEX_OK)
        compare(shape, outputs, &subset, 'E', results);
    subset_free(&subset);
    return status;
}

fex_status verify_outputs(const tool_shape *shape, const tool_tensors *inputs,
                          const tool_tensors *outputs, int64_t budget,
                          uint64_t seed, verify_result results[TENSOR_COUNT])
{
    for (tensor_id id = 0; id < TENSOR_COUNT; id++)
        results[id] = (verify_result){.passed = 1};
    return_if_error(
        check_tokens(shape, inputs, outputs, budget, seed, results));
    if (!(shape->passes & FEX_PASS_BACKWARD))
        return FEX_OK;
    return check_experts(shape, inputs, outputs, budget / 2, seed, results);
}
