/* SPDX-License-Identifier: Apache-2.0 */
/* test_variants.c - which family serves what, with which kernels and how much
 * workspace, and how a launch is put: all that is known without a device. */
#include "config.h"

#include <string.h>

#include "environment.h"
#include "problem_case.h"
#include "suite.h"
#include "variants.h"

#define EXPERTS 1000

/* ---- Geometry ------------------------------------------------------------ */

static const struct {
    fex_dtype dtype;
    int64_t hidden_size;
    size_t alignment;
    int vector_bytes, group;
} geometries[] = {
    /* the widest loads that alignment and length of a row allow */
    {FEX_DTYPE_BF16, 1024, 16, 16, 32},
    {FEX_DTYPE_BF16, 1024, 256, 16, 32},
    {FEX_DTYPE_BF16, 1024, 8, 8, 32},
    {FEX_DTYPE_BF16, 1024, 16 | 2, 2, 32},
    {FEX_DTYPE_F32, 1024, 4, 4, 32},
    {FEX_DTYPE_F16, 1028, 16, 8, 32},
    {FEX_DTYPE_F16, 1026, 16, 4, 32},
    {FEX_DTYPE_F16, 1025, 16, 2, 32},
    {FEX_DTYPE_F32, 7, 16, 4, 8},
    /* no more lanes than a row has loads for */
    {FEX_DTYPE_BF16, 64, 16, 16, 8},
    {FEX_DTYPE_BF16, 8, 16, 16, 1},
    {FEX_DTYPE_BF16, 1, 16, 2, 1},
    {FEX_DTYPE_BF16, 72, 16, 16, 16},
};

START_TEST(rows_are_read_as_wide_as_they_allow)
{
    const fex_problem problem = test_problem(
        geometries[_i].dtype, geometries[_i].hidden_size, 8, EXPERTS);
    const fex_geometry geometry =
        fex_geometry_for(&problem, geometries[_i].alignment);
    ck_assert_int_eq(geometry.vector_bytes, geometries[_i].vector_bytes);
    ck_assert_int_eq(geometry.group, geometries[_i].group);
}
END_TEST

START_TEST(a_family_has_to_exist)
{
    test_ok(fex_variant_check_family(NULL));
    test_ok(fex_variant_check_family("gather"));
    ck_assert_int_eq(fex_variant_check_family("gathr"),
                     FEX_ERROR_INVALID_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(fex_last_error(), "\"gathr\""));
}
END_TEST

/* What users read of FLASHEXPERT_FAMILY. */
static const char *meaning_of_family(void)
{
#define TEST_MEANING(field, variable, meaning)                                 \
    if (strcmp(variable, "FLASHEXPERT_FAMILY") == 0)                           \
        return meaning;
    FEX_ENVIRONMENT_MAP(TEST_MEANING)
#undef TEST_MEANING
    return "";
}

START_TEST(the_environment_names_each)
{
    size_t count;
    const fex_variant *const *const table = fex_variant_table(&count);
    for (size_t i = 0; i < count; i++)
        ck_assert_msg(strstr(meaning_of_family(), table[i]->name) != NULL,
                      "%s", table[i]->name);
}
END_TEST

/* ---- Families ------------------------------------------------------------ */

static const int64_t hidden_sizes[] = {1, 7, 64, 1024, 4096, 100000};

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* What a check of one family that applies gets. */
typedef void check_function(const fex_problem *problem,
                            const fex_architecture *architecture,
                            const fex_variant *variant);

static void for_families(const fex_problem *problem,
                         const fex_architecture *architecture,
                         check_function *check)
{
    size_t count;
    const fex_variant *const *const table = fex_variant_table(&count);
    for (size_t i = 0; i < count; i++)
        if (table[i]->applies(problem, architecture))
            check(problem, architecture, table[i]);
}

static void for_everything(check_function *check)
{
    size_t architectures;
    const fex_architecture *const table =
        fex_architecture_table(&architectures);
    for (size_t a = 0; a < architectures; a++)
        for (size_t h = 0; h < COUNT(hidden_sizes); h++)
            for (int d = FEX_DTYPE_F16; d <= FEX_DTYPE_F32; d++) {
                const fex_problem problem =
                    test_problem((fex_dtype)d, hidden_sizes[h], 8, EXPERTS);
                for_families(&problem, &table[a], check);
            }
}

static void check_last(const fex_problem *problem,
                       const fex_architecture *architecture,
                       const fex_variant *variant)
{
    const fex_variant *const last = fex_variant_last(variant->pass);
    ck_assert_int_eq(last->pass, variant->pass);
    ck_assert(last->applies(problem, architecture));
    ck_assert_int_eq(last->vector_bytes, 0);
}

START_TEST(the_last_serves_everything)
{
    for_everything(check_last);
}
END_TEST

/* A kernel's constants have names of their own, so that its prelude
 * compiles. */
static void check_spec(const fex_kernel_spec *spec,
                       const fex_architecture *architecture)
{
    ck_assert_ptr_nonnull(spec->file);
    ck_assert_ptr_eq(spec->architecture, architecture);
    ck_assert_uint_ge(spec->function_count, 1);
    ck_assert_uint_le(spec->function_count, FEX_FUNCTIONS_MAX);
    ck_assert_uint_le(spec->constant_count, FEX_CONSTANTS_MAX);
    for (size_t i = 0; i < spec->constant_count; i++)
        for (size_t j = 0; j < i; j++)
            ck_assert_str_ne(spec->constants[i].name, spec->constants[j].name);
}

static void check_kernels(const fex_problem *problem,
                          const fex_architecture *architecture,
                          const fex_variant *variant)
{
    fex_kernel_spec specs[FEX_KERNELS_MAX];
    const size_t count = variant->describe(
        problem, architecture, fex_geometry_for(problem, 16), specs);
    ck_assert_uint_ge(count, 1);
    ck_assert_uint_le(count, FEX_KERNELS_MAX);
    for (size_t i = 0; i < count; i++)
        check_spec(&specs[i], architecture);
}

START_TEST(kernels_are_described)
{
    for_everything(check_kernels);
}
END_TEST

/* What the number of experts decides of a kernel: for gathering, how wide
 * chunks of columns are and in digits of how many bits pairs are sorted; for
 * the dense family, what is laid out by blocks of experts, the tile of scores,
 * and how far routes are read ahead; for the matrix family, how many blocks of
 * experts are counted and how many choices a tile has. Gathered dot products, the sums of the
 * tables' gradients and the cluster family's kernel do not depend on it. */
static struct {
    const char *file, *constant;
    int seen;
} by_experts[] = {
    {"spmm_gather.cu", "GROUP", 0},
    {"sort_pairs.cu", "DIGIT_BITS", 0},
    {"sort_routes.cu", "BLOCKS", 0},
    {"sort_routes.cu", "TOKENS", 0},
    {"sort_routes.cu", "SHARED_BYTES", 0},
    {"dense_scores_wgmma.cu", "TILE_EXPERTS", 0},
    {"dense_scores_wgmma.cu", "STAGES", 0},
    {"dense_scores_wgmma.cu", "SHARED_BYTES", 0},
    {"dense_states_wgmma.cu", "ROUNDS", 0},
    {"dense_states_wgmma.cu", "BLOCKS_LONG", 0},
    {"dense_states_mma.cu", "ROUNDS", 0},
    {"matrix_lists.cu", "COUNTERS", 0},
    {"matrix_lists.cu", "SHARED_BYTES", 0},
    {"matrix_scores.cu", "AHEAD", 0},
};

static void note_difference(const char *file, const char *constant)
{
    for (size_t i = 0; i < COUNT(by_experts); i++)
        if (strcmp(by_experts[i].file, file) == 0 &&
            strcmp(by_experts[i].constant, constant) == 0) {
            by_experts[i].seen = 1;
            return;
        }
    ck_abort_msg("%s of %s depends on the number of experts", constant, file);
}

static void compare_specs(const fex_kernel_spec *a, const fex_kernel_spec *b)
{
    ck_assert_str_eq(a->file, b->file);
    ck_assert_uint_eq(a->function_count, b->function_count);
    for (size_t i = 0; i < a->function_count; i++)
        ck_assert_str_eq(a->functions[i], b->functions[i]);
    ck_assert_uint_eq(a->constant_count, b->constant_count);
    for (size_t i = 0; i < a->constant_count; i++) {
        ck_assert_str_eq(a->constants[i].name, b->constants[i].name);
        if (a->constants[i].value != b->constants[i].value)
            note_difference(a->file, a->constants[i].name);
    }
}

static void compare_experts(const fex_problem *problem,
                            const fex_architecture *architecture,
                            const fex_variant *variant)
{
    static const int64_t numbers[] = {1,    100,    2000,     2500,
                                      5000, 100000, 10000000, INT32_MAX};
    fex_kernel_spec specs[FEX_KERNELS_MAX], others[FEX_KERNELS_MAX], check;
    fex_problem other = *problem;
    const fex_geometry geometry = fex_geometry_for(problem, 16);
    const size_t count =
        variant->describe(problem, architecture, geometry, specs);
    for (size_t n = 0; n < COUNT(numbers); n++) {
        other.num_experts = numbers[n];
        if (!variant->applies(&other, architecture))
            continue;
        ck_assert_uint_eq(
            variant->describe(&other, architecture, geometry, others), count);
        for (size_t i = 0; i < count; i++)
            compare_specs(&specs[i], &others[i]);
        fex_describe_check(problem, architecture, &check);
        fex_describe_check(&other, architecture, others);
        compare_specs(&check, others);
    }
}

/* For lists of choices that are short, and so long that they leave little
 * shared memory for anything else. */
static void check_experts(const fex_problem *problem,
                          const fex_architecture *architecture,
                          const fex_variant *variant)
{
    fex_problem longer = *problem;
    longer.top_k = 3000;
    compare_experts(problem, architecture, variant);
    if (variant->applies(&longer, architecture))
        compare_experts(&longer, architecture, variant);
}

START_TEST(experts_are_compiled_in_where_said)
{
    for_everything(check_experts);
    for (size_t i = 0; i < COUNT(by_experts); i++)
        ck_assert_msg(by_experts[i].seen,
                      "%s of %s no longer depends on the number of experts",
                      by_experts[i].constant, by_experts[i].file);
}
END_TEST

/* And by steps: no number of experts is compiled in itself. */
static void check_one_more(const fex_problem *problem,
                           const fex_architecture *architecture,
                           const fex_variant *variant)
{
    fex_kernel_spec specs[FEX_KERNELS_MAX], others[FEX_KERNELS_MAX];
    fex_problem other = *problem;
    other.num_experts += 1; /* of the same block of experts */
    const fex_geometry geometry = fex_geometry_for(problem, 16);
    const size_t count =
        variant->describe(problem, architecture, geometry, specs);
    variant->describe(&other, architecture, geometry, others);
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < specs[i].constant_count; j++)
            ck_assert_int_eq(specs[i].constants[j].value,
                             others[i].constants[j].value);
}

START_TEST(one_more_expert_is_the_same_kernels)
{
    for_everything(check_one_more);
}
END_TEST

/* ---- Workspaces ---------------------------------------------------------- */

START_TEST(workspaces_grow_with_tokens)
{
    size_t count;
    const fex_variant *const *const table = fex_variant_table(&count);
    for (size_t i = 0; i < count; i++)
        for (size_t h = 0; h < COUNT(hidden_sizes); h++) {
            const fex_problem problem =
                test_problem(FEX_DTYPE_BF16, hidden_sizes[h], 32, EXPERTS);
            size_t previous = 0;
            for (int64_t tokens = 0; tokens < 10000000;
                 tokens += tokens / 9 + 1) {
                const size_t bytes =
                    table[i]->workspace_size(&problem, tokens);
                ck_assert_msg(bytes >= previous,
                              "%s needs less for %d tokens than for fewer",
                              table[i]->name, (int)tokens);
                previous = bytes;
            }
        }
}
END_TEST

START_TEST(pieces_are_aligned_and_apart)
{
    static char memory[4096];
    fex_layout sizes = {.base = NULL}, layout = {.base = memory};
    char *const first = fex_layout_take(&layout, 3, 4);
    char *const second = fex_layout_take(&layout, 64, 4);
    char *const third = fex_layout_take(&layout, 0, 8);
    char *const fourth = fex_layout_take(&layout, 1, 1);
    ck_assert_ptr_eq(first, memory);
    ck_assert_ptr_eq(second, memory + 256);
    ck_assert_ptr_eq(third, memory + 512);
    ck_assert_ptr_eq(fourth, memory + 512);
    ck_assert_uint_eq(layout.used, 768);
    ck_assert_ptr_null(fex_layout_take(&sizes, 3, 4));
    ck_assert_uint_eq(sizes.used, 256);
}
END_TEST

/* ---- Launches ------------------------------------------------------------ */

static unsigned attribute_count;
static CUlaunchAttribute attributes[4];

static CUresult keep_attributes(const CUlaunchConfig *config,
                                CUfunction function, void **parameters,
                                void **extra)
{
    (void)function;
    (void)parameters;
    (void)extra;
    attribute_count = config->numAttrs;
    ck_assert_uint_le(attribute_count, COUNT(attributes));
    if (attribute_count > 0)
        memcpy(attributes, config->attrs,
               attribute_count * sizeof *attributes);
    return CUDA_SUCCESS;
}

static const struct {
    const char *architecture;
    int version, cluster, dependent;
    unsigned attributes;
} launches[] = {
    {"sm_90a", 13000, 0, 0, 0}, {"sm_90a", 13000, 0, 1, 1},
    {"sm_120", 13000, 0, 1, 1}, {"sm_90a", 13000, 4, 1, 2},
    {"sm_90a", 13000, 4, 0, 1},
    /* no such instruction; a capture would refuse it or lose it */
    {"sm_89", 13000, 0, 1, 0},  {"sm_90a", 12020, 0, 1, 0},
};

START_TEST(launches_overlap_where_they_can)
{
    const fex_driver driver = {.version = launches[_i].version,
                               .cuLaunchKernelEx = keep_attributes};
    const fex_device device = {
        .architecture = fex_architecture_by_name(launches[_i].architecture)};
    const fex_launch launch = {.driver = &driver, .device = &device};
    const fex_grid grid = {.x = 8,
                           .y = 1,
                           .threads = 32,
                           .cluster = launches[_i].cluster,
                           .dependent = launches[_i].dependent};
    test_ok(fex_launch_kernel(&launch, NULL, grid, NULL));
    ck_assert_uint_eq(attribute_count, launches[_i].attributes);
    if (launches[_i].cluster > 1) {
        ck_assert_int_eq(attributes[0].id,
                         CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION);
        ck_assert_uint_eq(attributes[0].value.clusterDim.x, 4);
    }
    if (attribute_count > (launches[_i].cluster > 1)) {
        const CUlaunchAttribute last = attributes[attribute_count - 1];
        ck_assert_int_eq(last.id,
                         CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION);
        ck_assert_int_eq(last.value.programmaticStreamSerializationAllowed, 1);
    }
}
END_TEST

static void fill(TCase *tests)
{
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, rows_are_read_as_wide_as_they_allow, 0,
                        (int)COUNT(geometries));
    tcase_add_test(tests, a_family_has_to_exist);
    tcase_add_test(tests, the_environment_names_each);
    tcase_add_test(tests, the_last_serves_everything);
    tcase_add_test(tests, kernels_are_described);
    tcase_add_test(tests, experts_are_compiled_in_where_said);
    tcase_add_test(tests, one_more_expert_is_the_same_kernels);
    tcase_add_test(tests, workspaces_grow_with_tokens);
    tcase_add_test(tests, pieces_are_aligned_and_apart);
    tcase_add_loop_test(tests, launches_overlap_where_they_can, 0,
                        (int)COUNT(launches));
}

int main(void)
{
    return test_suite_main("variants", fill);
}
