/* SPDX-License-Identifier: Apache-2.0 */
/* targets.h - what kernels are prewarmed for: architectures that are named, and
 * the devices of this machine. */
#ifndef TOOL_TARGETS_H
#define TOOL_TARGETS_H

#include "architecture.h"
#include "figures.h"

enum { TARGET_DEVICES_MAX = 16, TARGET_ARCHITECTURES_MAX = 64 };

typedef struct prewarm_targets {
    fex_device devices[TARGET_DEVICES_MAX]; /* this machine's, of each kind
                                             * one */
    size_t device_count;
    const char *architectures[TARGET_ARCHITECTURES_MAX]; /* each once */
    size_t architecture_count;
} prewarm_targets;

/* Finds the devices of this machine that the library serves. */
fex_status targets_find_devices(prewarm_targets *t);

/* Adds the architectures of "sm_80,sm_90a" or "all". */
fex_status targets_add(prewarm_targets *t, const char *text);

/* Without --arch: adds that of the device of this machine. */
fex_status targets_add_device_architecture(prewarm_targets *t);

#endif
