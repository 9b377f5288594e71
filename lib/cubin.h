/* SPDX-License-Identifier: Apache-2.0 */
/* cubin.h - a compiled kernel file in memory. */
#ifndef FEX_CUBIN_H
#define FEX_CUBIN_H

#include <stddef.h>
#include <stdlib.h>

typedef struct fex_cubin {
    unsigned char *data; /* owned */
    size_t size;
    int compiler_version; /* NVRTC 13.0 is 13000 */
} fex_cubin;

static inline void fex_cubin_free(fex_cubin *cubin)
{
    free(cubin->data);
    *cubin = (fex_cubin){0};
}

#endif
