/* SPDX-License-Identifier: Apache-2.0 */
/* safetensors.h - reading and writing files of named arrays.
 *
 * The format (https://huggingface.co/docs/safetensors): 8 bytes with the
 * little-endian length of the header, the header as a JSON object
 *
 *     {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
 *      ..., "__metadata__": {"key": "text"}}
 *
 * and the data, which the offsets count from. A file is taken only if every
 * statement of its header is true: offsets inside the file, sizes equal to
 * dtype and shape, arrays that neither overlap nor leave gaps, names once. */
#ifndef TOOL_SAFETENSORS_H
#define TOOL_SAFETENSORS_H

#include "status.h"

#define SAFETENSORS_RANK_MAX 8

typedef struct safetensors_array {
    const char *name;
    const char *dtype; /* "BF16", "I64", ... as in the format */
    size_t rank;
    int64_t shape[SAFETENSORS_RANK_MAX];
    const void *data; /* of any alignment */
    size_t bytes;
} safetensors_array;

typedef struct safetensors_file {
    void *map; /* NULL: the bytes are the caller's */
    size_t size;
    void *header;              /* owns the names */
    safetensors_array *arrays; /* in the order of their data */
    size_t count;
} safetensors_file;

/* Maps a file and checks it. FEX_ERROR_IO if it cannot be read,
 * FEX_ERROR_CORRUPT if a statement of its header is false; the message says
 * which. FEX_ERROR_OUT_OF_MEMORY. On failure nothing is held. */
fex_status safetensors_open(const char *path, safetensors_file *file);

/* The same for bytes in memory, which have to stay; `path` is for messages. */
fex_status safetensors_parse(const char *path, const void *bytes, size_t size,
                             safetensors_file *file);

void safetensors_close(safetensors_file *file);

/* NULL if there is no such array. */
const safetensors_array *safetensors_find(const safetensors_file *file,
                                          const char *name);

/* Whether a file may appear at path, as far as can be said before: to fail
 * before the work and not after it. FEX_ERROR_IO. */
fex_status safetensors_check_target(const char *path);

/* Writes arrays to a file, which appears complete or not at all: what stood
 * there before a failure stands there after it. FEX_ERROR_IO,
 * FEX_ERROR_OUT_OF_MEMORY. */
fex_status safetensors_write(const char *path, const safetensors_array *arrays,
                             size_t count);

#endif
