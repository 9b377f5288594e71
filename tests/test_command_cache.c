/* SPDX-License-Identifier: Apache-2.0 */
/* `flashexpert prewarm` and `cache` with the real compiler. */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"

/* float32, for which only one family applies whatever the device. */
#define ONE "dtype=f32 hidden=64 top_k=8 experts=100 tokens=16 pass=forward"
#define TWO "dtype=f32 hidden=64 top_k=8,9 experts=100 tokens=16 pass=forward"

static double count(const char *name)
{
    return command_number(name, NULL);
}

START_TEST(prewarm_compiles_what_is_missing_once)
{
    command_expect(0, "prewarm --json -j 2 --arch sm_80,sm_90a --arch sm_80 "
                      "-s '" ONE "' -s '" ONE "'");
    const double requested = count("requested");
    ck_assert(requested >= 2);
    ck_assert(count("compiled") == requested);
    ck_assert(count("hit") == 0 && count("failed") == 0);
    ck_assert(count("missing") == 0 && count("seconds") > 0);
    /* One shape more, on one architecture: half as much again. */
    command_expect(0, "prewarm --json -j 2 --arch sm_80 -s '" TWO "'");
    ck_assert(count("requested") == requested);
    ck_assert(count("hit") == requested / 2);
    ck_assert(count("compiled") == requested / 2);
}
END_TEST

START_TEST(check_compiles_nothing_and_names_what_is_missing)
{
    command_expect(1, "prewarm --check --json --arch sm_90a -s '" ONE "'");
    ck_assert(count("missing") == count("requested"));
    ck_assert(count("compiled") == 0);
    ck_assert_uint_eq(
        json_array_size(json_object_get(command_json(), "missing_kernels")),
        (size_t)count("missing"));
    command_expect(0, "prewarm --arch sm_90a -s '" ONE "'");
    command_expect(0, "prewarm --check --arch sm_90a -s '" ONE "'");

    const command_result *result =
        command_expect(1, "prewarm --check --arch sm_90a -s '" TWO "'");
    ck_assert_msg(strstr(result->out, "top_k=9") != NULL, "%s", result->out);
    ck_assert_msg(strstr(result->out, "top_k=8") == NULL, "%s", result->out);
    /* It has not compiled them after all. */
    command_expect(1, "prewarm --check --arch sm_90a -s '" TWO "'");
}
END_TEST

START_TEST(refresh_finds_what_this_compiler_made)
{
    command_expect(0, "prewarm --arch sm_90a -s '" ONE "'");
    command_expect(0, "prewarm --json --refresh --arch sm_90a -s '" ONE "'");
    ck_assert(count("hit") == count("requested"));
    command_expect(0, "prewarm --json --refresh --arch sm_90a -s '" TWO "'");
    ck_assert(count("hit") == count("requested") / 2);
    ck_assert(count("compiled") == count("requested") / 2);
}
END_TEST

START_TEST(shapes_come_from_files_too)
{
    ck_assert_int_eq(
        system("printf '# decode\\n" ONE "\\n\\n" TWO " # both\\n' >shapes"),
        0);
    command_expect(0, "prewarm --json --arch sm_90a --shapes shapes");
    const double requested = count("requested");
    command_expect(0, "prewarm --json --check --arch sm_90a -s '" TWO "'");
    ck_assert(count("hit") == requested);
}
END_TEST

/* How often words are in a text. */
static int times(const char *text, const char *words)
{
    int found = 0;
    while ((text = strstr(text, words)) != NULL) {
        found++;
        text += strlen(words);
    }
    return found;
}

START_TEST(a_policy_that_forbids_is_obeyed)
{
    setenv("FLASHEXPERT_JIT", "forbid", 1);
    const command_result *result =
        command_expect(1, "prewarm --arch sm_90a -s '" ONE "'");
    ck_assert_str_eq(result->err, "");
    ck_assert_int_eq(times(result->out, "missing  "), 2);
    command_expect(1, "prewarm --json --arch sm_90a -s '" ONE "'");
    ck_assert(count("compiled") == 0);
    ck_assert(count("missing") == count("requested"));
    unsetenv("FLASHEXPERT_JIT");
}
END_TEST

START_TEST(a_compiler_that_is_not_there_is_a_failure)
{
    setenv("FLASHEXPERT_LIBNVRTC", "/nonexistent", 1);
    const command_result *result =
        command_expect(1, "prewarm --arch sm_90a -s '" ONE "'");
    ck_assert_msg(strstr(result->err, "/nonexistent") != NULL, "%s",
                  result->err);
    command_expect(1, "prewarm --json --arch sm_90a -s '" ONE "'");
    ck_assert(count("failed") == count("requested"));
    unsetenv("FLASHEXPERT_LIBNVRTC");
}
END_TEST

/* One sentence each, however many shapes, passes and processes meet with it. */
START_TEST(warnings_and_failures_are_told_once)
{
    command_expect(0, "prewarm --arch sm_90a -s '" ONE "'");
    ck_assert_int_eq(system("f=$(find cache -name '*.fexk' | head -n 1) && "
                            "truncate -s 100 $f"),
                     0);
    setenv("FLASHEXPERT_CACHE_PATH", "none", 1);
    const command_result *result = command_expect(
        0, "prewarm -j 2 --arch sm_90a -s '" TWO " index=i32,i64'");
    ck_assert_msg(times(result->err, "warning") == 2 &&
                      times(result->err, "truncated") == 1 &&
                      times(result->err, "names the cache none") == 1,
                  "%s", result->err);
    setenv("FLASHEXPERT_LIBNVRTC", "/nonexistent", 1);
    result = command_expect(1, "prewarm -j 2 --arch sm_80 -s '" TWO "'");
    ck_assert_msg(times(result->err, "prewarm: the NVRTC") == 1, "%s",
                  result->err);
    unsetenv("FLASHEXPERT_LIBNVRTC");
    /* The level counts. */
    setenv("FLASHEXPERT_LOG", "error", 1);
    result = command_expect(0, "prewarm --arch sm_90a -s '" ONE "'");
    ck_assert_str_eq(result->err, "");
    setenv("FLASHEXPERT_LOG", "loud", 1);
    command_refuses(2, "FLASHEXPERT_LOG", "prewarm --arch sm_90a -s '" ONE "'");
    unsetenv("FLASHEXPERT_LOG");
    setenv("FLASHEXPERT_CACHE_PATH", ":", 1);
}
END_TEST

/* And before the compiler, which would fail too. */
START_TEST(a_cache_that_cannot_be_written_is_told_first)
{
    setenv("FLASHEXPERT_LIBNVRTC", "/nonexistent", 1);
    setenv("FLASHEXPERT_CACHE_DIR", "/proc/none", 1);
    command_refuses(1, "set FLASHEXPERT_CACHE_DIR to another",
                    "prewarm --arch sm_90a -s '" ONE "'");
    setenv("FLASHEXPERT_CACHE_DIR", "/dev/null", 1);
    const command_result *result =
        command_expect(1, "prewarm --arch sm_90a -s '" ONE "'");
    ck_assert_str_eq(
        result->err,
        "flashexpert: warning: the cache /dev/null is not used: it is not a "
        "directory\n"
        "flashexpert: prewarm: the cache /dev/null cannot be written: it is "
        "not a directory; set FLASHEXPERT_CACHE_DIR to another\n");
    ck_assert_str_eq(result->out, "");
    /* A check and what is forbidden need no cache to write to. */
    setenv("FLASHEXPERT_CACHE_DIR", "/proc/none", 1);
    command_expect(1, "prewarm --check --json --arch sm_90a -s '" ONE "'");
    ck_assert(count("missing") == 2);
    setenv("FLASHEXPERT_JIT", "forbid", 1);
    command_expect(1, "prewarm --json --arch sm_90a -s '" ONE "'");
    ck_assert(count("missing") == 2);
    unsetenv("FLASHEXPERT_JIT");
    unsetenv("FLASHEXPERT_LIBNVRTC");
}
END_TEST

/* A compiler that kills the process it runs in. */
static const char deadly[] =
    "#include <signal.h>\n"
    "int nvrtcVersion(int *a, int *b) { *a = 13; *b = 0; return 0; }\n"
    "#define DEADLY(name) int name(void) { return raise(SIGKILL); }\n"
    "DEADLY(nvrtcGetErrorString) DEADLY(nvrtcCreateProgram)\n"
    "DEADLY(nvrtcDestroyProgram) DEADLY(nvrtcCompileProgram)\n"
    "DEADLY(nvrtcGetProgramLogSize) DEADLY(nvrtcGetProgramLog)\n"
    "DEADLY(nvrtcGetCUBINSize) DEADLY(nvrtcGetCUBIN)\n";

START_TEST(a_worker_that_dies_is_a_failure)
{
    FILE *file = fopen("deadly.c", "w");
    ck_assert_ptr_nonnull(file);
    fputs(deadly, file);
    fclose(file);
    ck_assert_int_eq(system("${CC:-cc} -shared -fPIC -o deadly.so deadly.c"),
                     0);
    setenv("FLASHEXPERT_LIBNVRTC", "./deadly.so", 1);
    const command_result *result =
        command_expect(1, "prewarm -j 2 --arch sm_90a -s '" TWO "'");
    ck_assert_msg(strstr(result->err, "killed by signal 9") != NULL, "%s",
                  result->err);
    command_expect(1, "prewarm --json -j 2 --arch sm_90a -s '" TWO "'");
    ck_assert(count("missing") == count("requested"));
    ck_assert_uint_ge(
        json_array_size(json_object_get(command_json(), "errors")), 1);
    unsetenv("FLASHEXPERT_LIBNVRTC");
    /* Nothing the dead held is in the way of the living. */
    command_expect(0, "prewarm -j 2 --arch sm_90a -s '" TWO "'");
    command_expect(0, "cache verify");
}
END_TEST

/* ---- cache -------------------------------------------------------------- */

START_TEST(the_cache_is_listed_verified_and_cleared)
{
    command_expect(0, "cache list --json");
    ck_assert(count("count") == 0);
    command_expect(0, "prewarm --json --arch sm_80,sm_90a -s '" ONE "'");
    const double requested = count("requested");

    const command_result *result = command_expect(0, "cache list");
    ck_assert_msg(strstr(result->out, "hidden_size=64") != NULL, "%s",
                  result->out);
    command_expect(0, "cache list --json");
    ck_assert(count("count") == requested && count("damaged") == 0);
    ck_assert(command_number("entries", "0", "bytes", NULL) > 0);
    ck_assert(command_number("entries", "0", "compiler_version", NULL) > 0);
    command_expect(0, "cache verify --json");
    ck_assert(count("count") == requested);
    command_expect(0, "cache clear --json");
    ck_assert(count("removed") == requested);
    command_expect(0, "cache list --json");
    ck_assert(count("count") == 0);
}
END_TEST

START_TEST(damage_is_found_and_pruned)
{
    command_expect(0, "prewarm --json --arch sm_90a -s '" ONE "'");
    const double requested = count("requested");
    /* The last byte of one entry. */
    ck_assert_int_eq(system("f=$(find cache -type f -size +1k | head -n 1) && "
                            "truncate -s -1 $f && printf x >>$f"),
                     0);
    const command_result *result = command_expect(1, "cache verify");
    ck_assert_msg(strstr(result->out, "damaged") != NULL, "%s", result->out);
    command_expect(1, "cache verify --json");
    ck_assert(count("damaged") == 1);
    result = command_expect(0, "cache prune");
    ck_assert_str_eq(result->out, "1 kernel removed\n");
    command_expect(0, "cache verify --json");
    ck_assert(count("count") == requested - 1);
    command_expect(0, "cache prune --max 0 --json");
    ck_assert(count("removed") == requested - 1);
}
END_TEST

START_TEST(a_bundle_moves_the_kernels)
{
    command_expect(0, "prewarm --json --arch sm_80,sm_90a -s '" ONE "'");
    const double requested = count("requested");
    command_expect(0, "cache export --out kernels.fexb --json");
    ck_assert(count("exported") == requested);
    command_expect(0, "cache export --out hopper.fexb --arch sm_90a --json");
    ck_assert(count("exported") == requested / 2);
    command_expect(0, "cache clear");
    command_expect(0, "cache import hopper.fexb --json");
    ck_assert(count("imported") == requested / 2);
    command_expect(0, "prewarm --check --arch sm_90a -s '" ONE "'");
    command_expect(1, "prewarm --check --arch sm_80 -s '" ONE "'");
    /* As a tier, without importing it. */
    setenv("FLASHEXPERT_CACHE_PATH", "kernels.fexb", 1);
    command_expect(0, "prewarm --check --arch sm_80,sm_90a -s '" ONE "'");
    setenv("FLASHEXPERT_CACHE_PATH", ":", 1);

    ck_assert_int_eq(system("truncate -s -1 kernels.fexb"), 0);
    command_refuses(1, "kernels.fexb", "cache import kernels.fexb");
    command_refuses(1, "none", "cache import none");
    command_refuses(1, "none/x", "cache export --out none/x");
    /* What would be empty is not written. */
    command_refuses(1, "there is no kernel for sm_121 in the cache",
                    "cache export --out y --arch 121");
    command_expect(0, "cache clear");
    command_refuses(1, "there is no kernel in the cache",
                    "cache export --out y");
    ck_assert_int_eq(system("test ! -e y"), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("command cache");
    TCase *tests = tcase_create("cache");

    if (!command_has_compiler())
        command_skip("NVRTC is not there");

    tcase_add_checked_fixture(tests, command_enter_scratch,
                              command_leave_scratch);
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, prewarm_compiles_what_is_missing_once);
    tcase_add_test(tests, check_compiles_nothing_and_names_what_is_missing);
    tcase_add_test(tests, refresh_finds_what_this_compiler_made);
    tcase_add_test(tests, shapes_come_from_files_too);
    tcase_add_test(tests, a_policy_that_forbids_is_obeyed);
    tcase_add_test(tests, a_compiler_that_is_not_there_is_a_failure);
    tcase_add_test(tests, warnings_and_failures_are_told_once);
    tcase_add_test(tests, a_cache_that_cannot_be_written_is_told_first);
    tcase_add_test(tests, a_worker_that_dies_is_a_failure);
    tcase_add_test(tests, the_cache_is_listed_verified_and_cleared);
    tcase_add_test(tests, damage_is_found_and_pruned);
    tcase_add_test(tests, a_bundle_moves_the_kernels);
    suite_add_tcase(suite, tests);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed > 0;
}
