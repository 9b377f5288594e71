/* SPDX-License-Identifier: Apache-2.0 */
/* warp.h - what a warp operation gives each of its lanes. */
#ifndef SIMT_WARP_H
#define SIMT_WARP_H

#include "runtime.h"

#define SIMT_WARP_SIZE 32u

/* "__shfl_sync" */
const char *simt_warp_name(enum simt_warp_operation operation);

/* Carries out one operation of `lanes`, whose calls agree but for value and
 * operand. Returns -1, or a lane that reads one that takes no part, with that
 * one in *missing. */
int simt_warp_compute(const simt_warp_call *const calls[SIMT_WARP_SIZE],
                      unsigned lanes, uint64_t results[SIMT_WARP_SIZE],
                      unsigned *missing);

#endif
