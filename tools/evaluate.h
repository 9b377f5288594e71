/* SPDX-License-Identifier: Apache-2.0 */
/* evaluate.h - an evaluation on a device: its memory, its calls. */
#ifndef TOOL_EVALUATE_H
#define TOOL_EVALUATE_H

#include "context.h"
#include "tensors.h"
#include "variants.h"

/* A device in use: its CUDA context is current to this thread. */
typedef struct tool_device {
    fex_context *context;
    const fex_driver *driver;
    CUstream stream;
    fex_context_info info;
    int pushed;
} tool_device;

/* Statuses as fex_context_create. On failure nothing is held. */
fex_status device_open(int ordinal, tool_device *device);
void device_close(tool_device *device);

/* Allocates device memory, at least one byte. */
fex_status device_allocate(const tool_device *device, size_t bytes,
                           const char *what, CUdeviceptr *memory);
fex_status device_synchronize(const tool_device *device);

/* What the second-level cache holds when a call begins. */
typedef enum evaluate_l2 {
    EVALUATE_COLD, /* other data: calls take turns over copies of the tables
                    * and other choices, together larger than twice the L2 */
    EVALUATE_WARM  /* what the same call left there */
} evaluate_l2;
#define EVALUATE_L2_CHOICES "cold|warm"

/* Whether a forward pass writes its scores. */
typedef enum evaluate_scores {
    EVALUATE_SCORES,        /* always: they are a result */
    EVALUATE_SCORES_IF_USED /* where the shape has a backward pass, too */
} evaluate_scores;

/* One shape on a device. Inputs exist in several sets, used in turn; outputs
 * exist once. */
typedef struct evaluation {
    const tool_device *device;
    const tool_shape *shape;
    fex_op *op;
    CUdeviceptr memory[TENSOR_COUNT]; /* set after set; 0: not used, and NULL
                                       * in calls */
    size_t set_bytes[TENSOR_COUNT];
    size_t token_sets; /* of what has a row a token */
    size_t table_sets;
    CUdeviceptr workspace;
    size_t workspace_bytes;
    size_t turn;
} evaluation;

/* Makes the operation and brings its kernels in. device and shape must stay.
 * Statuses as fex_op_create and fex_op_prepare. */
fex_status evaluation_create(const tool_device *device, const tool_shape *shape,
                             evaluation *evaluation);

/* Allocates device memory and fills it: turn 0 is exactly `inputs`, the
 * outputs are all ones, which are NaN. */
fex_status evaluation_load(evaluation *evaluation, const tool_tensors *inputs,
                           evaluate_l2 l2, evaluate_scores scores);

/* The device arrays of a turn: which set of each input it uses. */
tool_tensors evaluation_tensors(const evaluation *evaluation, size_t turn);

/* Queues one pass with the inputs of the next turn. A backward pass uses the
 * scores that the last forward pass saved, if the shape has both. */
fex_status evaluation_call(evaluation *evaluation, fex_pass pass);

/* The name of the algorithm family that serves a pass, in static storage; and
 * how it cuts up the work, in words, or "". */
const char *evaluation_family(const evaluation *evaluation, fex_pass pass,
                              char config[FEX_LAUNCH_TEXT_MAX]);

/* Copies the outputs that there are to host memory. Waits for the stream. */
fex_status evaluation_fetch(const evaluation *evaluation,
                            tool_tensors *outputs);

/* Waits for the stream and frees everything; also after a failed create. What
 * is all zeros is ignored. */
void evaluation_destroy(evaluation *evaluation);

#endif
