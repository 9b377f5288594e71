/* SPDX-License-Identifier: Apache-2.0 */
/* test_faults.c - whichever call of the driver or the compiler fails, the
 * library says so, holds nothing it should not, and goes on when asked again.
 *
 * A life of the library, from a context to its end, is lived once to count its
 * calls, and then again for each call, which fails. On the simulated device. */
#include "config.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache_case.h"
#include "flashexpert_rtc.h"
#include "simt/harness.h"

enum { TOKENS = 6, HIDDEN = 8, TOP_K = 4, EXPERTS = 5, PAIRS = TOKENS * TOP_K };

/* What prepare loads: those of forward, backward and the check of indices. */
#define MODULES "7 modules"

static simt_harness h;
static char cache[256];

/* ---- The data ----------------------------------------------------------- */

/* Everything in one structure, so that a device has a copy of it. */
typedef struct data {
    float hidden_states[TOKENS * HIDDEN];
    float grad_output[TOKENS * HIDDEN];
    float down_weights[EXPERTS * HIDDEN];
    float up_weights[EXPERTS * HIDDEN];
    float routing_weights[PAIRS];
    int indices[PAIRS];
    float expert_states[TOKENS * HIDDEN]; /* the outputs, from here on */
    float grad_hidden_states[TOKENS * HIDDEN];
    float grad_down_weights[EXPERTS * HIDDEN];
    float grad_up_weights[EXPERTS * HIDDEN];
    float grad_routing_weights[PAIRS];
} data;

#define FIRST_OUTPUT offsetof(data, expert_states)
#define FORWARD_OUTPUTS ((size_t)TOKENS * HIDDEN)
#define ALL_OUTPUTS ((sizeof(data) - FIRST_OUTPUT) / sizeof(float))

static data input;
static data truth;

static const fex_op_desc desc = {.size = sizeof desc,
                                 .dtype = FEX_DTYPE_F32,
                                 .hidden_size = HIDDEN,
                                 .top_k = TOP_K,
                                 .num_experts = EXPERTS,
                                 .flags = FEX_OP_CHECK_INDICES};

static fex_forward_args forward_on(data *where)
{
    return (fex_forward_args){.size = sizeof(fex_forward_args),
                              .num_tokens = TOKENS,
                              .hidden_states = where->hidden_states,
                              .down_weights = where->down_weights,
                              .up_weights = where->up_weights,
                              .indices = where->indices,
                              .routing_weights = where->routing_weights,
                              .expert_states = where->expert_states};
}

static fex_backward_args backward_on(data *where)
{
    return (fex_backward_args){
        .size = sizeof(fex_backward_args),
        .num_tokens = TOKENS,
        .grad_output = where->grad_output,
        .hidden_states = where->hidden_states,
        .down_weights = where->down_weights,
        .up_weights = where->up_weights,
        .indices = where->indices,
        .routing_weights = where->routing_weights,
        .grad_hidden_states = where->grad_hidden_states,
        .grad_down_weights = where->grad_down_weights,
        .grad_up_weights = where->grad_up_weights,
        .grad_routing_weights = where->grad_routing_weights};
}

static void make_data(void)
{
    float *const numbers = (float *)(void *)&input;
    for (size_t i = 0; i < FIRST_OUTPUT / sizeof *numbers; i++)
        numbers[i] = sinf((float)i * 1.7f);
    for (int i = 0; i < PAIRS; i++)
        input.indices[i] = i % 7 == 0 ? -1 : i * i % EXPERTS;
    memset((char *)&input + FIRST_OUTPUT, 0xff, sizeof input - FIRST_OUTPUT);
    truth = input;
    const fex_forward_args forward = forward_on(&truth);
    const fex_backward_args backward = backward_on(&truth);
    ck_assert_int_eq(fex_reference_forward(&desc, &forward), FEX_OK);
    ck_assert_int_eq(fex_reference_backward(&desc, &backward), FEX_OK);
}

static void check_outputs(const data *result, size_t count)
{
    const float *const is =
        (const float *)(const void *)((const char *)result + FIRST_OUTPUT);
    const float *const should =
        (const float *)(const void *)((const char *)&truth + FIRST_OUTPUT);
    for (size_t i = 0; i < count; i++)
        ck_assert_msg(fabsf(is[i] - should[i]) <= 1e-5f * (1 + fabsf(should[i])),
                      "output %zu is %g, not %g", i, is[i], should[i]);
}

/* ---- A life ------------------------------------------------------------- */

typedef struct life {
    fex_context *context;
    fex_op *op;
    data *memory; /* on the device, as is workspace */
    void *workspace;
    size_t workspace_size;
    size_t outputs; /* that there are by now */
    int failures;
    fex_status status; /* of the last failure */
    char error[1024];
} life;

static fex_status create_context(life *l)
{
    const fex_context_options options = {.size = sizeof options,
                                         .cache_dir = cache};
    return fex_context_create(&options, &l->context);
}

static fex_status create_op(life *l)
{
    return fex_op_create(l->context, &desc, &l->op);
}

static fex_status prepare(life *l)
{
    return fex_op_prepare(l->op, FEX_PASS_BOTH, TOKENS);
}

static fex_status run_forward(life *l)
{
    fex_forward_args args = forward_on(l->memory);
    args.workspace = l->workspace;
    args.workspace_size = l->workspace_size;
    l->outputs = FORWARD_OUTPUTS;
    return fex_forward(l->op, &args, NULL);
}

static fex_status run_backward(life *l)
{
    fex_backward_args args = backward_on(l->memory);
    args.workspace = l->workspace;
    args.workspace_size = l->workspace_size;
    l->outputs = ALL_OUTPUTS;
    return fex_backward(l->op, &args, NULL);
}

/* A step that failed is taken again, and then has to succeed: the plan lets
 * one call fail. */
static void step(life *l, fex_status (*take)(life *l))
{
    const fex_status status = take(l);
    if (status == FEX_OK)
        return;
    l->failures++;
    l->status = status;
    snprintf(l->error, sizeof l->error, "%s", fex_last_error());
    ck_assert_msg(take(l) == FEX_OK, "again, after %s: %s", l->error,
                  fex_last_error());
}

enum { WORKSPACE_SIZE = 1 << 16 }; /* more than the operation asks for */

/* The harness's own calls are not part of a life. Its context is not current
 * during one, so that the library has to make its own so. */
static void begin_life(life *l)
{
    CUdeviceptr memory;
    CUdeviceptr workspace;
    CUcontext popped;
    *l = (life){.workspace_size = WORKSPACE_SIZE};
    ck_assert_int_eq(h.driver.cuMemAlloc(&memory, sizeof input), CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuMemAlloc(&workspace, WORKSPACE_SIZE),
                     CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuMemcpyHtoD(memory, &input, sizeof input),
                     CUDA_SUCCESS);
    l->memory = (data *)(uintptr_t)memory;
    l->workspace = (void *)(uintptr_t)workspace;
    ck_assert_int_eq(h.driver.cuCtxPopCurrent(&popped), CUDA_SUCCESS);
}

/* `left` is what the driver may still hold besides the harness's context. */
static void end_life(const life *l, const char *plan, const char *left)
{
    data result;
    char live[256];
    const CUdeviceptr memory = (CUdeviceptr)(uintptr_t)l->memory;
    ck_assert_int_eq(h.driver.cuCtxPushCurrent(h.context), CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuMemcpyDtoH(&result, memory, sizeof result),
                     CUDA_SUCCESS);
    check_outputs(&result, l->outputs);
    h.driver.cuMemFree(memory);
    h.driver.cuMemFree((CUdeviceptr)(uintptr_t)l->workspace);
    h.live(live, sizeof live);
    ck_assert_msg(strcmp(live, left) == 0, "after %s there is: %s", plan, live);
    simt_harness_reset(&h);
}

/* ---- Faults ------------------------------------------------------------- */

static const char *const functions[] = {
#define FUNCTION_NAME(name) #name,
    FEX_DRIVER_FUNCTIONS(FUNCTION_NAME)
#undef FUNCTION_NAME
};
enum { FUNCTIONS = sizeof functions / sizeof *functions };

/* The part of a life that a plan is for: up to the last launch, or from then
 * on. Between the two the harness waits, with calls of its own. */
typedef enum phase { LAUNCHING, DESTROYING, PHASES } phase;

typedef struct life_record {
    unsigned long calls[PHASES][FUNCTIONS];
    unsigned hits; /* of the plan */
} life_record;

static void take_record(life_record *record, phase part)
{
    record->hits += h.hits();
    for (int i = 0; i < FUNCTIONS; i++)
        record->calls[part][i] = h.calls(functions[i]);
}

/* Modules are unloaded in the context they were loaded into. Where that cannot
 * be made current they go when it does. */
static const char *left_after(phase planned, const char *plan)
{
    return planned == DESTROYING &&
                   (strncmp(plan, "cuCtxGetCurrent:", 16) == 0 ||
                    strncmp(plan, "cuCtxPushCurrent:", 17) == 0)
               ? "1 primary contexts, " MODULES
               : "1 primary contexts";
}

static void run_life(life *l, phase planned, const char *plan,
                     life_record *record)
{
    CUcontext popped;
    memset(record, 0, sizeof *record);
    begin_life(l);
    h.plan(planned == LAUNCHING ? plan : NULL);
    step(l, create_context);
    step(l, create_op);
    step(l, prepare);
    step(l, run_forward);
    step(l, run_backward);
    take_record(record, LAUNCHING);

    h.plan(NULL);
    h.driver.cuCtxPushCurrent(h.context);
    h.driver.cuCtxSynchronize();
    h.driver.cuCtxPopCurrent(&popped);

    h.plan(planned == DESTROYING ? plan : NULL);
    fex_op_destroy(l->op);
    fex_context_destroy(l->context);
    take_record(record, DESTROYING);
    h.plan(NULL);
    end_life(l, plan != NULL ? plan : "no fault", left_after(planned, plan));
}

/* Calls whose failure nobody needs to know of: they put something into words,
 * or give something back. */
static int may_be_ignored(const char *function)
{
    static const char *const names[] = {
        "cuGetErrorName", "cuGetErrorString", "cuModuleUnload",
        "cuDevicePrimaryCtxRelease", "cuCtxPopCurrent"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], function) == 0)
            return 1;
    return 0;
}

/* A life in which one call fails. */
static void check_fault(phase part, const char *function, unsigned long call,
                        const char *result, fex_status status)
{
    char plan[128];
    life_record record;
    life l;
    snprintf(plan, sizeof plan, "%s:%lu=%s", function, call, result);
    run_life(&l, part, plan, &record);
    ck_assert_msg(record.hits == 1, "%s did not happen", plan);
    if (part == DESTROYING || may_be_ignored(function)) {
        ck_assert_msg(l.failures == 0, "%s: %s", plan, l.error);
        return;
    }
    ck_assert_msg(l.failures == 1, "%s went unnoticed", plan);
    ck_assert_msg(l.status == status, "%s: %s, %s", plan,
                  fex_status_name(l.status), l.error);
    ck_assert_msg(strstr(l.error, function) != NULL &&
                      strstr(l.error, result) != NULL,
                  "%s: %s", plan, l.error);
}

static void open_harness(void)
{
    scratch_make(cache);
    simt_harness_open(&h);
    make_data();
}

static void close_harness(void)
{
    simt_harness_close(&h);
    scratch_remove(cache);
}

START_TEST(each_call_of_the_driver_fails)
{
    static const struct {
        const char *result;
        fex_status status;
    } faults[] = {{"CUDA_ERROR_UNKNOWN", FEX_ERROR_DRIVER},
                  {"CUDA_ERROR_OUT_OF_MEMORY", FEX_ERROR_DEVICE_OUT_OF_MEMORY}};
    life_record clean;
    life l;
    unsigned long faults_made = 0;
    run_life(&l, PHASES, NULL, &clean); /* fills the cache */
    run_life(&l, PHASES, NULL, &clean);
    ck_assert_int_eq(l.failures, 0);
    for (int part = 0; part < PHASES; part++)
        for (int i = 0; i < FUNCTIONS; i++)
            for (unsigned long n = 1; n <= clean.calls[part][i]; n++) {
                const size_t which = (n + (size_t)i) % 2;
                check_fault((phase)part, functions[i], n, faults[which].result,
                            faults[which].status);
                faults_made++;
            }
    printf("%lu calls of the driver failed\n", faults_made);
    ck_assert_uint_gt(faults_made, 60);
}
END_TEST

/* What is no plain failure. */
START_TEST(some_failures_mean_something)
{
    life_record record;
    life l;
    run_life(&l, LAUNCHING, "cuInit:1=CUDA_ERROR_NO_DEVICE", &record);
    ck_assert_uint_eq(record.hits, 1);
    ck_assert_int_eq(l.status, FEX_ERROR_NO_DEVICE);
    /* A cached kernel that the driver refuses is compiled again. */
    run_life(&l, LAUNCHING, "cuModuleLoadDataEx:2=CUDA_ERROR_INVALID_IMAGE",
             &record);
    ck_assert_uint_eq(record.hits, 1);
    ck_assert_int_eq(l.failures, 0);
    /* A failure that cannot be put into words is one nevertheless. */
    run_life(&l, LAUNCHING,
             "cuLaunchKernelEx:2=CUDA_ERROR_UNKNOWN;"
             "cuGetErrorName:1=CUDA_ERROR_UNKNOWN;"
             "cuGetErrorString:1=CUDA_ERROR_UNKNOWN",
             &record);
    ck_assert_uint_eq(record.hits, 3);
    ck_assert_int_eq(l.status, FEX_ERROR_DRIVER);
    ck_assert_ptr_nonnull(strstr(l.error, "cuLaunchKernelEx"));
}
END_TEST

/* ---- Faults of the compiler --------------------------------------------- */

/* What each call of NVRTC's is for. Its log is not worth a failure. */
static const struct {
    const char *function;
    const char *result;
    fex_status status;
} compiler_faults[] = {
    {"nvrtcVersion", "NVRTC_ERROR_INTERNAL_ERROR", FEX_ERROR_NO_COMPILER},
    {"nvrtcCreateProgram", "NVRTC_ERROR_OUT_OF_MEMORY",
     FEX_ERROR_OUT_OF_MEMORY},
    {"nvrtcCreateProgram", "NVRTC_ERROR_INVALID_INPUT", FEX_ERROR_COMPILE},
    {"nvrtcCompileProgram", "NVRTC_ERROR_COMPILATION", FEX_ERROR_COMPILE},
    {"nvrtcCompileProgram", "NVRTC_ERROR_OUT_OF_MEMORY",
     FEX_ERROR_OUT_OF_MEMORY},
    {"nvrtcGetProgramLogSize", "NVRTC_ERROR_INTERNAL_ERROR", FEX_OK},
    {"nvrtcGetProgramLog", "NVRTC_ERROR_INTERNAL_ERROR", FEX_OK},
    {"nvrtcGetCUBINSize", "NVRTC_ERROR_INTERNAL_ERROR", FEX_ERROR_COMPILE},
    {"nvrtcGetCUBIN", "NVRTC_ERROR_INTERNAL_ERROR", FEX_ERROR_COMPILE},
    {"nvrtcDestroyProgram", "NVRTC_ERROR_INTERNAL_ERROR", FEX_OK},
};

/* The first call fails, then the second, with an empty cache each time. */
START_TEST(each_call_of_the_compiler_fails)
{
    const char *const function = compiler_faults[_i].function;
    const fex_status expected = compiler_faults[_i].status;
    for (int call = 1; call <= 2; call++) {
        char plan[128];
        life l;
        /* The compiler is opened once in a life. */
        if (call == 2 && strcmp(function, "nvrtcVersion") == 0)
            break;
        scratch_remove(cache);
        scratch_make(cache);
        begin_life(&l);
        snprintf(plan, sizeof plan, "%s:%d=%s", function, call,
                 compiler_faults[_i].result);
        h.compiler_plan(plan);
        step(&l, create_context);
        step(&l, create_op);
        step(&l, run_forward);
        ck_assert_msg(h.compiler_hits() == 1, "%s did not happen", plan);
        h.compiler_plan(NULL);
        ck_assert_msg(l.failures == (expected != FEX_OK), "%s: %s", plan,
                      l.error);
        ck_assert_msg(l.status == expected, "%s: %s", plan, l.error);
        ck_assert_int_eq(h.driver.cuCtxPushCurrent(h.context), CUDA_SUCCESS);
        ck_assert_int_eq(h.driver.cuCtxSynchronize(), CUDA_SUCCESS);
        CUcontext popped;
        ck_assert_int_eq(h.driver.cuCtxPopCurrent(&popped), CUDA_SUCCESS);
        fex_op_destroy(l.op);
        fex_context_destroy(l.context);
        end_life(&l, plan, "1 primary contexts");
    }
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("faults");
    TCase *const faults = tcase_create("faults");
    const int compiler_fault_count =
        (int)(sizeof compiler_faults / sizeof *compiler_faults);
    setenv("FLASHEXPERT_LIBCUDA", SIMT_FOLDER "/libcuda.so", 1);
    setenv("FLASHEXPERT_LIBNVRTC", SIMT_FOLDER "/libnvrtc.so", 1);

    tcase_add_checked_fixture(faults, open_harness, close_harness);
    tcase_set_timeout(faults, 300);
    tcase_add_test(faults, each_call_of_the_driver_fails);
    tcase_add_test(faults, some_failures_mean_something);
    tcase_add_loop_test(faults, each_call_of_the_compiler_fails, 0,
                        compiler_fault_count);
    suite_add_tcase(suite, faults);

    SRunner *const runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
