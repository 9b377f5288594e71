/* SPDX-License-Identifier: Apache-2.0 */
/* suite.h - the main of a test program that has one suite of one test case. */
#ifndef TEST_SUITE_H
#define TEST_SUITE_H

#include <check.h>

#include "flashexpert_rtc.h"

/* Runs the tests that `fill` adds and returns what main should. */
int test_suite_main(const char *name, void (*fill)(TCase *tests));

/* Fails the test unless a call failed with this status and a message that has
 * these words in it. */
void test_refused(fex_status status, fex_status expected, const char *words);
#define TEST_INVALID(call, words)                                              \
    test_refused(call, FEX_ERROR_INVALID_ARGUMENT, words)

/* Fails the test unless a call succeeded, with its message. */
void test_ok(fex_status status);

#endif
