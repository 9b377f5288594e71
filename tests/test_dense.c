/* SPDX-License-Identifier: Apache-2.0 */
/* test_dense.c - the dense family without a device: where it is chosen, what
 * its engines ask for, and its workspace. */
#include "config.h"

#include "dense.h"
#include "plan.h"
#include "problem_case.h"
#include "suite.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- Choosing ------------------------------------------------------------ */

#define BF16 FEX_DTYPE_BF16
#define F32 FEX_DTYPE_F32

static const struct {
    const char *architecture;
    fex_dtype dtype;
    int64_t hidden_size, top_k, num_experts, num_tokens;
    const char *family, *chosen;
} choices[] = {
    /* dense choices of many tokens */
    {"sm_80", BF16, 1024, 4096, 32768, 1000, NULL, "dense"},
    {"sm_89", FEX_DTYPE_F16, 1024, 8192, 32768, 1000, NULL, "dense"},
    {"sm_80", BF16, 1024, 4096, 32768, 8, NULL, "gather"},
    {"sm_80", BF16, 1024, 32, 32768, 1000, NULL, "gather"},
    {"sm_90a", FEX_DTYPE_F16, 1024, 1024, 32768, 1000, NULL, "dense"},
    /* fewer or less dense ones where asked for */
    {"sm_80", BF16, 1024, 1, 32768, 1, "dense", "dense"},
    {"sm_80", BF16, 1024, 512, 32768, 64, "gather", "gather"},
    /* what tensor cores or the sort cannot do */
    {"sm_75", BF16, 1024, 512, 32768, 64, "dense", "gather"},
    {"sm_80", F32, 1024, 512, 32768, 64, "dense", "gather"},
    {"sm_80", BF16, 1028, 512, 32768, 64, "dense", "gather"},
    {"sm_80", BF16, 8, 1, 530304, 64, "dense", "dense"},
    {"sm_80", BF16, 8, 1, 530305, 64, "dense", "gather"},
};

START_TEST(chosen_where_choices_are_dense)
{
    const fex_problem problem =
        test_problem(choices[_i].dtype, choices[_i].hidden_size,
                   choices[_i].top_k, choices[_i].num_experts);
    fex_device device;
    fex_plan plan;
    fex_device_typical(
        fex_architecture_by_name(choices[_i].architecture), &device);
    fex_plan_make(&problem, &device, FEX_PASS_FORWARD, choices[_i].family,
                  &plan);
    ck_assert_str_eq(fex_plan_find(&plan, choices[_i].num_tokens)->name,
                     choices[_i].chosen);
}
END_TEST

/* ---- Engines ------------------------------------------------------------- */

START_TEST(kernels_fit_every_architecture)
{
    size_t count;
    const fex_architecture *const table = fex_architecture_table(&count);
    const int64_t top_ks[] = {1, 512, 4096, 8192};
    const int64_t tables[] = {1, 102400, 450000};
    for (size_t a = 0; a < count; a++) {
        ck_assert_int_eq(fex_dense_engine_for(&table[a]) != NULL,
                         table[a].major >= 8);
        for (size_t i = 0; i < COUNT(top_ks) * COUNT(tables); i++) {
            fex_kernel_spec specs[FEX_KERNELS_MAX];
            const fex_problem problem =
                test_problem(i % 2 ? BF16 : FEX_DTYPE_F16, 1024,
                           top_ks[i % COUNT(top_ks)],
                           tables[i / COUNT(top_ks)]);
            if (!fex_dense_forward.applies(&problem, &table[a]))
                continue;
            const size_t kernels = fex_dense_forward.describe(
                &problem, &table[a], fex_geometry_for(&problem, 16), specs);
            for (size_t k = 0; k < kernels; k++)
                ck_assert_int_le(specs[k].shared_bytes, table[a].shared_max);
        }
    }
}
END_TEST

/* The workspace is laid out by tiles of one size. */
START_TEST(sums_of_states_fit_the_workspace)
{
    size_t count;
    const fex_architecture *const table = fex_architecture_table(&count);
    for (size_t a = 0; a < count; a++) {
        const fex_dense_engine *const engine = fex_dense_engine_for(&table[a]);
        for (size_t i = 0; engine != NULL && i < COUNT(engine->states); i++) {
            ck_assert_int_eq(engine->states[i].across, FEX_DENSE_TILE);
            ck_assert_int_gt(engine->states[i].tokens, 0);
            ck_assert_int_eq(engine->states[i].tokens % FEX_DENSE_TILE, 0);
        }
    }
}
END_TEST

static const struct {
    const char *architecture;
    int64_t top_k, num_experts;
    int tokens;
} sorts[] = {
    {"sm_90a", 4096, 102400, 8}, {"sm_90a", 4096, 300000, 4},
    {"sm_90a", 4096, 450000, 2}, {"sm_80", 4096, 102400, 4},
    {"sm_89", 4096, 102400, 2},  {"sm_89", 8192, 102400, 1},
    {"sm_89", 4096, 300000, 0},  {"sm_90a", 8192, 128, 4},
};

/* As many tokens as there is shared memory for. */
START_TEST(a_sort_takes_what_fits)
{
    const fex_problem problem =
        test_problem(BF16, 1024, sorts[_i].top_k, sorts[_i].num_experts);
    ck_assert_int_eq(fex_dense_sort_tokens(&problem, fex_architecture_by_name(
                                               sorts[_i].architecture)),
                     sorts[_i].tokens);
}
END_TEST

START_TEST(workspace_is_bounded)
{
    const int64_t top_ks[] = {1, 512, 4096, 8192};
    for (size_t i = 0; i < COUNT(top_ks); i++) {
        const fex_problem problem = test_problem(BF16, 1024, top_ks[i], 102400);
        ck_assert_uint_le(fex_dense_forward.workspace_size(&problem, 1 << 24),
                          (size_t)300 << 20);
    }
}
END_TEST

static void fill(TCase *tests)
{
    tcase_add_loop_test(tests, chosen_where_choices_are_dense, 0,
                        (int)COUNT(choices));
    tcase_add_test(tests, kernels_fit_every_architecture);
    tcase_add_test(tests, sums_of_states_fit_the_workspace);
    tcase_add_loop_test(tests, a_sort_takes_what_fits, 0, (int)COUNT(sorts));
    tcase_add_test(tests, workspace_is_bounded);
}

int main(void)
{
    return test_suite_main("dense", fill);
}
