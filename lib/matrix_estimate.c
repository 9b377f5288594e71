/* SPDX-License-Identifier: Apache-2.0 */
/* matrix_estimate.c - about how long the matrix family takes. */
#include "config.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "estimate.h"
#include "matrix.h"

#define LAUNCH_SECONDS 4.9e-6 /* of all kernels, with little to do */
#define MEMORY_SHARE 0.7
#define SLOT_CLOCKS 7.1 /* of a multiprocessor, to list a choice and weigh it */

/* Choices listed and weighed, then both products, or both tables from memory if
 * that takes longer. */
static double chunk_seconds(const fex_problem *problem,
                            const fex_device *device, int64_t num_tokens)
{
    const fex_matrix_cut scores =
        fex_matrix_cut_scores(problem, device, num_tokens);
    const fex_matrix_cut states =
        fex_matrix_cut_states(problem, device, num_tokens);
    const double slots = (double)num_tokens * (double)problem->top_k;
    const double tables =
        2 * fex_row_bytes(problem) * (double)problem->num_experts;
    const double products =
        fex_clock_seconds(device, scores.clocks + states.clocks) +
        fex_matrix_sum_seconds(problem, device, num_tokens, states.ranges);
    return LAUNCH_SECONDS + fex_shared_seconds(device, slots * SLOT_CLOCKS) +
           fmax(products, fex_memory_seconds(device, tables, MEMORY_SHARE));
}

double fex_matrix_estimate(const fex_problem *problem, const fex_device *device,
                           int64_t num_tokens)
{
    return fex_chunks_seconds(problem, device, num_tokens,
                              fex_matrix_chunk(problem, num_tokens),
                              chunk_seconds);
}

void fex_matrix_describe(const fex_problem *problem, const fex_device *device,
                         int64_t num_tokens, char text[FEX_LAUNCH_TEXT_MAX])
{
    const int64_t tokens = fex_matrix_chunk(problem, num_tokens);
    const fex_matrix_cut scores =
        fex_matrix_cut_scores(problem, device, tokens);
    const fex_matrix_cut states =
        fex_matrix_cut_states(problem, device, tokens);
    snprintf(text, FEX_LAUNCH_TEXT_MAX,
             "tiles=%dx%" PRId64 "/%" PRId64 " ranges=%" PRId64
             " tokens=%" PRId64,
             FEX_MATRIX_TILE, fex_matrix_across(scores.width),
             fex_matrix_across(states.width), states.ranges, tokens);
}
