/* SPDX-License-Identifier: Apache-2.0 */
/* specialize.c - prelude, source, options, key and words of a specification. */
#include "config.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "specialize.h"

/* The first line of every key: what an entry holds and means. */
#define RECIPE_FORMAT "flashexpert_rtc kernel 1"

/* The one list of options, after the architecture. Warnings about constants of
 * the prelude that a kernel does not use are of no use to anyone. */
static const char *const common_options[] = {"--std=c++17",
                                             "--diag-suppress=177"};

static const char *type_of(int64_t value)
{
    return value >= INT32_MIN && value <= INT32_MAX ? "int" : "long long";
}

/* "sddmm_gather.cu" -> "sddmm_gather" */
static int stem_length(const char *file)
{
    const char *const dot = strrchr(file, '.');
    return dot != NULL ? (int)(dot - file) : (int)strlen(file);
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

static void write_words(FILE *out, const fex_kernel_spec *spec)
{
    fprintf(out, "%.*s", stem_length(spec->file), spec->file);
    for (size_t i = 0; i < spec->constant_count; i++) {
        fputc(' ', out);
        for (const char *c = spec->constants[i].name; *c != '\0'; c++)
            fputc(*c >= 'A' && *c <= 'Z' ? *c - 'A' + 'a' : *c, out);
        fprintf(out, "=%" PRId64, spec->constants[i].value);
    }
    fprintf(out, " %s", spec->architecture->name);
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
             "--gpu-architecture=%s", spec->architecture->name);
    recipe->options[recipe->option_count++] = recipe->architecture;
    for (size_t i = 0; i < sizeof common_options / sizeof *common_options; i++)
        recipe->options[recipe->option_count++] = common_options[i];
    return FEX_OK;
}

static fex_status make_key(const fex_sources *sources,
                           const fex_kernel_spec *spec, fex_recipe *recipe)
{
    size_t size;
    XXH128_canonical_t canonical;
    FILE *const out = open_memstream(&recipe->key_text, &size);
    if (out == NULL)
        return out_of_memory();
    write_key(out, sources, spec, recipe);
    if (!close_stream(out))
        return out_of_memory();
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(recipe->key_text, size));
    for (size_t i = 0; i < sizeof canonical.digest; i++)
        snprintf(recipe->key + 2 * i, 3, "%02x", canonical.digest[i]);
    return FEX_OK;
}

static fex_status make_words(const fex_kernel_spec *spec, fex_recipe *recipe)
{
    size_t size;
    FILE *const out = open_memstream(&recipe->words, &size);
    if (out == NULL)
        return out_of_memory();
    write_words(out, spec);
    return close_stream(out) ? FEX_OK : out_of_memory();
}

fex_status fex_specialize(const fex_sources *sources,
                          const fex_kernel_spec *spec, fex_recipe *recipe)
{
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
        status = make_words(spec, recipe);
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
