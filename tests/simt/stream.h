/* SPDX-License-Identifier: Apache-2.0 */
/* stream.h - work that waits: streams, and what a capture makes of them.
 *
 * A stream runs nothing before somebody waits for it, as late as CUDA permits,
 * so that a missing wait shows. All functions want the device's lock. */
#ifndef SIMT_STREAM_H
#define SIMT_STREAM_H

#include <time.h>

#include "grid.h"

enum simt_operation_kind {
    SIMT_LAUNCH,
    SIMT_FILL,
    SIMT_COPY,
    SIMT_RECORD
};

typedef struct simt_operation {
    struct simt_operation *next;
    enum simt_operation_kind kind;
    simt_grid grid; /* SIMT_LAUNCH: args are the operation's own */
    void *to;       /* SIMT_FILL, SIMT_COPY */
    const void *from;
    size_t size;
    int value;
    CUevent event; /* SIMT_RECORD */
} simt_operation;

typedef struct simt_operations {
    simt_operation *first;
    simt_operation **end; /* NULL while there are none */
} simt_operations;

struct CUstream_st {
    CUstream next;
    unsigned flags;
    simt_operations queue;
    CUstreamCaptureStatus capture;
    CUstreamCaptureMode mode;
    simt_operations captured;
};

struct CUevent_st {
    CUevent next;
    int recorded;
    int pending; /* records that have not run */
    struct timespec time; /* when the last one did */
};

/* NULL is the legacy default stream. Returns NULL for a destroyed one. */
CUstream simt_stream_find(CUstream stream);
CUresult simt_stream_create(unsigned flags, CUstream *stream);
CUresult simt_stream_destroy(CUstream stream);
size_t simt_stream_live(void);
void simt_stream_clear(void); /* destroys all, with the work that waits */

/* Adds a copy of *operation, to the capture if there is one. */
CUresult simt_stream_add(CUstream stream, const simt_operation *operation);

/* Runs what waits, in one stream with all that it depends on, or in all. */
CUresult simt_stream_run(CUstream stream);
CUresult simt_stream_run_all(void);

/* For calls that work at once, without a stream: an error, and the capture is
 * lost, if a stream is being captured in a mode that does not allow it. */
CUresult simt_stream_forbid_capture(void);

/* The capture of a stream is lost. */
void simt_stream_invalidate(CUstream stream);

/* A stream being captured that this one, the legacy stream, would depend on;
 * NULL if there is none. */
CUstream simt_stream_in_the_way(CUstream stream);

/* Copies of a list, freed as a whole. 0 or -1. */
int simt_operations_copy(simt_operations *to, const simt_operations *from);
void simt_operations_free(simt_operations *operations);

#endif
