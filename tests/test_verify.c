/* SPDX-License-Identifier: Apache-2.0 */
/* Verification finds what is wrong, and nothing where all is right: on whole
 * results and on samples. */
#include "config.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../tools/data.h"
#include "../tools/verify.h"
#include "convert.h"

/* An evaluation by the library's oracle, to be spoiled. */
static tool_shape shape;
static tool_tensors inputs;
static tool_tensors outputs;
static verify_result results[TENSOR_COUNT];

static void evaluate(void)
{
    tool_tensors all = inputs;
    ck_assert_int_eq(tensors_allocate_outputs(&outputs, &shape), FEX_OK);
    for (tensor_id id = 0; id < TENSOR_COUNT; id++)
        if (tensor_is_output(&shape, id))
            all.data[id] = outputs.data[id];
    const fex_forward_args forward = tensors_forward_args(&all, &shape);
    const fex_backward_args backward = tensors_backward_args(&all, &shape);
    if (shape.passes & FEX_PASS_FORWARD)
        ck_assert_int_eq(fex_reference_forward(&shape.desc, &forward), FEX_OK);
    if (shape.passes & FEX_PASS_BACKWARD)
        ck_assert_int_eq(fex_reference_backward(&shape.desc, &backward),
                         FEX_OK);
}

static void make(const char *text, data_distribution distribution)
{
    tool_shapes list = {0};
    ck_assert_int_eq(shape_list_add(&list, "shape", text, NULL), FEX_OK);
    shape = list.items[0];
    shape_list_free(&list);
    ck_assert_int_eq(data_generate(&shape, distribution, 1, &inputs), FEX_OK);
}

static void release(void)
{
    tensors_free(&inputs);
    tensors_free(&outputs);
}

/* Verifies; returns how many tensors are wrong. */
static int count_wrong(int64_t budget)
{
    int wrong = 0;
    ck_assert_int_eq(
        verify_outputs(&shape, &inputs, &outputs, budget, 1, results), FEX_OK);
    for (tensor_id id = 0; id < TENSOR_COUNT; id++)
        wrong += !results[id].passed;
    return wrong;
}

static const char *const shapes[] = {
    "hidden=64 top_k=8 experts=50 tokens=40 dtype=bf16",
    "hidden=64 top_k=8 experts=50 tokens=40 dtype=f16 index=i64 routing=f32",
    "hidden=33 top_k=5 experts=9 tokens=12 dtype=f32",
    "hidden=300 top_k=3 experts=500 tokens=1 dtype=bf16 weight_grad=f32",
    "hidden=1 top_k=1 experts=1 tokens=1 dtype=f16",
    "hidden=8 top_k=2 experts=4 tokens=0 dtype=bf16",
};
enum { SHAPE_COUNT = sizeof shapes / sizeof shapes[0] };

START_TEST(the_oracle_is_right)
{
    for (data_distribution d = DATA_UNIFORM; d <= DATA_SAME; d++) {
        make(shapes[_i], d);
        evaluate();
        ck_assert_int_eq(count_wrong(VERIFY_BUDGET), 0);
        for (tensor_id id = 0; id < TENSOR_COUNT; id++)
            if (tensor_is_output(&shape, id))
                ck_assert_int_eq(results[id].rows, results[id].rows_total);
        release();
    }
}
END_TEST

START_TEST(empty_slots_are_understood)
{
    make(shapes[0], DATA_UNIFORM);
    for (int64_t i = 0; i < 8 * 40; i += 3)
        tensor_store_index(&shape, inputs.data[TENSOR_INDICES], i,
                           i % 2 ? -1 : 50 + i);
    evaluate();
    ck_assert_int_eq(count_wrong(VERIFY_BUDGET), 0);
    ck_assert_int_eq(count_wrong(4 * 8 * 64), 0);
}
END_TEST

/* Changes one element of an output. */
static void spoil(tensor_id id, int64_t position, double factor, double term)
{
    const fex_dtype dtype = tensor_dtype(&shape, id);
    double value;
    fex_convert_load(dtype, outputs.data[id], position, 1, &value);
    value = value * factor + term;
    fex_convert_store(dtype, outputs.data[id], position, 1, &value);
}

START_TEST(a_wrong_element_is_found)
{
    const tensor_id id = (tensor_id)_i;

    make(shapes[0], DATA_UNIFORM);
    if (!tensor_is_output(&shape, id))
        return;
    evaluate();
    const int64_t last =
        tensor_rows(&shape, id) * tensor_columns(&shape, id) - 1;
    spoil(id, last, 1, 0.1);
    ck_assert_int_eq(count_wrong(VERIFY_BUDGET), 1);
    ck_assert(!results[id].passed);
    spoil(id, last, 1, (double)NAN);
    ck_assert_int_eq(count_wrong(VERIFY_BUDGET), 1);
    ck_assert(!results[id].passed);
}
END_TEST

/* Two roundings instead of one are noticed, if there are values enough. */
START_TEST(a_little_too_far_is_found)
{
    make("hidden=64 top_k=8 experts=50 tokens=400 dtype=f16", DATA_UNIFORM);
    evaluate();
    ck_assert_int_eq(count_wrong(VERIFY_BUDGET), 0);
    for (int64_t i = 0; i < 400 * 64; i++)
        spoil(TENSOR_EXPERT_STATES, i, 1 + (i % 2 ? 4e-4 : -4e-4), 0);
    ck_assert_int_eq(count_wrong(VERIFY_BUDGET), 1);
}
END_TEST

/* ---- Samples ------------------------------------------------------------ */

#define LARGE "hidden=64 top_k=8 experts=2000 tokens=600"

START_TEST(a_sample_is_right)
{
    for (data_distribution d = DATA_UNIFORM; d <= DATA_SAME; d++) {
        make(LARGE, d);
        evaluate();
        ck_assert_int_eq(count_wrong(64 * 8 * 20), 0);
        ck_assert_int_eq(results[TENSOR_EXPERT_STATES].rows, 21);
        ck_assert_int_eq(results[TENSOR_EXPERT_STATES].rows_total, 600);
        const verify_result *tables = &results[TENSOR_GRAD_DOWN_WEIGHTS];
        ck_assert_int_ge(tables->rows, 2);
        ck_assert_int_lt(tables->rows, 100);
        ck_assert_int_eq(tables->rows_total, 2000);
        release();
    }
}
END_TEST

START_TEST(a_sample_finds_what_is_wrong_everywhere)
{
    make(LARGE, DATA_ZIPF);
    evaluate();
    for (tensor_id id = 0; id < TENSOR_COUNT; id++)
        if (tensor_is_output(&shape, id))
            for (int64_t i = 0;
                 i < tensor_rows(&shape, id) * tensor_columns(&shape, id); i++)
                spoil(id, i, 1.01, 0);
    ck_assert_int_eq(count_wrong(64 * 8 * 20), 6);
}
END_TEST

/* The row of an expert nobody chose has to be zeros, and is in any sample. */
START_TEST(a_sample_has_an_idle_expert_and_the_busiest)
{
    int64_t pairs_of[2000] = {0};
    int64_t busiest = 0;

    make(LARGE, DATA_SAME);
    evaluate();
    for (int64_t i = 0; i < 600 * 8; i++)
        pairs_of[fex_convert_index(shape.desc.index_type,
                                   inputs.data[TENSOR_INDICES], i)]++;
    for (int64_t e = 0; e < 2000; e++)
        if (pairs_of[e] > pairs_of[busiest])
            busiest = e;
    spoil(TENSOR_GRAD_UP_WEIGHTS, busiest * 64, 1, 10);
    ck_assert_int_eq(count_wrong(64), 1);
    spoil(TENSOR_GRAD_UP_WEIGHTS, busiest * 64, 1, -10);
    for (int64_t e = 0; e < 2000; e++)
        if (pairs_of[e] == 0)
            spoil(TENSOR_GRAD_DOWN_WEIGHTS, e * 64, 1, 10);
    count_wrong(64);
    ck_assert(!results[TENSOR_GRAD_DOWN_WEIGHTS].passed);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("verify");
    TCase *tests = tcase_create("verify");

    tcase_add_checked_fixture(tests, NULL, release);
    tcase_add_loop_test(tests, the_oracle_is_right, 0, SHAPE_COUNT);
    tcase_add_test(tests, empty_slots_are_understood);
    tcase_add_loop_test(tests, a_wrong_element_is_found, 0, TENSOR_COUNT);
    tcase_add_test(tests, a_little_too_far_is_found);
    tcase_add_test(tests, a_sample_is_right);
    tcase_add_test(tests, a_sample_finds_what_is_wrong_everywhere);
    tcase_add_test(tests, a_sample_has_an_idle_expert_and_the_busiest);
    tcase_set_timeout(tests, 60);
    suite_add_tcase(suite, tests);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed > 0;
}
