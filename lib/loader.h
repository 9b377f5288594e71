/* SPDX-License-Identifier: Apache-2.0 */
/* loader.h - a kernel specification becomes functions ready to launch.
 *
 * Looks in memory, then in the tiers of the store, then compiles; one compile
 * per key however many threads ask at once. */
#ifndef FEX_LOADER_H
#define FEX_LOADER_H

#include "compiler.h"
#include "driver.h"
#include "log.h"
#include "specialize.h"
#include "store.h"

typedef struct fex_loader fex_loader;

/* What a loader works with; everything outlives it. */
typedef struct fex_loader_options {
    const fex_driver *driver; /* NULL: no device, fex_loader_prewarm only */
    CUcontext cuda_context;   /* modules are loaded into it */
    fex_compiler *compiler;   /* opened on first use, by itself */
    fex_store *store;
    const fex_sources *sources;
    const fex_log *log;
    fex_jit_policy policy; /* never FEX_JIT_AUTO */
} fex_loader_options;

/* A loaded translation unit; lives as long as the loader. */
typedef struct fex_module {
    CUmodule module;
    CUfunction functions[FEX_FUNCTIONS_MAX]; /* in the order of the spec's */
} fex_module;

fex_status fex_loader_create(const fex_loader_options *options,
                             fex_loader **loader);
/* Unloads every module. In a forked child, where CUDA must not be called,
 * pass unload = 0. */
void fex_loader_destroy(fex_loader *loader, int unload);

/* The kernels of spec, ready. Statuses as fex_op_prepare. */
fex_status fex_loader_get(fex_loader *loader, const fex_kernel_spec *spec,
                          const fex_module **module);

/* Makes sure the store has spec, touching no device. flags: FEX_PREWARM_...
 * *outcome is set whatever the status. */
fex_status fex_loader_prewarm(fex_loader *loader, const fex_kernel_spec *spec,
                              unsigned flags, fex_prewarm_outcome *outcome);

/* Whether what is compiled ahead could be kept; FEX_OK also where nothing may
 * be compiled. */
fex_status fex_loader_try(fex_loader *loader);

void fex_loader_monitor(fex_loader *loader, fex_jit_function function,
                        void *user);
void fex_loader_get_stats(fex_loader *loader, fex_context_stats *stats);

#endif
