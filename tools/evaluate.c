/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "evaluate.h"

#include <stdlib.h>

#include "data.h"
#include "plan.h"
#include "problem.h"
#include "traffic.h"

enum { SETS_MAX = 512, ALIGNMENT = 256 };

/* ---- The device --------------------------------------------------------- */

fex_status device_open(int ordinal, tool_device *device)
{
    const fex_context_options options = {.size = sizeof options,
                                         .device = ordinal};
    tool_device opened = {.info = {.size = sizeof opened.info}};
    fex_status status;

    return_if_error(fex_context_create(&options, &opened.context));
    opened.driver = &opened.context->driver;
    status = fex_context_get_info(opened.context, &opened.info);
    if (status != FEX_OK)
        goto destroy_context;
    status = fex_context_enter(opened.context, &opened.pushed);
    if (status != FEX_OK)
        goto destroy_context;
    status = fex_driver_check(
        opened.driver,
        opened.driver->cuStreamCreate(&opened.stream, CU_STREAM_NON_BLOCKING),
        "cuStreamCreate");
    if (status != FEX_OK)
        goto leave_context;
    *device = opened;
    return FEX_OK;

leave_context:
    fex_context_leave(opened.context, opened.pushed);
destroy_context:
    fex_context_destroy(opened.context);
    return status;
}

void device_close(tool_device *device)
{
    device->driver->cuStreamDestroy(device->stream);
    fex_context_leave(device->context, device->pushed);
    fex_context_destroy(device->context);
}

fex_status device_allocate(const tool_device *device, size_t bytes,
                           const char *what, CUdeviceptr *memory)
{
    const CUresult result =
        device->driver->cuMemAlloc(memory, bytes > 0 ? bytes : 1);
    if (result == CUDA_ERROR_OUT_OF_MEMORY)
        return fex_fail(FEX_ERROR_DEVICE_OUT_OF_MEMORY,
                        "%zu bytes of device memory for %s are not free", bytes,
                        what);
    return fex_driver_check(device->driver, result, "cuMemAlloc");
}

fex_status device_synchronize(const tool_device *device)
{
    return fex_driver_check(device->driver,
                            device->driver->cuStreamSynchronize(device->stream),
                            "cuStreamSynchronize");
}

/* ---- The operation ------------------------------------------------------ */

fex_status evaluation_create(const tool_device *device, const tool_shape *shape,
                             evaluation *e)
{
    *e = (evaluation){.device = device, .shape = shape};
    return_if_error(fex_op_create(device->context, &shape->desc, &e->op));
    return fex_op_prepare(e->op, shape->passes, shape->tokens);
}

/* ---- Memory ------------------------------------------------------------- */

static size_t sets_of(const evaluation *e, tensor_id id)
{
    if (!tensor_is_input(e->shape, id))
        return 1;
    return tensor_table[id].rows == 'T' ? e->token_sets : e->table_sets;
}

static size_t clamp(double value, size_t most)
{
    return value < 1 ? 1 : value > (double)most ? most : (size_t)value;
}

/* How many sets it takes until a turn comes round to an L2 that has forgotten
 * it. */
static void choose_sets(evaluation *e, const tool_tensors *inputs,
                        evaluate_l2 l2)
{
    const double span = 2.0 * (double)e->device->info.l2_bytes;
    const double tables =
        2.0 * (double)tensor_bytes(e->shape, TENSOR_DOWN_WEIGHTS);
    e->token_sets = 1;
    e->table_sets = 1;
    if (l2 == EVALUATE_WARM || e->shape->tokens == 0)
        return;
    const double touched = traffic_touched_bytes(e->shape, inputs);
    e->token_sets = clamp(span / touched + 1, SETS_MAX);
    e->table_sets = clamp(span / tables + 1, e->token_sets);
}

static fex_status copy_to(const evaluation *e, CUdeviceptr to, const void *from,
                          size_t bytes)
{
    return bytes == 0 ? FEX_OK
                      : fex_driver_check(
                            e->device->driver,
                            e->device->driver->cuMemcpyHtoD(to, from, bytes),
                            "cuMemcpyHtoD");
}

/* Fills the sets of the indices: each turn has other choices. */
static fex_status load_indices(evaluation *e, const void *indices)
{
    const size_t bytes = tensor_bytes(e->shape, TENSOR_INDICES);
    fex_status status = FEX_OK;
    void *shifted = malloc(bytes + 1);

    if (shifted == NULL)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "out of memory");
    for (size_t set = 0; set < e->token_sets && status == FEX_OK; set++) {
        data_shift_indices(e->shape, indices, shifted, (int64_t)set);
        status = copy_to(
            e, e->memory[TENSOR_INDICES] + set * e->set_bytes[TENSOR_INDICES],
            shifted, bytes);
    }
    free(shifted);
    return status;
}

static fex_status load_input(evaluation *e, tensor_id id, const void *from)
{
    const size_t bytes = tensor_bytes(e->shape, id);

    if (id == TENSOR_INDICES)
        return load_indices(e, from);
    for (size_t set = 0; set < sets_of(e, id); set++)
        return_if_error(
            copy_to(e, e->memory[id] + set * e->set_bytes[id], from, bytes));
    return FEX_OK;
}

static int has_place(const evaluation *e, tensor_id id, evaluate_scores scores)
{
    if (id == TENSOR_SCORES && scores == EVALUATE_SCORES_IF_USED)
        return tensor_scores_are_used(e->shape);
    return tensor_is_input(e->shape, id) || tensor_is_output(e->shape, id);
}

static fex_status load_tensor(evaluation *e, tensor_id id, const void *from)
{
    const tool_device *device = e->device;
    const size_t bytes = tensor_bytes(e->shape, id);
    const size_t sets = sets_of(e, id);

    e->set_bytes[id] = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return_if_error(device_allocate(device, sets * e->set_bytes[id],
                                    tensor_table[id].name, &e->memory[id]));
    if (tensor_is_input(e->shape, id))
        return load_input(e, id, from);
    return bytes == 0 ? FEX_OK
                      : fex_driver_check(device->driver,
                                         device->driver->cuMemsetD8(
                                             e->memory[id], 0xff, bytes),
                                         "cuMemsetD8");
}

fex_status evaluation_load(evaluation *e, const tool_tensors *inputs,
                           evaluate_l2 l2, evaluate_scores scores)
{
    choose_sets(e, inputs, l2);
    for (tensor_id id = 0; id < TENSOR_COUNT; id++)
        if (has_place(e, id, scores))
            return_if_error(load_tensor(e, id, inputs->data[id]));
    return_if_error(fex_op_workspace_size(
        e->op, e->shape->passes, e->shape->tokens, &e->workspace_bytes));
    return_if_error(device_allocate(e->device, e->workspace_bytes, "workspace",
                                    &e->workspace));
    /* The fills were queued on the default stream. */
    return fex_driver_check(e->device->driver,
                            e->device->driver->cuCtxSynchronize(),
                            "cuCtxSynchronize");
}

/* ---- Calls -------------------------------------------------------------- */

tool_tensors evaluation_tensors(const evaluation *e, size_t turn)
{
    tool_tensors tensors;
    for (tensor_id id = 0; id < TENSOR_COUNT; id++) {
        const size_t set = turn % sets_of(e, id);
        tensors.data[id] =
            e->memory[id] != 0
                ? (void *)(e->memory[id] + set * e->set_bytes[id])
                : NULL;
    }
    return tensors;
}

fex_status evaluation_call(evaluation *e, fex_pass pass)
{
    const tool_tensors tensors = evaluation_tensors(e, e->turn++);
    void *const workspace =
        e->workspace_bytes > 0 ? (void *)e->workspace : NULL;
    if (pass == FEX_PASS_FORWARD) {
        fex_forward_args args = tensors_forward_args(&tensors, e->shape);
        args.workspace = workspace;
        args.workspace_size = e->workspace_bytes;
        return fex_forward(e->op, &args, e->device->stream);
    }
    fex_backward_args args = tensors_backward_args(&tensors, e->shape);
    args.workspace = workspace;
    args.workspace_size = e->workspace_bytes;
    return fex_backward(e->op, &args, e->device->stream);
}

const char *evaluation_family(const evaluation *e, fex_pass pass,
                              char config[FEX_LAUNCH_TEXT_MAX])
{
    fex_problem problem;
    fex_plan plan;
    config[0] = '\0';
    if (fex_problem_init(&problem, &e->shape->desc) != FEX_OK)
        return "?";
    const fex_context *const context = e->device->context;
    fex_plan_make(&problem, &context->device, pass, context->environment.family,
                  &plan);
    const fex_variant *const variant = fex_plan_find(&plan, e->shape->tokens);
    if (variant->describe_launch != NULL && e->shape->tokens > 0)
        variant->describe_launch(&problem, &context->device, e->shape->tokens,
                                 config);
    return variant->name;
}

fex_status evaluation_fetch(const evaluation *e, tool_tensors *outputs)
{
    return_if_error(device_synchronize(e->device));
    for (tensor_id id = 0; id < TENSOR_COUNT; id++) {
        const size_t bytes = tensor_bytes(e->shape, id);
        if (tensor_is_output(e->shape, id) && e->memory[id] != 0 && bytes > 0)
            return_if_error(
                fex_driver_check(e->device->driver,
                                 e->device->driver->cuMemcpyDtoH(
                                     outputs->data[id], e->memory[id], bytes),
                                 "cuMemcpyDtoH"));
    }
    return FEX_OK;
}

void evaluation_destroy(evaluation *e)
{
    if (e->device == NULL)
        return;
    const fex_driver *driver = e->device->driver;

    driver->cuStreamSynchronize(e->device->stream);
    for (tensor_id id = 0; id < TENSOR_COUNT; id++)
        if (e->memory[id] != 0)
            driver->cuMemFree(e->memory[id]);
    if (e->workspace != 0)
        driver->cuMemFree(e->workspace);
    fex_op_destroy(e->op);
}
