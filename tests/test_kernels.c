/* SPDX-License-Identifier: Apache-2.0 */
/* test_kernels.c - every kernel compiles with the real NVRTC for every data
 * type and architecture, keeps its numbers in registers, and leaves as many
 * blocks on a multiprocessor as it asks for.
 *
 *     test_kernels          a part of the product, a minute or two
 *     test_kernels --full [ARCHITECTURE]   all of it, or of one architecture
 *     test_kernels --show   prints registers and spills of each */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache_case.h"
#include "compiler.h"
#include "suite.h"
#include "variants.h"

#define REGISTERS_MAX 255
/* Bytes a thread may spill: a few, at the edge of what MIN_BLOCKS leaves, cost
 * less than a block fewer on each multiprocessor would. */
#define SPILLED_MAX 32
#define CASES_MAX 4096

/* Enough experts and few: of the latter only what they change is compiled, in
 * particular how far dense kernels read ahead, by the share that is chosen, and
 * the matrix family's. */
#define EXPERTS 102400
#define EXPERTS_FEW 1024

/* One problem, on one architecture, with rows aligned to so many bytes. */
typedef struct kernel_case {
    fex_problem problem;
    const fex_architecture *architecture;
    size_t alignment;
} kernel_case;

static kernel_case cases[CASES_MAX];
static int case_count;
static int showing;

/* ---- Which --------------------------------------------------------------- */

static void add_case(fex_dtype dtype, int64_t hidden_size, int64_t top_k,
                     const fex_architecture *architecture, size_t alignment,
                     int wide)
{
    if (case_count == CASES_MAX)
        abort();
    /* `wide`: the larger type wherever there is a choice. */
    cases[case_count++] = (kernel_case){
        .problem = {.dtype = dtype,
                    .routing_dtype = wide ? FEX_DTYPE_F32 : dtype,
                    .weight_grad_dtype = wide ? FEX_DTYPE_F32 : dtype,
                    .index_type = wide ? FEX_INDEX_I64 : FEX_INDEX_I32,
                    .hidden_size = hidden_size,
                    .top_k = top_k,
                    .num_experts = EXPERTS,
                    .check_indices = 1},
        .architecture = architecture,
        .alignment = alignment};
}

static void add_few(fex_dtype dtype, int64_t hidden_size, int64_t top_k,
                    const fex_architecture *architecture, int wide)
{
    add_case(dtype, hidden_size, top_k, architecture, 16, wide);
    cases[case_count - 1].problem.num_experts = EXPERTS_FEW;
}

static const fex_dtype dtypes[] = {FEX_DTYPE_F16, FEX_DTYPE_BF16,
                                   FEX_DTYPE_F32};

static void add_some(void)
{
    size_t count;
    const fex_architecture *const table = fex_architecture_table(&count);
    const fex_architecture *const hopper = fex_architecture_by_name("sm_90a");
    for (size_t a = 0; a < count; a++) {
        add_case(FEX_DTYPE_BF16, 1024, 64, &table[a], 16, 0);
        add_few(FEX_DTYPE_BF16, 1024, 32, &table[a], 0);
    }
    add_few(FEX_DTYPE_F16, 1024, 64, hopper, 0);
    add_few(FEX_DTYPE_F16, 1024, 64, fex_architecture_by_name("sm_89"), 0);
    add_few(FEX_DTYPE_BF16, 1024, 8, hopper, 0);
    add_few(FEX_DTYPE_BF16, 1024, 33, hopper, 1);
    add_few(FEX_DTYPE_BF16, 1024, 128, hopper, 1);
    add_few(FEX_DTYPE_BF16, 1024, 256, hopper, 1);
    add_few(FEX_DTYPE_F16, 4096, 512, hopper, 0);
    add_case(FEX_DTYPE_F16, 1024, 64, hopper, 16, 1);
    add_case(FEX_DTYPE_F32, 1536, 512, hopper, 16, 0);
    add_case(FEX_DTYPE_F16, 7, 3, &table[0], 2, 0);
    add_case(FEX_DTYPE_F32, 1, 1, &table[0], 4, 1);
    add_case(FEX_DTYPE_BF16, 4096, 8192, hopper, 16, 1);
}

static void add_all(const char *only)
{
    static const int64_t hidden_sizes[] = {1, 7, 64, 320, 1024, 1536, 4096};
    static const int64_t top_ks[] = {1, 64, 4096};
    static const int64_t top_ks_of_few[] = {8, 16, 32, 48, 64};
    size_t count;
    const fex_architecture *const table = fex_architecture_table(&count);
    for (size_t a = 0; a < count; a++) {
        if (only != NULL && strcmp(only, table[a].name) != 0)
            continue;
        for (size_t d = 0; d < 3; d++)
            for (size_t h = 0; h < 7; h++)
                for (size_t k = 0; k < 3; k++)
                    add_case(dtypes[d], hidden_sizes[h], top_ks[k], &table[a],
                             h % 2 == 0 ? 16 : 4, (int)k % 2);
        for (size_t k = 0; k < 5; k++)
            for (size_t d = 0; d < 2; d++) { /* the dense family's */
                add_few(dtypes[d], 64, top_ks_of_few[k], &table[a], 0);
                add_few(dtypes[d], 1024, top_ks_of_few[k], &table[a], 1);
            }
        add_few(FEX_DTYPE_F32, 1024, 64, &table[a], 0);
    }
}

/* ---- Compiling ----------------------------------------------------------- */

static test_log record;
static fex_compiler *compiler;
static fex_sources sources;

static void setup(void)
{
    const fex_compiler_options options = {.cuda_home = getenv("CUDA_HOME")};
    test_log_init(&record);
    ck_assert_int_eq(fex_compiler_create(&options, &record.log, &compiler),
                     FEX_OK);
    ck_assert_int_eq(fex_sources_open(NULL, &sources), FEX_OK);
}

static void teardown(void)
{
    fex_sources_close(&sources);
    fex_compiler_destroy(compiler);
}

static int64_t constant(const fex_kernel_spec *spec, const char *name,
                        int64_t otherwise)
{
    for (size_t i = 0; i < spec->constant_count; i++)
        if (strcmp(spec->constants[i].name, name) == 0)
            return spec->constants[i].value;
    return otherwise;
}

/* The largest number that stands before `what` in the assembler's report. */
static int largest_before(const char *text, const char *what)
{
    int largest = -1;
    for (const char *at = text; (at = strstr(at, what)) != NULL; at++) {
        const char *begin = at;
        while (begin > text && begin[-1] == ' ')
            begin--;
        while (begin > text && begin[-1] >= '0' && begin[-1] <= '9')
            begin--;
        const int number = atoi(begin);
        if (number > largest)
            largest = number;
    }
    return largest;
}

static void check_report(const fex_kernel_spec *spec, const char *words,
                         const char *report)
{
    const int registers = largest_before(report, " registers");
    const int spills = largest_before(report, " bytes spill stores");
    const int64_t threads = constant(spec, "THREADS", 0);
    const int64_t blocks = constant(spec, "MIN_BLOCKS", 1);
    if (showing)
        printf("%3d registers %3d spilled: %s\n", registers, spills, words);
    ck_assert_msg(registers > 0 && registers <= REGISTERS_MAX,
                  "%s: no report of registers in: %s", words, report);
    ck_assert_msg(spills >= 0 && spills <= SPILLED_MAX,
                  "%s: %d bytes are spilled", words, spills);
    /* Products that wait for each other are right, and several times slower. */
    ck_assert_msg(strstr(report, "serialized") == NULL, "%s: %s", words,
                  report);
    /* Registers are handed out to warps, eight a thread at a time. */
    ck_assert_msg(threads * blocks * ((registers + 7) / 8 * 8) <= 65536,
                  "%s: %d registers leave no room for %lld blocks of %lld",
                  words, registers, (long long)blocks, (long long)threads);
}

static int is_same(const fex_kernel_spec *a, const fex_kernel_spec *b)
{
    fex_recipe of_a, of_b;
    test_ok(fex_specialize(&sources, a, &of_a));
    test_ok(fex_specialize(&sources, b, &of_b));
    const int same = strcmp(of_a.key, of_b.key) == 0;
    fex_recipe_free(&of_a);
    fex_recipe_free(&of_b);
    return same;
}

static void compile(const fex_kernel_spec *spec)
{
    fex_recipe recipe;
    fex_cubin cubin;
    test_ok(fex_specialize(&sources, spec, &recipe));
    recipe.options[recipe.option_count++] = "--ptxas-options=-v";
    record.last[FEX_LOG_DEBUG][0] = '\0';
    ck_assert_msg(fex_compiler_compile(compiler, &recipe, &sources, &cubin) ==
                      FEX_OK,
                  "%s", fex_last_error());
    for (size_t f = 0; f < spec->function_count; f++)
        ck_assert_ptr_nonnull(
            memmem(cubin.data, cubin.size, spec->functions[f],
                   strlen(spec->functions[f])));
    check_report(spec, recipe.words, record.last[FEX_LOG_DEBUG]);
    fex_cubin_free(&cubin);
    fex_recipe_free(&recipe);
}

/* Compiles the kernels of a family, but for those that EXPERTS experts would
 * have too if there are others. Returns how many. */
static int compile_family(const kernel_case *c, const fex_variant *family)
{
    const fex_geometry geometry = fex_geometry_for(&c->problem, c->alignment);
    fex_kernel_spec specs[FEX_KERNELS_MAX];
    fex_kernel_spec of_many[FEX_KERNELS_MAX];
    fex_problem many = c->problem;
    int compiled = 0;
    many.num_experts = EXPERTS;
    const size_t count =
        family->describe(&c->problem, c->architecture, geometry, specs);
    ck_assert_uint_eq(
        family->describe(&many, c->architecture, geometry, of_many), count);
    for (size_t i = 0; i < count; i++) {
        if (c->problem.num_experts != EXPERTS &&
            is_same(&specs[i], &of_many[i]))
            continue;
        compile(&specs[i]);
        compiled++;
    }
    return compiled;
}

START_TEST(all_kernels_of_a_problem_compile)
{
    const kernel_case *const c = &cases[_i];
    size_t families;
    const fex_variant *const *const table = fex_variant_table(&families);
    int compiled = 0;
    for (size_t f = 0; f < families; f++)
        if (table[f]->applies(&c->problem, c->architecture))
            compiled += compile_family(c, table[f]);
    if (c->problem.num_experts != EXPERTS) {
        ck_assert_int_ge(compiled, 1);
        return;
    }
    ck_assert_int_ge(compiled, 5);
    fex_kernel_spec check;
    fex_describe_check(&c->problem, c->architecture, &check);
    compile(&check);
}
END_TEST

static void fill(TCase *tests)
{
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, all_kernels_of_a_problem_compile, 0,
                        case_count);
}

int main(int argc, char **argv)
{
    int full = 0;
    const char *only = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--full") == 0)
            full = 1;
        else if (strcmp(argv[i], "--show") == 0)
            showing = 1;
        else
            only = argv[i];
    }
    if (full)
        add_all(only);
    else
        add_some();
    if (case_count == 0) {
        fprintf(stderr, "test_kernels: no architecture %s\n", only);
        return 2;
    }
    return test_suite_main("kernels", fill);
}
