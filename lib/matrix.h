/* SPDX-License-Identifier: Apache-2.0 */
/* matrix.h - how the matrix family cuts up a call. */
#ifndef FEX_MATRIX_H
#define FEX_MATRIX_H

#include "variants.h"

/* Warps that list choices: those that neither multiply nor copy. */
#define FEX_MATRIX_SCORES_THREADS 512
#define FEX_MATRIX_AIDES (FEX_MATRIX_SCORES_THREADS / 32 - 9)

/* Tiles of a product, and how many blocks share one: as many as there is room
 * for at one time. */
typedef struct fex_matrix_cut {
    int64_t tiles;
    int cluster;
    int64_t stages; /* of the depth, for all blocks of a tile together */
} fex_matrix_cut;

fex_matrix_cut fex_matrix_cut_scores(const fex_problem *problem,
                                     const fex_device *device,
                                     int64_t num_tokens);
fex_matrix_cut fex_matrix_cut_states(const fex_problem *problem,
                                     const fex_device *device,
                                     int64_t num_tokens);

/* How many tokens are worked on at one time, which keeps to the workspace there
 * is. */
int64_t fex_matrix_chunk(const fex_problem *problem, int64_t num_tokens);

/* Elements from one row of the matrix to the next. */
int64_t fex_matrix_stride(const fex_problem *problem);

/* As fex_variant has them. */
double fex_matrix_estimate(const fex_problem *problem, const fex_device *device,
                           int64_t num_tokens);
void fex_matrix_describe(const fex_problem *problem, const fex_device *device,
                         int64_t num_tokens, char text[FEX_LAUNCH_TEXT_MAX]);

#endif
