/* SPDX-License-Identifier: Apache-2.0 */
/* matrix_estimate.c - about how long the matrix family takes. */
#include "config.h"

#include <inttypes.h>
#include <stdio.h>

#include "estimate.h"
#include "matrix.h"

#define LAUNCH_SECONDS 4e-6 /* of all kernels, with little to do */
#define MEMORY_SHARE 0.7
#define SLOT_CLOCKS 8.1 /* of a multiprocessor, to list a choice and weigh it */

/* Both tables come from memory. */
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
    return LAUNCH_SECONDS + fex_memory_seconds(device, tables, MEMORY_SHARE) +
           fex_shared_seconds(device, slots * SLOT_CLOCKS) +
           fex_clock_seconds(device, fex_matrix_clocks(device, &scores) +
                                         fex_matrix_clocks(device, &states));
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
             "tiles=%dx%" PRId64 "/%" PRId64 " tokens=%" PRId64,
             FEX_MATRIX_TOKENS, fex_matrix_across(scores.width),
             fex_matrix_across(states.width), tokens);
}
