/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "device.h"
#include "stream.h"

static struct CUstream_st legacy;
static CUstream streams;

/* ---- Lists -------------------------------------------------------------- */

#define ARGS_ALIGNMENT 64

static size_t aligned(size_t size)
{
    return (size + ARGS_ALIGNMENT - 1) / ARGS_ALIGNMENT * ARGS_ALIGNMENT;
}

static simt_operation *copy_operation(const simt_operation *operation)
{
    const size_t args_size = operation->kind == SIMT_LAUNCH
                                 ? operation->grid.function->kernel->args_size
                                 : 0;
    /* The arguments follow, aligned for tensor maps. */
    simt_operation *const copy = aligned_alloc(
        ARGS_ALIGNMENT, aligned(sizeof *copy) + aligned(args_size));
    if (copy == NULL)
        return NULL;
    *copy = *operation;
    copy->next = NULL;
    if (args_size > 0) {
        char *const args = (char *)copy + aligned(sizeof *copy);
        memcpy(args, operation->grid.args, args_size);
        copy->grid.args = args;
    }
    return copy;
}

static void append(simt_operations *list, simt_operation *operation)
{
    if (list->first == NULL)
        list->end = &list->first;
    *list->end = operation;
    list->end = &operation->next;
}

int simt_operations_copy(simt_operations *to, const simt_operations *from)
{
    to->first = NULL;
    for (const simt_operation *o = from->first; o != NULL; o = o->next) {
        simt_operation *const copy = copy_operation(o);
        if (copy == NULL) {
            simt_operations_free(to);
            return -1;
        }
        append(to, copy);
    }
    return 0;
}

void simt_operations_free(simt_operations *operations)
{
    while (operations->first != NULL) {
        simt_operation *const old = operations->first;
        operations->first = old->next;
        free(old);
    }
}

/* ---- Streams ------------------------------------------------------------ */

CUstream simt_stream_find(CUstream stream)
{
    if (stream == NULL || stream == CU_STREAM_LEGACY)
        return &legacy;
    for (CUstream s = streams; s != NULL; s = s->next)
        if (s == stream)
            return s;
    return NULL;
}

CUresult simt_stream_create(unsigned flags, CUstream *stream)
{
    if ((flags & ~(unsigned)CU_STREAM_NON_BLOCKING) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    CUstream made = calloc(1, sizeof *made);
    if (made == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    made->flags = flags;
    made->next = streams;
    streams = made;
    *stream = made;
    return CUDA_SUCCESS;
}

CUresult simt_stream_destroy(CUstream stream)
{
    CUstream *link = &streams;
    while (*link != NULL && *link != stream)
        link = &(*link)->next;
    if (*link == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    const CUresult result = simt_stream_run(stream);
    *link = stream->next;
    simt_operations_free(&stream->captured);
    free(stream);
    return result;
}

void simt_stream_clear(void)
{
    simt_operations_free(&legacy.queue);
    while (streams != NULL) {
        CUstream old = streams;
        streams = old->next;
        simt_operations_free(&old->queue);
        simt_operations_free(&old->captured);
        free(old);
    }
}

size_t simt_stream_live(void)
{
    size_t count = 0;
    for (CUstream s = streams; s != NULL; s = s->next)
        count++;
    return count;
}

static int is_blocking(const struct CUstream_st *stream)
{
    return (stream->flags & CU_STREAM_NON_BLOCKING) == 0;
}

/* ---- Running ------------------------------------------------------------ */

/* Memory is looked at when it is used: a range that is not the device's, or no
 * longer, is a fault of the operation. */
static CUresult execute(const simt_operation *operation)
{
    switch (operation->kind) {
    case SIMT_LAUNCH:
        return simt_grid_run(&operation->grid);
    case SIMT_FILL:
        memset(operation->to, operation->value, operation->size);
        return CUDA_SUCCESS;
    case SIMT_COPY:
        memcpy(operation->to, operation->from, operation->size);
        return CUDA_SUCCESS;
    default:
        clock_gettime(CLOCK_MONOTONIC, &operation->event->time);
        operation->event->pending--;
        return CUDA_SUCCESS;
    }
}

/* After a failure nothing more is done, but events are over. */
static void run_queue(CUstream stream)
{
    while (stream->queue.first != NULL) {
        simt_operation *const operation = stream->queue.first;
        stream->queue.first = operation->next;
        if (simt_device_error() == CUDA_SUCCESS ||
            operation->kind == SIMT_RECORD)
            simt_device_break(execute(operation));
        free(operation);
    }
}

static void run_blocking(void)
{
    for (CUstream s = streams; s != NULL; s = s->next)
        if (is_blocking(s))
            run_queue(s);
}

CUresult simt_stream_run(CUstream stream)
{
    /* What the legacy stream waits for has run when it was given work. */
    run_queue(stream);
    if (stream == &legacy)
        run_blocking();
    return simt_device_error();
}

CUresult simt_stream_run_all(void)
{
    run_queue(&legacy);
    for (CUstream s = streams; s != NULL; s = s->next)
        run_queue(s);
    return simt_device_error();
}

/* ---- Capture ------------------------------------------------------------ */

void simt_stream_invalidate(CUstream stream)
{
    stream->capture = CU_STREAM_CAPTURE_STATUS_INVALIDATED;
    simt_operations_free(&stream->captured);
}

CUresult simt_stream_forbid_capture(void)
{
    CUresult result = CUDA_SUCCESS;
    for (CUstream s = streams; s != NULL; s = s->next)
        if (s->capture == CU_STREAM_CAPTURE_STATUS_ACTIVE &&
            s->mode != CU_STREAM_CAPTURE_MODE_RELAXED) {
            simt_stream_invalidate(s);
            result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        }
    return result;
}

CUstream simt_stream_in_the_way(CUstream stream)
{
    if (stream == &legacy)
        for (CUstream s = streams; s != NULL; s = s->next)
            if (is_blocking(s) && s->capture == CU_STREAM_CAPTURE_STATUS_ACTIVE)
                return s;
    return NULL;
}

CUresult simt_stream_add(CUstream stream, const simt_operation *operation)
{
    CUstream capturing = simt_stream_in_the_way(stream);
    if (capturing != NULL) {
        simt_stream_invalidate(capturing);
        return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    }
    if (stream->capture == CU_STREAM_CAPTURE_STATUS_INVALIDATED)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    simt_operation *const copy = copy_operation(operation);
    if (copy == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (stream->capture == CU_STREAM_CAPTURE_STATUS_ACTIVE) {
        append(&stream->captured, copy);
        return CUDA_SUCCESS;
    }
    if (stream == &legacy)
        run_blocking();
    else if (is_blocking(stream))
        run_queue(&legacy);
    if (operation->kind == SIMT_RECORD)
        operation->event->pending++;
    append(&stream->queue, copy);
    return CUDA_SUCCESS;
}
