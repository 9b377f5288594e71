/* SPDX-License-Identifier: Apache-2.0 */
/* driver_memory.c - the driver's entry points for memory. */
#include "config.h"

#include <stdint.h>
#include <string.h>

#include "device.h"
#include "memory.h"
#include "stream.h"

static void *pointer_of(CUdeviceptr address)
{
    return (void *)(uintptr_t)address;
}

/* Begins a call that works at once on a range of device memory. */
static CUresult begin_with(const char *function, CUdeviceptr address,
                           size_t size)
{
    CUresult result = simt_begin(function, SIMT_CONTEXT);
    if (result == CUDA_SUCCESS)
        result = simt_stream_forbid_capture();
    if (result == CUDA_SUCCESS && !simt_memory_holds(pointer_of(address), size))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        result = simt_stream_run(simt_stream_find(NULL));
    return result;
}

CUresult cuMemAlloc(CUdeviceptr *address, size_t size)
{
    void *made;
    CUresult result = simt_begin(__func__, SIMT_CONTEXT);
    if (result == CUDA_SUCCESS)
        result = simt_stream_forbid_capture();
    if (result == CUDA_SUCCESS && size == 0)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS && simt_memory_allocate(size, &made) != 0)
        result = CUDA_ERROR_OUT_OF_MEMORY;
    if (result == CUDA_SUCCESS)
        *address = (CUdeviceptr)(uintptr_t)made;
    return simt_end(result);
}

/* Waits for all work, as the real one does. */
CUresult cuMemFree(CUdeviceptr address)
{
    CUresult result = simt_begin(__func__, SIMT_CONTEXT);
    if (address == 0)
        return simt_end(result);
    const CUresult earlier = simt_stream_run_all();
    if (result == CUDA_SUCCESS)
        result = earlier;
    if (simt_memory_free(pointer_of(address)) != 0)
        return simt_end(CUDA_ERROR_INVALID_VALUE);
    return simt_end(result);
}

CUresult cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t size)
{
    const CUresult result = begin_with(__func__, to, size);
    if (result == CUDA_SUCCESS)
        memcpy(pointer_of(to), from, size);
    return simt_end(result);
}

CUresult cuMemcpyDtoH(void *to, CUdeviceptr from, size_t size)
{
    const CUresult result = begin_with(__func__, from, size);
    if (result == CUDA_SUCCESS)
        memcpy(to, pointer_of(from), size);
    return simt_end(result);
}

CUresult cuMemsetD8(CUdeviceptr to, unsigned char value, size_t size)
{
    const CUresult result = begin_with(__func__, to, size);
    if (result == CUDA_SUCCESS)
        memset(pointer_of(to), value, size);
    return simt_end(result);
}

/* Ends a call that gives a stream work on a range of device memory. */
static CUresult end_with(CUresult result, CUstream stream, CUdeviceptr address,
                         const simt_operation *operation)
{
    CUstream found = simt_stream_find(stream);
    if (result == CUDA_SUCCESS && found == NULL)
        result = CUDA_ERROR_INVALID_HANDLE;
    if (result == CUDA_SUCCESS &&
        !simt_memory_holds(pointer_of(address), operation->size))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        result = simt_stream_add(found, operation);
    return simt_end(result);
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t size,
                         CUstream stream)
{
    const simt_operation fill = {.kind = SIMT_FILL,
                                 .to = pointer_of(to),
                                 .value = value,
                                 .size = size};
    return end_with(simt_begin(__func__, SIMT_CONTEXT), stream, to, &fill);
}

CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t size,
                           CUstream stream)
{
    const simt_operation copy = {.kind = SIMT_COPY,
                                 .to = to,
                                 .from = pointer_of(from),
                                 .size = size};
    return end_with(simt_begin(__func__, SIMT_CONTEXT), stream, from, &copy);
}
