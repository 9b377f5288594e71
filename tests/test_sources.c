/* SPDX-License-Identifier: Apache-2.0 */
/* test_sources.c - embedded sources and directories of sources. */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache_case.h"
#include "sources.h"
#include "suite.h"

static char scratch[256];

static void setup(void)
{
    scratch_make(scratch);
}

static void teardown(void)
{
    scratch_remove(scratch);
}

static void write_text(const char *name, const char *text)
{
    scratch_write(scratch_path(scratch, name), text, strlen(text));
}

START_TEST(embedded_sources_are_those_of_the_kernel_folder)
{
    const char *const top = getenv("top_srcdir");
    fex_sources embedded, folder;
    ck_assert_msg(top != NULL, "top_srcdir is not set");
    ck_assert_int_eq(fex_sources_open(NULL, &embedded), FEX_OK);
    ck_assert_uint_gt(embedded.count, 0);
    ck_assert_int_eq(
        fex_sources_open(scratch_path(top, "kernels"), &folder), FEX_OK);
    ck_assert_uint_eq(embedded.count, folder.count);
    for (size_t i = 0; i < folder.count; i++) {
        ck_assert_str_eq(embedded.files[i].name, folder.files[i].name);
        ck_assert_str_eq(embedded.files[i].text, folder.files[i].text);
    }
    /* So that an entry made with one is found with the other. */
    ck_assert_str_eq(embedded.digest, folder.digest);
    fex_sources_close(&folder);
    fex_sources_close(&embedded);
}
END_TEST

/* Opens the scratch folder only for its digest. */
static void take_digest(char *digest)
{
    fex_sources sources;
    ck_assert_int_eq(fex_sources_open(scratch, &sources), FEX_OK);
    strcpy(digest, sources.digest);
    fex_sources_close(&sources);
}

START_TEST(the_digest_tells_names_and_texts_apart)
{
    char first[33], second[33];
    write_text("a.cu", "one");
    write_text("b.cuh", "two");
    take_digest(first);
    ck_assert_uint_eq(strlen(first), 32);

    write_text("a.cu", "onet");
    write_text("b.cuh", "wo");
    take_digest(second);
    ck_assert_str_ne(first, second);

    write_text("a.cu", "one");
    write_text("b.cuh", "two");
    take_digest(second);
    ck_assert_str_eq(first, second);

    ck_assert_int_eq(rename(scratch_path(scratch, "b.cuh"),
                            scratch_path(scratch, "c.cuh")),
                     0);
    take_digest(second);
    ck_assert_str_ne(first, second);
}
END_TEST

START_TEST(only_sources_are_read_from_a_folder)
{
    char first[33], second[33];
    fex_sources sources;
    write_text("a.cu", "one");
    write_text("b.h", "two");
    take_digest(first);
    write_text("notes.txt", "three");
    write_text(".a.cu", "hidden");
    write_text("a.cu~", "backup");
    take_digest(second);
    ck_assert_str_eq(first, second);
    ck_assert_int_eq(fex_sources_open(scratch, &sources), FEX_OK);
    ck_assert_uint_eq(sources.count, 2);
    ck_assert_str_eq(fex_sources_find(&sources, "b.h")->text, "two");
    ck_assert_uint_eq(fex_sources_find(&sources, "b.h")->length, 3);
    ck_assert_ptr_null(fex_sources_find(&sources, "notes.txt"));
    fex_sources_close(&sources);
}
END_TEST

START_TEST(a_folder_without_kernels_is_refused)
{
    fex_sources sources;
    ck_assert_int_eq(fex_sources_open(scratch, &sources), FEX_ERROR_IO);
    write_text("b.h", "two");
    ck_assert_int_eq(fex_sources_open(scratch, &sources), FEX_ERROR_IO);
    ck_assert_ptr_nonnull(strstr(fex_last_error(), scratch));
    ck_assert_int_eq(
        fex_sources_open(scratch_path(scratch, "none"), &sources),
        FEX_ERROR_IO);
    /* A folder that is named like a kernel cannot be read as one. */
    ck_assert_int_eq(mkdir(scratch_path(scratch, "c.cu"), 0700), 0);
    ck_assert_int_eq(fex_sources_open(scratch, &sources), FEX_ERROR_IO);
}
END_TEST

static void fill(TCase *tests)
{
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, embedded_sources_are_those_of_the_kernel_folder);
    tcase_add_test(tests, the_digest_tells_names_and_texts_apart);
    tcase_add_test(tests, only_sources_are_read_from_a_folder);
    tcase_add_test(tests, a_folder_without_kernels_is_refused);
}

int main(void)
{
    return test_suite_main("sources", fill);
}
