/* SPDX-License-Identifier: Apache-2.0 */
/* gather_backward.c - backward by gathering. Applies to every problem.
 *
 * Scores (unless saved), then the products p with the gradients of routing
 * weights and scores, then grad_hidden_states, all walking tokens. For the
 * gradients of the tables the pairs are sorted by expert, without any answer
 * from the device, and each expert's rows are gathered and written once. */
#include "config.h"

#include "gather.h"

enum {
    SCORES,
    GATE,
    HIDDEN,
    SORT,
    WEIGHTS,
    KERNELS
};

#define SORT_THREADS 256
#define SORT_ITEMS 8
#define SORT_DIGIT_BITS_MAX 9
#define WEIGHTS_THREADS 128
#define WEIGHTS_MIN_BLOCKS 8
#define WEIGHTS_VECTORS 1
#define WEIGHTS_UNROLL 4
#define WEIGHTS_CHUNK_MIN 512

/* Functions of sort_pairs.cu and weight_gradients.cu, as described. */
enum {
    SORT_COUNT,
    SORT_SCAN,
    SORT_SCATTER,
    SORT_SEGMENTS
};
enum {
    WEIGHTS_PARTIALS,
    WEIGHTS_GRADIENTS
};

/* ---- Describing --------------------------------------------------------- */

/* Keys go up to num_experts inclusive: the key of an empty slot. */
static int key_bits(const fex_problem *problem)
{
    int bits = 1;
    while (bits < 32 && problem->num_experts >> bits != 0)
        bits++;
    return bits;
}

static int sort_passes(const fex_problem *problem)
{
    return (int)fex_ceil_div(key_bits(problem), SORT_DIGIT_BITS_MAX);
}

static int digit_bits(const fex_problem *problem)
{
    return (int)fex_ceil_div(key_bits(problem), sort_passes(problem));
}

static void describe_sort(const fex_problem *problem,
                          const fex_architecture *architecture,
                          fex_kernel_spec *spec)
{
    fex_spec_init(spec, "sort_pairs.cu", "fex_sort_count", architecture);
    spec->functions[SORT_SCAN] = "fex_sort_scan";
    spec->functions[SORT_SCATTER] = "fex_sort_scatter";
    spec->functions[SORT_SEGMENTS] = "fex_sort_segments";
    spec->function_count = 4;
    fex_spec_add_choices(spec, problem);
    fex_spec_add(spec, "DIGIT_BITS", digit_bits(problem));
    fex_spec_add(spec, "THREADS", SORT_THREADS);
    fex_spec_add(spec, "ITEMS", SORT_ITEMS);
}

static void describe_weights(const fex_problem *problem,
                             const fex_architecture *architecture,
                             fex_geometry geometry, fex_kernel_spec *spec)
{
    fex_spec_init(spec, "weight_gradients.cu", "fex_weight_partials",
                  architecture);
    spec->functions[WEIGHTS_GRADIENTS] = "fex_weight_gradients";
    spec->function_count = 2;
    fex_spec_add_rows(spec, problem, geometry);
    fex_spec_add(spec, "WEIGHT_GRAD_DTYPE",
                 (int64_t)problem->weight_grad_dtype);
    fex_spec_add(spec, "THREADS", WEIGHTS_THREADS);
    fex_spec_add(spec, "MIN_BLOCKS", WEIGHTS_MIN_BLOCKS);
    fex_spec_add(spec, "VECTORS", WEIGHTS_VECTORS);
    fex_spec_add(spec, "UNROLL", WEIGHTS_UNROLL);
}

static int applies(const fex_problem *problem,
                   const fex_architecture *architecture)
{
    (void)problem;
    (void)architecture;
    return 1;
}

static size_t describe(const fex_problem *problem,
                       const fex_architecture *architecture,
                       fex_geometry geometry, fex_kernel_spec *specs)
{
    fex_describe_sddmm(problem, architecture, geometry, FEX_EPILOGUE_SCORES,
                       &specs[SCORES]);
    fex_describe_sddmm(problem, architecture, geometry, FEX_EPILOGUE_GATE,
                       &specs[GATE]);
    fex_describe_spmm(problem, architecture, geometry, FEX_COEFFICIENT_PLAIN,
                      &specs[HIDDEN]);
    describe_sort(problem, architecture, &specs[SORT]);
    describe_weights(problem, architecture, geometry, &specs[WEIGHTS]);
    return KERNELS;
}

/* ---- Workspace ---------------------------------------------------------- */

/* What a backward pass keeps on the device between its kernels. */
typedef struct workspace {
    float *scores; /* (T, K), as are the next two */
    float *grad_scores;
    float *coefficients;
    unsigned *keys[2]; /* (T K), as are the pairs */
    unsigned *pairs[2];
    unsigned *counts;          /* [1 << digit_bits][tiles] */
    unsigned *totals;          /* [1 << digit_bits] */
    unsigned *segments;        /* [E][2] */
    fex_pair_weights *weights; /* (T K), sorted */
    float *partials;           /* [2 * partial_chunks][2][H] */
} workspace;

static int64_t sort_tiles(int64_t pairs)
{
    return fex_ceil_div(pairs, SORT_THREADS * SORT_ITEMS);
}

/* The length from which an expert's pairs are summed in pieces: about the
 * square root of all pairs, so that the longest piece and the largest number
 * of pieces of one expert are alike. */
static int64_t chunk_length(int64_t pairs)
{
    int64_t length = WEIGHTS_CHUNK_MIN;
    while (length * length < pairs)
        length *= 2;
    return length;
}

/* At least ceil(pairs / chunk_length), and never less for more pairs, since a
 * workspace for many tokens must do for fewer. */
static int64_t partial_chunks(int64_t pairs)
{
    const int64_t length = chunk_length(pairs);
    const int64_t chunks = fex_ceil_div(pairs, WEIGHTS_CHUNK_MIN);
    return chunks < length ? chunks : length;
}

static size_t lay_out(const fex_problem *problem, int64_t num_tokens,
                      void *base, workspace *space)
{
    const int64_t pairs = num_tokens * problem->top_k;
    const int64_t bins = INT64_C(1) << digit_bits(problem);
    fex_layout layout = {.base = base};
    space->scores = fex_layout_take(&layout, pairs, sizeof(float));
    space->grad_scores = fex_layout_take(&layout, pairs, sizeof(float));
    space->coefficients = fex_layout_take(&layout, pairs, sizeof(float));
    for (int i = 0; i < 2; i++) {
        space->keys[i] = fex_layout_take(&layout, pairs, sizeof(unsigned));
        space->pairs[i] = fex_layout_take(&layout, pairs, sizeof(unsigned));
    }
    space->counts =
        fex_layout_take(&layout, bins * sort_tiles(pairs), sizeof(unsigned));
    space->totals = fex_layout_take(&layout, bins, sizeof(unsigned));
    space->segments =
        fex_layout_take(&layout, 2 * problem->num_experts, sizeof(unsigned));
    space->weights = fex_layout_take(&layout, pairs, sizeof *space->weights);
    space->partials =
        fex_layout_take(&layout, 4 * partial_chunks(pairs),
                        (size_t)problem->hidden_size * sizeof(float));
    return layout.used;
}

static size_t workspace_size(const fex_problem *problem, int64_t num_tokens)
{
    workspace space;
    return lay_out(problem, num_tokens, NULL, &space);
}

/* ---- Launching ---------------------------------------------------------- */

/* The gradients of scores and routing weights, and what they are made of. */
static fex_status launch_scores(const fex_launch *launch,
                                const workspace *space)
{
    const fex_backward_args *const args = launch->backward;
    fex_sddmm_args sddmm = {
        .choices = fex_choices_of(launch),
        .rows = args->hidden_states,
        .table = args->down_weights,
        .rows_stride = args->hidden_states_stride,
        .table_stride = args->down_weights_stride,
        .scores = space->scores,
        .scores_stride = launch->problem->top_k,
    };
    if (args->scores == NULL) {
        return_if_error(
            fex_launch_sddmm(launch, launch->modules[SCORES], &sddmm));
    } else {
        /* Only read from here on. */
        sddmm.scores = (float *)(uintptr_t)args->scores;
        sddmm.scores_stride = args->scores_stride;
    }
    sddmm.rows = args->grad_output;
    sddmm.table = args->up_weights;
    sddmm.rows_stride = args->grad_output_stride;
    sddmm.table_stride = args->up_weights_stride;
    sddmm.routing_weights = args->routing_weights;
    sddmm.routing_weights_stride = args->routing_weights_stride;
    sddmm.grad_routing_weights = args->grad_routing_weights;
    sddmm.grad_routing_weights_stride = args->grad_routing_weights_stride;
    sddmm.grad_scores = space->grad_scores;
    sddmm.coefficients = space->coefficients;
    sddmm.accumulate = (args->accumulate & FEX_ACCUMULATE_ROUTING_WEIGHTS) != 0;
    return fex_launch_sddmm(launch, launch->modules[GATE], &sddmm);
}

static fex_status launch_hidden(const fex_launch *launch,
                                const workspace *space)
{
    const fex_backward_args *const args = launch->backward;
    const fex_spmm_args spmm = {
        .choices = fex_choices_of(launch),
        .table = args->down_weights,
        .table_stride = args->down_weights_stride,
        .values = space->grad_scores,
        .values_stride = launch->problem->top_k,
        .out = args->grad_hidden_states,
        .out_stride = args->grad_hidden_states_stride,
        .accumulate = (args->accumulate & FEX_ACCUMULATE_HIDDEN_STATES) != 0};
    return fex_launch_spmm(launch, launch->modules[HIDDEN], &spmm, 0);
}

/* Sorts the pairs; *sorted tells which of the two buffers they end up in. */
static fex_status launch_sort(const fex_launch *launch, const workspace *space,
                              int *sorted)
{
    const fex_module *const module = launch->modules[SORT];
    const int64_t pairs = launch->backward->num_tokens * launch->problem->top_k;
    const int64_t bins = INT64_C(1) << digit_bits(launch->problem);
    const int64_t tiles = sort_tiles(pairs);
    fex_sort_args args = {.choices = fex_choices_of(launch),
                          .pairs = pairs,
                          .counts = space->counts,
                          .totals = space->totals,
                          .tiles = (int)tiles};
    const fex_grid by_tile = {.x = tiles, .y = 1, .threads = SORT_THREADS};
    const fex_grid by_bin = {.x = bins, .y = 1, .threads = SORT_THREADS};

    for (int pass = 0; pass < sort_passes(launch->problem); pass++) {
        args.keys_out = space->keys[pass % 2];
        args.pairs_out = space->pairs[pass % 2];
        args.shift = pass * digit_bits(launch->problem);
        return_if_error(fex_launch_kernel(launch, module->functions[SORT_COUNT],
                                          by_tile, &args));
        return_if_error(fex_launch_kernel(launch, module->functions[SORT_SCAN],
                                          by_bin, &args));
        return_if_error(fex_launch_kernel(
            launch, module->functions[SORT_SCATTER], by_tile, &args));
        args.keys_in = args.keys_out;
        args.pairs_in = args.pairs_out;
        *sorted = pass % 2;
    }
    return FEX_OK;
}

/* Each expert's range of the sorted pairs, and what is known of them. */
static fex_status launch_segments(const fex_launch *launch,
                                  const fex_weight_gradients_args *weights,
                                  const workspace *space, int sorted)
{
    const fex_segments_args args = {.num_experts = weights->num_experts,
                                    .pairs = weights->pairs,
                                    .sorted_keys = space->keys[sorted],
                                    .sorted_pairs = space->pairs[sorted],
                                    .grad_scores = space->grad_scores,
                                    .coefficients = space->coefficients,
                                    .segments = space->segments,
                                    .tokens = space->pairs[1 - sorted],
                                    .weights = space->weights};
    const fex_grid by_pair = {.x = fex_ceil_div(args.pairs, SORT_THREADS),
                              .y = 1,
                              .threads = SORT_THREADS};
    return fex_launch_kernel(launch,
                             launch->modules[SORT]->functions[SORT_SEGMENTS],
                             by_pair, &args);
}

/* The two kernels of weight_gradients.cu: large experts' pieces, then all. */
static fex_status launch_gradients(const fex_launch *launch,
                                   const fex_weight_gradients_args *args)
{
    const fex_module *const module = launch->modules[WEIGHTS];
    const int64_t groups = WEIGHTS_THREADS / launch->geometry.group;
    const int64_t columns = launch->geometry.group *
                            launch->geometry.vector_bytes * WEIGHTS_VECTORS /
                            (int64_t)fex_dtype_bytes(launch->problem->dtype);
    const int64_t column_chunks =
        fex_ceil_div(launch->problem->hidden_size, columns);
    const int64_t slots = 2 * fex_ceil_div(args->pairs, args->chunk);
    const fex_grid by_slot = {.x = fex_ceil_div(slots, groups),
                              .y = column_chunks,
                              .threads = WEIGHTS_THREADS};
    const fex_grid by_expert = {.x = fex_ceil_div(args->num_experts, groups),
                                .y = column_chunks,
                                .threads = WEIGHTS_THREADS};

    /* No expert has more pairs than there are: there may be no pieces. */
    if (args->pairs > args->chunk)
        return_if_error(fex_launch_kernel(
            launch, module->functions[WEIGHTS_PARTIALS], by_slot, args));
    return fex_launch_kernel(launch, module->functions[WEIGHTS_GRADIENTS],
                             by_expert, args);
}

static fex_status launch_weights(const fex_launch *launch,
                                 const workspace *space)
{
    const fex_backward_args *const in = launch->backward;
    const fex_problem *const problem = launch->problem;
    const int64_t pairs = in->num_tokens * problem->top_k;
    fex_weight_gradients_args args = {
        .num_experts = problem->num_experts,
        .pairs = pairs,
        .hidden_states = in->hidden_states,
        .grad_output = in->grad_output,
        .hidden_states_stride = in->hidden_states_stride,
        .grad_output_stride = in->grad_output_stride,
        .weights = space->weights,
        .segments = space->segments,
        .partials = space->partials,
        .grad_down_weights = in->grad_down_weights,
        .grad_up_weights = in->grad_up_weights,
        .grad_down_weights_stride = in->grad_down_weights_stride,
        .grad_up_weights_stride = in->grad_up_weights_stride,
        .chunk = chunk_length(pairs),
        .accumulate_down = (in->accumulate & FEX_ACCUMULATE_DOWN_WEIGHTS) != 0,
        .accumulate_up = (in->accumulate & FEX_ACCUMULATE_UP_WEIGHTS) != 0};

    /* Experts that nobody chose keep an empty segment. */
    return_if_error(fex_driver_check(
        launch->driver,
        launch->driver->cuMemsetD8Async(
            (CUdeviceptr)(uintptr_t)space->segments, 0,
            (size_t)problem->num_experts * 2 * sizeof(unsigned),
            launch->stream),
        "cuMemsetD8Async"));
    if (pairs > 0) {
        int sorted = 0;
        return_if_error(launch_sort(launch, space, &sorted));
        return_if_error(launch_segments(launch, &args, space, sorted));
        args.sorted_keys = space->keys[sorted];
        args.tokens = space->pairs[1 - sorted];
    }
    return launch_gradients(launch, &args);
}

static fex_status launch_backward(const fex_launch *launch)
{
    const fex_backward_args *const args = launch->backward;
    const int wants_weights =
        args->grad_down_weights != NULL || args->grad_up_weights != NULL;
    workspace space;
    lay_out(launch->problem, args->num_tokens, launch->workspace, &space);

    if (args->num_tokens > 0) {
        return_if_error(launch_scores(launch, &space));
        if (args->grad_hidden_states != NULL)
            return_if_error(launch_hidden(launch, &space));
    }
    return wants_weights ? launch_weights(launch, &space) : FEX_OK;
}

const fex_variant fex_gather_backward = {.name = "gather",
                                         .pass = FEX_PASS_BACKWARD,
                                         .applies = applies,
                                         .describe = describe,
                                         .workspace_size = workspace_size,
                                         .launch = launch_backward};
