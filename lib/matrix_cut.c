/* SPDX-License-Identifier: Apache-2.0 */
/* matrix_cut.c - how the matrix family cuts up a call: into chunks of tokens that
 * keep to a workspace, tokens into groups that are listed, and products into tiles
 * of one width or another and ranges of their depth. */
#include "config.h"

#include <math.h>

#include "estimate.h"
#include "matrix.h"

#define WORKSPACE_MAX (INT64_C(256) << 20) /* of each part of the matrix */

/* Where tiles of states are few, experts are summed over ranges. */
#define RANGES_MAX 16
#define PARTIALS_MAX (INT64_C(1) << 23) /* numbers */
#define RANGE_STAGES_MIN 8
#define SUM_CLOCKS 11500 /* to add them up, with little to do */

/* Choices of a block that lists them, which threads keep in registers: two blocks
 * of so many fit a multiprocessor. But if tokens would be less than so many, there
 * are twice as many choices, as reading lists of few tokens takes longer. */
#define LISTED_MAX 4096
#define GROUP_MANY 2
#define LISTED_MOST (2 * LISTED_MAX)

#define AHEAD_DEVIATIONS 2.5 /* standard ones, more than expected */
#define AHEAD_MAX 16

/* ---- Tiles -------------------------------------------------------------- */

/* Clocks of a tile: of each stage of its depth, and besides. */
typedef struct tile_clocks {
    double stage, tile;
} tile_clocks;

static const struct {
    int64_t across;
    tile_clocks scores, states;
} widths[FEX_MATRIX_WIDTHS] = {
    [FEX_MATRIX_WIDE] = {FEX_MATRIX_ACROSS, {1180, 5900}, {1230, 11200}},
    [FEX_MATRIX_MIDDLE] = {FEX_MATRIX_ACROSS / 2, {660, 4150}, {835, 8400}},
    [FEX_MATRIX_NARROW] = {FEX_MATRIX_ACROSS / 4, {530, 1500}, {580, 4300}},
};

int64_t fex_matrix_across(fex_matrix_width width)
{
    return widths[width].across;
}

double fex_matrix_sum_seconds(const fex_problem *problem,
                              const fex_device *device, int64_t num_tokens,
                              int64_t ranges)
{
    const double bytes = (double)(ranges * num_tokens) *
                         (double)problem->hidden_size * sizeof(float);
    if (ranges == 1)
        return 0;
    return fex_clock_seconds(device, SUM_CLOCKS) +
           fex_memory_seconds(device, 2 * bytes, 1);
}

static int64_t depth_of(int64_t columns)
{
    return fex_ceil_div(columns, FEX_MATRIX_DEPTH);
}

/* A product of so many rows and what is across, of a depth of so many stages, of
 * which some are multiplied `times` times. */
typedef struct product {
    int64_t rows, across, stages, times;
} product;

static fex_matrix_cut cut_tiles(const fex_device *device, const product *of,
                                fex_matrix_width width,
                                const tile_clocks *clocks, int64_t ranges)
{
    const int64_t of_range = fex_ceil_div(of->stages, ranges);
    fex_matrix_cut cut = {
        .width = width,
        .ranges = fex_ceil_div(of->stages, of_range), /* none is empty */
        .stages = of_range * of->times};
    cut.tiles = fex_ceil_div(of->rows, FEX_MATRIX_TILE) *
                fex_ceil_div(of->across, widths[width].across) * cut.ranges;
    cut.clocks = (double)fex_ceil_div(cut.tiles, device->multiprocessors) *
                 ((double)cut.stages * clocks->stage + clocks->tile);
    return cut;
}

fex_matrix_cut fex_matrix_cut_scores(const fex_problem *problem,
                                     const fex_device *device,
                                     int64_t num_tokens)
{
    const product scores = {num_tokens, problem->num_experts,
                            depth_of(problem->hidden_size), 1};
    fex_matrix_cut best = {0};
    for (int width = 0; width < FEX_MATRIX_WIDTHS; width++) {
        const fex_matrix_cut cut = cut_tiles(
            device, &scores, (fex_matrix_width)width, &widths[width].scores, 1);
        if (width == 0 || cut.clocks < best.clocks)
            best = cut;
    }
    return best;
}

/* A range's, of whole tiles. */
static int64_t padded_numbers(const fex_problem *problem, int64_t num_tokens)
{
    return fex_ceil_div(num_tokens, FEX_MATRIX_ACROSS) * FEX_MATRIX_ACROSS *
           fex_ceil_div(problem->hidden_size, FEX_MATRIX_TILE) *
           FEX_MATRIX_TILE;
}

/* None where there is one range for any number of tokens. */
int64_t fex_matrix_partials(const fex_problem *problem, int64_t num_tokens)
{
    const int64_t stages = depth_of(problem->num_experts);
    const int64_t ranges = fex_min(stages / RANGE_STAGES_MIN, RANGES_MAX);
    return ranges > 1 ? fex_min(ranges * padded_numbers(problem, num_tokens),
                                PARTIALS_MAX)
                      : 0;
}

/* How many there may be. */
static int64_t ranges_max(const fex_problem *problem, int64_t num_tokens)
{
    return fex_max(fex_matrix_partials(problem, num_tokens) /
                       padded_numbers(problem, num_tokens),
                   1);
}

fex_matrix_cut fex_matrix_cut_states(const fex_problem *problem,
                                     const fex_device *device,
                                     int64_t num_tokens)
{
    const product states = {problem->hidden_size, num_tokens,
                            depth_of(problem->num_experts),
                            fex_matrix_parts(problem)};
    const int64_t most = ranges_max(problem, num_tokens);
    fex_matrix_cut best = {0};
    double best_seconds = 0;
    for (int64_t ranges = 1; ranges <= most; ranges++)
        for (int width = 0; width < FEX_MATRIX_WIDTHS; width++) {
            const fex_matrix_cut cut =
                cut_tiles(device, &states, (fex_matrix_width)width,
                          &widths[width].states, ranges);
            const double seconds =
                fex_clock_seconds(device, cut.clocks) +
                fex_matrix_sum_seconds(problem, device, num_tokens, cut.ranges);
            if (best.tiles > 0 && seconds >= best_seconds)
                continue;
            best = cut;
            best_seconds = seconds;
        }
    return best;
}

/* ---- Lists ---------------------------------------------------------------- */

/* Blocks of experts. */
static int64_t bins_of(const fex_problem *problem)
{
    return fex_ceil_div(problem->num_experts, FEX_MATRIX_ACROSS) *
           (FEX_MATRIX_ACROSS / FEX_MATRIX_BLOCK);
}

int64_t fex_matrix_starts(const fex_problem *problem)
{
    return bins_of(problem) + 2;
}

static int power_from(int least, int64_t count)
{
    int power = least;
    while (power < count)
        power *= 2;
    return power;
}

/* matrix_lists.cu: of each token two words a slot, as threads have them in
 * rounds, a bit for each, words whose number is a power of two, and of its warps a
 * count, and 64 words if it has more than one; counters, of each warp a total, and
 * two numbers. */
static int listing_bytes(const fex_problem *problem,
                         const fex_matrix_listing *listing)
{
    const int threads = listing->threads / listing->group; /* of a token */
    const int warps = threads / 32;
    const int slots = (int)fex_ceil_div(problem->top_k, threads) * threads;
    const int words = power_from(32, problem->top_k);
    const int token =
        2 * slots + slots / 32 + words + warps + warps * (warps > 1 ? 64 : 1);
    const int block = listing->counters + listing->threads / 32 + 2;
    return (listing->group * (token + token % 2) + block + block % 2) * 4;
}

fex_matrix_listing fex_matrix_listing_of(const fex_problem *problem)
{
    fex_matrix_listing listing = {.group = FEX_MATRIX_ROWS};
    while (listing.group * problem->top_k >
           (listing.group > GROUP_MANY ? LISTED_MAX : LISTED_MOST))
        listing.group /= 2;
    listing.threads = listing.group * problem->top_k > LISTED_MAX ? 1024 : 512;
    listing.counters = power_from(listing.threads, bins_of(problem));
    listing.shared_bytes = listing_bytes(problem, &listing);
    return listing;
}

/* What a group chooses of a tile is about Poisson distributed, if experts are as
 * likely. */
int64_t fex_matrix_ahead(const fex_problem *problem, fex_matrix_width width)
{
    const int group = fex_matrix_listing_of(problem).group;
    const int lanes = 32 * group / FEX_MATRIX_ROWS;
    const double across =
        (double)fex_min(widths[width].across, problem->num_experts);
    const double expected =
        group * (double)problem->top_k * across / (double)problem->num_experts;
    const double most = (expected + AHEAD_DEVIATIONS * sqrt(expected)) / lanes;
    return fex_min((int64_t)ceil(most), AHEAD_MAX);
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

/* Of a token. */
static int64_t workspace_bytes(const fex_problem *problem)
{
    const int64_t number = (int64_t)sizeof(float);
    return fex_matrix_stride(problem) * fex_matrix_parts(problem) *
               (int64_t)sizeof(short) +
           problem->top_k * ((int64_t)sizeof(fex_choice) + number) + number +
           fex_ceil_div(fex_matrix_starts(problem) * number,
                        fex_matrix_listing_of(problem).group);
}

int64_t fex_matrix_chunk_max(const fex_problem *problem)
{
    const int64_t tiles = WORKSPACE_MAX * fex_matrix_parts(problem) /
                          (workspace_bytes(problem) * FEX_MATRIX_TILE);
    return fex_max(tiles, 1) * FEX_MATRIX_TILE;
}

/* As even as whole tiles are. */
int64_t fex_matrix_chunk(const fex_problem *problem, int64_t num_tokens)
{
    const int64_t chunks =
        fex_ceil_div(num_tokens, fex_matrix_chunk_max(problem));
    const int64_t tiles =
        fex_ceil_div(fex_ceil_div(num_tokens, chunks), FEX_MATRIX_TILE);
    return fex_min(num_tokens, tiles * FEX_MATRIX_TILE);
}
