/* SPDX-License-Identifier: Apache-2.0 */
/* matrix_forward.c - forward by two products of whole matrices on Hopper's
 * tensor cores, for many tokens and few experts: choices are listed by groups
 * of tokens and blocks of experts; all scores are made, and of them the matrix
 * of what choices weigh, which is stored; and that times all up rows. */
#include "config.h"

#include "matrix.h"
#include "tensor_map.h"

/* Of each product one for each width of tiles. */
enum {
    LISTS,
    SCORES,
    STATES = SCORES + FEX_MATRIX_WIDTHS,
    KERNELS = STATES + FEX_MATRIX_WIDTHS
};

#define LISTS_THREADS (32 * FEX_MATRIX_GROUP)
#define PRODUCT_THREADS 384

/* As many stages of each width as shared memory has room for. */
static const int stages_of[FEX_MATRIX_WIDTHS] = {
    [FEX_MATRIX_WIDE] = 4, [FEX_MATRIX_MIDDLE] = 6, [FEX_MATRIX_NARROW] = 8};

#define HALVES_MAX (INT64_C(256) << 20) /* bytes of up rows in f16 */

/* ---- When --------------------------------------------------------------- */

static int applies(const fex_problem *problem,
                   const fex_architecture *architecture)
{
    return architecture->major == 9 && problem->dtype != FEX_DTYPE_F32 &&
           problem->hidden_size % 8 == 0 &&
           problem->top_k <= FEX_MATRIX_TOP_K &&
           problem->num_experts <= FEX_MATRIX_EXPERTS &&
           problem->num_experts * problem->hidden_size <=
               HALVES_MAX / (int64_t)sizeof(short);
}

/* ---- Shared memory: as the kernels lay it out --------------------------- */

/* matrix_tile.cuh: a ring of stages, with two barriers each. */
static int ring_bytes(fex_matrix_width width)
{
    enum {
        TILE_ALIGNMENT = 1024,
        BARRIERS = 2 * 8
    };
    const int rows = FEX_MATRIX_TOKENS + (int)fex_matrix_across(width);
    return stages_of[width] * (rows * FEX_MATRIX_DEPTH * 2 + BARRIERS) +
           TILE_ALIGNMENT;
}

/* Then pieces of all rows: of scores, or of states. */
static int scores_bytes(fex_matrix_width width)
{
    return ring_bytes(width) + FEX_MATRIX_TOKENS * FEX_MATRIX_BLOCK * 4;
}

static int states_bytes(fex_matrix_width width)
{
    const int64_t columns = fex_min(fex_matrix_across(width), FEX_MATRIX_PIECE);
    return ring_bytes(width) + FEX_MATRIX_TOKENS * (int)columns * 2;
}

/* matrix_lists.cu: of each token of a group two words a slot, in rounds of 32,
 * and words whose number is a power of two; and two integers a thread. */
static int lists_bytes(const fex_problem *problem)
{
    const int rounds = (int)fex_ceil_div(problem->top_k, 32);
    int words = 32;
    while (words < problem->top_k)
        words *= 2;
    return 4 *
           (FEX_MATRIX_GROUP * (64 * rounds + 32 + words) + 2 * LISTS_THREADS);
}

/* ---- Kernels ------------------------------------------------------------ */

static void describe_lists(const fex_problem *problem,
                           const fex_architecture *architecture,
                           fex_kernel_spec *spec)
{
    const int min_blocks = problem->top_k <= 128   ? 3
                           : problem->top_k <= 256 ? 2
                                                   : 1;
    fex_spec_init(spec, "matrix_lists.cu", "fex_matrix_lists", architecture);
    fex_spec_add(spec, "ROUTING_DTYPE", (int64_t)problem->routing_dtype);
    fex_spec_add_choices(spec, problem);
    fex_spec_add(spec, "THREADS", LISTS_THREADS);
    fex_spec_add(spec, "MIN_BLOCKS", min_blocks);
    fex_spec_add_shared(spec, lists_bytes(problem));
}

static void add_product(const fex_problem *problem, fex_matrix_width width,
                        int shared_bytes, fex_kernel_spec *spec)
{
    fex_spec_add(spec, "DTYPE", (int64_t)problem->dtype);
    fex_spec_add(spec, "HIDDEN_SIZE", problem->hidden_size);
    fex_spec_add(spec, "ACROSS", fex_matrix_across(width));
    fex_spec_add(spec, "THREADS", PRODUCT_THREADS);
    fex_spec_add(spec, "STAGES", stages_of[width]);
    fex_spec_add_shared(spec, shared_bytes);
}

static size_t describe(const fex_problem *problem,
                       const fex_architecture *architecture,
                       fex_geometry geometry, fex_kernel_spec *specs)
{
    (void)geometry;
    describe_lists(problem, architecture, &specs[LISTS]);
    for (int i = 0; i < FEX_MATRIX_WIDTHS; i++) {
        const fex_matrix_width width = (fex_matrix_width)i;
        fex_kernel_spec *const scores = &specs[SCORES + i];
        fex_kernel_spec *const states = &specs[STATES + i];
        fex_spec_init(scores, "matrix_scores.cu", "fex_matrix_scores",
                      architecture);
        fex_spec_add(scores, "TOP_K", problem->top_k);
        add_product(problem, width, scores_bytes(width), scores);
        fex_spec_init(states, "matrix_states.cu", "fex_matrix_states",
                      architecture);
        fex_spec_add(states, "ROUTING_DTYPE", (int64_t)problem->routing_dtype);
        fex_spec_add_choices(states, problem);
        add_product(problem, width, states_bytes(width), states);
    }
    return KERNELS;
}

/* ---- Workspace ---------------------------------------------------------- */

/* Of which it is known whether they are good in f16. */
static int64_t tiles_of_columns(const fex_problem *problem)
{
    return fex_ceil_div(problem->hidden_size, FEX_MATRIX_ACROSS);
}

static int converts_up(const fex_problem *problem)
{
    return problem->dtype == FEX_DTYPE_BF16;
}

typedef struct pieces {
    fex_choice *lists;
    int *starts;
    unsigned short *weights;
    unsigned short *halves;
    unsigned *levels;
    unsigned *up_largest;
    float *scores; /* where nobody asked for them */
} pieces;

static pieces take_pieces(const fex_problem *problem, int64_t tokens,
                          fex_layout *layout)
{
    const int64_t groups = fex_ceil_div(tokens, FEX_MATRIX_GROUP);
    const int converts = converts_up(problem);
    return (pieces){
        .lists =
            fex_layout_take(layout, groups * FEX_MATRIX_GROUP * problem->top_k,
                            sizeof(fex_choice)),
        .starts = fex_layout_take(layout, groups * fex_matrix_starts(problem),
                                  sizeof(int)),
        .weights = fex_layout_take(layout,
                                   tokens * fex_matrix_stride(problem) *
                                       fex_matrix_parts(problem),
                                   sizeof(short)),
        .halves = fex_layout_take(
            layout, converts * problem->num_experts * problem->hidden_size,
            sizeof(short)),
        .levels = fex_layout_take(layout, tokens, sizeof(unsigned)),
        .up_largest = fex_layout_take(
            layout, converts * tiles_of_columns(problem), sizeof(unsigned)),
        .scores =
            fex_layout_take(layout, tokens * problem->top_k, sizeof(float))};
}

static size_t workspace_size(const fex_problem *problem, int64_t num_tokens)
{
    fex_layout layout = {0};
    take_pieces(problem, fex_min(num_tokens, fex_matrix_chunk_max(problem)),
                &layout);
    return layout.used;
}

/* ---- Launching ---------------------------------------------------------- */

/* Tokens of a call that are worked on at one time, and what kernels are told of
 * them. */
typedef struct chunk {
    int64_t first;
    fex_choices choices;
    const void *routing_weights;
    float *scores;
    int64_t scores_stride;
    int converts; /* up rows to f16, for all chunks */
    pieces pieces;
} chunk;

static void take_chunk(const fex_launch *launch, int64_t first, int64_t tokens,
                       chunk *c)
{
    const fex_forward_args *const in = launch->forward;
    const fex_problem *const problem = launch->problem;
    c->first = first;
    c->choices = fex_choices_of(launch);
    c->choices.num_tokens = tokens;
    c->choices.indices =
        fex_row_at(launch->indices, launch->indices_stride, first,
                   fex_index_bytes(problem->index_type));
    c->routing_weights =
        fex_row_at(in->routing_weights, in->routing_weights_stride, first,
                   fex_dtype_bytes(problem->routing_dtype));
    c->scores = c->pieces.scores;
    c->scores_stride = problem->top_k;
    if (in->scores != NULL) {
        c->scores =
            fex_row_at(in->scores, in->scores_stride, first, sizeof(float));
        c->scores_stride = in->scores_stride;
    }
    c->converts = first == 0 && converts_up(problem);
}

static fex_status launch_lists(const fex_launch *launch, const chunk *c)
{
    const fex_matrix_lists_args args = {
        .choices = c->choices,
        .routing_weights = c->routing_weights,
        .routing_weights_stride = launch->forward->routing_weights_stride,
        .lists = c->pieces.lists,
        .starts = c->pieces.starts,
        .scores = c->scores,
        .scores_stride = c->scores_stride,
        .levels = c->pieces.levels,
        .up_largest = c->pieces.up_largest,
        .up_tiles = c->converts ? tiles_of_columns(launch->problem) : 0};
    const fex_grid grid = {
        .x = fex_ceil_div(c->choices.num_tokens, FEX_MATRIX_GROUP),
        .y = 1,
        .threads = LISTS_THREADS,
        .shared_bytes = lists_bytes(launch->problem)};
    return fex_launch_kernel(launch, launch->modules[LISTS]->functions[0], grid,
                             &args);
}

/* `first` of the kernels is the one for the first width. Blocks take tiles in
 * turn; `everywhere`: those without a tile have something to do, too. */
static fex_status launch_product(const fex_launch *launch,
                                 const fex_matrix_cut *cut, size_t first,
                                 int shared_bytes, int everywhere,
                                 const void *args)
{
    const int64_t room = launch->device->multiprocessors;
    const fex_grid grid = {.x = everywhere ? room : fex_min(cut->tiles, room),
                           .y = 1,
                           .threads = PRODUCT_THREADS,
                           .shared_bytes = shared_bytes,
                           .dependent = 1};
    const fex_module *const module = launch->modules[first + cut->width];
    return fex_launch_kernel(launch, module->functions[0], grid, args);
}

static fex_status launch_scores(const fex_launch *launch, const chunk *c)
{
    const fex_forward_args *const in = launch->forward;
    const fex_problem *const problem = launch->problem;
    const fex_matrix_cut cut =
        fex_matrix_cut_scores(problem, launch->device, c->choices.num_tokens);
    fex_matrix_scores_args args = {.lists = c->pieces.lists,
                                   .starts = c->pieces.starts,
                                   .scores = c->scores,
                                   .scores_stride = c->scores_stride,
                                   .weights = c->pieces.weights,
                                   .weights_stride = fex_matrix_stride(problem),
                                   .levels = c->pieces.levels,
                                   .up_weights = in->up_weights,
                                   .up_weights_stride = in->up_weights_stride,
                                   .halves =
                                       c->converts ? c->pieces.halves : NULL,
                                   .up_largest = c->pieces.up_largest,
                                   .num_tokens = (int)c->choices.num_tokens,
                                   .num_experts = (int)problem->num_experts};
    const fex_rows hidden =
        fex_rows_of(problem,
                    fex_row_at(in->hidden_states, in->hidden_states_stride,
                               c->first, fex_dtype_bytes(problem->dtype)),
                    c->choices.num_tokens, in->hidden_states_stride);
    const fex_rows down =
        fex_rows_of(problem, in->down_weights, problem->num_experts,
                    in->down_weights_stride);
    return_if_error(fex_map_rows(launch->driver, &args.hidden_map, &hidden,
                                 FEX_MATRIX_TOKENS));
    return_if_error(fex_map_rows(launch->driver, &args.down_map, &down,
                                 (int)fex_matrix_across(cut.width)));
    return launch_product(launch, &cut, SCORES, scores_bytes(cut.width),
                          c->converts, &args);
}

/* The up rows in f16. */
static fex_rows up_halves(const fex_launch *launch, const chunk *c)
{
    const fex_forward_args *const in = launch->forward;
    const fex_problem *const problem = launch->problem;
    fex_rows up = fex_rows_of(problem, in->up_weights, problem->num_experts,
                              in->up_weights_stride);
    if (converts_up(problem)) {
        up.base = c->pieces.halves;
        up.stride = problem->hidden_size;
        up.dtype = FEX_DTYPE_F16;
    }
    return up;
}

static fex_status launch_states(const fex_launch *launch, const chunk *c)
{
    const fex_forward_args *const in = launch->forward;
    const fex_problem *const problem = launch->problem;
    const int64_t tokens = c->choices.num_tokens;
    const fex_matrix_cut cut =
        fex_matrix_cut_states(problem, launch->device, tokens);
    fex_matrix_states_args args = {
        .choices = c->choices,
        .routing_weights = c->routing_weights,
        .scores = c->scores,
        .up_weights = in->up_weights,
        .routing_weights_stride = in->routing_weights_stride,
        .scores_stride = c->scores_stride,
        .up_weights_stride = in->up_weights_stride,
        .levels = c->pieces.levels,
        .up_largest = c->pieces.up_largest,
        .expert_states = fex_row_at(in->expert_states, in->expert_states_stride,
                                    c->first, fex_dtype_bytes(problem->dtype)),
        .expert_states_stride = in->expert_states_stride};
    const fex_rows weights = {.base = c->pieces.weights,
                              .count = fex_matrix_parts(problem) * tokens,
                              .columns = problem->num_experts,
                              .stride = fex_matrix_stride(problem),
                              .dtype = FEX_DTYPE_F16};
    const fex_rows up = up_halves(launch, c);
    return_if_error(fex_map_rows(launch->driver, &args.weights_map, &weights,
                                 FEX_MATRIX_TOKENS));
    return_if_error(
        fex_map_rows(launch->driver, &args.up_map, &up, FEX_MATRIX_DEPTH));
    return launch_product(launch, &cut, STATES, states_bytes(cut.width), 0,
                          &args);
}

static fex_status launch_forward(const fex_launch *launch)
{
    const int64_t step = fex_matrix_chunk(launch->problem, launch->num_tokens);
    fex_layout layout = {.base = launch->workspace};
    chunk c = {.pieces = take_pieces(launch->problem, step, &layout)};
    for (int64_t first = 0; first < launch->num_tokens; first += step) {
        take_chunk(launch, first, fex_min(step, launch->num_tokens - first),
                   &c);
        return_if_error(launch_lists(launch, &c));
        return_if_error(launch_scores(launch, &c));
        return_if_error(launch_states(launch, &c));
    }
    return FEX_OK;
}

const fex_variant fex_matrix_forward = {.name = "matrix",
                                        .pass = FEX_PASS_FORWARD,
                                        .vector_bytes = 16,
                                        .applies = applies,
                                        .describe = describe,
                                        .workspace_size = workspace_size,
                                        .estimate = fex_matrix_estimate,
                                        .describe_launch = fex_matrix_describe,
                                        .launch = launch_forward};
