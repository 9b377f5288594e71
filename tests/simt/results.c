/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include <string.h>

#include "results.h"

/* Those that the simulated driver returns, and that tests plan as faults. */
#define RESULT_MAP(X)                                                          \
    X(CUDA_SUCCESS, "no error")                                                \
    X(CUDA_ERROR_INVALID_VALUE, "invalid argument")                            \
    X(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")                               \
    X(CUDA_ERROR_NOT_INITIALIZED, "initialization error")                      \
    X(CUDA_ERROR_DEINITIALIZED, "driver shutting down")                        \
    X(CUDA_ERROR_STUB_LIBRARY, "stub library")                                 \
    X(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected")              \
    X(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal")                     \
    X(CUDA_ERROR_INVALID_IMAGE, "device kernel image is invalid")              \
    X(CUDA_ERROR_INVALID_CONTEXT, "invalid device context")                    \
    X(CUDA_ERROR_NO_BINARY_FOR_GPU, "no kernel image is available")            \
    X(CUDA_ERROR_INVALID_SOURCE, "device kernel image is invalid")             \
    X(CUDA_ERROR_FILE_NOT_FOUND, "file not found")                             \
    X(CUDA_ERROR_OPERATING_SYSTEM, "OS call failed")                           \
    X(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle")                    \
    X(CUDA_ERROR_ILLEGAL_STATE, "the operation cannot be performed")           \
    X(CUDA_ERROR_NOT_FOUND, "named symbol not found")                          \
    X(CUDA_ERROR_NOT_READY, "device not ready")                                \
    X(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered")  \
    X(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,                                      \
      "too many resources requested for launch")                               \
    X(CUDA_ERROR_LAUNCH_TIMEOUT, "the launch timed out and was terminated")    \
    X(CUDA_ERROR_CONTEXT_IS_DESTROYED, "context is destroyed")                 \
    X(CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure")                  \
    X(CUDA_ERROR_NOT_PERMITTED, "operation not permitted")                     \
    X(CUDA_ERROR_NOT_SUPPORTED, "operation not supported")                     \
    X(CUDA_ERROR_SYSTEM_NOT_READY, "system not yet initialized")               \
    X(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,                                   \
      "operation not permitted when stream is capturing")                      \
    X(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,                                   \
      "operation failed due to a previous error during capture")               \
    X(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED,                                     \
      "capture was not initiated in this stream")                              \
    X(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,                                      \
      "operation would make the legacy stream depend on a capturing one")      \
    X(CUDA_ERROR_INVALID_CLUSTER_SIZE, "invalid cluster size")                 \
    X(CUDA_ERROR_UNKNOWN, "unknown error")

static const struct {
    CUresult result;
    const char *name;
    const char *text;
} results[] = {
#define RESULT_ROW(result, text) {result, #result, text},
    RESULT_MAP(RESULT_ROW)
#undef RESULT_ROW
};

#define RESULT_COUNT (sizeof results / sizeof *results)

const char *simt_result_name(CUresult result)
{
    for (size_t i = 0; i < RESULT_COUNT; i++)
        if (results[i].result == result)
            return results[i].name;
    return NULL;
}

const char *simt_result_text(CUresult result)
{
    for (size_t i = 0; i < RESULT_COUNT; i++)
        if (results[i].result == result)
            return results[i].text;
    return NULL;
}

int simt_result_by_name(const char *name)
{
    for (size_t i = 0; i < RESULT_COUNT; i++)
        if (strcmp(results[i].name, name) == 0)
            return (int)results[i].result;
    return -1;
}
