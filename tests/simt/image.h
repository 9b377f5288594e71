/* SPDX-License-Identifier: Apache-2.0 */
/* image.h - what there is to learn from the bytes of a simulated cubin, which
 * are those of a shared object, before it is loaded. */
#ifndef SIMT_IMAGE_H
#define SIMT_IMAGE_H

#include <stddef.h>

#define SIMT_SHARED_MAX 64
#define SIMT_STATIC_SHARED_BYTES 49152u /* ptxas allows a kernel no more */

/* A variable in shared memory: a static one of a function that is neither
 * constant nor has a value to begin with. Device code has no other. */
typedef struct simt_shared_variable {
    size_t offset; /* from where the object is loaded */
    size_t size;
    char kernel[64]; /* it is declared in, "" for a function's of all kernels */
} simt_shared_variable;

typedef struct simt_image {
    size_t size; /* of the whole image */
    simt_shared_variable shared[SIMT_SHARED_MAX];
    size_t shared_count;
} simt_image;

/* Returns -1 if the bytes are no such image. */
int simt_image_read(const void *bytes, simt_image *image);

/* Whether the kernel has, or may use, the variable. */
int simt_image_uses(const simt_shared_variable *variable, const char *kernel);

/* Bytes of static shared memory of one kernel. */
size_t simt_image_shared_bytes(const simt_image *image, const char *kernel);

#endif
