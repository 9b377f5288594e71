/* SPDX-License-Identifier: Apache-2.0 */
/* dense.c - the table of engines. */
#include "config.h"

#include "dense.h"

#define EXPERTS_FEW 2048 /* up to so many, tiles of scores are small */

/* ---- mma.sync, from sm_80 on -------------------------------------------- */

static int has_mma(const fex_architecture *architecture)
{
    return architecture->major >= 8;
}

#define MMA_SCORES                                                             \
    {                                                                          \
        .file = "dense_scores_mma.cu", .across_name = "TILE_EXPERTS",          \
        .tokens = 128, .across = 128, .threads = 256, .stages = 4,             \
        .shared_bytes = 4 * (128 + 128) * 64 + 1024                            \
    }

/* Of each of two stages, so many parts of the weights, and the experts'
 * rows. */
#define MMA_STATES(parts)                                                      \
    {                                                                          \
        .file = "dense_states_mma.cu", .across_name = "TILE_COLUMNS",          \
        .tokens = 128, .across = FEX_DENSE_TILE, .threads = 256, .stages = 2,  \
        .shared_bytes = 2 * ((parts) * 128 + 128) * 128, .place_tokens = 16,   \
        .rounds_max = 2, .products = (parts)                                   \
    }

/* ---- wgmma, on Hopper --------------------------------------------------- */

static int has_wgmma(const fex_architecture *architecture)
{
    return architecture->major == 9;
}

#define TILE_ALIGNMENT 1024

/* Stages of 64 columns of the tokens and experts, then for eight warps 16 x 64
 * sums and 16 more, and two barriers a stage. */
#define WGMMA_SCORES(experts, number)                                          \
    {                                                                          \
        .file = "dense_scores_wgmma.cu", .across_name = "TILE_EXPERTS",        \
        .tokens = 128, .across = (experts), .box = (experts), .threads = 384,  \
        .stages = (number),                                                    \
        .shared_bytes = (number) * ((128 + (experts)) * 128 + 16) +            \
                        8 * (16 * 64 + 16) * 4 + TILE_ALIGNMENT                \
    }

/* Two stages of two tiles of weights, three of 128 experts' rows, and the
 * barriers. What rounding left of weights, if it counts, is in 8 bits. */
#define WGMMA_STATES(tile_tokens, of_16_bits)                                  \
    {                                                                          \
        .file = "dense_states_wgmma.cu", .across_name = "TILE_COLUMNS",        \
        .tokens = (tile_tokens), .across = FEX_DENSE_TILE, .box = 128,         \
        .threads = 512, .stages = 2,                                           \
        .shared_bytes = (2 * 2 * 128 * 128 + 3 * 128 * 128) * 2 + 64 +         \
                        TILE_ALIGNMENT,                                        \
        .place_tokens = (tile_tokens) / 8, .rounds_max = 7, .rounds_long = 6,  \
        .products = (of_16_bits)                                               \
    }

/* ---- The table ---------------------------------------------------------- */

/* The first that runs is taken. */
static const fex_dense_engine engines[] = {
    {.runs_on = has_wgmma,
     .copies_tiles = 1,
     .scores_stay = 1,
     .scores = {WGMMA_SCORES(256, 4), WGMMA_SCORES(64, 6)},
     .states = {WGMMA_STATES(128, 1.5), WGMMA_STATES(256, 1)}},
    {.runs_on = has_mma,
     .scores = {MMA_SCORES, MMA_SCORES},
     .states = {MMA_STATES(2), MMA_STATES(1)}},
};

const fex_dense_engine *fex_dense_engine_for(
    const fex_architecture *architecture)
{
    for (size_t i = 0; i < sizeof engines / sizeof *engines; i++)
        if (engines[i].runs_on(architecture))
            return &engines[i];
    return NULL;
}

const fex_dense_kernel *fex_dense_scores(const fex_dense_engine *engine,
                                         const fex_problem *problem)
{
    return &engine->scores[problem->num_experts <= EXPERTS_FEW];
}

const fex_dense_kernel *fex_dense_states(const fex_dense_engine *engine,
                                         const fex_problem *problem)
{
    return &engine->states[problem->dtype == FEX_DTYPE_BF16];
}

/* Times 32 routes of the tokens of a warp to a block of experts, a fourth more
 * than there are of them on average. */
void fex_dense_add_rounds(const fex_problem *problem,
                          const fex_dense_kernel *kernel, fex_kernel_spec *spec)
{
    const int64_t pairs = kernel->place_tokens * problem->top_k;
    const int64_t of_block = pairs * FEX_ROUTE_BLOCK * 5 / 4;
    const int64_t wanted = fex_ceil_div(of_block, 32 * problem->num_experts);
    const int too_many = wanted > kernel->rounds_max;
    const int most = too_many && kernel->rounds_long > 0 ? kernel->rounds_long
                                                         : kernel->rounds_max;
    fex_spec_add(spec, "ROUNDS", fex_max(1, fex_min(wanted, most)));
    if (kernel->rounds_long > 0)
        fex_spec_add(spec, "BLOCKS_LONG", too_many);
}
