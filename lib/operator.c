/* SPDX-License-Identifier: Apache-2.0 */
/* operator.c - the operation: arguments checked, family chosen, kernels kept
 * ready, launched. */
#include "config.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "plan.h"

/* A family's kernels for one geometry, loaded. Once published it never
 * changes and lives as long as the operation. */
typedef struct prepared {
    struct prepared *next;
    const fex_variant *variant;
    fex_geometry geometry;
    const fex_module *modules[FEX_KERNELS_MAX];
    const fex_module *check; /* NULL without FEX_OP_CHECK_INDICES */
} prepared;

enum {
    FORWARD,
    BACKWARD,
    PASSES
};

struct fex_op {
    fex_context *context;
    fex_problem problem;
    fex_plan plans[PASSES]; /* if the context has a device */
    _Atomic(prepared *) prepared[PASSES]; /* lists, only ever prepended to */
};

static const fex_pass passes[PASSES] = {FEX_PASS_FORWARD, FEX_PASS_BACKWARD};

/* ---- Creating ----------------------------------------------------------- */

fex_status fex_op_create(fex_context *context, const fex_op_desc *desc,
                         fex_op **op)
{
    fex_problem problem;
    return_if_error(fex_context_check(context));
    if (op == NULL)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT, "op is NULL");
    return_if_error(fex_problem_init(&problem, desc));
    return_if_error(fex_variant_check_family(context->environment.family));
    fex_op *const made = calloc(1, sizeof *made);
    if (made == NULL)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory for an operation");
    made->context = context;
    made->problem = problem;
    for (int pass = 0;
         pass < PASSES && context->device.ordinal != FEX_DEVICE_NONE; pass++)
        fex_plan_make(&problem, &context->device, passes[pass],
                      context->environment.family, &made->plans[pass]);
    *op = made;
    return FEX_OK;
}

void fex_op_destroy(fex_op *op)
{
    if (op == NULL)
        return;
    for (int pass = 0; pass < PASSES; pass++) {
        prepared *next;
        for (prepared *p = atomic_load(&op->prepared[pass]); p != NULL;
             p = next) {
            next = p->next;
            free(p);
        }
    }
    free(op);
}

/* ---- Preparing ---------------------------------------------------------- */

static fex_status check_device(const fex_op *op)
{
    if (op == NULL)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT, "op is NULL");
    return_if_error(fex_context_check(op->context));
    if (op->context->device.ordinal == FEX_DEVICE_NONE)
        return fex_fail(FEX_ERROR_NO_DEVICE,
                        "the context was created with FEX_DEVICE_NONE");
    return FEX_OK;
}

static prepared *find_prepared(const fex_op *op, int pass,
                               const fex_variant *variant,
                               fex_geometry geometry)
{
    prepared *p =
        atomic_load_explicit(&op->prepared[pass], memory_order_acquire);
    while (p != NULL && (p->variant != variant ||
                         p->geometry.vector_bytes != geometry.vector_bytes))
        p = p->next;
    return p;
}

static fex_status load_kernels(const fex_op *op, prepared *p)
{
    const fex_context *const context = op->context;
    fex_kernel_spec specs[FEX_KERNELS_MAX];
    const size_t count = p->variant->describe(
        &op->problem, context->device.architecture, p->geometry, specs);
    for (size_t i = 0; i < count; i++)
        return_if_error(
            fex_loader_get(context->loader, &specs[i], &p->modules[i]));
    if (op->problem.check_indices) {
        fex_describe_check(&op->problem, context->device.architecture, specs);
        return_if_error(fex_loader_get(context->loader, specs, &p->check));
    }
    return FEX_OK;
}

/* Loads what a family needs and publishes it. Two threads may do so at once:
 * the loader gives both the same modules, and the list keeps both. */
static fex_status prepare(fex_op *op, int pass, const fex_variant *variant,
                          fex_geometry geometry, const prepared **result)
{
    int pushed;
    fex_status status;
    prepared *const p = calloc(1, sizeof *p);
    if (p == NULL)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory to prepare");
    p->variant = variant;
    p->geometry = geometry;
    status = fex_context_enter(op->context, &pushed);
    if (status != FEX_OK)
        goto fail_enter;
    status = load_kernels(op, p);
    fex_context_leave(op->context, pushed);
    if (status != FEX_OK)
        goto fail_enter;

    p->next = atomic_load(&op->prepared[pass]);
    while (!atomic_compare_exchange_weak(&op->prepared[pass], &p->next, p))
        continue;
    *result = p;
    return FEX_OK;

fail_enter:
    free(p);
    return status;
}

fex_status fex_op_prepare(fex_op *op, fex_pass which, int64_t num_tokens)
{
    return_if_error(check_device(op));
    return_if_error(fex_problem_check_passes(which));
    return_if_error(fex_problem_check_tokens(&op->problem, num_tokens));
    const fex_geometry geometry = fex_geometry_for(&op->problem, 16);
    for (int pass = 0; pass < PASSES; pass++) {
        if ((which & passes[pass]) == 0)
            continue;
        const fex_plan *const plan = &op->plans[pass];
        const size_t count = fex_plan_reach(plan, num_tokens);
        for (size_t i = 0; i < count; i++) {
            const fex_variant *const variant = plan->ranges[i].variant;
            const prepared *p = find_prepared(op, pass, variant, geometry);
            if (p == NULL)
                return_if_error(prepare(op, pass, variant, geometry, &p));
        }
    }
    return FEX_OK;
}

/* ---- Workspace ---------------------------------------------------------- */

/* In checked mode the result of the check comes first. */
static size_t check_bytes(const fex_problem *problem)
{
    fex_layout layout = {0};
    if (problem->check_indices)
        fex_layout_take(&layout, 1, sizeof(int64_t));
    return layout.used;
}

static size_t max_of(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Rows it cannot read are another's. */
static size_t family_bytes(const fex_op *op, int pass,
                           const fex_variant *variant, int64_t num_tokens)
{
    const size_t bytes = variant->workspace_size(&op->problem, num_tokens);
    if (variant->vector_bytes == 0)
        return bytes;
    return max_of(bytes, fex_variant_last(passes[pass])
                             ->workspace_size(&op->problem, num_tokens));
}

fex_status fex_op_workspace_size(const fex_op *op, fex_pass which,
                                 int64_t num_tokens, size_t *bytes)
{
    return_if_error(check_device(op));
    return_if_error(fex_problem_check_passes(which));
    return_if_error(fex_problem_check_tokens(&op->problem, num_tokens));
    if (bytes == NULL)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT, "bytes is NULL");
    size_t largest = 0;
    for (int pass = 0; pass < PASSES; pass++) {
        if ((which & passes[pass]) == 0)
            continue;
        /* Fewer tokens may be another family's, with more to keep. */
        const fex_plan *const plan = &op->plans[pass];
        const size_t count = fex_plan_reach(plan, num_tokens);
        for (size_t i = 0; i < count; i++) {
            const int64_t tokens =
                i + 1 < count ? plan->ranges[i + 1].first - 1 : num_tokens;
            largest = max_of(largest, family_bytes(op, pass,
                                                   plan->ranges[i].variant,
                                                   tokens));
        }
    }
    *bytes = check_bytes(&op->problem) + largest;
    return FEX_OK;
}

static fex_status check_workspace(const fex_op *op, const fex_variant *variant,
                                  int64_t num_tokens, const void *workspace,
                                  size_t size)
{
    const size_t needed = check_bytes(&op->problem) +
                          variant->workspace_size(&op->problem, num_tokens);
    if (size < needed)
        return fex_fail(FEX_ERROR_WORKSPACE,
                        "workspace_size is %zu, %zu bytes are needed", size,
                        needed);
    if (needed > 0 && workspace == NULL)
        return fex_fail(FEX_ERROR_WORKSPACE, "workspace is NULL");
    if ((uintptr_t)workspace % 256 != 0)
        return fex_fail(FEX_ERROR_WORKSPACE,
                        "workspace %p is not aligned to 256 bytes", workspace);
    return FEX_OK;
}

/* ---- Launching ---------------------------------------------------------- */

/* The bits of the address and stride, in bytes, of an array that kernels read
 * or write by vectors; the lowest bit set in any of them is the alignment of
 * all. An absent array has none. */
static size_t row_bits(const void *array, int64_t stride, size_t element)
{
    return array == NULL ? 0 : (uintptr_t)array | (size_t)stride * element;
}

static fex_status capture_state(const fex_launch *launch, int *capturing)
{
    CUstreamCaptureStatus state;
    return_if_error(fex_driver_check(
        launch->driver,
        launch->driver->cuStreamIsCapturing(launch->stream, &state),
        "cuStreamIsCapturing"));
    *capturing = state != CU_STREAM_CAPTURE_STATUS_NONE;
    return FEX_OK;
}

/* The kernels for a launch; loads them unless the stream is being captured. */
static fex_status find_kernels(fex_op *op, const fex_launch *launch, int pass,
                               const fex_variant *variant,
                               const prepared **found)
{
    int capturing;
    const prepared *p = find_prepared(op, pass, variant, launch->geometry);
    if (p != NULL && !op->problem.check_indices) {
        *found = p;
        return FEX_OK;
    }
    return_if_error(capture_state(launch, &capturing));
    if (capturing)
        return fex_fail(
            FEX_ERROR_NOT_PREPARED, "the stream is being captured and %s",
            p == NULL ? "the operation is not prepared for these arguments"
                      : "FEX_OP_CHECK_INDICES waits for it");
    if (p == NULL)
        return_if_error(prepare(op, pass, variant, launch->geometry, &p));
    *found = p;
    return FEX_OK;
}

static fex_status check_indices(const fex_launch *launch,
                                const fex_module *module)
{
    int64_t pair = -1;
    return_if_error(fex_launch_check(launch, module, &pair));
    return pair < 0 ? FEX_OK : fex_problem_fail_index(launch->problem, pair);
}

/* Finds the kernels and launches, with the device's context current. */
static fex_status launch_current(fex_op *op, int pass,
                                 const fex_variant *variant, fex_launch *launch)
{
    const prepared *kernels = NULL;
    return_if_error(find_kernels(op, launch, pass, variant, &kernels));
    launch->modules = kernels->modules;
    if (op->problem.check_indices && launch->num_tokens > 0) {
        return_if_error(check_indices(launch, kernels->check));
        launch->workspace =
            (char *)launch->workspace + check_bytes(&op->problem);
    }
    return variant->launch(launch);
}

/* What both passes do once their arguments are checked. */
static fex_status launch_pass(fex_op *op, int pass, fex_launch *launch,
                              size_t workspace_size)
{
    int pushed;
    const fex_variant *variant =
        fex_plan_find(&op->plans[pass], launch->num_tokens);
    if (launch->geometry.vector_bytes < variant->vector_bytes)
        variant = fex_variant_last(passes[pass]);
    return_if_error(check_workspace(op, variant, launch->num_tokens,
                                    launch->workspace, workspace_size));
    return_if_error(fex_context_enter(op->context, &pushed));
    const fex_status status = launch_current(op, pass, variant, launch);
    fex_context_leave(op->context, pushed);
    return status;
}

fex_status fex_forward(fex_op *op, const fex_forward_args *caller,
                       struct CUstream_st *stream)
{
    fex_forward_args args;
    return_if_error(check_device(op));
    return_if_error(fex_problem_check_forward(&op->problem, caller, &args));
    if (args.num_tokens == 0)
        return FEX_OK; /* and no kernel is needed for it */
    const size_t element = fex_dtype_bytes(op->problem.dtype);
    const size_t bits =
        row_bits(args.hidden_states, args.hidden_states_stride, element) |
        row_bits(args.down_weights, args.down_weights_stride, element) |
        row_bits(args.up_weights, args.up_weights_stride, element) |
        row_bits(args.expert_states, args.expert_states_stride, element);
    fex_launch launch = {.driver = &op->context->driver,
                         .device = &op->context->device,
                         .problem = &op->problem,
                         .geometry = fex_geometry_for(&op->problem, bits),
                         .stream = stream,
                         .num_tokens = args.num_tokens,
                         .indices = args.indices,
                         .indices_stride = args.indices_stride,
                         .workspace = args.workspace,
                         .forward = &args};
    return launch_pass(op, FORWARD, &launch, args.workspace_size);
}

fex_status fex_backward(fex_op *op, const fex_backward_args *caller,
                        struct CUstream_st *stream)
{
    fex_backward_args args;
    return_if_error(check_device(op));
    return_if_error(fex_problem_check_backward(&op->problem, caller, &args));
    if (args.num_tokens == 0 && args.grad_down_weights == NULL &&
        args.grad_up_weights == NULL)
        return FEX_OK;
    const size_t element = fex_dtype_bytes(op->problem.dtype);
    const size_t gradient = fex_dtype_bytes(op->problem.weight_grad_dtype);
    const size_t bits =
        row_bits(args.grad_output, args.grad_output_stride, element) |
        row_bits(args.hidden_states, args.hidden_states_stride, element) |
        row_bits(args.down_weights, args.down_weights_stride, element) |
        row_bits(args.up_weights, args.up_weights_stride, element) |
        row_bits(args.grad_down_weights, args.grad_down_weights_stride,
                 gradient) |
        row_bits(args.grad_up_weights, args.grad_up_weights_stride, gradient);
    fex_launch launch = {.driver = &op->context->driver,
                         .device = &op->context->device,
                         .problem = &op->problem,
                         .geometry = fex_geometry_for(&op->problem, bits),
                         .stream = stream,
                         .num_tokens = args.num_tokens,
                         .indices = args.indices,
                         .indices_stride = args.indices_stride,
                         .workspace = args.workspace,
                         .backward = &args};
    return launch_pass(op, BACKWARD, &launch, args.workspace_size);
}
