/* SPDX-License-Identifier: Apache-2.0 */
/* Made-up data: reproducible, of the promised distribution, and counted. */
#include "config.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../tools/data.h"
#include "../tools/traffic.h"
#include "convert.h"

static tool_shape shape;
static tool_tensors tensors;

static void make(const char *text, data_distribution distribution,
                 uint64_t seed)
{
    tool_shapes list = {0};
    ck_assert_int_eq(shape_list_add(&list, "shape", text, NULL), FEX_OK);
    shape = list.items[0];
    shape_list_free(&list);
    ck_assert_int_eq(data_generate(&shape, distribution, seed, &tensors),
                     FEX_OK);
}

static void release(void)
{
    tensors_free(&tensors);
}

static int64_t index_at(int64_t position)
{
    return fex_convert_index(shape.desc.index_type,
                             tensors.data[TENSOR_INDICES], position);
}

#define SHAPE "hidden=64 top_k=16 experts=1000 tokens=4096"

START_TEST(a_seed_decides_everything)
{
    make(SHAPE " index=i64", DATA_ZIPF, 7);
    const tool_tensors first = tensors;
    tensors = (tool_tensors){{NULL}};
    make(SHAPE " index=i64", DATA_ZIPF, 7);
    for (tensor_id id = 0; id < TENSOR_COUNT; id++)
        if (tensor_is_input(&shape, id))
            ck_assert_mem_eq(first.data[id], tensors.data[id],
                             tensor_bytes(&shape, id));
    release();
    make(SHAPE " index=i64", DATA_ZIPF, 8);
    for (tensor_id id = 0; id < TENSOR_COUNT; id++)
        if (tensor_is_input(&shape, id))
            ck_assert(memcmp(first.data[id], tensors.data[id],
                             tensor_bytes(&shape, id)) != 0);
    tool_tensors unused = first;
    tensors_free(&unused);
}
END_TEST

/* Mean and deviation of a tensor. */
static void moments(tensor_id id, double *mean, double *deviation)
{
    const int64_t count = tensor_rows(&shape, id) * tensor_columns(&shape, id);
    double sum = 0;
    double squares = 0;

    for (int64_t i = 0; i < count; i++) {
        double value;
        fex_convert_load(tensor_dtype(&shape, id), tensors.data[id], i, 1,
                         &value);
        sum += value;
        squares += value * value;
    }
    *mean = sum / (double)count;
    *deviation = sqrt(squares / (double)count - *mean * *mean);
}

START_TEST(values_have_the_scale_of_a_trained_model)
{
    static const struct {
        tensor_id id;
        double mean, deviation;
    } expected[] = {{TENSOR_HIDDEN_STATES, 0, 1},
                    {TENSOR_DOWN_WEIGHTS, 0, 0.125},
                    {TENSOR_UP_WEIGHTS, 0, 0.125},
                    {TENSOR_ROUTING_WEIGHTS, 0.25, 0.25 / 1.7320508},
                    {TENSOR_GRAD_OUTPUT, 0, 1}};
    double mean;
    double deviation;

    make(SHAPE, DATA_UNIFORM, 1);
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        moments(expected[i].id, &mean, &deviation);
        ck_assert_double_eq_tol(mean, expected[i].mean,
                                0.02 * expected[i].deviation);
        ck_assert_double_eq_tol(deviation, expected[i].deviation,
                                0.02 * expected[i].deviation);
    }
}
END_TEST

/* How often each expert was chosen, most often first. */
static int64_t counts[1000];

static int compare_counts(const void *a, const void *b)
{
    const int64_t left = *(const int64_t *)a;
    const int64_t right = *(const int64_t *)b;
    return (left < right) - (left > right);
}

static void count_choices(void)
{
    memset(counts, 0, sizeof counts);
    for (int64_t i = 0; i < shape.tokens * shape.desc.top_k; i++) {
        ck_assert(index_at(i) >= 0 && index_at(i) < 1000);
        counts[index_at(i)]++;
    }
    qsort(counts, 1000, sizeof counts[0], compare_counts);
}

START_TEST(uniform_is_even)
{
    make(SHAPE, DATA_UNIFORM, 1);
    count_choices();
    /* 65.5 in the mean, 8.1 of deviation */
    ck_assert_int_le(counts[0], 105);
    ck_assert_int_ge(counts[999], 30);
}
END_TEST

START_TEST(zipf_falls_with_the_rank)
{
    double sum = 0;
    for (int n = 1; n <= 1000; n++)
        sum += 1.0 / n;
    make(SHAPE, DATA_ZIPF, 1);
    count_choices();
    for (int n = 1; n <= 64; n *= 2) {
        const double expected = 16 * 4096 / sum / n;
        ck_assert_double_eq_tol((double)counts[n - 1], expected,
                                5 * sqrt(expected) + 0.02 * expected);
    }
}
END_TEST

START_TEST(same_is_the_same_for_all)
{
    make(SHAPE, DATA_SAME, 1);
    for (int64_t i = 16; i < 16 * 4096; i++)
        ck_assert_int_eq(index_at(i), index_at(i % 16));
    count_choices();
    ck_assert_int_eq(counts[15], 4096);
    ck_assert_int_eq(counts[16], 0);
}
END_TEST

/* Of blocks of 128 experts with 5.12 on average, random choices leave four empty
 * and none above 16; the variance is 4.9, give or take a fourth. */
START_TEST(ranks_are_dealt_out_as_if_at_random)
{
    static char chosen[102400];
    int of_block[800] = {0};
    int empty = 0;
    double variance = 0;

    memset(chosen, 0, sizeof chosen);
    make("hidden=1 top_k=4096 experts=102400 tokens=1", DATA_SAME, 1);
    for (int64_t i = 0; i < 4096; i++) {
        ck_assert_int_eq(chosen[index_at(i)]++, 0);
        of_block[index_at(i) / 128]++;
    }
    for (int b = 0; b < 800; b++) {
        empty += of_block[b] == 0;
        ck_assert_int_le(of_block[b], 16);
        variance += (of_block[b] - 5.12) * (of_block[b] - 5.12) / 800;
    }
    ck_assert_int_ge(empty, 1);
    ck_assert_int_le(empty, 12);
    ck_assert_double_eq_tol(variance, 4.9, 1.2);
}
END_TEST

START_TEST(each_expert_has_one_rank)
{
    static const int counts_of[] = {1, 2, 3, 64, 65, 8191, 8192};
    static char chosen[8192];
    char text[80];

    for (size_t n = 0; n < sizeof counts_of / sizeof counts_of[0]; n++) {
        snprintf(text, sizeof text, "hidden=1 top_k=%d experts=%d tokens=1",
                 counts_of[n], counts_of[n]);
        make(text, DATA_SAME, 1);
        memset(chosen, 0, sizeof chosen);
        for (int64_t i = 0; i < counts_of[n]; i++) {
            ck_assert(index_at(i) >= 0 && index_at(i) < counts_of[n]);
            ck_assert_int_eq(chosen[index_at(i)]++, 0);
        }
        release();
    }
}
END_TEST

START_TEST(the_smallest_tables_work)
{
    for (data_distribution d = DATA_UNIFORM; d <= DATA_SAME; d++) {
        make("hidden=1 top_k=3 experts=1 tokens=5", d, 1);
        for (int64_t i = 0; i < 15; i++)
            ck_assert(index_at(i) == 0);
        release();
        make("hidden=1 top_k=8192 experts=3 tokens=1", d, 1);
        for (int64_t i = 0; i < 8192; i++)
            ck_assert(index_at(i) >= 0 && index_at(i) < 3);
        release();
    }
}
END_TEST

START_TEST(turns_move_choices_and_leave_empty_slots)
{
    int32_t turned[64];
    int moved = 0;

    make("hidden=1 top_k=8 experts=1000 tokens=8", DATA_UNIFORM, 1);
    int32_t *indices = tensors.data[TENSOR_INDICES];
    indices[3] = -5;
    indices[4] = 1000;
    data_shift_indices(&shape, indices, turned, 0);
    ck_assert_mem_eq(indices, turned, sizeof turned);
    data_shift_indices(&shape, indices, turned, 12345678901);
    for (int i = 0; i < 64; i++) {
        if (i == 3 || i == 4) {
            ck_assert_int_eq(turned[i], indices[i]);
            continue;
        }
        ck_assert(turned[i] >= 0 && turned[i] < 1000);
        moved += turned[i] != indices[i];
        /* All by the same distance. */
        ck_assert_int_eq((turned[i] - indices[i] + 1000) % 1000,
                         (turned[0] - indices[0] + 1000) % 1000);
    }
    ck_assert_int_eq(moved, 62);
}
END_TEST

START_TEST(traffic_counts_choices)
{
    /* Two tokens of three choices among 10 experts, H = 4 in f32: a row is 16
     * bytes; index 5 twice, one empty slot. */
    static const int32_t chosen[] = {5, 1, 5, -1, 2, 9};
    const double pairs = 5;
    const double experts = 4;

    make("hidden=4 top_k=3 experts=10 tokens=2 dtype=f32", DATA_UNIFORM, 1);
    memcpy(tensors.data[TENSOR_INDICES], chosen, sizeof chosen);
    ck_assert_double_eq(
        traffic_gathered_bytes(&shape, &tensors, FEX_PASS_FORWARD),
        pairs * 2 * 16);
    ck_assert_double_eq(
        traffic_gathered_bytes(&shape, &tensors, FEX_PASS_BACKWARD),
        pairs * 4 * 16);
    /* x, indices, routing weights; expert_states and scores */
    ck_assert_double_eq(
        traffic_compulsory_bytes(&shape, &tensors, FEX_PASS_FORWARD),
        experts * 2 * 16 + 32 + 24 + 24 + 32 + 24);
    /* also dy and scores; dx, dg and both tables in full */
    ck_assert_double_eq(
        traffic_compulsory_bytes(&shape, &tensors, FEX_PASS_BACKWARD),
        experts * 2 * 16 + 32 + 24 + 24 + 32 + 24 + 32 + 24 + 2 * 160);
}
END_TEST

/* One pass alone neither leaves scores to another nor gets any. */
START_TEST(traffic_of_one_pass_has_no_scores)
{
    const double scores = 2 * 3 * sizeof(float);

    make("hidden=4 top_k=3 experts=10 tokens=2 dtype=f32", DATA_UNIFORM, 1);
    for (fex_pass pass = FEX_PASS_FORWARD; pass <= FEX_PASS_BACKWARD; pass++) {
        tool_shape alone = shape;
        alone.passes = pass;
        ck_assert_double_eq(traffic_compulsory_bytes(&alone, &tensors, pass),
                            traffic_compulsory_bytes(&shape, &tensors, pass) -
                                scores);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("data");
    TCase *tests = tcase_create("data");

    tcase_add_checked_fixture(tests, NULL, release);
    tcase_add_test(tests, a_seed_decides_everything);
    tcase_add_test(tests, values_have_the_scale_of_a_trained_model);
    tcase_add_test(tests, uniform_is_even);
    tcase_add_test(tests, zipf_falls_with_the_rank);
    tcase_add_test(tests, same_is_the_same_for_all);
    tcase_add_test(tests, ranks_are_dealt_out_as_if_at_random);
    tcase_add_test(tests, each_expert_has_one_rank);
    tcase_add_test(tests, the_smallest_tables_work);
    tcase_add_test(tests, turns_move_choices_and_leave_empty_slots);
    tcase_add_test(tests, traffic_counts_choices);
    tcase_add_test(tests, traffic_of_one_pass_has_no_scores);
    suite_add_tcase(suite, tests);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed > 0;
}
