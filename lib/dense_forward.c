/* SPDX-License-Identifier: Apache-2.0 */
/* dense_forward.c - forward by products of whole matrices on tensor cores, for
 * tokens that choose a good part of the experts: the choices are sorted, all
 * scores computed and those wanted kept, all experts summed, most of them times
 * zero, over ranges of them at once. Needs rows of 16-bit elements that are
 * read 16 bytes at a time. */
#include "config.h"

#include "dense.h"
#include "tensor_map.h"
#include "variants.h"

enum { SORT, SCORES, STATES, SUM, KERNELS };

#define SORT_TOKENS_MAX 8  /* of a block */
#define SORT_RESIDENT 1024 /* threads that a multiprocessor holds at least */
#define SORT_SLOTS_MIN 24  /* bytes for those of a token: a crowded part's */
#define COUNT_MAX 0xffff   /* slots of a block: counters are halves of words */

/* Where tiles of states are few, ranges of experts are summed apart. */
#define BLOCKS_WANTED 256 /* tiles times ranges: no more */
#define SPLITS_MAX 16
#define SPLIT_BLOCKS_MIN 2 /* of experts, in a range */

#define SUM_THREADS 256
#define SUM_WIDTH 4 /* columns of a thread */

#define WORKSPACE_MAX (INT64_C(256) << 20)
#define CHUNK_TOKENS 256 /* tokens are taken in multiples of this */

/* ---- When --------------------------------------------------------------- */

static int64_t blocks_of(const fex_problem *problem)
{
    return fex_ceil_div(problem->num_experts, FEX_ROUTE_BLOCK);
}

/* How many tokens a block of sort_routes.cu takes, and how it lays out shared
 * memory; no tokens if there is not enough. */
typedef struct sort_shape {
    int tokens, threads, shared_bytes;
} sort_shape;

/* Small blocks hide each other's waiting. Where slots are many, shared memory
 * leaves room for one block, which then takes all threads. */
static int sort_threads(const fex_problem *problem)
{
    return problem->top_k <= 256 ? 256 : problem->top_k < 1024 ? 512 : 1024;
}

static sort_shape sort_shape_for(const fex_problem *problem,
                                 const fex_architecture *architecture)
{
    const int threads = sort_threads(problem);
    const int64_t counters = fex_ceil_div(blocks_of(problem) + 1, 8) * 8;
    const int64_t part_bits = fex_ceil_div(counters, 32) * 32;
    const int64_t slot =
        (int64_t)(sizeof(unsigned) + fex_dtype_bytes(problem->routing_dtype));
    for (int tokens = SORT_TOKENS_MAX; tokens > 0; tokens /= 2) {
        const int64_t bytes =
            counters * (2 * FEX_ROUTE_GROUP + 2 * (int64_t)sizeof(unsigned)) +
            tokens * part_bits * 2 / 8 + threads / 32 * 8 + 8 +
            tokens * fex_max(problem->top_k * slot, SORT_SLOTS_MIN);
        if (bytes <= architecture->shared_max &&
            tokens * problem->top_k <= COUNT_MAX)
            return (sort_shape){tokens, threads, (int)(bytes + 7) / 8 * 8};
    }
    return (sort_shape){0};
}

int fex_dense_sort_tokens(const fex_problem *problem,
                          const fex_architecture *architecture)
{
    return sort_shape_for(problem, architecture).tokens;
}

static int applies(const fex_problem *problem,
                   const fex_architecture *architecture)
{
    return problem->dtype != FEX_DTYPE_F32 && problem->hidden_size % 8 == 0 &&
           fex_dense_sort_tokens(problem, architecture) > 0 &&
           fex_dense_engine_for(architecture) != NULL;
}

/* ---- Kernels ------------------------------------------------------------ */

static void describe_sort(const fex_problem *problem,
                          const fex_architecture *architecture,
                          fex_kernel_spec *spec)
{
    const sort_shape shape = sort_shape_for(problem, architecture);
    fex_spec_init(spec, "sort_routes.cu", "fex_sort_routes", architecture);
    fex_spec_add_choices(spec, problem);
    fex_spec_add(spec, "ROUTING_DTYPE", (int64_t)problem->routing_dtype);
    fex_spec_add(spec, "BLOCKS", blocks_of(problem));
    fex_spec_add(spec, "TOKENS", shape.tokens);
    fex_spec_add(spec, "THREADS", shape.threads);
    fex_spec_add(spec, "MIN_BLOCKS", SORT_RESIDENT / shape.threads);
    fex_spec_add_shared(spec, shape.shared_bytes);
}

static void describe_sum(const fex_problem *problem,
                         const fex_architecture *architecture,
                         const fex_dense_engine *engine, fex_kernel_spec *spec)
{
    const fex_dense_kernel *const states = fex_dense_states(engine, problem);
    fex_spec_init(spec, "dense_sum.cu", "fex_dense_sum", architecture);
    fex_spec_add(spec, "DTYPE", (int64_t)problem->dtype);
    fex_spec_add(spec, "HIDDEN_SIZE", problem->hidden_size);
    fex_spec_add(spec, "TOP_K", problem->top_k);
    fex_spec_add(spec, "TILE_TOKENS", states->tokens);
    fex_spec_add(spec, "TILE_COLUMNS", states->across);
    fex_spec_add(spec, "THREADS", SUM_THREADS);
}

static void describe_product(const fex_problem *problem,
                             const fex_architecture *architecture,
                             const fex_dense_kernel *kernel,
                             const char *function, fex_kernel_spec *spec)
{
    fex_spec_init(spec, kernel->file, function, architecture);
    fex_spec_add(spec, "DTYPE", (int64_t)problem->dtype);
    fex_spec_add(spec, "HIDDEN_SIZE", problem->hidden_size);
    fex_spec_add(spec, "TOP_K", problem->top_k);
    fex_spec_add(spec, "TILE_TOKENS", kernel->tokens);
    fex_spec_add(spec, kernel->across_name, kernel->across);
    fex_spec_add(spec, "THREADS", kernel->threads);
    fex_spec_add(spec, "STAGES", kernel->stages);
    fex_spec_add_shared(spec, kernel->shared_bytes);
}

static size_t describe(const fex_problem *problem,
                       const fex_architecture *architecture,
                       fex_geometry geometry, fex_kernel_spec *specs)
{
    const fex_dense_engine *const engine = fex_dense_engine_for(architecture);
    (void)geometry;
    describe_sort(problem, architecture, &specs[SORT]);
    const fex_dense_kernel *const states = fex_dense_states(engine, problem);
    describe_product(problem, architecture, fex_dense_scores(engine, problem),
                     "fex_dense_scores", &specs[SCORES]);
    describe_product(problem, architecture, states, "fex_dense_states",
                     &specs[STATES]);
    fex_dense_add_rounds(problem, states, &specs[STATES]);
    describe_sum(problem, architecture, engine, &specs[SUM]);
    return KERNELS;
}

/* ---- Workspace ---------------------------------------------------------- */

static int64_t splits_max(const fex_problem *problem)
{
    return fex_max(1,
                   fex_min(SPLITS_MAX, blocks_of(problem) / SPLIT_BLOCKS_MIN));
}

static int64_t column_tiles(const fex_problem *problem)
{
    return fex_ceil_div(problem->hidden_size, FEX_DENSE_TILE);
}

int64_t fex_dense_splits(const fex_problem *problem, int64_t num_tokens)
{
    const int64_t tiles =
        fex_ceil_div(num_tokens, FEX_DENSE_TILE) * column_tiles(problem);
    return fex_max(1, fex_min(splits_max(problem), BLOCKS_WANTED / tiles));
}

/* Rows of tiles, times ranges: no fewer for more tokens, though there may be
 * fewer ranges then. */
static int64_t split_tiles(const fex_problem *problem, int64_t num_tokens)
{
    const int64_t tiles = fex_ceil_div(num_tokens, FEX_DENSE_TILE);
    return fex_max(tiles, fex_min(tiles * splits_max(problem),
                                  BLOCKS_WANTED / column_tiles(problem)));
}

/* Of a group of tokens. */
static int64_t starts_of(const fex_problem *problem)
{
    return blocks_of(problem) + 2;
}

int64_t fex_dense_chunk(const fex_problem *problem, int64_t num_tokens)
{
    const int64_t bytes =
        (problem->top_k * (int64_t)sizeof(fex_route) +
         starts_of(problem) * (int64_t)sizeof(int) / FEX_ROUTE_GROUP +
         problem->hidden_size * (int64_t)sizeof(float));
    const int64_t units = WORKSPACE_MAX / bytes / CHUNK_TOKENS;
    return fex_min(num_tokens, fex_max(units, 1) * CHUNK_TOKENS);
}

typedef struct pieces {
    fex_route *routes;
    int *starts;
    unsigned *largest;
    float *partials;
    int *unfit;
} pieces;

static pieces take_pieces(const fex_problem *problem, int64_t tokens,
                          fex_layout *layout)
{
    const int64_t tiles = split_tiles(problem, tokens);
    const int64_t groups = fex_ceil_div(tokens, FEX_ROUTE_GROUP);
    return (pieces){
        .routes =
            fex_layout_take(layout, groups * FEX_ROUTE_GROUP * problem->top_k,
                            sizeof(fex_route)),
        .starts =
            fex_layout_take(layout, starts_of(problem) * groups, sizeof(int)),
        .largest = fex_layout_take(layout, tokens, sizeof(unsigned)),
        .partials = fex_layout_take(
            layout, tiles * FEX_DENSE_TILE * problem->hidden_size,
            sizeof(float)),
        .unfit = fex_layout_take(layout, tiles * column_tiles(problem),
                                 sizeof(int))};
}

static size_t workspace_size(const fex_problem *problem, int64_t num_tokens)
{
    fex_layout layout = {0};
    take_pieces(problem, fex_dense_chunk(problem, num_tokens), &layout);
    return layout.used;
}

/* ---- Launching ---------------------------------------------------------- */

/* Tokens of a call that are worked on at one time. */
typedef struct chunk {
    int64_t first, count;
    pieces pieces;
} chunk;

static float *scores_of(const fex_forward_args *in, const chunk *c)
{
    return fex_row_at(in->scores, in->scores_stride, c->first, sizeof(float));
}

static fex_status launch_sort(const fex_launch *launch, const chunk *c)
{
    const fex_forward_args *const in = launch->forward;
    const fex_problem *const problem = launch->problem;
    const sort_shape shape =
        sort_shape_for(problem, launch->device->architecture);
    fex_sort_routes_args args = {
        .choices = fex_choices_of(launch),
        .routing_weights =
            fex_row_at(in->routing_weights, in->routing_weights_stride,
                       c->first, fex_dtype_bytes(problem->routing_dtype)),
        .routing_weights_stride = in->routing_weights_stride,
        .routes = c->pieces.routes,
        .starts = c->pieces.starts,
        .largest = c->pieces.largest,
        .scores = scores_of(in, c),
        .scores_stride = in->scores_stride};
    args.choices.num_tokens = c->count;
    args.choices.indices =
        fex_row_at(args.choices.indices, launch->indices_stride, c->first,
                   fex_index_bytes(problem->index_type));
    const fex_grid grid = {.x = fex_ceil_div(c->count, FEX_ROUTE_GROUP) *
                                (FEX_ROUTE_GROUP / shape.tokens),
                           .y = 1,
                           .threads = shape.threads,
                           .shared_bytes = shape.shared_bytes};
    return fex_launch_kernel(launch, launch->modules[SORT]->functions[0], grid,
                             &args);
}

static fex_status launch_scores(const fex_launch *launch,
                                const fex_dense_engine *engine, const chunk *c)
{
    const fex_forward_args *const in = launch->forward;
    const fex_problem *const problem = launch->problem;
    const fex_dense_kernel *const kernel = fex_dense_scores(engine, problem);
    const int64_t tiles = fex_ceil_div(c->count, kernel->tokens) *
                          fex_ceil_div(problem->num_experts, kernel->across);
    fex_dense_scores_args args = {
        .hidden_states = fex_row_at(in->hidden_states, in->hidden_states_stride,
                                    c->first, fex_dtype_bytes(problem->dtype)),
        .down_weights = in->down_weights,
        .hidden_states_stride = in->hidden_states_stride,
        .down_weights_stride = in->down_weights_stride,
        .routes = c->pieces.routes,
        .starts = c->pieces.starts,
        .largest = c->pieces.largest,
        .scores = scores_of(in, c),
        .scores_stride = in->scores_stride,
        .num_tokens = (int)c->count,
        .num_experts = (int)problem->num_experts};
    if (engine->copies_tiles) {
        const fex_rows hidden = fex_rows_of(
            problem, args.hidden_states, c->count, args.hidden_states_stride);
        const fex_rows down =
            fex_rows_of(problem, args.down_weights, problem->num_experts,
                        args.down_weights_stride);
        return_if_error(fex_map_rows(launch->driver, &args.hidden_map, &hidden,
                                     kernel->tokens));
        return_if_error(
            fex_map_rows(launch->driver, &args.down_map, &down, kernel->box));
    }
    const fex_grid grid = {
        .x = engine->scores_stay
                 ? fex_min(tiles, launch->device->multiprocessors)
                 : tiles,
        .y = 1,
        .threads = kernel->threads,
        .shared_bytes = kernel->shared_bytes,
        .dependent = 1};
    return fex_launch_kernel(launch, launch->modules[SCORES]->functions[0],
                             grid, &args);
}

static fex_status launch_states(const fex_launch *launch,
                                const fex_dense_engine *engine, const chunk *c)
{
    const fex_forward_args *const in = launch->forward;
    const fex_problem *const problem = launch->problem;
    const fex_dense_kernel *const kernel = fex_dense_states(engine, problem);
    const int64_t splits = fex_dense_splits(problem, c->count);
    fex_dense_states_args args = {.up_weights = in->up_weights,
                                  .up_weights_stride = in->up_weights_stride,
                                  .routes = c->pieces.routes,
                                  .starts = c->pieces.starts,
                                  .largest = c->pieces.largest,
                                  .partials = c->pieces.partials,
                                  .unfit = c->pieces.unfit,
                                  .num_tokens = (int)c->count,
                                  .num_experts = (int)problem->num_experts,
                                  .splits = (int)splits};
    if (engine->copies_tiles) {
        const fex_rows up =
            fex_rows_of(problem, args.up_weights, problem->num_experts,
                        args.up_weights_stride);
        return_if_error(
            fex_map_rows(launch->driver, &args.up_map, &up, kernel->box));
    }
    const fex_grid grid = {
        .x = fex_ceil_div(c->count, kernel->tokens) *
             fex_ceil_div(problem->hidden_size, kernel->across) * splits,
        .y = 1,
        .threads = kernel->threads,
        .shared_bytes = kernel->shared_bytes,
        .dependent = 1};
    return fex_launch_kernel(launch, launch->modules[STATES]->functions[0],
                             grid, &args);
}

static fex_status launch_sum(const fex_launch *launch, const chunk *c)
{
    const fex_forward_args *const in = launch->forward;
    const fex_problem *const problem = launch->problem;
    const fex_dense_sum_args args = {
        .partials = c->pieces.partials,
        .unfit = c->pieces.unfit,
        .up_weights = in->up_weights,
        .up_weights_stride = in->up_weights_stride,
        .routes = c->pieces.routes,
        .starts = c->pieces.starts,
        .largest = c->pieces.largest,
        .scores = scores_of(in, c),
        .scores_stride = in->scores_stride,
        .expert_states = fex_row_at(in->expert_states, in->expert_states_stride,
                                    c->first, fex_dtype_bytes(problem->dtype)),
        .expert_states_stride = in->expert_states_stride,
        .num_tokens = (int)c->count,
        .num_experts = (int)problem->num_experts,
        .splits = (int)fex_dense_splits(problem, c->count)};
    const int64_t threads = c->count * (problem->hidden_size / SUM_WIDTH);
    const fex_grid grid = {.x = fex_ceil_div(threads, SUM_THREADS),
                           .y = 1,
                           .threads = SUM_THREADS,
                           .dependent = 1};
    return fex_launch_kernel(launch, launch->modules[SUM]->functions[0], grid,
                             &args);
}

static fex_status launch_forward(const fex_launch *launch)
{
    const fex_problem *const problem = launch->problem;
    const fex_dense_engine *const engine =
        fex_dense_engine_for(launch->device->architecture);
    const int64_t step = fex_dense_chunk(problem, launch->num_tokens);
    fex_layout layout = {.base = launch->workspace};
    chunk c = {.pieces = take_pieces(problem, step, &layout)};
    for (; c.first < launch->num_tokens; c.first += step) {
        const int64_t left = launch->num_tokens - c.first;
        c.count = left < step ? left : step;
        return_if_error(launch_sort(launch, &c));
        return_if_error(launch_scores(launch, engine, &c));
        return_if_error(launch_states(launch, engine, &c));
        return_if_error(launch_sum(launch, &c));
    }
    return FEX_OK;
}

const fex_variant fex_dense_forward = {.name = "dense",
                                       .pass = FEX_PASS_FORWARD,
                                       .vector_bytes = 16,
                                       .applies = applies,
                                       .describe = describe,
                                       .workspace_size = workspace_size,
                                       .estimate = fex_dense_estimate,
                                       .describe_launch = fex_dense_describe,
                                       .launch = launch_forward};
