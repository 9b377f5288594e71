/* SPDX-License-Identifier: Apache-2.0 */
/* matrix.h - how the matrix family cuts up a call. */
#ifndef FEX_MATRIX_H
#define FEX_MATRIX_H

#include "variants.h"

/* Tiles of a product are of these widths. */
typedef enum fex_matrix_width {
    FEX_MATRIX_WIDE,
    FEX_MATRIX_MIDDLE,
    FEX_MATRIX_NARROW,
    FEX_MATRIX_WIDTHS
} fex_matrix_width;

typedef struct fex_matrix_cut {
    fex_matrix_width width;
    int64_t ranges; /* of the depth, each summed apart */
    int64_t tiles;  /* of all ranges */
    int64_t stages; /* of the depth of each */
    double clocks;  /* of a multiprocessor, until the last has done its tiles */
} fex_matrix_cut;

/* Experts of a tile of scores, tokens of one of states. */
int64_t fex_matrix_across(fex_matrix_width width);

/* To add up sums over so many ranges; none if there is one. */
double fex_matrix_sum_seconds(const fex_problem *problem,
                              const fex_device *device, int64_t num_tokens,
                              int64_t ranges);

/* By the width, and the number of ranges, with which it takes less time. */
fex_matrix_cut fex_matrix_cut_scores(const fex_problem *problem,
                                     const fex_device *device,
                                     int64_t num_tokens);
fex_matrix_cut fex_matrix_cut_states(const fex_problem *problem,
                                     const fex_device *device,
                                     int64_t num_tokens);

/* Numbers in f16 that an element of the matrix is the sum of: one has bits
 * enough where states are rounded to bfloat16. */
int64_t fex_matrix_parts(const fex_problem *problem);

/* How many tokens are worked on at one time: of so many, and at most. */
int64_t fex_matrix_chunk_max(const fex_problem *problem);
int64_t fex_matrix_chunk(const fex_problem *problem, int64_t num_tokens);

/* Numbers that sums over ranges have room for. */
int64_t fex_matrix_partials(const fex_problem *problem, int64_t num_tokens);

/* Elements from one row of the matrix to the next. */
int64_t fex_matrix_stride(const fex_problem *problem);

/* Integers that say where a group's choices of each block of experts begin, and
 * where the last ones and then its repeats end. */
int64_t fex_matrix_starts(const fex_problem *problem);

/* How choices are listed: tokens of a group, which a block lists, and its threads,
 * counters and shared memory. */
typedef struct fex_matrix_listing {
    int group, threads, counters, shared_bytes;
} fex_matrix_listing;
fex_matrix_listing fex_matrix_listing_of(const fex_problem *problem);

/* Choices of a tile of scores that a lane has in registers: most tiles have no
 * more. */
int64_t fex_matrix_ahead(const fex_problem *problem, fex_matrix_width width);

/* As fex_variant has them. */
double fex_matrix_estimate(const fex_problem *problem, const fex_device *device,
                           int64_t num_tokens);
void fex_matrix_describe(const fex_problem *problem, const fex_device *device,
                         int64_t num_tokens, char text[FEX_LAUNCH_TEXT_MAX]);

#endif
