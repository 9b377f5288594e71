/* SPDX-License-Identifier: Apache-2.0 */
/* resident.h - the state of the blocks that run together, for those who
 * schedule them (schedule.c), let them meet (meet.c), and begin and end their
 * lives (cluster.c). */
#ifndef SIMT_RESIDENT_H
#define SIMT_RESIDENT_H

#include "cluster.h"
#include "fiber.h"
#include "warp.h"

enum resident_state { READY, AT_WARP, AT_BLOCK, AT_CLUSTER, EXITED };

typedef struct resident_thread {
    enum resident_state state;
    unsigned lane;
    simt_dim3 index;
    struct resident_block *block;
    struct resident_warp *warp;
    const simt_warp_call *call; /* AT_WARP */
    uint64_t result;            /* of the last warp operation */
    int line;                   /* AT_BLOCK, AT_CLUSTER: of the barrier */
    int predicate;              /* AT_BLOCK */
} resident_thread;

/* Sets of lanes. */
typedef struct resident_warp {
    resident_thread *threads;
    unsigned present; /* not exited */
    unsigned ready;   /* could run, but does not now */
    unsigned waiting; /* at a warp operation */
    uint64_t met;     /* at the last __syncwarp, see races.c */
} resident_warp;

/* A barrier that threads wait at. */
typedef struct resident_meeting {
    unsigned count;
    enum simt_block_operation operation;
    int line;
    int result; /* of the last complete meeting */
} resident_meeting;

typedef struct resident_block {
    simt_dim3 index;
    unsigned rank;
    resident_thread *threads;
    resident_warp *warps;
    unsigned warp_count;
    unsigned ready_warps; /* set of warps with a ready lane */
    unsigned present;     /* threads that have not exited */
    int waited;           /* one of them, for the launch ahead */
    resident_meeting meeting;
    uint64_t met; /* when all threads met last */
} resident_block;

/* There is one device, and it runs one cluster at a time. */
typedef struct resident_cluster {
    simt_runtime runtime;
    const simt_task *task;
    resident_block blocks[SIMT_CLUSTER_MAX];
    resident_warp warps[SIMT_CLUSTER_MAX * SIMT_BLOCK_MAX / SIMT_WARP_SIZE];
    resident_thread threads[SIMT_CLUSTER_MAX * SIMT_BLOCK_MAX];
    simt_fiber fibers[SIMT_CLUSTER_MAX * SIMT_BLOCK_MAX]; /* of the threads */
    simt_fiber host;
    unsigned block_count;
    unsigned block_threads; /* of each block */
    unsigned thread_count;
    unsigned ready_blocks; /* set of blocks with a ready warp */
    resident_thread *current;
    resident_meeting meeting;
    uint64_t met; /* when all threads of all blocks met last */
    uint64_t random;
    uint64_t looks; /* in vain, since `looked_at` events */
    uint64_t looked_at;
    int stuck; /* nobody is ready: whoever is resumed says why */
    int failed;
} resident_cluster;

extern resident_cluster resident;

/* ---- schedule.c --------------------------------------------------------- */

void schedule_ready(resident_block *block, resident_warp *warp,
                    unsigned lanes);
void schedule_ready_block(resident_block *block);

/* Makes a ready thread the running one, without switching to it. */
void schedule_appoint(resident_thread *thread);

/* Begins with some thread; returns when all have exited or one has failed. */
void schedule_run(void);

/* Lets others run until somebody makes the running thread ready. */
void schedule_wait(enum resident_state state);

/* Lets another run, if one can; the running thread stays ready. */
void schedule_yield(void);
/* The same, now and then. */
void schedule_lend(void);

/* The running thread has exited: goes on with others. */
void schedule_exit(void) __attribute__((noreturn));

/* ---- meet.c ------------------------------------------------------------- */

uint64_t meet_warp(const simt_warp_call *call);
int meet_block(enum simt_block_operation operation, int predicate, int line);
void meet_cluster(int line);

/* Lanes that waited for one that exits need not any more. */
void meet_without(resident_thread *thread);

/* Called by a thread that would wait for ever. */
void meet_fault(void) __attribute__((noreturn));

#endif
