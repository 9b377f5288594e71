/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "options.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "number.h"

/* getopt_long's value for row i of the merged table. */
enum { FIRST_OPTION = 256, OPTIONS_MAX = 32 };

static const tool_option common_options[] = {
    {"json", 0, OPTION_FLAG, offsetof(tool_settings, json), NULL, NULL, 0, 0,
     "print one JSON object on standard output"},
    {"help", 'h', OPTION_FLAG, offsetof(tool_settings, help), NULL, NULL, 0, 0,
     "print this help"},
    {.name = NULL},
};

/* A command's own rows and the common ones, in one array. */
typedef struct row_list {
    const tool_option *rows[OPTIONS_MAX];
    const char *given[OPTIONS_MAX]; /* the value each option was given */
    size_t count;
} row_list;

static void add_rows(row_list *list, const tool_option *rows)
{
    for (; rows->name != NULL && list->count < OPTIONS_MAX; rows++) {
        list->given[list->count] = NULL;
        list->rows[list->count++] = rows;
    }
}

static row_list rows_of(const tool_command *command)
{
    row_list list = {.count = 0};
    add_rows(&list, command->options);
    add_rows(&list, common_options);
    return list;
}

int command_fail(const tool_command *command, int code, const char *format, ...)
{
    va_list arguments;

    fprintf(stderr, "flashexpert: %s: ", command->name);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    return code;
}

/* The position of `text` among "one|another|third", or -1. */
static int choice_position(const char *choices, const char *text)
{
    const size_t length = strlen(text);
    for (int position = 0;; position++) {
        const size_t width = strcspn(choices, "|");
        if (width == length && memcmp(choices, text, length) == 0)
            return position;
        if (choices[width] == '\0')
            return -1;
        choices += width + 1;
    }
}

static int list_append(tool_texts *list, const char *text)
{
    const char **items =
        realloc(list->items, (list->count + 1) * sizeof *items);
    if (items == NULL)
        return -1;
    list->items = items;
    list->items[list->count++] = text;
    return 0;
}

static int store_number(const tool_command *command, const tool_option *row,
                        const char *text, int64_t *member)
{
    const int age = row->kind == OPTION_AGE;
    const tool_unit *units = age ? number_age_units : number_binary_units;
    const int64_t most = row->most > 0 ? row->most : INT64_MAX;
    int64_t value;

    if (number_is_negative(text, strlen(text)))
        return command_fail(command, TOOL_USAGE,
                            "--%s must not be negative, found '%s'", row->name,
                            text);
    if (number_parse(text, strlen(text), units, &value) != 0)
        return command_fail(command, TOOL_USAGE,
                            "--%s: expected %s, found '%s'", row->name,
                            age ? "an age with its unit, s, m, h, d or w, "
                                  "such as 90s, 12h or 30d"
                                : "a number such as 20, 16K or 2G",
                            text);
    if (value < row->least || value > most)
        return command_fail(command, TOOL_USAGE,
                            "--%s: %s is not in %lld .. %lld", row->name, text,
                            (long long)row->least, (long long)most);
    *member = value;
    return TOOL_DONE;
}

/* Puts one value where its row says. */
static int store_value(const tool_command *command, const tool_option *row,
                       const char *text, void *settings)
{
    void *const member = (char *)settings + row->offset;

    switch (row->kind) {
    case OPTION_FLAG:
        *(int *)member = 1;
        return TOOL_DONE;
    case OPTION_TEXT:
        *(const char **)member = text;
        return TOOL_DONE;
    case OPTION_TEXTS:
        if (list_append(member, text) != 0)
            return command_fail(command, TOOL_FAILED, "out of memory");
        return TOOL_DONE;
    case OPTION_NUMBER:
    case OPTION_AGE:
        return store_number(command, row, text, member);
    case OPTION_CHOICE: {
        const int position = choice_position(row->value, text);
        if (position < 0)
            return command_fail(command, TOOL_USAGE,
                                "--%s: expected one of %s, found '%s'",
                                row->name, row->value, text);
        *(int *)member = position;
        return TOOL_DONE;
    }
    }
    return TOOL_USAGE;
}

static int store_preset(const tool_command *command, const tool_option *row,
                        void *settings)
{
    if (row->preset != NULL)
        return store_value(command, row, row->preset, settings);
    if (row->kind == OPTION_NUMBER || row->kind == OPTION_AGE)
        *(int64_t *)((char *)settings + row->offset) = -1;
    return TOOL_DONE;
}

/* An option that was given before must say the same again. */
static int check_repeated(const tool_command *command, row_list *list, size_t i,
                          const char *text)
{
    const tool_option *row = list->rows[i];
    if (list->given[i] != NULL && row->kind != OPTION_TEXTS &&
        strcmp(list->given[i], text) != 0)
        return command_fail(command, TOOL_USAGE,
                            "--%s was given twice, as '%s' and as '%s'",
                            row->name, list->given[i], text);
    list->given[i] = text;
    return TOOL_DONE;
}

/* The tables as getopt_long wants them. */
static void getopt_tables(const row_list *list, struct option *longs,
                          char *letters)
{
    *letters++ = ':';
    for (size_t i = 0; i < list->count; i++) {
        const tool_option *row = list->rows[i];
        const int takes = row->kind != OPTION_FLAG;
        longs[i] =
            (struct option){row->name, takes ? required_argument : no_argument,
                            NULL, FIRST_OPTION + (int)i};
        if (row->letter != 0) {
            *letters++ = row->letter;
            if (takes)
                *letters++ = ':';
        }
    }
    longs[list->count] = (struct option){NULL, 0, NULL, 0};
    *letters = '\0';
}

/* Which row getopt_long's result stands for; list->count if none. */
static size_t row_of(const row_list *list, int result)
{
    if (result >= FIRST_OPTION)
        return (size_t)(result - FIRST_OPTION);
    for (size_t i = 0; i < list->count; i++)
        if (list->rows[i]->letter != 0 && list->rows[i]->letter == result)
            return i;
    return list->count;
}

/* Says what getopt_long disliked: ':' a missing value, '?' anything else. */
static int complain(const tool_command *command, int result, char *word)
{
    const int is_long = strncmp(word, "--", 2) == 0;
    const int width = is_long ? (int)strcspn(word, "=") : (int)strlen(word);

    if (result == ':')
        return command_fail(command, TOOL_USAGE, "%.*s needs a value", width,
                            word);
    if (!is_long)
        return command_fail(command, TOOL_USAGE,
                            "unknown option '-%c'; --help lists what there is",
                            optopt);
    if (optopt != 0)
        return command_fail(command, TOOL_USAGE, "%.*s takes no value", width,
                            word);
    return command_fail(command, TOOL_USAGE,
                        "unknown or ambiguous option '%.*s'; --help lists "
                        "what there is",
                        width, word);
}

/* The words that are no options: one, if the command takes one. */
static int take_argument(const tool_command *command, int count, char **words,
                         tool_settings *common)
{
    if (command->argument != NULL && count >= 1) {
        common->argument = words[0];
        count--;
        words++;
    }
    if (count > 0)
        return command_fail(command, TOOL_USAGE, "unexpected argument '%s'",
                            words[0]);
    if (command->argument != NULL && common->argument == NULL && !common->help)
        return command_fail(command, TOOL_USAGE, "%s is missing",
                            command->argument);
    return TOOL_DONE;
}

int options_parse(const tool_command *command, int argc, char **argv,
                  void *settings)
{
    row_list list = rows_of(command);
    tool_settings *common = settings;
    struct option longs[OPTIONS_MAX + 1];
    char letters[2 * OPTIONS_MAX + 2];
    int code = TOOL_DONE;
    int result;

    for (size_t i = 0; i < list.count && code == TOOL_DONE; i++)
        code = store_preset(command, list.rows[i], settings);
    getopt_tables(&list, longs, letters);
    opterr = 0;
    optind = 0; /* start afresh: main has read the words before */
    while (code == TOOL_DONE &&
           (result = getopt_long(argc, argv, letters, longs, NULL)) != -1) {
        const size_t i = row_of(&list, result);
        const char *text = optarg != NULL ? optarg : "";
        if (i == list.count)
            return complain(command, result, argv[optind - 1]);
        code = check_repeated(command, &list, i, text);
        if (code == TOOL_DONE)
            code = store_value(command, list.rows[i], text, settings);
        common->given |= UINT64_C(1) << i;
    }
    if (code != TOOL_DONE)
        return code;
    return take_argument(command, argc - optind, argv + optind, common);
}

int options_given(const tool_command *command, const tool_settings *settings,
                  const char *name)
{
    size_t i = 0;
    while (strcmp(command->options[i].name, name) != 0)
        i++;
    return (int)(settings->given >> i & 1);
}

void options_free(const tool_command *command, void *settings)
{
    for (const tool_option *row = command->options; row->name != NULL; row++)
        if (row->kind == OPTION_TEXTS)
            free(((tool_texts *)((char *)settings + row->offset))->items);
}

/* Prints words from column HELP_COLUMN on, broken where lines would be longer
 * than LINE_WIDTH. */
static void print_wrapped(const char *text)
{
    enum { HELP_COLUMN = 32, LINE_WIDTH = 79 };
    int column = HELP_COLUMN;

    while (*text != '\0') {
        const int width = (int)strcspn(text, " ");
        if (column + width > LINE_WIDTH && column > HELP_COLUMN) {
            printf("\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
        }
        printf("%.*s", width, text);
        column += width + 1;
        text += width;
        if (*text == ' ') {
            text++;
            if (column + (int)strcspn(text, " ") <= LINE_WIDTH)
                putchar(' ');
        }
    }
    putchar('\n');
}

static void help_of_row(const tool_option *row)
{
    char left[80];
    char right[256];
    const char letter[] = {'-', row->letter, ',', ' ', '\0'};

    snprintf(left, sizeof left, "  %s--%s%s%s",
             row->letter != 0 ? letter : "    ", row->name,
             row->value != NULL ? " " : "",
             row->value != NULL ? row->value : "");
    snprintf(right, sizeof right, "%s%s%s%s", row->help,
             row->preset != NULL ? " (default " : "",
             row->preset != NULL ? row->preset : "",
             row->preset != NULL ? ")" : "");
    if (strlen(left) < 31)
        printf("%-32s", left);
    else
        printf("%s\n%32s", left, "");
    print_wrapped(right);
}

void options_help(const tool_command *command)
{
    const row_list list = rows_of(command);

    printf("Usage: flashexpert %s [options]%s%s\n\n%s.\n\nOptions:\n",
           command->name, command->argument != NULL ? " " : "",
           command->argument != NULL ? command->argument : "",
           command->summary);
    for (size_t i = 0; i < list.count; i++)
        help_of_row(list.rows[i]);
    if (command->notes != NULL) {
        putchar('\n');
        command->notes();
    }
}
