/* SPDX-License-Identifier: Apache-2.0 */
/* environment.h - every variable the library reads, in one table.
 *
 * The table is the single source: for the snapshot below, for `flashexpert
 * info`, for README's table (a test compares them). */
#ifndef FEX_ENVIRONMENT_H
#define FEX_ENVIRONMENT_H

#include "status.h"

/* field, variable, meaning */
#define FEX_ENVIRONMENT_MAP(X)                                                 \
    X(cache_dir, "FLASHEXPERT_CACHE_DIR", "user tier of the kernel cache")     \
    X(cache_path, "FLASHEXPERT_CACHE_PATH",                                    \
      "read-only tiers, separated by ':', directories or bundle files")        \
    X(cache_max, "FLASHEXPERT_CACHE_MAX",                                      \
      "byte budget of the user tier: 500M, 2G, ... (default 1G)")              \
    X(cache_shared, "FLASHEXPERT_CACHE_SHARED",                                \
      "1: accept a cache directory that belongs to a group")                   \
    X(jit, "FLASHEXPERT_JIT", "allow, warn or forbid compiling (default allow)") \
    X(kernel_dir, "FLASHEXPERT_KERNEL_DIR",                                    \
      "kernel sources used instead of the embedded ones")                      \
    X(libcuda, "FLASHEXPERT_LIBCUDA", "the CUDA driver library to open")       \
    X(libnvrtc, "FLASHEXPERT_LIBNVRTC", "the NVRTC library to open")           \
    X(family, "FLASHEXPERT_FAMILY",                                            \
      "use algorithms of this family only, where one applies: cluster, "       \
      "dense, gather, matrix")                                                 \
    X(log, "FLASHEXPERT_LOG", "error, warning, info or debug (default warning)") \
    X(cuda_home, "CUDA_HOME", "a CUDA toolkit to find NVRTC in")               \
    X(virtual_env, "VIRTUAL_ENV", "a Python environment to find NVRTC in")     \
    X(xdg_cache_home, "XDG_CACHE_HOME", "where the default user tier is")      \
    X(home, "HOME", "where the default user tier is, without XDG_CACHE_HOME")

/* A copy of the environment; NULL where a variable is unset or empty. */
typedef struct fex_environment {
#define FEX_ENVIRONMENT_FIELD(field, variable, meaning) char *field;
    FEX_ENVIRONMENT_MAP(FEX_ENVIRONMENT_FIELD)
#undef FEX_ENVIRONMENT_FIELD
} fex_environment;

/* Reads the environment. In a set-user-ID program every variable counts as
 * unset. FEX_OK or FEX_ERROR_OUT_OF_MEMORY (nothing is held then). */
fex_status fex_environment_read(fex_environment *environment);
void fex_environment_free(fex_environment *environment);

#endif
