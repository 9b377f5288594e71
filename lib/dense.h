/* SPDX-License-Identifier: Apache-2.0 */
/* dense.h - the engines of the dense family: kernels of the same two products
 * for different tensor cores. */
#ifndef FEX_DENSE_H
#define FEX_DENSE_H

#include "variants.h"

/* By how many tokens and columns sums of states are laid out. A tile of states
 * is as wide, and a multiple of it high. */
#define FEX_DENSE_TILE 128

/* One product's kernel: what is compiled in, and the tile of a block. */
typedef struct fex_dense_kernel {
    const char *file;
    const char *across_name; /* the constant that gets `across` */
    int tokens; /* of a tile */
    int across; /* experts of a tile of scores, columns of one of states */
    int box;    /* rows of a table that one copy brings */
    int threads, stages, shared_bytes;
    int place_tokens; /* whose weights one warp of a kernel of states places */
    int rounds_max;   /* that it reads ahead, of 32 routes */
    int rounds_long;  /* the same where that is not enough for most blocks of
                       * experts; 0 if the kernel does not differ then */
    double products;  /* of 16 bits, as long as which one of states takes; 0
                       * for scores */
} fex_dense_kernel;

typedef struct fex_dense_engine {
    int (*runs_on)(const fex_architecture *architecture);
    int copies_tiles; /* the copy engine reads rows, by tensor maps */
    fex_dense_kernel scores[2]; /* for many experts and for few */
    fex_dense_kernel states[2]; /* for f16 and bf16 */
    int scores_stay; /* their blocks take tiles in turn: one a multiprocessor */
} fex_dense_engine;

/* NULL where there are no tensor cores to use. */
const fex_dense_engine *fex_dense_engine_for(
    const fex_architecture *architecture);

/* The kernel of scores for the problem's number of experts. */
const fex_dense_kernel *fex_dense_scores(const fex_dense_engine *engine,
                                         const fex_problem *problem);

/* The kernel of states for the problem's type. */
const fex_dense_kernel *fex_dense_states(const fex_dense_engine *engine,
                                         const fex_problem *problem);

/* Adds how far a kernel of states reads routes ahead. */
void fex_dense_add_rounds(const fex_problem *problem,
                          const fex_dense_kernel *kernel, fex_kernel_spec *spec);

/* How many tokens a block of the sort takes; 0 where it cannot be sorted. */
int fex_dense_sort_tokens(const fex_problem *problem,
                          const fex_architecture *architecture);

/* How many tokens are worked on at one time, which keeps to the workspace there
 * is; and into how many ranges of experts the sums of so many are cut. */
int64_t fex_dense_chunk(const fex_problem *problem, int64_t num_tokens);
int64_t fex_dense_splits(const fex_problem *problem, int64_t num_tokens);

/* As fex_variant has them. */
double fex_dense_estimate(const fex_problem *problem, const fex_device *device,
                          int64_t num_tokens);
void fex_dense_describe(const fex_problem *problem, const fex_device *device,
                        int64_t num_tokens, char text[FEX_LAUNCH_TEXT_MAX]);

#endif
