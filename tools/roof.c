/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "roof.h"

#include <stdlib.h>

#include "../kernels/arguments.h"
#include "convert.h"
#include "variants.h"

enum { THREADS = 256, THREADS_OF_MULTIPROCESSOR = 2048 };
enum { GATHER, COPY }; /* positions in the module */

/* The copy reads this many times what L2 holds, or less where the device has
 * little memory left. */
enum { COPY_L2 = 8, COPY_L2_MIN = 2 };

static fex_status load_module(const tool_device *device,
                              const fex_op_desc *desc,
                              const fex_module **module)
{
    fex_problem problem;
    fex_kernel_spec spec;

    return_if_error(fex_problem_init(&problem, desc));
    fex_spec_init(&spec, "gather_roof.cu", "fex_gather_roof",
                  device->context->device.architecture);
    spec.functions[COPY] = "fex_copy_roof";
    spec.function_count = 2;
    fex_spec_add_rows(&spec, &problem, fex_geometry_for(&problem, 16));
    fex_spec_add(&spec, "INDEX_TYPE", (int64_t)problem.index_type);
    fex_spec_add(&spec, "THREADS", THREADS);
    return fex_loader_get(device->context->loader, &spec, module);
}

/* Every multiprocessor full. */
static fex_status launch(const tool_device *device, CUfunction function,
                         const void *args)
{
    const fex_launch launch = {.driver = device->driver,
                               .stream = device->stream};
    const fex_grid grid = {.x = (int64_t)device->info.multiprocessors *
                                (THREADS_OF_MULTIPROCESSOR / THREADS),
                           .y = 1,
                           .threads = THREADS};
    return fex_launch_kernel(&launch, function, grid, args);
}

/* ---- Gathering ---------------------------------------------------------- */

/* The token of each pair that is no empty slot, sorted by expert and then by
 * token: what the weight gradients gather. Returns how many; tokens has room
 * for all pairs, ends for num_experts + 1. */
static int64_t sort_tokens(const tool_shape *shape, const void *indices,
                           int64_t *ends, void *tokens)
{
    const fex_op_desc *desc = &shape->desc;
    const int64_t pairs = shape->tokens * desc->top_k;
    int64_t total = 0;

    for (int64_t i = 0; i < pairs; i++) {
        const int64_t e = fex_convert_index(desc->index_type, indices, i);
        if (e >= 0 && e < desc->num_experts)
            ends[e]++;
    }
    for (int64_t e = 0; e < desc->num_experts; e++) {
        const int64_t count = ends[e];
        ends[e] = total;
        total += count;
    }
    for (int64_t i = 0; i < pairs; i++) {
        const int64_t e = fex_convert_index(desc->index_type, indices, i);
        if (e >= 0 && e < desc->num_experts)
            tensor_store_index(shape, tokens, ends[e]++, i / desc->top_k);
    }
    return total;
}

/* Makes the list of tokens on the device. */
static fex_status load_tokens(gather_roof *roof, const void *indices)
{
    const tool_device *device = roof->evaluation->device;
    const tool_shape *shape = roof->evaluation->shape;
    const size_t bytes = tensor_bytes(shape, TENSOR_INDICES);
    int64_t *ends = calloc((size_t)shape->desc.num_experts, sizeof *ends);
    void *tokens = malloc(bytes + 1);
    fex_status status = FEX_OK;

    if (ends == NULL || tokens == NULL) {
        status = fex_fail(FEX_ERROR_OUT_OF_MEMORY, "out of memory");
        goto free_both;
    }
    roof->sorted_pairs = sort_tokens(shape, indices, ends, tokens);
    status = device_allocate(device, bytes, "a list of tokens", &roof->tokens);
    if (status == FEX_OK && bytes > 0)
        status = fex_driver_check(
            device->driver,
            device->driver->cuMemcpyHtoD(roof->tokens, tokens, bytes),
            "cuMemcpyHtoD");
free_both:
    free(tokens);
    free(ends);
    return status;
}

fex_status gather_roof_create(evaluation *e, const tool_tensors *inputs,
                              fex_pass pass, gather_roof *roof)
{
    *roof = (gather_roof){.evaluation = e, .pass = pass};
    return_if_error(load_module(e->device, &e->shape->desc, &roof->module));
    fex_status status =
        device_allocate(e->device, sizeof(unsigned), "a result", &roof->sink);
    if (status == FEX_OK && pass == FEX_PASS_BACKWARD)
        status = load_tokens(roof, inputs->data[TENSOR_INDICES]);
    if (status != FEX_OK)
        gather_roof_destroy(roof);
    return status;
}

/* Rows of one tensor, by a list of rows. */
static fex_status gather(const gather_roof *roof, const tool_tensors *tensors,
                         tensor_id table, const void *rows, int64_t count)
{
    const evaluation *e = roof->evaluation;
    const fex_gather_roof_args args = {
        .choices = {.indices = rows,
                    .indices_stride = 1,
                    .num_tokens = count,
                    .num_experts = tensor_rows(e->shape, table)},
        .table = tensors->data[table],
        .sink = (unsigned *)roof->sink,
        .unlikely = 0x5bd1e995};
    return launch(e->device, roof->module->functions[GATHER], &args);
}

fex_status gather_roof_call(void *user)
{
    gather_roof *roof = user;
    const tool_shape *shape = roof->evaluation->shape;
    const int64_t pairs = shape->tokens * shape->desc.top_k;
    const tool_tensors tensors =
        evaluation_tensors(roof->evaluation, roof->turn++);
    const void *chosen = tensors.data[TENSOR_INDICES];
    const void *tokens = (const void *)roof->tokens;

    return_if_error(gather(roof, &tensors, TENSOR_DOWN_WEIGHTS, chosen, pairs));
    return_if_error(gather(roof, &tensors, TENSOR_UP_WEIGHTS, chosen, pairs));
    if (roof->pass == FEX_PASS_FORWARD)
        return FEX_OK;
    return_if_error(gather(roof, &tensors, TENSOR_HIDDEN_STATES, tokens,
                           roof->sorted_pairs));
    return gather(roof, &tensors, TENSOR_GRAD_OUTPUT, tokens,
                  roof->sorted_pairs);
}

void gather_roof_destroy(gather_roof *roof)
{
    if (roof->evaluation == NULL)
        return;
    const fex_driver *driver = roof->evaluation->device->driver;
    if (roof->tokens != 0)
        driver->cuMemFree(roof->tokens);
    if (roof->sink != 0)
        driver->cuMemFree(roof->sink);
    *roof = (gather_roof){.evaluation = NULL};
}

/* ---- Copying ------------------------------------------------------------ */

fex_status copy_roof_create(const tool_device *device, copy_roof *roof)
{
    /* Any shape will do: the copy does not depend on it. */
    const fex_op_desc desc = {.size = sizeof desc,
                              .dtype = FEX_DTYPE_BF16,
                              .hidden_size = 1024,
                              .top_k = 1,
                              .num_experts = 1};
    fex_status status = FEX_ERROR_DEVICE_OUT_OF_MEMORY;

    *roof = (copy_roof){.device = device};
    return_if_error(load_module(device, &desc, &roof->module));
    for (size_t times = COPY_L2; times >= COPY_L2_MIN; times /= 2) {
        roof->bytes = times * (size_t)device->info.l2_bytes / 16 * 16;
        status =
            device_allocate(device, 2 * roof->bytes, "a copy", &roof->memory);
        if (status != FEX_ERROR_DEVICE_OUT_OF_MEMORY)
            break;
    }
    return status;
}

fex_status copy_roof_call(void *user)
{
    const copy_roof *roof = user;
    const fex_copy_roof_args args = {.from = (const void *)roof->memory,
                                     .to = (void *)(roof->memory + roof->bytes),
                                     .vectors = (fex_i64)(roof->bytes / 16)};
    return launch(roof->device, roof->module->functions[COPY], &args);
}

void copy_roof_destroy(copy_roof *roof)
{
    if (roof->memory != 0)
        roof->device->driver->cuMemFree(roof->memory);
    *roof = (copy_roof){.device = NULL};
}
