/* SPDX-License-Identifier: Apache-2.0 */
/* gather.c - the gather primitives: their constants, and how a launch is cut
 * up so that what is read at one time fits the L2 cache. */
#include "config.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "estimate.h"
#include "gather.h"

#define SDDMM_TILE_COLUMNS 1024 /* that a block's registers hold */
#define SDDMM_LIST_MAX 1024 /* pairs of a token that one block lists */
#define SDDMM_TILE_BYTES (INT64_C(64) << 10) /* the least a block should read */
#define SDDMM_SLAB_SHARE 0.4 /* of L2: tokens' rows and the next slab come by */
#define SPMM_VECTORS 1
#define SPMM_CHUNK_BYTES (INT64_C(32) << 20) /* of a table, at one time */
#define SPMM_GROUP_MIN 16

/* Of the estimate. */
#define LAUNCH_SECONDS 3.6e-6 /* of both */
#define STEP_CLOCKS 1287      /* of a block's pairs that are read at once */
#define PAIR_BYTES 32         /* that a row seems longer than it is */
#define MEMORY_SHARE 0.7      /* if nothing else took time */
#define HIDDEN_SHARE 0.46     /* of that, while L2 is read */

/* SpMM's blocks, by how many pairs a token has: as few warps as keep each busy,
 * since they have to wait for each other at the end. */
typedef struct spmm_config {
    int64_t top_k_min;
    int threads;
    int min_blocks; /* of a multiprocessor: leaves registers for loads */
    int unroll;     /* rows a group of lanes reads at once */
} spmm_config;

static const spmm_config spmm_configs[] = {
    {128, 128, 8, 4},
    {64, 64, 16, 2},
    {1, 32, 32, 2},
};

static const spmm_config *spmm_config_for(const fex_problem *problem)
{
    const spmm_config *config = spmm_configs;
    while (problem->top_k < config->top_k_min)
        config++;
    return config;
}

/* ---- SDDMM -------------------------------------------------------------- */

/* Three warps suit most; long lists and rows keep four busy. */
static int sddmm_threads(const fex_problem *problem)
{
    return problem->top_k >= 1024 || problem->hidden_size > SDDMM_TILE_COLUMNS
               ? 128
               : 96;
}

/* How many threads a multiprocessor holds at least: leaves registers for loads.
 * Where more are in use, as narrow loads want, the compiler would spill some. */
static int sddmm_resident(const fex_architecture *architecture,
                          fex_geometry geometry, int epilogue)
{
    return architecture->major == 9 && geometry.vector_bytes == 16 &&
                   epilogue == FEX_EPILOGUE_SCORES
               ? 768
               : 512;
}

void fex_describe_sddmm(const fex_problem *problem,
                        const fex_architecture *architecture,
                        fex_geometry geometry, int epilogue,
                        fex_kernel_spec *spec)
{
    fex_spec_init(spec, "sddmm_gather.cu", "fex_sddmm_gather", architecture);
    fex_spec_add_rows(spec, problem, geometry);
    fex_spec_add_choices(spec, problem);
    /* Scores do not depend on it: one kernel serves every routing_dtype. */
    fex_spec_add(spec, "ROUTING_DTYPE",
                 (int64_t)(epilogue == FEX_EPILOGUE_GATE
                               ? problem->routing_dtype
                               : problem->dtype));
    fex_spec_add(spec, "EPILOGUE", epilogue);
    fex_spec_add(spec, "THREADS", sddmm_threads(problem));
    fex_spec_add(spec, "MIN_BLOCKS",
                 sddmm_resident(architecture, geometry, epilogue) /
                     sddmm_threads(problem));
    fex_spec_add(spec, "LIST_MAX", fex_min(SDDMM_LIST_MAX, problem->top_k));
}

/* How many slabs the experts are swept in. A slab should fit L2 with room for
 * the tokens' rows; slabs pay only if rows are read again while they are there,
 * more often where much of the table stays anyway, and if a token has enough
 * pairs in each to be worth a block. */
static int64_t slab_count(const fex_problem *problem, const fex_device *device,
                          int64_t num_tokens, int64_t row_bytes)
{
    const double slab_bytes =
        SDDMM_SLAB_SHARE * (double)fex_max(device->l2_bytes, 1);
    const int64_t reads_per_row =
        num_tokens * problem->top_k / problem->num_experts;
    const double table_bytes = (double)problem->num_experts * (double)row_bytes;
    if (reads_per_row < (table_bytes > (double)device->l2_bytes ? 2 : 4))
        return 1;
    const int64_t wanted = (int64_t)(table_bytes / slab_bytes) + 1;
    return fex_max(1, fex_min(wanted, problem->top_k / 16));
}

/* How a launch is cut up. */
typedef struct sddmm_cut {
    int64_t slabs;
    int64_t tile; /* pairs of a token that a block lists */
} sddmm_cut;

/* A token is shared by several blocks only where there would be too few blocks
 * to fill the device. */
static sddmm_cut cut_sddmm(const fex_problem *problem, const fex_device *device,
                           int64_t num_tokens, int64_t row_bytes)
{
    const int64_t slabs = slab_count(problem, device, num_tokens, row_bytes);
    const int64_t blocks_wanted = 8 * (int64_t)device->multiprocessors;
    const int64_t tiles_wanted =
        fex_ceil_div(blocks_wanted, num_tokens * slabs);
    const int64_t tile_min = fex_ceil_div(SDDMM_TILE_BYTES, row_bytes);
    return (sddmm_cut){
        slabs, fex_min(fex_max(fex_ceil_div(problem->top_k, tiles_wanted),
                               tile_min),
                       fex_min(SDDMM_LIST_MAX, problem->top_k))};
}

fex_status fex_launch_sddmm(const fex_launch *launch, const fex_module *module,
                            fex_sddmm_args *args)
{
    const fex_problem *const problem = launch->problem;
    const int64_t num_tokens = args->choices.num_tokens;
    const int64_t row_bytes =
        args->table_stride * (int64_t)fex_dtype_bytes(problem->dtype);
    const sddmm_cut cut =
        cut_sddmm(problem, launch->device, num_tokens, row_bytes);
    args->slab_experts = fex_ceil_div(problem->num_experts, cut.slabs);
    args->tile_pairs = (int)cut.tile;
    args->token_tiles = (int)fex_ceil_div(problem->top_k, cut.tile);
    const fex_grid grid = {.x = num_tokens * args->token_tiles,
                           .y = cut.slabs,
                           .threads = sddmm_threads(problem)};
    return fex_launch_kernel(launch, module->functions[0], grid, args);
}

/* ---- SpMM --------------------------------------------------------------- */

/* The widest chunks of columns of which the whole table's fit L2, as far as
 * rows stay worth reading piecemeal. If none fit, narrow ones would only read
 * memory in smaller pieces: rows are read as wide as they come. The size of
 * the cache must not decide what is compiled, so it is taken to be a large
 * GPU's. */
static fex_geometry chunk_geometry(const fex_problem *problem,
                                   fex_geometry geometry)
{
    fex_geometry chunk = geometry;
    const int64_t lane_bytes =
        problem->num_experts * geometry.vector_bytes * SPMM_VECTORS;
    while (chunk.group > SPMM_GROUP_MIN &&
           lane_bytes * chunk.group > SPMM_CHUNK_BYTES)
        chunk.group /= 2;
    return lane_bytes * chunk.group > SPMM_CHUNK_BYTES ? geometry : chunk;
}

void fex_describe_spmm(const fex_problem *problem,
                       const fex_architecture *architecture,
                       fex_geometry geometry, int coefficient,
                       fex_kernel_spec *spec)
{
    const spmm_config *const config = spmm_config_for(problem);
    fex_spec_init(spec, "spmm_gather.cu", "fex_spmm_gather", architecture);
    fex_spec_add_rows(spec, problem, chunk_geometry(problem, geometry));
    fex_spec_add_choices(spec, problem);
    fex_spec_add(spec, "ROUTING_DTYPE",
                 (int64_t)(coefficient == FEX_COEFFICIENT_GATED
                               ? problem->routing_dtype
                               : problem->dtype));
    fex_spec_add(spec, "COEFFICIENT", coefficient);
    fex_spec_add(spec, "THREADS", config->threads);
    fex_spec_add(spec, "MIN_BLOCKS", config->min_blocks);
    fex_spec_add(spec, "VECTORS", SPMM_VECTORS);
    fex_spec_add(spec, "UNROLL", config->unroll);
}

static int64_t chunk_columns(const fex_problem *problem, fex_geometry geometry)
{
    const fex_geometry chunk = chunk_geometry(problem, geometry);
    return chunk.group * chunk.vector_bytes * SPMM_VECTORS /
           (int64_t)fex_dtype_bytes(problem->dtype);
}

fex_status fex_launch_spmm(const fex_launch *launch, const fex_module *module,
                           const fex_spmm_args *args, int dependent)
{
    const fex_problem *const problem = launch->problem;
    const int64_t columns = chunk_columns(problem, launch->geometry);
    const fex_grid grid = {.x = args->choices.num_tokens,
                           .y = fex_ceil_div(problem->hidden_size, columns),
                           .threads = spmm_config_for(problem)->threads,
                           .dependent = dependent};
    return fex_launch_kernel(launch, module->functions[0], grid, args);
}

/* ---- Judging ------------------------------------------------------------ */

/* What the scores read again because L2 did not keep it. */
static double reread_bytes(const fex_problem *problem, const fex_device *device,
                           int64_t num_tokens, double half)
{
    const double row = fex_row_bytes(problem);
    const double slab =
        row * (double)problem->num_experts /
        (double)slab_count(problem, device, num_tokens, (int64_t)row);
    const double again = half - fex_chosen_bytes(problem, num_tokens) / 2;
    return fmax(again, 0) * fmax(1 - (double)device->l2_bytes / slab, 0);
}

/* The scores' reading, then the states' as fast as it goes or the pairs of a
 * block one step after another. Some of the time to bring in what is read comes
 * on top of that; all of it is the least. */
double fex_estimate_gather(const fex_problem *problem, const fex_device *device,
                           int64_t num_tokens)
{
    const fex_geometry chunk =
        chunk_geometry(problem, fex_geometry_for(problem, 16));
    const spmm_config *const config = spmm_config_for(problem);
    const int64_t step_pairs = config->threads / chunk.group * config->unroll;
    const double steps = (double)fex_ceil_div(problem->top_k, step_pairs);
    const double half = (fex_row_bytes(problem) + PAIR_BYTES) *
                        (double)num_tokens * (double)problem->top_k;
    const double read = fex_gather_seconds(device, half, 1);
    const double chain = fex_clock_seconds(device, STEP_CLOCKS * steps);
    const double moved = fex_memory_seconds(
        device,
        fex_chosen_bytes(problem, num_tokens) +
            reread_bytes(problem, device, num_tokens, half),
        MEMORY_SHARE);
    return LAUNCH_SECONDS +
           fmax(read + fmax(chain, read) + (1 - HIDDEN_SHARE) * moved, moved);
}

void fex_describe_gather(const fex_problem *problem, const fex_device *device,
                         int64_t num_tokens, char text[FEX_LAUNCH_TEXT_MAX])
{
    const sddmm_cut cut = cut_sddmm(problem, device, num_tokens,
                                    (int64_t)fex_row_bytes(problem));
    const int64_t columns =
        chunk_columns(problem, fex_geometry_for(problem, 16));
    snprintf(text, FEX_LAUNCH_TEXT_MAX,
             "slabs=%" PRId64 " tile=%" PRId64 " chunk=%" PRId64
             " threads=%d/%d",
             cut.slabs, cut.tile, fex_min(columns, problem->hidden_size),
             sddmm_threads(problem), spmm_config_for(problem)->threads);
}
