/* SPDX-License-Identifier: Apache-2.0 */
/* driver_stream.c - the driver's entry points for streams and captures. */
#include "config.h"

#include "device.h"
#include "graph.h"
#include "stream.h"

CUresult cuCtxSynchronize(void)
{
    CUresult result = simt_begin(__func__, SIMT_CONTEXT);
    if (result == CUDA_SUCCESS)
        result = simt_stream_forbid_capture();
    if (result == CUDA_SUCCESS)
        result = simt_stream_run_all();
    return simt_end(result);
}

CUresult cuStreamCreate(CUstream *stream, unsigned flags)
{
    CUresult result = simt_begin(__func__, SIMT_CONTEXT);
    if (result == CUDA_SUCCESS)
        result = simt_stream_create(flags, stream);
    return simt_end(result);
}

CUresult cuStreamDestroy(CUstream stream)
{
    const CUresult result = simt_begin(__func__, SIMT_CONTEXT);
    const CUresult destroyed = simt_stream_destroy(stream);
    return simt_end(result != CUDA_SUCCESS ? result : destroyed);
}

/* Begins a call about one stream. */
static CUresult begin_with(const char *function, CUstream stream,
                           CUstream *found)
{
    const CUresult result = simt_begin(function, SIMT_CONTEXT);
    *found = simt_stream_find(stream);
    if (result == CUDA_SUCCESS && *found == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    return result;
}

CUresult cuStreamSynchronize(CUstream stream)
{
    CUstream found;
    CUresult result = begin_with(__func__, stream, &found);
    if (result != CUDA_SUCCESS)
        return simt_end(result);
    CUstream capturing = simt_stream_in_the_way(found);
    if (capturing != NULL) {
        simt_stream_invalidate(capturing);
        return simt_end(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    }
    if (found->capture != CU_STREAM_CAPTURE_STATUS_NONE) {
        simt_stream_invalidate(found);
        return simt_end(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }
    return simt_end(simt_stream_run(found));
}

CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status)
{
    CUstream found;
    CUresult result = begin_with(__func__, stream, &found);
    if (result == CUDA_SUCCESS && simt_stream_in_the_way(found) != NULL)
        result = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    if (result == CUDA_SUCCESS)
        *status = found->capture;
    return simt_end(result);
}

CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode)
{
    CUstream found;
    CUresult result = begin_with(__func__, stream, &found);
    if (result == CUDA_SUCCESS && found == simt_stream_find(NULL))
        result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (result == CUDA_SUCCESS &&
        found->capture != CU_STREAM_CAPTURE_STATUS_NONE)
        result = CUDA_ERROR_ILLEGAL_STATE;
    if (result == CUDA_SUCCESS) {
        found->capture = CU_STREAM_CAPTURE_STATUS_ACTIVE;
        found->mode = mode;
    }
    return simt_end(result);
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph)
{
    CUstream found;
    CUresult result = begin_with(__func__, stream, &found);
    if (result != CUDA_SUCCESS)
        return simt_end(result);
    const CUstreamCaptureStatus status = found->capture;
    found->capture = CU_STREAM_CAPTURE_STATUS_NONE;
    *graph = NULL;
    if (status == CU_STREAM_CAPTURE_STATUS_NONE)
        result = CUDA_ERROR_ILLEGAL_STATE;
    else if (status == CU_STREAM_CAPTURE_STATUS_INVALIDATED)
        result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    else
        result = simt_graph_create(&found->captured, graph);
    simt_operations_free(&found->captured);
    return simt_end(result);
}
