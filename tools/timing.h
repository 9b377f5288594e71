/* SPDX-License-Identifier: Apache-2.0 */
/* timing.h - how long a pass takes: on the device, in a graph, on the host. */
#ifndef TOOL_TIMING_H
#define TOOL_TIMING_H

#include "evaluate.h"

/* Something to be timed that queues one call on the device's stream. */
typedef struct timing_subject {
    fex_status (*call)(void *user);
    void *user;
} timing_subject;

/* Times one subject round by round, so that several can take turns. Each
 * round's figure is for one call of a block of calls; the block is long enough
 * for the clock. */
typedef struct timing {
    const tool_device *device;
    timing_subject subject;
    size_t calls;       /* in a block */
    size_t graph_calls; /* nodes' worth of calls in the graph */
    CUevent start, stop;
    CUgraphExec graph; /* NULL: not asked for */
    size_t rounds, rounds_max;
    double *device_seconds; /* one a round, as the two below */
    double *graph_seconds;
    double *host_seconds;
} timing;

/* Warms up and measures how many calls make a block; with `graph_calls` above
 * 0 also captures a graph of at least that many calls. On failure nothing is
 * held. */
fex_status timing_create(const tool_device *device, timing_subject subject,
                         size_t rounds_max, size_t graph_calls, timing *timing);

/* Takes the figures of one more round. */
fex_status timing_round(timing *timing);

/* The median of the rounds taken; NaN if there is none. */
double timing_median(const timing *timing, const double *seconds);

/* What is all zeros, as after a failure to create, is ignored. */
void timing_destroy(timing *timing);

#endif
