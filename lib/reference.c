/* SPDX-License-Identifier: Apache-2.0 */
/* reference.c - the operation on the CPU: the formulas of the public header,
 * with every sum in double and each result rounded once. */
#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert.h"
#include "problem.h"

/* ---- Rows of doubles ---------------------------------------------------- */

/* Scratch rows are padded with zeros to whole lanes, so that the loops below
 * have a constant inner length and become vector code. */
enum { LANES = 8 };

static int64_t padded(int64_t columns)
{
    return (columns + LANES - 1) / LANES * LANES;
}

static double dot(const double *a, const double *b, int64_t width)
{
    double sums[LANES] = {0};
    for (int64_t i = 0; i < width; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            sums[lane] += a[i + lane] * b[i + lane];
    double sum = 0;
    for (int lane = 0; lane < LANES; lane++)
        sum += sums[lane];
    return sum;
}

/* sum += factor * row */
static void add_scaled(double *sum, double factor, const double *row,
                       int64_t width)
{
    for (int64_t i = 0; i < width; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            sum[i + lane] += factor * row[i + lane];
}

/* ---- Elements ----------------------------------------------------------- */

static double sigmoid(double s)
{
    return 1 / (1 + exp(-s));
}

static double silu(double s)
{
    return s * sigmoid(s);
}

static double silu_derivative(double s)
{
    return sigmoid(s) * (1 + s * (1 - sigmoid(s)));
}

static double load_element(fex_dtype dtype, const void *array, int64_t position)
{
    double value;
    fex_convert_load(dtype, array, position, 1, &value);
    return value;
}

/* The expert of pair (t, k), or -1 if the slot is empty. */
static int64_t expert_at(const fex_problem *problem, const void *indices,
                         int64_t position)
{
    const int64_t expert =
        fex_convert_index(problem->index_type, indices, position);
    return expert >= 0 && expert < problem->num_experts ? expert : -1;
}

/* In checked mode, names the first index out of range. */
static fex_status check_indices(const fex_problem *problem, int64_t num_tokens,
                                const void *indices, int64_t stride)
{
    if (!problem->check_indices)
        return FEX_OK;
    for (int64_t t = 0; t < num_tokens; t++)
        for (int64_t k = 0; k < problem->top_k; k++)
            if (fex_convert_index(problem->index_type, indices,
                                  t * stride + k) >= problem->num_experts)
                return fex_problem_fail_index(problem,
                                              t * problem->top_k + k);
    return FEX_OK;
}

static fex_status out_of_memory(void)
{
    return fex_fail(FEX_ERROR_OUT_OF_MEMORY,
                    "no memory for the reference's intermediate results");
}

/* ---- Forward ------------------------------------------------------------ */

/* rows: scratch for three padded rows. */
static void forward_token(const fex_problem *problem,
                          const fex_forward_args *args, int64_t t, double *rows)
{
    const int64_t H = problem->hidden_size, K = problem->top_k;
    const int64_t width = padded(H);
    double *const x = rows, *const row = rows + width, *const y = row + width;

    fex_convert_load(problem->dtype, args->hidden_states,
                     t * args->hidden_states_stride, H, x);
    memset(y, 0, (size_t)width * sizeof *y);
    for (int64_t k = 0; k < K; k++) {
        const int64_t expert = expert_at(problem, args->indices,
                                         t * args->indices_stride + k);
        double score = 0;
        if (expert >= 0) {
            fex_convert_load(problem->dtype, args->down_weights,
                             expert * args->down_weights_stride, H, row);
            score = dot(x, row, width);
            fex_convert_load(problem->dtype, args->up_weights,
                             expert * args->up_weights_stride, H, row);
            const double routing =
                load_element(problem->routing_dtype, args->routing_weights,
                             t * args->routing_weights_stride + k);
            add_scaled(y, routing * silu(score), row, width);
        }
        if (args->scores != NULL)
            args->scores[t * args->scores_stride + k] = (float)score;
    }
    fex_convert_store(problem->dtype, args->expert_states,
                      t * args->expert_states_stride, H, y);
}

fex_status fex_reference_forward(const fex_op_desc *desc,
                                 const fex_forward_args *args)
{
    fex_problem problem;
    fex_forward_args resolved;
    return_if_error(fex_problem_init(&problem, desc));
    return_if_error(fex_problem_check_forward(&problem, args, &resolved));
    return_if_error(check_indices(&problem, resolved.num_tokens,
                                  resolved.indices, resolved.indices_stride));

    double *const rows =
        calloc(3 * (size_t)padded(problem.hidden_size), sizeof *rows);
    if (rows == NULL)
        return out_of_memory();
    for (int64_t t = 0; t < resolved.num_tokens; t++)
        forward_token(&problem, &resolved, t, rows);
    free(rows);
    return FEX_OK;
}

/* ---- Backward, by token ------------------------------------------------- */

/* A backward pass under way. The coefficients, one a pair, carry what the
 * weight gradients need from the walk over tokens to the walk over experts. */
typedef struct backward {
    fex_problem problem;
    fex_backward_args args;
    int64_t width;  /* of a padded row */
    double *rows;   /* scratch, four rows */
    double *down;   /* ds: coefficient of x in dD; NULL without weight grads */
    double *up;     /* g silu(s): coefficient of dy in dU */
    int32_t *pairs; /* of nonempty slots, sorted by expert, then by pair */
    uint32_t *ends; /* ends[e]: where expert e's pairs end; they begin where
                     * those of the expert before end */
} backward;

/* Everything pair (t, k) contributes but to the weight gradients: dg is
 * returned, and its share of dx is added. */
static double backward_pair(const backward *b, int64_t t, int64_t k,
                            const double *x, const double *dy, double *row,
                            double *dx)
{
    const fex_problem *const problem = &b->problem;
    const fex_backward_args *const args = &b->args;
    const int64_t H = problem->hidden_size, width = b->width;
    const int64_t expert =
        expert_at(problem, args->indices, t * args->indices_stride + k);
    if (expert < 0)
        return 0;

    fex_convert_load(problem->dtype, args->up_weights,
                     expert * args->up_weights_stride, H, row);
    const double product = dot(dy, row, width);
    fex_convert_load(problem->dtype, args->down_weights,
                     expert * args->down_weights_stride, H, row);
    const double score =
        args->scores != NULL
            ? (double)args->scores[t * args->scores_stride + k]
            : dot(x, row, width);
    const double routing =
        load_element(problem->routing_dtype, args->routing_weights,
                     t * args->routing_weights_stride + k);
    const double grad_score = product * routing * silu_derivative(score);

    add_scaled(dx, grad_score, row, width);
    if (b->down != NULL) {
        b->down[t * problem->top_k + k] = grad_score;
        b->up[t * problem->top_k + k] = routing * silu(score);
    }
    return product * silu(score);
}

static void backward_token(const backward *b, int64_t t)
{
    const fex_problem *const problem = &b->problem;
    const fex_backward_args *const args = &b->args;
    const int64_t H = problem->hidden_size, width = b->width;
    double *const x = b->rows, *const dy = x + width, *const row = dy + width,
                  *const dx = row + width;

    fex_convert_load(problem->dtype, args->hidden_states,
                     t * args->hidden_states_stride, H, x);
    fex_convert_load(problem->dtype, args->grad_output,
                     t * args->grad_output_stride, H, dy);
    memset(dx, 0, (size_t)width * sizeof *dx);
    if (args->grad_hidden_states != NULL &&
        (args->accumulate & FEX_ACCUMULATE_HIDDEN_STATES) != 0)
        fex_convert_load(problem->dtype, args->grad_hidden_states,
                         t * args->grad_hidden_states_stride, H, dx);

    for (int64_t k = 0; k < problem->top_k; k++) {
        double dg = backward_pair(b, t, k, x, dy, row, dx);
        if (args->grad_routing_weights == NULL)
            continue;
        const int64_t at = t * args->grad_routing_weights_stride + k;
        if ((args->accumulate & FEX_ACCUMULATE_ROUTING_WEIGHTS) != 0)
            dg += load_element(problem->routing_dtype,
                               args->grad_routing_weights, at);
        fex_convert_store(problem->routing_dtype, args->grad_routing_weights,
                          at, 1, &dg);
    }
    if (args->grad_hidden_states != NULL)
        fex_convert_store(problem->dtype, args->grad_hidden_states,
                          t * args->grad_hidden_states_stride, H, dx);
}

/* ---- Backward, by expert ------------------------------------------------ */

static int wants_weight_gradients(const fex_backward_args *args)
{
    return args->grad_down_weights != NULL || args->grad_up_weights != NULL;
}

/* A stable counting sort: afterwards ends[e] is what it is declared as. */
static void sort_pairs(backward *b)
{
    const fex_problem *const problem = &b->problem;
    const int64_t K = problem->top_k, E = problem->num_experts;
    uint32_t *const counts = b->ends;

    for (int64_t t = 0; t < b->args.num_tokens; t++)
        for (int64_t k = 0; k < K; k++) {
            const int64_t expert = expert_at(problem, b->args.indices,
                                             t * b->args.indices_stride + k);
            if (expert >= 0)
                counts[expert]++;
        }
    uint32_t begin = 0;
    for (int64_t e = 0; e < E; e++) {
        const uint32_t count = counts[e];
        counts[e] = begin;
        begin += count;
    }
    for (int64_t t = 0; t < b->args.num_tokens; t++)
        for (int64_t k = 0; k < K; k++) {
            const int64_t expert = expert_at(problem, b->args.indices,
                                             t * b->args.indices_stride + k);
            if (expert >= 0)
                b->pairs[b->ends[expert]++] = (int32_t)(t * K + k);
        }
}

/* One of the two weight gradients: gradient[e] is the sum over the pairs of e
 * of a coefficient times a token's row. */
typedef struct weight_gradient {
    void *gradient; /* NULL: not wanted */
    int64_t stride;
    int accumulate;
    const double *coefficients;
    const void *rows;
    int64_t rows_stride;
} weight_gradient;

static void weight_gradient_row(const backward *b, const weight_gradient *w,
                                int64_t expert)
{
    const fex_problem *const problem = &b->problem;
    const int64_t H = problem->hidden_size;
    const fex_dtype dtype = problem->weight_grad_dtype;
    const uint32_t begin = expert > 0 ? b->ends[expert - 1] : 0;
    const uint32_t end = b->ends[expert];
    double *const row = b->rows, *const sum = row + b->width;

    if (begin == end) { /* zero is all zero bits in every type */
        if (!w->accumulate)
            memset((char *)w->gradient + (size_t)(expert * w->stride) *
                                             fex_dtype_bytes(dtype),
                   0, (size_t)H * fex_dtype_bytes(dtype));
        return;
    }
    memset(sum, 0, (size_t)b->width * sizeof *sum);
    if (w->accumulate)
        fex_convert_load(dtype, w->gradient, expert * w->stride, H, sum);
    for (uint32_t i = begin; i < end; i++) {
        const int64_t pair = b->pairs[i];
        fex_convert_load(problem->dtype, w->rows,
                         pair / problem->top_k * w->rows_stride, H, row);
        add_scaled(sum, w->coefficients[pair], row, b->width);
    }
    fex_convert_store(dtype, w->gradient, expert * w->stride, H, sum);
}

static void weight_gradients(backward *b)
{
    const fex_backward_args *const args = &b->args;
    const weight_gradient gradients[] = {
        {args->grad_down_weights, args->grad_down_weights_stride,
         (args->accumulate & FEX_ACCUMULATE_DOWN_WEIGHTS) != 0, b->down,
         args->hidden_states, args->hidden_states_stride},
        {args->grad_up_weights, args->grad_up_weights_stride,
         (args->accumulate & FEX_ACCUMULATE_UP_WEIGHTS) != 0, b->up,
         args->grad_output, args->grad_output_stride},
    };
    sort_pairs(b);
    for (size_t i = 0; i < sizeof gradients / sizeof *gradients; i++)
        if (gradients[i].gradient != NULL)
            for (int64_t e = 0; e < b->problem.num_experts; e++)
                weight_gradient_row(b, &gradients[i], e);
}

/* ---- Backward ----------------------------------------------------------- */

static void backward_free(backward *b)
{
    free(b->rows);
    free(b->down);
    free(b->up);
    free(b->pairs);
    free(b->ends);
}

/* What was allocated before a failure is for backward_free. */
static fex_status backward_allocate(backward *b)
{
    b->rows = calloc(4 * (size_t)b->width, sizeof *b->rows);
    if (b->rows == NULL)
        return out_of_memory();
    if (!wants_weight_gradients(&b->args))
        return FEX_OK;
    /* One more than needed: calloc may return NULL for nothing. */
    const size_t pairs =
        (size_t)(b->args.num_tokens * b->problem.top_k) + 1;
    b->down = calloc(pairs, sizeof *b->down);
    b->up = calloc(pairs, sizeof *b->up);
    b->pairs = calloc(pairs, sizeof *b->pairs);
    b->ends = calloc((size_t)b->problem.num_experts, sizeof *b->ends);
    if (b->down == NULL || b->up == NULL || b->pairs == NULL ||
        b->ends == NULL)
        return out_of_memory();
    return FEX_OK;
}

fex_status fex_reference_backward(const fex_op_desc *desc,
                                  const fex_backward_args *args)
{
    backward b = {0};
    return_if_error(fex_problem_init(&b.problem, desc));
    return_if_error(fex_problem_check_backward(&b.problem, args, &b.args));
    return_if_error(check_indices(&b.problem, b.args.num_tokens,
                                  b.args.indices, b.args.indices_stride));
    b.width = padded(b.problem.hidden_size);

    const fex_status status = backward_allocate(&b);
    if (status == FEX_OK) {
        for (int64_t t = 0; t < b.args.num_tokens; t++)
            backward_token(&b, t);
        if (wants_weight_gradients(&b.args))
            weight_gradients(&b);
    }
    backward_free(&b);
    return status;
}
