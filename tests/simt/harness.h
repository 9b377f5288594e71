/* SPDX-License-Identifier: Apache-2.0 */
/* harness.h - the stand-ins as tests of them use them: both opened, with a
 * context, and a kernel compiled and launched in one call. */
#ifndef SIMT_HARNESS_H
#define SIMT_HARNESS_H

#include <nvrtc.h>

#include "control.h"
#include "driver.h"

typedef struct simt_harness {
    fex_driver driver;
    CUcontext context;
    simt_plan_function *plan;
    simt_calls_function *calls;
    simt_hits_function *hits;
    simt_live_function *live;
    simt_report_function *report;

    void *compiler;
    __typeof__(&nvrtcCreateProgram) nvrtcCreateProgram;
    __typeof__(&nvrtcCompileProgram) nvrtcCompileProgram;
    __typeof__(&nvrtcGetCUBINSize) nvrtcGetCUBINSize;
    __typeof__(&nvrtcGetCUBIN) nvrtcGetCUBIN;
    __typeof__(&nvrtcGetProgramLogSize) nvrtcGetProgramLogSize;
    __typeof__(&nvrtcGetProgramLog) nvrtcGetProgramLog;
    __typeof__(&nvrtcDestroyProgram) nvrtcDestroyProgram;
    simt_plan_function *compiler_plan;
    simt_calls_function *compiler_calls;
    simt_hits_function *compiler_hits;
} simt_harness;

/* These end the test if anything is not as it should be. */
void simt_harness_open(simt_harness *harness);
void simt_harness_close(simt_harness *harness);

/* Gives the context up, with all that is in it, and takes it anew. */
void simt_harness_reset(simt_harness *harness);

/* Compiles a source, for sm_90. NULL if it was refused; *log then says why, and
 * in any case is the caller's to free, as the image is. */
char *simt_harness_compile(const simt_harness *harness, const char *source,
                           char **log);

/* The same, loaded. */
CUmodule simt_harness_load(const simt_harness *harness, const char *source);

/* Queues its kernel of this name on a stream. */
CUresult simt_harness_launch(const simt_harness *harness, CUmodule module,
                             const char *kernel, CUlaunchConfig config,
                             const void *args);

#endif
