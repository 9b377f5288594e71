/* SPDX-License-Identifier: Apache-2.0 */
/* test_architecture.c - which architecture kernels for a device are compiled
 * for. */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "architecture.h"
#include "suite.h"

START_TEST(table_is_in_order)
{
    size_t count;
    const fex_architecture *const table = fex_architecture_table(&count);
    ck_assert_str_eq(table[0].name, "sm_75");
    ck_assert_str_eq(table[count - 1].name, "sm_121");
    for (size_t i = 0; i < count; i++) {
        char number[16];
        const int length = snprintf(number, sizeof number, "sm_%d%d",
                                    table[i].major, table[i].minor);
        ck_assert(strncmp(table[i].name, number, (size_t)length) == 0);
        if (i > 0)
            ck_assert_int_gt(table[i].major * 100 + table[i].minor,
                             table[i - 1].major * 100 + table[i - 1].minor);
    }
}
END_TEST

/* What a block can have: 64 KB on Turing; then 99 KB, but 163 KB where A100's
 * design is and 227 KB in data centres from Hopper on. */
static int shared_max_of(const char *name)
{
    static const struct {
        const char *name;
        int kilobytes;
    } known[] = {{"sm_75", 64},    {"sm_80", 163},  {"sm_87", 163},
                 {"sm_90a", 227},  {"sm_100", 227}, {"sm_103", 227}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].name, name) == 0)
            return known[i].kilobytes * 1024;
    return 99 * 1024;
}

START_TEST(shared_memory_is_known)
{
    size_t count;
    const fex_architecture *const table = fex_architecture_table(&count);
    for (size_t i = 0; i < count; i++)
        ck_assert_int_eq(table[i].shared_max, shared_max_of(table[i].name));
}
END_TEST

START_TEST(each_is_found_by_name)
{
    size_t count;
    const fex_architecture *const table = fex_architecture_table(&count);
    for (size_t i = 0; i < count; i++) {
        ck_assert_ptr_eq(fex_architecture_by_name(table[i].name), &table[i]);
        ck_assert_ptr_eq(fex_architecture_by_name(table[i].name + 3),
                         &table[i]);
    }
}
END_TEST

START_TEST(other_names_are_unknown)
{
    static const char *const names[] = {"", "sm_", "sm_74", "sm_7", "sm_755",
                                        "compute_80", "SM_80", "sm_90a ",
                                        "sm_sm_80"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        ck_assert_msg(fex_architecture_by_name(names[i]) == NULL, "%s",
                      names[i]);
}
END_TEST

START_TEST(an_unknown_name_is_told_the_known_ones)
{
    size_t count;
    const fex_architecture *found;
    const fex_architecture *const table = fex_architecture_table(&count);
    test_ok(fex_architecture_find("80", &found));
    ck_assert_str_eq(found->name, "sm_80");
    TEST_INVALID(fex_architecture_find("sm_100a", &found), "'sm_100a'");
    for (size_t i = 0; i < count; i++)
        TEST_INVALID(fex_architecture_find("sm_90", &found), table[i].name);
}
END_TEST

static const struct {
    int major, minor;
    const char *name; /* NULL: not supported */
} devices[] = {{7, 0, NULL},     {7, 2, NULL},     {7, 5, "sm_75"},
               {8, 0, "sm_80"},  {8, 6, "sm_86"},  {8, 7, "sm_87"},
               {8, 8, "sm_87"},  {8, 9, "sm_89"},  {9, 0, "sm_90a"},
               {10, 0, "sm_100"}, {10, 1, "sm_100"}, {10, 3, "sm_103"},
               {12, 0, "sm_120"}, {12, 1, "sm_121"}, {99, 0, NULL}};

/* The highest that the device can run; none for one that is too old or that
 * this library cannot know. */
START_TEST(device_gets_the_best_it_can_run)
{
    const fex_architecture *const found = fex_architecture_of_device(
        devices[_i].major, devices[_i].minor);
    if (devices[_i].name == NULL)
        ck_assert_ptr_null(found);
    else
        ck_assert_str_eq(found->name, devices[_i].name);
}
END_TEST

static void fill(TCase *tests)
{
    tcase_add_test(tests, table_is_in_order);
    tcase_add_test(tests, shared_memory_is_known);
    tcase_add_test(tests, each_is_found_by_name);
    tcase_add_test(tests, other_names_are_unknown);
    tcase_add_test(tests, an_unknown_name_is_told_the_known_ones);
    tcase_add_loop_test(tests, device_gets_the_best_it_can_run, 0,
                        (int)(sizeof devices / sizeof *devices));
}

int main(void)
{
    return test_suite_main("architecture", fill);
}
