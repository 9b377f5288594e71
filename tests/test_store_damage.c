/* SPDX-License-Identifier: Apache-2.0 */
/* test_store_damage.c - entries and directories that must not be used. */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store_case.h"
#include "suite.h"

/* ---- Damage -------------------------------------------------------------- */

/* One kernel is in the cache; `damage` spoils its file. It has to be a miss
 * with one warning, and replaced. */
static void check_damage(void (*damage)(const char *file))
{
    store_fill(store_user, 2);
    damage(store_file(store_user, 1));
    fex_store *const store = store_open(store_user, NULL);
    ck_assert(!store_load(store, 1));
    ck_assert_int_eq(store_warnings(), 1);
    ck_assert_uint_eq(fex_store_damaged(store), 1);
    ck_assert(store_load(store, 2));
    ck_assert_int_eq(store_put(store, 1), FEX_OK);
    ck_assert(store_load(store, 1));
    ck_assert_int_eq(store_warnings(), 1);
    fex_store_destroy(store);
    scratch_remove(store_user);
    store_forget_warnings();
}

static void make_empty(const char *file)
{
    scratch_write(file, "", 0);
}

static void cut_short(const char *file)
{
    store_spoil(file, 0, 0, 100);
}

static void flip_magic(const char *file)
{
    store_spoil(file, 0, 1, SIZE_MAX);
}

static void raise_version(const char *file)
{
    store_spoil(file, 8, 3, SIZE_MAX);
}

static void flip_cubin(const char *file)
{
    store_spoil(file, 600, 64, SIZE_MAX);
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
    unsigned char *const bytes = scratch_read(store_file(store_user, 2), &size);
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
    const char *const aside = scratch_path(store_scratch, "aside");
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
    store_fill(store_user, 1);
    store_fill(store_other, 1);
    make_empty(store_file(store_user, 1));
    fex_store *const store = store_open(store_user, store_other);
    ck_assert(store_load(store, 1));
    ck_assert_int_eq(store_warnings(), 1);
    fex_store_destroy(store);
}
END_TEST

/* ---- Trust --------------------------------------------------------------- */

/* What is wrong with it, and what to do, is in the warning and in the error. */
static void check_refused_directory(const char *why)
{
    fex_store *const store = store_open(store_user, NULL);
    ck_assert(!store_load(store, 1));
    ck_assert(!store_load(store, 2));
    test_refused(store_put(store, 3), FEX_ERROR_IO, why);
    test_refused(store_put(store, 3), FEX_ERROR_IO,
                 "set FLASHEXPERT_CACHE_DIR to another");
    test_refused(fex_store_try(store), FEX_ERROR_IO, why);
    ck_assert_int_eq(store_warnings(), 1);
    ck_assert_msg(strstr(store_last_warning(), why) != NULL, "%s",
                  store_last_warning());
    fex_store_destroy(store);
}

START_TEST(a_directory_others_may_write_to_is_refused)
{
    store_fill(store_user, 2);
    ck_assert_int_eq(chmod(store_user, 0777), 0);
    check_refused_directory("mode 0777; chmod go-w mends that");
}
END_TEST

START_TEST(a_directory_of_a_group_is_refused)
{
    store_fill(store_user, 2);
    ck_assert_int_eq(chmod(store_user, 0770), 0);
    check_refused_directory("mode 0770; chmod g-w mends that, "
                            "FLASHEXPERT_CACHE_SHARED=1 allows it");
}
END_TEST

START_TEST(a_directory_of_another_user_is_refused)
{
    if (geteuid() != 0)
        return; /* nobody else can give one away */
    store_fill(store_user, 2);
    ck_assert_int_eq(chown(store_user, 12345, 12345), 0);
    check_refused_directory("user 12345 (chown mends that)");
}
END_TEST

START_TEST(a_directory_that_is_a_link_is_refused)
{
    store_fill(store_other, 2);
    ck_assert_int_eq(symlink(store_other, store_user), 0);
    check_refused_directory("it is a symbolic link");
}
END_TEST

START_TEST(what_is_no_directory_is_refused)
{
    scratch_write(store_user, "x", 1);
    check_refused_directory("it is not a directory");
}
END_TEST

START_TEST(a_folder_of_keys_that_is_a_link_is_refused)
{
    char shard[512], aside[512];
    store_fill(store_user, 1);
    snprintf(shard, sizeof shard, "%s", store_file(store_user, 1));
    *strrchr(shard, '/') = '\0';
    snprintf(aside, sizeof aside, "%s/aside", store_scratch);
    ck_assert_int_eq(rename(shard, aside), 0);
    ck_assert_int_eq(symlink(aside, shard), 0);
    fex_store *const store = store_open(store_user, NULL);
    ck_assert(!store_load(store, 1));
    ck_assert_int_eq(store_put(store, 1), FEX_ERROR_IO);
    fex_store_destroy(store);
}
END_TEST

START_TEST(a_group_shares_when_asked_to)
{
    struct stat status;
    const fex_store_options options = {.user_dir = store_user, .shared = 1};
    fex_store *store = store_open_with(options);
    ck_assert_int_eq(store_put(store, 1), FEX_OK);
    ck_assert_int_eq(stat(store_user, &status), 0);
    ck_assert_int_eq(status.st_mode & 07777, 02770);
    ck_assert_int_eq(stat(store_file(store_user, 1), &status), 0);
    ck_assert_int_eq(status.st_mode & 07777, 0660);
    if (geteuid() == 0)
        ck_assert_int_eq(chown(store_file(store_user, 1), 12345, 12345), 0);
    ck_assert(store_load(store, 1));
    ck_assert_int_eq(store_warnings(), 0);
    /* But never with everybody. */
    ck_assert_int_eq(chmod(store_user, 02777), 0);
    fex_store_destroy(store);
    store = store_open_with(options);
    ck_assert(!store_load(store, 1));
    ck_assert_int_eq(store_warnings(), 1);
    fex_store_destroy(store);
}
END_TEST

static void fill(TCase *tests)
{
    tcase_add_checked_fixture(tests, store_set_up, store_tear_down);
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, damage_is_a_miss_and_repaired, 0,
                        sizeof damages / sizeof *damages);
    tcase_add_test(tests, damage_in_one_tier_is_made_up_for_by_another);
    tcase_add_test(tests, a_directory_others_may_write_to_is_refused);
    tcase_add_test(tests, a_directory_of_a_group_is_refused);
    tcase_add_test(tests, a_directory_of_another_user_is_refused);
    tcase_add_test(tests, a_directory_that_is_a_link_is_refused);
    tcase_add_test(tests, what_is_no_directory_is_refused);
    tcase_add_test(tests, a_folder_of_keys_that_is_a_link_is_refused);
    tcase_add_test(tests, a_group_shares_when_asked_to);
}

int main(void)
{
    return test_suite_main("store_damage", fill);
}
