/* SPDX-License-Identifier: Apache-2.0 */
/* test_compiler.c - finding NVRTC and compiling with it: the real one. */
#include "config.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache_case.h"
#include "compiler.h"
#include "suite.h"

static test_log record;
static fex_compiler *compiler;

static void create(const fex_compiler_options *options)
{
    test_log_init(&record);
    ck_assert_int_eq(fex_compiler_create(options, &record.log, &compiler),
                     FEX_OK);
}

static void create_default(void)
{
    const fex_compiler_options options = {.cuda_home = getenv("CUDA_HOME")};
    create(&options);
}

static void destroy(void)
{
    fex_compiler_destroy(compiler);
}

START_TEST(a_kernel_is_compiled)
{
    fex_recipe recipe;
    fex_cubin cubin;
    char path[512];
    int version;
    create_default();
    test_recipe(&recipe, 3);
    ck_assert_int_eq(
        fex_compiler_compile(compiler, &recipe, &test_sources, &cubin),
        FEX_OK);
    ck_assert_uint_gt(cubin.size, 64);
    ck_assert_mem_eq(cubin.data, "\177ELF", 4);
    ck_assert_int_eq(fex_compiler_info(compiler, path, sizeof path, &version),
                     FEX_OK);
    ck_assert_int_eq(cubin.compiler_version, version);
    ck_assert_int_ge(version, 12000);
    ck_assert_int_eq(access(path, R_OK), 0);
    fex_cubin_free(&cubin);
    fex_recipe_free(&recipe);
    destroy();
}
END_TEST

/* What is compiled must not tell where, or the same key would mean different
 * bytes on different hosts. */
START_TEST(the_same_recipe_gives_the_same_bytes)
{
    fex_recipe recipe;
    fex_cubin first, second;
    create_default();
    test_recipe(&recipe, 3);
    ck_assert_int_eq(
        fex_compiler_compile(compiler, &recipe, &test_sources, &first),
        FEX_OK);
    ck_assert_int_eq(chdir("/"), 0);
    ck_assert_int_eq(
        fex_compiler_compile(compiler, &recipe, &test_sources, &second),
        FEX_OK);
    ck_assert_uint_eq(first.size, second.size);
    ck_assert_mem_eq(first.data, second.data, first.size);
    fex_cubin_free(&first);
    fex_cubin_free(&second);
    fex_recipe_free(&recipe);
    destroy();
}
END_TEST

START_TEST(an_error_names_the_line_of_the_kernel_file)
{
    fex_kernel_spec spec;
    fex_recipe recipe;
    fex_cubin cubin;
    create_default();
    test_spec(&spec, 3);
    spec.file = "broken.cu";
    ck_assert_int_eq(fex_specialize(&test_sources, &spec, &recipe), FEX_OK);
    ck_assert_int_eq(
        fex_compiler_compile(compiler, &recipe, &test_sources, &cubin),
        FEX_ERROR_COMPILE);
    ck_assert_ptr_nonnull(strstr(fex_last_error(), "broken.cu(1)"));
    ck_assert_int_eq(record.count[FEX_LOG_ERROR], 1);
    ck_assert_ptr_nonnull(
        strstr(record.last[FEX_LOG_ERROR], "expected an expression"));
    fex_recipe_free(&recipe);
    destroy();
}
END_TEST

START_TEST(a_constant_that_does_not_fit_is_refused_by_the_kernel)
{
    fex_recipe recipe;
    fex_cubin cubin;
    create_default();
    test_recipe(&recipe, -1);
    ck_assert_int_eq(
        fex_compiler_compile(compiler, &recipe, &test_sources, &cubin),
        FEX_ERROR_COMPILE);
    ck_assert_ptr_nonnull(strstr(fex_last_error(), "static assert"));
    fex_recipe_free(&recipe);
    destroy();
}
END_TEST

START_TEST(a_missing_library_is_no_compiler)
{
    const fex_compiler_options options = {.library = "/nowhere/libnvrtc.so"};
    char path[512] = "x";
    int version = 1;
    fex_recipe recipe;
    fex_cubin cubin;
    create(&options);
    test_recipe(&recipe, 3);
    ck_assert_int_eq(
        fex_compiler_compile(compiler, &recipe, &test_sources, &cubin),
        FEX_ERROR_NO_COMPILER);
    ck_assert_ptr_nonnull(strstr(fex_last_error(), "/nowhere/libnvrtc.so"));
    ck_assert_int_eq(fex_compiler_info(compiler, path, sizeof path, &version),
                     FEX_ERROR_NO_COMPILER);
    ck_assert_str_eq(path, "");
    ck_assert_int_eq(version, 0);
    fex_recipe_free(&recipe);
    destroy();
}
END_TEST

START_TEST(another_library_is_no_compiler)
{
    const fex_compiler_options options = {.library = "libm.so.6"};
    char path[512];
    int version;
    create(&options);
    ck_assert_int_eq(fex_compiler_info(compiler, path, sizeof path, &version),
                     FEX_ERROR_NO_COMPILER);
    ck_assert_ptr_nonnull(strstr(fex_last_error(), "nvrtcVersion"));
    destroy();
}
END_TEST

START_TEST(a_wheel_in_a_python_environment_is_found)
{
    static const char *const folders[] = {
        "lib", "lib/python3.11", "lib/python3.11/site-packages",
        "lib/python3.11/site-packages/nvidia",
        "lib/python3.11/site-packages/nvidia/cu13",
        "lib/python3.11/site-packages/nvidia/cu13/lib"};
    char scratch[256], path[512];
    scratch_make(scratch);
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        ck_assert_int_eq(mkdir(scratch_path(scratch, folders[i]), 0700), 0);
    const char *const folder = scratch_path(scratch, folders[5]);
    ck_assert(!fex_compiler_find_wheel(scratch, path, sizeof path));
    scratch_write(scratch_path(folder, "libnvrtc-builtins.so.13.0"), "", 0);
    ck_assert(!fex_compiler_find_wheel(scratch, path, sizeof path));
    scratch_write(scratch_path(folder, "libnvrtc.so.12"), "", 0);
    scratch_write(scratch_path(folder, "libnvrtc.so.13"), "", 0);
    ck_assert(fex_compiler_find_wheel(scratch, path, sizeof path));
    ck_assert_str_eq(path, scratch_path(folder, "libnvrtc.so.13"));
    /* Too long for its buffer is not found, rather than cut. */
    ck_assert(!fex_compiler_find_wheel(scratch, path, strlen(path)));
    ck_assert(fex_compiler_find_wheel(scratch_path(scratch, folders[2]), path,
                                      sizeof path));
    scratch_remove(scratch);
}
END_TEST

static void fill(TCase *tests)
{
    tcase_add_test(tests, a_kernel_is_compiled);
    tcase_add_test(tests, the_same_recipe_gives_the_same_bytes);
    tcase_add_test(tests, an_error_names_the_line_of_the_kernel_file);
    tcase_add_test(tests,
                   a_constant_that_does_not_fit_is_refused_by_the_kernel);
    tcase_add_test(tests, a_missing_library_is_no_compiler);
    tcase_add_test(tests, another_library_is_no_compiler);
    tcase_add_test(tests, a_wheel_in_a_python_environment_is_found);
    tcase_set_timeout(tests, 60);
}

int main(void)
{
    return test_suite_main("compiler", fill);
}
