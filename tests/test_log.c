/* SPDX-License-Identifier: Apache-2.0 */
/* test_log.c - messages reach the hook, or standard error, by level. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "suite.h"

/* What a hook was called with. */
static struct {
    int calls;
    void *user;
    fex_log_level level;
    char message[8192];
} seen;

static void hook(void *user, fex_log_level level, const char *message)
{
    seen.calls++;
    seen.user = user;
    seen.level = level;
    snprintf(seen.message, sizeof seen.message, "%s", message);
}

START_TEST(hook_sees_every_level)
{
    fex_log log;
    int user;
    test_ok(fex_log_init(&log, hook, &user, "error"));
    for (int level = FEX_LOG_ERROR; level <= FEX_LOG_DEBUG; level++) {
        fex_log_write(&log, (fex_log_level)level, "number %d", level);
        ck_assert_int_eq(seen.calls, level);
        ck_assert_int_eq((int)seen.level, level);
        ck_assert_ptr_eq(seen.user, &user);
    }
    ck_assert_str_eq(seen.message, "number 4");
}
END_TEST

/* Full compiler logs go through it. */
START_TEST(long_messages_arrive_whole)
{
    fex_log log;
    char text[6000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    test_ok(fex_log_init(&log, hook, NULL, NULL));
    fex_log_write(&log, FEX_LOG_ERROR, "<%s>", text);
    ck_assert_uint_eq(strlen(seen.message), sizeof text - 1 + 2);
    ck_assert_int_eq(seen.message[sizeof text], '>');
}
END_TEST

/* What a function writes to standard error. */
static const char *stderr_of(const char *level_name)
{
    static char text[1024];
    int ends[2];
    fex_log log;
    ck_assert_int_eq(pipe(ends), 0);
    fflush(stderr);
    const int saved = dup(STDERR_FILENO);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
    test_ok(fex_log_init(&log, NULL, NULL, level_name));
    fex_log_write(&log, FEX_LOG_ERROR, "e%d", 1);
    fex_log_write(&log, FEX_LOG_WARNING, "w");
    fex_log_write(&log, FEX_LOG_INFO, "i");
    fex_log_write(&log, FEX_LOG_DEBUG, "d");
    fflush(stderr);
    dup2(saved, STDERR_FILENO); /* closes the pipe's end */
    close(saved);
    const ssize_t length = read(ends[0], text, sizeof text - 1);
    text[length > 0 ? length : 0] = '\0';
    close(ends[0]);
    return text;
}

#define ERROR "flashexpert: error: e1\n"
#define WARNING "flashexpert: warning: w\n"
#define INFO "flashexpert: info: i\n"
#define DEBUG "flashexpert: debug: d\n"

START_TEST(standard_error_gets_the_level_asked_for)
{
    ck_assert_str_eq(stderr_of("error"), ERROR);
    ck_assert_str_eq(stderr_of("warning"), ERROR WARNING);
    ck_assert_str_eq(stderr_of("info"), ERROR WARNING INFO);
    ck_assert_str_eq(stderr_of("debug"), ERROR WARNING INFO DEBUG);
}
END_TEST

START_TEST(without_a_level_warnings)
{
    ck_assert_str_eq(stderr_of(NULL), ERROR WARNING);
}
END_TEST

START_TEST(no_such_level_is_refused)
{
    static const char *const names[] = {"verbose", "Warning", "warn", "1",
                                        "debug "};
    fex_log log;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        TEST_INVALID(fex_log_init(&log, NULL, NULL, names[i]), names[i]);
        test_ok(fex_log_init(&log, hook, NULL, names[i])); /* sees all */
    }
}
END_TEST

static void fill(TCase *tests)
{
    tcase_add_test(tests, hook_sees_every_level);
    tcase_add_test(tests, long_messages_arrive_whole);
    tcase_add_test(tests, standard_error_gets_the_level_asked_for);
    tcase_add_test(tests, without_a_level_warnings);
    tcase_add_test(tests, no_such_level_is_refused);
}

int main(void)
{
    return test_suite_main("log", fill);
}
