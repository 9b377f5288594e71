/* SPDX-License-Identifier: Apache-2.0 */
/* dense_estimate.c - about how long the dense family takes. */
#include "config.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "dense.h"
#include "estimate.h"

#define LAUNCH_SECONDS 20e-6   /* of all four kernels, with little to do */
#define SORT_START_CLOCKS 5000 /* a block of the sort, before the first of K; as
                                * if blocks had a multiprocessor for themselves,
                                * which is 5 us too much where they are small */
#define SORT_CLOCKS 25         /* and for each */
#define SORT_LONG_CLOCKS 40    /* where a token chooses more than this of a */
#define SORT_LONG 12           /* block of experts */
#define PAIR_CLOCKS 6.1        /* to take its score and to place its weight */
#define PAIR_CLOCKS_SPILLED 15 /* where sums over ranges do not fit L2, and */
#define PARTIALS_SPILLED 2     /* how many times as long these take then */
#define TENSOR_SHARE_COPIED 0.74 /* of the peak, where the copy engine helps */
#define TENSOR_SHARE 0.6         /* else, and no more than: */
#define OPERATIONS_A_CLOCK 830.0 /* of a multiprocessor */
#define MEMORY_SHARE 0.7

/* A product's tiles of all tokens, and of what there is across them. */
static int64_t tiles_of(const fex_dense_kernel *kernel, int64_t num_tokens,
                        int64_t across)
{
    return fex_ceil_div(num_tokens, kernel->tokens) *
           fex_ceil_div(across, kernel->across);
}

/* Operations for a tile, a product of two for each element and each of `length`
 * that it is summed over. */
static double operations_of(const fex_dense_kernel *kernel, double length)
{
    return 2.0 * kernel->tokens * kernel->across * length;
}

/* Of the tensor cores' peak, what the products reach. */
static double tensor_share(const fex_dense_engine *engine,
                           const fex_device *device)
{
    const double most =
        OPERATIONS_A_CLOCK * device->multiprocessors * device->clock;
    return engine->copies_tiles
               ? TENSOR_SHARE_COPIED
               : fmin(TENSOR_SHARE, most / device->tensor_rate);
}

/* Every choice sorted, then both products of every token with every expert, or
 * both tables read from memory if that takes longer; sums over ranges of
 * experts are written and read again. */
static double chunk_seconds(const fex_problem *problem,
                            const fex_device *device, int64_t num_tokens)
{
    const fex_dense_engine *const engine =
        fex_dense_engine_for(device->architecture);
    const fex_dense_kernel *const first = fex_dense_scores(engine, problem);
    const fex_dense_kernel *const second = fex_dense_states(engine, problem);
    const int64_t splits = fex_dense_splits(problem, num_tokens);
    const double experts = (double)problem->num_experts;
    const double length = experts / (double)splits * second->products;
    const double share = tensor_share(engine, device);
    const double scores = fex_tiles_seconds(
        device, tiles_of(first, num_tokens, problem->num_experts),
        operations_of(first, (double)problem->hidden_size), share);
    const double states = fex_tiles_seconds(
        device, tiles_of(second, num_tokens, problem->hidden_size) * splits,
        operations_of(second, length), share);
    const double moved = fex_memory_seconds(
        device, 2 * fex_row_bytes(problem) * experts, MEMORY_SHARE);
    const double rounds =
        (double)num_tokens /
        (fex_dense_sort_tokens(problem, device->architecture) *
         (double)device->multiprocessors);
    const double top_k = (double)problem->top_k;
    const double slot_clocks =
        top_k * FEX_ROUTE_BLOCK > SORT_LONG * experts ? SORT_LONG_CLOCKS
                                                      : SORT_CLOCKS;
    const double sort_clocks = SORT_START_CLOCKS + slot_clocks * top_k;
    const double partials = (double)(splits * num_tokens) *
                            (double)problem->hidden_size * sizeof(float);
    const int spilled = partials > (double)device->l2_bytes;
    return LAUNCH_SECONDS +
           fex_clock_seconds(device, sort_clocks * fmax(rounds, 1)) +
           fex_shared_seconds(device,
                              (spilled ? PAIR_CLOCKS_SPILLED : PAIR_CLOCKS) *
                                  (double)num_tokens * top_k) +
           fmax(scores + states, moved) +
           fex_memory_seconds(device,
                              2 * partials * (spilled ? PARTIALS_SPILLED : 1),
                              MEMORY_SHARE);
}

double fex_dense_estimate(const fex_problem *problem, const fex_device *device,
                          int64_t num_tokens)
{
    return fex_chunks_seconds(problem, device, num_tokens,
                              fex_dense_chunk(problem, num_tokens),
                              chunk_seconds);
}

void fex_dense_describe(const fex_problem *problem, const fex_device *device,
                        int64_t num_tokens, char text[FEX_LAUNCH_TEXT_MAX])
{
    const fex_dense_engine *const engine =
        fex_dense_engine_for(device->architecture);
    const fex_dense_kernel *const scores = fex_dense_scores(engine, problem);
    const fex_dense_kernel *const states = fex_dense_states(engine, problem);
    const int64_t tokens = fex_dense_chunk(problem, num_tokens);
    snprintf(text, FEX_LAUNCH_TEXT_MAX,
             "tile=%dx%d/%dx%d splits=%" PRId64 " tokens=%" PRId64,
             scores->tokens, scores->across, states->tokens, states->across,
             fex_dense_splits(problem, tokens), tokens);
}
