/* SPDX-License-Identifier: Apache-2.0 */
/* settings.h - how the simulated device was asked to be. */
#ifndef SIMT_SETTINGS_H
#define SIMT_SETTINGS_H

#include <stddef.h>

/* FLASHEXPERT_SIM_..., with its default. Read once. */
typedef struct simt_settings {
    int major, minor;       /* _ARCH, "9.0" */
    int multiprocessors;    /* _SMS, 4 */
    int l2_bytes;           /* _L2, 1 MiB */
    size_t memory_bytes;    /* _MEMORY, 1 GiB */
    unsigned long seed;     /* _SEED, 1 */
    int timeout_seconds;    /* _TIMEOUT, 60: processor time of one kernel */
    int shared_poison;      /* _POISON, 255: each byte of fresh shared memory */
    int races;              /* _RACES, 0: compile kernels to be watched */
} simt_settings;

const simt_settings *simt_settings_get(void);

#endif
