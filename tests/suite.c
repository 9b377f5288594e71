/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "suite.h"

#include <stdlib.h>
#include <string.h>

int test_suite_main(const char *name, void (*fill)(TCase *tests))
{
    Suite *const suite = suite_create(name);
    TCase *const tests = tcase_create(name);
    fill(tests);
    suite_add_tcase(suite, tests);
    SRunner *const runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

void test_refused(fex_status status, fex_status expected, const char *words)
{
    ck_assert_msg(status == expected, "%s instead of %s: %s",
                  fex_status_name(status), fex_status_name(expected),
                  fex_last_error());
    ck_assert_msg(strstr(fex_last_error(), words) != NULL,
                  "\"%s\" is without \"%s\"", fex_last_error(), words);
}

void test_ok(fex_status status)
{
    ck_assert_msg(status == FEX_OK, "%s: %s", fex_status_name(status),
                  fex_last_error());
}
