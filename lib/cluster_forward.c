/* SPDX-License-Identifier: Apache-2.0 */
/* cluster_forward.c - forward in one launch, for few tokens: a cluster of
 * blocks a token. Needs thread block clusters, and rows whose sums fit in a
 * warp's registers. */
#include "config.h"

#include "variants.h"

#define CLUSTER_MAX 8 /* blocks; more are not portable */
#define TOKENS_MAX 128
#define SUMS_MAX 32 /* of a lane */

/* Warps of a block, the pairs each keeps in flight, and how many such blocks a
 * multiprocessor holds: for few pairs a token more blocks, for many more of
 * everything. */
typedef struct config {
    int threads, unroll, blocks;
} config;

static config config_for(const fex_problem *problem)
{
    return problem->top_k < 256 ? (config){128, 2, 2} : (config){256, 4, 1};
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
    fex_spec_add(&specs[0], "THREADS", config_for(problem).threads);
    fex_spec_add(&specs[0], "UNROLL", config_for(problem).unroll);
    fex_spec_add(&specs[0], "CLUSTER_MAX", CLUSTER_MAX);
    return 1;
}

static size_t workspace_size(const fex_problem *problem, int64_t num_tokens)
{
    (void)problem;
    (void)num_tokens;
    return 0;
}

/* As many blocks for a token as the device has room for at once. */
static int cluster_for(const fex_launch *launch, int64_t num_tokens)
{
    const int64_t room = (int64_t)launch->device->multiprocessors *
                         config_for(launch->problem).blocks;
    int cluster = CLUSTER_MAX;
    while (cluster > 1 && num_tokens * cluster > room)
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
    const int cluster = cluster_for(launch, in->num_tokens);
    const fex_grid grid = {.x = in->num_tokens * cluster,
                           .y = 1,
                           .threads = config_for(launch->problem).threads,
                           .cluster = cluster};
    return fex_launch_kernel(launch, launch->modules[0]->functions[0], grid,
                             &args);
}

const fex_variant fex_cluster_forward = {.name = "cluster",
                                         .pass = FEX_PASS_FORWARD,
                                         .tokens_max = TOKENS_MAX,
                                         .applies = applies,
                                         .describe = describe,
                                         .workspace_size = workspace_size,
                                         .launch = launch_forward};
