/* SPDX-License-Identifier: Apache-2.0 */
/* variants.c - the table of families, and what families share. */
#include "config.h"

#include <string.h>

#include "variants.h"

#define CHECK_THREADS 256

/* Data types and index types go into preludes by value. */
_Static_assert((int)FEX_DTYPE_F16 == FEX_KERNEL_F16 &&
                   (int)FEX_DTYPE_BF16 == FEX_KERNEL_BF16 &&
                   (int)FEX_DTYPE_F32 == FEX_KERNEL_F32 &&
                   (int)FEX_INDEX_I32 == FEX_KERNEL_I32 &&
                   (int)FEX_INDEX_I64 == FEX_KERNEL_I64,
               "the kernels' names for types are the library's");

static const fex_variant *const variants[] = {
    &fex_cluster_forward,
    &fex_matrix_forward,
    &fex_dense_forward,
    &fex_gather_forward,
    &fex_gather_backward,
};
#define VARIANT_COUNT (sizeof variants / sizeof *variants)
_Static_assert(VARIANT_COUNT <= FEX_FAMILIES_MAX,
               "whoever chooses has room for all families");

const fex_variant *const *fex_variant_table(size_t *count)
{
    *count = VARIANT_COUNT;
    return variants;
}

fex_status fex_variant_check_family(const char *family)
{
    for (size_t i = 0; i < VARIANT_COUNT; i++)
        if (family == NULL || strcmp(variants[i]->name, family) == 0)
            return FEX_OK;
    return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                    "FLASHEXPERT_FAMILY is \"%s\", not the name of a family",
                    family);
}

const fex_variant *fex_variant_last(fex_pass pass)
{
    size_t i = VARIANT_COUNT - 1;
    while (variants[i]->pass != pass)
        i--;
    return variants[i];
}

fex_geometry fex_geometry_for(const fex_problem *problem, size_t alignment)
{
    const size_t element = fex_dtype_bytes(problem->dtype);
    const size_t row = (size_t)problem->hidden_size * element;
    size_t bytes = 16;
    while (bytes > element && (alignment | row) % bytes != 0)
        bytes /= 2;
    fex_geometry geometry = {.vector_bytes = (int)bytes, .group = 1};
    while (geometry.group < 32 && (size_t)geometry.group * bytes < row)
        geometry.group *= 2;
    return geometry;
}

/* ---- Specifications ----------------------------------------------------- */

void fex_spec_init(fex_kernel_spec *spec, const char *file,
                   const char *function, const fex_architecture *architecture)
{
    *spec = (fex_kernel_spec){.file = file,
                              .functions = {function},
                              .function_count = 1,
                              .architecture = architecture};
}

void fex_spec_add(fex_kernel_spec *spec, const char *constant, int64_t value)
{
    spec->constants[spec->constant_count++] =
        (fex_constant){.name = constant, .value = value};
}

void fex_spec_add_rows(fex_kernel_spec *spec, const fex_problem *problem,
                       fex_geometry geometry)
{
    fex_spec_add(spec, "DTYPE", (int64_t)problem->dtype);
    fex_spec_add(spec, "HIDDEN_SIZE", problem->hidden_size);
    fex_spec_add(spec, "VECTOR_BYTES", geometry.vector_bytes);
    fex_spec_add(spec, "GROUP", geometry.group);
}

void fex_spec_add_choices(fex_kernel_spec *spec, const fex_problem *problem)
{
    fex_spec_add(spec, "INDEX_TYPE", (int64_t)problem->index_type);
    fex_spec_add(spec, "TOP_K", problem->top_k);
}

void fex_spec_add_shared(fex_kernel_spec *spec, int bytes)
{
    fex_spec_add(spec, "SHARED_BYTES", bytes);
    spec->shared_bytes = bytes;
}

/* ---- Launching ---------------------------------------------------------- */

/* Whether launches can start before the one ahead has ended: what kernels wait
 * with came with sm_90, and that a capture keeps it with CUDA 12.3. */
static int may_overlap(const fex_launch *launch)
{
    return launch->device->architecture->major >= 9 &&
           launch->driver->version >= 12030;
}

fex_status fex_launch_kernel(const fex_launch *launch, CUfunction function,
                             fex_grid grid, const void *args)
{
    CUlaunchAttribute attributes[2];
    unsigned count = 0;
    if (grid.cluster > 1)
        attributes[count++] = (CUlaunchAttribute){
            .id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            .value.clusterDim = {(unsigned)grid.cluster, 1, 1}};
    if (grid.dependent && may_overlap(launch))
        attributes[count++] = (CUlaunchAttribute){
            .id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            .value.programmaticStreamSerializationAllowed = 1};
    const CUlaunchConfig config = {.gridDimX = (unsigned)grid.x,
                                   .gridDimY = (unsigned)grid.y,
                                   .gridDimZ = 1,
                                   .blockDimX = (unsigned)grid.threads,
                                   .blockDimY = 1,
                                   .blockDimZ = 1,
                                   .sharedMemBytes =
                                       (unsigned)grid.shared_bytes,
                                   .hStream = launch->stream,
                                   .attrs = attributes,
                                   .numAttrs = count};
    /* The driver copies the structure during the call. */
    void *parameters[] = {(void *)(uintptr_t)args};
    return fex_driver_check(
        launch->driver,
        launch->driver->cuLaunchKernelEx(&config, function, parameters, NULL),
        "cuLaunchKernelEx");
}

int64_t fex_cluster_room(int64_t room, int cluster)
{
    return cluster > 2 ? room * 15 / 16 : room;
}

fex_choices fex_choices_of(const fex_launch *launch)
{
    return (fex_choices){.indices = launch->indices,
                         .indices_stride = launch->indices_stride,
                         .num_tokens = launch->num_tokens,
                         .num_experts = launch->problem->num_experts};
}

void *fex_layout_take(fex_layout *layout, int64_t count, size_t size)
{
    const size_t offset = layout->used;
    layout->used += ((size_t)count * size + 255) / 256 * 256;
    return layout->base != NULL ? layout->base + offset : NULL;
}

void *fex_row_at(const void *array, int64_t stride, int64_t first,
                 size_t element)
{
    return array == NULL ? NULL
                         : (char *)(uintptr_t)array +
                               first * stride * (int64_t)element;
}

int64_t fex_ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

int64_t fex_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

int64_t fex_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* ---- Checked mode ------------------------------------------------------- */

void fex_describe_check(const fex_problem *problem,
                        const fex_architecture *architecture,
                        fex_kernel_spec *spec)
{
    fex_spec_init(spec, "check_indices.cu", "fex_check_indices", architecture);
    fex_spec_add_choices(spec, problem);
    fex_spec_add(spec, "THREADS", CHECK_THREADS);
}

fex_status fex_launch_check(const fex_launch *launch, const fex_module *module,
                            int64_t *first)
{
    const fex_driver *const driver = launch->driver;
    const CUdeviceptr result = (CUdeviceptr)(uintptr_t)launch->workspace;
    const fex_check_args args = {.choices = fex_choices_of(launch),
                                 .first = launch->workspace};
    const int64_t pairs = launch->num_tokens * launch->problem->top_k;
    const fex_grid grid = {.x = fex_ceil_div(pairs, CHECK_THREADS),
                           .y = 1,
                           .threads = CHECK_THREADS};

    /* All ones, -1, is what stays when every index is in range. */
    return_if_error(fex_driver_check(
        driver,
        driver->cuMemsetD8Async(result, 0xff, sizeof *first, launch->stream),
        "cuMemsetD8Async"));
    return_if_error(
        fex_launch_kernel(launch, module->functions[0], grid, &args));
    return_if_error(fex_driver_check(
        driver,
        driver->cuMemcpyDtoHAsync(first, result, sizeof *first, launch->stream),
        "cuMemcpyDtoHAsync"));
    return fex_driver_check(driver, driver->cuStreamSynchronize(launch->stream),
                            "cuStreamSynchronize");
}
