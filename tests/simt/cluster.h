/* SPDX-License-Identifier: Apache-2.0 */
/* cluster.h - blocks that run together: a cluster, most often of one block.
 *
 * A thread runs until it meets others, at a warp operation or a barrier of the
 * block or of the cluster; whoever comes last lets all go on. Which of several
 * ready threads runs next is drawn by lot. */
#ifndef SIMT_CLUSTER_H
#define SIMT_CLUSTER_H

#include "runtime.h"

#define SIMT_BLOCK_MAX 1024u /* threads */
#define SIMT_CLUSTER_MAX 16u /* blocks */

/* One block's copy of the kernel: every block of a cluster has one, and static
 * shared memory of its own in it. */
typedef struct simt_copy {
    const simt_kernel *kernel;
    char *base; /* where it is loaded */
    void *dynamic_shared;
} simt_copy;

/* What is the same for all clusters of a launch. */
typedef struct simt_task {
    const void *args;
    simt_dim3 grid_size;
    simt_dim3 block_size;
    simt_dim3 cluster_size;
    simt_copy copies[SIMT_CLUSTER_MAX];
    /* Tells how many bytes of static shared memory follow an offset from
     * simt_copy.base; 0 if there is none. */
    size_t (*shared_at)(const void *user, size_t offset);
    const void *user;
    size_t dynamic_shared;
    int dependent; /* every block has to wait for the launch ahead */
} simt_task;

/* Made before any cluster is run; 0 or an errno. */
int simt_cluster_allocate(const simt_task *task);

/* What kernels are given. */
simt_runtime *simt_cluster_runtime(void);

/* Runs the cluster whose first block is `first` to its end; 0, or -1 if a
 * thread failed, and then the report has been made. */
int simt_cluster_run(const simt_task *task, simt_dim3 first, uint64_t random);

/* Whether the calling host thread is inside of simt_cluster_run. */
int simt_cluster_running(void);

/* Reports a fault of the running thread and leaves simt_cluster_run. */
void simt_cluster_fault(const char *format, ...)
    __attribute__((noreturn, format(printf, 1, 2)));

#endif
