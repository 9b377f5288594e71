/* SPDX-License-Identifier: Apache-2.0 */
/* driver.h - the CUDA driver library, opened at run time.
 *
 * The only header of the library that includes cuda.h. Each function of the
 * list becomes a typed member of the table; the macros of cuda.h that add a
 * version (cuMemAlloc -> cuMemAlloc_v2) apply to member and symbol alike. */
#ifndef FEX_DRIVER_H
#define FEX_DRIVER_H

#include <cuda.h>

#include "status.h"

#define FEX_DRIVER_FUNCTIONS(X)                                                \
    X(cuInit)                                                                  \
    X(cuDriverGetVersion)                                                      \
    X(cuGetErrorName)                                                          \
    X(cuGetErrorString)                                                        \
    X(cuDeviceGetCount)                                                        \
    X(cuDeviceGet)                                                             \
    X(cuDeviceGetName)                                                         \
    X(cuDeviceGetAttribute)                                                    \
    X(cuDevicePrimaryCtxRetain)                                                \
    X(cuDevicePrimaryCtxRelease)                                               \
    X(cuCtxGetCurrent)                                                         \
    X(cuCtxGetDevice)                                                          \
    X(cuCtxPushCurrent)                                                        \
    X(cuCtxPopCurrent)                                                         \
    X(cuCtxSynchronize)                                                        \
    X(cuModuleLoadDataEx)                                                      \
    X(cuModuleUnload)                                                          \
    X(cuModuleGetFunction)                                                     \
    X(cuFuncSetAttribute)                                                      \
    X(cuLaunchKernelEx)                                                        \
    X(cuTensorMapEncodeTiled)                                                  \
    X(cuMemsetD8Async)                                                         \
    X(cuMemcpyDtoHAsync)                                                       \
    X(cuStreamIsCapturing)                                                     \
    X(cuStreamSynchronize)                                                     \
    X(cuStreamCreate)                                                          \
    X(cuStreamDestroy)                                                         \
    X(cuEventCreate)                                                           \
    X(cuEventRecord)                                                           \
    X(cuEventSynchronize)                                                      \
    X(cuEventElapsedTime)                                                      \
    X(cuEventDestroy)                                                          \
    X(cuMemAlloc)                                                              \
    X(cuMemFree)                                                               \
    X(cuMemcpyHtoD)                                                            \
    X(cuMemcpyDtoH)                                                            \
    X(cuMemsetD8)                                                              \
    X(cuStreamBeginCapture)                                                    \
    X(cuStreamEndCapture)                                                      \
    X(cuGraphInstantiate)                                                      \
    X(cuGraphLaunch)                                                           \
    X(cuGraphExecDestroy)                                                      \
    X(cuGraphDestroy)

typedef struct fex_driver {
    void *library; /* dlopen handle */
    char path[512];
    int version; /* CUDA version the driver supports: 13000 */
#define FEX_DRIVER_MEMBER(name) __typeof__(&name) name;
    FEX_DRIVER_FUNCTIONS(FEX_DRIVER_MEMBER)
#undef FEX_DRIVER_MEMBER
} fex_driver;

/* Opens `override` if not NULL, else libcuda.so.1, resolves every function
 * and calls cuInit. FEX_ERROR_NO_DRIVER names what was tried or the missing
 * function; FEX_ERROR_NO_DEVICE if the driver sees none. On failure nothing is
 * held. */
fex_status fex_driver_open(const char *override, fex_driver *driver);
void fex_driver_close(fex_driver *driver);

/* Turns a CUresult into a status, with "<call>: CUDA_ERROR_... (text)" as
 * detail: FEX_OK, FEX_ERROR_DEVICE_OUT_OF_MEMORY or FEX_ERROR_DRIVER. */
fex_status fex_driver_check(const fex_driver *driver, CUresult result,
                            const char *call);

#endif
