/* SPDX-License-Identifier: Apache-2.0 */
/* gather.h - the two primitives both gather families are made of: a dot
 * product for every pair (SDDMM) and a weighted sum for every token (SpMM). */
#ifndef FEX_GATHER_H
#define FEX_GATHER_H

#include "variants.h"

/* As in sddmm_gather.cu and spmm_gather.cu. */
enum { FEX_EPILOGUE_SCORES = 0, FEX_EPILOGUE_GATE = 1 };
enum { FEX_COEFFICIENT_GATED = 0, FEX_COEFFICIENT_PLAIN = 1 };

void fex_describe_sddmm(const fex_problem *problem,
                        const fex_architecture *architecture,
                        fex_geometry geometry, int epilogue,
                        fex_kernel_spec *spec);
void fex_describe_spmm(const fex_problem *problem,
                       const fex_architecture *architecture,
                       fex_geometry geometry, int coefficient,
                       fex_kernel_spec *spec);

/* Fill in how the work is cut up, and launch; num_tokens > 0. SpMM may be
 * `dependent`, as in fex_grid, on the launch that gives it its values. */
fex_status fex_launch_sddmm(const fex_launch *launch, const fex_module *module,
                            fex_sddmm_args *args);
fex_status fex_launch_spmm(const fex_launch *launch, const fex_module *module,
                           const fex_spmm_args *args, int dependent);

/* For the forward pass as a whole, as fex_variant has them. */
double fex_estimate_gather(const fex_problem *problem, const fex_device *device,
                           int64_t num_tokens);
void fex_describe_gather(const fex_problem *problem, const fex_device *device,
                         int64_t num_tokens, char text[FEX_LAUNCH_TEXT_MAX]);

#endif
