/* SPDX-License-Identifier: Apache-2.0 */
/* device_suite.h - what test_forward and test_backward share: the device, the
 * two tiers, and the cross product of types, sizes and distributions.
 *
 * The small tier is for the simulated device, where a multiply-add costs about
 * as much as a thousand on a GPU; the full tier is everything. Chosen by the
 * program's argument or $FLASHEXPERT_TEST_TIER, "small" or "full"; by default
 * full on a GPU, small on the simulated device. */
#ifndef TEST_DEVICE_SUITE_H
#define TEST_DEVICE_SUITE_H

#include <check.h>

#include "device_case.h"

/* The device of the running program, open before any test runs. */
extern test_device suite_device;

/* Runs the tests that `fill` puts into the suite and returns what main should.
 * The device is opened first: without one the program ends as skipped. */
int device_suite_main(int argc, char **argv, const char *name,
                      void (*fill)(Suite *suite, int full));

/* A set-up for tests: where $FLASHEXPERT_TEST_STOP is set and a test has
 * failed, ends the program. For those who only ask whether all tests pass. */
void device_suite_go_on(void);

/* Creates a case, runs `passes` of it, checks every output, destroys it; once
 * for every family of algorithms that can serve it. */
void device_suite_check(const case_spec *spec, fex_pass passes);

/* The same of a case that is made, and may have been edited. */
void device_suite_check_made(device_case *c, fex_pass passes);

/* The cross product of types, sizes and distributions, for one pass: a line for
 * each case and family, with the error of each output, and a failure of the
 * test at the end if any error was above its tolerance. */
void device_suite_cross_product(fex_pass pass);

#endif
