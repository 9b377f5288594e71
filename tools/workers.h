/* SPDX-License-Identifier: Apache-2.0 */
/* workers.h - prewarming in several processes: one process's compiles wait
 * for each other inside NVRTC. */
#ifndef TOOL_WORKERS_H
#define TOOL_WORKERS_H

#include "figures.h"
#include "log.h"
#include "shape.h"

/* One call of fex_prewarm. */
typedef struct worker_job {
    const tool_shape *shape;
    fex_pass pass; /* one of the shape's */
    const char *architecture;
    const fex_device *device; /* one whose own choices count too, or NULL */
} worker_job;

/* Does a job in a context without a device. */
fex_status worker_prewarm(fex_context *context, const worker_job *job,
                          unsigned flags, fex_prewarm_function function,
                          void *user);

/* What workers report, each from its process to this one. Several are likely to
 * warn of the same. */
typedef struct worker_listener {
    void (*kernel)(void *user, fex_prewarm_outcome outcome, const char *kernel);
    void (*failure)(void *user, const char *sentence);
    void (*warning)(void *user, const char *message);
    void *user;
} worker_listener;

/* Does all jobs in at most `workers` child processes, each with a context
 * without a device, and tells the listener in this one; what is logged but no
 * warning goes to `log` from there. The caller must hold no context. A worker
 * that dies is reported as a failure; the others go on.
 * FEX_ERROR_OUT_OF_MEMORY, FEX_ERROR_IO if no process could be started. */
fex_status workers_run(const worker_job *jobs, size_t count, size_t workers,
                       unsigned flags, const fex_log *log,
                       const worker_listener *listener);

#endif
