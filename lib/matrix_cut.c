/* SPDX-License-Identifier: Apache-2.0 */
/* matrix_cut.c - how the matrix family cuts up a call: into chunks of tokens that
 * keep to a workspace, and products into tiles of one width or another. */
#include "config.h"

#include "matrix.h"

#define WORKSPACE_MAX (INT64_C(256) << 20) /* besides the up rows in f16 */

/* ---- Tiles -------------------------------------------------------------- */

/* Clocks of a tile: of each stage of its depth, and besides. */
static const struct {
    int64_t across;
    double stage_clocks, tile_clocks;
} widths[FEX_MATRIX_WIDTHS] = {
    [FEX_MATRIX_WIDE] = {FEX_MATRIX_ACROSS, 1120, 9000},
    [FEX_MATRIX_MIDDLE] = {FEX_MATRIX_ACROSS / 2, 600, 5400},
    [FEX_MATRIX_NARROW] = {FEX_MATRIX_ACROSS / 4, 500, 2100},
};

int64_t fex_matrix_across(fex_matrix_width width)
{
    return widths[width].across;
}

double fex_matrix_clocks(const fex_device *device, const fex_matrix_cut *cut)
{
    const int64_t rounds = fex_ceil_div(cut->tiles, device->multiprocessors);
    return (double)rounds *
           ((double)cut->stages * widths[cut->width].stage_clocks +
            widths[cut->width].tile_clocks);
}

static fex_matrix_cut cut_product(const fex_device *device, int64_t num_tokens,
                                  int64_t columns, int64_t stages)
{
    fex_matrix_cut best = {0};
    for (int width = 0; width < FEX_MATRIX_WIDTHS; width++) {
        const fex_matrix_cut cut = {
            .width = (fex_matrix_width)width,
            .tiles = fex_ceil_div(num_tokens, FEX_MATRIX_TOKENS) *
                     fex_ceil_div(columns, widths[width].across),
            .stages = stages};
        if (width == 0 ||
            fex_matrix_clocks(device, &cut) < fex_matrix_clocks(device, &best))
            best = cut;
    }
    return best;
}

fex_matrix_cut fex_matrix_cut_scores(const fex_problem *problem,
                                     const fex_device *device,
                                     int64_t num_tokens)
{
    return cut_product(device, num_tokens, problem->num_experts,
                       fex_ceil_div(problem->hidden_size, FEX_MATRIX_DEPTH));
}

fex_matrix_cut fex_matrix_cut_states(const fex_problem *problem,
                                     const fex_device *device,
                                     int64_t num_tokens)
{
    return cut_product(
        device, num_tokens, problem->hidden_size,
        fex_matrix_parts(problem) *
            fex_ceil_div(problem->num_experts, FEX_MATRIX_DEPTH));
}

/* ---- Chunks ------------------------------------------------------------- */

int64_t fex_matrix_parts(const fex_problem *problem)
{
    return problem->dtype == FEX_DTYPE_BF16 ? 1 : 2;
}

/* Rows of the matrix are read 64 elements at a time. */
int64_t fex_matrix_stride(const fex_problem *problem)
{
    return fex_ceil_div(problem->num_experts, FEX_MATRIX_DEPTH) *
           FEX_MATRIX_DEPTH;
}

int64_t fex_matrix_starts(const fex_problem *problem)
{
    const int64_t blocks =
        fex_ceil_div(problem->num_experts, FEX_MATRIX_ACROSS) *
        (FEX_MATRIX_ACROSS / FEX_MATRIX_BLOCK);
    return 2 * blocks + 1;
}

/* Of a token. */
static int64_t workspace_bytes(const fex_problem *problem)
{
    const int64_t number = (int64_t)sizeof(float);
    return fex_matrix_stride(problem) * fex_matrix_parts(problem) *
               (int64_t)sizeof(short) +
           problem->top_k * ((int64_t)sizeof(fex_choice) + number) + number +
           fex_ceil_div(fex_matrix_starts(problem) * number, FEX_MATRIX_GROUP);
}

int64_t fex_matrix_chunk_max(const fex_problem *problem)
{
    const int64_t tiles =
        WORKSPACE_MAX / (workspace_bytes(problem) * FEX_MATRIX_TOKENS);
    return fex_max(tiles, 1) * FEX_MATRIX_TOKENS;
}

/* As even as whole tiles are. */
int64_t fex_matrix_chunk(const fex_problem *problem, int64_t num_tokens)
{
    const int64_t chunks =
        fex_ceil_div(num_tokens, fex_matrix_chunk_max(problem));
    const int64_t tiles =
        fex_ceil_div(fex_ceil_div(num_tokens, chunks), FEX_MATRIX_TOKENS);
    return fex_min(num_tokens, tiles * FEX_MATRIX_TOKENS);
}
