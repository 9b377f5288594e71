/* SPDX-License-Identifier: Apache-2.0 */
/* test_processes.c - many processes on one cache: started together, killed,
 * stopped; and what a warm one does without. */
#include "config.h"

#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cache_case.h"
#include "entry.h"
#include "loader.h"
#include "suite.h"

#define PROCESSES 16
#define KERNELS 8

static char scratch[256];

static void setup(void)
{
    scratch_make(scratch);
}

static void teardown(void)
{
    scratch_remove(scratch);
}

/* ---- What a process does ------------------------------------------------- */

static void ignore(void *user, fex_log_level level, const char *message)
{
    (void)user;
    (void)level;
    (void)message;
}

typedef struct cache {
    fex_log log;
    fex_compiler *compiler;
    fex_store *store;
    fex_loader *loader;
} cache;

static void open_cache(cache *c, int lock_wait_ms)
{
    const fex_compiler_options compiler = {.cuda_home = getenv("CUDA_HOME")};
    const fex_store_options store = {.user_dir = scratch,
                                     .max_bytes = UINT64_MAX,
                                     .log = &c->log,
                                     .lock_wait_ms = lock_wait_ms};
    fex_log_init(&c->log, ignore, NULL, NULL);
    if (fex_compiler_create(&compiler, &c->log, &c->compiler) != FEX_OK ||
        fex_store_create(&store, &c->store) != FEX_OK)
        abort();
    const fex_loader_options loader = {.compiler = c->compiler,
                                       .store = c->store,
                                       .sources = &test_sources,
                                       .log = &c->log,
                                       .policy = FEX_JIT_ALLOW};
    if (fex_loader_create(&loader, &c->loader) != FEX_OK)
        abort();
}

static void close_cache(cache *c)
{
    fex_loader_destroy(c->loader, 0);
    fex_store_destroy(c->store);
    fex_compiler_destroy(c->compiler);
}

/* Prewarms the kernels first .. last; how many of them it compiled, or -1. */
static int prewarm(cache *c, int first, int last)
{
    fex_kernel_spec spec;
    fex_prewarm_outcome outcome;
    int compiled = 0;
    for (int factor = first; factor <= last; factor++) {
        test_spec(&spec, factor);
        if (fex_loader_prewarm(c->loader, &spec, 0, &outcome) != FEX_OK)
            return -1;
        compiled += outcome == FEX_PREWARM_COMPILED;
    }
    return compiled;
}

static int prewarm_once(int first, int last)
{
    cache c;
    open_cache(&c, 0);
    const int compiled = prewarm(&c, first, last);
    close_cache(&c);
    return compiled;
}

static int wait_for(pid_t process)
{
    int status;
    ck_assert_int_eq(waitpid(process, &status, 0), process);
    return status;
}

/* ---- Together ------------------------------------------------------------ */

START_TEST(processes_started_together_compile_each_kernel_once)
{
    pid_t processes[PROCESSES];
    int start[2];
    int total = 0;
    ck_assert_int_eq(pipe(start), 0);
    for (int i = 0; i < PROCESSES; i++) {
        processes[i] = fork();
        ck_assert_int_ge(processes[i], 0);
        if (processes[i] == 0) {
            char go;
            close(start[1]);
            /* The end of the pipe is the start. */
            if (read(start[0], &go, 1) != 0)
                _exit(200);
            const int compiled = prewarm_once(1, KERNELS);
            _exit(compiled >= 0 ? compiled : 201);
        }
    }
    close(start[0]);
    close(start[1]);
    for (int i = 0; i < PROCESSES; i++) {
        const int status = wait_for(processes[i]);
        ck_assert(WIFEXITED(status));
        ck_assert_int_le(WEXITSTATUS(status), KERNELS);
        total += WEXITSTATUS(status);
    }
    ck_assert_int_eq(total, KERNELS);
    ck_assert_int_eq(scratch_count(scratch, ".fexk"), KERNELS);
    ck_assert_int_eq(scratch_count(scratch, ".lock"), 0);
    ck_assert_int_eq(scratch_count(scratch, ".tmp"), 0);
}
END_TEST

/* ---- Killed -------------------------------------------------------------- */

static fex_status check_sound(void *user, const fex_tiers_item *item)
{
    fex_entry entry;
    ck_assert_ptr_nonnull(item->bytes);
    ck_assert_int_eq(fex_entry_decode(item->bytes, item->size, &entry),
                     FEX_OK);
    ck_assert_int_eq(fex_entry_check_key(&entry, item->file.key), FEX_OK);
    ++*(int *)user;
    return FEX_OK;
}

static int count_sound(void)
{
    cache c;
    int count = 0;
    open_cache(&c, 0);
    ck_assert_int_eq(
        fex_tiers_walk(fex_store_tiers(c.store), 1, check_sound, &count),
        FEX_OK);
    close_cache(&c);
    return count;
}

static void sleep_us(long us)
{
    const struct timespec time = {.tv_nsec = us * 1000};
    nanosleep(&time, NULL);
}

/* Writes entries without pause, so that most kills come while one is being
 * written. */
static void write_for_ever(void)
{
    cache c;
    fex_recipe recipe;
    fex_cubin cubin;
    open_cache(&c, 0);
    for (int factor = 1;; factor = factor % 20 + 1) {
        test_recipe(&recipe, factor);
        test_cubin(&cubin, factor, 200000);
        fex_store_put(c.store, &recipe, &cubin);
        fex_cubin_free(&cubin);
        fex_recipe_free(&recipe);
    }
}

START_TEST(a_writer_killed_at_any_moment_leaves_whole_entries)
{
    int left = 0;
    for (int i = 0; i < 60; i++) {
        const pid_t process = fork();
        ck_assert_int_ge(process, 0);
        if (process == 0)
            write_for_ever();
        sleep_us(2000 + 517 * i);
        ck_assert_int_eq(kill(process, SIGKILL), 0);
        wait_for(process);
        left += scratch_count(scratch, ".tmp");
        count_sound();
    }
    /* Or the test has not met the moment it is about. */
    ck_assert_int_gt(left, 0);
    ck_assert_int_eq(prewarm_once(100, 100), 1);
    ck_assert_int_eq(scratch_count(scratch, ".tmp"), 0);
}
END_TEST

START_TEST(a_killed_prewarm_is_made_up_for_by_the_next)
{
    /* A busy machine needs longer to have compiled the first kernel. */
    int there = 0;
    for (int i = 0; i < 6 || (there == 0 && i < 60); i++) {
        const pid_t process = fork();
        ck_assert_int_ge(process, 0);
        if (process == 0)
            _exit(prewarm_once(1, 100));
        sleep_us(100000 + 61000 * i);
        ck_assert_int_eq(kill(process, SIGKILL), 0);
        wait_for(process);
        there = count_sound();
    }
    ck_assert_int_ge(there, 1);
    ck_assert_int_eq(prewarm_once(1, there + 4), 4);
    ck_assert_int_eq(count_sound(), there + 4);
    ck_assert_int_eq(scratch_count(scratch, ".tmp"), 0);
    ck_assert_int_eq(scratch_count(scratch, ".lock"), 0);
}
END_TEST

/* ---- Stopped ------------------------------------------------------------- */

START_TEST(a_stopped_holder_does_not_block)
{
    cache c;
    fex_recipe recipe;
    fex_store_lock lock;
    char ready;
    int told[2];
    ck_assert_int_eq(pipe(told), 0);
    const pid_t process = fork();
    ck_assert_int_ge(process, 0);
    test_recipe(&recipe, 1);
    if (process == 0) {
        open_cache(&c, 0);
        fex_store_lock_key(c.store, recipe.key, &lock);
        if (write(told[1], "!", 1) == 1)
            raise(SIGSTOP);
        _exit(0);
    }
    ck_assert_int_eq(read(told[0], &ready, 1), 1);
    open_cache(&c, 200);
    ck_assert_int_eq(prewarm(&c, 1, 1), 1);
    close_cache(&c);
    kill(process, SIGKILL);
    wait_for(process);
    ck_assert_int_eq(count_sound(), 1);
    fex_recipe_free(&recipe);
}
END_TEST

/* ---- Warm ---------------------------------------------------------------- */

static int has_mapped(const char *name)
{
    char line[4096];
    int found = 0;
    FILE *const maps = fopen("/proc/self/maps", "r");
    if (maps == NULL)
        return -1;
    while (!found && fgets(line, sizeof line, maps) != NULL)
        found = strstr(line, name) != NULL;
    fclose(maps);
    return found;
}

static int run_and_look(void)
{
    cache c;
    open_cache(&c, 0);
    const int compiled = prewarm(&c, 1, 2);
    const int mapped = has_mapped("libnvrtc");
    close_cache(&c);
    return 10 * compiled + mapped;
}

START_TEST(a_warm_process_does_not_load_the_compiler)
{
    for (int warm = 0; warm < 2; warm++) {
        const pid_t process = fork();
        ck_assert_int_ge(process, 0);
        if (process == 0)
            _exit(run_and_look());
        const int status = wait_for(process);
        ck_assert(WIFEXITED(status));
        ck_assert_int_eq(WEXITSTATUS(status), warm ? 0 : 21);
    }
}
END_TEST

static void fill(TCase *tests)
{
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests,
                   processes_started_together_compile_each_kernel_once);
    tcase_add_test(tests, a_writer_killed_at_any_moment_leaves_whole_entries);
    tcase_add_test(tests, a_killed_prewarm_is_made_up_for_by_the_next);
    tcase_add_test(tests, a_stopped_holder_does_not_block);
    tcase_add_test(tests, a_warm_process_does_not_load_the_compiler);
}

int main(void)
{
    return test_suite_main("processes", fill);
}
