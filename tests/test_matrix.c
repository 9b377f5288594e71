/* SPDX-License-Identifier: Apache-2.0 */
/* test_matrix.c - the matrix family without a device: where it applies, how
 * calls are cut up, and its workspace. */
#include "config.h"

#include "matrix.h"
#include "problem_case.h"
#include "suite.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define BF16 FEX_DTYPE_BF16
#define F16 FEX_DTYPE_F16

/* ---- Where it applies ---------------------------------------------------- */

static const struct {
    const char *architecture;
    fex_dtype dtype;
    int64_t hidden_size, top_k, num_experts;
    int applies;
} uses[] = {
    {"sm_90a", BF16, 1024, 32, 1024, 1},
    {"sm_90a", F16, 8, 8192, 262144, 1},
    {"sm_80", BF16, 1024, 32, 1024, 0},
    {"sm_100", BF16, 1024, 32, 1024, 0},
    {"sm_90a", FEX_DTYPE_F32, 1024, 32, 1024, 0},
    {"sm_90a", BF16, 1028, 32, 1024, 0},
    {"sm_90a", BF16, 1024, 32, 262145, 0},
};

START_TEST(applies_where_kernels_run)
{
    const fex_problem problem =
        test_problem(uses[_i].dtype, uses[_i].hidden_size, uses[_i].top_k,
                     uses[_i].num_experts);
    const fex_architecture *const architecture =
        fex_architecture_by_name(uses[_i].architecture);
    ck_assert_int_eq(fex_matrix_forward.applies(&problem, architecture),
                     uses[_i].applies);
}
END_TEST

START_TEST(kernels_fit_the_architecture)
{
    const fex_architecture *const hopper = fex_architecture_by_name("sm_90a");
    for (int64_t top_k = 1; top_k <= FEX_MATRIX_TOP_K; top_k += top_k / 7 + 1) {
        const fex_problem problem =
            test_problem(BF16, 1024, top_k, FEX_MATRIX_EXPERTS);
        fex_kernel_spec specs[FEX_KERNELS_MAX];
        const size_t count = fex_matrix_forward.describe(
            &problem, hopper, fex_geometry_for(&problem, 16), specs);
        ck_assert_uint_eq(count, 2 + 2 * FEX_MATRIX_WIDTHS);
        for (size_t i = 0; i < count; i++)
            ck_assert_int_le(specs[i].shared_bytes, hopper->shared_max);
    }
}
END_TEST

/* ---- Lists --------------------------------------------------------------- */

static const struct {
    int64_t top_k, num_experts;
    int group, threads, counters;
} listings[] = {
    /* a warp's rows, or so many that two blocks fit a multiprocessor; two at
     * least while a block has room */
    {1, 1024, 16, 512, 512},       {256, 1024, 16, 512, 512},
    {257, 1024, 8, 512, 512},      {2048, 102400, 2, 512, 2048},
    {4096, 102400, 2, 1024, 2048}, {4097, 262144, 1, 1024, 4096},
    {8192, 1024, 1, 1024, 1024},
};

START_TEST(tokens_are_listed_together)
{
    const fex_problem problem =
        test_problem(BF16, 1024, listings[_i].top_k, listings[_i].num_experts);
    const fex_matrix_listing listing = fex_matrix_listing_of(&problem);
    ck_assert_int_eq(listing.group, listings[_i].group);
    ck_assert_int_eq(listing.threads, listings[_i].threads);
    ck_assert_int_eq(listing.counters, listings[_i].counters);
}
END_TEST

/* What lanes have ahead is what most tiles have, and no more than there is. */
static const struct {
    int64_t top_k, num_experts;
    fex_matrix_width width;
    int64_t ahead;
} reads_ahead[] = {
    {1, 262144, FEX_MATRIX_WIDE, 1},
    {32, 1024, FEX_MATRIX_NARROW,
     2},                            /* 32 expected of 16 tokens, by 32 lanes */
    {32, 1024, FEX_MATRIX_WIDE, 5}, /* 128 */
    {2048, 102400, FEX_MATRIX_WIDE, 5}, /* 10 of 2 tokens, by 4 lanes */
    {512, 512, FEX_MATRIX_WIDE, 16},
};

START_TEST(most_choices_are_read_ahead)
{
    const fex_problem problem = test_problem(BF16, 1024, reads_ahead[_i].top_k,
                                             reads_ahead[_i].num_experts);
    ck_assert_int_eq(fex_matrix_ahead(&problem, reads_ahead[_i].width),
                     reads_ahead[_i].ahead);
}
END_TEST

/* ---- Cutting up ---------------------------------------------------------- */

#define WIDE FEX_MATRIX_WIDE
#define MIDDLE FEX_MATRIX_MIDDLE
#define NARROW FEX_MATRIX_NARROW

typedef struct expected_cut {
    fex_matrix_width width;
    int64_t ranges, tiles, stages;
} expected_cut;

/* On 132 multiprocessors. */
static const struct {
    fex_dtype dtype;
    int64_t hidden_size, num_experts, num_tokens;
    expected_cut scores, states;
} cuts[] = {
    /* narrow tiles where there is a multiprocessor for each, */
    {BF16, 1024, 1024, 1024, {NARROW, 1, 128, 16}, {NARROW, 1, 128, 16}},
    {BF16, 1024, 1024, 2048, {MIDDLE, 1, 128, 16}, {MIDDLE, 1, 128, 16}},
    {BF16, 1024, 1024, 4097, {WIDE, 1, 132, 16}, {MIDDLE, 1, 264, 16}},
    /* or where wide ones leave more of them idle at the end */
    {BF16, 1024, 4096, 1200, {MIDDLE, 1, 320, 16}, {MIDDLE, 1, 80, 64}},
    {BF16, 1024, 4096, 4096, {WIDE, 1, 512, 16}, {WIDE, 1, 128, 64}},
    /* ranges of many experts, none of them empty */
    {BF16, 1024, 102400, 1024, {WIDE, 1, 3200, 16}, {WIDE, 4, 128, 400}},
    {BF16, 1024, 16384, 1024, {WIDE, 1, 512, 16}, {WIDE, 4, 128, 64}},
    /* of f16 twice the depth in the second product */
    {BF16, 128, 200, 1, {NARROW, 1, 4, 2}, {NARROW, 1, 1, 4}},
    {F16, 128, 200, 1, {NARROW, 1, 4, 2}, {NARROW, 1, 1, 8}},
};

static void check_cut(const fex_matrix_cut *cut, const expected_cut *expected)
{
    ck_assert_int_eq(cut->width, expected->width);
    ck_assert_int_eq(cut->ranges, expected->ranges);
    ck_assert_int_eq(cut->tiles, expected->tiles);
    ck_assert_int_eq(cut->stages, expected->stages);
}

START_TEST(tiles_are_as_wide_as_pays)
{
    fex_device device;
    fex_device_typical(fex_architecture_by_name("sm_90a"), &device);
    ck_assert_int_eq(device.multiprocessors, 132);
    const fex_problem problem = test_problem(
        cuts[_i].dtype, cuts[_i].hidden_size, 1, cuts[_i].num_experts);
    const fex_matrix_cut scores =
        fex_matrix_cut_scores(&problem, &device, cuts[_i].num_tokens);
    const fex_matrix_cut states =
        fex_matrix_cut_states(&problem, &device, cuts[_i].num_tokens);
    check_cut(&scores, &cuts[_i].scores);
    check_cut(&states, &cuts[_i].states);
}
END_TEST

/* ---- Workspace ----------------------------------------------------------- */

START_TEST(workspace_is_bounded)
{
    const int64_t tables[] = {1, 1000, 16384, 262144};
    for (size_t i = 0; i < 2 * COUNT(tables); i++) {
        const size_t parts = i % 2 ? 1 : 2;
        const fex_problem problem =
            test_problem(i % 2 ? BF16 : F16, 1024, 512, tables[i / 2]);
        size_t before = 0;
        for (int64_t tokens = 1; tokens < 1 << 24; tokens += tokens / 3 + 1) {
            const size_t size =
                fex_matrix_forward.workspace_size(&problem, tokens);
            ck_assert_uint_ge(size, before);
            before = size;
        }
        ck_assert_uint_le(before, (parts * 256 + 33) << 20);
    }
}
END_TEST

START_TEST(chunks_are_even)
{
    const fex_problem problem = test_problem(BF16, 1024, 32, 15000);
    const int64_t most = fex_matrix_chunk_max(&problem);
    ck_assert_int_gt(most, 0);
    ck_assert_int_eq(most % FEX_MATRIX_TILE, 0);
    ck_assert_int_le(most * fex_matrix_stride(&problem) * 2, 256 << 20);
    ck_assert_int_eq(fex_matrix_chunk(&problem, 77), 77);
    ck_assert_int_eq(fex_matrix_chunk(&problem, most), most);
    const int64_t half = fex_matrix_chunk(&problem, most + 1);
    ck_assert_int_eq(half % FEX_MATRIX_TILE, 0);
    ck_assert_int_ge(half * 2, most + 1);
    ck_assert_int_le(half, most / 2 + FEX_MATRIX_TILE);
    ck_assert_int_le(fex_matrix_chunk(&problem, 1 << 24), most);
}
END_TEST

/* Of test_forward's cases those for that. */
START_TEST(large_cases_are_of_many_chunks)
{
    const fex_problem bf16 = test_problem(BF16, 8, 3, 16000);
    const fex_problem f16 = test_problem(F16, 8, 3, 16000);
    ck_assert_int_lt(fex_matrix_chunk(&bf16, 8400), 8400);
    ck_assert_int_lt(fex_matrix_chunk(&f16, 8400), 8400);
}
END_TEST

static void fill(TCase *tests)
{
    tcase_add_loop_test(tests, applies_where_kernels_run, 0, (int)COUNT(uses));
    tcase_add_test(tests, kernels_fit_the_architecture);
    tcase_add_loop_test(tests, tokens_are_listed_together, 0,
                        (int)COUNT(listings));
    tcase_add_loop_test(tests, most_choices_are_read_ahead, 0,
                        (int)COUNT(reads_ahead));
    tcase_add_loop_test(tests, tiles_are_as_wide_as_pays, 0, (int)COUNT(cuts));
    tcase_add_test(tests, workspace_is_bounded);
    tcase_add_test(tests, chunks_are_even);
    tcase_add_test(tests, large_cases_are_of_many_chunks);
}

int main(void)
{
    return test_suite_main("matrix", fill);
}
