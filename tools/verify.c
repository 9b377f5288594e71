/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "verify.h"

#include <math.h>
#include <stdlib.h>

#include "convert.h"
#include "parallel.h"
#include "subset.h"

/* ---- How far off a result may be ---------------------------------------- */

/* Rounded once, values are off by 0.42 of the largest rounding error in the
 * mean (bfloat16: 2^-8), and by all of it at worst; float32 has its sums on
 * top. The worst counts where a norm is made of few values. */
static const struct {
    double mean, worst;
} tolerances[] = {
    [FEX_DTYPE_F16] = {2.8e-4, 1.01 * 0x1p-11},
    [FEX_DTYPE_BF16] = {2.2e-3, 1.01 * 0x1p-8},
    [FEX_DTYPE_F32] = {1e-6, 1e-6},
};
static const double few_values = 100;

/* Sums in float32 of more than this many terms may be off by more. */
static const double long_sum = 4096;

static double tolerance_of(fex_dtype dtype, double values, int64_t longest_sum)
{
    const double excess = (double)longest_sum / long_sum;
    if (dtype == FEX_DTYPE_F32 && excess > 1)
        return tolerances[dtype].worst * sqrt(excess);
    return values < few_values ? tolerances[dtype].worst
                               : tolerances[dtype].mean;
}

/* ---- Comparing ---------------------------------------------------------- */

typedef struct distance {
    double error;  /* relative, in the Frobenius norm */
    double values; /* how many equal ones would make up the norm as these do */
} distance;

/* How far rows of `got` are from the rows that were evaluated. `row` has room
 * for one. */
static distance measure(const void *got, fex_dtype dtype, const float *want,
                        const int64_t *rows, int64_t count, int64_t columns,
                        double *row)
{
    double difference = 0;
    double squares = 0;
    double fourths = 0;

    for (int64_t r = 0; r < count; r++) {
        fex_convert_load(dtype, got, rows[r] * columns, columns, row);
        for (int64_t c = 0; c < columns; c++) {
            const double exact = want[r * columns + c];
            const double square = exact * exact;
            difference += (row[c] - exact) * (row[c] - exact);
            squares += square;
            fourths += square * square;
        }
    }
    if (difference == 0)
        return (distance){0, 0};
    /* NaN where a value is one */
    return (distance){sqrt(difference / squares), squares * squares / fourths};
}

/* Compares the outputs with a row a token ('T') or an expert ('E'). */
static fex_status compare(const tool_shape *shape, const tool_tensors *outputs,
                          const tool_subset *subset, char kind,
                          verify_result results[TENSOR_COUNT])
{
    const int64_t *rows = kind == 'T' ? subset->tokens : subset->experts;
    const int64_t widest = shape->desc.hidden_size + shape->desc.top_k;
    double *row = malloc((size_t)widest * sizeof *row);

    if (row == NULL)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory to verify with");
    for (tensor_id id = 0; id < TENSOR_COUNT; id++) {
        if (tensor_table[id].rows != kind || !tensor_is_output(shape, id))
            continue;
        const fex_dtype dtype = tensor_dtype(shape, id);
        const distance found =
            measure(outputs->data[id], dtype, subset->tensors.data[id], rows,
                    subset->row_count, tensor_columns(shape, id), row);
        const double tolerance =
            tolerance_of(dtype, found.values, subset->longest_sum);
        results[id] = (verify_result){.rows = subset->row_count,
                                      .rows_total = tensor_rows(shape, id),
                                      .error = found.error,
                                      .tolerance = tolerance,
                                      .passed = found.error <= tolerance};
    }
    free(row);
    return FEX_OK;
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
        status = compare(shape, outputs, &subset, 'T', results);
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
        status = compare(shape, outputs, &subset, 'E', results);
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
    /* This part runs in one thread only. */
    return check_experts(shape, inputs, outputs, budget / 8, seed, results);
}
