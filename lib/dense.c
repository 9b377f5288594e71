/* SPDX-License-Identifier: Apache-2.0 */
/* dense.c - the table of engines, and how their grids cover the tiles. */
#include "config.h"

#include <string.h>

#include "dense.h"

#define BOX_COLUMNS 64 /* 128 bytes, what the copy engine swizzles */

_Static_assert(sizeof(fex_tensor_map) == sizeof(CUtensorMap),
               "the kernels' tensor map is the driver's");

/* ---- mma.sync, from sm_80 on -------------------------------------------- */

static int has_mma(const fex_architecture *architecture)
{
    return architecture->major >= 8;
}

/* A block a tile; those that run together read the same rows of the table. */
static fex_grid mma_scores_grid(const fex_launch *launch,
                                const fex_dense_engine *engine,
                                int64_t num_tokens)
{
    const fex_dense_kernel *const kernel = &engine->scores;
    return (fex_grid){
        .x = fex_ceil_div(num_tokens, kernel->tokens) *
             fex_ceil_div(launch->problem->num_experts, kernel->across),
        .y = 1,
        .threads = kernel->threads,
        .shared_bytes = kernel->shared_bytes,
        .dependent = 1};
}

/* Of each of two stages, so many parts of the weights, and the experts' rows. */
#define MMA_STATES(parts)                                                      \
    {                                                                          \
        .file = "dense_states_mma.cu", .across_name = "TILE_COLUMNS",          \
        .tokens = 128, .across = 128, .threads = 256, .stages = 2,             \
        .shared_bytes = 2 * ((parts) * 128 + 128) * 128                        \
    }

/* ---- The table ---------------------------------------------------------- */

/* The first that runs is taken. */
static const fex_dense_engine engines[] = {
    {.runs_on = has_mma,
     .scores = {.file = "dense_scores_mma.cu",
                .across_name = "TILE_EXPERTS",
                .tokens = 128,
                .across = 128,
                .threads = 256,
                .stages = 4,
                .shared_bytes = 4 * (128 + 128) * 64 + 1024},
     .states = {MMA_STATES(2), MMA_STATES(1)},
     .scores_grid = mma_scores_grid},
};

const fex_dense_engine *fex_dense_engine_for(
    const fex_architecture *architecture)
{
    for (size_t i = 0; i < sizeof engines / sizeof *engines; i++)
        if (engines[i].runs_on(architecture))
            return &engines[i];
    return NULL;
}

const fex_dense_kernel *fex_dense_states(const fex_dense_engine *engine,
                                         const fex_problem *problem)
{
    return &engine->states[problem->dtype == FEX_DTYPE_BF16];
}

/* ---- Tensor maps -------------------------------------------------------- */

fex_status fex_dense_map_rows(const fex_launch *launch, fex_tensor_map *map,
                              const void *base, int64_t rows, int64_t stride,
                              int box_rows)
{
    const fex_driver *const driver = launch->driver;
    const CUtensorMapDataType type = launch->problem->dtype == FEX_DTYPE_F16
                                         ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                         : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    const cuuint64_t sizes[2] = {(cuuint64_t)launch->problem->hidden_size,
                                 (cuuint64_t)rows};
    const cuuint64_t strides[1] = {
        (cuuint64_t)stride * fex_dtype_bytes(launch->problem->dtype)};
    const cuuint32_t box[2] = {BOX_COLUMNS, (cuuint32_t)box_rows};
    const cuuint32_t steps[2] = {1, 1};
    CUtensorMap made; /* aligned as the driver wants it */
    return_if_error(fex_driver_check(
        driver,
        driver->cuTensorMapEncodeTiled(
            &made, type, 2, (void *)(uintptr_t)base, sizes,
            strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
            CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
        "cuTensorMapEncodeTiled"));
    memcpy(map, &made, sizeof *map);
    return FEX_OK;
}
