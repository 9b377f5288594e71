/* SPDX-License-Identifier: Apache-2.0 */
/* tensor_file.h - an evaluation's inputs from a safetensors file, and its
 * results into one. Arrays have the names of the table in tensors.h. */
#ifndef TOOL_TENSOR_FILE_H
#define TOOL_TENSOR_FILE_H

#include "safetensors.h"
#include "tensors.h"

/* The shape that a file's arrays have; its pass is both if there is a
 * grad_output, else forward. FEX_ERROR_CORRUPT names the array that is missing
 * or of a wrong type or shape. */
fex_status tensor_file_shape(const char *path, const safetensors_file *file,
                             tool_shape *shape);

/* Copies the inputs of a shape from the file it was taken from. Statuses of
 * tensor_file_shape and FEX_ERROR_OUT_OF_MEMORY. */
fex_status tensor_file_load(const char *path, const safetensors_file *file,
                            const tool_shape *shape, tool_tensors *inputs);

/* Writes the outputs of a shape, as safetensors_write. */
fex_status tensor_file_save(const char *path, const tool_shape *shape,
                            const tool_tensors *outputs);

#endif
