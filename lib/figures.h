/* SPDX-License-Identifier: Apache-2.0 */
/* figures.h - the figures of a device. */
#ifndef FEX_FIGURES_H
#define FEX_FIGURES_H

#include "architecture.h"
#include "driver.h"

/* They choose the family and shape launches; never a compiled constant: those
 * must be known without a device. */
typedef struct fex_device {
    int ordinal; /* or FEX_DEVICE_NONE */
    char name[128];
    const fex_architecture *architecture; /* NULL: nothing is known */
    int multiprocessors;
    int64_t l2_bytes;
    double clock;       /* of the multiprocessors, 1/s */
    double memory_rate; /* peak, bytes/s */
    double l2_rate;     /* as rows read at random reach it, bytes/s */
    double tensor_rate; /* peak of 16-bit products summed in float32, 1/s; two
                         * operations each multiply and add */
} fex_device;

/* Asks the driver. FEX_ERROR_UNSUPPORTED if kernels cannot be compiled for
 * it. */
fex_status fex_device_describe(const fex_driver *driver, CUdevice cuda_device,
                               fex_device *device);

/* A device that people have of the architecture, where there is none to ask. */
void fex_device_typical(const fex_architecture *architecture,
                        fex_device *device);

/* Leaves one of so many equal parts of the device, or a device so much
 * smaller. */
void fex_device_part(fex_device *device, int parts);

#endif
