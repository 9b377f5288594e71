/* SPDX-License-Identifier: Apache-2.0 */
/* test_reference.c - the oracle, held against numbers worked out by hand, the
 * formulas written down once more without any care for speed, and finite
 * differences. */
#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert.h"
#include "device_case.h"
#include "suite.h"

/* ---- By hand ------------------------------------------------------------- */

/* One token, two experts of two columns, the first chosen: s = 1. */
static const float x[2] = {1, 2}, down[4] = {0.5f, 0.25f, 9, 9},
                   up[4] = {3, -1, 9, 9}, routing[1] = {2}, dy[2] = {1, 1};
static const int32_t first_expert[1] = {0};
static const fex_op_desc tiny = {.size = sizeof tiny,
                                 .dtype = FEX_DTYPE_F32,
                                 .hidden_size = 2,
                                 .top_k = 1,
                                 .num_experts = 2};
#define SILU_OF_1 0.73105857863000487925  /* 1 / (1 + 1 / e) */
#define SLOPE_AT_1 0.92767051187148672640 /* silu'(1) */

static void near(float value, double expected)
{
    ck_assert_msg(fabs((double)value - expected) <= 1e-6 * fabs(expected),
                  "%.9g instead of %.9g", (double)value, expected);
}

START_TEST(forward_by_hand)
{
    float y[2], scores[1];
    const fex_forward_args args = {.size = sizeof args,
                                   .num_tokens = 1,
                                   .hidden_states = x,
                                   .down_weights = down,
                                   .up_weights = up,
                                   .indices = first_expert,
                                   .routing_weights = routing,
                                   .expert_states = y,
                                   .scores = scores};
    test_ok(fex_reference_forward(&tiny, &args));
    near(scores[0], 1);
    near(y[0], 2 * SILU_OF_1 * 3);
    near(y[1], 2 * SILU_OF_1 * -1);
}
END_TEST

START_TEST(backward_by_hand)
{
    float dx[2], dg[1], dD[4], dU[4];
    const fex_backward_args args = {.size = sizeof args,
                                    .num_tokens = 1,
                                    .grad_output = dy,
                                    .hidden_states = x,
                                    .down_weights = down,
                                    .up_weights = up,
                                    .indices = first_expert,
                                    .routing_weights = routing,
                                    .grad_hidden_states = dx,
                                    .grad_down_weights = dD,
                                    .grad_up_weights = dU,
                                    .grad_routing_weights = dg};
    const double p = 2, ds = p * 2 * SLOPE_AT_1;
    test_ok(fex_reference_backward(&tiny, &args));
    near(dg[0], p * SILU_OF_1);
    near(dx[0], ds * 0.5);
    near(dx[1], ds * 0.25);
    near(dD[0], ds * 1);
    near(dD[1], ds * 2);
    near(dU[0], 2 * SILU_OF_1);
    near(dU[1], 2 * SILU_OF_1);
    for (int i = 2; i < 4; i++) /* the expert nobody chose */
        ck_assert(dD[i] == 0 && dU[i] == 0);
}
END_TEST

/* ---- By the formulas ----------------------------------------------------- */

/* Every array of a case as double, dense. */
typedef struct formulas {
    const device_case *c;
    double *values[CASE_ARRAYS];
} formulas;

static int64_t index_of(const device_case *c, int64_t t, int64_t k)
{
    const case_array *const a = &c->arrays[CASE_INDICES];
    const int64_t index = fex_convert_index(c->spec.index_type, a->initial,
                                            t * a->stride + k);
    return index < 0 || index >= c->spec.num_experts ? -1 : index;
}

/* Inputs, and outputs that are added to, as they are; other outputs 0. */
static void formulas_create(const device_case *c, formulas *f)
{
    f->c = c;
    for (int i = 0; i < CASE_ARRAYS; i++) {
        const case_array *const a = &c->arrays[i];
        const unsigned bit = i >= CASE_GRAD_HIDDEN_STATES
                                 ? 1u << (i - CASE_GRAD_HIDDEN_STATES)
                                 : 0;
        const int output =
            i == CASE_EXPERT_STATES ||
            (i == CASE_SCORES && c->spec.scores != CASE_SCORES_OTHER) ||
            (bit != 0 && (c->spec.accumulate & bit) == 0);
        const int64_t count = a->rows * a->columns;
        f->values[i] = test_allocate((size_t)count * sizeof(double));
        for (int64_t j = 0; j < count; j++)
            f->values[i][j] = 0;
        if (!output && i != CASE_INDICES && a->element != 0)
            fex_convert_load(FEX_DTYPE_F32, a->exact, 0, count, f->values[i]);
    }
}

static void formulas_destroy(formulas *f)
{
    for (int i = 0; i < CASE_ARRAYS; i++)
        free(f->values[i]);
}

static double silu(double s)
{
    return s / (1 + exp(-s));
}

static double silu_slope(double s)
{
    const double e = exp(-s);
    return (1 + e + s * e) / ((1 + e) * (1 + e));
}

/* AT(array, row, column) */
#define AT(which, row, column)                                                 \
    f->values[CASE_##which][(row) * f->c->arrays[CASE_##which].columns +       \
                            (column)]

static double score_of(formulas *f, int64_t t, int64_t e)
{
    double s = 0;
    for (int64_t h = 0; h < f->c->spec.hidden_size; h++)
        s += AT(HIDDEN_STATES, t, h) * AT(DOWN_WEIGHTS, e, h);
    return s;
}

static void formulas_forward_pair(formulas *f, int64_t t, int64_t k, int64_t e)
{
    const double s = AT(SCORES, t, k) = score_of(f, t, e);
    for (int64_t h = 0; h < f->c->spec.hidden_size; h++)
        AT(EXPERT_STATES, t, h) +=
            AT(ROUTING_WEIGHTS, t, k) * silu(s) * AT(UP_WEIGHTS, e, h);
}

static void formulas_backward_pair(formulas *f, int64_t t, int64_t k,
                                   int64_t e)
{
    const double s = f->c->spec.scores == CASE_SCORES_OTHER ? AT(SCORES, t, k)
                                                            : score_of(f, t, e);
    const double g = AT(ROUTING_WEIGHTS, t, k);
    double p = 0;
    for (int64_t h = 0; h < f->c->spec.hidden_size; h++)
        p += AT(GRAD_OUTPUT, t, h) * AT(UP_WEIGHTS, e, h);
    const double ds = p * g * silu_slope(s);
    AT(GRAD_ROUTING_WEIGHTS, t, k) += p * silu(s);
    for (int64_t h = 0; h < f->c->spec.hidden_size; h++) {
        AT(GRAD_HIDDEN_STATES, t, h) += ds * AT(DOWN_WEIGHTS, e, h);
        AT(GRAD_DOWN_WEIGHTS, e, h) += ds * AT(HIDDEN_STATES, t, h);
        AT(GRAD_UP_WEIGHTS, e, h) += g * silu(s) * AT(GRAD_OUTPUT, t, h);
    }
}

static void formulas_run(formulas *f, fex_pass pass)
{
    for (int64_t t = 0; t < f->c->spec.num_tokens; t++)
        for (int64_t k = 0; k < f->c->spec.top_k; k++) {
            const int64_t e = index_of(f->c, t, k);
            if (e < 0)
                continue;
            if (pass == FEX_PASS_FORWARD)
                formulas_forward_pair(f, t, k, e);
            else
                formulas_backward_pair(f, t, k, e);
        }
}

/* ---- The reference on a case's own types and strides --------------------- */

#define SET(args, member, which)                                               \
    ((args)->member = (void *)c->arrays[which].result,                         \
     (args)->member##_stride = c->arrays[which].stride)

static fex_status run_forward(device_case *c)
{
    fex_forward_args args = {.size = sizeof args,
                             .num_tokens = c->spec.num_tokens};
    SET(&args, hidden_states, CASE_HIDDEN_STATES);
    SET(&args, down_weights, CASE_DOWN_WEIGHTS);
    SET(&args, up_weights, CASE_UP_WEIGHTS);
    SET(&args, indices, CASE_INDICES);
    SET(&args, routing_weights, CASE_ROUTING_WEIGHTS);
    SET(&args, expert_states, CASE_EXPERT_STATES);
    if (!c->spec.no_scores_output)
        SET(&args, scores, CASE_SCORES);
    return fex_reference_forward(&c->desc, &args);
}

static fex_status run_backward(device_case *c)
{
    fex_backward_args args = {.size = sizeof args,
                              .num_tokens = c->spec.num_tokens,
                              .accumulate = c->spec.accumulate};
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
    if (c->spec.scores == CASE_SCORES_OTHER)
        SET(&args, scores, CASE_SCORES);
    return fex_reference_backward(&c->desc, &args);
}

/* The reference works on copies in `result`, inputs included. */
static void copy_arrays(device_case *c)
{
    for (int i = 0; i < CASE_ARRAYS; i++)
        if (c->arrays[i].element != 0)
            memcpy(c->arrays[i].result, c->arrays[i].initial,
                   case_array_bytes(&c->arrays[i]));
}

static void make_case(const case_spec *spec, device_case *c)
{
    device_case_make(spec, c);
    copy_arrays(c);
}

/* Every byte of an array, the padding between rows included, is what it was,
 * or for an output the formulas' number, rounded once. */
static void check_array(const formulas *f, int which, fex_pass pass)
{
    const case_array *const a = &f->c->arrays[which];
    if (a->element == 0)
        return;
    const size_t bytes = case_array_bytes(a);
    char *const expected = test_allocate(bytes);
    memcpy(expected, a->initial, bytes);
    if (device_case_is_output(f->c, which, pass))
        for (int64_t row = 0; row < a->rows; row++)
            fex_convert_store(a->dtype, expected, row * a->stride, a->columns,
                              f->values[which] + row * a->columns);
    ck_assert_msg(memcmp(expected, a->result, bytes) == 0, "%s: %s differs",
                  device_case_words(f->c), a->name);
    free(expected);
}

static void check_case(const case_spec *spec, fex_pass pass)
{
    device_case c;
    formulas f;
    make_case(spec, &c);
    formulas_create(&c, &f);
    formulas_run(&f, pass);
    test_ok(pass == FEX_PASS_FORWARD ? run_forward(&c) : run_backward(&c));
    for (int i = 0; i < CASE_ARRAYS; i++)
        check_array(&f, i, pass);
    formulas_destroy(&f);
    device_case_forget(&c);
}

#define SIZES(H, K, E, T)                                                      \
    .hidden_size = H, .top_k = K, .num_experts = E, .num_tokens = T
#define BASE .distribution = TEST_ZIPF, .empty = 1
enum { ALL_GRADIENTS = 15 };

static const case_spec cases[] = {
    {.dtype = FEX_DTYPE_F16, SIZES(17, 5, 30, 9), BASE},
    {.dtype = FEX_DTYPE_BF16, SIZES(17, 5, 30, 9), BASE},
    {.dtype = FEX_DTYPE_F32, SIZES(17, 5, 30, 9), BASE},
    {.dtype = FEX_DTYPE_F32, SIZES(1, 1, 1, 1)},
    {.dtype = FEX_DTYPE_BF16, SIZES(64, 5, 30, 0), BASE},
    {.dtype = FEX_DTYPE_BF16, SIZES(64, 5, 30, 0), BASE,
     .accumulate = ALL_GRADIENTS},
    {.dtype = FEX_DTYPE_F16, SIZES(17, 5, 30, 9), BASE, .row_padding = 3,
     .index_type = FEX_INDEX_I64},
    {.dtype = FEX_DTYPE_BF16, SIZES(17, 5, 30, 9), BASE,
     .routing_dtype = FEX_DTYPE_F32, .weight_grad_dtype = FEX_DTYPE_F32,
     .row_padding = 1},
    {.dtype = FEX_DTYPE_BF16, SIZES(8, 5, 30, 9), BASE,
     .scores = CASE_SCORES_OTHER, .no_scores_output = 1},
    {.dtype = FEX_DTYPE_BF16, SIZES(8, 40, 30, 50), .distribution = TEST_SAME},
};

START_TEST(follows_the_formulas)
{
    case_spec spec = cases[_i];
    spec.seed = (uint64_t)_i;
    if (spec.scores == CASE_SCORES_AGAIN)
        check_case(&spec, FEX_PASS_FORWARD);
    check_case(&spec, FEX_PASS_BACKWARD);
}
END_TEST

/* _i: gradients left out, and gradients added to. */
START_TEST(every_subset_of_gradients)
{
    case_spec spec = {.dtype = FEX_DTYPE_BF16, SIZES(9, 3, 20, 7), BASE};
    spec.without = (unsigned)_i & ALL_GRADIENTS;
    spec.accumulate = (unsigned)_i >> 4;
    check_case(&spec, FEX_PASS_BACKWARD);
}
END_TEST

/* ---- By finite differences ----------------------------------------------- */

/* sum of dy . y, in float32 data */
static double objective(device_case *c)
{
    const case_array *const y = &c->arrays[CASE_EXPERT_STATES];
    const case_array *const gradient = &c->arrays[CASE_GRAD_OUTPUT];
    double sum = 0;
    test_ok(run_forward(c));
    for (int64_t i = 0; i < y->rows * y->columns; i++)
        sum += (double)((float *)(void *)y->result)[i] *
               (double)((float *)(void *)gradient->result)[i];
    return sum;
}

static const struct {
    int input, gradient;
} differentiable[] = {{CASE_HIDDEN_STATES, CASE_GRAD_HIDDEN_STATES},
                      {CASE_DOWN_WEIGHTS, CASE_GRAD_DOWN_WEIGHTS},
                      {CASE_UP_WEIGHTS, CASE_GRAD_UP_WEIGHTS},
                      {CASE_ROUTING_WEIGHTS, CASE_GRAD_ROUTING_WEIGHTS}};

/* _i: which of the four. */
START_TEST(gradients_are_slopes)
{
    const case_spec spec = {.dtype = FEX_DTYPE_F32, SIZES(6, 3, 8, 5), BASE};
    const double step = 0x1p-7;
    device_case c;
    make_case(&spec, &c);
    test_ok(run_backward(&c));
    const case_array *const a = &c.arrays[differentiable[_i].input];
    float *const input = (float *)(void *)a->result;
    const float *const gradient =
        (float *)(void *)c.arrays[differentiable[_i].gradient].result;
    for (int64_t i = 0; i < a->rows * a->columns; i++) {
        const float kept = input[i];
        input[i] = (float)((double)kept + step);
        const double above = objective(&c);
        input[i] = (float)((double)kept - step);
        const double below = objective(&c);
        input[i] = kept;
        const double slope = (above - below) / (2 * step);
        ck_assert_msg(fabs(slope - (double)gradient[i]) <= 1e-3,
                      "%s[%d]: slope %g, gradient %g", a->name, (int)i, slope,
                      (double)gradient[i]);
    }
    device_case_forget(&c);
}
END_TEST

/* ---- Refusals ------------------------------------------------------------ */

/* _i: the pass. */
START_TEST(checked_mode_names_the_first_offender)
{
    const case_spec spec = {.dtype = FEX_DTYPE_F16, SIZES(8, 4, 10, 6),
                            .flags = FEX_OP_CHECK_INDICES};
    const fex_pass pass = (fex_pass)_i;
    device_case c;
    device_case_make(&spec, &c);
    int32_t *const indices = (int32_t *)(void *)c.arrays[CASE_INDICES].initial;
    indices[5] = -3; /* empty, and allowed */
    indices[4 * 2 + 3] = 10;
    indices[4 * 3 + 0] = INT32_MAX;
    copy_arrays(&c);
    test_refused(pass == FEX_PASS_FORWARD ? run_forward(&c) : run_backward(&c),
                 FEX_ERROR_INDEX,
                 "indices[2, 3] is not below num_experts 10");
    for (int i = 0; i < CASE_ARRAYS; i++)
        ck_assert_int_eq(memcmp(c.arrays[i].result, c.arrays[i].initial,
                                case_array_bytes(&c.arrays[i])),
                         0);
    device_case_forget(&c);
}
END_TEST

START_TEST(arguments_are_checked)
{
    TEST_INVALID(fex_reference_forward(NULL, NULL), "desc");
    TEST_INVALID(fex_reference_backward(&tiny, NULL), "args");
    const fex_forward_args args = {.size = sizeof args, .num_tokens = 1};
    TEST_INVALID(fex_reference_forward(&tiny, &args), "hidden_states");
}
END_TEST

static void fill(TCase *tests)
{
    tcase_add_test(tests, forward_by_hand);
    tcase_add_test(tests, backward_by_hand);
    tcase_add_loop_test(tests, follows_the_formulas, 0,
                        (int)(sizeof cases / sizeof *cases));
    tcase_add_loop_test(tests, every_subset_of_gradients, 0, 256);
    tcase_add_loop_test(tests, gradients_are_slopes, 0, 4);
    tcase_add_loop_test(tests, checked_mode_names_the_first_offender,
                        FEX_PASS_FORWARD, FEX_PASS_BACKWARD + 1);
    tcase_add_test(tests, arguments_are_checked);
}

int main(void)
{
    return test_suite_main("reference", fill);
}
