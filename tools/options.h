/* SPDX-License-Identifier: Apache-2.0 */
/* options.h - subcommands and their options as data.
 *
 * A subcommand is a row of the table in main.c; its options are a table beside
 * its code. Parsing, the checks, `--help` and the manual's test all read these
 * tables and nothing else. */
#ifndef TOOL_OPTIONS_H
#define TOOL_OPTIONS_H

#include <stddef.h>
#include <stdint.h>

/* Exit codes of the command. */
enum { TOOL_DONE = 0, TOOL_FAILED = 1, TOOL_USAGE = 2 };

/* The type of the settings member that an option fills. */
typedef enum tool_option_kind {
    OPTION_FLAG,   /* int, 1 if given */
    OPTION_TEXT,   /* const char * */
    OPTION_TEXTS,  /* tool_texts; may be repeated */
    OPTION_NUMBER, /* int64_t, with units K M G T */
    OPTION_AGE,    /* int64_t seconds, with one of the units s m h d w */
    OPTION_CHOICE, /* int, the position in `value`, "one|another" */
} tool_option_kind;

typedef struct tool_texts {
    const char **items;
    size_t count;
} tool_texts;

typedef struct tool_option {
    const char *name; /* NULL ends a table */
    char letter;      /* 0: none */
    tool_option_kind kind;
    size_t offset;       /* of the member in the settings */
    const char *value;   /* what --help calls the value, or the choices */
    const char *preset;  /* parsed as if given first; NULL: a number is
                          * -1, all else 0 */
    int64_t least, most; /* of a number; most 0: no limit */
    const char *help;
} tool_option;

/* Settings start with what every subcommand takes. */
typedef struct tool_settings {
    double started;  /* report_seconds() when main began */
    uint64_t given;  /* bit i: row i of the command's table was given */
    int help;
    int json;
    const char *argument; /* the one without dashes, if the command takes one */
} tool_settings;

typedef struct tool_command {
    const char *name;     /* "run", or two words: "cache list" */
    const char *argument; /* what its one argument is called; NULL: none */
    const char *summary;  /* one line */
    const tool_option *options;
    size_t settings_size;
    int (*run)(const struct tool_command *command, const void *settings);
    void (*notes)(void); /* prints further help; or NULL */
} tool_command;

/* Fills settings (settings_size zero bytes) from the words behind the
 * command's name. TOOL_DONE, or TOOL_USAGE after one line on standard error.
 * Lists in settings are to be freed with options_free in either case. */
int options_parse(const tool_command *command, int argc, char **argv,
                  void *settings);
void options_free(const tool_command *command, void *settings);

/* Whether an option of the command's table was given. */
int options_given(const tool_command *command, const tool_settings *settings,
                  const char *name);

/* Prints a subcommand's help. */
void options_help(const tool_command *command);

/* Prints "flashexpert: <command>: <sentence>" on standard error and returns
 * `code`. */
int command_fail(const tool_command *command, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
