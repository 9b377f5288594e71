/* SPDX-License-Identifier: Apache-2.0 */
/* test_store.c - tiers: what is found where, bundles among them. */
#include "config.h"

#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file_faults.h"
#include "store_case.h"
#include "suite.h"

/* ---- Finding ------------------------------------------------------------- */

START_TEST(what_was_put_is_found_by_another_store)
{
    fex_store *store = store_open(store_user, NULL);
    ck_assert(!store_load(store, 1));
    ck_assert_int_eq(store_put(store, 1), FEX_OK);
    ck_assert(store_load(store, 1));
    ck_assert(!store_load(store, 2));
    fex_store_destroy(store);
    store = store_open(store_user, NULL);
    ck_assert(store_load(store, 1));
    fex_store_destroy(store);
    ck_assert_int_eq(store_warnings(), 0);
}
END_TEST

START_TEST(directories_are_private)
{
    struct stat status;
    store_fill(store_user, 1);
    ck_assert_int_eq(stat(store_user, &status), 0);
    ck_assert_int_eq(status.st_mode & 07777, 0700);
    ck_assert_int_eq(stat(store_file(store_user, 1), &status), 0);
    ck_assert_int_eq(status.st_mode & 07777, 0600);
}
END_TEST

START_TEST(a_miss_takes_no_lock_and_writes_nothing)
{
    store_fill(store_user, 1);
    fex_store *const store = store_open(store_user, store_other);
    file_faults_reset();
    ck_assert(!store_load(store, 2));
    ck_assert_int_eq(file_faults_calls(CALL_FLOCK), 0);
    ck_assert_int_eq(file_faults_writers(), 0);
    ck_assert_int_eq(file_faults_calls(CALL_MKDIR), 0);
    fex_store_destroy(store);
}
END_TEST

START_TEST(read_only_tiers_are_looked_into_and_left_alone)
{
    char path[700];
    store_fill(store_other, 2);
    snprintf(path, sizeof path, ":%s/none::%s:", store_scratch, store_other);
    fex_store *const store = store_open(store_user, path);
    file_faults_reset();
    ck_assert(store_load(store, 2));
    ck_assert_int_eq(file_faults_writers(), 0);
    ck_assert_int_eq(access(store_user, F_OK), -1);
    ck_assert_int_eq(store_put(store, 3), FEX_OK);
    ck_assert_int_eq(access(store_file(store_user, 3), R_OK), 0);
    ck_assert_int_eq(access(store_file(store_other, 3), R_OK), -1);
    fex_store_destroy(store);
    ck_assert_int_eq(store_warnings(), 0);
}
END_TEST

START_TEST(without_a_user_tier_nothing_is_kept)
{
    store_fill(store_other, 1);
    fex_store *const store = store_open(NULL, store_other);
    ck_assert(store_load(store, 1));
    ck_assert_int_eq(store_put(store, 2), FEX_ERROR_IO);
    ck_assert_int_eq(store_put(store, 3), FEX_ERROR_IO);
    ck_assert_int_eq(store_warnings(), 1);
    fex_store_destroy(store);
}
END_TEST

START_TEST(a_compiler_found_wrong_retires_its_entries)
{
    store_fill(store_user, 1);
    fex_store *store = store_open_with((fex_store_options){
        .user_dir = store_user, .compiler_version_min = 13000});
    ck_assert(store_load(store, 1));
    fex_store_destroy(store);
    store = store_open_with((fex_store_options){
        .user_dir = store_user, .compiler_version_min = 13010});
    ck_assert(!store_load(store, 1));
    ck_assert_int_eq(store_warnings(), 1);
    fex_store_destroy(store);
}
END_TEST

static void warned_once(const char *words)
{
    ck_assert_int_eq(store_warnings(), 1);
    ck_assert_msg(strstr(store_last_warning(), words) != NULL, "%s",
                  store_last_warning());
}

/* ---- Bundles ------------------------------------------------------------- */

static void write_bundle(const char *path, int count)
{
    fex_bundle_item items[8];
    unsigned char *bytes;
    size_t size;
    store_fill(store_other, count);
    for (int i = 0; i < count; i++) {
        store_key(items[i].key, i + 1);
        items[i].bytes =
            scratch_read(store_file(store_other, i + 1), &items[i].size);
    }
    ck_assert_int_eq(
        fex_bundle_encode(items, (size_t)count, &bytes, &size), FEX_OK);
    scratch_write(path, bytes, size);
    for (int i = 0; i < count; i++)
        free((void *)(uintptr_t)items[i].bytes);
    free(bytes);
    scratch_remove(store_other);
}

START_TEST(a_bundle_file_is_a_tier)
{
    const char *const path = scratch_path(store_scratch, "kernels.fexb");
    write_bundle(path, 3);
    fex_store *const store = store_open(store_user, path);
    for (int i = 1; i <= 3; i++)
        ck_assert(store_load(store, i));
    ck_assert(!store_load(store, 4));
    /* Replaced by another: the one in use goes on. */
    ck_assert_int_eq(unlink(path), 0);
    scratch_write(path, "", 0);
    ck_assert(store_load(store, 2));
    ck_assert_int_eq(store_warnings(), 0);
    fex_store_destroy(store);
}
END_TEST

START_TEST(a_bundle_file_cut_while_in_use_does_not_kill)
{
    const char *const path = scratch_path(store_scratch, "kernels.fexb");
    write_bundle(path, 3);
    fex_store *const store = store_open(store_user, path);
    ck_assert(store_load(store, 1));
    ck_assert_int_eq(truncate(path, 0), 0);
    ck_assert(!store_load(store, 2));
    warned_once("it has been cut since it was opened");
    fex_store_destroy(store);
}
END_TEST

/* What a read-only tier is refused for is told once, in words. */
static void check_refused_tier(const char *path, const char *why)
{
    fex_store *const store = store_open(store_user, path);
    for (int i = 1; i <= 3; i++)
        ck_assert(!store_load(store, i));
    warned_once(path);
    warned_once(why);
    fex_store_destroy(store);
    store_forget_warnings();
}

START_TEST(a_damaged_bundle_file_is_refused_once)
{
    const char *const path = scratch_path(store_scratch, "kernels.fexb");
    write_bundle(path, 3);
    store_spoil(path, 40, 1, SIZE_MAX);
    check_refused_tier(path, "checksum is wrong");
    store_spoil(path, 0, 0, 200);
    check_refused_tier(path, "truncated, or lengths are wrong");
    store_spoil(path, 0, 0, 20);
    check_refused_tier(path, "20 bytes are too few");
}
END_TEST

START_TEST(what_is_no_bundle_is_refused_once)
{
    const char *const path = scratch_path(store_scratch, "kernels.fexb");
    scratch_write(path, "other\n", 6);
    check_refused_tier(path, "not a bundle of kernels");
    scratch_write(path, "", 0);
    check_refused_tier(path, "it is empty");
    check_refused_tier("/dev/null", "it is neither a directory nor a bundle");
}
END_TEST

/* Only one that somebody has named is missed. Where another tier has all that
 * is asked for it is, too. It may come later. */
START_TEST(a_named_tier_that_is_missing_is_told_once)
{
    store_fill(store_user, 1);
    fex_store *store = store_open(store_user, store_other);
    ck_assert(store_load(store, 1));
    ck_assert(!store_load(store, 2));
    ck_assert_int_eq(store_warnings(), 0);
    fex_store_destroy(store);

    store = store_open_with((fex_store_options){
        .user_dir = store_user, .read_only_path = store_other,
        .named_by = "SOMETHING"});
    ck_assert(store_load(store, 1));
    warned_once("SOMETHING names the cache ");
    warned_once(store_other);
    ck_assert(!store_load(store, 2));
    store_fill(store_other, 2);
    ck_assert(store_load(store, 2));
    warned_once("which is missing: No such file or directory");
    fex_store_destroy(store);
}
END_TEST

START_TEST(a_bundle_others_may_write_to_is_refused)
{
    const char *const path = scratch_path(store_scratch, "kernels.fexb");
    write_bundle(path, 3);
    ck_assert_int_eq(chmod(path, 0666), 0);
    fex_store *const store = store_open(store_user, path);
    ck_assert(!store_load(store, 1));
    ck_assert_int_eq(store_warnings(), 1);
    fex_store_destroy(store);
}
END_TEST

/* ---- Threads ------------------------------------------------------------- */

#define THREADS 8

/* What a thread does with the store that all share; its number if something
 * went wrong. Assertions are for the main thread. */
typedef struct worker {
    pthread_t thread;
    fex_store *store;
    int64_t number;
} worker;

static void *work(void *argument)
{
    worker *const w = argument;
    uint64_t removed;
    for (int round = 0; round < 20; round++) {
        const int64_t factor = (w->number + round) % THREADS + 1;
        if (store_put(w->store, factor) != FEX_OK ||
            !store_load(w->store, factor) ||
            fex_store_prune(w->store, 1, 0, &removed) != FEX_OK)
            return w;
    }
    return NULL;
}

START_TEST(threads_share_a_store)
{
    worker workers[THREADS];
    void *failure;
    const char *const path = scratch_path(store_scratch, "kernels.fexb");
    write_bundle(path, 3);
    fex_store *const store = store_open(store_user, path);
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (worker){.store = store, .number = i};
        ck_assert_int_eq(
            pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        ck_assert_int_eq(pthread_join(workers[i].thread, &failure), 0);
        ck_assert_ptr_null(failure);
    }
    fex_store_destroy(store);
    ck_assert_int_eq(store_warnings(), 0);
}
END_TEST

/* ---- Speed --------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* A race detector slows everything down. */
#if defined(__SANITIZE_THREAD__)
#define LOOKUP_SECONDS 0.1
#else
#define LOOKUP_SECONDS 0.002
#endif

/* Beyond the driver's own load, a warm kernel costs its recipe and a look. */
START_TEST(a_warm_lookup_takes_less_than_two_milliseconds)
{
    double times[101];
    fex_cubin cubin;
    fex_recipe recipe;
    int found;
    fex_store *const store = store_open(store_user, NULL);
    test_recipe(&recipe, 1);
    test_cubin(&cubin, 1, 100000); /* as large as real ones get */
    ck_assert_int_eq(fex_store_put(store, &recipe, &cubin), FEX_OK);
    fex_cubin_free(&cubin);
    fex_recipe_free(&recipe);
    for (int i = 0; i < 101; i++) {
        const double start = store_seconds_now();
        test_recipe(&recipe, 1);
        fex_store_find(store, &recipe, FEX_STORE_LOAD, &cubin, &found);
        times[i] = store_seconds_now() - start;
        ck_assert(found);
        fex_cubin_free(&cubin);
        fex_recipe_free(&recipe);
    }
    qsort(times, 101, sizeof *times, by_value);
    printf("a warm lookup takes %.0f us\n", 1e6 * times[50]);
    ck_assert_msg(times[50] < LOOKUP_SECONDS, "%.0f us", 1e6 * times[50]);
    fex_store_destroy(store);
}
END_TEST

static void fill(TCase *tests)
{
    tcase_add_checked_fixture(tests, store_set_up, store_tear_down);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, what_was_put_is_found_by_another_store);
    tcase_add_test(tests, directories_are_private);
    tcase_add_test(tests, a_miss_takes_no_lock_and_writes_nothing);
    tcase_add_test(tests, read_only_tiers_are_looked_into_and_left_alone);
    tcase_add_test(tests, without_a_user_tier_nothing_is_kept);
    tcase_add_test(tests, a_compiler_found_wrong_retires_its_entries);
    tcase_add_test(tests, threads_share_a_store);
    tcase_add_test(tests, a_bundle_file_is_a_tier);
    tcase_add_test(tests, a_bundle_file_cut_while_in_use_does_not_kill);
    tcase_add_test(tests, a_damaged_bundle_file_is_refused_once);
    tcase_add_test(tests, what_is_no_bundle_is_refused_once);
    tcase_add_test(tests, a_named_tier_that_is_missing_is_told_once);
    tcase_add_test(tests, a_bundle_others_may_write_to_is_refused);
    tcase_add_test(tests, a_warm_lookup_takes_less_than_two_milliseconds);
}

int main(void)
{
    return test_suite_main("store", fill);
}
