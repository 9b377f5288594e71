/* SPDX-License-Identifier: Apache-2.0 */
/* specialize.c - prelude, source, options, key and words of a specification. */
#include "config.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "digest.h"
#include "specialize.h"

/* The first line of every key: what an entry holds and means. */
#define RECIPE_FORMAT "flashexpert_rtc kernel 1"

#define ARCHITECTURE_OPTION "--gpu-architecture="

/* The one list of options, after the architecture. Warnings about constants of
 * the prelude that a kernel does not use are of no use to anyone. */
static const char *const common_options[] = {"--std=c++17",
                                             "--diag-suppress=177"};

static const char *type_of(int64_t value)
{
    return value >= INT32_MIN && value <= INT32_MAX ? "int" : "long long";
}

/* ---- Text forms, each written to a stream ------------------------------- */

static void write_prelude(FILE *out, const fex_kernel_spec *spec)
{
    for (size_t i = 0; i < spec->constant_count; i++) {
        const fex_constant *const c = &spec->constants[i];
        fprintf(out, "constexpr %s %s = %" PRId64 ";\n", type_of(c->value),
                c->name, c->value);
    }
}

static void write_key(FILE *out, const fex_sources *sources,
                      const fex_kernel_spec *spec, const fex_recipe *recipe)
{
    fprintf(out, RECIPE_FORMAT "\nsources: %s\nfile: %s\nfunctions:",
            sources->digest, spec->file);
    for (size_t i = 0; i < spec->function_count; i++)
        fprintf(out, " %s", spec->functions[i]);
    fprintf(out, "\noptions:");
    for (int i = 0; i < recipe->option_count; i++)
        fprintf(out, " %s", recipe->options[i]);
    fprintf(out, "\n%s", recipe->prelude);
}

/* ---- A key text in words ------------------------------------------------- */

/* A stretch of a key text. */
typedef struct stretch {
    const char *begin, *end;
} stretch;

/* Takes the next line off *rest, without its newline; 0 at the end. */
static int take_line(stretch *rest, stretch *line)
{
    if (rest->begin == rest->end)
        return 0;
    const char *const newline =
        memchr(rest->begin, '\n', (size_t)(rest->end - rest->begin));
    line->begin = rest->begin;
    line->end = newline != NULL ? newline : rest->end;
    rest->begin = newline != NULL ? newline + 1 : rest->end;
    return 1;
}

/* Whether text starts with prefix, which is then taken off. */
static int take_prefix(stretch *text, const char *prefix)
{
    const size_t length = strlen(prefix);
    if ((size_t)(text->end - text->begin) < length ||
        memcmp(text->begin, prefix, length) != 0)
        return 0;
    text->begin += length;
    return 1;
}

/* Up to the first of any of the stops. */
static stretch until(stretch text, const char *stops)
{
    stretch head = {text.begin, text.begin};
    while (head.end < text.end && strchr(stops, *head.end) == NULL)
        head.end++;
    return head;
}

static void write_printable(FILE *out, stretch text, int lower)
{
    for (const char *c = text.begin; c < text.end; c++) {
        const char small = *c >= 'A' && *c <= 'Z' ? *c - 'A' + 'a' : *c;
        fputc(*c < ' ' || *c > '~' ? '?' : lower ? small : *c, out);
    }
}

static int is_equal(stretch text, const char *other)
{
    return take_prefix(&text, other) && text.begin == text.end;
}

/* Constants that stand for a type are named as people name it. */
static const struct {
    const char *constant, *value, *name;
} type_names[] = {
    {"DTYPE", "1", "f16"},
    {"DTYPE", "2", "bf16"},
    {"DTYPE", "3", "f32"},
    {"ROUTING_DTYPE", "1", "f16"},
    {"ROUTING_DTYPE", "2", "bf16"},
    {"ROUTING_DTYPE", "3", "f32"},
    {"WEIGHT_GRAD_DTYPE", "1", "f16"},
    {"WEIGHT_GRAD_DTYPE", "2", "bf16"},
    {"WEIGHT_GRAD_DTYPE", "3", "f32"},
    {"INDEX_TYPE", "1", "i32"},
    {"INDEX_TYPE", "2", "i64"},
};

static void write_value(FILE *out, stretch name, stretch value)
{
    for (size_t i = 0; i < sizeof type_names / sizeof *type_names; i++)
        if (is_equal(name, type_names[i].constant) &&
            is_equal(value, type_names[i].value)) {
            fputs(type_names[i].name, out);
            return;
        }
    write_printable(out, value, 0);
}

/* "constexpr int TOP_K = 64;" becomes " top_k=64". */
static void write_constant(FILE *out, stretch line)
{
    if (!take_prefix(&line, "int ") && !take_prefix(&line, "long long "))
        return;
    const stretch name = until(line, " ");
    line.begin = name.end;
    if (!take_prefix(&line, " = "))
        return;
    fputc(' ', out);
    write_printable(out, name, 1);
    fputc('=', out);
    write_value(out, name, until(line, ";"));
}

/* Returns whether a file and an architecture were named. */
static int write_words(FILE *out, stretch text, char architecture[16])
{
    stretch line;
    int named = 0;
    architecture[0] = '\0';
    while (take_line(&text, &line)) {
        if (take_prefix(&line, "file: ")) {
            write_printable(out, until(line, "."), 0);
            named = line.begin < line.end;
        } else if (take_prefix(&line, "options: " ARCHITECTURE_OPTION)) {
            const stretch name = until(line, " ");
            for (int i = 0; i < 15 && i < name.end - name.begin; i++) {
                const char c = name.begin[i];
                architecture[i] = c < ' ' || c > '~' ? '?' : c;
                architecture[i + 1] = '\0';
            }
        } else if (take_prefix(&line, "constexpr ")) {
            write_constant(out, line);
        }
    }
    fprintf(out, " %s", architecture);
    return named && architecture[0] != '\0';
}

/* ---- Putting it together ------------------------------------------------ */

static fex_status out_of_memory(void)
{
    return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory to specialise");
}

/* Closes a memory stream; whether all that was written is there. */
static int close_stream(FILE *stream)
{
    const int failed = ferror(stream);
    return fclose(stream) == 0 && !failed;
}

static fex_status make_prelude(const fex_kernel_spec *spec, fex_recipe *recipe)
{
    size_t size;
    FILE *const out = open_memstream(&recipe->prelude, &size);
    if (out == NULL)
        return out_of_memory();
    write_prelude(out, spec);
    return close_stream(out) ? FEX_OK : out_of_memory();
}

static fex_status make_source(const fex_source *file, fex_recipe *recipe)
{
    /* Errors name lines of the kernel file, not of what is compiled. */
    if (asprintf(&recipe->source, "%s#line 1 \"%s\"\n%s", recipe->prelude,
                 file->name, file->text) < 0) {
        recipe->source = NULL;
        return out_of_memory();
    }
    return FEX_OK;
}

static fex_status make_options(const fex_kernel_spec *spec, fex_recipe *recipe)
{
    snprintf(recipe->architecture, sizeof recipe->architecture,
             ARCHITECTURE_OPTION "%s", spec->architecture->name);
    recipe->options[recipe->option_count++] = recipe->architecture;
    for (size_t i = 0; i < sizeof common_options / sizeof *common_options; i++)
        recipe->options[recipe->option_count++] = common_options[i];
    return FEX_OK;
}

static fex_status make_key(const fex_sources *sources,
                           const fex_kernel_spec *spec, fex_recipe *recipe)
{
    size_t size;
    FILE *const out = open_memstream(&recipe->key_text, &size);
    if (out == NULL)
        return out_of_memory();
    write_key(out, sources, spec, recipe);
    if (!close_stream(out))
        return out_of_memory();
    fex_digest_text(recipe->key_text, size, recipe->key);
    return FEX_OK;
}

fex_status fex_describe_key(const char *key_text, size_t length, char **words,
                            char architecture[16])
{
    size_t size;
    char *made = NULL;
    FILE *const out = open_memstream(&made, &size);
    if (out == NULL)
        return out_of_memory();
    const int named = write_words(
        out, (stretch){key_text, key_text + length}, architecture);
    const int complete = close_stream(out);
    if (complete && named) {
        *words = made;
        return FEX_OK;
    }
    free(made);
    return complete ? fex_fail(FEX_ERROR_CORRUPT, "no key text of a kernel")
                    : out_of_memory();
}

fex_status fex_specialize(const fex_sources *sources,
                          const fex_kernel_spec *spec, fex_recipe *recipe)
{
    char architecture[16];
    fex_status status;
    const fex_source *const file = fex_sources_find(sources, spec->file);
    if (file == NULL)
        return fex_fail(FEX_ERROR_IO, "there is no kernel source %s",
                        spec->file);
    *recipe = (fex_recipe){.file = file->name};
    status = make_prelude(spec, recipe);
    if (status == FEX_OK)
        status = make_source(file, recipe);
    if (status == FEX_OK)
        status = make_options(spec, recipe);
    if (status == FEX_OK)
        status = make_key(sources, spec, recipe);
    if (status == FEX_OK)
        status = fex_describe_key(recipe->key_text, strlen(recipe->key_text),
                                  &recipe->words, architecture);
    if (status != FEX_OK)
        fex_recipe_free(recipe);
    return status;
}

void fex_recipe_free(fex_recipe *recipe)
{
    free(recipe->prelude);
    free(recipe->source);
    free(recipe->key_text);
    free(recipe->words);
    *recipe = (fex_recipe){0};
}
