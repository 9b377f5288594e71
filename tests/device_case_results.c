/* SPDX-License-Identifier: Apache-2.0 */
/* device_case_results.c - what a device left of a case, against the truth. */
#include "config.h"

#include <check.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "context.h"
#include "convert.h"
#include "device_case.h"
#include "plan.h"

/* The relative error that each product of a sum may add where tensor cores sum:
 * they drop what a float cannot hold instead of rounding it. */
#define TENSOR_SUM_ERROR 2.5e-9

static void check_padding(const device_case *c, const case_array *a)
{
    const size_t row = (size_t)a->columns * a->element;
    const size_t stride = (size_t)a->stride * a->element;
    for (int64_t i = 0; i + 1 < a->rows; i++)
        for (size_t byte = row; byte < stride; byte++)
            ck_assert_msg((unsigned char)a->result[(size_t)i * stride + byte] ==
                              TEST_POISON,
                          "%s: %s was written behind row %" PRId64,
                          device_case_words(c), a->name, i);
}

void device_case_download(device_case *c, fex_pass passes)
{
    test_buffer_check_guards(c->device, &c->workspace);
    for (int i = 0; i < CASE_ARRAYS; i++) {
        case_array *const a = &c->arrays[i];
        if (a->element != 0)
            test_buffer_check_guards(c->device, &a->buffer);
        if (!device_case_is_output(c, i, passes))
            continue;
        test_buffer_download(c->device, &a->buffer, a->result);
        check_padding(c, a);
    }
}

/* The error of the numbers that `load` puts into a dense row each. */
static double error_of_rows(const case_array *a,
                            void (*load)(const case_array *a, int64_t row,
                                         double *values))
{
    const int64_t count = a->rows * a->columns;
    double *const result = test_allocate((size_t)count * sizeof *result);
    double *const truth = test_allocate((size_t)count * sizeof *truth);
    for (int64_t row = 0; row < a->rows; row++)
        load(a, row, result + row * a->columns);
    fex_convert_load(FEX_DTYPE_F32, a->exact, 0, count, truth);
    const double error = test_relative_error(result, truth, count);
    free(truth);
    free(result);
    return error;
}

static void load_result(const case_array *a, int64_t row, double *values)
{
    fex_convert_load(a->dtype, a->result, row * a->stride, a->columns, values);
}

static void load_rounded_truth(const case_array *a, int64_t row, double *values)
{
    char *const rounded = test_allocate((size_t)a->columns * a->element);
    fex_convert_load(FEX_DTYPE_F32, a->exact, row * a->columns, a->columns,
                     values);
    fex_convert_store(a->dtype, rounded, 0, a->columns, values);
    fex_convert_load(a->dtype, rounded, 0, a->columns, values);
    free(rounded);
}

double device_case_error(const device_case *c, int which)
{
    return error_of_rows(&c->arrays[which], load_result);
}

static int tensor_cores_sum_scores(const device_case *c)
{
    const fex_context *const context = c->device->context;
    fex_problem problem;
    fex_plan plan;
    ck_assert_int_eq(fex_problem_init(&problem, &c->desc), FEX_OK);
    fex_plan_make(&problem, &context->device, FEX_PASS_FORWARD,
                  context->environment.family, &plan);
    const char *const family = fex_plan_find(&plan, c->spec.num_tokens)->name;
    return strcmp(family, "dense") == 0 || strcmp(family, "matrix") == 0;
}

/* Where few numbers make up the norm, one rounding alone may come to more than
 * it does on average. */
double device_case_tolerance(const device_case *c, int which)
{
    const case_array *const a = &c->arrays[which];
    const double general = test_tolerance(a->dtype);
    const double here = error_of_rows(a, load_rounded_truth) +
                        test_tolerance(FEX_DTYPE_F32);
    const double sums =
        which == CASE_SCORES && tensor_cores_sum_scores(c)
            ? TENSOR_SUM_ERROR * (double)c->desc.hidden_size
            : 0;
    return fmax(sums, fmax(here, general));
}

void device_case_check(device_case *c, fex_pass passes)
{
    device_case_download(c, passes);
    for (int i = 0; i < CASE_ARRAYS; i++) {
        if (!device_case_is_output(c, i, passes))
            continue;
        const double error = device_case_error(c, i);
        ck_assert_msg(error <= device_case_tolerance(c, i),
                      "%s: %s is off by %.3g", device_case_words(c),
                      c->arrays[i].name, error);
    }
}

/* FNV-1a. */
uint64_t device_case_digest(const device_case *c, fex_pass passes)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (int i = 0; i < CASE_ARRAYS; i++) {
        const case_array *const a = &c->arrays[i];
        if (!device_case_is_output(c, i, passes))
            continue;
        for (size_t byte = 0; byte < case_array_bytes(a); byte++)
            hash = (hash ^ (unsigned char)a->result[byte]) *
                   UINT64_C(0x100000001b3);
    }
    return hash;
}
