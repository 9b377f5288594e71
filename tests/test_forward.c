/* SPDX-License-Identifier: Apache-2.0 */
/* test_forward.c - forward passes on a device, compared with the reference. */
#include "config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert.h"
#include "device_suite.h"

#define F16 .dtype = FEX_DTYPE_F16
#define BF16 .dtype = FEX_DTYPE_BF16
#define F32 .dtype = FEX_DTYPE_F32
#define SIZES(H, K, E, T)                                                      \
    .hidden_size = H, .top_k = K, .num_experts = E, .num_tokens = T

/* Each line shows one thing; most share the kernels of the first three. */
static const case_spec cases[] = {
    {F16, SIZES(64, 32, 96, 40), .distribution = TEST_ZIPF, .empty = 1},
    {BF16, SIZES(64, 32, 96, 40), .distribution = TEST_ZIPF, .empty = 1},
    {F32, SIZES(64, 32, 96, 40), .distribution = TEST_ZIPF, .empty = 1},
    /* every slot the same expert; one expert in all */
    {BF16, SIZES(64, 32, 96, 20), .distribution = TEST_SAME},
    {BF16, SIZES(64, 32, 1, 5), .empty = 1},
    /* no tokens, one token, more tokens than a device has blocks for */
    {BF16, SIZES(64, 32, 96, 0)},
    {BF16, SIZES(64, 32, 96, 1)},
    {BF16, SIZES(64, 32, 2000, 700), .empty = 1},
    /* a table that is swept in slabs, on the simulated device's small L2 */
    {BF16, SIZES(64, 32, 9000, 700), .empty = 1},
    /* scores not asked for */
    {BF16, SIZES(64, 32, 96, 9), .no_scores_output = 1},
    /* rows apart, still aligned; rows apart and arrays off by one element */
    {BF16, SIZES(64, 32, 96, 9), .row_padding = 8, .empty = 1},
    {BF16, SIZES(64, 32, 96, 9), .row_padding = 3, .misalignment = 1},
    {F32, SIZES(64, 32, 96, 9), .row_padding = 1, .misalignment = 1},
    /* types that may differ from the data's */
    {BF16, SIZES(64, 32, 96, 9), .routing_dtype = FEX_DTYPE_F32},
    {F16, SIZES(64, 32, 96, 9), .index_type = FEX_INDEX_I64, .empty = 1},
    /* rows that no vector load fits, and that no group of lanes fills */
    {BF16, SIZES(1, 3, 50, 60), .empty = 1},
    {F16, SIZES(7, 1, 50, 60)},
    {F32, SIZES(7, 3, 50, 60), .empty = 1},
    {BF16, SIZES(320, 3, 50, 20)},
    /* few tokens, each shared by a cluster of 8, 4, 2 blocks; pairs that fill
     * no batch of a warp's */
    {BF16, SIZES(100, 100, 50, 1), .empty = 1},
    {F32, SIZES(260, 100, 50, 1), .empty = 1},
    {BF16, SIZES(320, 100, 50, 2), .empty = 1},
    {F16, SIZES(264, 300, 50, 3), .no_scores_output = 1},
    /* rows longer than a block reads at one time; many choices */
    {BF16, SIZES(4096, 3, 20, 6)},
    {BF16, SIZES(64, 4096, 96, 3), .empty = 1},
    {F16, SIZES(64, 8192, 96, 5), .row_padding = 5},
};

/* The same where all experts are multiplied, which is what these are for. */
static const case_spec dense_cases[] = {
    /* of one block of experts some tokens choose the same few again and again,
     * others do not; more of another than lanes sort in registers */
    {BF16, SIZES(8, 1320, 700, 20), .distribution = TEST_ZIPF},
    /* tiles of tokens, experts and columns that end anywhere; a token that has
     * chosen more of a block of experts than a warp reads ahead */
    {BF16, SIZES(136, 40, 150, 130), .empty = 1},
    {F16, SIZES(136, 40, 150, 130), .distribution = TEST_ZIPF},
    {BF16, SIZES(8, 1, 63, 65)},
    /* the same in a tile of more than one block of experts */
    {BF16, SIZES(8, 600, 2100, 20), .empty = 1},
    {F16, SIZES(8, 600, 2100, 20), .distribution = TEST_ZIPF},
    /* a block of experts that is chosen far more often than others */
    {BF16, SIZES(8, 40, 1300, 20), .distribution = TEST_ZIPF},
    {F16, SIZES(8, 80, 1300, 20), .distribution = TEST_ZIPF},
    /* and so often that its experts are counted, by a sort of few threads */
    {BF16, SIZES(8, 250, 1300, 20), .distribution = TEST_ZIPF},
    /* many blocks of experts in a range, one after the other in the same tile
     * of weights */
    {F16, SIZES(8, 300, 20000, 12)},
    /* more blocks of experts than a block of threads has warps, and in a range
     * of them more than a warp knows the beginnings of at one time */
    {BF16, SIZES(8, 300, 70000, 12)},
};

/* And where the matrix of what choices weigh is stored. */
static const case_spec matrix_cases[] = {
    /* first what shows most of what may be broken: many choices, most of them
     * repeats, */
    {BF16, SIZES(72, 1024, 300, 20), .distribution = TEST_ZIPF, .empty = 1},
    /* states summed over ranges of the experts, with tiles that end anywhere */
    {BF16, SIZES(136, 40, 3000, 20), .empty = 1},
    /* so many blocks of experts that a thread has more counters than one */
    {BF16, SIZES(8, 40, 40000, 20), .empty = 1},
    /* tiles of tokens, experts and columns that end anywhere */
    {BF16, SIZES(264, 24, 250, 140), .empty = 1},
    {F16, SIZES(264, 24, 250, 140), .distribution = TEST_ZIPF},
    {BF16, SIZES(72, 30, 250, 1)},
    /* more tiles than there are blocks, which take them in turn; of these some
     * have nothing to finish */
    {BF16, SIZES(72, 30, 700, 1300), .empty = 1},
    {F16, SIZES(504, 30, 1100, 500), .empty = 1},
    {BF16, SIZES(504, 30, 400, 500), .distribution = TEST_ZIPF},
    /* rows and choices with room behind */
    {BF16, SIZES(72, 30, 300, 140), .row_padding = 8, .empty = 1},
    {BF16, SIZES(72, 32, 300, 20), .choice_padding = 1, .empty = 1},
    {F16, SIZES(72, 33, 300, 20), .index_type = FEX_INDEX_I64,
     .routing_dtype = FEX_DTYPE_F32, .empty = 1},
    /* more choices than a warp lists of a token, and most of them repeats; all of
     * one expert, or of so few that warps share these */
    {BF16, SIZES(72, 512, 40, 20), .empty = 1},
    {F16, SIZES(72, 600, 1, 5)},
    {F16, SIZES(72, 1500, 700, 20), .choice_padding = 1, .empty = 1},
    {BF16, SIZES(72, 4096, 2000, 5), .distribution = TEST_ZIPF, .empty = 1},
    /* nearly as many as a token may have, and of no even number */
    {F16, SIZES(8, 8191, 3000, 4), .empty = 1},
    {F16, SIZES(8, 200, 300, 140), .distribution = TEST_ZIPF},
    /* repeats of one expert only, and of some of so many that others look alike */
    {BF16, SIZES(72, 100, 1, 20)},
    {BF16, SIZES(8, 200, 16384, 20), .distribution = TEST_ZIPF},
    /* of some tokens as many choices that are not the only one of an expert as a
     * warp has lanes, of others some more or less */
    {BF16, SIZES(8, 300, 3000, 64)},
    /* one choice */
    {F16, SIZES(72, 1, 300, 20), .empty = 1, .no_scores_output = 1},
    /* ranges of experts, and tiles of more tokens than are finished together */
    {F16, SIZES(8, 3, 3000, 300)},
    /* scores that nobody asked for, and are needed where f16 is no good */
    {BF16, SIZES(72, 32, 300, 20), .no_scores_output = 1},
};

/* Full tier: what it takes on a GPU for slabs and chunks of a table, and for
 * more tiles of pairs than one block counts. */
static const case_spec large_cases[] = {
    /* more tokens than the workspace of dense products is for at one time */
    {BF16, SIZES(8, 8192, 96, 4200), .empty = 1},
    /* and than that of the matrix of what choices weigh */
    {BF16, SIZES(8, 3, 16000, 8400), .empty = 1},
    {F16, SIZES(8, 3, 16000, 8400), .empty = 1},
    {BF16, SIZES(1024, 512, 20000, 100), .empty = 1},
    {F32, SIZES(64, 512, 5000, 1200), .distribution = TEST_ZIPF, .empty = 1},
};

/* And tiles of the widths that a GPU with 132 multiprocessors has of few experts
 * only where tokens are many; of the last more than one a multiprocessor. */
static const case_spec wide_cases[] = {
    {BF16, SIZES(1024, 32, 1024, 2048), .empty = 1},
    {F16, SIZES(1024, 32, 1024, 2048), .distribution = TEST_ZIPF},
    {BF16, SIZES(1024, 32, 1024, 4500), .distribution = TEST_ZIPF},
    {F16, SIZES(1024, 32, 1024, 4500), .empty = 1},
    {BF16, SIZES(520, 128, 2500, 9000), .empty = 1},
    /* as many experts as there may be */
    {BF16, SIZES(64, 4096, 262144, 200), .empty = 1},
    /* ranges of experts */
    {BF16, SIZES(1024, 2048, 40000, 600), .empty = 1},
    {F16, SIZES(1024, 1000, 20000, 300), .distribution = TEST_ZIPF},
};

START_TEST(matches_reference)
{
    case_spec spec = cases[_i];
    spec.seed = (uint64_t)_i + 1;
    device_suite_check(&spec, FEX_PASS_FORWARD);
}
END_TEST

START_TEST(dense_matches_reference)
{
    case_spec spec = dense_cases[_i];
    spec.seed = (uint64_t)_i + 101;
    device_suite_check(&spec, FEX_PASS_FORWARD);
}
END_TEST

START_TEST(wide_matches_reference)
{
    case_spec spec = wide_cases[_i];
    spec.seed = (uint64_t)_i + 301;
    device_suite_check(&spec, FEX_PASS_FORWARD);
}
END_TEST

START_TEST(matrix_matches_reference)
{
    case_spec spec = matrix_cases[_i];
    spec.seed = (uint64_t)_i + 201;
    device_suite_check(&spec, FEX_PASS_FORWARD);
}
END_TEST

START_TEST(large_matches_reference)
{
    device_suite_check(&large_cases[_i], FEX_PASS_FORWARD);
}
END_TEST

START_TEST(cross_product)
{
    device_suite_cross_product(FEX_PASS_FORWARD);
}
END_TEST

/* An index far beyond the table, which as an offset would wrap around. */
START_TEST(huge_indices_are_empty)
{
    const case_spec spec = {BF16, SIZES(64, 32, 96, 4),
                            .index_type = FEX_INDEX_I64};
    static const int64_t huge[] = {INT64_MAX, INT64_MIN, INT64_C(1) << 32,
                                   (INT64_C(1) << 32) + 5, -96,
                                   -(INT64_C(1) << 32)};
    device_case c;
    device_case_make(&spec, &c);
    memcpy(c.arrays[CASE_INDICES].initial, huge, sizeof huge);
    device_case_place(&c, &suite_device);
    ck_assert_int_eq(device_case_reference(&c, FEX_PASS_FORWARD), FEX_OK);
    device_case_run(&c, FEX_PASS_FORWARD);
    device_case_check(&c, FEX_PASS_FORWARD);
    const float *const scores =
        (const float *)(const void *)c.arrays[CASE_SCORES].result;
    for (size_t i = 0; i < sizeof huge / sizeof *huge; i++)
        ck_assert(scores[i] == 0);
    device_case_destroy(&c);
}
END_TEST

/* A batch is padded with tokens that chose nothing, and a token with slots that
 * hold nothing: what else stands there may be anything. */
START_TEST(padding_may_be_nan)
{
    const case_spec spec = {F32, SIZES(160, 32, 96, 4)};
    device_case c;
    device_case_make(&spec, &c);
    int32_t *const indices = (void *)c.arrays[CASE_INDICES].initial;
    float *const hidden = (void *)c.arrays[CASE_HIDDEN_STATES].initial;
    float *const routing = (void *)c.arrays[CASE_ROUTING_WEIGHTS].initial;
    for (int64_t k = 0; k < spec.top_k + 1; k++) { /* token 0, a slot of 1 */
        indices[k] = -1;
        routing[k] = NAN;
    }
    for (int64_t i = 0; i < spec.hidden_size; i++)
        hidden[i] = NAN;
    device_case_place(&c, &suite_device);
    ck_assert_int_eq(device_case_reference(&c, FEX_PASS_FORWARD), FEX_OK);
    device_case_run(&c, FEX_PASS_FORWARD);
    device_case_check(&c, FEX_PASS_FORWARD);
    device_case_destroy(&c);
}
END_TEST

/* Sums over all experts must not show the rows of those not chosen. */
static const case_spec unchosen_cases[] = {
    {BF16, SIZES(64, 32, 200, 70)},
    {F16, SIZES(136, 4, 200, 70)},
    {F32, SIZES(64, 32, 200, 7)},
    /* and those of ranges of experts */
    {BF16, SIZES(64, 32, 3000, 20)},
};

START_TEST(rows_not_chosen_may_be_nan)
{
    enum { UNCHOSEN = 77 };
    const case_spec *const spec = &unchosen_cases[_i];
    device_case c;
    device_case_make(spec, &c);
    int32_t *const indices = (void *)c.arrays[CASE_INDICES].initial;
    for (int64_t i = 0; i < spec->num_tokens * spec->top_k; i++)
        if (indices[i] == UNCHOSEN)
            indices[i] = -1;
    for (int which = CASE_DOWN_WEIGHTS; which <= CASE_UP_WEIGHTS; which++)
        for (int64_t i = 0; i < spec->hidden_size; i++) {
            const double values[] = {NAN, INFINITY, -INFINITY};
            fex_convert_store(spec->dtype, c.arrays[which].initial,
                              UNCHOSEN * spec->hidden_size + i, 1,
                              &values[i % 3]);
        }
    device_suite_check_made(&c, FEX_PASS_FORWARD);
}
END_TEST

/* Numbers near the ends of what a type holds: where 16 bits are multiplied,
 * nothing may be lost or become infinite. */
typedef struct scaled_case {
    case_spec spec;
    int which;
    double factor;
} scaled_case;

static const scaled_case scaled_cases[] = {
    {{BF16, SIZES(64, 32, 96, 20)}, CASE_UP_WEIGHTS, 0x1p-30},
    {{BF16, SIZES(64, 32, 96, 20)}, CASE_UP_WEIGHTS, 0x1p-100},
    {{BF16, SIZES(64, 32, 96, 20)}, CASE_UP_WEIGHTS, 0x1p13},
    {{BF16, SIZES(64, 32, 96, 20)}, CASE_UP_WEIGHTS, 0x1p100},
    {{F16, SIZES(64, 32, 96, 20)}, CASE_UP_WEIGHTS, 0x1p13},
    {{BF16, SIZES(64, 32, 96, 20)}, CASE_ROUTING_WEIGHTS, 0x1p-80},
    {{BF16, SIZES(64, 32, 96, 20)}, CASE_ROUTING_WEIGHTS, 0x1p80},
    {{F16, SIZES(64, 32, 96, 20), .routing_dtype = FEX_DTYPE_F32},
     CASE_ROUTING_WEIGHTS,
     0x1p13},
    {{F16, SIZES(64, 32, 96, 20)}, CASE_ROUTING_WEIGHTS, 0x1p-6},
    /* of many choices, most of them repeats */
    {{BF16, SIZES(64, 1000, 96, 20)}, CASE_ROUTING_WEIGHTS, 0x1p-80},
    {{F16, SIZES(72, 600, 300, 20)}, CASE_UP_WEIGHTS, 0x1p13},
    /* sums over ranges of experts */
    {{BF16, SIZES(64, 32, 3000, 20)}, CASE_UP_WEIGHTS, 0x1p-100},
    {{F16, SIZES(64, 32, 3000, 20)}, CASE_UP_WEIGHTS, 0x1p13},
    {{BF16, SIZES(64, 32, 3000, 20)}, CASE_ROUTING_WEIGHTS, 0x1p-80},
};

/* In more than one piece of a tile. */
static const scaled_case wide_scaled_cases[] = {
    {{BF16, SIZES(504, 4, 96, 500)}, CASE_UP_WEIGHTS, 0x1p13},
    {{F16, SIZES(504, 4, 96, 500)}, CASE_ROUTING_WEIGHTS, 0x1p-12},
};

/* Multiplies every step-th row from the first on. */
static void scale_rows(case_array *a, int64_t step, double factor)
{
    for (int64_t row = 0; row < a->rows; row += step)
        for (int64_t i = row * a->columns; i < (row + 1) * a->columns; i++) {
            double value;
            fex_convert_load(a->dtype, a->initial, i, 1, &value);
            value *= factor;
            fex_convert_store(a->dtype, a->initial, i, 1, &value);
            fex_convert_load(a->dtype, a->initial, i, 1, &value);
            a->exact[i] = (float)value;
        }
}

static void check_scaled(const scaled_case *scaled)
{
    device_case c;
    device_case_make(&scaled->spec, &c);
    scale_rows(&c.arrays[scaled->which], 1, scaled->factor);
    device_suite_check_made(&c, FEX_PASS_FORWARD);
}

START_TEST(numbers_may_be_large_or_small)
{
    check_scaled(&scaled_cases[_i]);
}
END_TEST

START_TEST(so_may_those_of_wide_tiles)
{
    check_scaled(&wide_scaled_cases[_i]);
}
END_TEST

/* Small rows beside others a good deal larger, by tokens that chose small ones
 * only: in 16 bits both have to have room. */
START_TEST(small_rows_keep_their_bits)
{
    const case_spec spec = {BF16, SIZES(64, 32, 96, 20)};
    device_case c;
    device_case_make(&spec, &c);
    int32_t *const indices = (void *)c.arrays[CASE_INDICES].initial;
    for (int64_t i = 0; i < spec.num_tokens * spec.top_k; i++)
        indices[i] &= ~1;
    scale_rows(&c.arrays[CASE_UP_WEIGHTS], 2, 0x1p-24);
    device_suite_check_made(&c, FEX_PASS_FORWARD);
}
END_TEST

/* A token whose heaviest expert adds nothing shows what light ones add. */
START_TEST(light_weights_keep_their_bits)
{
    enum { HEAVY = 0 };
    const case_spec spec = {F16, SIZES(64, 32, 96, 20),
                            .routing_dtype = FEX_DTYPE_F32};
    device_case c;
    device_case_make(&spec, &c);
    case_array *const routing = &c.arrays[CASE_ROUTING_WEIGHTS];
    case_array *const up = &c.arrays[CASE_UP_WEIGHTS];
    int32_t *const indices = (void *)c.arrays[CASE_INDICES].initial;
    float *const weights = (void *)routing->initial;
    scale_rows(up, 1, 0x1p14);
    scale_rows(up, up->rows, 0); /* of HEAVY */
    for (int64_t i = 0; i < spec.num_tokens * spec.top_k; i++) {
        const int heavy = i % spec.top_k == 0;
        indices[i] = heavy ? HEAVY : indices[i] == HEAVY ? 5 : indices[i];
        weights[i] *= heavy ? 0x1p13f : 0x1p-13f;
        routing->exact[i] = weights[i];
    }
    device_suite_check_made(&c, FEX_PASS_FORWARD);
}
END_TEST

/* Finite numbers, which nothing computes anew. */
START_TEST(what_the_workspace_held_does_not_count)
{
    enum { ANY_BYTE = 0x3c };
    static const case_spec specs[] = {
        {BF16, SIZES(264, 24, 250, 140), .empty = 1},
        {F16, SIZES(264, 24, 250, 140), .empty = 1},
    };
    device_case c;
    device_case_create(&suite_device, &specs[_i], &c);
    ck_assert_int_eq(device_case_reference(&c, FEX_PASS_FORWARD), FEX_OK);
    void *const bytes = malloc(c.workspace.bytes);
    ck_assert_ptr_nonnull(bytes);
    memset(bytes, ANY_BYTE, c.workspace.bytes);
    test_buffer_upload(&suite_device, &c.workspace, bytes);
    free(bytes);
    device_case_run(&c, FEX_PASS_FORWARD);
    device_case_check(&c, FEX_PASS_FORWARD);
    device_case_destroy(&c);
}
END_TEST

/* Of lists in any order, and sums of many repeats. */
START_TEST(repeats_are_summed_alike)
{
    const case_spec spec = {BF16, SIZES(72, 512, 40, 20)};
    device_case c;
    device_case_create(&suite_device, &spec, &c);
    uint64_t first = 0;
    for (int i = 0; i < 4; i++) {
        device_case_reset(&c, FEX_PASS_FORWARD);
        device_case_run(&c, FEX_PASS_FORWARD);
        device_case_download(&c, FEX_PASS_FORWARD);
        const uint64_t digest = device_case_digest(&c, FEX_PASS_FORWARD);
        first = i == 0 ? digest : first;
        ck_assert_uint_eq(digest, first);
    }
    device_case_destroy(&c);
}
END_TEST

static TCase *add_group(Suite *suite, const char *name)
{
    TCase *const tests = tcase_create(name);
    tcase_set_tags(tests, name);
    tcase_add_checked_fixture(tests, device_suite_go_on, NULL);
    suite_add_tcase(suite, tests);
    return tests;
}

static void add_cases(Suite *suite)
{
    tcase_add_loop_test(add_group(suite, "cases"), matches_reference, 0,
                        (int)(sizeof cases / sizeof *cases));
}

static void add_dense_cases(Suite *suite)
{
    tcase_add_loop_test(add_group(suite, "dense"), dense_matches_reference, 0,
                        (int)(sizeof dense_cases / sizeof *dense_cases));
}

static void add_matrix_cases(Suite *suite)
{
    TCase *const tests = add_group(suite, "matrix");
    tcase_add_loop_test(tests, matrix_matches_reference, 0,
                        (int)(sizeof matrix_cases / sizeof *matrix_cases));
    tcase_add_loop_test(
        tests, so_may_those_of_wide_tiles, 0,
        (int)(sizeof wide_scaled_cases / sizeof *wide_scaled_cases));
    tcase_add_test(tests, repeats_are_summed_alike);
    tcase_add_loop_test(tests, what_the_workspace_held_does_not_count, 0, 2);
}

static void add_numbers(Suite *suite)
{
    TCase *const tests = add_group(suite, "numbers");
    tcase_add_test(tests, huge_indices_are_empty);
    tcase_add_test(tests, padding_may_be_nan);
    tcase_add_loop_test(
        tests, rows_not_chosen_may_be_nan, 0,
        (int)(sizeof unchosen_cases / sizeof *unchosen_cases));
    tcase_add_loop_test(tests, numbers_may_be_large_or_small, 0,
                        (int)(sizeof scaled_cases / sizeof *scaled_cases));
    tcase_add_test(tests, small_rows_keep_their_bits);
    tcase_add_test(tests, light_weights_keep_their_bits);
}

static const struct {
    const char *family; /* of which they tell most */
    void (*add)(Suite *suite);
} groups[] = {
    {"gather", add_cases},
    {"gather", add_numbers},
    {"dense", add_dense_cases},
    {"matrix", add_matrix_cases},
};

static void add_groups(Suite *suite, const char *family, int of_family)
{
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
        if ((strcmp(groups[i].family, family) == 0) == of_family)
            groups[i].add(suite);
}

/* Those of the family that is asked for are first, since suites of broken
 * kernels stop at the first failure. */
static void fill(Suite *suite, int full)
{
    const char *const asked = getenv("FLASHEXPERT_FAMILY");
    const char *const family = asked != NULL ? asked : "gather";
    add_groups(suite, family, 1);
    add_groups(suite, family, 0);
    if (!full)
        return;
    tcase_add_loop_test(add_group(suite, "wide"), wide_matches_reference, 0,
                        (int)(sizeof wide_cases / sizeof *wide_cases));
    TCase *const all = tcase_create("full");
    tcase_add_loop_test(all, large_matches_reference, 0,
                        (int)(sizeof large_cases / sizeof *large_cases));
    tcase_add_test(all, cross_product);
    suite_add_tcase(suite, all);
}

int main(int argc, char **argv)
{
    return device_suite_main(argc, argv, "forward", fill);
}
