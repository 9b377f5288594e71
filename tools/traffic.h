/* SPDX-License-Identifier: Apache-2.0 */
/* traffic.h - the bytes that an evaluation moves, counted on its choices. */
#ifndef TOOL_TRAFFIC_H
#define TOOL_TRAFFIC_H

#include "tensors.h"

/* Rows that one pass gathers at random, as bytes: forward a row of each table
 * for each choice that is no empty slot; backward these and a row of x and dy
 * for each, for the gradients of the tables. */
double traffic_gathered_bytes(const tool_shape *shape,
                              const tool_tensors *inputs, fex_pass pass);

/* What has to cross the memory bus even with an infinite cache: each input
 * that is used read once, each result written once. Scores count where a shape
 * has both passes: one writes them, the other reads them. */
double traffic_compulsory_bytes(const tool_shape *shape,
                                const tool_tensors *inputs, fex_pass pass);

/* Input that all passes of the shape read: chosen rows counted once. */
double traffic_touched_bytes(const tool_shape *shape,
                             const tool_tensors *inputs);

#endif
