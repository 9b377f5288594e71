/* SPDX-License-Identifier: Apache-2.0 */
/* driver_module.c - the driver's entry points for modules and launches. */
#include "config.h"

#include "device.h"
#include "stream.h"

CUresult cuModuleLoadDataEx(CUmodule *module, const void *image,
                            unsigned option_count, CUjit_option *options,
                            void **values)
{
    CUresult result = simt_begin(__func__, SIMT_CONTEXT);
    (void)option_count;
    (void)options;
    (void)values;
    if (result == CUDA_SUCCESS)
        result = simt_stream_forbid_capture();
    if (result == CUDA_SUCCESS)
        result = simt_module_load(image, module);
    return simt_end(result);
}

CUresult cuModuleUnload(CUmodule module)
{
    const CUresult result = simt_begin(__func__, SIMT_CONTEXT);
    simt_stream_run_all();
    const CUresult unloaded = simt_module_unload(module);
    return simt_end(result != CUDA_SUCCESS ? result : unloaded);
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module,
                             const char *name)
{
    CUresult result = simt_begin(__func__, SIMT_CONTEXT);
    if (result == CUDA_SUCCESS)
        result = simt_module_function(module, name, function);
    return simt_end(result);
}

CUresult cuFuncSetAttribute(CUfunction function,
                            CUfunction_attribute attribute, int value)
{
    CUresult result = simt_begin(__func__, SIMT_CONTEXT);
    if (result != CUDA_SUCCESS)
        return simt_end(result);
    const size_t most =
        (size_t)simt_device_shared_bytes() - function->static_shared;
    switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        if (value < 0 || (size_t)value > most)
            result = CUDA_ERROR_INVALID_VALUE;
        else
            function->dynamic_shared_max = (size_t)value;
        break;
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
        function->large_clusters = value != 0;
        break;
    default:
        result = CUDA_ERROR_INVALID_VALUE;
    }
    return simt_end(result);
}

CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute,
                            CUfunction function)
{
    CUresult result = simt_begin(__func__, SIMT_CONTEXT);
    if (result != CUDA_SUCCESS)
        return simt_end(result);
    switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        *value = function->kernel->max_threads > 0
                     ? function->kernel->max_threads
                     : 1024;
        break;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
        *value = (int)function->static_shared;
        break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        *value = (int)function->dynamic_shared_max;
        break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
        *value = 0; /* there is no such thing here */
        break;
    default:
        result = CUDA_ERROR_INVALID_VALUE;
    }
    return simt_end(result);
}

/* What a launch's attributes say of its grid. That it may overlap with the one
 * ahead of it only allows it to: here it does not. */
static CUresult read_attributes(const CUlaunchConfig *config, simt_grid *grid)
{
    grid->cluster_size = (simt_dim3){1, 1, 1};
    for (unsigned i = 0; i < config->numAttrs; i++) {
        const CUlaunchAttributeValue *const value = &config->attrs[i].value;
        switch (config->attrs[i].id) {
        case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
            grid->cluster_size = (simt_dim3){
                value->clusterDim.x, value->clusterDim.y, value->clusterDim.z};
            break;
        case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION:
            grid->dependent = value->programmaticStreamSerializationAllowed;
            break;
        default:
            return CUDA_ERROR_NOT_SUPPORTED; /* not used so far */
        }
    }
    return CUDA_SUCCESS;
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function,
                          void **parameters, void **extra)
{
    CUresult result = simt_begin(__func__, SIMT_CONTEXT);
    CUstream stream = simt_stream_find(config->hStream);
    if (result == CUDA_SUCCESS && (stream == NULL || function == NULL))
        result = CUDA_ERROR_INVALID_HANDLE;
    if (result == CUDA_SUCCESS && (parameters == NULL || extra != NULL))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result != CUDA_SUCCESS)
        return simt_end(result);
    simt_operation launch = {
        .kind = SIMT_LAUNCH,
        .grid = {.function = function,
                 .grid_size = {config->gridDimX, config->gridDimY,
                               config->gridDimZ},
                 .block_size = {config->blockDimX, config->blockDimY,
                                config->blockDimZ},
                 .dynamic_shared = config->sharedMemBytes,
                 .args = parameters[0]}};
    result = read_attributes(config, &launch.grid);
    if (result == CUDA_SUCCESS)
        result = simt_grid_check(&launch.grid);
    if (result == CUDA_SUCCESS)
        result = simt_stream_add(stream, &launch);
    return simt_end(result);
}
