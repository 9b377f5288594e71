/* SPDX-License-Identifier: Apache-2.0 */
/* cluster_forward.c - forward in one launch, for few tokens: a cluster of
 * blocks a token. Needs thread block clusters, and rows whose sums fit in a
 * warp's registers. */
#include "config.h"

#include <math.h>
#include <stdio.h>

#include "estimate.h"
#include "variants.h"

#define CLUSTER_MAX 8 /* blocks; more are not portable */
#define SUMS_MAX 32   /* of a lane */
#define THREADS 256
#define WARPS (THREADS / 32)

/* Of the estimate. */
#define LAUNCH_SECONDS 3.3e-6
#define WAVE_CLOCKS 5940  /* of blocks there is no room for at first */
#define PAIR_CLOCKS 158.4 /* of a warp, and for each byte of a row: */
#define PAIR_BYTE_CLOCKS 0.7326
#define L2_SHARE 0.5
#define MEMORY_SHARE 0.7

/* How many pairs a warp keeps in flight, and how many blocks a multiprocessor
 * holds at least, by the registers that a row takes of a lane: as much in
 * flight as registers allow, and more blocks where rows are short. */
typedef struct config {
    int row_registers_max;
    int unroll, min_blocks;
} config;

static const config configs[] = {{4, 4, 3}, {8, 4, 2}, {16, 2, 2}, {64, 1, 1}};

static const config *config_for(const fex_problem *problem,
                                fex_geometry geometry)
{
    const int64_t row =
        problem->hidden_size * (int64_t)fex_dtype_bytes(problem->dtype);
    const int64_t vectors = fex_ceil_div(row, 32 * geometry.vector_bytes);
    const int64_t words = fex_ceil_div(geometry.vector_bytes, 4);
    /* Narrow loads take registers for addresses too. */
    const int64_t registers =
        vectors * words * (geometry.vector_bytes < 16 ? 2 : 1);
    const config *found = configs;
    while (registers > found->row_registers_max)
        found++;
    return found;
}

static int applies(const fex_problem *problem,
                   const fex_architecture *architecture)
{
    const fex_geometry dense = fex_geometry_for(problem, 16);
    return architecture->major >= 9 && dense.group == 32 &&
           problem->hidden_size <= 32 * SUMS_MAX;
}

static size_t describe(const fex_problem *problem,
                       const fex_architecture *architecture,
                       fex_geometry geometry, fex_kernel_spec *specs)
{
    fex_spec_init(&specs[0], "fused_cluster.cu", "fex_fused_cluster",
                  architecture);
    fex_spec_add_rows(&specs[0], problem, geometry);
    fex_spec_add_choices(&specs[0], problem);
    fex_spec_add(&specs[0], "ROUTING_DTYPE", (int64_t)problem->routing_dtype);
    fex_spec_add(&specs[0], "THREADS", THREADS);
    fex_spec_add(&specs[0], "MIN_BLOCKS",
                 config_for(problem, geometry)->min_blocks);
    fex_spec_add(&specs[0], "UNROLL", config_for(problem, geometry)->unroll);
    fex_spec_add(&specs[0], "CLUSTER_MAX", CLUSTER_MAX);
    return 1;
}

static size_t workspace_size(const fex_problem *problem, int64_t num_tokens)
{
    (void)problem;
    (void)num_tokens;
    return 0;
}

/* ---- Launching ---------------------------------------------------------- */

/* Blocks that run at once. */
static int64_t room_for(const fex_problem *problem, const fex_device *device,
                        fex_geometry geometry)
{
    return (int64_t)device->multiprocessors *
           config_for(problem, geometry)->min_blocks;
}

/* As many blocks for a token as have pairs for all their warps and as the
 * device has room for at once. */
static int cluster_for(const fex_problem *problem, const fex_device *device,
                       fex_geometry geometry, int64_t num_tokens)
{
    const int64_t room = room_for(problem, device, geometry);
    int cluster = CLUSTER_MAX;
    while (cluster > 1 &&
           (cluster * WARPS > problem->top_k ||
            num_tokens * cluster > fex_cluster_room(room, cluster)))
        cluster /= 2;
    return cluster;
}

static fex_status launch_forward(const fex_launch *launch)
{
    const fex_forward_args *const in = launch->forward;
    const fex_fused_args args = {
        .choices = fex_choices_of(launch),
        .hidden_states = in->hidden_states,
        .down_weights = in->down_weights,
        .up_weights = in->up_weights,
        .routing_weights = in->routing_weights,
        .scores = in->scores,
        .expert_states = in->expert_states,
        .hidden_states_stride = in->hidden_states_stride,
        .down_weights_stride = in->down_weights_stride,
        .up_weights_stride = in->up_weights_stride,
        .routing_weights_stride = in->routing_weights_stride,
        .scores_stride = in->scores_stride,
        .expert_states_stride = in->expert_states_stride};
    const int cluster = cluster_for(launch->problem, launch->device,
                                    launch->geometry, in->num_tokens);
    const fex_grid grid = {.x = in->num_tokens * cluster,
                           .y = 1,
                           .threads = THREADS,
                           .cluster = cluster};
    return fex_launch_kernel(launch, launch->modules[0]->functions[0], grid,
                             &args);
}

/* ---- Judging ------------------------------------------------------------ */

/* A warp's pairs one after another, or what all read, from L2 or from memory:
 * whichever takes longest. */
static double estimate(const fex_problem *problem, const fex_device *device,
                       int64_t num_tokens)
{
    const fex_geometry geometry = fex_geometry_for(problem, 16);
    const int cluster = cluster_for(problem, device, geometry, num_tokens);
    const double row = fex_row_bytes(problem);
    const double pairs = (double)num_tokens * (double)problem->top_k;
    const double waves = (double)(num_tokens * cluster) /
                         (double)room_for(problem, device, geometry);
    const double chain = fex_clock_seconds(
        device, (double)fex_ceil_div(problem->top_k, cluster * WARPS) *
                    (PAIR_CLOCKS + PAIR_BYTE_CLOCKS * row));
    const double read = fex_gather_seconds(device, 2 * pairs * row, L2_SHARE);
    const double moved = fex_memory_seconds(
        device, fex_chosen_bytes(problem, num_tokens), MEMORY_SHARE);
    return LAUNCH_SECONDS +
           fex_clock_seconds(device, WAVE_CLOCKS * fmax(waves - 1, 0)) +
           fmax(chain, fmax(read, moved));
}

static void describe_launch(const fex_problem *problem,
                            const fex_device *device, int64_t num_tokens,
                            char text[FEX_LAUNCH_TEXT_MAX])
{
    const fex_geometry geometry = fex_geometry_for(problem, 16);
    snprintf(text, FEX_LAUNCH_TEXT_MAX, "cluster=%d threads=%d unroll=%d",
             cluster_for(problem, device, geometry, num_tokens), THREADS,
             config_for(problem, geometry)->unroll);
}

const fex_variant fex_cluster_forward = {.name = "cluster",
                                         .pass = FEX_PASS_FORWARD,
                                         .applies = applies,
                                         .describe = describe,
                                         .workspace_size = workspace_size,
                                         .estimate = estimate,
                                         .describe_launch = describe_launch,
                                         .launch = launch_forward};
