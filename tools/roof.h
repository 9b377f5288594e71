/* SPDX-License-Identifier: Apache-2.0 */
/* roof.h - the limits an evaluation is compared with, measured beside it by
 * kernels/gather_roof.cu. */
#ifndef TOOL_ROOF_H
#define TOOL_ROOF_H

#include "evaluate.h"

/* Reads the rows that a pass gathers, and does nothing with them: of both
 * tables by the choices of the turn; backward also of x and dy, by the tokens
 * of the pairs in the order of their experts. */
typedef struct gather_roof {
    evaluation *evaluation; /* its memory is read, its turn is not used */
    fex_pass pass;
    const fex_module *module;
    CUdeviceptr tokens; /* of pairs sorted by expert; 0 forward */
    CUdeviceptr sink;
    int64_t sorted_pairs;
    size_t turn;
} gather_roof;

/* inputs are those the evaluation was loaded from. Statuses as fex_op_prepare;
 * on failure nothing is held. */
fex_status gather_roof_create(evaluation *evaluation,
                              const tool_tensors *inputs, fex_pass pass,
                              gather_roof *roof);

/* Queues one reading. `user` is a gather_roof. */
fex_status gather_roof_call(void *user);
void gather_roof_destroy(gather_roof *roof);

/* Copies memory much larger than L2. */
typedef struct copy_roof {
    const tool_device *device;
    const fex_module *module;
    CUdeviceptr memory;
    size_t bytes; /* read, and as many written */
} copy_roof;

fex_status copy_roof_create(const tool_device *device, copy_roof *roof);
fex_status copy_roof_call(void *user);
void copy_roof_destroy(copy_roof *roof);

#endif
