/* SPDX-License-Identifier: Apache-2.0 */
/* specialize.h - a kernel file and its constants become source text, compiler
 * options and the key text under which the result is cached. */
#ifndef FEX_SPECIALIZE_H
#define FEX_SPECIALIZE_H

#include <stdint.h>

#include "architecture.h"
#include "sources.h"
#include "status.h"

#define FEX_CONSTANTS_MAX 24
#define FEX_FUNCTIONS_MAX 8
#define FEX_OPTIONS_MAX 8

/* `constexpr long long NAME = value;` in the prelude, or int where it fits */
typedef struct fex_constant {
    const char *name; /* static storage */
    int64_t value;
} fex_constant;

/* One translation unit to compile. Filled by variants.c; plain data that may
 * be copied and compared by its key. */
typedef struct fex_kernel_spec {
    const char *file;                         /* "sddmm_gather.cu" */
    const char *functions[FEX_FUNCTIONS_MAX]; /* its extern "C" kernels */
    size_t function_count;
    const fex_architecture *architecture;
    fex_constant constants[FEX_CONSTANTS_MAX];
    size_t constant_count;
    int shared_bytes; /* dynamic shared memory that launches will ask for */
} fex_kernel_spec;

/* The text forms of a specification; free with fex_recipe_free. */
typedef struct fex_recipe {
    const char *file;   /* name of the kernel file; the sources' */
    char *prelude;      /* the constants as C++ */
    char *source;       /* prelude, #line, kernel file: what NVRTC gets */
    char architecture[48]; /* the option that names it */
    const char *options[FEX_OPTIONS_MAX]; /* one is `architecture`: a recipe
                                           * stays where it was made */
    int option_count;
    char *key_text;     /* entry format, source digest, file, prelude,
                         * architecture, options: one "name: value" a line */
    char key[33];       /* XXH3-128 of key_text, canonical form, hexadecimal */
    char *words;        /* for people: "sddmm_gather dtype=bf16 ... sm_90a" */
} fex_recipe;

fex_status fex_specialize(const fex_sources *sources,
                          const fex_kernel_spec *spec, fex_recipe *recipe);
void fex_recipe_free(fex_recipe *recipe);

/* The words and the architecture of a key text, of which nothing is trusted:
 * "?" stands for what is not printable. The caller frees *words.
 * FEX_ERROR_CORRUPT if it is no key text. */
fex_status fex_describe_key(const char *key_text, size_t length, char **words,
                            char architecture[16]);

#endif
