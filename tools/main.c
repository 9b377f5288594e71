/* SPDX-License-Identifier: Apache-2.0 */
/* main.c - the command flashexpert: finds the subcommand and runs it. */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "flashexpert_rtc.h"
#include "report.h"

static const tool_command *const commands[] = {
    &command_info,         &command_run,         &command_bench,
    &command_prewarm,      &command_cache_list,  &command_cache_verify,
    &command_cache_prune,  &command_cache_clear, &command_cache_export,
    &command_cache_import,
};

enum { COMMAND_COUNT = sizeof commands / sizeof commands[0] };

/* How many of the words are the command's name; 0 if they are not. */
static int match(const tool_command *command, int count, char **words)
{
    const char *space = strchr(command->name, ' ');
    if (space == NULL)
        return count >= 1 && strcmp(words[0], command->name) == 0;
    const size_t first = (size_t)(space - command->name);
    return count >= 2 && strlen(words[0]) == first &&
                   memcmp(words[0], command->name, first) == 0 &&
                   strcmp(words[1], space + 1) == 0
               ? 2
               : 0;
}

/* Lists the commands of a group ("cache"), or all with group NULL. Returns
 * how many there are. */
static int list_commands(FILE *stream, const char *group)
{
    const size_t width = group != NULL ? strlen(group) : 0;
    int listed = 0;

    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        const char *name = commands[i]->name;
        if (group != NULL &&
            (strncmp(name, group, width) != 0 || name[width] != ' '))
            continue;
        if (stream != NULL)
            fprintf(stream, "  %-16s%s\n", name, commands[i]->summary);
        listed++;
    }
    return listed;
}

static void print_help(FILE *stream)
{
    fputs("Usage: flashexpert COMMAND [options]\n\n"
          "Single-neuron experts on NVIDIA GPUs, compiled at run time.\n\n"
          "Commands:\n",
          stream);
    list_commands(stream, NULL);
    fputs("\nflashexpert COMMAND --help tells the options of one;\n"
          "flashexpert --version tells the version.\n"
          "Exit code: 0 done, 1 failed, 2 wrong usage.\n",
          stream);
}

static int run_command(const tool_command *command, int count, char **words,
                       double started)
{
    tool_settings *settings = calloc(1, command->settings_size);
    if (settings == NULL)
        return command_fail(command, TOOL_FAILED, "out of memory");
    settings->started = started;
    int code = options_parse(command, count, words, settings);
    if (code == TOOL_DONE && settings->help)
        options_help(command);
    else if (code == TOOL_DONE)
        code = command->run(command, settings);
    options_free(command, settings);
    free(settings);
    return code;
}

static int unknown_command(int count, char **words)
{
    if (list_commands(NULL, words[0]) == 0) {
        fprintf(stderr,
                "flashexpert: unknown command '%s'; --help lists them\n",
                words[0]);
        return TOOL_USAGE;
    }
    if (count == 2 &&
        (strcmp(words[1], "--help") == 0 || strcmp(words[1], "-h") == 0)) {
        printf("Usage: flashexpert %s COMMAND [options]\n\nCommands:\n",
               words[0]);
        list_commands(stdout, words[0]);
        return TOOL_DONE;
    }
    fprintf(stderr, "flashexpert: %s: %s%s%s; --help lists them\n", words[0],
            count > 1 ? "unknown command '" : "a command is missing",
            count > 1 ? words[1] : "", count > 1 ? "'" : "");
    return TOOL_USAGE;
}

static int dispatch(int count, char **words, double started)
{
    if (count == 0) {
        print_help(stderr);
        return TOOL_USAGE;
    }
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        const int matched = match(commands[i], count, words);
        if (matched > 0)
            return run_command(commands[i], count - matched + 1,
                               words + matched - 1, started);
    }
    if (strcmp(words[0], "--help") == 0 || strcmp(words[0], "-h") == 0) {
        print_help(stdout);
        return TOOL_DONE;
    }
    if (strcmp(words[0], "--version") == 0) {
        printf("flashexpert %s\n", fex_version());
        return TOOL_DONE;
    }
    return unknown_command(count, words);
}

int main(int argc, char **argv)
{
    const double started = report_seconds();
    /* A file too large for a limit is a failed write, not the end. */
    signal(SIGXFSZ, SIG_IGN);
    const int code = dispatch(argc - 1, argv + 1, started);

    /* A report that could not be delivered is a failure. */
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "flashexpert: cannot write standard output: %s\n",
                strerror(errno));
        return code == TOOL_DONE ? TOOL_FAILED : code;
    }
    return code;
}
