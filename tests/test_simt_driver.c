/* SPDX-License-Identifier: Apache-2.0 */
/* test_simt_driver.c - the simulated driver keeps CUDA's rules for contexts,
 * memory, streams, events and graphs, and fails when it is told to. */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "simt/harness.h"

#define MEMORY_BYTES ((size_t)1 << 20) /* of the device */

static simt_harness h;
static CUmodule module;
static CUdeviceptr counter;

/* Adds args.step to a counter. */
typedef struct add_args {
    CUdeviceptr counter;
    unsigned step;
} add_args;

static const char add_source[] =
    "struct add_args { unsigned *counter; unsigned step; };\n"
    "extern \"C\" __global__ void\n"
    "    add(const __grid_constant__ add_args args)\n"
    "{ *args.counter += args.step; }\n";

static void open_device(void)
{
    simt_harness_open(&h);
    module = simt_harness_load(&h, add_source);
    ck_assert_int_eq(h.driver.cuMemAlloc(&counter, 4), CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuMemsetD8(counter, 0, 4), CUDA_SUCCESS);
}

static void close_device(void)
{
    h.driver.cuMemFree(counter);
    h.driver.cuModuleUnload(module);
    simt_harness_close(&h);
}

static CUresult add(unsigned step, CUstream stream)
{
    const CUlaunchConfig config = {.gridDimX = 1,
                                   .gridDimY = 1,
                                   .gridDimZ = 1,
                                   .blockDimX = 1,
                                   .blockDimY = 1,
                                   .blockDimZ = 1,
                                   .hStream = stream};
    add_args args = {counter, step};
    const CUresult result =
        simt_harness_launch(&h, module, "add", config, &args);
    args.step = 1000; /* was copied */
    return result;
}

/* Of the default stream, which waits for blocking ones only. */
static unsigned read_counter(void)
{
    unsigned value;
    ck_assert_int_eq(h.driver.cuMemcpyDtoH(&value, counter, sizeof value),
                     CUDA_SUCCESS);
    return value;
}

/* ---- Contexts, modules, memory ------------------------------------------ */

START_TEST(a_context_is_needed)
{
    CUcontext popped;
    CUcontext current;
    CUdeviceptr address;
    ck_assert_int_eq(h.driver.cuCtxGetCurrent(&current), CUDA_SUCCESS);
    ck_assert_ptr_eq(current, h.context);
    ck_assert_int_eq(h.driver.cuCtxPopCurrent(&popped), CUDA_SUCCESS);
    ck_assert_ptr_eq(popped, h.context);
    ck_assert_int_eq(h.driver.cuMemAlloc(&address, 4),
                     CUDA_ERROR_INVALID_CONTEXT);
    ck_assert_int_eq(h.driver.cuCtxPopCurrent(&popped),
                     CUDA_ERROR_INVALID_CONTEXT);
    ck_assert_int_eq(h.driver.cuCtxPushCurrent(h.context), CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuDevicePrimaryCtxRelease(0), CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuMemAlloc(&address, 4),
                     CUDA_ERROR_CONTEXT_IS_DESTROYED);
    ck_assert_int_eq(h.driver.cuDevicePrimaryCtxRetain(&current, 0),
                     CUDA_SUCCESS);
    /* What was in it went with it. */
    ck_assert_int_eq(h.driver.cuMemFree(counter), CUDA_ERROR_INVALID_VALUE);
}
END_TEST

START_TEST(a_child_has_no_device)
{
    int status;
    const pid_t child = fork();
    if (child == 0)
        _exit((int)h.driver.cuCtxSynchronize());
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(WEXITSTATUS(status), CUDA_ERROR_NOT_INITIALIZED);
}
END_TEST

START_TEST(bad_images_are_refused)
{
    static const char image[256] = "\177ELF";
    CUmodule bad;
    CUfunction function;
    ck_assert_int_eq(
        h.driver.cuModuleLoadDataEx(&bad, image, 0, NULL, NULL),
        CUDA_ERROR_INVALID_IMAGE);
    ck_assert_int_eq(h.driver.cuModuleGetFunction(&function, module, "sub"),
                     CUDA_ERROR_NOT_FOUND);
}
END_TEST

START_TEST(memory_has_bounds)
{
    CUdeviceptr address;
    char bytes[16];
    ck_assert_int_eq(h.driver.cuMemAlloc(&address, 0),
                     CUDA_ERROR_INVALID_VALUE);
    ck_assert_int_eq(h.driver.cuMemAlloc(&address, MEMORY_BYTES),
                     CUDA_ERROR_OUT_OF_MEMORY);
    ck_assert_int_eq(h.driver.cuMemAlloc(&address, 10), CUDA_SUCCESS);
    ck_assert_uint_eq(address % 256, 0);
    ck_assert_int_eq(h.driver.cuMemcpyHtoD(address + 2, bytes, 8),
                     CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuMemcpyHtoD(address + 2, bytes, 9),
                     CUDA_ERROR_INVALID_VALUE);
    ck_assert_int_eq(h.driver.cuMemcpyDtoH(bytes, address - 1, 2),
                     CUDA_ERROR_INVALID_VALUE);
    ck_assert_int_eq(h.driver.cuMemsetD8Async(address, 0, 11, NULL),
                     CUDA_ERROR_INVALID_VALUE);
    ck_assert_int_eq(h.driver.cuMemFree(address + 2),
                     CUDA_ERROR_INVALID_VALUE);
    ck_assert_int_eq(h.driver.cuMemFree(address), CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuMemFree(address), CUDA_ERROR_INVALID_VALUE);
}
END_TEST

START_TEST(what_is_held_is_told)
{
    char live[256];
    CUstream stream;
    h.live(live, sizeof live);
    ck_assert_str_eq(live, "1 primary contexts, 1 modules, 1 allocations");
    ck_assert_int_eq(h.driver.cuStreamCreate(&stream, 0), CUDA_SUCCESS);
    h.live(live, sizeof live);
    ck_assert_ptr_nonnull(strstr(live, ", 1 streams"));
    ck_assert_int_eq(h.driver.cuStreamDestroy(stream), CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuStreamDestroy(stream),
                     CUDA_ERROR_INVALID_HANDLE);
}
END_TEST

/* ---- Streams and events ------------------------------------------------- */

START_TEST(work_waits_until_somebody_does)
{
    CUstream stream;
    unsigned value = 77;
    ck_assert_int_eq(h.driver.cuStreamCreate(&stream, 0), CUDA_SUCCESS);
    ck_assert_int_eq(add(5, stream), CUDA_SUCCESS);
    ck_assert_int_eq(
        h.driver.cuMemcpyDtoHAsync(&value, counter, sizeof value, stream),
        CUDA_SUCCESS);
    ck_assert_uint_eq(value, 77);
    ck_assert_int_eq(h.driver.cuStreamSynchronize(stream), CUDA_SUCCESS);
    ck_assert_uint_eq(value, 5);
    ck_assert_int_eq(h.driver.cuMemsetD8Async(counter, 0, 4, stream),
                     CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuStreamDestroy(stream), CUDA_SUCCESS);
    ck_assert_uint_eq(read_counter(), 0);
}
END_TEST

START_TEST(the_default_stream_waits_for_blocking_ones)
{
    CUstream blocking;
    CUstream other;
    ck_assert_int_eq(h.driver.cuStreamCreate(&blocking, 0), CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuStreamCreate(&other, CU_STREAM_NON_BLOCKING),
                     CUDA_SUCCESS);
    ck_assert_int_eq(add(1, blocking), CUDA_SUCCESS);
    ck_assert_int_eq(add(10, other), CUDA_SUCCESS);
    ck_assert_uint_eq(read_counter(), 1);
    ck_assert_int_eq(h.driver.cuCtxSynchronize(), CUDA_SUCCESS);
    ck_assert_uint_eq(read_counter(), 11);
    h.driver.cuStreamDestroy(blocking);
    h.driver.cuStreamDestroy(other);
}
END_TEST

START_TEST(events_mark_time)
{
    CUevent start;
    CUevent end;
    float milliseconds = -1.0f;
    ck_assert_int_eq(h.driver.cuEventCreate(&start, 0), CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuEventCreate(&end, 0), CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuEventRecord(start, NULL), CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuEventElapsedTime(&milliseconds, start, end),
                     CUDA_ERROR_INVALID_HANDLE);
    ck_assert_int_eq(add(1, NULL), CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuEventRecord(end, NULL), CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuEventElapsedTime(&milliseconds, start, end),
                     CUDA_ERROR_NOT_READY);
    ck_assert_int_eq(h.driver.cuEventSynchronize(end), CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuEventElapsedTime(&milliseconds, start, end),
                     CUDA_SUCCESS);
    ck_assert_float_gt(milliseconds, 0.0f);
    ck_assert_int_eq(h.driver.cuEventDestroy(start), CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuEventDestroy(end), CUDA_SUCCESS);
}
END_TEST

/* ---- Captures and graphs ------------------------------------------------ */

START_TEST(graphs_replay)
{
    CUstream stream;
    CUstreamCaptureStatus status;
    CUgraph graph;
    CUgraphExec exec;
    ck_assert_int_eq(h.driver.cuStreamCreate(&stream, 0), CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuStreamBeginCapture(
                         stream, CU_STREAM_CAPTURE_MODE_GLOBAL),
                     CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuStreamIsCapturing(stream, &status),
                     CUDA_SUCCESS);
    ck_assert_int_eq(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
    ck_assert_int_eq(add(3, stream), CUDA_SUCCESS);
    ck_assert_int_eq(add(4, stream), CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuStreamEndCapture(stream, &graph),
                     CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuGraphInstantiate(&exec, graph, 0),
                     CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuGraphDestroy(graph), CUDA_SUCCESS);
    ck_assert_uint_eq(read_counter(), 0);
    ck_assert_int_eq(h.driver.cuGraphLaunch(exec, stream), CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuGraphLaunch(exec, stream), CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuGraphExecDestroy(exec), CUDA_SUCCESS);
    ck_assert_uint_eq(read_counter(), 14);
    ck_assert_int_eq(h.driver.cuStreamDestroy(stream), CUDA_SUCCESS);
}
END_TEST

/* Each call that a capture does not survive, and what it says. */
static CUresult synchronize_capturing(CUstream stream)
{
    return h.driver.cuStreamSynchronize(stream);
}

static CUresult synchronize_context(CUstream stream)
{
    (void)stream;
    return h.driver.cuCtxSynchronize();
}

static CUresult use_default_stream(CUstream stream)
{
    (void)stream;
    return add(1, NULL);
}

static CUresult allocate(CUstream stream)
{
    CUdeviceptr address;
    (void)stream;
    return h.driver.cuMemAlloc(&address, 1);
}

static CUresult copy(CUstream stream)
{
    char byte;
    (void)stream;
    return h.driver.cuMemcpyDtoH(&byte, counter, 1);
}

static const struct {
    CUresult (*call)(CUstream stream);
    CUresult result;
} capture_breakers[] = {
    {synchronize_capturing, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED},
    {synchronize_context, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED},
    {use_default_stream, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT},
    {allocate, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED},
    {copy, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED},
};

START_TEST(a_capture_can_be_lost)
{
    CUstream stream;
    CUstreamCaptureStatus status;
    CUgraph graph;
    ck_assert_int_eq(h.driver.cuStreamCreate(&stream, 0), CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuStreamBeginCapture(
                         stream, CU_STREAM_CAPTURE_MODE_GLOBAL),
                     CUDA_SUCCESS);
    ck_assert_int_eq(add(1, stream), CUDA_SUCCESS);
    /* To ask does no harm. */
    ck_assert_int_eq(h.driver.cuStreamIsCapturing(NULL, &status),
                     CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    ck_assert_int_eq(h.driver.cuStreamIsCapturing(stream, &status),
                     CUDA_SUCCESS);
    ck_assert_int_eq(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);

    ck_assert_int_eq(capture_breakers[_i].call(stream),
                     capture_breakers[_i].result);
    ck_assert_int_eq(add(1, stream), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    ck_assert_int_eq(h.driver.cuStreamEndCapture(stream, &graph),
                     CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    ck_assert_int_eq(add(1, stream), CUDA_SUCCESS);
    ck_assert_uint_eq(read_counter(), 1);
    ck_assert_int_eq(h.driver.cuStreamDestroy(stream), CUDA_SUCCESS);
}
END_TEST

/* ---- Faults on demand --------------------------------------------------- */

START_TEST(calls_fail_as_planned)
{
    CUdeviceptr address;
    h.plan("cuMemAlloc:2=CUDA_ERROR_OUT_OF_MEMORY;"
           "nvrtcVersion:1=NVRTC_ERROR_INTERNAL_ERROR; cuMemFree:3+=1");
    for (unsigned call = 1; call <= 4; call++) {
        ck_assert_int_eq(h.driver.cuMemAlloc(&address, 1),
                         call == 2 ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS);
        /* Frees nevertheless, as the last check sees. */
        if (call != 2)
            ck_assert_int_eq(h.driver.cuMemFree(address),
                             call == 4 ? CUDA_ERROR_INVALID_VALUE
                                       : CUDA_SUCCESS);
    }
    ck_assert_uint_eq(h.calls("cuMemAlloc"), 4);
    ck_assert_uint_eq(h.calls("cuMemFree"), 3);
    ck_assert_uint_eq(h.hits(), 2);
    h.plan(NULL);
    ck_assert_uint_eq(h.calls("cuMemAlloc"), 0);
    char live[256];
    h.live(live, sizeof live);
    ck_assert_str_eq(live, "1 primary contexts, 1 modules, 1 allocations");
}
END_TEST

START_TEST(calls_take_their_time_as_planned)
{
    struct timespec before;
    struct timespec after;
    h.plan("cuCtxSynchronize:1=60ms");
    clock_gettime(CLOCK_MONOTONIC, &before);
    ck_assert_int_eq(h.driver.cuCtxSynchronize(), CUDA_SUCCESS);
    clock_gettime(CLOCK_MONOTONIC, &after);
    ck_assert_int_ge((after.tv_sec - before.tv_sec) * 1000 +
                         (after.tv_nsec - before.tv_nsec) / 1000000,
                     59);
}
END_TEST

START_TEST(the_compiler_fails_as_planned)
{
    char *log;
    h.compiler_plan("nvrtcCompileProgram:1=NVRTC_ERROR_COMPILATION");
    ck_assert_ptr_null(simt_harness_compile(&h, add_source, &log));
    free(log);
    char *const image = simt_harness_compile(&h, add_source, &log);
    ck_assert_ptr_nonnull(image);
    ck_assert_uint_eq(h.compiler_calls("nvrtcCompileProgram"), 2);
    ck_assert_uint_eq(h.compiler_hits(), 1);
    free(image);
    free(log);
}
END_TEST

START_TEST(a_wrong_plan_ends_the_process)
{
    h.plan("cuMemAlloc:1=CUDA_ERROR_OUT_OF_MEMROY");
}
END_TEST

static Suite *make_suite(void)
{
    Suite *const suite = suite_create("simt_driver");
    TCase *const basic = tcase_create("basic");
    TCase *const streams = tcase_create("streams");
    TCase *const faults = tcase_create("faults");
    const int breaker_count =
        (int)(sizeof capture_breakers / sizeof *capture_breakers);

    tcase_add_checked_fixture(basic, open_device, close_device);
    tcase_add_test(basic, a_context_is_needed);
    tcase_add_test(basic, a_child_has_no_device);
    tcase_add_test(basic, bad_images_are_refused);
    tcase_add_test(basic, memory_has_bounds);
    tcase_add_test(basic, what_is_held_is_told);

    tcase_add_checked_fixture(streams, open_device, close_device);
    tcase_add_test(streams, work_waits_until_somebody_does);
    tcase_add_test(streams, the_default_stream_waits_for_blocking_ones);
    tcase_add_test(streams, events_mark_time);
    tcase_add_test(streams, graphs_replay);
    tcase_add_loop_test(streams, a_capture_can_be_lost, 0, breaker_count);

    tcase_add_checked_fixture(faults, open_device, close_device);
    tcase_add_test(faults, calls_fail_as_planned);
    tcase_add_test(faults, calls_take_their_time_as_planned);
    tcase_add_test(faults, the_compiler_fails_as_planned);
    tcase_add_test_raise_signal(faults, a_wrong_plan_ends_the_process, SIGABRT);

    TCase *const all[] = {basic, streams, faults};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        tcase_set_timeout(all[i], 60);
        suite_add_tcase(suite, all[i]);
    }
    return suite;
}

int main(void)
{
    char bytes[32];
    snprintf(bytes, sizeof bytes, "%zu", MEMORY_BYTES);
    setenv("FLASHEXPERT_SIM_MEMORY", bytes, 1);
    SRunner *const runner = srunner_create(make_suite());
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
