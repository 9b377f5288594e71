/* SPDX-License-Identifier: Apache-2.0 */
/* test_backward.c - backward passes on a device, compared with the
 * reference. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "device_suite.h"

#define F16 .dtype = FEX_DTYPE_F16
#define BF16 .dtype = FEX_DTYPE_BF16
#define F32 .dtype = FEX_DTYPE_F32
#define SIZES(H, K, E, T)                                                      \
    .hidden_size = H, .top_k = K, .num_experts = E, .num_tokens = T

enum { ALL_GRADIENTS = 15 };

/* Each line shows one thing; most share the kernels of the first three. */
static const case_spec cases[] = {
    {F16, SIZES(64, 32, 96, 40), .distribution = TEST_ZIPF, .empty = 1},
    {BF16, SIZES(64, 32, 96, 40), .distribution = TEST_ZIPF, .empty = 1},
    {F32, SIZES(64, 32, 96, 40), .distribution = TEST_ZIPF, .empty = 1},
    /* every slot the same expert, with enough pairs to be cut up; one expert */
    {BF16, SIZES(64, 32, 96, 70), .distribution = TEST_SAME},
    {BF16, SIZES(64, 32, 1, 5), .empty = 1},
    /* experts that need more digits than one sorting step takes, most of them
     * not chosen */
    {BF16, SIZES(64, 32, 3000, 9), .empty = 1},
    /* no tokens: weight gradients become 0, or stay; one token; many */
    {BF16, SIZES(64, 32, 96, 0)},
    {BF16, SIZES(64, 32, 96, 0), .accumulate = ALL_GRADIENTS},
    {BF16, SIZES(64, 32, 96, 1)},
    {BF16, SIZES(64, 32, 96, 500), .distribution = TEST_ZIPF, .empty = 1},
    /* experts sorted in one pass, with more digits than a block has threads */
    {BF16, SIZES(64, 32, 400, 90), .distribution = TEST_ZIPF},
    /* a table that is swept in slabs, on the simulated device's small L2 */
    {BF16, SIZES(64, 32, 9000, 700), .empty = 1},
    /* scores that are given are the ones used */
    {BF16, SIZES(64, 32, 96, 9), .scores = CASE_SCORES_OTHER},
    {BF16, SIZES(64, 32, 96, 9), .scores = CASE_SCORES_OTHER,
     .row_padding = 3, .empty = 1},
    /* rows apart, still aligned; rows apart and arrays off by one element */
    {BF16, SIZES(64, 32, 96, 9), .row_padding = 8, .empty = 1},
    {BF16, SIZES(64, 32, 96, 9), .row_padding = 3, .misalignment = 1},
    {F32, SIZES(64, 32, 96, 9), .row_padding = 1, .misalignment = 1,
     .accumulate = ALL_GRADIENTS},
    /* types that may differ from the data's */
    {BF16, SIZES(64, 32, 96, 9), .routing_dtype = FEX_DTYPE_F32,
     .weight_grad_dtype = FEX_DTYPE_F32},
    {BF16, SIZES(64, 32, 96, 9), .routing_dtype = FEX_DTYPE_F32,
     .weight_grad_dtype = FEX_DTYPE_F32, .accumulate = ALL_GRADIENTS,
     .row_padding = 1, .misalignment = 1},
    {F16, SIZES(64, 32, 96, 9), .index_type = FEX_INDEX_I64, .empty = 1},
    /* rows that no vector load fits, and that no group of lanes fills */
    {BF16, SIZES(1, 3, 50, 90), .empty = 1},
    {F16, SIZES(7, 1, 50, 60)},
    {F32, SIZES(7, 3, 50, 60), .empty = 1, .accumulate = ALL_GRADIENTS},
    {BF16, SIZES(320, 3, 50, 20)},
    /* rows longer than a block reads at one time; many choices */
    {BF16, SIZES(4096, 3, 20, 6)},
    {BF16, SIZES(64, 4096, 96, 3), .empty = 1},
};

/* Full tier: what it takes on a GPU for slabs and chunks of a table, and for
 * more tiles of pairs than one block counts. */
static const case_spec large_cases[] = {
    {BF16, SIZES(1024, 512, 20000, 100), .empty = 1},
    {F32, SIZES(64, 512, 5000, 1200), .distribution = TEST_ZIPF, .empty = 1},
};

START_TEST(matches_reference)
{
    case_spec spec = cases[_i];
    spec.seed = (uint64_t)_i + 1;
    device_suite_check(&spec, FEX_PASS_BACKWARD);
}
END_TEST

/* _i: the gradients that are not asked for. What is not asked for has no
 * memory that could be written to. */
START_TEST(every_subset_of_gradients)
{
    const case_spec spec = {BF16, SIZES(64, 32, 96, 9), .without = (unsigned)_i,
                            .empty = 1};
    device_suite_check(&spec, FEX_PASS_BACKWARD);
}
END_TEST

/* _i: the gradients that are added to; the others are overwritten. */
START_TEST(every_subset_of_sums)
{
    const case_spec spec = {BF16, SIZES(64, 32, 96, 9),
                            .accumulate = (unsigned)_i, .empty = 1};
    device_suite_check(&spec, FEX_PASS_BACKWARD);
}
END_TEST

START_TEST(scores_saved_by_forward)
{
    const case_spec spec = {BF16, SIZES(64, 32, 96, 9),
                            .scores = CASE_SCORES_SAVED, .row_padding = 1,
                            .empty = 1};
    device_suite_check(&spec, FEX_PASS_BOTH);
}
END_TEST

/* Rows of experts that no token chose keep their very bits, NaN included, when
 * a gradient is added to. */
START_TEST(unchosen_rows_are_left_alone)
{
    const case_spec spec = {BF16, SIZES(64, 32, 96, 1),
                            .accumulate = ALL_GRADIENTS,
                            .distribution = TEST_SAME};
    device_case c;
    device_case_make(&spec, &c);
    case_array *const gradient = &c.arrays[CASE_GRAD_UP_WEIGHTS];
    const size_t row = 64 * gradient->element;
    memset(gradient->initial + 7 * row, TEST_POISON, row);
    device_case_place(&c, &suite_device);
    device_case_run(&c, FEX_PASS_BACKWARD);
    device_case_download(&c, FEX_PASS_BACKWARD);
    for (size_t expert = 0; expert < 96; expert++)
        ck_assert_int_eq(memcmp(gradient->initial + expert * row,
                                gradient->result + expert * row, row) == 0,
                         expert != 48);
    device_case_destroy(&c);
}
END_TEST

START_TEST(large_matches_reference)
{
    device_suite_check(&large_cases[_i], FEX_PASS_BACKWARD);
}
END_TEST

START_TEST(cross_product)
{
    device_suite_cross_product(FEX_PASS_BACKWARD);
}
END_TEST

static void fill(Suite *suite, int full)
{
    TCase *const small = tcase_create("small");
    tcase_add_checked_fixture(small, device_suite_go_on, NULL);
    tcase_add_loop_test(small, matches_reference, 0,
                        (int)(sizeof cases / sizeof *cases));
    tcase_add_loop_test(small, every_subset_of_gradients, 0,
                        ALL_GRADIENTS + 1);
    tcase_add_loop_test(small, every_subset_of_sums, 0, ALL_GRADIENTS + 1);
    tcase_add_test(small, scores_saved_by_forward);
    tcase_add_test(small, unchosen_rows_are_left_alone);
    suite_add_tcase(suite, small);
    if (!full)
        return;
    TCase *const all = tcase_create("full");
    tcase_add_loop_test(all, large_matches_reference, 0,
                        (int)(sizeof large_cases / sizeof *large_cases));
    tcase_add_test(all, cross_product);
    suite_add_tcase(suite, all);
}

int main(int argc, char **argv)
{
    return device_suite_main(argc, argv, "backward", fill);
}
