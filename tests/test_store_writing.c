/* SPDX-License-Identifier: Apache-2.0 */
/* test_store_writing.c - writing that fails, locks, leftovers, the budget. */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "file_faults.h"
#include "store_case.h"
#include "suite.h"

/* ---- Writing that fails -------------------------------------------------- */

/* Every call of a write fails in turn, in every way: an error and one warning
 * for the life of the store, nothing left over, and all is well after. */
static void check_fault(file_call call, int error)
{
    for (int nth = 0; nth < 4; nth++) {
        fex_store *const store = store_open(store_user, NULL);
        file_faults_set(call, nth, 1, error);
        const fex_status status = store_put(store, 1);
        const int reached = file_faults_calls(call) > nth;
        file_faults_reset();
        /* The first call of each kind is made, and matters. */
        ck_assert(nth > 0 || status == FEX_ERROR_IO);
        ck_assert_msg(status == FEX_OK || status == FEX_ERROR_IO,
                      "%s %d: %s", file_call_names[call], nth,
                      fex_status_name(status));
        if (status != FEX_OK) {
            ck_assert(reached);
            ck_assert_int_eq(store_warnings(), 1);
            ck_assert(!store_load(store, 1));
        } else {
            /* Only sweeping opens files that it can do without. */
            ck_assert(!reached || call == CALL_OPENAT);
            ck_assert(store_load(store, 1));
        }
        ck_assert_int_eq(scratch_count(store_scratch, ".tmp"), 0);
        ck_assert_int_eq(store_put(store, 1), FEX_OK);
        ck_assert(store_load(store, 1));
        fex_store_destroy(store);
        scratch_remove(store_user);
        store_forget_warnings();
    }
}

static const int errors[] = {ENOSPC, EDQUOT, EROFS, EIO, EACCES};

START_TEST(a_write_that_fails_leaves_nothing_behind)
{
    static const file_call made[] = {CALL_WRITE, CALL_FSYNC, CALL_RENAMEAT,
                                     CALL_MKDIR, CALL_OPENAT};
    for (size_t c = 0; c < sizeof made / sizeof *made; c++)
        check_fault(made[c], errors[_i]);
}
END_TEST

/* A trial fails as writing would, once or for good, and leaves nothing; what
 * has gone well is not tried again. */
START_TEST(a_trial_tells_whether_writing_will_fail)
{
    static const file_call made[] = {CALL_WRITE, CALL_FSYNC, CALL_MKDIR,
                                     CALL_OPENAT};
    for (size_t c = 0; c < sizeof made / sizeof *made; c++) {
        fex_store *const store = store_open(store_user, NULL);
        file_faults_set(made[c], 0, 1, errors[_i]);
        test_refused(fex_store_try(store), FEX_ERROR_IO, store_user);
        file_faults_reset();
        test_ok(fex_store_try(store));
        ck_assert_int_eq(scratch_count(store_scratch, ".tmp"), 0);
        file_faults_reset();
        test_ok(fex_store_try(store));
        ck_assert_int_eq(file_faults_writers(), 0);
        fex_store_destroy(store);
        scratch_remove(store_user);
    }
}
END_TEST

/* The old entry stays when its successor cannot be written. */
START_TEST(a_failed_replacement_leaves_the_old_entry)
{
    store_fill(store_user, 1);
    fex_store *const store = store_open(store_user, NULL);
    file_faults_set(CALL_WRITE, 20, -1, ENOSPC);
    ck_assert_int_eq(store_put(store, 1), FEX_ERROR_IO);
    file_faults_reset();
    ck_assert(store_load(store, 1));
    ck_assert_int_eq(scratch_count(store_scratch, ".tmp"), 0);
    fex_store_destroy(store);
}
END_TEST

START_TEST(signals_and_short_writes_do_no_harm)
{
    fex_store *const store = store_open(store_user, NULL);
    file_faults_interrupt();
    ck_assert_int_eq(store_put(store, 1), FEX_OK);
    ck_assert(store_load(store, 1));
    file_faults_reset();
    fex_store_destroy(store);
    ck_assert_int_eq(store_warnings(), 0);
}
END_TEST

START_TEST(a_read_that_fails_is_a_miss)
{
    store_fill(store_user, 1);
    fex_store *const store = store_open(store_user, NULL);
    file_faults_set(CALL_READ, 0, -1, EIO);
    ck_assert(!store_load(store, 1));
    ck_assert_int_eq(store_warnings(), 1);
    file_faults_reset();
    ck_assert(store_load(store, 1));
    fex_store_destroy(store);
}
END_TEST

START_TEST(a_name_that_is_too_long_is_no_crash)
{
    char path[8192];
    memset(path, 'x', sizeof path - 1);
    path[0] = '/';
    path[sizeof path - 1] = '\0';
    fex_store *const store = store_open(path, path);
    ck_assert(!store_load(store, 1));
    ck_assert_int_eq(store_put(store, 1), FEX_ERROR_IO);
    fex_store_destroy(store);
}
END_TEST

/* ---- Locks --------------------------------------------------------------- */

START_TEST(a_holder_that_hangs_is_waited_for_only_so_long)
{
    char key[FEX_DIGEST_TEXT];
    fex_store_lock first, second;
    fex_store *const store = store_open_with(
        (fex_store_options){.user_dir = store_user, .lock_wait_ms = 100});
    store_key(key, 1);
    fex_store_lock_key(store, key, &first);
    ck_assert_int_ge(first.shard, 0);
    const double start = store_seconds_now();
    fex_store_lock_key(store, key, &second);
    const double waited = store_seconds_now() - start;
    ck_assert_int_lt(second.shard, 0);
    ck_assert(waited > 0.09 && waited < 5);
    fex_store_unlock_key(key, &second);
    fex_store_unlock_key(key, &first);
    fex_store_lock_key(store, key, &second);
    ck_assert_int_ge(second.shard, 0);
    fex_store_unlock_key(key, &second);
    ck_assert_int_eq(scratch_count(store_user, ".lock"), 0);
    fex_store_destroy(store);
}
END_TEST

START_TEST(a_lock_left_by_the_dead_does_not_count)
{
    char key[FEX_DIGEST_TEXT];
    fex_store_lock lock;
    fex_store *const store = store_open(store_user, NULL);
    store_key(key, 1);
    fex_store_lock_key(store, key, &lock);
    /* As a killed process leaves it: the file is there, the lock is not. */
    close(lock.file);
    ck_assert_int_eq(scratch_count(store_user, ".lock"), 1);
    const double start = store_seconds_now();
    fex_store_lock_key(store, key, &lock);
    ck_assert(store_seconds_now() - start < 1);
    ck_assert_int_ge(lock.shard, 0);
    fex_store_unlock_key(key, &lock);
    fex_store_destroy(store);
}
END_TEST

START_TEST(a_file_system_without_locks_does_not_block)
{
    static const int refusals[] = {ENOLCK, EOPNOTSUPP, EINVAL, ENOSYS};
    char key[FEX_DIGEST_TEXT];
    fex_store_lock lock;
    fex_store *const store = store_open(store_user, NULL);
    store_key(key, 1);
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        file_faults_set(CALL_FLOCK, 0, -1, refusals[i]);
        const double start = store_seconds_now();
        fex_store_lock_key(store, key, &lock);
        ck_assert(store_seconds_now() - start < 1);
        ck_assert_int_lt(lock.shard, 0);
        fex_store_unlock_key(key, &lock);
        ck_assert_int_eq(store_put(store, 1), FEX_OK);
        ck_assert(store_load(store, 1));
        file_faults_reset();
    }
    fex_store_destroy(store);
    ck_assert_int_eq(store_warnings(), 0);
}
END_TEST

/* ---- Leftovers and the budget -------------------------------------------- */

START_TEST(what_a_killed_writer_left_is_swept)
{
    char alive[512], dead[512];
    store_fill(store_user, 1);
    snprintf(dead, sizeof dead, "%s.1-2-3.tmp", store_file(store_user, 1));
    snprintf(alive, sizeof alive, "%s.4-5-6.tmp", store_file(store_user, 1));
    scratch_write(dead, "half", 4);
    scratch_write(alive, "half", 4);
    const int writer = open(alive, O_WRONLY);
    ck_assert_int_eq(flock(writer, LOCK_EX), 0);
    store_fill(store_user, 2);
    ck_assert_int_eq(access(dead, F_OK), -1);
    ck_assert_int_eq(access(alive, F_OK), 0);
    close(writer);
}
END_TEST

/* Sets when a kernel was last used. */
static void set_age(int64_t factor, int64_t seconds)
{
    char used[512];
    const struct timespec times[2] = {
        {.tv_sec = time(NULL) - seconds}, {.tv_sec = time(NULL) - seconds}};
    ck_assert_int_eq(
        utimensat(AT_FDCWD, store_file(store_user, factor), times, 0), 0);
    snprintf(used, sizeof used, "%s.used", store_file(store_user, factor));
    if (access(used, F_OK) == 0)
        ck_assert_int_eq(utimensat(AT_FDCWD, used, times, 0), 0);
}

static int is_there(int64_t factor)
{
    return access(store_file(store_user, factor), F_OK) == 0;
}

static uint64_t entry_bytes(void)
{
    struct stat status;
    ck_assert_int_eq(stat(store_file(store_user, 1), &status), 0);
    return (uint64_t)status.st_size;
}

START_TEST(the_least_recently_used_go_first)
{
    store_fill(store_user, 4);
    for (int i = 1; i <= 4; i++)
        set_age(i, 1000 - i);
    /* 1 is the oldest, but used now. */
    fex_store *store = store_open(store_user, NULL);
    ck_assert(store_load(store, 1));
    fex_store_destroy(store);
    set_age(1, 10);
    store = store_open_with((fex_store_options){
        .user_dir = store_user, .max_bytes = 3 * entry_bytes() + 10});
    ck_assert_int_eq(store_put(store, 5), FEX_OK);
    ck_assert(is_there(1) && !is_there(2) && !is_there(3) && is_there(4) &&
              is_there(5));
    fex_store_destroy(store);
}
END_TEST

START_TEST(what_this_run_uses_is_never_evicted)
{
    store_fill(store_user, 3);
    fex_store *const store = store_open_with(
        (fex_store_options){.user_dir = store_user, .max_bytes = 1});
    ck_assert(store_load(store, 1));
    ck_assert(store_find(store, 2, FEX_STORE_KEEP));
    for (int i = 1; i <= 3; i++)
        set_age(i, 1000);
    ck_assert_int_eq(store_put(store, 4), FEX_OK);
    ck_assert_int_eq(store_put(store, 5), FEX_OK);
    ck_assert(is_there(1) && is_there(2) && !is_there(3) && is_there(4) &&
              is_there(5));
    fex_store_destroy(store);
}
END_TEST

START_TEST(looking_is_not_using)
{
    store_fill(store_user, 1);
    fex_store *const store = store_open(store_user, NULL);
    file_faults_reset();
    ck_assert(store_find(store, 1, FEX_STORE_LOOK));
    ck_assert_int_eq(file_faults_writers(), 0);
    fex_store_destroy(store);
}
END_TEST

typedef struct seen {
    int count;
    uint64_t hits;
    int64_t last_used;
} seen;

static fex_status see(void *user_data, const fex_tiers_item *item)
{
    seen *const s = user_data;
    s->count++;
    s->hits += item->file.hits;
    s->last_used = item->file.last_used;
    return FEX_OK;
}

START_TEST(loads_are_counted_until_the_entry_is_made_anew)
{
    seen s = {0};
    store_fill(store_user, 1);
    fex_store *const store = store_open(store_user, NULL);
    for (int i = 0; i < 5; i++)
        ck_assert(store_load(store, 1));
    ck_assert(store_find(store, 1, FEX_STORE_KEEP));
    ck_assert_int_eq(fex_tiers_walk(fex_store_tiers(store), 0, see, &s),
                     FEX_OK);
    ck_assert_int_eq(s.count, 1);
    ck_assert_uint_eq(s.hits, 5);
    ck_assert_int_ge(s.last_used, time(NULL) - 10);
    ck_assert_int_eq(store_put(store, 1), FEX_OK);
    s = (seen){0};
    ck_assert_int_eq(fex_tiers_walk(fex_store_tiers(store), 0, see, &s),
                     FEX_OK);
    ck_assert_uint_eq(s.hits, 0);
    fex_store_destroy(store);
}
END_TEST

START_TEST(pruning_keeps_to_its_limits)
{
    uint64_t removed;
    store_fill(store_user, 4);
    for (int i = 1; i <= 4; i++)
        set_age(i, 1000 * i);
    scratch_write(store_file(store_user, 1), "", 0);
    fex_store *const store = store_open(store_user, NULL);
    ck_assert_int_eq(fex_store_prune(store, UINT64_MAX, 3500, &removed),
                     FEX_OK);
    /* 4 is too old, and 1 damaged. */
    ck_assert_uint_eq(removed, 2);
    ck_assert(!is_there(1) && is_there(2) && is_there(3) && !is_there(4));
    ck_assert_int_eq(fex_store_prune(store, 0, 0, &removed), FEX_OK);
    ck_assert_uint_eq(removed, 2);
    ck_assert_int_eq(scratch_count(store_user, ".used"), 0);
    store_fill(store_user, 3);
    ck_assert(store_load(store, 1));
    ck_assert_int_eq(fex_store_prune(store, 0, 0, &removed), FEX_OK);
    ck_assert_uint_eq(removed, 2);
    ck_assert_int_eq(fex_store_clear(store, &removed), FEX_OK);
    ck_assert_uint_eq(removed, 1);
    fex_store_destroy(store);
}
END_TEST

static void fill(TCase *tests)
{
    tcase_add_checked_fixture(tests, store_set_up, store_tear_down);
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, a_write_that_fails_leaves_nothing_behind, 0,
                        sizeof errors / sizeof *errors);
    tcase_add_loop_test(tests, a_trial_tells_whether_writing_will_fail, 0,
                        sizeof errors / sizeof *errors);
    tcase_add_test(tests, a_failed_replacement_leaves_the_old_entry);
    tcase_add_test(tests, signals_and_short_writes_do_no_harm);
    tcase_add_test(tests, a_read_that_fails_is_a_miss);
    tcase_add_test(tests, a_name_that_is_too_long_is_no_crash);
    tcase_add_test(tests, a_holder_that_hangs_is_waited_for_only_so_long);
    tcase_add_test(tests, a_lock_left_by_the_dead_does_not_count);
    tcase_add_test(tests, a_file_system_without_locks_does_not_block);
    tcase_add_test(tests, what_a_killed_writer_left_is_swept);
    tcase_add_test(tests, the_least_recently_used_go_first);
    tcase_add_test(tests, what_this_run_uses_is_never_evicted);
    tcase_add_test(tests, looking_is_not_using);
    tcase_add_test(tests, loads_are_counted_until_the_entry_is_made_anew);
    tcase_add_test(tests, pruning_keeps_to_its_limits);
}

int main(void)
{
    return test_suite_main("store_writing", fill);
}
