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
    {"sm_90a", F16, 8, 384, 16384, 1},
    {"sm_80", BF16, 1024, 32, 1024, 0},
    {"sm_100", BF16, 1024, 32, 1024, 0},
    {"sm_90a", FEX_DTYPE_F32, 1024, 32, 1024, 0},
    {"sm_90a", BF16, 1028, 32, 1024, 0},
    {"sm_90a", BF16, 1024, 385, 1024, 0},
    {"sm_90a", BF16, 1024, 32, 16385, 0},
    {"sm_90a", BF16, 8192, 32, 16384, 1},
    {"sm_90a", BF16, 8200, 32, 16384, 0},
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
    const fex_problem problem = test_problem(BF16, 1024, 384, 1024);
    fex_kernel_spec specs[FEX_KERNELS_MAX];
    const size_t count = fex_matrix_forward.describe(
        &problem, hopper, fex_geometry_for(&problem, 16), specs);
    ck_assert_uint_eq(count, 2);
    for (size_t i = 0; i < count; i++)
        ck_assert_int_le(specs[i].shared_bytes, hopper->shared_max);
}
END_TEST

/* ---- Cutting up ---------------------------------------------------------- */

/* On 132 multiprocessors. */
static const struct {
    fex_dtype dtype;
    int64_t hidden_size, num_experts, num_tokens;
    int64_t scores_tiles, states_tiles;
    int scores_cluster, states_cluster;
} cuts[] = {
    /* as many blocks to a tile as there is room for, */
    {BF16, 1024, 1024, 128, 4, 4, 4, 4},
    {BF16, 1024, 1024, 1024, 32, 32, 2, 2},
    {BF16, 1024, 4096, 2048, 256, 64, 1, 2},
    {BF16, 1024, 1024, 4097, 132, 132, 1, 1},
    /* and as what there is to multiply can be shared by */
    {BF16, 64, 64, 1, 1, 1, 1, 1},
    {BF16, 128, 192, 1, 1, 1, 2, 2},
    {F16, 256, 64, 1, 1, 1, 4, 2},
};

START_TEST(blocks_share_tiles)
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
    ck_assert_int_eq(scores.tiles, cuts[_i].scores_tiles);
    ck_assert_int_eq(scores.cluster, cuts[_i].scores_cluster);
    ck_assert_int_eq(states.tiles, cuts[_i].states_tiles);
    ck_assert_int_eq(states.cluster, cuts[_i].states_cluster);
}
END_TEST

/* ---- Workspace ----------------------------------------------------------- */

START_TEST(workspace_is_bounded)
{
    const int64_t tables[] = {1, 1000, 16384};
    for (size_t i = 0; i < 2 * COUNT(tables); i++) {
        const fex_problem problem =
            test_problem(i % 2 ? BF16 : F16, 1024, 384, tables[i / 2]);
        const size_t tables_bytes = (size_t)tables[i / 2] * 1024 * 2;
        size_t before = 0;
        for (int64_t tokens = 1; tokens < 1 << 24; tokens *= 2) {
            const size_t size =
                fex_matrix_forward.workspace_size(&problem, tokens);
            ck_assert_uint_ge(size, before);
            before = size;
        }
        ck_assert_uint_le(before, ((size_t)130 << 20) + tables_bytes);
    }
}
END_TEST

START_TEST(a_chunk_is_whole_tiles)
{
    const fex_problem problem = test_problem(BF16, 1024, 32, 15000);
    const int64_t most = fex_matrix_chunk(&problem, 1 << 24);
    ck_assert_int_gt(most, 0);
    ck_assert_int_eq(most % FEX_MATRIX_TOKENS, 0);
    ck_assert_int_le(most * fex_matrix_stride(&problem) * 2, 128 << 20);
    ck_assert_int_eq(fex_matrix_chunk(&problem, 77), 77);
}
END_TEST

static void fill(TCase *tests)
{
    tcase_add_loop_test(tests, applies_where_kernels_run, 0, (int)COUNT(uses));
    tcase_add_test(tests, kernels_fit_the_architecture);
    tcase_add_loop_test(tests, blocks_share_tiles, 0, (int)COUNT(cuts));
    tcase_add_test(tests, workspace_is_bounded);
    tcase_add_test(tests, a_chunk_is_whole_tiles);
}

int main(void)
{
    return test_suite_main("matrix", fill);
}
