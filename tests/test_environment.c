/* SPDX-License-Identifier: Apache-2.0 */
/* test_environment.c - the variables are copied once, and README tells of
 * each. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "environment.h"
#include "suite.h"

static const struct {
    const char *variable, *meaning;
    size_t offset;
} entries[] = {
#define TEST_ENTRY(field, variable, meaning)                                   \
    {variable, meaning, offsetof(fex_environment, field)},
    FEX_ENVIRONMENT_MAP(TEST_ENTRY)
#undef TEST_ENTRY
};
enum { ENTRIES = sizeof entries / sizeof *entries };

static const char *value_of(const fex_environment *environment, int entry)
{
    const char *value;
    memcpy(&value, (const char *)environment + entries[entry].offset,
           sizeof value);
    return value;
}

/* _i: the variable that is set; all others are not. */
START_TEST(each_variable_has_its_field)
{
    fex_environment environment;
    for (int i = 0; i < ENTRIES; i++)
        unsetenv(entries[i].variable);
    setenv(entries[_i].variable, "some value", 1);
    test_ok(fex_environment_read(&environment));
    for (int i = 0; i < ENTRIES; i++)
        if (i == _i)
            ck_assert_str_eq(value_of(&environment, i), "some value");
        else
            ck_assert_ptr_null(value_of(&environment, i));
    fex_environment_free(&environment);
    ck_assert_ptr_null(value_of(&environment, _i));
}
END_TEST

START_TEST(empty_is_unset)
{
    fex_environment environment;
    setenv("FLASHEXPERT_JIT", "", 1);
    test_ok(fex_environment_read(&environment));
    ck_assert_ptr_null(environment.jit);
    fex_environment_free(&environment);
}
END_TEST

START_TEST(later_changes_are_not_seen)
{
    fex_environment environment;
    setenv("FLASHEXPERT_JIT", "forbid", 1);
    test_ok(fex_environment_read(&environment));
    setenv("FLASHEXPERT_JIT", "warn", 1);
    ck_assert_str_eq(environment.jit, "forbid");
    unsetenv("FLASHEXPERT_JIT");
    ck_assert_str_eq(environment.jit, "forbid");
    fex_environment_free(&environment);
}
END_TEST

/* ---- README -------------------------------------------------------------- */

static char *readme(void)
{
    const char *const folder = getenv("top_srcdir");
    char path[4096];
    char *text = NULL;
    size_t size = 0;
    snprintf(path, sizeof path, "%s/README.md", folder != NULL ? folder : ".");
    FILE *const file = fopen(path, "r");
    ck_assert_msg(file != NULL, "%s cannot be opened", path);
    ck_assert_int_gt(getdelim(&text, &size, '\0', file), 0);
    fclose(file);
    return text;
}

START_TEST(readme_tells_of_each)
{
    char row[512];
    char *const text = readme();
    snprintf(row, sizeof row, "| `%s` | %s |\n", entries[_i].variable,
             entries[_i].meaning);
    ck_assert_msg(strstr(text, row) != NULL, "README.md is without: %s", row);
    free(text);
}
END_TEST

/* A row that the table has no variable for is one that was removed. */
START_TEST(readme_tells_of_no_other)
{
    static const char start[] = "\n| `FLASHEXPERT_";
    char *const text = readme();
    int rows = 0, expected = 0;
    for (const char *at = text; (at = strstr(at, start)) != NULL; at++)
        rows++;
    for (int i = 0; i < ENTRIES; i++)
        expected += strncmp(entries[i].variable, "FLASHEXPERT_", 12) == 0;
    ck_assert_int_eq(rows, expected);
    free(text);
}
END_TEST

static void fill(TCase *tests)
{
    tcase_add_loop_test(tests, each_variable_has_its_field, 0, ENTRIES);
    tcase_add_test(tests, empty_is_unset);
    tcase_add_test(tests, later_changes_are_not_seen);
    tcase_add_loop_test(tests, readme_tells_of_each, 0, ENTRIES);
    tcase_add_test(tests, readme_tells_of_no_other);
}

int main(void)
{
    return test_suite_main("environment", fill);
}
