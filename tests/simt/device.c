/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>


#include "cluster.h"
#include "device.h"
#include "faults.h"
#include "graph.h"
#include "image.h"
#include "memory.h"
#include "results.h"
#include "settings.h"

#define DRIVER_VERSION 13000
#define CONTEXTS_MAX 16

struct CUctx_st {
    unsigned retained;
};

static struct CUctx_st primary;
static CUresult device_error;
static pid_t owner; /* the process that called cuInit, 0 before */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t plan_once = PTHREAD_ONCE_INIT;

/* The calling thread's contexts, the current one last. */
static __thread CUcontext contexts[CONTEXTS_MAX];
static __thread unsigned context_count;

static CUcontext current_context(void)
{
    return context_count > 0 ? contexts[context_count - 1] : NULL;
}

/* ---- What every entry point begins and ends with ------------------------ */

static void plan_faults(void)
{
    simt_faults_plan(getenv("FLASHEXPERT_SIM_FAIL"), "cu",
                     simt_result_by_name);
}

void simt_device_plan(const char *plan)
{
    pthread_once(&plan_once, plan_faults); /* which would come later else */
    simt_faults_plan(plan, "cu", simt_result_by_name);
}

static CUresult check_need(enum simt_need need)
{
    if (need == SIMT_NOTHING)
        return CUDA_SUCCESS;
    /* A child of fork() has no device. */
    if (owner != getpid())
        return CUDA_ERROR_NOT_INITIALIZED;
    if (need == SIMT_INITIALISED)
        return CUDA_SUCCESS;
    if (current_context() == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (primary.retained == 0)
        return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    return device_error;
}

CUresult simt_begin(const char *function, enum simt_need need)
{
    pthread_once(&plan_once, plan_faults);
    const int planned = simt_faults_count(function);
    pthread_mutex_lock(&lock);
    return planned != 0 ? (CUresult)planned : check_need(need);
}

CUresult simt_end(CUresult result)
{
    pthread_mutex_unlock(&lock);
    return result;
}

void simt_device_break(CUresult result)
{
    if (device_error == CUDA_SUCCESS)
        device_error = result;
}

CUresult simt_device_error(void)
{
    return device_error;
}

unsigned simt_device_retained(void)
{
    return primary.retained;
}

/* What was made in the primary context goes with it. */
static void reset(void)
{
    simt_stream_clear();
    simt_graph_clear();
    simt_module_clear();
    simt_memory_clear();
    device_error = CUDA_SUCCESS;
}

/* ---- Figures ------------------------------------------------------------ */

int simt_device_shared_bytes(void)
{
    const simt_settings *const settings = simt_settings_get();
    const int capability = settings->major * 10 + settings->minor;
    switch (capability) {
    case 75:
        return 64 * 1024;
    case 80:
    case 87:
        return 163 * 1024;
    case 86:
    case 89:
    case 120:
    case 121:
        return 99 * 1024;
    default:
        return 227 * 1024;
    }
}

int simt_device_attribute(CUdevice_attribute attribute, int *value)
{
    const simt_settings *const settings = simt_settings_get();
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
        *value = settings->major;
        return 0;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
        *value = settings->minor;
        return 0;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
        *value = settings->multiprocessors;
        return 0;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
        *value = settings->l2_bytes;
        return 0;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
        *value = simt_device_shared_bytes();
        return 0;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK:
        *value = SIMT_STATIC_SHARED_BYTES;
        return 0;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        *value = SIMT_BLOCK_MAX;
        return 0;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
        *value = 32;
        return 0;
    default:
        return -1;
    }
}

/* ---- Entry points ------------------------------------------------------- */

CUresult cuInit(unsigned flags)
{
    CUresult result = simt_begin(__func__, SIMT_NOTHING);
    if (result == CUDA_SUCCESS && flags != 0)
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS && owner == 0)
        owner = getpid();
    if (result == CUDA_SUCCESS && owner != getpid())
        result = CUDA_ERROR_NOT_INITIALIZED;
    return simt_end(result);
}

CUresult cuDriverGetVersion(int *version)
{
    const CUresult result = simt_begin(__func__, SIMT_NOTHING);
    if (result == CUDA_SUCCESS)
        *version = DRIVER_VERSION;
    return simt_end(result);
}

CUresult cuGetErrorName(CUresult error, const char **text)
{
    CUresult result = simt_begin(__func__, SIMT_NOTHING);
    if (result == CUDA_SUCCESS) {
        *text = simt_result_name(error);
        result = *text != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    }
    return simt_end(result);
}

CUresult cuGetErrorString(CUresult error, const char **text)
{
    CUresult result = simt_begin(__func__, SIMT_NOTHING);
    if (result == CUDA_SUCCESS) {
        *text = simt_result_text(error);
        result = *text != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    }
    return simt_end(result);
}

CUresult cuDeviceGetCount(int *count)
{
    const CUresult result = simt_begin(__func__, SIMT_INITIALISED);
    if (result == CUDA_SUCCESS)
        *count = 1;
    return simt_end(result);
}

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    CUresult result = simt_begin(__func__, SIMT_INITIALISED);
    if (result == CUDA_SUCCESS && ordinal != 0)
        result = CUDA_ERROR_INVALID_DEVICE;
    if (result == CUDA_SUCCESS)
        *device = 0;
    return simt_end(result);
}

CUresult cuDeviceGetName(char *name, int length, CUdevice device)
{
    CUresult result = simt_begin(__func__, SIMT_INITIALISED);
    if (result == CUDA_SUCCESS && (device != 0 || length <= 0))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS)
        snprintf(name, (size_t)length, "Simulated device");
    return simt_end(result);
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute,
                              CUdevice device)
{
    CUresult result = simt_begin(__func__, SIMT_INITIALISED);
    if (result == CUDA_SUCCESS && device != 0)
        result = CUDA_ERROR_INVALID_DEVICE;
    if (result == CUDA_SUCCESS && simt_device_attribute(attribute, value) != 0)
        result = CUDA_ERROR_INVALID_VALUE;
    return simt_end(result);
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    CUresult result = simt_begin(__func__, SIMT_INITIALISED);
    if (result == CUDA_SUCCESS && device != 0)
        result = CUDA_ERROR_INVALID_DEVICE;
    if (result == CUDA_SUCCESS) {
        primary.retained++;
        *context = &primary;
    }
    return simt_end(result);
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device)
{
    CUresult result = simt_begin(__func__, SIMT_INITIALISED);
    if (device != 0)
        return simt_end(CUDA_ERROR_INVALID_DEVICE);
    if (primary.retained == 0)
        return simt_end(CUDA_ERROR_INVALID_CONTEXT);
    if (--primary.retained == 0)
        reset();
    return simt_end(result);
}

CUresult cuCtxGetCurrent(CUcontext *context)
{
    const CUresult result = simt_begin(__func__, SIMT_INITIALISED);
    if (result == CUDA_SUCCESS)
        *context = current_context();
    return simt_end(result);
}

CUresult cuCtxGetDevice(CUdevice *device)
{
    const CUresult result = simt_begin(__func__, SIMT_CONTEXT);
    if (result == CUDA_SUCCESS)
        *device = 0;
    return simt_end(result);
}

CUresult cuCtxPushCurrent(CUcontext context)
{
    CUresult result = simt_begin(__func__, SIMT_INITIALISED);
    if (result == CUDA_SUCCESS &&
        (context != &primary || context_count == CONTEXTS_MAX))
        result = CUDA_ERROR_INVALID_CONTEXT;
    if (result == CUDA_SUCCESS)
        contexts[context_count++] = context;
    return simt_end(result);
}

CUresult cuCtxPopCurrent(CUcontext *context)
{
    CUresult result = simt_begin(__func__, SIMT_INITIALISED);
    if (context_count == 0)
        return simt_end(CUDA_ERROR_INVALID_CONTEXT);
    CUcontext popped = contexts[--context_count];
    if (context != NULL)
        *context = popped;
    return simt_end(result);
}
