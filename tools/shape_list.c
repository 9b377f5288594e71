/* SPDX-License-Identifier: Apache-2.0 */
/* shape_list.c - texts become shapes. */
#include "config.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "number.h"
#include "problem.h"
#include "shape_keys.h"

enum { LIST_MAX = 256, SHAPES_MAX = 1 << 20, MESSAGE_MAX = 512 };

/* ---- Reading one text --------------------------------------------------- */

typedef struct shape_parser {
    const char *origin;
    size_t line; /* 0: the text is not a line of a file */
    const char *text;
    const tool_shape *data;
    int64_t lists[KEY_COUNT][LIST_MAX];
    size_t counts[KEY_COUNT]; /* 0: not given */
} shape_parser;

/* Fails at a place of the text: origin, line, column, and the sentence. */
__attribute__((format(printf, 3, 4))) static fex_status
fail_at(const shape_parser *parser, const char *at, const char *format, ...)
{
    char place[64];
    char sentence[MESSAGE_MAX];
    va_list arguments;

    if (parser->line > 0)
        snprintf(place, sizeof place, ", line %zu, column %zu", parser->line,
                 (size_t)(at - parser->text) + 1);
    else
        snprintf(place, sizeof place, ", column %zu",
                 (size_t)(at - parser->text) + 1);
    va_start(arguments, format);
    vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);
    return fex_fail(FEX_ERROR_INVALID_ARGUMENT, "%s%s: %s", parser->origin,
                    place, sentence);
}

/* Appends "one, two or three" of the words or the keys to a sentence. */
static void append_names(char *sentence, const char *const *names, size_t count)
{
    size_t length = strlen(sentence);
    for (size_t i = 0; i < count && length < MESSAGE_MAX; i++)
        length += (size_t)snprintf(sentence + length, MESSAGE_MAX - length,
                                   "%s%s", names[i],
                                   i + 1 == count   ? ""
                                   : i + 2 == count ? " or "
                                                    : ", ");
}

static fex_status fail_key(const shape_parser *parser, const char *at,
                           size_t width)
{
    char expected[MESSAGE_MAX] = "";
    const char *names[KEY_COUNT];

    for (size_t i = 0; i < KEY_COUNT; i++)
        names[i] = shape_keys[i].name;
    append_names(expected, names, KEY_COUNT);
    return fail_at(parser, at,
                   "expected KEY=VALUE with one of the keys %s, "
                   "found '%.*s'",
                   expected, (int)width, at);
}

static fex_status fail_value(const shape_parser *parser, const shape_key *key,
                             const char *at, size_t width)
{
    char expected[MESSAGE_MAX] = "";
    const char *names[8];
    size_t count = 0;

    if (key->words == NULL && number_is_negative(at, width))
        return fail_at(parser, at, "%s must not be negative, found '%.*s'",
                       key->name, (int)width, at);
    if (key->words == NULL) {
        snprintf(expected, sizeof expected, "a number from %lld to %lld",
                 (long long)key->least, (long long)key->most);
    } else {
        while (count < 8 && key->words[count].name != NULL) {
            names[count] = key->words[count].name;
            count++;
        }
        append_names(expected, names, count);
    }
    return fail_at(parser, at, "%s: expected %s, found '%.*s'", key->name,
                   expected, (int)width, at);
}

static fex_status parse_value(const shape_parser *parser, const shape_key *key,
                              const char *at, size_t width, int64_t *value)
{
    if (key->words != NULL) {
        for (const shape_word *word = key->words; word->name != NULL; word++)
            if (strlen(word->name) == width &&
                memcmp(word->name, at, width) == 0) {
                *value = word->value;
                return FEX_OK;
            }
    } else if (number_parse(at, width, number_binary_units, value) == 0 &&
               *value >= key->least && *value <= key->most) {
        return FEX_OK;
    }
    return fail_value(parser, key, at, width);
}

/* One "key=value,value" of `width` characters. */
static fex_status parse_field(shape_parser *parser, const char *at,
                              size_t width)
{
    const char *const end = at + width;
    const size_t name_width = strcspn(at, "=");
    size_t k = 0;

    while (k < KEY_COUNT && (strlen(shape_keys[k].name) != name_width ||
                             memcmp(shape_keys[k].name, at, name_width) != 0))
        k++;
    if (name_width >= width || k == KEY_COUNT)
        return fail_key(parser, at, width);
    if (parser->counts[k] > 0)
        return fail_at(parser, at, "%s was given before", shape_keys[k].name);

    at += name_width + 1;
    for (;;) {
        size_t value_width = strcspn(at, ", \t\r\n");
        if (at + value_width > end)
            value_width = (size_t)(end - at);
        if (parser->counts[k] == LIST_MAX)
            return fail_at(parser, at, "%s has more than %d values",
                           shape_keys[k].name, LIST_MAX);
        return_if_error(parse_value(parser, &shape_keys[k], at, value_width,
                                    &parser->lists[k][parser->counts[k]++]));
        if (at + value_width == end)
            return FEX_OK;
        at += value_width + 1;
    }
}

/* Gives keys that were left out the value of the data, or their default. */
static fex_status fill_keys(shape_parser *parser, const char *end)
{
    int64_t data[KEY_COUNT];

    if (parser->data != NULL)
        shape_to_values(parser->data, data);
    for (size_t k = 0; k < KEY_COUNT; k++) {
        const shape_key *key = &shape_keys[k];
        if (parser->counts[k] > 0)
            continue;
        if (parser->data != NULL)
            parser->lists[k][0] = data[k];
        else if (key->preset == NULL)
            return fail_at(parser, end, "%s=... is missing", key->name);
        else
            return_if_error(parse_value(parser, key, key->preset,
                                        strlen(key->preset),
                                        &parser->lists[k][0]));
        parser->counts[k] = 1;
    }
    return FEX_OK;
}

static fex_status check_data(const shape_parser *parser,
                             const tool_shape *shape)
{
    int64_t wanted[KEY_COUNT];
    int64_t data[KEY_COUNT];

    shape_to_values(shape, wanted);
    shape_to_values(parser->data, data);
    for (size_t k = 0; k < KEY_COUNT; k++)
        if (shape_keys[k].fixed_by_data && wanted[k] != data[k])
            return fail_at(parser, parser->text,
                           "%s does not agree with the data",
                           shape_keys[k].name);
    return FEX_OK;
}

/* What no single key can see: checked by the rules of the library. */
static fex_status check_shape(const shape_parser *parser,
                              const tool_shape *shape)
{
    char sentence[MESSAGE_MAX];
    fex_problem problem;
    fex_status status = fex_problem_init(&problem, &shape->desc);

    if (status == FEX_OK)
        status = fex_problem_check_tokens(&problem, shape->tokens);
    if (status == FEX_OK)
        return parser->data != NULL ? check_data(parser, shape) : FEX_OK;
    snprintf(sentence, sizeof sentence, "%s", fex_last_error());
    return fail_at(parser, parser->text, "%s", sentence);
}

/* Adds every combination of the lists. */
static fex_status expand(const shape_parser *parser, tool_shapes *list)
{
    size_t choice[KEY_COUNT] = {0};
    size_t total = list->count;
    size_t combinations = 1;
    tool_shape *items;

    for (size_t k = 0; k < KEY_COUNT; k++)
        if (__builtin_mul_overflow(combinations, parser->counts[k],
                                   &combinations) ||
            combinations > SHAPES_MAX)
            break;
    total += combinations;
    if (total > SHAPES_MAX)
        return fail_at(parser, parser->text, "more than %d shapes", SHAPES_MAX);
    items = realloc(list->items, total * sizeof *items);
    if (items == NULL)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "%zu shapes do not fit",
                        total);
    list->items = items;

    while (list->count < total) {
        int64_t values[KEY_COUNT];
        size_t k = KEY_COUNT;
        for (size_t i = 0; i < KEY_COUNT; i++)
            values[i] = parser->lists[i][choice[i]];
        items[list->count] = shape_of_values(values);
        return_if_error(check_shape(parser, &items[list->count]));
        list->count++;
        while (k > 0 && ++choice[k - 1] == parser->counts[k - 1])
            choice[--k] = 0;
    }
    return FEX_OK;
}

static fex_status parse_text(shape_parser *parser, const char *text,
                             tool_shapes *list)
{
    const char *at = text;

    parser->text = text;
    memset(parser->counts, 0, sizeof(parser->counts));
    for (at += strspn(at, " \t\r\n"); *at != '\0';
         at += strspn(at, " \t\r\n")) {
        const size_t width = strcspn(at, " \t\r\n");
        return_if_error(parse_field(parser, at, width));
        at += width;
    }
    return_if_error(fill_keys(parser, at));
    return expand(parser, list);
}

/* ---- The interface ------------------------------------------------------ */

fex_status shape_list_add(tool_shapes *list, const char *origin,
                          const char *text, const tool_shape *data)
{
    shape_parser parser = {.origin = origin, .data = data};
    return parse_text(&parser, text, list);
}

/* Some editors put it before the first line of UTF-8. */
static const char byte_order_mark[] = "\xef\xbb\xbf";
enum { BOM_BYTES = sizeof byte_order_mark - 1 };

static fex_status add_line(shape_parser *parser, char *line, size_t length,
                           tool_shapes *list)
{
    parser->line++;
    if (parser->line == 1 && strncmp(line, byte_order_mark, BOM_BYTES) == 0) {
        line += BOM_BYTES;
        length -= BOM_BYTES;
    }
    parser->text = line;
    if (strlen(line) != length)
        return fail_at(parser, line + strlen(line), "not a text file");
    line[strcspn(line, "#")] = '\0';
    if (line[strspn(line, " \t\r\n")] == '\0')
        return FEX_OK;
    return parse_text(parser, line, list);
}

static fex_status add_stream(tool_shapes *list, const char *path, FILE *file)
{
    shape_parser parser = {.origin = path};
    const size_t before = list->count;
    fex_status status = FEX_OK;
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;

    errno = 0;
    while (status == FEX_OK && (length = getline(&line, &capacity, file)) != -1)
        status = add_line(&parser, line, (size_t)length, list);
    if (status == FEX_OK && (ferror(file) || errno == ENOMEM))
        status = fex_fail(FEX_ERROR_IO, "cannot read '%s': %s", path,
                          strerror(errno));
    if (status == FEX_OK && list->count == before)
        status = fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                          "%s: there is no shape in it", path);
    free(line);
    return status;
}

fex_status shape_list_add_file(tool_shapes *list, const char *path)
{
    if (strcmp(path, "-") == 0)
        return add_stream(list, "standard input", stdin);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return fex_fail(FEX_ERROR_IO, "cannot read '%s': %s", path,
                        strerror(errno));
    const fex_status status = add_stream(list, path, file);
    fclose(file);
    return status;
}

fex_status shape_list_add_all(tool_shapes *list, const tool_texts *texts,
                              const tool_texts *files)
{
    for (size_t i = 0; i < texts->count; i++)
        return_if_error(shape_list_add(list, "--shape", texts->items[i], NULL));
    for (size_t i = 0; i < files->count; i++)
        return_if_error(shape_list_add_file(list, files->items[i]));
    if (list->count == 0)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "--shape or --shapes is missing");
    return FEX_OK;
}

void shape_list_free(tool_shapes *list)
{
    free(list->items);
    *list = (tool_shapes){0};
}
