/* SPDX-License-Identifier: Apache-2.0 */
/* context.h - one device and what serves it, put together. */
#ifndef FEX_CONTEXT_H
#define FEX_CONTEXT_H

#include <sys/types.h>

#include "environment.h"
#include "figures.h"
#include "loader.h"
#include "log.h"

struct fex_context {
    pid_t owner; /* the process that created it */
    fex_log log;
    fex_environment environment;
    fex_driver driver; /* zeroed with FEX_DEVICE_NONE */
    CUdevice cuda_device;
    CUcontext cuda_context;
    int retained; /* cuda_context is a primary context we hold */
    fex_device device;
    fex_sources sources;
    fex_compiler *compiler;
    fex_store *store;
    fex_loader *loader;
};

/* FEX_ERROR_INVALID_ARGUMENT if NULL, FEX_ERROR_FORKED in a child. */
fex_status fex_context_check(const fex_context *context);

/* Makes the context current to the calling thread, if it is not already.
 * *pushed says whether fex_context_leave has to restore the old one. */
fex_status fex_context_enter(const fex_context *context, int *pushed);
void fex_context_leave(const fex_context *context, int pushed);

#endif
