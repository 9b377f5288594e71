/* SPDX-License-Identifier: Apache-2.0 */
/* grid.h - one launch: its clusters, which are blocks if it does not use any,
 * one after another, in an order drawn by lot. */
#ifndef SIMT_GRID_H
#define SIMT_GRID_H

#include "module.h"

typedef struct simt_grid {
    CUfunction function;
    simt_dim3 grid_size;
    simt_dim3 block_size;
    simt_dim3 cluster_size;
    size_t dynamic_shared;
    int dependent; /* may overlap with the launch ahead of it */
    const void *args; /* function->kernel->args_size bytes */
} simt_grid;

/* Whether a launch can be run at all, as cuLaunchKernelEx says at once. */
CUresult simt_grid_check(const simt_grid *grid);

/* Runs it. CUDA_ERROR_LAUNCH_FAILED if a thread failed or memory outside of
 * all allocations was written, and then the report has been made. */
CUresult simt_grid_run(const simt_grid *grid);

#endif
