/* SPDX-License-Identifier: Apache-2.0 */
/* compiler.h - NVIDIA's run-time compiler, opened when it is first needed.
 *
 * The library weighs 110 MB and a warm process never needs it, so nothing here
 * opens it before something is to be compiled, or asked about. */
#ifndef FEX_COMPILER_H
#define FEX_COMPILER_H

#include "cubin.h"
#include "log.h"
#include "specialize.h"
#include "status.h"

/* Entries of the cache made by an older one count as missing: raise this when a
 * compiler is found to make wrong code. */
#define FEX_COMPILER_VERSION_MIN 12000

typedef struct fex_compiler fex_compiler;

/* Where to look, NULL for nowhere; the strings are copied. In this order:
 * `library` and no other; the toolkit cuda_home; the names known to the dynamic
 * linker; /usr/local/cuda; Python packages beside our own file, in
 * virtual_env, in /usr/local and in /usr. */
typedef struct fex_compiler_options {
    const char *library;
    const char *cuda_home;
    const char *virtual_env;
} fex_compiler_options;

/* Opens nothing. */
fex_status fex_compiler_create(const fex_compiler_options *options,
                               const fex_log *log, fex_compiler **compiler);
void fex_compiler_destroy(fex_compiler *compiler);

/* The file and version (13000 for 13.0); opens the library. "" and 0 with
 * FEX_ERROR_NO_COMPILER if it cannot be. */
fex_status fex_compiler_info(fex_compiler *compiler, char *path, size_t size,
                             int *version);

/* The newest NVRTC among the packages of a Python environment, or of a
 * site-packages folder; 0 if there is none. */
int fex_compiler_find_wheel(const char *prefix, char *path, size_t size);

/* Compiles a recipe; every file of sources can be included. Any number of
 * threads. The caller frees the cubin. On FEX_ERROR_COMPILE the head of the
 * compiler's log is the error's detail and the full log has gone to the log as
 * an error. */
fex_status fex_compiler_compile(fex_compiler *compiler,
                                const fex_recipe *recipe,
                                const fex_sources *sources, fex_cubin *cubin);

#endif
