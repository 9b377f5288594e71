/* SPDX-License-Identifier: Apache-2.0 */
/* device.h - the one simulated device: its figures, its primary context, and
 * what every entry point of the driver begins and ends with. */
#ifndef SIMT_DEVICE_H
#define SIMT_DEVICE_H

#include "exports.h"

/* What an entry point needs to be called. */
enum simt_need { SIMT_NOTHING, SIMT_INITIALISED, SIMT_CONTEXT };

/* Takes the lock that all entry points share, counts the call and returns what
 * it has to fail with: a planned fault, a missing need, or the failure of an
 * earlier kernel, which stays until the primary context is released.
 *
 * Entry points that release something do so all the same. */
CUresult simt_begin(const char *function, enum simt_need need);

/* Gives the lock back; returns result. */
CUresult simt_end(CUresult result);

/* Replaces the plan of FLASHEXPERT_SIM_FAIL, see faults.h. */
void simt_device_plan(const char *plan);

/* From now on every call fails with this result. */
void simt_device_break(CUresult result);
CUresult simt_device_error(void);

int simt_device_attribute(CUdevice_attribute attribute, int *value);
int simt_device_shared_bytes(void); /* a block can opt in to */

/* How often the primary context is retained. */
unsigned simt_device_retained(void);

#endif
