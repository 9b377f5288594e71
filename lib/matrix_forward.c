/* SPDX-License-Identifier: Apache-2.0 */
/* matrix_forward.c - forward by two products of whole matrices on Hopper's
 * tensor cores, for tokens that choose a good part of the experts: choices are
 * listed by groups of tokens and blocks of experts; all scores are made, and of
 * them the matrix of what choices weigh, which is stored; and that times all up
 * rows, over ranges of the experts if tiles would be few. */
#include "config.h"

#include "estimate.h"
#include "matrix.h"
#include "tensor_map.h"

/* Of each product one for each width of tiles. */
enum {
    LISTS,
    SCORES,
    STATES = SCORES + FEX_MATRIX_WIDTHS,
    SUM = STATES + FEX_MATRIX_WIDTHS,
    KERNELS
};

_Static_assert(KERNELS <= FEX_KERNELS_MAX, "there is room for all");

#define PRODUCT_THREADS 384
#define SUM_THREADS 256
#define PREFETCH_MAX (16 << 20) /* bytes of up rows that stay in L2 meanwhile */
#define PIECE_TOKENS 64         /* that a warp finishes at one time */

/* As many stages of each width as shared memory has room for. */
static const int stages_of[FEX_MATRIX_WIDTHS] = {
    [FEX_MATRIX_WIDE] = 4, [FEX_MATRIX_MIDDLE] = 6, [FEX_MATRIX_NARROW] = 8};

/* ---- When --------------------------------------------------------------- */

static int applies(const fex_problem *problem,
                   const fex_architecture *architecture)
{
    return architecture->major == 9 && problem->dtype != FEX_DTYPE_F32 &&
           problem->hidden_size % 8 == 0 &&
           problem->top_k <= FEX_MATRIX_TOP_K &&
           problem->num_experts <= FEX_MATRIX_EXPERTS;
}

/* ---- Shared memory: as the kernels lay it out --------------------------- */

/* matrix_tile.cuh: a ring of stages, with two barriers each. */
static int ring_bytes(fex_matrix_width width)
{
    enum {
        TILE_ALIGNMENT = 1024,
        BARRIERS = 2 * 8
    };
    const int rows = FEX_MATRIX_TILE + (int)fex_matrix_across(width);
    return stages_of[width] * (rows * FEX_MATRIX_DEPTH * 2 + BARRIERS) +
           TILE_ALIGNMENT;
}

/* Then pieces of scores of all rows; or of states, tokens by 12 words of a warp. */
static int scores_bytes(fex_matrix_width width)
{
    return ring_bytes(width) + FEX_MATRIX_TILE * FEX_MATRIX_BLOCK * 4;
}

static int states_bytes(fex_matrix_width width)
{
    return ring_bytes(width) +
           FEX_MATRIX_TILE / FEX_MATRIX_ROWS * PIECE_TOKENS * 12 * 4;
}

/* ---- Kernels ------------------------------------------------------------ */

/* As many blocks a multiprocessor as keep what they have of slots in registers. */
static void describe_lists(const fex_problem *problem,
                           const fex_architecture *architecture,
                           fex_kernel_spec *spec)
{
    const fex_matrix_listing listing = fex_matrix_listing_of(problem);
    const int64_t slots =
        fex_ceil_div(problem->top_k * listing.group, listing.threads);
    const int min_blocks = listing.threads > 512 ? 1 : slots > 4 ? 2 : 3;
    fex_spec_init(spec, "matrix_lists.cu", "fex_matrix_lists", architecture);
    fex_spec_add(spec, "ROUTING_DTYPE", (int64_t)problem->routing_dtype);
    fex_spec_add_choices(spec, problem);
    fex_spec_add(spec, "GROUP", listing.group);
    fex_spec_add(spec, "COUNTERS", listing.counters);
    fex_spec_add(spec, "THREADS", listing.threads);
    fex_spec_add(spec, "MIN_BLOCKS", min_blocks);
    fex_spec_add_shared(spec, listing.shared_bytes);
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

static void describe_sum(const fex_problem *problem,
                         const fex_architecture *architecture,
                         fex_kernel_spec *spec)
{
    fex_spec_init(spec, "matrix_sum.cu", "fex_matrix_sum", architecture);
    fex_spec_add(spec, "DTYPE", (int64_t)problem->dtype);
    fex_spec_add_choices(spec, problem);
    fex_spec_add(spec, "GROUP", fex_matrix_listing_of(problem).group);
    fex_spec_add(spec, "HIDDEN_SIZE", problem->hidden_size);
    fex_spec_add(spec, "THREADS", SUM_THREADS);
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
        fex_spec_add(scores, "GROUP", fex_matrix_listing_of(problem).group);
        fex_spec_add(scores, "AHEAD", fex_matrix_ahead(problem, width));
        add_product(problem, width, scores_bytes(width), scores);
        fex_spec_init(states, "matrix_states.cu", "fex_matrix_states",
                      architecture);
        fex_spec_add_choices(states, problem);
        fex_spec_add(states, "GROUP", fex_matrix_listing_of(problem).group);
        add_product(problem, width, states_bytes(width), states);
    }
    describe_sum(problem, architecture, &specs[SUM]);
    return KERNELS;
}

/* ---- Workspace ---------------------------------------------------------- */

typedef struct pieces {
    fex_choice *lists;
    int *starts;
    unsigned short *weights;
    unsigned *levels;
    float *partials;
    float *ordered; /* weights by slot, of those computed anew */
} pieces;

static pieces take_pieces(const fex_problem *problem, int64_t tokens,
                          fex_layout *layout)
{
    const int64_t group = fex_matrix_listing_of(problem).group;
    const int64_t groups = fex_ceil_div(tokens, group);
    const int64_t pairs = fex_ceil_div(group * problem->top_k, 2);
    return (pieces){
        .lists =
            fex_layout_take(layout, groups * pairs * 2, sizeof(fex_choice)),
        .starts = fex_layout_take(layout, groups * fex_matrix_starts(problem),
                                  sizeof(int)),
        .weights = fex_layout_take(layout,
                                   tokens * fex_matrix_stride(problem) *
                                       fex_matrix_parts(problem),
                                   sizeof(short)),
        .levels = fex_layout_take(layout, tokens, sizeof(unsigned)),
        .partials = fex_layout_take(
            layout, fex_matrix_partials(problem, tokens), sizeof(float)),
        .ordered =
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
    float *scores; /* or NULL */
    int64_t scores_stride;
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
    c->scores = fex_row_at(in->scores, in->scores_stride, first, sizeof(float));
    c->scores_stride = in->scores_stride;
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
        .levels = c->pieces.levels};
    const fex_matrix_listing listing = fex_matrix_listing_of(launch->problem);
    const fex_grid grid = {
        .x = fex_ceil_div(c->choices.num_tokens, listing.group),
        .y = 1,
        .threads = listing.threads,
        .shared_bytes = listing.shared_bytes};
    return fex_launch_kernel(launch, launch->modules[LISTS]->functions[0], grid,
                             &args);
}

/* `first` of the kernels is the one for the first width. Blocks take tiles in
 * turn. */
static fex_status launch_product(const fex_launch *launch,
                                 const fex_matrix_cut *cut, size_t first,
                                 int shared_bytes, const void *args)
{
    const int64_t room = launch->device->multiprocessors;
    const fex_grid grid = {.x = fex_min(cut->tiles, room),
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
                                   .up_weights_stride = in->up_weights_stride,
                                   .num_tokens = (int)c->choices.num_tokens,
                                   .num_experts = (int)problem->num_experts};
    if (fex_row_bytes(problem) * (double)problem->num_experts <= PREFETCH_MAX)
        args.up_weights = in->up_weights;
    const fex_rows hidden =
        fex_rows_of(problem,
                    fex_row_at(in->hidden_states, in->hidden_states_stride,
                               c->first, fex_dtype_bytes(problem->dtype)),
                    c->choices.num_tokens, in->hidden_states_stride);
    const fex_rows down =
        fex_rows_of(problem, in->down_weights, problem->num_experts,
                    in->down_weights_stride);
    return_if_error(fex_map_rows(launch->driver, &args.hidden_map, &hidden,
                                 FEX_MATRIX_TILE));
    return_if_error(fex_map_rows(launch->driver, &args.down_map, &down,
                                 (int)fex_matrix_across(cut.width)));
    return launch_product(launch, &cut, SCORES, scores_bytes(cut.width), &args);
}

static fex_matrix_plain plain_of(const fex_launch *launch, const chunk *c)
{
    const fex_forward_args *const in = launch->forward;
    return (fex_matrix_plain){.choices = c->choices,
                              .lists = c->pieces.lists,
                              .starts = c->pieces.starts,
                              .weights = c->pieces.ordered,
                              .up_weights = in->up_weights,
                              .up_weights_stride = in->up_weights_stride,
                              .levels = c->pieces.levels};
}

/* A chunk's. */
static void *expert_states_of(const fex_launch *launch, const chunk *c)
{
    const fex_forward_args *const in = launch->forward;
    return fex_row_at(in->expert_states, in->expert_states_stride, c->first,
                      fex_dtype_bytes(launch->problem->dtype));
}

static fex_status launch_states(const fex_launch *launch,
                                const fex_matrix_cut *cut, const chunk *c)
{
    const fex_problem *const problem = launch->problem;
    fex_matrix_states_args args = {
        .plain = plain_of(launch, c),
        .expert_states = expert_states_of(launch, c),
        .expert_states_stride = launch->forward->expert_states_stride,
        .partials = cut->ranges > 1 ? c->pieces.partials : NULL,
        .scores = c->scores,
        .scores_stride = c->scores_stride,
        .ranges = (int)cut->ranges};
    const fex_rows weights = {.base = c->pieces.weights,
                              .count = fex_matrix_parts(problem) *
                                       c->choices.num_tokens,
                              .columns = problem->num_experts,
                              .stride = fex_matrix_stride(problem),
                              .dtype = FEX_DTYPE_F16};
    const fex_rows up =
        fex_rows_of(problem, launch->forward->up_weights, problem->num_experts,
                    launch->forward->up_weights_stride);
    return_if_error(fex_map_rows(launch->driver, &args.weights_map, &weights,
                                 (int)fex_matrix_across(cut->width)));
    return_if_error(
        fex_map_rows(launch->driver, &args.up_map, &up, FEX_MATRIX_DEPTH));
    return launch_product(launch, cut, STATES, states_bytes(cut->width), &args);
}

static fex_status launch_sum(const fex_launch *launch,
                             const fex_matrix_cut *cut, const chunk *c)
{
    const int64_t across = fex_matrix_across(cut->width);
    const fex_matrix_sum_args args = {
        .plain = plain_of(launch, c),
        .partials = c->pieces.partials,
        .expert_states = expert_states_of(launch, c),
        .expert_states_stride = launch->forward->expert_states_stride,
        .ranges = (int)cut->ranges,
        .tile_tokens = (int)across};
    const fex_grid grid = {.x = cut->tiles / cut->ranges *
                                (across / PIECE_TOKENS),
                           .y = 1,
                           .threads = SUM_THREADS,
                           .dependent = 1};
    return fex_launch_kernel(launch, launch->modules[SUM]->functions[0], grid,
                             &args);
}

static fex_status launch_chunk(const fex_launch *launch, const chunk *c)
{
    const fex_matrix_cut states = fex_matrix_cut_states(
        launch->problem, launch->device, c->choices.num_tokens);
    return_if_error(launch_lists(launch, c));
    return_if_error(launch_scores(launch, c));
    return_if_error(launch_states(launch, &states, c));
    return states.ranges > 1 ? launch_sum(launch, &states, c) : FEX_OK;
}

static fex_status launch_forward(const fex_launch *launch)
{
    const int64_t step = fex_matrix_chunk(launch->problem, launch->num_tokens);
    fex_layout layout = {.base = launch->workspace};
    chunk c = {.pieces = take_pieces(launch->problem, step, &layout)};
    for (int64_t first = 0; first < launch->num_tokens; first += step) {
        take_chunk(launch, first, fex_min(step, launch->num_tokens - first),
                   &c);
        return_if_error(launch_chunk(launch, &c));
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
