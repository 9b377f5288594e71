/* SPDX-License-Identifier: Apache-2.0 */
/* test_prewarm.c - kernels brought into the cache without a device, with the
 * real compiler. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache_case.h"
#include "suite.h"

#define ARCHITECTURE "sm_90a"

/* float32, for which only one family applies whatever the device. */
static const fex_op_desc desc = {.size = sizeof desc,
                                 .dtype = FEX_DTYPE_F32,
                                 .hidden_size = 64,
                                 .top_k = 8,
                                 .num_experts = 100};

static char scratch[256];
static fex_context *context;

static fex_context *create(fex_jit_policy policy, const char *kernel_dir)
{
    fex_context *created = NULL;
    const fex_context_options options = {.size = sizeof options,
                                         .device = FEX_DEVICE_NONE,
                                         .jit = policy,
                                         .cache_dir = scratch,
                                         .cache_path = ":",
                                         .kernel_dir = kernel_dir};
    test_ok(fex_context_create(&options, &created));
    return created;
}

static void set_up(void)
{
    scratch_make(scratch);
    context = create(FEX_JIT_ALLOW, NULL);
}

static void tear_down(void)
{
    fex_context_destroy(context);
    scratch_remove(scratch);
}

/* What the function of a prewarm was told. */
static struct {
    int calls;
    fex_prewarm_outcome last;
    char kernels[32][512];
} told;

static void tell(void *user, fex_prewarm_outcome outcome, const char *kernel)
{
    ck_assert_ptr_eq(user, &told);
    ck_assert_int_lt(told.calls, 32);
    told.last = outcome;
    snprintf(told.kernels[told.calls++], sizeof *told.kernels, "%s", kernel);
}

static fex_status prewarm(fex_pass passes, unsigned flags,
                          fex_prewarm_counts *counts)
{
    counts->size = sizeof *counts;
    told.calls = 0;
    return fex_prewarm(context, &desc, passes, 100, ARCHITECTURE, flags, tell,
                       &told, counts);
}

/* ---- Compiling ----------------------------------------------------------- */

START_TEST(each_kernel_is_compiled_once)
{
    fex_prewarm_counts first = {0}, second = {0};
    test_ok(prewarm(FEX_PASS_BOTH, 0, &first));
    ck_assert_uint_gt(first.compiled, 0);
    ck_assert_uint_eq((uint64_t)scratch_count(scratch, ".fexk"),
                      first.compiled);
    ck_assert_uint_eq(first.requested, first.compiled);
    ck_assert_uint_eq((uint64_t)told.calls, first.requested);
    for (int i = 0; i < told.calls; i++)
        ck_assert_ptr_nonnull(strstr(told.kernels[i], ARCHITECTURE));

    test_ok(prewarm(FEX_PASS_BOTH, 0, &second));
    ck_assert_uint_eq(second.hit, first.requested);
    ck_assert_uint_eq(second.compiled, 0);
    ck_assert_int_eq(told.last, FEX_PREWARM_HIT);
}
END_TEST

START_TEST(counts_are_added_up)
{
    fex_prewarm_counts counts = {.requested = 1000, .compiled = 100};
    fex_prewarm_counts alone = {0};
    test_ok(prewarm(FEX_PASS_FORWARD, 0, &counts));
    test_ok(prewarm(FEX_PASS_FORWARD, 0, &alone));
    ck_assert_uint_eq(counts.requested, 1000 + alone.requested);
    ck_assert_uint_eq(counts.compiled, 100 + alone.requested);
    test_ok(fex_prewarm(context, &desc, FEX_PASS_FORWARD, 100, ARCHITECTURE, 0,
                        NULL, NULL, NULL));
}
END_TEST

static int is_told(const char *kernel)
{
    int times = 0;
    for (int i = 0; i < told.calls; i++)
        times += strcmp(told.kernels[i], kernel) == 0;
    return times;
}

/* Both passes ask for what each does, and once for what they share. */
START_TEST(passes_share_kernels)
{
    static char forward_kernels[32][512];
    fex_prewarm_counts forward = {0}, backward = {0}, both = {0};
    uint64_t shared = 0;
    test_ok(prewarm(FEX_PASS_FORWARD, 0, &forward));
    memcpy(forward_kernels, told.kernels, sizeof forward_kernels);
    test_ok(prewarm(FEX_PASS_BACKWARD, 0, &backward));
    for (uint64_t i = 0; i < forward.requested; i++)
        shared += (uint64_t)is_told(forward_kernels[i]);
    ck_assert_uint_gt(shared, 0);
    ck_assert_uint_eq(backward.hit, shared);

    test_ok(prewarm(FEX_PASS_BOTH, 0, &both));
    ck_assert_uint_eq(both.compiled, 0);
    ck_assert_uint_eq(both.requested,
                      forward.requested + backward.requested - shared);
    ck_assert_uint_eq((uint64_t)told.calls, both.requested);
    for (int i = 0; i < told.calls; i++)
        ck_assert_int_eq(is_told(told.kernels[i]), 1);
}
END_TEST

START_TEST(checked_mode_asks_for_its_kernel)
{
    fex_op_desc checked = desc;
    fex_prewarm_counts counts = {.size = sizeof counts}, plain = {0};
    test_ok(prewarm(FEX_PASS_FORWARD, 0, &plain));
    checked.flags = FEX_OP_CHECK_INDICES;
    test_ok(fex_prewarm(context, &checked, FEX_PASS_FORWARD, 100, ARCHITECTURE,
                        0, NULL, NULL, &counts));
    ck_assert_uint_eq(counts.compiled, 1);
    ck_assert_uint_eq(counts.hit, plain.requested);
}
END_TEST

/* _i: oldest and newest architecture. */
START_TEST(oldest_and_newest_compile)
{
    static const char *const names[] = {"sm_75", "sm_121"};
    fex_prewarm_counts counts = {.size = sizeof counts};
    test_ok(fex_prewarm(context, &desc, FEX_PASS_BOTH, 100, names[_i], 0, NULL,
                        NULL, &counts));
    ck_assert_uint_gt(counts.compiled, 0);
    ck_assert_uint_eq(counts.failed, 0);
}
END_TEST

START_TEST(refresh_keeps_what_is_of_this_compiler)
{
    fex_prewarm_counts first = {0}, second = {0};
    test_ok(prewarm(FEX_PASS_FORWARD, 0, &first));
    test_ok(prewarm(FEX_PASS_FORWARD, FEX_PREWARM_REFRESH, &second));
    ck_assert_uint_eq(second.hit, first.requested);
}
END_TEST

static int monitored;

static void monitor(void *user, const char *kernel)
{
    ck_assert_ptr_eq(user, &monitored);
    ck_assert_ptr_nonnull(strstr(kernel, ARCHITECTURE));
    monitored++;
}

/* The monitor hears of what is compiled, and of nothing else. */
START_TEST(monitor_hears_of_every_compile)
{
    fex_prewarm_counts forward = {0}, backward = {0};
    fex_context_stats stats = {.size = sizeof stats};
    test_ok(fex_jit_monitor(context, monitor, &monitored));
    test_ok(prewarm(FEX_PASS_FORWARD, 0, &forward));
    ck_assert_uint_eq((uint64_t)monitored, forward.compiled);
    test_ok(prewarm(FEX_PASS_FORWARD, 0, &forward));
    ck_assert_uint_eq((uint64_t)monitored, forward.compiled);
    test_ok(fex_jit_monitor(context, NULL, NULL));
    test_ok(prewarm(FEX_PASS_BACKWARD, 0, &backward));
    ck_assert_uint_eq((uint64_t)monitored, forward.compiled);

    test_ok(fex_context_get_stats(context, &stats));
    ck_assert_uint_eq(stats.compiles, forward.compiled + backward.compiled);
    ck_assert(stats.compile_seconds > 0);
    ck_assert_uint_eq(stats.damaged, 0);
}
END_TEST

/* ---- Not compiling ------------------------------------------------------- */

static void names_what_is_missing(unsigned flags)
{
    fex_prewarm_counts counts = {0};
    test_refused(prewarm(FEX_PASS_BOTH, flags, &counts),
                 FEX_ERROR_JIT_FORBIDDEN, ARCHITECTURE);
    ck_assert_uint_gt(counts.missing, 0);
    ck_assert_uint_eq(counts.requested, counts.missing);
    ck_assert_int_eq(told.last, FEX_PREWARM_MISSING);
    /* The message names the first. */
    ck_assert_msg(strstr(fex_last_error(), told.kernels[0]) != NULL,
                  "\"%s\" does not name %s", fex_last_error(),
                  told.kernels[0]);
    ck_assert_int_eq(scratch_count(scratch, ".fexk"), 0);
}

/* What is told may use the library elsewhere, and fail there. */
static void tell_and_fail(void *user, fex_prewarm_outcome outcome,
                          const char *kernel)
{
    tell(user, outcome, kernel);
    test_refused(fex_op_create(NULL, &desc, NULL), FEX_ERROR_INVALID_ARGUMENT,
                 "NULL");
}

START_TEST(first_failure_is_kept_whatever_is_told)
{
    told.calls = 0;
    test_refused(fex_prewarm(context, &desc, FEX_PASS_BOTH, 100, ARCHITECTURE,
                             FEX_PREWARM_CHECK, tell_and_fail, &told, NULL),
                 FEX_ERROR_JIT_FORBIDDEN, ARCHITECTURE);
    ck_assert_ptr_nonnull(strstr(fex_last_error(), told.kernels[0]));
}
END_TEST

START_TEST(check_compiles_nothing)
{
    fex_prewarm_counts counts = {0};
    names_what_is_missing(FEX_PREWARM_CHECK);
    test_ok(prewarm(FEX_PASS_FORWARD, 0, &counts));
    test_ok(prewarm(FEX_PASS_FORWARD, FEX_PREWARM_CHECK, &counts));
}
END_TEST

START_TEST(policy_forbids_compiling)
{
    fex_context_destroy(context);
    context = create(FEX_JIT_FORBID, NULL);
    names_what_is_missing(0);
}
END_TEST

START_TEST(warm_cache_needs_no_compiler)
{
    fex_prewarm_counts counts = {0}, again = {0};
    test_ok(prewarm(FEX_PASS_FORWARD, 0, &counts));
    setenv("FLASHEXPERT_LIBNVRTC", "/nonexistent/libnvrtc.so", 1);
    fex_context_destroy(context);
    context = create(FEX_JIT_ALLOW, NULL);
    test_ok(prewarm(FEX_PASS_FORWARD, 0, &again));
    ck_assert_uint_eq(again.hit, counts.requested);
    memset(&counts, 0, sizeof counts);
    test_refused(prewarm(FEX_PASS_BACKWARD, 0, &counts),
                 FEX_ERROR_NO_COMPILER, "/nonexistent/libnvrtc.so");
    ck_assert_uint_gt(counts.failed, 0);
    ck_assert_uint_eq(counts.requested, counts.failed + counts.hit);
}
END_TEST

/* ---- Failures ------------------------------------------------------------ */

/* A directory of kernels of which one does not compile. */
START_TEST(others_are_tried_after_a_failure)
{
    const char *const source = getenv("top_srcdir");
    char command[8192], kernels[512];
    fex_prewarm_counts counts = {0};
    snprintf(kernels, sizeof kernels, "%s/kernels", scratch);
    snprintf(command, sizeof command,
             "cp -r '%s/kernels' '%s' && chmod -R u+w '%s' && "
             "echo '#error broken on purpose' >>'%s/sddmm_gather.cu'",
             source != NULL ? source : ".", kernels, kernels, kernels);
    ck_assert_int_eq(system(command), 0);
    fex_context_destroy(context);
    context = create(FEX_JIT_ALLOW, kernels);
    test_refused(prewarm(FEX_PASS_BOTH, 0, &counts), FEX_ERROR_COMPILE,
                 "broken on purpose");
    ck_assert_uint_gt(counts.failed, 0);
    ck_assert_uint_gt(counts.compiled, 0);
    ck_assert_uint_eq(counts.requested,
                      counts.failed + counts.compiled + counts.hit);
}
END_TEST

START_TEST(unwritable_cache_is_told)
{
    fex_prewarm_counts counts = {0};
    scratch_remove(scratch);
    snprintf(scratch, sizeof scratch, "/dev/null/cache");
    fex_context_destroy(context);
    context = create(FEX_JIT_ALLOW, NULL);
    fex_context_stats stats = {.size = sizeof stats};
    test_refused(prewarm(FEX_PASS_FORWARD, 0, &counts), FEX_ERROR_IO,
                 "/dev/null");
    /* That is found out before anything is compiled. */
    test_ok(fex_context_get_stats(context, &stats));
    ck_assert_uint_eq(stats.compiles, 0);
    fex_context_destroy(context);
    set_up();
}
END_TEST

START_TEST(arguments_are_checked)
{
    fex_op_desc bad = desc;
    fex_prewarm_counts counts = {0};
    bad.hidden_size = 0;
    TEST_INVALID(fex_prewarm(NULL, &desc, FEX_PASS_BOTH, 1, ARCHITECTURE, 0,
                             NULL, NULL, NULL),
                 "context is NULL");
    TEST_INVALID(fex_prewarm(context, &bad, FEX_PASS_BOTH, 1, ARCHITECTURE, 0,
                             NULL, NULL, NULL),
                 "hidden_size");
    TEST_INVALID(fex_prewarm(context, &desc, FEX_PASS_BOTH, -1, ARCHITECTURE, 0,
                             NULL, NULL, NULL),
                 "num_tokens");
    TEST_INVALID(fex_prewarm(context, &desc, (fex_pass)4, 1, ARCHITECTURE, 0,
                             NULL, NULL, NULL),
                 "passes is 4");
    TEST_INVALID(fex_prewarm(context, &desc, (fex_pass)0, 1, ARCHITECTURE, 0,
                             NULL, NULL, NULL),
                 "passes is 0");
    TEST_INVALID(fex_prewarm(context, &desc, FEX_PASS_BOTH, 1, "sm_12", 0, NULL,
                             NULL, NULL),
                 "'sm_12'");
    TEST_INVALID(fex_prewarm(context, &desc, FEX_PASS_BOTH, 1, NULL, 0, NULL,
                             NULL, NULL),
                 "architecture is NULL");
    TEST_INVALID(fex_prewarm(context, &desc, FEX_PASS_BOTH, 1, ARCHITECTURE, 4,
                             NULL, NULL, NULL),
                 "flags");
    TEST_INVALID(fex_prewarm(context, &desc, FEX_PASS_BOTH, 1, ARCHITECTURE, 0,
                             NULL, NULL, &counts),
                 "fex_prewarm_counts");
}
END_TEST

static void fill(TCase *tests)
{
    tcase_add_checked_fixture(tests, set_up, tear_down);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, each_kernel_is_compiled_once);
    tcase_add_test(tests, counts_are_added_up);
    tcase_add_test(tests, passes_share_kernels);
    tcase_add_test(tests, checked_mode_asks_for_its_kernel);
    tcase_add_loop_test(tests, oldest_and_newest_compile, 0, 2);
    tcase_add_test(tests, refresh_keeps_what_is_of_this_compiler);
    tcase_add_test(tests, monitor_hears_of_every_compile);
    tcase_add_test(tests, check_compiles_nothing);
    tcase_add_test(tests, first_failure_is_kept_whatever_is_told);
    tcase_add_test(tests, policy_forbids_compiling);
    tcase_add_test(tests, warm_cache_needs_no_compiler);
    tcase_add_test(tests, others_are_tried_after_a_failure);
    tcase_add_test(tests, unwritable_cache_is_told);
    tcase_add_test(tests, arguments_are_checked);
}

int main(void)
{
    return test_suite_main("prewarm", fill);
}
