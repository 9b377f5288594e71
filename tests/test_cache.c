/* SPDX-License-Identifier: Apache-2.0 */
/* test_cache.c - the public functions that fill, look after and carry about
 * the kernel cache, without a device. */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache_case.h"
#include "flashexpert_rtc.h"
#include "suite.h"

static const fex_op_desc desc = {.size = sizeof desc,
                                 .dtype = FEX_DTYPE_F32,
                                 .hidden_size = 8,
                                 .top_k = 2,
                                 .num_experts = 16};
#define ARCHITECTURE "sm_80"

/* A cache that all tests read, and its bundle: filled once. */
static char master[256];
static char master_cache[300], master_bundle[300];
static uint64_t master_count;

static char scratch[256];
static char user[300];
static test_log record;

static fex_context *open_context_with(fex_context_options options)
{
    fex_context *context;
    test_log_init(&record);
    options.size = sizeof options;
    options.device = FEX_DEVICE_NONE;
    options.log = record.log.function;
    options.log_user = record.log.user;
    if (options.cache_path == NULL)
        options.cache_path = ":"; /* no read-only tier */
    ck_assert_msg(fex_context_create(&options, &context) == FEX_OK, "%s",
                  fex_last_error());
    return context;
}

static fex_context *open_context(const char *cache_dir)
{
    return open_context_with((fex_context_options){.cache_dir = cache_dir});
}

static fex_status prewarm(fex_context *context, unsigned flags,
                          fex_prewarm_counts *counts)
{
    *counts = (fex_prewarm_counts){.size = sizeof *counts};
    return fex_prewarm(context, &desc, FEX_PASS_FORWARD, 4, ARCHITECTURE,
                       flags, NULL, NULL, counts);
}

static void fill_master(void)
{
    fex_prewarm_counts counts;
    scratch_make(master);
    snprintf(master_cache, sizeof master_cache, "%s/cache", master);
    snprintf(master_bundle, sizeof master_bundle, "%s/kernels.fexb", master);
    fex_context *const context = open_context(master_cache);
    ck_assert_msg(prewarm(context, 0, &counts) == FEX_OK, "%s",
                  fex_last_error());
    master_count = counts.compiled;
    ck_assert_uint_ge(master_count, 2);
    ck_assert_int_eq(
        fex_cache_export(context, master_bundle, NULL, &counts.hit), FEX_OK);
    ck_assert_uint_eq(counts.hit, master_count);
    fex_context_destroy(context);
}

static void remove_master(void)
{
    scratch_remove(master);
}

static void setup(void)
{
    scratch_make(scratch);
    snprintf(user, sizeof user, "%s/user", scratch);
}

static void teardown(void)
{
    scratch_remove(scratch);
}

/* ---- Coverage ------------------------------------------------------------ */

static void note_kernel(void *data, fex_prewarm_outcome outcome,
                        const char *kernel)
{
    if (outcome == FEX_PREWARM_MISSING)
        snprintf(data, 256, "%s", kernel);
}

START_TEST(a_check_names_what_is_missing_and_makes_nothing)
{
    char missing[256] = "";
    fex_prewarm_counts counts = {.size = sizeof counts};
    fex_context *const context = open_context(user);
    ck_assert_int_eq(fex_prewarm(context, &desc, FEX_PASS_FORWARD, 4,
                                 ARCHITECTURE, FEX_PREWARM_CHECK, note_kernel,
                                 missing, &counts),
                     FEX_ERROR_JIT_FORBIDDEN);
    ck_assert_uint_eq(counts.missing, master_count);
    ck_assert_uint_eq(counts.compiled, 0);
    ck_assert_ptr_nonnull(strstr(missing, "hidden_size=8"));
    ck_assert_ptr_nonnull(strstr(missing, ARCHITECTURE));
    ck_assert_int_eq(access(user, F_OK), -1);
    fex_context_destroy(context);
}
END_TEST

/* The three ways to have a cache, each without a compiler and with compiling
 * forbidden: nothing is missing. */
static void check_covered(fex_context *context)
{
    fex_prewarm_counts counts;
    ck_assert_msg(prewarm(context, FEX_PREWARM_CHECK, &counts) == FEX_OK, "%s",
                  fex_last_error());
    ck_assert_uint_eq(counts.hit, counts.requested);
    ck_assert_uint_ge(counts.hit, master_count);
    ck_assert_int_eq(record.count[FEX_LOG_WARNING], 0);
    fex_context_destroy(context);
}

static fex_context *open_production(fex_context_options options)
{
    setenv("FLASHEXPERT_LIBNVRTC", "/nowhere/libnvrtc.so", 1);
    options.jit = FEX_JIT_FORBID;
    return open_context_with(options);
}

START_TEST(a_user_directory_covers)
{
    check_covered(
        open_production((fex_context_options){.cache_dir = master_cache}));
}
END_TEST

START_TEST(a_read_only_directory_covers)
{
    check_covered(open_production((fex_context_options){
        .cache_dir = user, .cache_path = master_cache}));
}
END_TEST

START_TEST(a_bundle_file_covers)
{
    check_covered(open_production((fex_context_options){
        .cache_dir = user, .cache_path = master_bundle}));
}
END_TEST

START_TEST(the_environment_names_tiers)
{
    setenv("FLASHEXPERT_CACHE_DIR", user, 1);
    setenv("FLASHEXPERT_CACHE_PATH", master_bundle, 1);
    setenv("FLASHEXPERT_JIT", "forbid", 1);
    setenv("FLASHEXPERT_LIBNVRTC", "/nowhere/libnvrtc.so", 1);
    const fex_context_options options = {.size = sizeof options,
                                         .device = FEX_DEVICE_NONE};
    fex_context *context;
    fex_prewarm_counts counts;
    ck_assert_int_eq(fex_context_create(&options, &context), FEX_OK);
    ck_assert_int_eq(prewarm(context, 0, &counts), FEX_OK);
    ck_assert_uint_eq(counts.compiled, 0);
    fex_context_destroy(context);
}
END_TEST

START_TEST(a_bundle_in_memory_covers)
{
    size_t size;
    unsigned char *const bytes = scratch_read(master_bundle, &size);
    fex_context *const context =
        open_production((fex_context_options){.cache_dir = user});
    ck_assert_int_eq(fex_cache_attach(context, bytes, size), FEX_OK);
    check_covered(context);
    free(bytes);
}
END_TEST

START_TEST(a_damaged_bundle_in_memory_is_not_attached)
{
    size_t size;
    fex_prewarm_counts counts;
    unsigned char *const bytes = scratch_read(master_bundle, &size);
    fex_context *const context =
        open_production((fex_context_options){.cache_dir = user});
    bytes[size - 1] ^= 1;
    ck_assert_int_eq(fex_cache_attach(context, bytes, size),
                     FEX_ERROR_CORRUPT);
    ck_assert_int_eq(fex_cache_attach(context, bytes, size / 2),
                     FEX_ERROR_CORRUPT);
    ck_assert_int_eq(fex_cache_attach(context, NULL, size),
                     FEX_ERROR_INVALID_ARGUMENT);
    ck_assert_int_eq(prewarm(context, FEX_PREWARM_CHECK, &counts),
                     FEX_ERROR_JIT_FORBIDDEN);
    ck_assert_uint_eq(counts.hit, 0);
    fex_context_destroy(context);
    free(bytes);
}
END_TEST

START_TEST(without_a_home_prewarming_says_so)
{
    fex_prewarm_counts counts;
    unsetenv("FLASHEXPERT_CACHE_DIR");
    unsetenv("XDG_CACHE_HOME");
    unsetenv("HOME");
    fex_context *const context = open_context(NULL);
    ck_assert_int_eq(prewarm(context, 0, &counts), FEX_ERROR_IO);
    ck_assert_uint_eq(counts.failed, master_count);
    ck_assert_ptr_nonnull(strstr(fex_last_error(), "HOME"));
    fex_context_destroy(context);
}
END_TEST

/* ---- Carrying ------------------------------------------------------------ */

/* Whatever made them: the same names, the same bytes. */
START_TEST(entries_made_elsewhere_are_the_same)
{
    fex_prewarm_counts counts;
    size_t first_size, second_size;
    const char *const second = scratch_path(scratch, "second.fexb");
    ck_assert_int_eq(chdir(scratch), 0);
    setenv("HOME", scratch, 1);
    setenv("USER", "somebody", 1);
    fex_context *const context = open_context(user);
    ck_assert_int_eq(prewarm(context, 0, &counts), FEX_OK);
    ck_assert_uint_eq(counts.compiled, master_count);
    ck_assert_int_eq(fex_cache_export(context, second, NULL, NULL), FEX_OK);
    fex_context_destroy(context);
    unsigned char *const a = scratch_read(master_bundle, &first_size);
    unsigned char *const b = scratch_read(second, &second_size);
    ck_assert_uint_eq(first_size, second_size);
    ck_assert_mem_eq(a, b, first_size);
    ck_assert_ptr_null(memmem(b, second_size, scratch, strlen(scratch)));
    free(a);
    free(b);
}
END_TEST

START_TEST(a_bundle_is_imported_whole)
{
    uint64_t count = 0;
    fex_context *const context = open_context(user);
    ck_assert_int_eq(fex_cache_import(context, master_bundle, &count), FEX_OK);
    ck_assert_uint_eq(count, master_count);
    fex_context_destroy(context);
    check_covered(open_production((fex_context_options){.cache_dir = user}));
}
END_TEST

START_TEST(a_damaged_bundle_is_not_imported)
{
    size_t size;
    uint64_t count = 77;
    const char *const path = scratch_path(scratch, "damaged.fexb");
    unsigned char *const bytes = scratch_read(master_bundle, &size);
    fex_context *const context = open_context(user);
    bytes[size - 1] ^= 1;
    scratch_write(path, bytes, size);
    ck_assert_int_eq(fex_cache_import(context, path, &count),
                     FEX_ERROR_CORRUPT);
    ck_assert_ptr_nonnull(strstr(fex_last_error(), path));
    ck_assert_uint_eq(count, 77);
    ck_assert_int_eq(access(user, F_OK), -1);
    ck_assert_int_eq(
        fex_cache_import(context, scratch_path(scratch, "none"), &count),
        FEX_ERROR_IO);
    ck_assert_int_eq(fex_cache_import(context, scratch, &count), FEX_ERROR_IO);
    fex_context_destroy(context);
    free(bytes);
}
END_TEST

START_TEST(an_export_is_filtered_by_architecture)
{
    uint64_t count = 77;
    const char *const path = scratch_path(scratch, "some.fexb");
    fex_context *const context = open_context(master_cache);
    ck_assert_int_eq(fex_cache_export(context, path, "sm_90a", &count),
                     FEX_OK);
    ck_assert_uint_eq(count, 0);
    ck_assert_int_eq(fex_cache_export(context, path, ARCHITECTURE, &count),
                     FEX_OK);
    ck_assert_uint_eq(count, master_count);
    ck_assert_int_eq(fex_cache_export(context, path, "sm_1", &count),
                     FEX_ERROR_INVALID_ARGUMENT);
    fex_context_destroy(context);
}
END_TEST

START_TEST(a_failed_export_leaves_what_was_there)
{
    size_t size;
    const char *const path = scratch_path(scratch, "old/kernels.fexb");
    ck_assert_int_eq(mkdir(scratch_path(scratch, "old"), 0700), 0);
    scratch_write(path, "old", 3);
    fex_context *const context = open_context(master_cache);
    if (geteuid() != 0) {
        ck_assert_int_eq(chmod(scratch_path(scratch, "old"), 0500), 0);
        ck_assert_int_eq(fex_cache_export(context, path, NULL, NULL),
                         FEX_ERROR_IO);
    }
    ck_assert_int_eq(fex_cache_export(context, "/nowhere/at/all", NULL, NULL),
                     FEX_ERROR_IO);
    ck_assert_int_eq(fex_cache_export(context, "", NULL, NULL),
                     FEX_ERROR_INVALID_ARGUMENT);
    unsigned char *const bytes = scratch_read(path, &size);
    ck_assert_uint_eq(size, 3);
    free(bytes);
    fex_context_destroy(context);
}
END_TEST

/* What two tiers have is exported once, and a damaged copy is not it. */
START_TEST(an_export_takes_one_sound_copy)
{
    uint64_t count = 0;
    fex_context *context = open_context_with((fex_context_options){
        .cache_dir = user, .cache_path = master_bundle});
    ck_assert_int_eq(fex_cache_import(context, master_bundle, &count), FEX_OK);
    ck_assert_int_eq(fex_cache_export(context,
                                      scratch_path(scratch, "all.fexb"), NULL,
                                      &count),
                     FEX_OK);
    ck_assert_uint_eq(count, master_count);
    fex_context_destroy(context);
    char command[512];
    snprintf(command, sizeof command,
             "for f in %s/*/*.fexk; do echo x >\"$f\"; done", user);
    ck_assert_int_eq(system(command), 0);
    context = open_context_with((fex_context_options){
        .cache_dir = user, .cache_path = master_bundle});
    ck_assert_int_eq(fex_cache_export(context,
                                      scratch_path(scratch, "all.fexb"), NULL,
                                      &count),
                     FEX_OK);
    ck_assert_uint_eq(count, master_count);
    fex_context_destroy(context);
}
END_TEST

/* ---- Looking after ------------------------------------------------------- */

typedef struct listing {
    uint64_t count, damaged;
    char last_key[64], kernel[256];
    int sorted;
    int stop_after;
} listing;

static int list_entry(void *data, const fex_cache_entry *entry)
{
    listing *const l = data;
    l->count++;
    l->damaged += entry->state != FEX_OK;
    l->sorted &= strcmp(l->last_key, entry->key) < 0;
    snprintf(l->last_key, sizeof l->last_key, "%s", entry->key);
    snprintf(l->kernel, sizeof l->kernel, "%s", entry->kernel);
    ck_assert_uint_eq(entry->size, sizeof *entry);
    ck_assert_uint_gt(entry->bytes, 0);
    if (entry->state == FEX_OK) {
        ck_assert_str_eq(entry->architecture, ARCHITECTURE);
        ck_assert_int_ge(entry->compiler_version, 12000);
    }
    return l->stop_after == 0 || (int)l->count < l->stop_after;
}

START_TEST(a_list_shows_every_entry_in_words)
{
    listing l = {.sorted = 1};
    fex_context *context = open_context(master_cache);
    ck_assert_int_eq(fex_cache_list(context, 1, list_entry, &l), FEX_OK);
    ck_assert_uint_eq(l.count, master_count);
    ck_assert_uint_eq(l.damaged, 0);
    ck_assert(l.sorted);
    ck_assert_ptr_nonnull(strstr(l.kernel, "hidden_size=8"));
    l = (listing){.stop_after = 1};
    ck_assert_int_eq(fex_cache_list(context, 0, list_entry, &l), FEX_OK);
    ck_assert_uint_eq(l.count, 1);
    fex_context_destroy(context);
    l = (listing){.sorted = 1};
    context = open_context_with((fex_context_options){
        .cache_dir = user, .cache_path = master_bundle});
    ck_assert_int_eq(fex_cache_list(context, 0, list_entry, &l), FEX_OK);
    ck_assert_uint_eq(l.count, master_count);
    fex_context_destroy(context);
}
END_TEST

/* Damage in the head shows at once, in the cubin only when verifying. */
START_TEST(a_list_shows_damage)
{
    listing l = {0};
    char command[512];
    fex_context *const context = open_context(user);
    ck_assert_int_eq(fex_cache_import(context, master_bundle, NULL), FEX_OK);
    snprintf(command, sizeof command,
             "f=$(ls %s/*/*.fexk | head -n 1); "
             "printf x | dd of=\"$f\" bs=1 seek=3000 conv=notrunc 2>/dev/null",
             user);
    ck_assert_int_eq(system(command), 0);
    ck_assert_int_eq(fex_cache_list(context, 0, list_entry, &l), FEX_OK);
    ck_assert_uint_eq(l.damaged, 0);
    l = (listing){0};
    ck_assert_int_eq(fex_cache_list(context, 1, list_entry, &l), FEX_OK);
    ck_assert_uint_eq(l.damaged, 1);
    snprintf(command, sizeof command,
             "f=$(ls %s/*/*.fexk | tail -n 1); printf xyz >\"$f\"", user);
    ck_assert_int_eq(system(command), 0);
    l = (listing){0};
    ck_assert_int_eq(fex_cache_list(context, 0, list_entry, &l), FEX_OK);
    ck_assert_uint_eq(l.damaged, 1);
    ck_assert_uint_eq(l.count, master_count);
    fex_context_destroy(context);
}
END_TEST

START_TEST(clearing_removes_the_user_tier_only)
{
    uint64_t removed = 77;
    listing l = {0};
    fex_context *context = open_context(user);
    ck_assert_int_eq(fex_cache_clear(context, &removed), FEX_OK);
    ck_assert_uint_eq(removed, 0);
    ck_assert_int_eq(fex_cache_import(context, master_bundle, NULL), FEX_OK);
    fex_context_destroy(context);
    context = open_context_with((fex_context_options){
        .cache_dir = user, .cache_path = master_cache});
    ck_assert_int_eq(fex_cache_prune(context, UINT64_MAX, 0, &removed),
                     FEX_OK);
    ck_assert_uint_eq(removed, 0);
    ck_assert_int_eq(fex_cache_prune(context, 0, 0, &removed), FEX_OK);
    ck_assert_uint_eq(removed, master_count);
    ck_assert_int_eq(fex_cache_prune(context, 0, -1, &removed),
                     FEX_ERROR_INVALID_ARGUMENT);
    ck_assert_int_eq(fex_cache_clear(context, NULL), FEX_OK);
    ck_assert_int_eq(fex_cache_list(context, 0, list_entry, &l), FEX_OK);
    ck_assert_uint_eq(l.count, master_count);
    fex_context_destroy(context);
}
END_TEST

/* What a run before left is over the budget, and goes; what this one makes
 * stays although it alone is. */
START_TEST(the_environment_sets_the_budget)
{
    char command[512];
    uint64_t removed;
    listing l = {0};
    fex_op_desc other = desc;
    fex_prewarm_counts counts = {.size = sizeof counts};
    other.top_k = 3;
    fex_context *context = open_context(user);
    ck_assert_int_eq(fex_cache_import(context, master_bundle, NULL), FEX_OK);
    fex_context_destroy(context);
    snprintf(command, sizeof command, "touch -d '1 hour ago' %s/*/*", user);
    ck_assert_int_eq(system(command), 0);
    setenv("FLASHEXPERT_CACHE_MAX", "1K", 1);
    context = open_context(user);
    ck_assert_int_eq(fex_prewarm(context, &other, FEX_PASS_FORWARD, 4,
                                 ARCHITECTURE, 0, NULL, NULL, &counts),
                     FEX_OK);
    ck_assert_uint_gt(counts.compiled, 0);
    ck_assert_int_eq(fex_cache_list(context, 1, list_entry, &l), FEX_OK);
    ck_assert_uint_eq(l.count, counts.compiled);
    ck_assert_int_eq(fex_cache_prune(context, 0, 0, &removed), FEX_OK);
    ck_assert_uint_eq(removed, 0);
    fex_context_destroy(context);
}
END_TEST

/* What a group may use is made so, and only where asked for. */
START_TEST(the_environment_shares_the_directory)
{
    static const struct {
        const char *value;
        mode_t mode;
    } cases[] = {{"", 0700}, {"0", 0700}, {"1", 02770}};
    struct stat found;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(user, sizeof user, "%s/user%zu", scratch, i);
        setenv("FLASHEXPERT_CACHE_SHARED", cases[i].value, 1);
        fex_context *const context = open_context(user);
        ck_assert_int_eq(fex_cache_import(context, master_bundle, NULL),
                         FEX_OK);
        ck_assert_int_eq(stat(user, &found), 0);
        ck_assert_uint_eq(found.st_mode & 07777, cases[i].mode);
        fex_context_destroy(context);
    }
}
END_TEST

/* ---- Fork ---------------------------------------------------------------- */

/* In the child: every call is refused, and destroying harms nobody. */
static int use_in_child(fex_context *context)
{
    fex_prewarm_counts counts;
    fex_context_info info = {.size = sizeof info};
    fex_context_stats stats = {.size = sizeof stats};
    listing l = {0};
    const fex_status results[] = {
        prewarm(context, 0, &counts),
        fex_context_get_info(context, &info),
        fex_context_get_stats(context, &stats),
        fex_jit_monitor(context, NULL, NULL),
        fex_cache_list(context, 0, list_entry, &l),
        fex_cache_prune(context, 0, 0, NULL),
        fex_cache_clear(context, NULL),
        fex_cache_export(context, "x", NULL, NULL),
        fex_cache_import(context, "x", NULL),
        fex_cache_attach(context, "x", 1)};
    for (size_t i = 0; i < sizeof results / sizeof *results; i++)
        if (results[i] != FEX_ERROR_FORKED)
            return (int)i + 1;
    fex_context_destroy(context);
    return 0;
}

START_TEST(a_forked_child_is_told_and_does_not_hang)
{
    fex_prewarm_counts counts;
    int status;
    fex_context *const context = open_context(user);
    /* With the compiler loaded, and its threads, if it has any, running. */
    ck_assert_int_eq(prewarm(context, 0, &counts), FEX_OK);
    ck_assert_uint_eq(counts.compiled, master_count);
    const pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        alarm(20);
        _exit(use_in_child(context));
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 0);
    ck_assert_int_eq(prewarm(context, FEX_PREWARM_CHECK, &counts), FEX_OK);
    fex_context_destroy(context);
}
END_TEST

static void fill(TCase *tests)
{
    tcase_add_unchecked_fixture(tests, fill_master, remove_master);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, a_check_names_what_is_missing_and_makes_nothing);
    tcase_add_test(tests, a_user_directory_covers);
    tcase_add_test(tests, a_read_only_directory_covers);
    tcase_add_test(tests, a_bundle_file_covers);
    tcase_add_test(tests, the_environment_names_tiers);
    tcase_add_test(tests, a_bundle_in_memory_covers);
    tcase_add_test(tests, a_damaged_bundle_in_memory_is_not_attached);
    tcase_add_test(tests, without_a_home_prewarming_says_so);
    tcase_add_test(tests, entries_made_elsewhere_are_the_same);
    tcase_add_test(tests, a_bundle_is_imported_whole);
    tcase_add_test(tests, a_damaged_bundle_is_not_imported);
    tcase_add_test(tests, an_export_is_filtered_by_architecture);
    tcase_add_test(tests, a_failed_export_leaves_what_was_there);
    tcase_add_test(tests, an_export_takes_one_sound_copy);
    tcase_add_test(tests, a_list_shows_every_entry_in_words);
    tcase_add_test(tests, a_list_shows_damage);
    tcase_add_test(tests, clearing_removes_the_user_tier_only);
    tcase_add_test(tests, the_environment_sets_the_budget);
    tcase_add_test(tests, the_environment_shares_the_directory);
    tcase_add_test(tests, a_forked_child_is_told_and_does_not_hang);
}

int main(void)
{
    return test_suite_main("cache", fill);
}
