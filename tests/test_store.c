/* SPDX-License-Identifier: Apache-2.0 */
/* test_store.c - tiers: what is found, what is refused, what goes first. */
#include "config.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cache_case.h"
#include "digest.h"
#include "entry.h"
#include "file_faults.h"
#include "store.h"

#define CUBIN_BYTES 500

static char scratch[256];
static char user[300], other[300];
static test_log record;

static void setup(void)
{
    umask(022);
    scratch_make(scratch);
    snprintf(user, sizeof user, "%s/user", scratch);
    snprintf(other, sizeof other, "%s/other", scratch);
    test_log_init(&record);
    file_faults_reset();
}

static void teardown(void)
{
    file_faults_reset();
    scratch_remove(scratch);
}

static fex_store *open_store_with(fex_store_options options)
{
    fex_store *store;
    options.log = &record.log;
    if (options.max_bytes == 0)
        options.max_bytes = UINT64_MAX;
    ck_assert_int_eq(fex_store_create(&options, &store), FEX_OK);
    return store;
}

static fex_store *open_store(const char *directory, const char *read_only)
{
    return open_store_with((fex_store_options){
        .user_dir = directory, .read_only_path = read_only});
}

static fex_status put(fex_store *store, int64_t factor)
{
    fex_recipe recipe;
    fex_cubin cubin;
    test_recipe(&recipe, factor);
    test_cubin(&cubin, factor, CUBIN_BYTES);
    const fex_status status = fex_store_put(store, &recipe, &cubin);
    fex_cubin_free(&cubin);
    fex_recipe_free(&recipe);
    return status;
}

/* Whether the kernel is found; what is found must be right. */
static int find(fex_store *store, int64_t factor, fex_store_use use)
{
    fex_recipe recipe;
    fex_cubin cubin, wanted;
    int found;
    test_recipe(&recipe, factor);
    test_cubin(&wanted, factor, CUBIN_BYTES);
    fex_store_find(store, &recipe, use, &cubin, &found);
    if (found) {
        ck_assert_uint_eq(cubin.size, wanted.size);
        ck_assert_mem_eq(cubin.data, wanted.data, wanted.size);
        ck_assert_int_eq(cubin.compiler_version, 13000);
        fex_cubin_free(&cubin);
    }
    fex_cubin_free(&wanted);
    fex_recipe_free(&recipe);
    return found;
}

static int load(fex_store *store, int64_t factor)
{
    return find(store, factor, FEX_STORE_LOAD);
}

/* The file of a kernel in a directory; static storage. */
static const char *entry_file(const char *directory, int64_t factor)
{
    char name[64];
    fex_recipe recipe;
    test_recipe(&recipe, factor);
    snprintf(name, sizeof name, "%.2s/%s.fexk", recipe.key, recipe.key);
    fex_recipe_free(&recipe);
    return scratch_path(directory, name);
}

/* A directory with the kernels 1 .. count. */
static void fill(const char *directory, int count)
{
    fex_store *const store = open_store(directory, NULL);
    for (int i = 1; i <= count; i++)
        ck_assert_int_eq(put(store, i), FEX_OK);
    fex_store_destroy(store);
}

static int warnings(void)
{
    return record.count[FEX_LOG_WARNING];
}

/* ---- Finding ------------------------------------------------------------- */

START_TEST(what_was_put_is_found_by_another_store)
{
    fex_store *store = open_store(user, NULL);
    ck_assert(!load(store, 1));
    ck_assert_int_eq(put(store, 1), FEX_OK);
    ck_assert(load(store, 1));
    ck_assert(!load(store, 2));
    fex_store_destroy(store);
    store = open_store(user, NULL);
    ck_assert(load(store, 1));
    fex_store_destroy(store);
    ck_assert_int_eq(warnings(), 0);
}
END_TEST

START_TEST(directories_are_private)
{
    struct stat status;
    fill(user, 1);
    ck_assert_int_eq(stat(user, &status), 0);
    ck_assert_int_eq(status.st_mode & 07777, 0700);
    ck_assert_int_eq(stat(entry_file(user, 1), &status), 0);
    ck_assert_int_eq(status.st_mode & 07777, 0600);
}
END_TEST

START_TEST(a_miss_takes_no_lock_and_writes_nothing)
{
    fill(user, 1);
    fex_store *const store = open_store(user, other);
    file_faults_reset();
    ck_assert(!load(store, 2));
    ck_assert_int_eq(file_faults_calls(CALL_FLOCK), 0);
    ck_assert_int_eq(file_faults_writers(), 0);
    ck_assert_int_eq(file_faults_calls(CALL_MKDIR), 0);
    fex_store_destroy(store);
}
END_TEST

START_TEST(read_only_tiers_are_looked_into_and_left_alone)
{
    char path[700];
    fill(other, 2);
    snprintf(path, sizeof path, ":%s/none::%s:", scratch, other);
    fex_store *const store = open_store(user, path);
    file_faults_reset();
    ck_assert(load(store, 2));
    ck_assert_int_eq(file_faults_writers(), 0);
    ck_assert_int_eq(access(user, F_OK), -1);
    ck_assert_int_eq(put(store, 3), FEX_OK);
    ck_assert_int_eq(access(entry_file(user, 3), R_OK), 0);
    ck_assert_int_eq(access(entry_file(other, 3), R_OK), -1);
    fex_store_destroy(store);
    ck_assert_int_eq(warnings(), 0);
}
END_TEST

START_TEST(without_a_user_tier_nothing_is_kept)
{
    fill(other, 1);
    fex_store *const store = open_store(NULL, other);
    ck_assert(load(store, 1));
    ck_assert_int_eq(put(store, 2), FEX_ERROR_IO);
    ck_assert_int_eq(put(store, 3), FEX_ERROR_IO);
    ck_assert_int_eq(warnings(), 1);
    fex_store_destroy(store);
}
END_TEST

START_TEST(a_compiler_found_wrong_retires_its_entries)
{
    fill(user, 1);
    fex_store *store = open_store_with((fex_store_options){
        .user_dir = user, .compiler_version_min = 13000});
    ck_assert(load(store, 1));
    fex_store_destroy(store);
    store = open_store_with((fex_store_options){
        .user_dir = user, .compiler_version_min = 13010});
    ck_assert(!load(store, 1));
    ck_assert_int_eq(warnings(), 1);
    fex_store_destroy(store);
}
END_TEST

/* ---- Damage -------------------------------------------------------------- */

/* One kernel is in the cache; `damage` spoils its file. It has to be a miss
 * with one warning, and replaced. */
static void check_damage(void (*damage)(const char *file))
{
    fill(user, 2);
    damage(entry_file(user, 1));
    fex_store *const store = open_store(user, NULL);
    ck_assert(!load(store, 1));
    ck_assert_int_eq(warnings(), 1);
    ck_assert_uint_eq(fex_store_damaged(store), 1);
    ck_assert(load(store, 2));
    ck_assert_int_eq(put(store, 1), FEX_OK);
    ck_assert(load(store, 1));
    ck_assert_int_eq(warnings(), 1);
    fex_store_destroy(store);
    scratch_remove(user);
    record.count[FEX_LOG_WARNING] = 0;
}

static void spoil(const char *file, size_t at, unsigned char change,
                  size_t length)
{
    size_t size;
    unsigned char *const bytes = scratch_read(file, &size);
    bytes[at % size] ^= change;
    scratch_write(file, bytes, length < size ? length : size);
    free(bytes);
}

static void make_empty(const char *file)
{
    scratch_write(file, "", 0);
}

static void cut_short(const char *file)
{
    spoil(file, 0, 0, 100);
}

static void flip_magic(const char *file)
{
    spoil(file, 0, 1, SIZE_MAX);
}

static void raise_version(const char *file)
{
    spoil(file, 8, 3, SIZE_MAX);
}

static void flip_cubin(const char *file)
{
    spoil(file, 600, 64, SIZE_MAX);
}

static void append(const char *file)
{
    FILE *const stream = fopen(file, "ab");
    fputc('x', stream);
    fclose(stream);
}

/* A sound entry of another key under this name. */
static void exchange(const char *file)
{
    size_t size;
    unsigned char *const bytes = scratch_read(entry_file(user, 2), &size);
    scratch_write(file, bytes, size);
    free(bytes);
}

static void make_directory(const char *file)
{
    ck_assert_int_eq(unlink(file), 0);
    ck_assert_int_eq(mkdir(file, 0700), 0);
    scratch_write(scratch_path(file, "inside"), "x", 1);
}

static void make_link(const char *file)
{
    const char *const aside = scratch_path(scratch, "aside");
    ck_assert_int_eq(rename(file, aside), 0);
    ck_assert_int_eq(symlink(aside, file), 0);
}

static void make_pipe(const char *file)
{
    ck_assert_int_eq(unlink(file), 0);
    ck_assert_int_eq(mkfifo(file, 0600), 0);
}

static void open_to_all(const char *file)
{
    ck_assert_int_eq(chmod(file, 0666), 0);
}

static void open_to_group(const char *file)
{
    ck_assert_int_eq(chmod(file, 0660), 0);
}

static void make_unreadable(const char *file)
{
    ck_assert_int_eq(chmod(file, 0), 0);
    /* The superuser reads it all the same. */
    if (geteuid() == 0)
        open_to_all(file);
}

static void give_away(const char *file)
{
    /* Only the superuser can; anybody else sees another kind of harm. */
    if (chown(file, 12345, 12345) != 0)
        open_to_all(file);
}

static void (*const damages[])(const char *) = {
    make_empty,     cut_short,    flip_magic, raise_version, flip_cubin,
    append,         exchange,     make_directory, make_link, make_pipe,
    open_to_all,    open_to_group, make_unreadable, give_away};

START_TEST(damage_is_a_miss_and_repaired)
{
    check_damage(damages[_i]);
}
END_TEST

START_TEST(damage_in_one_tier_is_made_up_for_by_another)
{
    fill(user, 1);
    fill(other, 1);
    make_empty(entry_file(user, 1));
    fex_store *const store = open_store(user, other);
    ck_assert(load(store, 1));
    ck_assert_int_eq(warnings(), 1);
    fex_store_destroy(store);
}
END_TEST

/* ---- Trust --------------------------------------------------------------- */

static void check_refused_directory(void)
{
    fex_store *const store = open_store(user, NULL);
    ck_assert(!load(store, 1));
    ck_assert(!load(store, 2));
    ck_assert_int_eq(put(store, 3), FEX_ERROR_IO);
    ck_assert_int_eq(put(store, 3), FEX_ERROR_IO);
    ck_assert_int_eq(warnings(), 1);
    fex_store_destroy(store);
}

START_TEST(a_directory_others_may_write_to_is_refused)
{
    fill(user, 2);
    ck_assert_int_eq(chmod(user, 0777), 0);
    check_refused_directory();
}
END_TEST

START_TEST(a_directory_of_a_group_is_refused)
{
    fill(user, 2);
    ck_assert_int_eq(chmod(user, 0770), 0);
    check_refused_directory();
}
END_TEST

START_TEST(a_directory_of_another_user_is_refused)
{
    if (geteuid() != 0)
        return; /* nobody else can give one away */
    fill(user, 2);
    ck_assert_int_eq(chown(user, 12345, 12345), 0);
    check_refused_directory();
}
END_TEST

START_TEST(a_directory_that_is_a_link_is_refused)
{
    fill(other, 2);
    ck_assert_int_eq(symlink(other, user), 0);
    check_refused_directory();
}
END_TEST

START_TEST(a_folder_of_keys_that_is_a_link_is_refused)
{
    char shard[512], aside[512];
    fill(user, 1);
    snprintf(shard, sizeof shard, "%s", entry_file(user, 1));
    *strrchr(shard, '/') = '\0';
    snprintf(aside, sizeof aside, "%s/aside", scratch);
    ck_assert_int_eq(rename(shard, aside), 0);
    ck_assert_int_eq(symlink(aside, shard), 0);
    fex_store *const store = open_store(user, NULL);
    ck_assert(!load(store, 1));
    ck_assert_int_eq(put(store, 1), FEX_ERROR_IO);
    fex_store_destroy(store);
}
END_TEST

START_TEST(a_group_shares_when_asked_to)
{
    struct stat status;
    const fex_store_options options = {.user_dir = user, .shared = 1};
    fex_store *store = open_store_with(options);
    ck_assert_int_eq(put(store, 1), FEX_OK);
    ck_assert_int_eq(stat(user, &status), 0);
    ck_assert_int_eq(status.st_mode & 07777, 02770);
    ck_assert_int_eq(stat(entry_file(user, 1), &status), 0);
    ck_assert_int_eq(status.st_mode & 07777, 0660);
    if (geteuid() == 0)
        ck_assert_int_eq(chown(entry_file(user, 1), 12345, 12345), 0);
    ck_assert(load(store, 1));
    ck_assert_int_eq(warnings(), 0);
    /* But never with everybody. */
    ck_assert_int_eq(chmod(user, 02777), 0);
    fex_store_destroy(store);
    store = open_store_with(options);
    ck_assert(!load(store, 1));
    ck_assert_int_eq(warnings(), 1);
    fex_store_destroy(store);
}
END_TEST

/* ---- Writing that fails -------------------------------------------------- */

/* Every call of a write fails in turn, in every way: an error and one warning
 * for the life of the store, nothing left over, and all is well after. */
static void check_fault(file_call call, int error)
{
    for (int nth = 0; nth < 4; nth++) {
        fex_store *const store = open_store(user, NULL);
        file_faults_set(call, nth, 1, error);
        const fex_status status = put(store, 1);
        const int reached = file_faults_calls(call) > nth;
        file_faults_reset();
        ck_assert_msg(status == FEX_OK || status == FEX_ERROR_IO,
                      "%s %d: %s", file_call_names[call], nth,
                      fex_status_name(status));
        if (status != FEX_OK) {
            ck_assert(reached);
            ck_assert_int_eq(warnings(), 1);
            ck_assert(!load(store, 1));
        } else {
            /* Only sweeping opens files that it can do without. */
            ck_assert(!reached || call == CALL_OPENAT);
            ck_assert(load(store, 1));
        }
        ck_assert_int_eq(scratch_count(scratch, ".tmp"), 0);
        ck_assert_int_eq(put(store, 1), FEX_OK);
        ck_assert(load(store, 1));
        fex_store_destroy(store);
        scratch_remove(user);
        record.count[FEX_LOG_WARNING] = 0;
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

/* The old entry stays when its successor cannot be written. */
START_TEST(a_failed_replacement_leaves_the_old_entry)
{
    fill(user, 1);
    fex_store *const store = open_store(user, NULL);
    file_faults_set(CALL_WRITE, 20, -1, ENOSPC);
    ck_assert_int_eq(put(store, 1), FEX_ERROR_IO);
    file_faults_reset();
    ck_assert(load(store, 1));
    ck_assert_int_eq(scratch_count(scratch, ".tmp"), 0);
    fex_store_destroy(store);
}
END_TEST

START_TEST(signals_and_short_writes_do_no_harm)
{
    fex_store *const store = open_store(user, NULL);
    file_faults_interrupt();
    ck_assert_int_eq(put(store, 1), FEX_OK);
    ck_assert(load(store, 1));
    file_faults_reset();
    fex_store_destroy(store);
    ck_assert_int_eq(warnings(), 0);
}
END_TEST

START_TEST(a_read_that_fails_is_a_miss)
{
    fill(user, 1);
    fex_store *const store = open_store(user, NULL);
    file_faults_set(CALL_READ, 0, -1, EIO);
    ck_assert(!load(store, 1));
    ck_assert_int_eq(warnings(), 1);
    file_faults_reset();
    ck_assert(load(store, 1));
    fex_store_destroy(store);
}
END_TEST

START_TEST(a_name_that_is_too_long_is_no_crash)
{
    char path[8192];
    memset(path, 'x', sizeof path - 1);
    path[0] = '/';
    path[sizeof path - 1] = '\0';
    fex_store *const store = open_store(path, path);
    ck_assert(!load(store, 1));
    ck_assert_int_eq(put(store, 1), FEX_ERROR_IO);
    fex_store_destroy(store);
}
END_TEST

/* ---- Locks --------------------------------------------------------------- */

static void take_key(char *key, int64_t factor)
{
    fex_recipe recipe;
    test_recipe(&recipe, factor);
    strcpy(key, recipe.key);
    fex_recipe_free(&recipe);
}

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

START_TEST(a_holder_that_hangs_is_waited_for_only_so_long)
{
    char key[FEX_DIGEST_TEXT];
    fex_store_lock first, second;
    fex_store *const store = open_store_with(
        (fex_store_options){.user_dir = user, .lock_wait_ms = 100});
    take_key(key, 1);
    fex_store_lock_key(store, key, &first);
    ck_assert_int_ge(first.shard, 0);
    const double start = seconds_now();
    fex_store_lock_key(store, key, &second);
    const double waited = seconds_now() - start;
    ck_assert_int_lt(second.shard, 0);
    ck_assert(waited > 0.09 && waited < 5);
    fex_store_unlock_key(key, &second);
    fex_store_unlock_key(key, &first);
    fex_store_lock_key(store, key, &second);
    ck_assert_int_ge(second.shard, 0);
    fex_store_unlock_key(key, &second);
    ck_assert_int_eq(scratch_count(user, ".lock"), 0);
    fex_store_destroy(store);
}
END_TEST

START_TEST(a_lock_left_by_the_dead_does_not_count)
{
    char key[FEX_DIGEST_TEXT];
    fex_store_lock lock;
    fex_store *const store = open_store(user, NULL);
    take_key(key, 1);
    fex_store_lock_key(store, key, &lock);
    /* As a killed process leaves it: the file is there, the lock is not. */
    close(lock.file);
    ck_assert_int_eq(scratch_count(user, ".lock"), 1);
    const double start = seconds_now();
    fex_store_lock_key(store, key, &lock);
    ck_assert(seconds_now() - start < 1);
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
    fex_store *const store = open_store(user, NULL);
    take_key(key, 1);
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        file_faults_set(CALL_FLOCK, 0, -1, refusals[i]);
        const double start = seconds_now();
        fex_store_lock_key(store, key, &lock);
        ck_assert(seconds_now() - start < 1);
        ck_assert_int_lt(lock.shard, 0);
        fex_store_unlock_key(key, &lock);
        ck_assert_int_eq(put(store, 1), FEX_OK);
        ck_assert(load(store, 1));
        file_faults_reset();
    }
    fex_store_destroy(store);
    ck_assert_int_eq(warnings(), 0);
}
END_TEST

/* ---- Leftovers and the budget -------------------------------------------- */

START_TEST(what_a_killed_writer_left_is_swept)
{
    char alive[512], dead[512];
    fill(user, 1);
    snprintf(dead, sizeof dead, "%s.1-2-3.tmp", entry_file(user, 1));
    snprintf(alive, sizeof alive, "%s.4-5-6.tmp", entry_file(user, 1));
    scratch_write(dead, "half", 4);
    scratch_write(alive, "half", 4);
    const int writer = open(alive, O_WRONLY);
    ck_assert_int_eq(flock(writer, LOCK_EX), 0);
    fill(user, 2);
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
    ck_assert_int_eq(utimensat(AT_FDCWD, entry_file(user, factor), times, 0),
                     0);
    snprintf(used, sizeof used, "%s.used", entry_file(user, factor));
    if (access(used, F_OK) == 0)
        ck_assert_int_eq(utimensat(AT_FDCWD, used, times, 0), 0);
}

static int is_there(int64_t factor)
{
    return access(entry_file(user, factor), F_OK) == 0;
}

static uint64_t entry_bytes(void)
{
    struct stat status;
    ck_assert_int_eq(stat(entry_file(user, 1), &status), 0);
    return (uint64_t)status.st_size;
}

START_TEST(the_least_recently_used_go_first)
{
    fill(user, 4);
    for (int i = 1; i <= 4; i++)
        set_age(i, 1000 - i);
    /* 1 is the oldest, but used now. */
    fex_store *store = open_store(user, NULL);
    ck_assert(load(store, 1));
    fex_store_destroy(store);
    set_age(1, 10);
    store = open_store_with((fex_store_options){
        .user_dir = user, .max_bytes = 3 * entry_bytes() + 10});
    ck_assert_int_eq(put(store, 5), FEX_OK);
    ck_assert(is_there(1) && !is_there(2) && !is_there(3) && is_there(4) &&
              is_there(5));
    fex_store_destroy(store);
}
END_TEST

START_TEST(what_this_run_uses_is_never_evicted)
{
    fill(user, 3);
    fex_store *const store = open_store_with(
        (fex_store_options){.user_dir = user, .max_bytes = 1});
    ck_assert(load(store, 1));
    ck_assert(find(store, 2, FEX_STORE_KEEP));
    for (int i = 1; i <= 3; i++)
        set_age(i, 1000);
    ck_assert_int_eq(put(store, 4), FEX_OK);
    ck_assert_int_eq(put(store, 5), FEX_OK);
    ck_assert(is_there(1) && is_there(2) && !is_there(3) && is_there(4) &&
              is_there(5));
    fex_store_destroy(store);
}
END_TEST

START_TEST(looking_is_not_using)
{
    fill(user, 1);
    fex_store *const store = open_store(user, NULL);
    file_faults_reset();
    ck_assert(find(store, 1, FEX_STORE_LOOK));
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
    fill(user, 1);
    fex_store *const store = open_store(user, NULL);
    for (int i = 0; i < 5; i++)
        ck_assert(load(store, 1));
    ck_assert(find(store, 1, FEX_STORE_KEEP));
    ck_assert_int_eq(fex_tiers_walk(fex_store_tiers(store), 0, see, &s),
                     FEX_OK);
    ck_assert_int_eq(s.count, 1);
    ck_assert_uint_eq(s.hits, 5);
    ck_assert_int_ge(s.last_used, time(NULL) - 10);
    ck_assert_int_eq(put(store, 1), FEX_OK);
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
    fill(user, 4);
    for (int i = 1; i <= 4; i++)
        set_age(i, 1000 * i);
    make_empty(entry_file(user, 1));
    fex_store *const store = open_store(user, NULL);
    ck_assert_int_eq(fex_store_prune(store, UINT64_MAX, 3500, &removed),
                     FEX_OK);
    /* 4 is too old, and 1 damaged. */
    ck_assert_uint_eq(removed, 2);
    ck_assert(!is_there(1) && is_there(2) && is_there(3) && !is_there(4));
    ck_assert_int_eq(fex_store_prune(store, 0, 0, &removed), FEX_OK);
    ck_assert_uint_eq(removed, 2);
    ck_assert_int_eq(scratch_count(user, ".used"), 0);
    fill(user, 3);
    ck_assert(load(store, 1));
    ck_assert_int_eq(fex_store_prune(store, 0, 0, &removed), FEX_OK);
    ck_assert_uint_eq(removed, 2);
    ck_assert_int_eq(fex_store_clear(store, &removed), FEX_OK);
    ck_assert_uint_eq(removed, 1);
    fex_store_destroy(store);
}
END_TEST

/* ---- Bundles ------------------------------------------------------------- */

static void write_bundle(const char *path, int count)
{
    fex_bundle_item items[8];
    unsigned char *bytes;
    size_t size;
    fill(other, count);
    for (int i = 0; i < count; i++) {
        take_key(items[i].key, i + 1);
        items[i].bytes = scratch_read(entry_file(other, i + 1), &items[i].size);
    }
    ck_assert_int_eq(
        fex_bundle_encode(items, (size_t)count, &bytes, &size), FEX_OK);
    scratch_write(path, bytes, size);
    for (int i = 0; i < count; i++)
        free((void *)(uintptr_t)items[i].bytes);
    free(bytes);
    scratch_remove(other);
}

START_TEST(a_bundle_file_is_a_tier)
{
    const char *const path = scratch_path(scratch, "kernels.fexb");
    write_bundle(path, 3);
    fex_store *const store = open_store(user, path);
    for (int i = 1; i <= 3; i++)
        ck_assert(load(store, i));
    ck_assert(!load(store, 4));
    /* Replaced by another: the one in use goes on. */
    ck_assert_int_eq(unlink(path), 0);
    scratch_write(path, "", 0);
    ck_assert(load(store, 2));
    ck_assert_int_eq(warnings(), 0);
    fex_store_destroy(store);
}
END_TEST

START_TEST(a_bundle_file_cut_while_in_use_does_not_kill)
{
    const char *const path = scratch_path(scratch, "kernels.fexb");
    write_bundle(path, 3);
    fex_store *const store = open_store(user, path);
    ck_assert(load(store, 1));
    ck_assert_int_eq(truncate(path, 0), 0);
    ck_assert(!load(store, 2));
    ck_assert_int_eq(warnings(), 1);
    fex_store_destroy(store);
}
END_TEST

START_TEST(a_damaged_bundle_file_is_refused_once)
{
    const char *const path = scratch_path(scratch, "kernels.fexb");
    write_bundle(path, 3);
    spoil(path, 40, 1, SIZE_MAX);
    fex_store *const store = open_store(user, path);
    for (int i = 1; i <= 3; i++)
        ck_assert(!load(store, i));
    ck_assert_int_eq(warnings(), 1);
    fex_store_destroy(store);
}
END_TEST

START_TEST(a_bundle_others_may_write_to_is_refused)
{
    const char *const path = scratch_path(scratch, "kernels.fexb");
    write_bundle(path, 3);
    ck_assert_int_eq(chmod(path, 0666), 0);
    fex_store *const store = open_store(user, path);
    ck_assert(!load(store, 1));
    ck_assert_int_eq(warnings(), 1);
    fex_store_destroy(store);
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
    fex_store *const store = open_store(user, NULL);
    test_recipe(&recipe, 1);
    test_cubin(&cubin, 1, 100000); /* as large as real ones get */
    ck_assert_int_eq(fex_store_put(store, &recipe, &cubin), FEX_OK);
    fex_cubin_free(&cubin);
    fex_recipe_free(&recipe);
    for (int i = 0; i < 101; i++) {
        const double start = seconds_now();
        test_recipe(&recipe, 1);
        fex_store_find(store, &recipe, FEX_STORE_LOAD, &cubin, &found);
        times[i] = seconds_now() - start;
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

static TCase *add_case(Suite *suite, const char *name)
{
    TCase *const cases = tcase_create(name);
    tcase_add_checked_fixture(cases, setup, teardown);
    tcase_set_timeout(cases, 60);
    suite_add_tcase(suite, cases);
    return cases;
}

static void add_tests(Suite *suite)
{
    TCase *cases = add_case(suite, "finding");
    tcase_add_test(cases, what_was_put_is_found_by_another_store);
    tcase_add_test(cases, directories_are_private);
    tcase_add_test(cases, a_miss_takes_no_lock_and_writes_nothing);
    tcase_add_test(cases, read_only_tiers_are_looked_into_and_left_alone);
    tcase_add_test(cases, without_a_user_tier_nothing_is_kept);
    tcase_add_test(cases, a_compiler_found_wrong_retires_its_entries);
    tcase_add_test(cases, a_warm_lookup_takes_less_than_two_milliseconds);
    cases = add_case(suite, "damage");
    tcase_add_loop_test(cases, damage_is_a_miss_and_repaired, 0,
                        sizeof damages / sizeof *damages);
    tcase_add_test(cases, damage_in_one_tier_is_made_up_for_by_another);
    cases = add_case(suite, "trust");
    tcase_add_test(cases, a_directory_others_may_write_to_is_refused);
    tcase_add_test(cases, a_directory_of_a_group_is_refused);
    tcase_add_test(cases, a_directory_of_another_user_is_refused);
    tcase_add_test(cases, a_directory_that_is_a_link_is_refused);
    tcase_add_test(cases, a_folder_of_keys_that_is_a_link_is_refused);
    tcase_add_test(cases, a_group_shares_when_asked_to);
    cases = add_case(suite, "faults");
    tcase_add_loop_test(cases, a_write_that_fails_leaves_nothing_behind, 0,
                        sizeof errors / sizeof *errors);
    tcase_add_test(cases, a_failed_replacement_leaves_the_old_entry);
    tcase_add_test(cases, signals_and_short_writes_do_no_harm);
    tcase_add_test(cases, a_read_that_fails_is_a_miss);
    tcase_add_test(cases, a_name_that_is_too_long_is_no_crash);
    cases = add_case(suite, "locks");
    tcase_add_test(cases, a_holder_that_hangs_is_waited_for_only_so_long);
    tcase_add_test(cases, a_lock_left_by_the_dead_does_not_count);
    tcase_add_test(cases, a_file_system_without_locks_does_not_block);
    cases = add_case(suite, "budget");
    tcase_add_test(cases, what_a_killed_writer_left_is_swept);
    tcase_add_test(cases, the_least_recently_used_go_first);
    tcase_add_test(cases, what_this_run_uses_is_never_evicted);
    tcase_add_test(cases, looking_is_not_using);
    tcase_add_test(cases, loads_are_counted_until_the_entry_is_made_anew);
    tcase_add_test(cases, pruning_keeps_to_its_limits);
    cases = add_case(suite, "bundles");
    tcase_add_test(cases, a_bundle_file_is_a_tier);
    tcase_add_test(cases, a_bundle_file_cut_while_in_use_does_not_kill);
    tcase_add_test(cases, a_damaged_bundle_file_is_refused_once);
    tcase_add_test(cases, a_bundle_others_may_write_to_is_refused);
}

int main(void)
{
    Suite *const suite = suite_create("store");
    add_tests(suite);
    SRunner *const runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
