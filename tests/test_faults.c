/* SPDX-License-Identifier: Apache-2.0 */
/* test_faults.c - whichever call of the driver or the compiler fails, the
 * library says so, holds nothing it should not, and goes on when asked again.
 *
 * A life of the library, from a context to its end, is lived once to count its
 * calls, and then again for each call, which fails. On the simulated device;
 * one life is of the gather family in both passes, one each of the dense and the
 * matrix family. */
#include "config.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache_case.h"
#include "convert.h"
#include "flashexpert_rtc.h"
#include "simt/harness.h"

enum { TOKENS = 6, HIDDEN = 8, TOP_K = 4, EXPERTS = 5, PAIRS = TOKENS * TOP_K };

#define OP_DESC(type)                                                          \
    {                                                                          \
        .size = sizeof(fex_op_desc), .dtype = (type),                          \
        .routing_dtype = FEX_DTYPE_F32, .hidden_size = HIDDEN,                 \
        .top_k = TOP_K, .num_experts = EXPERTS, .flags = FEX_OP_CHECK_INDICES  \
    }

typedef struct kind {
    const char *family;
    fex_op_desc desc;
    fex_pass passes;
    int current; /* it takes the caller's context, not the device's own */
    float tolerance;
    const char *modules; /* that prepare loads, the check of indices included */
} kind;

static const kind kinds[] = {
    {"gather", OP_DESC(FEX_DTYPE_F32), FEX_PASS_BOTH, 0, 1e-5f, "7 modules"},
    {"dense", OP_DESC(FEX_DTYPE_BF16), FEX_PASS_FORWARD, 1, 1e-2f,
     "5 modules"},
    {"matrix", OP_DESC(FEX_DTYPE_BF16), FEX_PASS_FORWARD, 1, 1e-2f,
     "9 modules"},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static simt_harness h;
static char cache[256];

/* ---- The data ----------------------------------------------------------- */

/* Everything in one structure, so that a device has a copy of it. Elements of a
 * narrower type than float fill the front of their array. */
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

#define NUMBERS_MAX ((size_t)TOKENS * HIDDEN)
_Static_assert(EXPERTS <= TOKENS, "the largest input has a row a token");

static void convert(float *array, size_t count, fex_dtype dtype)
{
    double values[NUMBERS_MAX];
    ck_assert_uint_le(count, NUMBERS_MAX);
    fex_convert_load(FEX_DTYPE_F32, array, 0, (int64_t)count, values);
    fex_convert_store(dtype, array, 0, (int64_t)count, values);
}

static void make_data(const kind *of)
{
    float *const numbers = (float *)(void *)&input;
    const fex_op_desc *const desc = &of->desc;
    for (size_t i = 0; i < FIRST_OUTPUT / sizeof *numbers; i++)
        numbers[i] = sinf((float)i * 1.7f);
    for (int i = 0; i < PAIRS; i++)
        input.indices[i] = i % 7 == 0 ? -1 : i * i % EXPERTS;
    convert(input.hidden_states, TOKENS * HIDDEN, desc->dtype);
    convert(input.grad_output, TOKENS * HIDDEN, desc->dtype);
    convert(input.down_weights, EXPERTS * HIDDEN, desc->dtype);
    convert(input.up_weights, EXPERTS * HIDDEN, desc->dtype);
    memset((char *)&input + FIRST_OUTPUT, 0xff, sizeof input - FIRST_OUTPUT);
    truth = input;
    const fex_forward_args forward = forward_on(&truth);
    const fex_backward_args backward = backward_on(&truth);
    ck_assert_int_eq(fex_reference_forward(desc, &forward), FEX_OK);
    if ((of->passes & FEX_PASS_BACKWARD) != 0)
        ck_assert_int_eq(fex_reference_backward(desc, &backward), FEX_OK);
}

static void check_outputs(const kind *of, const data *result, size_t count)
{
    double is[ALL_OUTPUTS];
    double should[ALL_OUTPUTS];
    fex_convert_load(of->desc.dtype, (const char *)result + FIRST_OUTPUT, 0,
                     (int64_t)count, is);
    fex_convert_load(of->desc.dtype, (const char *)&truth + FIRST_OUTPUT, 0,
                     (int64_t)count, should);
    for (size_t i = 0; i < count; i++)
        ck_assert_msg(fabs(is[i] - should[i]) <=
                          of->tolerance * (1 + fabs(should[i])),
                      "output %zu is %g, not %g", i, is[i], should[i]);
}

/* ---- A life ------------------------------------------------------------- */

typedef struct life {
    const kind *kind;
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
    const fex_context_options options = {
        .size = sizeof options,
        .device = l->kind->current ? FEX_DEVICE_CURRENT : 0,
        .cache_dir = cache};
    setenv("FLASHEXPERT_FAMILY", l->kind->family, 1);
    return fex_context_create(&options, &l->context);
}

static fex_status create_op(life *l)
{
    return fex_op_create(l->context, &l->kind->desc, &l->op);
}

static fex_status prepare(life *l)
{
    return fex_op_prepare(l->op, l->kind->passes, TOKENS);
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

/* Makes the harness's context what it is during a life: not current, so that
 * the library has to make its own so, unless the caller's is what it takes. */
static void leave_context(const life *l)
{
    CUcontext popped;
    if (!l->kind->current)
        ck_assert_int_eq(h.driver.cuCtxPopCurrent(&popped), CUDA_SUCCESS);
}

static void enter_context(const life *l)
{
    if (!l->kind->current)
        ck_assert_int_eq(h.driver.cuCtxPushCurrent(h.context), CUDA_SUCCESS);
}

/* The harness's own calls are not part of a life. */
static void begin_life(life *l, const kind *of)
{
    CUdeviceptr memory;
    CUdeviceptr workspace;
    *l = (life){.kind = of, .workspace_size = WORKSPACE_SIZE};
    make_data(of);
    ck_assert_int_eq(h.driver.cuMemAlloc(&memory, sizeof input), CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuMemAlloc(&workspace, WORKSPACE_SIZE),
                     CUDA_SUCCESS);
    ck_assert_int_eq(h.driver.cuMemcpyHtoD(memory, &input, sizeof input),
                     CUDA_SUCCESS);
    l->memory = (data *)(uintptr_t)memory;
    l->workspace = (void *)(uintptr_t)workspace;
    leave_context(l);
}

/* `left` is what the driver may still hold besides the harness's context. */
static void end_life(const life *l, const char *plan, const char *left)
{
    data result;
    char live[256];
    const CUdeviceptr memory = (CUdeviceptr)(uintptr_t)l->memory;
    enter_context(l);
    ck_assert_int_eq(h.driver.cuMemcpyDtoH(&result, memory, sizeof result),
                     CUDA_SUCCESS);
    check_outputs(l->kind, &result, l->outputs);
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
static const char *left_after(const kind *of, phase planned, const char *plan)
{
    static char left[64];
    const int stay = planned == DESTROYING &&
                     (strncmp(plan, "cuCtxGetCurrent:", 16) == 0 ||
                      strncmp(plan, "cuCtxPushCurrent:", 17) == 0);
    snprintf(left, sizeof left, "1 primary contexts%s%s", stay ? ", " : "",
             stay ? of->modules : "");
    return left;
}

static void run_life(life *l, const kind *of, phase planned, const char *plan,
                     life_record *record)
{
    memset(record, 0, sizeof *record);
    begin_life(l, of);
    h.plan(planned == LAUNCHING ? plan : NULL);
    step(l, create_context);
    step(l, create_op);
    step(l, prepare);
    step(l, run_forward);
    if ((of->passes & FEX_PASS_BACKWARD) != 0)
        step(l, run_backward);
    take_record(record, LAUNCHING);

    h.plan(NULL);
    enter_context(l);
    ck_assert_int_eq(h.driver.cuCtxSynchronize(), CUDA_SUCCESS);
    leave_context(l);

    h.plan(planned == DESTROYING ? plan : NULL);
    fex_op_destroy(l->op);
    fex_context_destroy(l->context);
    take_record(record, DESTROYING);
    h.plan(NULL);
    end_life(l, plan != NULL ? plan : "no fault",
             left_after(of, planned, plan));
}

static int is_one_of(const char *const *names, size_t count,
                     const char *function)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(names[i], function) == 0)
            return 1;
    return 0;
}

/* Calls whose failure nobody needs to know of: they put something into words,
 * or give something back. */
static int may_be_ignored(const char *function)
{
    static const char *const names[] = {
        "cuGetErrorName", "cuGetErrorString", "cuModuleUnload",
        "cuDevicePrimaryCtxRelease", "cuCtxPopCurrent"};
    return is_one_of(names, sizeof names / sizeof *names, function);
}

/* A life in which one call fails. */
static void check_fault(const kind *of, phase part, const char *function,
                        unsigned long call, const char *result,
                        fex_status status)
{
    char plan[128];
    life_record record;
    life l;
    snprintf(plan, sizeof plan, "%s:%lu=%s", function, call, result);
    run_life(&l, of, part, plan, &record);
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
    const kind *const of = &kinds[_i];
    life_record clean;
    life l;
    unsigned long faults_made = 0;
    run_life(&l, of, PHASES, NULL, &clean); /* fills the cache */
    run_life(&l, of, PHASES, NULL, &clean);
    ck_assert_int_eq(l.failures, 0);
    for (int part = 0; part < PHASES; part++)
        for (int i = 0; i < FUNCTIONS; i++)
            for (unsigned long n = 1; n <= clean.calls[part][i]; n++) {
                const size_t which = (n + (size_t)i) % 2;
                check_fault(of, (phase)part, functions[i], n,
                            faults[which].result, faults[which].status);
                faults_made++;
            }
    printf("%s: %lu calls of the driver failed\n", of->family, faults_made);
    ck_assert_uint_gt(faults_made, 30);
}
END_TEST

/* Functions of the driver's table that only the command and tests call. */
static int is_for_others(const char *function)
{
    static const char *const names[] = {
        "cuCtxSynchronize", "cuStreamCreate", "cuStreamDestroy",
        "cuEventCreate", "cuEventRecord", "cuEventSynchronize",
        "cuEventElapsedTime", "cuEventDestroy", "cuMemAlloc", "cuMemFree",
        "cuMemcpyHtoD", "cuMemcpyDtoH", "cuMemsetD8", "cuStreamBeginCapture",
        "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphLaunch",
        "cuGraphExecDestroy", "cuGraphDestroy"};
    return is_one_of(names, sizeof names / sizeof *names, function);
}

/* Together the lives call all of the others, so that each fails above. */
START_TEST(lives_call_every_function)
{
    unsigned long calls[FUNCTIONS] = {0};
    life_record record;
    life l;
    /* The second of either has something to put into words. */
    for (int i = 0; i < 2 * KINDS; i++) {
        run_life(&l, &kinds[i / 2], LAUNCHING,
                 i % 2 == 0 ? NULL : "cuLaunchKernelEx:1=CUDA_ERROR_UNKNOWN",
                 &record);
        for (int part = 0; part < PHASES; part++)
            for (int f = 0; f < FUNCTIONS; f++)
                calls[f] += record.calls[part][f];
    }
    for (int f = 0; f < FUNCTIONS; f++)
        ck_assert_msg((calls[f] == 0) == is_for_others(functions[f]),
                      "%lu calls of %s", calls[f], functions[f]);
}
END_TEST

/* What is no plain failure. */
START_TEST(some_failures_mean_something)
{
    life_record record;
    life l;
    run_life(&l, &kinds[0], LAUNCHING, "cuInit:1=CUDA_ERROR_NO_DEVICE",
             &record);
    ck_assert_uint_eq(record.hits, 1);
    ck_assert_int_eq(l.status, FEX_ERROR_NO_DEVICE);
    /* A cached kernel that the driver refuses is compiled again. */
    run_life(&l, &kinds[0], LAUNCHING,
             "cuModuleLoadDataEx:2=CUDA_ERROR_INVALID_IMAGE", &record);
    ck_assert_uint_eq(record.hits, 1);
    ck_assert_int_eq(l.failures, 0);
    /* A failure that cannot be put into words is one nevertheless. */
    run_life(&l, &kinds[0], LAUNCHING,
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
        begin_life(&l, &kinds[0]);
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
        enter_context(&l);
        ck_assert_int_eq(h.driver.cuCtxSynchronize(), CUDA_SUCCESS);
        leave_context(&l);
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
    tcase_add_loop_test(faults, each_call_of_the_driver_fails, 0, KINDS);
    tcase_add_test(faults, lives_call_every_function);
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
