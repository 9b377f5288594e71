/* SPDX-License-Identifier: Apache-2.0 */
/* test_status.c - names of results, and the last error of a thread. */
#include "config.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "status.h"
#include "suite.h"

/* Values are part of the binary interface: written out here a second time so
 * that a change is noticed. */
START_TEST(values_never_change)
{
    static const char *const names[] = {
        "FEX_OK", "FEX_ERROR_INVALID_ARGUMENT", "FEX_ERROR_UNSUPPORTED",
        "FEX_ERROR_OUT_OF_MEMORY", "FEX_ERROR_DEVICE_OUT_OF_MEMORY",
        "FEX_ERROR_WORKSPACE", "FEX_ERROR_INDEX", "FEX_ERROR_NOT_PREPARED",
        "FEX_ERROR_NO_DRIVER", "FEX_ERROR_NO_DEVICE", "FEX_ERROR_DRIVER",
        "FEX_ERROR_NO_COMPILER", "FEX_ERROR_COMPILE",
        "FEX_ERROR_JIT_FORBIDDEN", "FEX_ERROR_IO", "FEX_ERROR_CORRUPT",
        "FEX_ERROR_FORKED"};
    const int count = (int)(sizeof names / sizeof *names);
    for (int value = 0; value < count; value++) {
        ck_assert_str_eq(fex_status_name((fex_status)value), names[value]);
        ck_assert_str_ne(fex_status_string((fex_status)value),
                         "unknown status");
    }
    ck_assert_str_eq(fex_status_name((fex_status)count), "FEX_?");
    ck_assert_str_eq(fex_status_string((fex_status)count), "unknown status");
    ck_assert_str_eq(fex_status_name((fex_status)-1), "FEX_?");
}
END_TEST

START_TEST(version_is_that_of_the_header)
{
    char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", FEX_VERSION_MAJOR,
             FEX_VERSION_MINOR, FEX_VERSION_PATCH);
    ck_assert_str_eq(fex_version(), version);
}
END_TEST

START_TEST(failure_is_told_in_a_sentence)
{
    ck_assert_str_eq(fex_last_error(), "");
    ck_assert_int_eq(fex_fail(FEX_ERROR_IO, "%s is %d", "size", 7),
                     FEX_ERROR_IO);
    ck_assert_str_eq(fex_last_error(), "size is 7");
    fex_fail(FEX_ERROR_INDEX, "another");
    ck_assert_str_eq(fex_last_error(), "another");
}
END_TEST

static void *fail_elsewhere(void *user)
{
    (void)user;
    const int empty = *fex_last_error() == '\0';
    fex_fail(FEX_ERROR_IO, "of the other thread");
    return empty ? "empty" : "not empty";
}

START_TEST(each_thread_has_its_own)
{
    pthread_t thread;
    void *seen;
    fex_fail(FEX_ERROR_IO, "of this thread");
    ck_assert_int_eq(pthread_create(&thread, NULL, fail_elsewhere, NULL), 0);
    pthread_join(thread, &seen);
    ck_assert_str_eq((const char *)seen, "empty");
    ck_assert_str_eq(fex_last_error(), "of this thread");
}
END_TEST

/* Long detail, such as a compiler's log, is cut, not written past the end. */
START_TEST(long_detail_is_cut)
{
    char *const text = malloc(1 << 20);
    memset(text, 'x', (1 << 20) - 1);
    text[(1 << 20) - 1] = '\0';
    fex_fail(FEX_ERROR_COMPILE, "%s", text);
    ck_assert_uint_gt(strlen(fex_last_error()), 500);
    ck_assert_uint_lt(strlen(fex_last_error()), 1 << 16);
    free(text);
}
END_TEST

/* A structure of a newer library: larger, with bytes this one knows nothing
 * of. */
START_TEST(unknown_bytes_must_be_zero)
{
    struct {
        size_t size;
        int known;
        char unknown[20];
    } given = {0, 5, {0}};
    const size_t known = offsetof(__typeof__(given), unknown);
    test_ok(fex_check_size(&given, sizeof given, known, known, "given"));
    given.unknown[19] = 1;
    TEST_INVALID(fex_check_size(&given, sizeof given, known, known, "given"),
                 "given has a member at byte 31");
    test_ok(fex_check_size(&given, known, known, known, "given"));
    TEST_INVALID(fex_check_size(&given, known - 1, known, known, "given"),
                 "given.size is 11");
}
END_TEST

static int calls_after;

static fex_status leave_with(fex_status status)
{
    return_if_error(status);
    calls_after++;
    return FEX_OK;
}

START_TEST(return_if_error_leaves_on_errors_only)
{
    ck_assert_int_eq(leave_with(FEX_ERROR_IO), FEX_ERROR_IO);
    ck_assert_int_eq(calls_after, 0);
    ck_assert_int_eq(leave_with(FEX_OK), FEX_OK);
    ck_assert_int_eq(calls_after, 1);
}
END_TEST

static void fill(TCase *tests)
{
    tcase_add_test(tests, values_never_change);
    tcase_add_test(tests, version_is_that_of_the_header);
    tcase_add_test(tests, failure_is_told_in_a_sentence);
    tcase_add_test(tests, each_thread_has_its_own);
    tcase_add_test(tests, long_detail_is_cut);
    tcase_add_test(tests, unknown_bytes_must_be_zero);
    tcase_add_test(tests, return_if_error_leaves_on_errors_only);
}

int main(void)
{
    return test_suite_main("status", fill);
}
