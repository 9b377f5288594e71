/* SPDX-License-Identifier: Apache-2.0 */
/* matrix_forward.c - forward by two products of whole matrices on Hopper's
 * tensor cores, for many tokens and few experts: all scores, of which the matrix
 * of what choices weigh is made and stored; and that times all up rows. Choices
 * are not sorted: every tile of scores looks through those of its tokens. */
#include "config.h"

#include "matrix.h"
#include "tensor_map.h"

enum { SCORES, STATES, KERNELS };

#define STATES_THREADS 384

/* As kernels/matrix_tile.cuh lays out shared memory: a ring of stages, with two
 * barriers each. */
#define TILE_ALIGNMENT 1024
#define STAGE_BYTES                                                            \
    ((FEX_MATRIX_TOKENS + FEX_MATRIX_ACROSS) * FEX_MATRIX_DEPTH * 2)
#define TILE_BYTES(stages) ((stages) * (STAGE_BYTES + 16) + 8 + TILE_ALIGNMENT)

/* And matrix_scores.cu: three integers and some choices a list, for each warp
 * that lists a bit and a place for each column of each row and a choice a lane,
 * and a number a row, and a barrier. */
#define UNITS (FEX_MATRIX_TOKENS / FEX_MATRIX_UNIT)
#define LIST_MAX 384 /* choices; no less than a token has */
#define CHOICE_BYTES 8
#define LIST_BYTES (LIST_MAX * CHOICE_BYTES + 3 * 4)
#define SEEN_BYTES                                                             \
    (FEX_MATRIX_UNIT * FEX_MATRIX_ACROSS * 17 / 8 + 32 * CHOICE_BYTES)

#define SCORES_STAGES 3
#define STATES_STAGES 4
#define SCORES_BYTES                                                           \
    (TILE_BYTES(SCORES_STAGES) + UNITS * LIST_BYTES +                          \
     FEX_MATRIX_AIDES * SEEN_BYTES + FEX_MATRIX_TOKENS * 4 + 16)
#define STATES_BYTES (TILE_BYTES(STATES_STAGES) + FEX_MATRIX_TOKENS + 8)

#define EXPERTS_MAX 16384
#define HALVES_MAX (INT64_C(256) << 20)    /* bytes of up rows in f16 */
#define WORKSPACE_MAX (INT64_C(128) << 20) /* besides the up rows in f16 */

/* ---- When --------------------------------------------------------------- */

static int applies(const fex_problem *problem,
                   const fex_architecture *architecture)
{
    return architecture->major == 9 && problem->dtype != FEX_DTYPE_F32 &&
           problem->hidden_size % 8 == 0 && problem->top_k <= LIST_MAX &&
           problem->num_experts <= EXPERTS_MAX &&
           problem->num_experts * problem->hidden_size <=
               HALVES_MAX / (int64_t)sizeof(short);
}

/* ---- Kernels ------------------------------------------------------------ */

static void describe_product(const fex_problem *problem,
                             const fex_architecture *architecture,
                             const char *file, const char *function,
                             int threads, int stages, fex_kernel_spec *spec)
{
    fex_spec_init(spec, file, function, architecture);
    fex_spec_add(spec, "DTYPE", (int64_t)problem->dtype);
    fex_spec_add(spec, "ROUTING_DTYPE", (int64_t)problem->routing_dtype);
    fex_spec_add_choices(spec, problem);
    fex_spec_add(spec, "HIDDEN_SIZE", problem->hidden_size);
    fex_spec_add(spec, "THREADS", threads);
    fex_spec_add(spec, "STAGES", stages);
}

static size_t describe(const fex_problem *problem,
                       const fex_architecture *architecture,
                       fex_geometry geometry, fex_kernel_spec *specs)
{
    (void)geometry;
    describe_product(problem, architecture, "matrix_scores.cu",
                     "fex_matrix_scores", FEX_MATRIX_SCORES_THREADS,
                     SCORES_STAGES, &specs[SCORES]);
    fex_spec_add(&specs[SCORES], "LIST_MAX", LIST_MAX);
    fex_spec_add_shared(&specs[SCORES], SCORES_BYTES);
    describe_product(problem, architecture, "matrix_states.cu",
                     "fex_matrix_states", STATES_THREADS, STATES_STAGES,
                     &specs[STATES]);
    fex_spec_add_shared(&specs[STATES], STATES_BYTES);
    return KERNELS;
}

/* ---- Cutting up --------------------------------------------------------- */

/* f16 has bits enough for weights where states are rounded to bfloat16. */
static int64_t weight_parts(const fex_problem *problem)
{
    return problem->dtype == FEX_DTYPE_BF16 ? 1 : 2;
}

/* Rows of the matrix are read 64 elements at a time. */
int64_t fex_matrix_stride(const fex_problem *problem)
{
    return fex_ceil_div(problem->num_experts, FEX_MATRIX_DEPTH) *
           FEX_MATRIX_DEPTH;
}

static int64_t tiles_of_experts(const fex_problem *problem)
{
    return fex_ceil_div(problem->num_experts, FEX_MATRIX_ACROSS);
}

int64_t fex_matrix_chunk(const fex_problem *problem, int64_t num_tokens)
{
    const int64_t weights = fex_matrix_stride(problem) *
                            weight_parts(problem) * (int64_t)sizeof(short);
    const int64_t others =
        (problem->top_k + tiles_of_experts(problem)) * (int64_t)sizeof(float);
    const int64_t tiles =
        WORKSPACE_MAX / ((weights + others) * FEX_MATRIX_TOKENS);
    return fex_min(num_tokens, fex_max(tiles, 1) * FEX_MATRIX_TOKENS);
}

static fex_matrix_cut cut_product(const fex_device *device, int64_t num_tokens,
                                  int64_t columns, int64_t stages)
{
    fex_matrix_cut made = {.tiles =
                               fex_ceil_div(num_tokens, FEX_MATRIX_TOKENS) *
                               fex_ceil_div(columns, FEX_MATRIX_ACROSS),
                           .cluster = FEX_MATRIX_CLUSTER,
                           .stages = stages};
    while (made.cluster > 1 &&
           (made.cluster > stages ||
            made.tiles * made.cluster >
                fex_cluster_room(device->multiprocessors, made.cluster)))
        made.cluster /= 2;
    return made;
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
        weight_parts(problem) *
            fex_ceil_div(problem->num_experts, FEX_MATRIX_DEPTH));
}

/* Blocks stay and take tiles in turn if each has its own. */
static int64_t scores_blocks(const fex_device *device,
                             const fex_matrix_cut *scores)
{
    return scores->cluster > 1
               ? scores->tiles * scores->cluster
               : fex_min(scores->tiles, device->multiprocessors);
}

/* ---- Workspace ---------------------------------------------------------- */

typedef struct pieces {
    unsigned short *weights;
    unsigned short *halves;
    float *largest;
    unsigned *up_largest;
    float *scores; /* where nobody asked for them */
} pieces;

/* As much as any device needs. */
static pieces take_pieces(const fex_problem *problem, int64_t tokens,
                          fex_layout *layout)
{
    const int64_t tiles = tiles_of_experts(problem);
    const int64_t blocks =
        fex_ceil_div(tokens, FEX_MATRIX_TOKENS) * tiles * FEX_MATRIX_CLUSTER;
    const int converts = problem->dtype == FEX_DTYPE_BF16;
    return (pieces){
        .weights = fex_layout_take(layout,
                                   tokens * fex_matrix_stride(problem) *
                                       weight_parts(problem),
                                   sizeof(short)),
        .halves = fex_layout_take(
            layout, converts * problem->num_experts * problem->hidden_size,
            sizeof(short)),
        .largest = fex_layout_take(layout, tokens * tiles, sizeof(float)),
        .up_largest = fex_layout_take(
            layout,
            converts * fex_ceil_div(problem->hidden_size, FEX_MATRIX_ACROSS) *
                blocks * FEX_MATRIX_AIDES,
            sizeof(unsigned)),
        .scores =
            fex_layout_take(layout, tokens * problem->top_k, sizeof(float))};
}

static size_t workspace_size(const fex_problem *problem, int64_t num_tokens)
{
    fex_layout layout = {0};
    take_pieces(problem, fex_matrix_chunk(problem, num_tokens), &layout);
    return layout.used;
}

/* ---- Launching ---------------------------------------------------------- */

/* Tokens of a call that are worked on at one time, and what both kernels are
 * told of them. */
typedef struct chunk {
    int64_t first;
    fex_choices choices;
    const void *routing_weights;
    float *scores;
    int64_t scores_stride;
    fex_matrix_cut scores_cut;
    int64_t blocks;   /* of scores */
    int64_t up_parts; /* warps that converted the up rows, for all chunks */
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
    c->scores_cut = fex_matrix_cut_scores(problem, launch->device, tokens);
    c->blocks = scores_blocks(launch->device, &c->scores_cut);
    if (first == 0)
        c->up_parts = c->blocks * FEX_MATRIX_AIDES;
}

static fex_status launch_scores(const fex_launch *launch, const chunk *c)
{
    const fex_forward_args *const in = launch->forward;
    const fex_problem *const problem = launch->problem;
    const int converts = problem->dtype == FEX_DTYPE_BF16 && c->first == 0;
    fex_matrix_scores_args args = {.choices = c->choices,
                                   .routing_weights = c->routing_weights,
                                   .routing_weights_stride =
                                       in->routing_weights_stride,
                                   .scores = c->scores,
                                   .scores_stride = c->scores_stride,
                                   .weights = c->pieces.weights,
                                   .weights_stride = fex_matrix_stride(problem),
                                   .largest = c->pieces.largest,
                                   .up_weights = in->up_weights,
                                   .up_weights_stride = in->up_weights_stride,
                                   .halves = converts ? c->pieces.halves : NULL,
                                   .up_largest = c->pieces.up_largest};
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
    return_if_error(
        fex_map_rows(launch->driver, &args.down_map, &down, FEX_MATRIX_ACROSS));
    const fex_grid grid = {.x = c->blocks,
                           .y = 1,
                           .threads = FEX_MATRIX_SCORES_THREADS,
                           .cluster = c->scores_cut.cluster,
                           .shared_bytes = SCORES_BYTES};
    return fex_launch_kernel(launch, launch->modules[SCORES]->functions[0],
                             grid, &args);
}

/* The up rows in f16. */
static fex_rows up_halves(const fex_launch *launch, const chunk *c)
{
    const fex_forward_args *const in = launch->forward;
    const fex_problem *const problem = launch->problem;
    fex_rows up = fex_rows_of(problem, in->up_weights, problem->num_experts,
                              in->up_weights_stride);
    if (problem->dtype == FEX_DTYPE_BF16) {
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
    const fex_matrix_cut states =
        fex_matrix_cut_states(problem, launch->device, tokens);
    fex_matrix_states_args args = {
        .choices = c->choices,
        .routing_weights = c->routing_weights,
        .scores = c->scores,
        .up_weights = in->up_weights,
        .routing_weights_stride = in->routing_weights_stride,
        .scores_stride = c->scores_stride,
        .up_weights_stride = in->up_weights_stride,
        .largest = c->pieces.largest,
        .up_largest = c->pieces.up_largest,
        .expert_states = fex_row_at(in->expert_states, in->expert_states_stride,
                                    c->first, fex_dtype_bytes(problem->dtype)),
        .expert_states_stride = in->expert_states_stride,
        .parts = (int)tiles_of_experts(problem),
        .up_parts = (int)c->up_parts};
    const fex_rows weights = {.base = c->pieces.weights,
                              .count = weight_parts(problem) * tokens,
                              .columns = problem->num_experts,
                              .stride = fex_matrix_stride(problem),
                              .dtype = FEX_DTYPE_F16};
    const fex_rows up = up_halves(launch, c);
    return_if_error(fex_map_rows(launch->driver, &args.weights_map, &weights,
                                 FEX_MATRIX_TOKENS));
    return_if_error(
        fex_map_rows(launch->driver, &args.up_map, &up, FEX_MATRIX_DEPTH));
    const fex_grid grid = {.x = states.tiles * states.cluster,
                           .y = 1,
                           .threads = STATES_THREADS,
                           .cluster = states.cluster,
                           .shared_bytes = STATES_BYTES,
                           .dependent = 1};
    return fex_launch_kernel(launch, launch->modules[STATES]->functions[0],
                             grid, &args);
}

static fex_status launch_forward(const fex_launch *launch)
{
    const int64_t step = fex_matrix_chunk(launch->problem, launch->num_tokens);
    fex_layout layout = {.base = launch->workspace};
    chunk c = {.pieces = take_pieces(launch->problem, step, &layout)};
    for (int64_t first = 0; first < launch->num_tokens; first += step) {
        take_chunk(launch, first, fex_min(step, launch->num_tokens - first),
                   &c);
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
