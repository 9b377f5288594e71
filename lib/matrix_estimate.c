/* SPDX-License-Identifier: Apache-2.0 */
/* matrix_estimate.c - about how long the matrix family takes. */
#include "config.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "estimate.h"
#include "matrix.h"

#define LAUNCH_SECONDS 5.6e-6 /* of both kernels, with little to do */
#define TENSOR_SHARE 0.88     /* of the peak */
#define MEMORY_SHARE 0.7
#define SCORES_CLOCKS 15300 /* of a tile, besides what it multiplies */
#define STATES_CLOCKS 22700
#define SLOT_CLOCKS 7.3 /* of a warp that lists, for each choice of a token */
#define ENTRY_CLOCKS 58 /* and for those that are of the tile's experts */

/* A block's part of a tile. */
static double part_seconds(const fex_device *device, const fex_matrix_cut *cut)
{
    const double operations = 2.0 * FEX_MATRIX_TOKENS * FEX_MATRIX_ACROSS *
                              FEX_MATRIX_DEPTH * (double)cut->stages;
    return fex_tiles_seconds(device, 1, operations / cut->cluster,
                             TENSOR_SHARE);
}

/* Tokens that the warp which lists most of a block's has. */
static int64_t listed_tokens(const fex_matrix_cut *scores)
{
    const int64_t units = FEX_MATRIX_TOKENS / scores->cluster / FEX_MATRIX_UNIT;
    return fex_ceil_div(units, FEX_MATRIX_AIDES) * FEX_MATRIX_UNIT;
}

static double list_seconds(const fex_problem *problem, const fex_device *device,
                           const fex_matrix_cut *scores)
{
    const double top_k = (double)problem->top_k;
    const double of_tile =
        fmin(1, FEX_MATRIX_ACROSS / (double)problem->num_experts);
    return fex_clock_seconds(device,
                             (double)listed_tokens(scores) * top_k *
                                 (SLOT_CLOCKS + ENTRY_CLOCKS * of_tile));
}

static double rounds_of(const fex_device *device, const fex_matrix_cut *cut)
{
    return (double)fex_ceil_div(cut->tiles * cut->cluster,
                                device->multiprocessors);
}

/* Both tables come from memory. Of each tile of scores, its product or the lists
 * of its choices, whichever takes longer. */
static double chunk_seconds(const fex_problem *problem,
                            const fex_device *device, int64_t num_tokens)
{
    const fex_matrix_cut scores =
        fex_matrix_cut_scores(problem, device, num_tokens);
    const fex_matrix_cut states =
        fex_matrix_cut_states(problem, device, num_tokens);
    const double of_scores = fmax(part_seconds(device, &scores),
                                  list_seconds(problem, device, &scores)) +
                             fex_clock_seconds(device, SCORES_CLOCKS);
    const double of_states = part_seconds(device, &states) +
                             fex_clock_seconds(device, STATES_CLOCKS);
    const double tables =
        2 * fex_row_bytes(problem) * (double)problem->num_experts;
    return LAUNCH_SECONDS + fex_memory_seconds(device, tables, MEMORY_SHARE) +
           rounds_of(device, &scores) * of_scores +
           rounds_of(device, &states) * of_states;
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
             "tile=%dx%d clusters=%d/%d tokens=%" PRId64, FEX_MATRIX_TOKENS,
             FEX_MATRIX_ACROSS, scores.cluster, states.cluster, tokens);
}
