/* SPDX-License-Identifier: Apache-2.0 */
/* test_context.c - contexts without a device anywhere, and with one where
 * there is one. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "driver.h"
#include "suite.h"

static const fex_op_desc desc = {.size = sizeof desc,
                                 .dtype = FEX_DTYPE_BF16,
                                 .hidden_size = 64,
                                 .top_k = 8,
                                 .num_experts = 100};

static const fex_context_options without_device = {
    .size = sizeof without_device,
    .device = FEX_DEVICE_NONE,
    .cache_dir = "/nonexistent/cache",
    .cache_path = "/nonexistent/tier"};

static fex_context *create(const fex_context_options *options)
{
    fex_context *context = NULL;
    test_ok(fex_context_create(options, &context));
    ck_assert_ptr_nonnull(context);
    return context;
}

static fex_context_info info_of(fex_context *context)
{
    fex_context_info info = {.size = sizeof info};
    test_ok(fex_context_get_info(context, &info));
    return info;
}

/* Runs `child` in a child process; 0 from it is success. */
static void in_child(int (*child)(fex_context *), fex_context *context)
{
    int status;
    const pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0)
        _exit(child(context));
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(WIFEXITED(status), "the child died of signal %d",
                  WTERMSIG(status));
    ck_assert_msg(WEXITSTATUS(status) == 0, "check %d of the child failed",
                  WEXITSTATUS(status));
}

/* ---- Options ------------------------------------------------------------- */

static void refuses(fex_context_options options, fex_status status,
                    const char *words)
{
    fex_context *const before = (fex_context *)(void *)&options;
    fex_context *context = before;
    test_refused(fex_context_create(&options, &context), status, words);
    ck_assert_ptr_eq(context, before);
}

START_TEST(bad_options_are_named)
{
    fex_context_options options = without_device;
    TEST_INVALID(fex_context_create(&options, NULL), "context is NULL");
    options.size = 0;
    refuses(options, FEX_ERROR_INVALID_ARGUMENT, "fex_context_options.size");
    options = without_device;
    options.device = -3;
    refuses(options, FEX_ERROR_INVALID_ARGUMENT, "device is -3");
    options = without_device;
    options.jit = (fex_jit_policy)4;
    refuses(options, FEX_ERROR_INVALID_ARGUMENT, "jit is 4");
    options = without_device;
    options.kernel_dir = "/nonexistent/kernels";
    refuses(options, FEX_ERROR_IO, "/nonexistent/kernels");
}
END_TEST

START_TEST(bad_environment_is_named)
{
    setenv("FLASHEXPERT_JIT", "perhaps", 1);
    refuses(without_device, FEX_ERROR_INVALID_ARGUMENT, "FLASHEXPERT_JIT");
    setenv("FLASHEXPERT_JIT", "forbid", 1);
    fex_context_destroy(create(&without_device));
    unsetenv("FLASHEXPERT_JIT");

    static const char *const sizes[] = {"lots", "1X", "5MM", "-1", " -1",
                                        "M", "99999999999999T"};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        setenv("FLASHEXPERT_CACHE_MAX", sizes[i], 1);
        refuses(without_device, FEX_ERROR_INVALID_ARGUMENT,
                "FLASHEXPERT_CACHE_MAX");
    }
    setenv("FLASHEXPERT_CACHE_MAX", "500M", 1);
    fex_context_destroy(create(&without_device));

    static const char *const answers[] = {"yes", "true", "2", "01", "1 "};
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        setenv("FLASHEXPERT_CACHE_SHARED", answers[i], 1);
        refuses(without_device, FEX_ERROR_INVALID_ARGUMENT,
                "FLASHEXPERT_CACHE_SHARED");
    }
    setenv("FLASHEXPERT_CACHE_SHARED", "0", 1);
    fex_context_destroy(create(&without_device));

    setenv("FLASHEXPERT_LOG", "verbose", 1);
    refuses(without_device, FEX_ERROR_INVALID_ARGUMENT, "FLASHEXPERT_LOG");
    setenv("FLASHEXPERT_LOG", "error", 1);
    fex_context_destroy(create(&without_device));
}
END_TEST

START_TEST(missing_driver_is_told)
{
    fex_context_options options = {.size = sizeof options};
    setenv("FLASHEXPERT_LIBCUDA", "/nonexistent/libcuda.so", 1);
    refuses(options, FEX_ERROR_NO_DRIVER, "/nonexistent/libcuda.so");
    options.device = FEX_DEVICE_CURRENT;
    refuses(options, FEX_ERROR_NO_DRIVER, "/nonexistent/libcuda.so");
    fex_context_destroy(create(&without_device)); /* which needs none */
}
END_TEST

START_TEST(newer_options_are_accepted_if_zero)
{
    struct {
        fex_context_options options;
        char newer[16];
    } given = {.options = without_device};
    given.options.size = sizeof given;
    fex_context_destroy(create(&given.options));
    given.newer[15] = 1;
    fex_context *context;
    TEST_INVALID(fex_context_create(&given.options, &context),
                 "fex_context_options has a member");
}
END_TEST

/* ---- Info ---------------------------------------------------------------- */

START_TEST(info_without_a_device)
{
    fex_context *const context = create(&without_device);
    const fex_context_info info = info_of(context);
    ck_assert_int_eq(info.device, FEX_DEVICE_NONE);
    ck_assert_str_eq(info.device_name, "");
    ck_assert_str_eq(info.architecture, "");
    ck_assert_str_eq(info.driver_library, "");
    ck_assert_int_eq(info.driver_version, 0);
    ck_assert_str_eq(info.cache_dir, "/nonexistent/cache");
    ck_assert_str_eq(info.cache_path, "/nonexistent/tier");
    ck_assert_uint_eq(strlen(info.kernel_digest), 32);
    ck_assert_uint_eq(strspn(info.kernel_digest, "0123456789abcdef"), 32);
    fex_context_destroy(context);
}
END_TEST

static void keep_message(void *user, fex_log_level level, const char *message)
{
    if (level == FEX_LOG_WARNING)
        snprintf(user, 512, "%s", message);
}

/* _i: where the option or the variable names a tier, and where nobody does. */
START_TEST(a_missing_tier_is_told_by_the_name_that_it_has)
{
    static const struct {
        const char *option, *variable, *said;
    } cases[] = {
        {"/none/option", "/none/variable",
         "the option cache_path names the cache /none/option"},
        {NULL, "/none/variable",
         "FLASHEXPERT_CACHE_PATH names the cache /none/variable"},
        {NULL, ":", ""},
        {NULL, "", ""}};
    char said[512] = "";
    fex_context_options options = without_device;
    options.cache_path = cases[_i].option;
    options.log = keep_message;
    options.log_user = said;
    setenv("FLASHEXPERT_CACHE_PATH", cases[_i].variable, 1);
    fex_context *const context = create(&options);
    for (int i = 0; i < 2; i++) {
        test_refused(fex_prewarm(context, &desc, FEX_PASS_BOTH, 1, "sm_80",
                                 FEX_PREWARM_CHECK, NULL, NULL, NULL),
                     FEX_ERROR_JIT_FORBIDDEN, "not in the cache");
        /* Once. */
        const char *const expected = i == 0 ? cases[_i].said : "";
        ck_assert_msg(strncmp(said, expected, strlen(expected)) == 0 &&
                          (said[0] == '\0') == (expected[0] == '\0'),
                      "%s", said);
        said[0] = '\0';
    }
    fex_context_destroy(context);
}
END_TEST

START_TEST(cache_dir_comes_from_option_variable_or_home)
{
    fex_context_options options = without_device;
    fex_context *context;
    setenv("FLASHEXPERT_CACHE_DIR", "/variable", 1);
    setenv("XDG_CACHE_HOME", "/xdg", 1);
    setenv("HOME", "/home/of/test", 1);
    context = create(&options);
    ck_assert_str_eq(info_of(context).cache_dir, "/nonexistent/cache");
    fex_context_destroy(context);

    static const struct {
        const char *unset, *expected;
    } steps[] = {{NULL, "/variable"},
                 {"FLASHEXPERT_CACHE_DIR", "/xdg/flashexpert_rtc"},
                 {"XDG_CACHE_HOME", "/home/of/test/.cache/flashexpert_rtc"},
                 {"HOME", ""}};
    options.cache_dir = NULL;
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        if (steps[i].unset != NULL)
            unsetenv(steps[i].unset);
        context = create(&options);
        ck_assert_str_eq(info_of(context).cache_dir, steps[i].expected);
        fex_context_destroy(context);
    }
}
END_TEST

START_TEST(missing_compiler_is_no_error)
{
    setenv("FLASHEXPERT_LIBNVRTC", "/nonexistent/libnvrtc.so", 1);
    fex_context *const context = create(&without_device);
    const fex_context_info info = info_of(context);
    ck_assert_int_eq(info.compiler_version, 0);
    ck_assert_str_eq(info.compiler_library, "");
    fex_context_destroy(context);
}
END_TEST

START_TEST(structures_are_checked)
{
    fex_context *const context = create(&without_device);
    fex_context_info info = {.size = sizeof info - 1};
    fex_context_stats stats = {.size = 0};
    TEST_INVALID(fex_context_get_info(context, NULL), "info is NULL");
    TEST_INVALID(fex_context_get_info(context, &info), "fex_context_info");
    TEST_INVALID(fex_context_get_stats(context, NULL), "stats is NULL");
    TEST_INVALID(fex_context_get_stats(context, &stats), "fex_context_stats");
    TEST_INVALID(fex_context_get_info(NULL, &info), "context is NULL");
    TEST_INVALID(fex_context_get_stats(NULL, &stats), "context is NULL");
    TEST_INVALID(fex_jit_monitor(NULL, NULL, NULL), "context is NULL");
    fex_context_destroy(context);
    fex_context_destroy(NULL);
}
END_TEST

START_TEST(stats_start_at_zero)
{
    fex_context *const context = create(&without_device);
    fex_context_stats stats = {.size = sizeof stats, .compiles = 77};
    const fex_context_stats none = {.size = sizeof none};
    test_ok(fex_context_get_stats(context, &stats));
    ck_assert_int_eq(memcmp(&stats, &none, sizeof stats), 0);
    fex_context_destroy(context);
}
END_TEST

/* ---- Operations without a device ----------------------------------------- */

START_TEST(operation_needs_a_device_to_run)
{
    fex_context *const context = create(&without_device);
    fex_op *op = NULL;
    size_t bytes;
    const fex_forward_args forward = {.size = sizeof forward};
    const fex_backward_args backward = {.size = sizeof backward};
    test_ok(fex_op_create(context, &desc, &op));
    test_refused(fex_op_workspace_size(op, FEX_PASS_BOTH, 1, &bytes),
                 FEX_ERROR_NO_DEVICE, "FEX_DEVICE_NONE");
    test_refused(fex_op_prepare(op, FEX_PASS_BOTH, 1), FEX_ERROR_NO_DEVICE,
                 "FEX_DEVICE_NONE");
    test_refused(fex_forward(op, &forward, NULL), FEX_ERROR_NO_DEVICE,
                 "FEX_DEVICE_NONE");
    test_refused(fex_backward(op, &backward, NULL), FEX_ERROR_NO_DEVICE,
                 "FEX_DEVICE_NONE");
    fex_op_destroy(op);
    fex_op_destroy(NULL);
    TEST_INVALID(fex_op_create(context, &desc, NULL), "op is NULL");
    TEST_INVALID(fex_op_create(NULL, &desc, &op), "context is NULL");
    TEST_INVALID(fex_op_prepare(NULL, FEX_PASS_BOTH, 1), "op is NULL");
    TEST_INVALID(fex_forward(NULL, &forward, NULL), "op is NULL");
    TEST_INVALID(fex_backward(NULL, &backward, NULL), "op is NULL");
    fex_context_destroy(context);
}
END_TEST

/* ---- Fork ---------------------------------------------------------------- */

static fex_op *op_of_parent;

/* Every call that takes a context or an operation made from it. */
static int use_in_child(fex_context *context)
{
    fex_context_info info = {.size = sizeof info};
    fex_context_stats stats = {.size = sizeof stats};
    const fex_forward_args forward = {.size = sizeof forward};
    const fex_backward_args backward = {.size = sizeof backward};
    fex_op *op;
    size_t bytes;
    const fex_status statuses[] = {
        fex_context_get_info(context, &info),
        fex_context_get_stats(context, &stats),
        fex_jit_monitor(context, NULL, NULL),
        fex_op_create(context, &desc, &op),
        fex_op_workspace_size(op_of_parent, FEX_PASS_BOTH, 1, &bytes),
        fex_op_prepare(op_of_parent, FEX_PASS_BOTH, 1),
        fex_forward(op_of_parent, &forward, NULL),
        fex_backward(op_of_parent, &backward, NULL),
        fex_prewarm(context, &desc, FEX_PASS_BOTH, 1, "sm_80", 0, NULL, NULL,
                    NULL),
        fex_cache_list(context, 0, NULL, NULL),
        fex_cache_prune(context, UINT64_MAX, 0, NULL),
        fex_cache_clear(context, NULL),
        fex_cache_export(context, "/nonexistent/bundle", NULL, NULL),
        fex_cache_import(context, "/nonexistent/bundle", NULL),
        fex_cache_attach(context, "", 0)};
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++)
        if (statuses[i] != FEX_ERROR_FORKED)
            return (int)i + 1;
    fex_op_destroy(op_of_parent);
    fex_context_destroy(context);
    return 0;
}

static void survives_fork(const fex_context_options *options)
{
    fex_context *const context = create(options);
    test_ok(fex_op_create(context, &desc, &op_of_parent));
    in_child(use_in_child, context);
    info_of(context); /* the parent's is as good as before */
    fex_op_destroy(op_of_parent);
    fex_context_destroy(context);
}

START_TEST(child_must_not_use_it)
{
    survives_fork(&without_device);
}
END_TEST

/* ---- With a device ------------------------------------------------------- */

START_TEST(info_with_a_device)
{
    fex_context *const context = create(NULL);
    const fex_context_info info = info_of(context);
    ck_assert_int_eq(info.device, 0);
    ck_assert_str_ne(info.device_name, "");
    ck_assert(strncmp(info.architecture, "sm_", 3) == 0);
    ck_assert_int_gt(info.multiprocessors, 0);
    ck_assert_int_gt(info.l2_bytes, 0);
    ck_assert_int_ge(info.driver_version, 12000);
    ck_assert_str_ne(info.driver_library, "");
    fex_context_destroy(context);
}
END_TEST

START_TEST(device_must_exist)
{
    refuses((fex_context_options){.size = sizeof(fex_context_options),
                                  .device = 1000},
            FEX_ERROR_NO_DEVICE, "device is 1000");
    refuses((fex_context_options){.size = sizeof(fex_context_options),
                                  .device = FEX_DEVICE_CURRENT},
            FEX_ERROR_NO_DEVICE, "no current CUcontext");
}
END_TEST

/* The application's own CUcontext is used, and left current and alive. */
START_TEST(current_context_is_used)
{
    const char *const library = getenv("FLASHEXPERT_LIBCUDA");
    const fex_context_options options = {.size = sizeof options,
                                         .device = FEX_DEVICE_CURRENT};
    fex_driver driver;
    CUcontext own, current;
    CUdeviceptr memory;
    test_ok(fex_driver_open(library != NULL && *library ? library : NULL,
                            &driver));
    ck_assert_int_eq(driver.cuDevicePrimaryCtxRetain(&own, 0), CUDA_SUCCESS);
    ck_assert_int_eq(driver.cuCtxPushCurrent(own), CUDA_SUCCESS);
    fex_context *const context = create(&options);
    ck_assert_int_eq(info_of(context).device, 0);
    fex_context_destroy(context);
    ck_assert_int_eq(driver.cuCtxGetCurrent(&current), CUDA_SUCCESS);
    ck_assert_ptr_eq(current, own);
    ck_assert_int_eq(driver.cuMemAlloc(&memory, 64), CUDA_SUCCESS);
    ck_assert_int_eq(driver.cuMemFree(memory), CUDA_SUCCESS);
    ck_assert_int_eq(driver.cuDevicePrimaryCtxRelease(0), CUDA_SUCCESS);
}
END_TEST

START_TEST(child_must_not_use_a_device)
{
    const fex_context_options options = {.size = sizeof options};
    survives_fork(&options);
}
END_TEST

/* ---- The suite ----------------------------------------------------------- */

/* Asked in a child, since a process that has used CUDA cannot fork tests. */
static int have_device(void)
{
    int status;
    const pid_t pid = fork();
    if (pid == 0) {
        fex_context *context;
        _exit(fex_context_create(NULL, &context) == FEX_OK);
    }
    return waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
           WEXITSTATUS(status) == 1;
}

static void fill(TCase *tests)
{
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, bad_options_are_named);
    tcase_add_test(tests, bad_environment_is_named);
    tcase_add_test(tests, missing_driver_is_told);
    tcase_add_test(tests, newer_options_are_accepted_if_zero);
    tcase_add_test(tests, info_without_a_device);
    tcase_add_loop_test(tests, a_missing_tier_is_told_by_the_name_that_it_has,
                        0, 4);
    tcase_add_test(tests, cache_dir_comes_from_option_variable_or_home);
    tcase_add_test(tests, missing_compiler_is_no_error);
    tcase_add_test(tests, structures_are_checked);
    tcase_add_test(tests, stats_start_at_zero);
    tcase_add_test(tests, operation_needs_a_device_to_run);
    tcase_add_test(tests, child_must_not_use_it);
    if (!have_device()) {
        printf("no device: what needs one is left out\n");
        return;
    }
    tcase_add_test(tests, info_with_a_device);
    tcase_add_test(tests, device_must_exist);
    tcase_add_test(tests, current_context_is_used);
    tcase_add_test(tests, child_must_not_use_a_device);
}

int main(void)
{
    return test_suite_main("context", fill);
}
