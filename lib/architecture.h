/* SPDX-License-Identifier: Apache-2.0 */
/* architecture.h - the GPU architectures kernels are compiled for. */
#ifndef FEX_ARCHITECTURE_H
#define FEX_ARCHITECTURE_H

#include <stddef.h>

#include "status.h"

typedef struct fex_architecture {
    char name[16]; /* "sm_90a": NVRTC's --gpu-architecture */
    int major, minor;
    int shared_max; /* bytes of shared memory that a block can have */
} fex_architecture;

/* The table, from sm_75 to sm_121. */
const fex_architecture *fex_architecture_table(size_t *count);

/* By name; NULL if unknown. Accepts "sm_90a", "90a". */
const fex_architecture *fex_architecture_by_name(const char *name);

/* The same; FEX_ERROR_INVALID_ARGUMENT lists those there are. */
fex_status fex_architecture_find(const char *name,
                                 const fex_architecture **found);

/* What to compile for a device of this compute capability: the entry of the
 * same major number with the highest minor number not above (sm_90a for 9.0).
 * NULL below 7.5 and for a major number the table does not know. */
const fex_architecture *fex_architecture_of_device(int major, int minor);

#endif
