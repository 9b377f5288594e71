/* SPDX-License-Identifier: Apache-2.0 */
/* The command's manners: help, exit codes, one line for each mistake. */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../tools/commands.h"
#include "architecture.h"
#include "../tools/shape_keys.h"
#include "command.h"

static const tool_command *const commands[] = {
    &command_info,         &command_run,         &command_bench,
    &command_prewarm,      &command_cache_list,  &command_cache_verify,
    &command_cache_prune,  &command_cache_clear, &command_cache_export,
    &command_cache_import,
};
enum { COMMAND_COUNT = sizeof commands / sizeof commands[0] };

static void contains(const char *text, const char *words)
{
    ck_assert_msg(strstr(text, words) != NULL, "no '%s' in:\n%s", words, text);
}

START_TEST(help_lists_every_command)
{
    const command_result *help = command_expect(0, "--help");
    ck_assert_str_eq(help->err, "");
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        contains(help->out, commands[i]->name);
        contains(help->out, commands[i]->summary);
    }
    help = command_expect(0, "cache --help");
    contains(help->out, "cache prune");
    ck_assert_ptr_null(strstr(help->out, "prewarm"));
}
END_TEST

START_TEST(help_of_a_command_lists_every_option)
{
    const tool_command *command = commands[_i];
    const command_result *help = command_expect(0, "%s --help", command->name);

    ck_assert_str_eq(help->err, "");
    contains(help->out, command->summary);
    contains(help->out, "--json");
    for (const tool_option *row = command->options; row->name != NULL; row++) {
        char words[64];
        snprintf(words, sizeof words, "--%s", row->name);
        contains(help->out, words);
    }
    /* It fits a terminal. */
    for (const char *line = help->out; *line != '\0';
         line += strcspn(line, "\n") + 1)
        ck_assert_msg(strcspn(line, "\n") <= 80, "%s", line);
}
END_TEST

/* The text of the manual page, with the backslashes before dashes removed; ""
 * where it is not found. */
static char manual[1 << 16];

/* For main: top_srcdir may be relative, and tests work in another folder. */
static void read_manual(void)
{
    const char *const source = getenv("top_srcdir");
    char path[4096];
    size_t length = 0;
    int c;

    snprintf(path, sizeof path, "%s/tools/flashexpert.1",
             source != NULL ? source : ".");
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return;
    while ((c = getc(file)) != EOF && length + 1 < sizeof manual)
        if (c != '\\')
            manual[length++] = (char)c;
    manual[length] = '\0';
    fclose(file);
}

START_TEST(the_manual_knows_every_command_option_and_key)
{
    char words[64];

    ck_assert_msg(manual[0] != '\0', "tools/flashexpert.1 is not found");
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        snprintf(words, sizeof words, ".SS %s", commands[i]->name);
        contains(manual, words);
        for (const tool_option *row = commands[i]->options; row->name != NULL;
             row++) {
            snprintf(words, sizeof words, "--%s", row->name);
            contains(manual, words);
        }
    }
    for (size_t k = 0; k < KEY_COUNT; k++) {
        snprintf(words, sizeof words, ".BI %s= ", shape_keys[k].name);
        contains(manual, words);
    }
}
END_TEST

START_TEST(the_version_is_told)
{
    contains(command_expect(0, "--version")->out, PACKAGE_VERSION);
}
END_TEST

START_TEST(info_is_json)
{
    command_expect(0, "info");
    command_expect(0, "info --json");
    const json_t *info = command_json();
    ck_assert_str_eq(json_string_value(json_object_get(info, "version")),
                     PACKAGE_VERSION);
    ck_assert_uint_eq(
        strlen(json_string_value(json_object_get(info, "kernel_digest"))), 32);
    ck_assert(json_is_array(json_object_get(info, "devices")));
    const json_t *environment = json_object_get(info, "environment");
    contains(json_string_value(
                 json_object_get(environment, "FLASHEXPERT_CACHE_DIR")),
             "/cache");
    ck_assert(json_object_get(environment, "FLASHEXPERT_JIT") != NULL);
}
END_TEST

#define SHAPE "--shape 'hidden=64 top_k=8 experts=100 tokens=3'"

static const struct {
    const char *words; /* on the command line */
    const char *said;
} mistakes[] = {
    {"frobnicate", "unknown command 'frobnicate'"},
    {"cache", "a command is missing"},
    {"cache frobnicate", "unknown command 'frobnicate'"},
    {"info extra", "unexpected argument 'extra'"},
    {"run", "--shape or --shapes is missing"},
    {"run --frobnicate", "'--frobnicate'"},
    {"run -z", "'-z'"},
    {"run --shape", "--shape needs a value"},
    {"run " SHAPE " --json=1", "--json takes no value"},
    {"run " SHAPE " extra", "unexpected argument 'extra'"},
    {"run --device cpu " SHAPE " -d 0", "given twice, as 'cpu' and as '0'"},
    {"run " SHAPE " --seed 1 --seed 2", "given twice, as '1' and as '2'"},
    {"run " SHAPE " --distribution even", "uniform|zipf|same"},
    {"run " SHAPE " --repeat many", "found 'many'"},
    {"run " SHAPE " --repeat 99999999999", "not in 0 .. 1000000"},
    {"run " SHAPE " --device gpu", "found 'gpu'"},
    {"run --shape 'hidden=64 dtype=fp8'", "column 17: dtype: expected f16"},
    {"run --shape 'hidden=0 top_k=8 experts=1 tokens=3'", "column 8: hidden"},
    {"bench " SHAPE " --csv --json", "exclude"},
    {"bench " SHAPE " --rounds 0", "not in 1 .. 1000000"},
    {"run " SHAPE " --seed -1", "--seed must not be negative, found '-1'"},
    {"run " SHAPE " -d cpu --l2 cold", "--l2 is for devices"},
    {"run " SHAPE " -d cpu --graph", "--graph is for devices"},
    {"prewarm " SHAPE " --arch sm_1", "'sm_1'"},
    {"prewarm " SHAPE " --arch sm_70", "sm_75, sm_80, "},
    {"cache export --out x --arch sm_70", "sm_75, sm_80, "},
    {"prewarm " SHAPE " --arch sm_90a,", "''"},
    {"prewarm --arch sm_90a", "--shape or --shapes is missing"},
    {"prewarm " SHAPE " --arch sm_80 --check --refresh", "exclude"},
    {"prewarm " SHAPE " --arch sm_80 -j 0", "not in 1 .. 1024"},
    {"cache export", "--out FILE is missing"},
    {"cache import", "FILE is missing"},
    {"cache import one two", "unexpected argument 'two'"},
    {"cache prune --older-than 3y", "found '3y'"},
    {"cache prune --older-than 30", "its unit, s, m, h, d or w"},
    {"cache prune --older-than -1d", "must not be negative, found '-1d'"},
    {"cache prune --max 1X", "found '1X'"},
};

START_TEST(a_mistake_gets_one_line_and_code_2)
{
    command_refuses(2, mistakes[_i].said, "%s", mistakes[_i].words);
}
END_TEST

START_TEST(help_lists_every_architecture)
{
    size_t count;
    const fex_architecture *table = fex_architecture_table(&count);
    const command_result *help = command_expect(0, "prewarm --help");
    for (size_t i = 0; i < count; i++)
        contains(help->out, table[i].name);
}
END_TEST

/* What info says of the tiers: as text, and as the state in JSON. */
static void check_tier(const char *path, const char *mark, const char *state)
{
    char line[512];
    setenv("FLASHEXPERT_CACHE_PATH", path, 1);
    snprintf(line, sizeof line, "\nread-only tiers   %s%s\n", path, mark);
    contains(command_expect(0, "info")->out, line);
    command_expect(0, "info --json");
    const json_t *tier =
        json_array_get(json_object_get(command_json(), "tiers"), 1);
    ck_assert_str_eq(json_string_value(json_object_get(tier, "path")), path);
    ck_assert_str_eq(json_string_value(json_object_get(tier, "state")), state);
    ck_assert_str_eq(json_string_value(json_object_get(tier, "named_by")),
                     "FLASHEXPERT_CACHE_PATH");
}

START_TEST(info_tells_what_is_wrong_with_a_tier)
{
    ck_assert_int_eq(system("mkdir tier && echo other >file"), 0);
    check_tier("none", " (missing)", "missing");
    check_tier("tier", "", "directory");
    check_tier("file", " (not used: not a bundle of kernels)", "refused");
    /* A list names them, too, as nothing else would. */
    setenv("FLASHEXPERT_CACHE_PATH", "none:tier:file", 1);
    const command_result *list = command_expect(0, "cache list");
    ck_assert_str_eq(list->out,
                     "none (missing)\n"
                     "file (not used: not a bundle of kernels)\n"
                     "0 kernels, 0 B, 0 damaged\n");
    contains(list->err, "FLASHEXPERT_CACHE_PATH names the cache none");
    command_expect(0, "cache list --json");
    ck_assert_uint_eq(
        json_array_size(json_object_get(command_json(), "tiers")), 4);
    /* What nobody has asked for is not missed. */
    setenv("FLASHEXPERT_CACHE_PATH", "", 1);
    list = command_expect(0, "cache list");
    ck_assert_str_eq(list->out, "0 kernels, 0 B, 0 damaged\n");
    ck_assert_str_eq(list->err, "");
    setenv("FLASHEXPERT_CACHE_PATH", ":", 1);
    contains(command_expect(0, "info")->out, "\nread-only tiers   none\n");
}
END_TEST

START_TEST(info_tells_why_there_is_no_compiler)
{
    setenv("FLASHEXPERT_LIBNVRTC", "/nonexistent", 1);
    contains(command_expect(0, "info")->out,
             "\nNVRTC             not found  the NVRTC that "
             "FLASHEXPERT_LIBNVRTC names cannot be opened: /nonexistent: ");
    unsetenv("FLASHEXPERT_LIBNVRTC");
}
END_TEST

START_TEST(without_a_home_there_is_no_cache)
{
    unsetenv("FLASHEXPERT_CACHE_DIR");
    unsetenv("XDG_CACHE_HOME");
    unsetenv("HOME");
    contains(command_expect(0, "info")->out, "\ncache             none\n");
}
END_TEST

START_TEST(no_command_at_all_gets_the_help)
{
    const command_result *result = command_expect(2, " ");
    ck_assert_str_eq(result->out, "");
    contains(result->err, "Commands:");
}
END_TEST

START_TEST(an_option_may_repeat_itself)
{
    command_expect(0, "run --device cpu -d cpu --seed 1 --seed 1 " SHAPE);
}
END_TEST

START_TEST(output_that_cannot_be_delivered_is_a_failure)
{
    const command_result *result = command_expect(1, "--help >/dev/full");
    contains(result->err, "cannot write standard output");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("command usage");
    TCase *tests = tcase_create("usage");
    const int count = (int)(sizeof mistakes / sizeof mistakes[0]);

    read_manual();
    tcase_add_checked_fixture(tests, command_enter_scratch,
                              command_leave_scratch);
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, help_lists_every_command);
    tcase_add_loop_test(tests, help_of_a_command_lists_every_option, 0,
                        COMMAND_COUNT);
    tcase_add_test(tests, the_manual_knows_every_command_option_and_key);
    tcase_add_test(tests, the_version_is_told);
    tcase_add_test(tests, info_is_json);
    tcase_add_test(tests, help_lists_every_architecture);
    tcase_add_test(tests, info_tells_what_is_wrong_with_a_tier);
    tcase_add_test(tests, info_tells_why_there_is_no_compiler);
    tcase_add_test(tests, without_a_home_there_is_no_cache);
    tcase_add_loop_test(tests, a_mistake_gets_one_line_and_code_2, 0, count);
    tcase_add_test(tests, no_command_at_all_gets_the_help);
    tcase_add_test(tests, an_option_may_repeat_itself);
    tcase_add_test(tests, output_that_cannot_be_delivered_is_a_failure);
    suite_add_tcase(suite, tests);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed > 0;
}
