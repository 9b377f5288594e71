/* SPDX-License-Identifier: Apache-2.0 */
/* test_compiler.c - finding NVRTC and compiling with it: the real one. */
#include "config.h"

#include <check.h>
#include <dlfcn.h>
#include <stdio.h>
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

/* ---- Which one ----------------------------------------------------------- */

/* A library that is NVRTC 13.minor, and fails whatever it is asked for. */
static const char stand_in[] =
    "int nvrtcVersion(int *a, int *b) { *a = 13; *b = MINOR; return 0; }\n"
    "#define FAILING(name) int name(void) { return 1; }\n"
    "FAILING(nvrtcGetErrorString) FAILING(nvrtcCreateProgram)\n"
    "FAILING(nvrtcDestroyProgram) FAILING(nvrtcCompileProgram)\n"
    "FAILING(nvrtcGetProgramLogSize) FAILING(nvrtcGetProgramLog)\n"
    "FAILING(nvrtcGetCUBINSize) FAILING(nvrtcGetCUBIN)\n";

/* Makes one in a folder and gives its path; its name is libnvrtc.so.13. */
static const char *make_stand_in(const char *folder, int minor)
{
    char command[2048];
    const char *const cc = getenv("CC");
    const char *const source = scratch_path(folder, "nvrtc.c");
    const char *const path = scratch_path(folder, "libnvrtc.so.13");
    scratch_write(source, stand_in, sizeof stand_in - 1);
    snprintf(command, sizeof command,
             "%s -shared -fPIC -w -DMINOR=%d -Wl,-soname,libnvrtc.so.13 "
             "-o '%s' '%s'",
             cc != NULL ? cc : "cc", minor, path, source);
    ck_assert_int_eq(system(command), 0);
    return path;
}

static int version_found(const char *override, const char *cuda_home)
{
    const fex_compiler_options options = {.library = override,
                                          .cuda_home = cuda_home};
    char path[512];
    int version;
    create(&options);
    test_ok(fex_compiler_info(compiler, path, sizeof path, &version));
    destroy();
    return version;
}

/* The dynamic linker finds by name what has been loaded before. */
START_TEST(a_named_toolkit_comes_before_the_linkers_choice)
{
    char scratch[256];
    scratch_make(scratch);
    const char *const toolkit = scratch_path(scratch, "toolkit");
    ck_assert_int_eq(mkdir(toolkit, 0700), 0);
    ck_assert_int_eq(mkdir(scratch_path(toolkit, "lib64"), 0700), 0);
    const char *const known = make_stand_in(scratch, 97);
    void *const library = dlopen(known, RTLD_NOW);
    ck_assert_ptr_nonnull(library);
    ck_assert_int_eq(version_found(NULL, NULL), 13970);
    ck_assert_int_eq(version_found(NULL, toolkit), 13970);
    make_stand_in(scratch_path(toolkit, "lib64"), 98);
    ck_assert_int_eq(version_found(NULL, toolkit), 13980);
    ck_assert_int_eq(version_found(known, toolkit), 13970);
    dlclose(library);
    scratch_remove(scratch);
}
END_TEST

/* What is there and cannot be opened is what is told, not the last of the
 * places where nothing is. */
START_TEST(trouble_with_the_first_candidate_is_told)
{
    fex_compiler_options options = {0};
    char scratch[256], path[512];
    int version;
    scratch_make(scratch);
    ck_assert_int_eq(mkdir(scratch_path(scratch, "lib"), 0700), 0);
    const char *const file = scratch_path(scratch, "lib/libnvrtc.so.12");
    scratch_write(file, "no library", 10);
    options.cuda_home = scratch;
    create(&options);
    /* Another is used where there is one. */
    const char *const told =
        fex_compiler_info(compiler, path, sizeof path, &version) == FEX_OK
            ? record.last[FEX_LOG_INFO]
            : fex_last_error();
    ck_assert_msg(strstr(told, file) != NULL, "%s", told);
    destroy();
    options.library = file;
    create(&options);
    test_refused(fex_compiler_info(compiler, path, sizeof path, &version),
                 FEX_ERROR_NO_COMPILER, file);
    destroy();
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
    tcase_add_test(tests, a_named_toolkit_comes_before_the_linkers_choice);
    tcase_add_test(tests, trouble_with_the_first_candidate_is_told);
    tcase_set_timeout(tests, 60);
}

int main(void)
{
    return test_suite_main("compiler", fill);
}
