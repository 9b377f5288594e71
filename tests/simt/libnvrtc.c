/* SPDX-License-Identifier: Apache-2.0 */
/* libnvrtc.c - NVRTC's entry points, which compile for the host. */
#include "config.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#pragma GCC visibility push(default)
#include <nvrtc.h>
#pragma GCC visibility pop

#include "compile.h"
#include "control.h"
#include "faults.h"

struct _nvrtcProgram {
    simt_sources sources;
    char *log;
    char *image;
    size_t image_size;
};

static pthread_once_t plan_once = PTHREAD_ONCE_INIT;

/* ---- Results and faults ------------------------------------------------- */

static const char *const results[] = {
    [NVRTC_SUCCESS] = "NVRTC_SUCCESS",
    [NVRTC_ERROR_OUT_OF_MEMORY] = "NVRTC_ERROR_OUT_OF_MEMORY",
    [NVRTC_ERROR_PROGRAM_CREATION_FAILURE] =
        "NVRTC_ERROR_PROGRAM_CREATION_FAILURE",
    [NVRTC_ERROR_INVALID_INPUT] = "NVRTC_ERROR_INVALID_INPUT",
    [NVRTC_ERROR_INVALID_PROGRAM] = "NVRTC_ERROR_INVALID_PROGRAM",
    [NVRTC_ERROR_INVALID_OPTION] = "NVRTC_ERROR_INVALID_OPTION",
    [NVRTC_ERROR_COMPILATION] = "NVRTC_ERROR_COMPILATION",
    [NVRTC_ERROR_BUILTIN_OPERATION_FAILURE] =
        "NVRTC_ERROR_BUILTIN_OPERATION_FAILURE",
    [NVRTC_ERROR_INTERNAL_ERROR] = "NVRTC_ERROR_INTERNAL_ERROR",
};
#define RESULT_COUNT (sizeof results / sizeof *results)

static int result_by_name(const char *name)
{
    for (size_t i = 0; i < RESULT_COUNT; i++)
        if (results[i] != NULL && strcmp(results[i], name) == 0)
            return (int)i;
    return -1;
}

static void plan_faults(void)
{
    simt_faults_plan(getenv("FLASHEXPERT_SIM_FAIL"), "nvrtc", result_by_name);
}

static nvrtcResult begin(const char *function)
{
    pthread_once(&plan_once, plan_faults);
    return (nvrtcResult)simt_faults_count(function);
}

SIMT_EXPORT simt_plan_function simt_plan;
SIMT_EXPORT simt_calls_function simt_calls;
SIMT_EXPORT simt_hits_function simt_hits;

void simt_plan(const char *plan)
{
    pthread_once(&plan_once, plan_faults); /* which would come later else */
    simt_faults_plan(plan, "nvrtc", result_by_name);
}

unsigned long simt_calls(const char *function)
{
    return simt_faults_calls(function);
}

unsigned simt_hits(void)
{
    return simt_faults_hit();
}

/* ---- General ------------------------------------------------------------ */

const char *nvrtcGetErrorString(nvrtcResult result)
{
    begin(__func__);
    const size_t i = (size_t)result;
    return i < RESULT_COUNT && results[i] != NULL ? results[i]
                                                  : "NVRTC_ERROR unknown";
}

nvrtcResult nvrtcVersion(int *major, int *minor)
{
    const nvrtcResult result = begin(__func__);
    if (result == NVRTC_SUCCESS) {
        *major = 13;
        *minor = 0;
    }
    return result;
}

static const int architectures[] = {75, 80,  86,  87,  88,  89,
                                    90, 100, 103, 110, 120, 121};
#define ARCHITECTURE_COUNT (sizeof architectures / sizeof *architectures)

nvrtcResult nvrtcGetNumSupportedArchs(int *count)
{
    const nvrtcResult result = begin(__func__);
    if (result == NVRTC_SUCCESS)
        *count = (int)ARCHITECTURE_COUNT;
    return result;
}

nvrtcResult nvrtcGetSupportedArchs(int *supported)
{
    const nvrtcResult result = begin(__func__);
    if (result == NVRTC_SUCCESS)
        memcpy(supported, architectures, sizeof architectures);
    return result;
}

/* ---- Programs ----------------------------------------------------------- */

nvrtcResult nvrtcCreateProgram(nvrtcProgram *program, const char *source,
                               const char *name, int header_count,
                               const char *const *headers,
                               const char *const *names)
{
    const nvrtcResult result = begin(__func__);
    (void)name; /* a #line in the source tells */
    if (result != NVRTC_SUCCESS)
        return result;
    nvrtcProgram made = calloc(1, sizeof *made);
    if (made == NULL)
        return NVRTC_ERROR_OUT_OF_MEMORY;
    if (simt_sources_copy(&made->sources, source, (size_t)header_count, headers,
                          names) != 0) {
        free(made);
        return NVRTC_ERROR_OUT_OF_MEMORY;
    }
    *program = made;
    return NVRTC_SUCCESS;
}

nvrtcResult nvrtcDestroyProgram(nvrtcProgram *program)
{
    const nvrtcResult result = begin(__func__);
    simt_sources_free(&(*program)->sources);
    free((*program)->log);
    free((*program)->image);
    free(*program);
    *program = NULL;
    return result;
}

/* The number in "--gpu-architecture=sm_90a"; 0 for another option that has no
 * meaning here, -1 for one that NVRTC does not know, or an architecture. */
static int parse_option(const char *option)
{
    static const char *const ignored[] = {"--std=c++17",
                                          "--diag-suppress=177",
                                          "--device-as-default-execution-space",
                                          "-default-device",
                                          "-lineinfo",
                                          "--generate-line-info",
                                          "--no-cache"};
    static const char architecture[] = "--gpu-architecture=sm_";
    if (strncmp(option, architecture, sizeof architecture - 1) == 0) {
        const int number = atoi(option + sizeof architecture - 1);
        for (size_t i = 0; i < ARCHITECTURE_COUNT; i++)
            if (architectures[i] == number)
                return number;
        return -1;
    }
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        if (strcmp(option, ignored[i]) == 0)
            return 0;
    return -1;
}

nvrtcResult nvrtcCompileProgram(nvrtcProgram program, int option_count,
                                const char *const *options)
{
    const nvrtcResult result = begin(__func__);
    int architecture = 75;
    free(program->log);
    free(program->image);
    program->image = NULL;
    program->image_size = 0;
    program->log = strdup("");
    if (program->log == NULL)
        return NVRTC_ERROR_OUT_OF_MEMORY;
    if (result != NVRTC_SUCCESS)
        return result;
    for (int i = 0; i < option_count; i++) {
        const int number = parse_option(options[i]);
        if (number < 0) {
            free(program->log);
            if (asprintf(&program->log, "nvrtc: error: invalid option: %s\n",
                         options[i]) < 0)
                program->log = NULL;
            return NVRTC_ERROR_INVALID_OPTION;
        }
        architecture = number > 0 ? number : architecture;
    }
    free(program->log);
    program->log = NULL;
    switch (simt_compile(&program->sources, architecture, &program->image,
                         &program->image_size, &program->log)) {
    case SIMT_COMPILED:
        return NVRTC_SUCCESS;
    case SIMT_REFUSED:
        return NVRTC_ERROR_COMPILATION;
    default:
        return NVRTC_ERROR_INTERNAL_ERROR;
    }
}

nvrtcResult nvrtcGetCUBINSize(nvrtcProgram program, size_t *size)
{
    const nvrtcResult result = begin(__func__);
    if (result == NVRTC_SUCCESS)
        *size = program->image_size;
    return result;
}

nvrtcResult nvrtcGetCUBIN(nvrtcProgram program, char *image)
{
    const nvrtcResult result = begin(__func__);
    if (result != NVRTC_SUCCESS)
        return result;
    if (program->image == NULL)
        return NVRTC_ERROR_INVALID_PROGRAM;
    memcpy(image, program->image, program->image_size);
    return NVRTC_SUCCESS;
}

static const char *log_of(nvrtcProgram program)
{
    return program->log != NULL ? program->log : "";
}

nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram program, size_t *size)
{
    const nvrtcResult result = begin(__func__);
    if (result == NVRTC_SUCCESS)
        *size = strlen(log_of(program)) + 1;
    return result;
}

nvrtcResult nvrtcGetProgramLog(nvrtcProgram program, char *log)
{
    const nvrtcResult result = begin(__func__);
    if (result == NVRTC_SUCCESS)
        strcpy(log, log_of(program));
    return result;
}
