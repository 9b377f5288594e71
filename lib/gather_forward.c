/* SPDX-License-Identifier: Apache-2.0 */
/* gather_forward.c - forward by gathering: scores, then states. Applies to
 * every problem. */
#include "config.h"

#include "gather.h"

enum {
    SCORES,
    STATES,
    KERNELS
};

static int applies(const fex_problem *problem,
                   const fex_architecture *architecture)
{
    (void)problem;
    (void)architecture;
    return 1;
}

static size_t describe(const fex_problem *problem,
                       const fex_architecture *architecture,
                       fex_geometry geometry, fex_kernel_spec *specs)
{
    fex_describe_sddmm(problem, architecture, geometry, FEX_EPILOGUE_SCORES,
                       &specs[SCORES]);
    fex_describe_spmm(problem, architecture, geometry, FEX_COEFFICIENT_GATED,
                      &specs[STATES]);
    return KERNELS;
}

/* The scores, where the caller does not want them. */
static size_t workspace_size(const fex_problem *problem, int64_t num_tokens)
{
    fex_layout layout = {0};
    fex_layout_take(&layout, num_tokens * problem->top_k, sizeof(float));
    return layout.used;
}

static fex_status launch_forward(const fex_launch *launch)
{
    const fex_forward_args *const args = launch->forward;
    const int64_t top_k = launch->problem->top_k;
    const int saved = args->scores != NULL;
    float *const scores = saved ? args->scores : launch->workspace;
    const int64_t scores_stride = saved ? args->scores_stride : top_k;
    const fex_choices choices = fex_choices_of(launch);

    fex_sddmm_args sddmm = {.choices = choices,
                            .rows = args->hidden_states,
                            .table = args->down_weights,
                            .rows_stride = args->hidden_states_stride,
                            .table_stride = args->down_weights_stride,
                            .scores = scores,
                            .scores_stride = scores_stride};
    return_if_error(fex_launch_sddmm(launch, launch->modules[SCORES], &sddmm));

    const fex_spmm_args spmm = {.choices = choices,
                                .table = args->up_weights,
                                .table_stride = args->up_weights_stride,
                                .values = scores,
                                .values_stride = scores_stride,
                                .routing_weights = args->routing_weights,
                                .routing_weights_stride =
                                    args->routing_weights_stride,
                                .out = args->expert_states,
                                .out_stride = args->expert_states_stride};
    return fex_launch_spmm(launch, launch->modules[STATES], &spmm, 1);
}

const fex_variant fex_gather_forward = {.name = "gather",
                                        .pass = FEX_PASS_FORWARD,
                                        .applies = applies,
                                        .describe = describe,
                                        .workspace_size = workspace_size,
                                        .estimate = fex_estimate_gather,
                                        .describe_launch = fex_describe_gather,
                                        .launch = launch_forward};
