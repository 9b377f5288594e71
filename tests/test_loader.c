/* SPDX-License-Identifier: Apache-2.0 */
/* test_loader.c - from specification to functions, with the real compiler and
 * a driver that does as it is told. */
#include "config.h"

#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache_case.h"
#include "entry.h"
#include "loader.h"
#include "suite.h"

#define THREADS 16

static char scratch[256];
static test_log record;
static fex_compiler *compiler;
static fex_store *store;
static fex_loader *loader;

/* ---- The driver ---------------------------------------------------------- */

static struct {
    atomic_int loads, unloads;
    atomic_int refusals; /* loads still to be refused, */
    CUresult error;      /* with this */
    CUresult function_error;
} driver_state;

static CUresult load_module(CUmodule *module, const void *image,
                            unsigned count, CUjit_option *options,
                            void **values)
{
    (void)count;
    (void)options;
    (void)values;
    ck_assert_mem_eq(image, "\177ELF", 4);
    if (atomic_fetch_sub(&driver_state.refusals, 1) > 0)
        return driver_state.error;
    const int number = atomic_fetch_add(&driver_state.loads, 1) + 1;
    *module = (CUmodule)(uintptr_t)number;
    return CUDA_SUCCESS;
}

static CUresult unload_module(CUmodule module)
{
    (void)module;
    driver_state.unloads++;
    return CUDA_SUCCESS;
}

static CUresult get_function(CUfunction *function, CUmodule module,
                             const char *name)
{
    ck_assert_str_eq(name, "twice");
    if (driver_state.function_error != CUDA_SUCCESS)
        return driver_state.function_error;
    *function = (CUfunction)((uintptr_t)module + 1000);
    return CUDA_SUCCESS;
}

static CUresult get_error_name(CUresult result, const char **name)
{
    *name = result == CUDA_ERROR_INVALID_IMAGE ? "CUDA_ERROR_INVALID_IMAGE"
                                               : "CUDA_ERROR_OTHER";
    return CUDA_SUCCESS;
}

static const fex_driver driver = {.cuModuleLoadDataEx = load_module,
                                  .cuModuleUnload = unload_module,
                                  .cuModuleGetFunction = get_function,
                                  .cuGetErrorName = get_error_name,
                                  .cuGetErrorString = get_error_name};

/* ---- Everything around a loader ------------------------------------------ */

static void open_loader(fex_jit_policy policy, const char *library)
{
    const fex_compiler_options compiler_options = {
        .library = library, .cuda_home = getenv("CUDA_HOME")};
    const fex_store_options store_options = {
        .user_dir = scratch, .max_bytes = UINT64_MAX, .log = &record.log};
    test_log_init(&record);
    ck_assert_int_eq(
        fex_compiler_create(&compiler_options, &record.log, &compiler),
        FEX_OK);
    ck_assert_int_eq(fex_store_create(&store_options, &store), FEX_OK);
    const fex_loader_options options = {.driver = &driver,
                                        .compiler = compiler,
                                        .store = store,
                                        .sources = &test_sources,
                                        .log = &record.log,
                                        .policy = policy};
    ck_assert_int_eq(fex_loader_create(&options, &loader), FEX_OK);
}

static void close_loader(void)
{
    fex_loader_destroy(loader, 1);
    fex_store_destroy(store);
    fex_compiler_destroy(compiler);
    ck_assert_int_eq(driver_state.unloads, driver_state.loads);
}

static void setup(void)
{
    memset(&driver_state, 0, sizeof driver_state);
    scratch_make(scratch);
    open_loader(FEX_JIT_ALLOW, NULL);
}

static void teardown(void)
{
    close_loader();
    scratch_remove(scratch);
}

static void reopen(fex_jit_policy policy, const char *library)
{
    close_loader();
    open_loader(policy, library);
}

static fex_status get(int64_t factor, const fex_module **module)
{
    fex_kernel_spec spec;
    test_spec(&spec, factor);
    return fex_loader_get(loader, &spec, module);
}

static fex_context_stats stats(void)
{
    fex_context_stats counts = {.size = sizeof counts};
    fex_loader_get_stats(loader, &counts);
    return counts;
}

/* ---- Tests --------------------------------------------------------------- */

START_TEST(a_kernel_is_compiled_then_remembered_then_kept)
{
    const fex_module *first, *second;
    ck_assert_int_eq(get(3, &first), FEX_OK);
    ck_assert_ptr_eq(first->functions[0],
                     (CUfunction)((uintptr_t)first->module + 1000));
    ck_assert_int_eq(get(3, &second), FEX_OK);
    ck_assert_ptr_eq(first, second);
    ck_assert_uint_eq(stats().compiles, 1);
    ck_assert_uint_eq(stats().cache_misses, 1);
    ck_assert_uint_eq(stats().memory_hits, 1);
    ck_assert(stats().compile_seconds > 0);
    /* With no compiler on the machine the next process has it from disk. */
    reopen(FEX_JIT_ALLOW, "/nowhere/libnvrtc.so");
    ck_assert_int_eq(get(3, &first), FEX_OK);
    ck_assert_uint_eq(stats().cache_hits, 1);
    ck_assert_uint_eq(stats().compiles, 0);
    ck_assert_int_eq(get(4, &first), FEX_ERROR_NO_COMPILER);
}
END_TEST

static void *get_in_thread(void *argument)
{
    const fex_module **const module = argument;
    return get(7, module) == FEX_OK ? NULL : argument;
}

static void run_threads(void *(*function)(void *), void **arguments,
                        int *failures)
{
    pthread_t threads[THREADS];
    *failures = 0;
    for (int i = 0; i < THREADS; i++)
        ck_assert_int_eq(
            pthread_create(&threads[i], NULL, function, arguments[i]), 0);
    for (int i = 0; i < THREADS; i++) {
        void *result;
        pthread_join(threads[i], &result);
        *failures += result != NULL;
    }
}

START_TEST(threads_that_ask_at_once_compile_once)
{
    const fex_module *modules[THREADS];
    void *arguments[THREADS];
    int failures;
    for (int i = 0; i < THREADS; i++)
        arguments[i] = &modules[i];
    run_threads(get_in_thread, arguments, &failures);
    ck_assert_int_eq(failures, 0);
    for (int i = 1; i < THREADS; i++)
        ck_assert_ptr_eq(modules[i], modules[0]);
    ck_assert_uint_eq(stats().compiles, 1);
    ck_assert_int_eq(driver_state.loads, 1);
}
END_TEST

/* Each thread takes a path of its own through many keys. */
static void *get_many(void *argument)
{
    const uintptr_t thread = (uintptr_t)argument;
    const fex_module *module;
    for (uintptr_t i = 0; i < 40; i++)
        if (get((int64_t)((i * (thread + 1)) % 5 + 1), &module) != FEX_OK)
            return argument;
    return NULL;
}

START_TEST(threads_on_many_keys_get_along)
{
    void *arguments[THREADS];
    int failures;
    for (int i = 0; i < THREADS; i++)
        arguments[i] = (void *)(uintptr_t)(i + 1);
    run_threads(get_many, arguments, &failures);
    ck_assert_int_eq(failures, 0);
    ck_assert_uint_eq(stats().compiles, 5);
    ck_assert_int_eq(driver_state.loads, 5);
}
END_TEST

static void *fail_in_thread(void *argument)
{
    fex_kernel_spec spec;
    const fex_module *module;
    test_spec(&spec, 3);
    spec.file = "broken.cu";
    return fex_loader_get(loader, &spec, &module) == FEX_ERROR_COMPILE &&
                   strstr(fex_last_error(), "broken") != NULL
               ? NULL
               : argument;
}

START_TEST(threads_share_a_failure_and_may_try_again)
{
    void *arguments[THREADS];
    int failures;
    for (int i = 0; i < THREADS; i++)
        arguments[i] = &arguments[i];
    run_threads(fail_in_thread, arguments, &failures);
    ck_assert_int_eq(failures, 0);
    const int tries = record.count[FEX_LOG_ERROR];
    ck_assert_int_ge(tries, 1);
    ck_assert_ptr_null(fail_in_thread(arguments));
    ck_assert_int_eq(record.count[FEX_LOG_ERROR], tries + 1);
    ck_assert_uint_eq(stats().compiles, 0);
}
END_TEST

START_TEST(forbidding_names_what_is_missing)
{
    const fex_module *module;
    ck_assert_int_eq(get(3, &module), FEX_OK);
    reopen(FEX_JIT_FORBID, NULL);
    ck_assert_int_eq(get(3, &module), FEX_OK);
    ck_assert_int_eq(get(4, &module), FEX_ERROR_JIT_FORBIDDEN);
    ck_assert_ptr_nonnull(strstr(fex_last_error(), "twice factor=4 sm_90a"));
    ck_assert_uint_eq(stats().compiles, 0);
    ck_assert_int_eq(scratch_count(scratch, ".lock"), 0);
}
END_TEST

START_TEST(warning_names_what_is_compiled)
{
    const fex_module *module;
    reopen(FEX_JIT_WARN, NULL);
    ck_assert_int_eq(get(3, &module), FEX_OK);
    ck_assert_int_eq(record.count[FEX_LOG_WARNING], 1);
    ck_assert_ptr_nonnull(
        strstr(record.last[FEX_LOG_WARNING], "twice factor=3 sm_90a"));
    ck_assert_int_eq(get(3, &module), FEX_OK);
    ck_assert_int_eq(record.count[FEX_LOG_WARNING], 1);
}
END_TEST

typedef struct watch {
    int count;
    char last[256];
} watch;

static void note(void *user, const char *kernel)
{
    watch *const w = user;
    w->count++;
    snprintf(w->last, sizeof w->last, "%s", kernel);
}

START_TEST(an_armed_monitor_counts_and_names)
{
    const fex_module *module;
    watch w = {0};
    ck_assert_int_eq(get(3, &module), FEX_OK);
    fex_loader_monitor(loader, note, &w);
    ck_assert_int_eq(get(3, &module), FEX_OK);
    ck_assert_int_eq(w.count, 0);
    ck_assert_int_eq(get(4, &module), FEX_OK);
    ck_assert_int_eq(w.count, 1);
    ck_assert_str_eq(w.last, "twice factor=4 sm_90a");
    fex_loader_monitor(loader, NULL, NULL);
    ck_assert_int_eq(get(5, &module), FEX_OK);
    ck_assert_int_eq(w.count, 1);
}
END_TEST

/* A sound entry that the driver does not take: compiled again, replaced. */
START_TEST(what_the_driver_refuses_is_compiled_again)
{
    const fex_module *module;
    ck_assert_int_eq(get(3, &module), FEX_OK);
    reopen(FEX_JIT_ALLOW, NULL);
    driver_state.refusals = 1;
    driver_state.error = CUDA_ERROR_INVALID_IMAGE;
    ck_assert_int_eq(get(3, &module), FEX_OK);
    ck_assert_uint_eq(stats().compiles, 1);
    ck_assert_int_eq(record.count[FEX_LOG_WARNING], 1);
    /* What comes from the compiler itself is not tried twice. */
    driver_state.refusals = 100;
    ck_assert_int_eq(get(4, &module), FEX_ERROR_DRIVER);
    ck_assert_ptr_nonnull(
        strstr(fex_last_error(), "CUDA_ERROR_INVALID_IMAGE"));
    driver_state.refusals = 0;
    ck_assert_int_eq(get(4, &module), FEX_OK);
}
END_TEST

START_TEST(a_failing_driver_is_an_error_and_not_a_compile)
{
    const fex_module *module;
    ck_assert_int_eq(get(3, &module), FEX_OK);
    reopen(FEX_JIT_ALLOW, NULL);
    driver_state.refusals = 1;
    driver_state.error = CUDA_ERROR_OUT_OF_MEMORY;
    ck_assert_int_eq(get(3, &module), FEX_ERROR_DEVICE_OUT_OF_MEMORY);
    ck_assert_uint_eq(stats().compiles, 0);
    driver_state.function_error = CUDA_ERROR_LAUNCH_FAILED;
    ck_assert_int_eq(get(3, &module), FEX_ERROR_DRIVER);
    driver_state.function_error = CUDA_SUCCESS;
    ck_assert_int_eq(get(3, &module), FEX_OK);
}
END_TEST

/* ---- Prewarming ---------------------------------------------------------- */

static fex_status prewarm(int64_t factor, unsigned flags,
                          fex_prewarm_outcome *outcome)
{
    fex_kernel_spec spec;
    test_spec(&spec, factor);
    return fex_loader_prewarm(loader, &spec, flags, outcome);
}

START_TEST(prewarming_touches_no_device)
{
    fex_prewarm_outcome outcome;
    ck_assert_int_eq(prewarm(3, FEX_PREWARM_CHECK, &outcome),
                     FEX_ERROR_JIT_FORBIDDEN);
    ck_assert_int_eq(outcome, FEX_PREWARM_MISSING);
    ck_assert_ptr_nonnull(strstr(fex_last_error(), "twice factor=3"));
    ck_assert_int_eq(prewarm(3, 0, &outcome), FEX_OK);
    ck_assert_int_eq(outcome, FEX_PREWARM_COMPILED);
    ck_assert_int_eq(prewarm(3, 0, &outcome), FEX_OK);
    ck_assert_int_eq(outcome, FEX_PREWARM_HIT);
    ck_assert_int_eq(prewarm(3, FEX_PREWARM_CHECK, &outcome), FEX_OK);
    ck_assert_int_eq(driver_state.loads, 0);
    reopen(FEX_JIT_FORBID, NULL);
    ck_assert_int_eq(prewarm(4, 0, &outcome), FEX_ERROR_JIT_FORBIDDEN);
    ck_assert_int_eq(outcome, FEX_PREWARM_MISSING);
}
END_TEST

/* Makes the entry of a kernel say that an older compiler made it. */
static void make_older(int64_t factor)
{
    fex_recipe recipe;
    fex_cubin cubin;
    int found;
    test_recipe(&recipe, factor);
    fex_store_find(store, &recipe, FEX_STORE_LOOK, &cubin, &found);
    ck_assert(found);
    cubin.compiler_version -= 10;
    ck_assert_int_eq(fex_store_put(store, &recipe, &cubin), FEX_OK);
    fex_cubin_free(&cubin);
    fex_recipe_free(&recipe);
}

START_TEST(refreshing_replaces_what_an_older_compiler_made)
{
    fex_prewarm_outcome outcome;
    ck_assert_int_eq(prewarm(3, 0, &outcome), FEX_OK);
    ck_assert_int_eq(prewarm(4, 0, &outcome), FEX_OK);
    make_older(3);
    ck_assert_int_eq(prewarm(3, 0, &outcome), FEX_OK);
    ck_assert_int_eq(outcome, FEX_PREWARM_HIT);
    ck_assert_int_eq(prewarm(3, FEX_PREWARM_REFRESH, &outcome), FEX_OK);
    ck_assert_int_eq(outcome, FEX_PREWARM_COMPILED);
    ck_assert_int_eq(prewarm(3, FEX_PREWARM_REFRESH, &outcome), FEX_OK);
    ck_assert_int_eq(outcome, FEX_PREWARM_HIT);
    ck_assert_int_eq(prewarm(4, FEX_PREWARM_REFRESH, &outcome), FEX_OK);
    ck_assert_int_eq(outcome, FEX_PREWARM_HIT);
}
END_TEST

START_TEST(prewarming_nowhere_is_an_error)
{
    fex_prewarm_outcome outcome;
    scratch_remove(scratch);
    scratch_write(scratch, "a file", 6);
    ck_assert_int_eq(prewarm(3, 0, &outcome), FEX_ERROR_IO);
    ck_assert_int_eq(outcome, FEX_PREWARM_FAILED);
    ck_assert_ptr_nonnull(strstr(fex_last_error(), scratch));
}
END_TEST

START_TEST(a_cache_that_cannot_be_written_is_done_without)
{
    const fex_module *module;
    scratch_remove(scratch);
    scratch_write(scratch, "a file", 6);
    ck_assert_int_eq(get(3, &module), FEX_OK);
    ck_assert_int_eq(get(4, &module), FEX_OK);
    ck_assert_int_eq(get(3, &module), FEX_OK);
    ck_assert_int_eq(record.count[FEX_LOG_WARNING], 1);
    ck_assert_uint_eq(stats().compiles, 2);
}
END_TEST

static void fill(TCase *tests)
{
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, a_kernel_is_compiled_then_remembered_then_kept);
    tcase_add_test(tests, threads_that_ask_at_once_compile_once);
    tcase_add_test(tests, threads_on_many_keys_get_along);
    tcase_add_test(tests, threads_share_a_failure_and_may_try_again);
    tcase_add_test(tests, forbidding_names_what_is_missing);
    tcase_add_test(tests, warning_names_what_is_compiled);
    tcase_add_test(tests, an_armed_monitor_counts_and_names);
    tcase_add_test(tests, what_the_driver_refuses_is_compiled_again);
    tcase_add_test(tests, a_failing_driver_is_an_error_and_not_a_compile);
    tcase_add_test(tests, prewarming_touches_no_device);
    tcase_add_test(tests, refreshing_replaces_what_an_older_compiler_made);
    tcase_add_test(tests, prewarming_nowhere_is_an_error);
    tcase_add_test(tests, a_cache_that_cannot_be_written_is_done_without);
}

int main(void)
{
    return test_suite_main("loader", fill);
}
