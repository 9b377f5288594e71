/* SPDX-License-Identifier: Apache-2.0 */
/* races.h - accesses of two threads to the same shared memory, one of them at
 * least a write, that nothing puts in order: no barrier of the block or the
 * cluster between them, in one warp no __syncwarp, and between warps no barrier
 * in memory either, which one arrived at and the other waited for. Votes and
 * shuffles order no memory. Most are found whatever the order was that threads
 * ran in; which phase of a barrier in memory was waited for is not looked at.
 *
 * Seen are kernels compiled with FLASHEXPERT_SIM_RACES=1. */
#ifndef SIMT_RACES_H
#define SIMT_RACES_H

#include "resident.h"

/* Before a launch: shared memory of all blocks of a cluster to look at. Nothing
 * is looked at if there is no memory for it. */
void races_watch(const simt_task *task);
void races_watch_static(const simt_task *task, size_t offset, size_t size);

/* After it. */
void races_forget(void);

/* A cluster starts; threads have met. */
void races_start(void);
void races_meet_warp(resident_warp *warp);
void races_meet_block(resident_block *block);
void races_meet_cluster(void);

/* As simt_runtime has them; an access that is one too early ends the launch. */
void races_tell(const void *barrier, int at_once);
void races_learn(const void *barrier);
void races_lanes_met(void);
void races_access(const void *address, size_t size, enum simt_touch touch);

#endif
