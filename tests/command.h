/* SPDX-License-Identifier: Apache-2.0 */
/* command.h - running the command flashexpert in a scratch folder. */
#ifndef TEST_COMMAND_H
#define TEST_COMMAND_H

#include <jansson.h>

/* Fixtures: a new folder to work in, with a kernel cache of its own ("cache"),
 * and its removal. */
void command_enter_scratch(void);
void command_leave_scratch(void);

/* What the last command did. Texts are cut after 64 kB. */
typedef struct command_result {
    int code; /* 128 + the signal if one killed it */
    char out[1 << 16];
    char err[1 << 16];
} command_result;

/* Runs flashexpert with words as a shell would split them; they may contain
 * redirections. Waits at most 120 seconds. */
const command_result *command_try(const char *format, ...)
    __attribute__((format(printf, 1, 2)));

/* Runs it and expects this exit code; a failure shows all that was said. */
const command_result *command_expect(int code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Runs it and expects a refusal: the code, and nothing but one line on
 * standard error, which starts with "flashexpert: " and contains `words`. */
void command_refuses(int code, const char *words, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The last command's output as one JSON object; stays until the next call. */
const json_t *command_json(void);

/* A number in it by its path, such as "results", "0", "seconds" ended by NULL:
 * array positions are written as numbers. Fails the test if there is none. */
double command_number(const char *first, ...);

/* Whether NVRTC and a device are there, as `flashexpert info` says. For main:
 * these need no test to be running. */
int command_has_compiler(void);
int command_has_device(void);

/* Ends the test program with 77, which Automake counts as skipped. */
void command_skip(const char *why);

#endif
