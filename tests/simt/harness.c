/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include <check.h>
#include <dlfcn.h>
#include <stdlib.h>

#include "harness.h"

/* SIMT_FOLDER is where the build puts the stand-ins. */
#define LIBCUDA SIMT_FOLDER "/libcuda.so"
#define LIBNVRTC SIMT_FOLDER "/libnvrtc.so"

static void *look_up(void *library, const char *name)
{
    void *const address = dlsym(library, name);
    ck_assert_msg(address != NULL, "%s is missing", name);
    return address;
}

static void take_context(simt_harness *h)
{
    ck_assert_int_eq(h->driver.cuDevicePrimaryCtxRetain(&h->context, 0),
                     CUDA_SUCCESS);
    ck_assert_int_eq(h->driver.cuCtxPushCurrent(h->context), CUDA_SUCCESS);
}

void simt_harness_open(simt_harness *h)
{
    ck_assert_msg(fex_driver_open(LIBCUDA, &h->driver) == FEX_OK, "%s",
                  fex_last_error());
    h->plan = look_up(h->driver.library, SIMT_PLAN);
    h->calls = look_up(h->driver.library, SIMT_CALLS);
    h->hits = look_up(h->driver.library, SIMT_HITS);
    h->live = look_up(h->driver.library, SIMT_LIVE);
    h->report = look_up(h->driver.library, SIMT_REPORT);

    h->compiler = dlopen(LIBNVRTC, RTLD_NOW | RTLD_LOCAL);
    ck_assert_msg(h->compiler != NULL, "%s", dlerror());
    h->nvrtcCreateProgram = look_up(h->compiler, "nvrtcCreateProgram");
    h->nvrtcCompileProgram = look_up(h->compiler, "nvrtcCompileProgram");
    h->nvrtcGetCUBINSize = look_up(h->compiler, "nvrtcGetCUBINSize");
    h->nvrtcGetCUBIN = look_up(h->compiler, "nvrtcGetCUBIN");
    h->nvrtcGetProgramLogSize = look_up(h->compiler, "nvrtcGetProgramLogSize");
    h->nvrtcGetProgramLog = look_up(h->compiler, "nvrtcGetProgramLog");
    h->nvrtcDestroyProgram = look_up(h->compiler, "nvrtcDestroyProgram");
    h->compiler_plan = look_up(h->compiler, SIMT_PLAN);
    h->compiler_calls = look_up(h->compiler, SIMT_CALLS);
    h->compiler_hits = look_up(h->compiler, SIMT_HITS);

    take_context(h);
}

static void give_context_up(simt_harness *h)
{
    CUcontext popped;
    ck_assert_int_eq(h->driver.cuCtxPopCurrent(&popped), CUDA_SUCCESS);
    ck_assert_int_eq(h->driver.cuDevicePrimaryCtxRelease(0), CUDA_SUCCESS);
}

void simt_harness_reset(simt_harness *h)
{
    give_context_up(h);
    take_context(h);
}

void simt_harness_close(simt_harness *h)
{
    give_context_up(h);
    dlclose(h->compiler);
    fex_driver_close(&h->driver);
}

char *simt_harness_compile(const simt_harness *h, const char *source,
                           char **log)
{
    static const char *const options[] = {"--gpu-architecture=sm_90"};
    nvrtcProgram program;
    size_t log_size;
    size_t size = 0;
    char *image = NULL;
    ck_assert_int_eq(h->nvrtcCreateProgram(&program, source, "kernel.cu", 0,
                                           NULL, NULL),
                     NVRTC_SUCCESS);
    const nvrtcResult result = h->nvrtcCompileProgram(program, 1, options);
    ck_assert_int_eq(h->nvrtcGetProgramLogSize(program, &log_size),
                     NVRTC_SUCCESS);
    *log = calloc(1, log_size);
    ck_assert_ptr_nonnull(*log);
    ck_assert_int_eq(h->nvrtcGetProgramLog(program, *log), NVRTC_SUCCESS);
    if (result == NVRTC_SUCCESS) {
        ck_assert_int_eq(h->nvrtcGetCUBINSize(program, &size), NVRTC_SUCCESS);
        image = calloc(1, size);
        ck_assert_ptr_nonnull(image);
        ck_assert_int_eq(h->nvrtcGetCUBIN(program, image), NVRTC_SUCCESS);
    }
    ck_assert_int_eq(h->nvrtcDestroyProgram(&program), NVRTC_SUCCESS);
    return image;
}

CUmodule simt_harness_load(const simt_harness *h, const char *source)
{
    CUmodule module;
    char *log;
    char *const image = simt_harness_compile(h, source, &log);
    ck_assert_msg(image != NULL, "%s", log);
    ck_assert_int_eq(
        h->driver.cuModuleLoadDataEx(&module, image, 0, NULL, NULL),
        CUDA_SUCCESS);
    free(image);
    free(log);
    return module;
}

CUresult simt_harness_launch(const simt_harness *h, CUmodule module,
                             const char *kernel, CUlaunchConfig config,
                             const void *args)
{
    CUfunction function;
    void *parameters[] = {(void *)(uintptr_t)args};
    ck_assert_int_eq(h->driver.cuModuleGetFunction(&function, module, kernel),
                     CUDA_SUCCESS);
    return h->driver.cuLaunchKernelEx(&config, function, parameters, NULL);
}
