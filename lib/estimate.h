/* SPDX-License-Identifier: Apache-2.0 */
/* estimate.h - what families' estimates of their time are made of.
 *
 * An estimate is for data that no cache holds yet and experts drawn uniformly.
 * It has to rank families; the figures beside each formula were fitted to
 * measurements on one H200. They scale with clocks, multiprocessors and memory:
 * what a multiprocessor does is in its clocks, what is moved is a share of a
 * rate, and only what a launch takes by itself is in seconds. */
#ifndef FEX_ESTIMATE_H
#define FEX_ESTIMATE_H

#include "figures.h"
#include "problem.h"

/* Bytes of a row of the tables. */
double fex_row_bytes(const fex_problem *problem);

/* Of both tables' rows that tokens choose, each counted once. */
double fex_chosen_bytes(const fex_problem *problem, int64_t num_tokens);

/* Time to move bytes from memory, at a share of its peak. */
double fex_memory_seconds(const fex_device *device, double bytes, double share);

/* Time to read bytes out of L2, at a share of its rate. */
double fex_gather_seconds(const fex_device *device, double bytes, double share);

/* Time that one multiprocessor takes for so many of its clocks, and that all
 * take who share the work for so many. */
double fex_clock_seconds(const fex_device *device, double clocks);
double fex_shared_seconds(const fex_device *device, double clocks);

/* Time for tiles of so many operations each on tensor cores, a tile at a time
 * on a multiprocessor, at a share of their peak. */
double fex_tiles_seconds(const fex_device *device, int64_t tiles,
                         double operations, double share);

/* Time for tokens that are worked on `chunk` at a time. */
double fex_chunks_seconds(
    const fex_problem *problem, const fex_device *device, int64_t num_tokens,
    int64_t chunk,
    double (*chunk_seconds)(const fex_problem *problem,
                            const fex_device *device, int64_t num_tokens));

#endif
