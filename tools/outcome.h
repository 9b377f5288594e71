/* SPDX-License-Identifier: Apache-2.0 */
/* outcome.h - what one evaluation found, what the first one took, and the
 * telling of it. */
#ifndef TOOL_OUTCOME_H
#define TOOL_OUTCOME_H

#include <jansson.h>

#include "verify.h"

/* The passes one by one, in the order they are evaluated. */
enum { OUTCOME_PASSES = 2 };
extern const fex_pass outcome_passes[OUTCOME_PASSES];

typedef struct pass_times {
    double seconds, graph_seconds, host_seconds; /* NaN: not measured */
    double gathered_bytes;
} pass_times;

/* What one shape's evaluation found. */
typedef struct run_outcome {
    pass_times times[FEX_PASS_BACKWARD + 1]; /* by pass */
    const char *families[FEX_PASS_BACKWARD + 1];
    verify_result verified[TENSOR_COUNT];
    int by_oracle; /* the results are its own: only rounding is verified */
    int passed;
} run_outcome;

/* Nothing measured yet. */
run_outcome outcome_none(void);

/* As a JSON object, or in lines on standard output. With `verified`, also how
 * far the results are from the oracle. */
json_t *outcome_json(const tool_shape *shape, const run_outcome *found,
                     int verified);
void outcome_print(const tool_shape *shape, const run_outcome *found,
                   int verified);

/* Seconds of the way to the first result, each step by itself. */
typedef struct run_startup {
    double context; /* driver, device, cache */
    double prepare; /* kernels: compiled, or found in the cache */
    double call;    /* the first forward pass, or backward where none is */
    uint64_t compiles;
} run_startup;

json_t *startup_json(const run_startup *s);
void startup_print(const run_startup *s);

#endif
