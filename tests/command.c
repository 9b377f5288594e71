/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "command.h"

#include <check.h>
#include <ctype.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char scratch[32];
static command_result result;
static json_t *document;

/* The command, by an absolute path: in the folder that make check names, or
 * the current one when this is first called, before tests leave it. */
static const char *command_path(void)
{
    static char path[4200];
    const char *named = getenv("top_builddir");
    char folder[PATH_MAX];

    if (path[0] != '\0')
        return path;
    if (named == NULL)
        named = ".";
    snprintf(path, sizeof path, "%s/flashexpert",
             realpath(named, folder) != NULL ? folder : named);
    return path;
}

void command_enter_scratch(void)
{
    char cache[4200];
    char here[4096];

    command_path();
    strcpy(scratch, "command-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(scratch));
    ck_assert_int_eq(chdir(scratch), 0);
    ck_assert_ptr_nonnull(getcwd(here, sizeof here));
    snprintf(cache, sizeof cache, "%s/cache", here);
    setenv("FLASHEXPERT_CACHE_DIR", cache, 1);
    setenv("FLASHEXPERT_CACHE_PATH", ":", 1);
}

void command_leave_scratch(void)
{
    char words[64];

    json_decref(document);
    document = NULL;
    ck_assert_int_eq(chdir(".."), 0);
    snprintf(words, sizeof words, "rm -rf %s", scratch);
    ck_assert_int_eq(system(words), 0);
}

/* ---- Running ------------------------------------------------------------ */

static void read_text(const char *path, char *text, size_t size)
{
    FILE *file = fopen(path, "r");
    ck_assert_ptr_nonnull(file);
    text[fread(text, 1, size - 1, file)] = '\0';
    fclose(file);
    unlink(path);
}

static void run(const char *format, va_list arguments)
{
    char words[8192];
    char line[16384];

    vsnprintf(words, sizeof words, format, arguments);
    snprintf(line, sizeof line, "{ timeout 120 %s %s ; } >.out 2>.err",
             command_path(), words);
    const int status = system(line);
    result.code =
        WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    read_text(".out", result.out, sizeof result.out);
    read_text(".err", result.err, sizeof result.err);
}

const command_result *command_try(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    run(format, arguments);
    va_end(arguments);
    return &result;
}

const command_result *command_expect(int code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    run(format, arguments);
    va_end(arguments);
    ck_assert_msg(result.code == code, "'%s' gave %d, not %d:\n%s%s", format,
                  result.code, code, result.out, result.err);
    return &result;
}

void command_refuses(int code, const char *words, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    run(format, arguments);
    va_end(arguments);
    const char *newline = strchr(result.err, '\n');
    ck_assert_msg(result.code == code, "'%s' gave %d, not %d:\n%s%s", format,
                  result.code, code, result.out, result.err);
    ck_assert_str_eq(result.out, "");
    ck_assert_msg(strncmp(result.err, "flashexpert: ", 13) == 0 &&
                      newline != NULL && newline[1] == '\0',
                  "'%s' said:\n%s", format, result.err);
    ck_assert_msg(strstr(result.err, words) != NULL,
                  "'%s' said:\n%swithout: %s", format, result.err, words);
}

/* ---- JSON --------------------------------------------------------------- */

const json_t *command_json(void)
{
    json_error_t error;

    json_decref(document);
    document = json_loads(result.out, JSON_REJECT_DUPLICATES, &error);
    ck_assert_msg(json_is_object(document), "%s at line %d of:\n%s", error.text,
                  error.line, result.out);
    return document;
}

double command_number(const char *first, ...)
{
    const json_t *at = command_json();
    va_list names;

    va_start(names, first);
    for (const char *name = first; name != NULL;
         name = va_arg(names, const char *)) {
        at = json_is_array(at) && isdigit((unsigned char)name[0])
                 ? json_array_get(at, (size_t)atoi(name))
                 : json_object_get(at, name);
        ck_assert_msg(at != NULL, "no '%s' in:\n%s", name, result.out);
    }
    va_end(names);
    ck_assert_msg(json_is_number(at), "no number:\n%s", result.out);
    return json_number_value(at);
}

/* ---- What there is ------------------------------------------------------ */

/* These are for main, where Check's assertions do not work. NULL where the
 * command itself fails: then the tests have to run, to say so. */
static json_t *probe(void)
{
    char line[4200];
    json_t *info = NULL;

    snprintf(line, sizeof line, "%s info --json", command_path());
    FILE *output = popen(line, "r");
    if (output != NULL) {
        info = json_loadf(output, 0, NULL);
        pclose(output);
    }
    return info;
}

int command_has_compiler(void)
{
    json_t *info = probe();
    const json_t *compiler = json_object_get(info, "compiler");
    const int has =
        info == NULL ||
        json_integer_value(json_object_get(compiler, "version")) > 0;
    json_decref(info);
    return has;
}

int command_has_device(void)
{
    json_t *info = probe();
    const int has =
        info == NULL || json_array_size(json_object_get(info, "devices")) > 0;
    json_decref(info);
    return has;
}

void command_skip(const char *why)
{
    printf("SKIP: %s\n", why);
    exit(77);
}
