/* SPDX-License-Identifier: Apache-2.0 */
/* compile.h - kernel sources become a shared object, by the host's compiler. */
#ifndef SIMT_COMPILE_H
#define SIMT_COMPILE_H

#include <stddef.h>

/* Translated copies of what NVRTC was given. */
typedef struct simt_sources {
    char *source;
    size_t header_count;
    char **headers;
    char **names;
} simt_sources;

/* 0, or -1 if there is no memory. */
int simt_sources_copy(simt_sources *sources, const char *source,
                      size_t header_count, const char *const *headers,
                      const char *const *names);
void simt_sources_free(simt_sources *sources);

typedef enum simt_outcome {
    SIMT_COMPILED,
    SIMT_REFUSED, /* *log says why */
    SIMT_FAILED   /* no compiler, no space, ... */
} simt_outcome;

/* *image and *log, which is never NULL after the first two, are the caller's
 * to free. architecture: 90 for sm_90a. */
simt_outcome simt_compile(const simt_sources *sources, int architecture,
                          char **image, size_t *image_size, char **log);

#endif
