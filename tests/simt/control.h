/* SPDX-License-Identifier: Apache-2.0 */
/* control.h - what tests ask of the stand-ins besides CUDA: look the functions
 * up with dlsym in the library that FLASHEXPERT_LIBCUDA or FLASHEXPERT_LIBNVRTC
 * names. */
#ifndef SIMT_CONTROL_H
#define SIMT_CONTROL_H

#include <stddef.h>

/* In both. Plans faults, see faults.h, from now on, and counts afresh. */
typedef void simt_plan_function(const char *plan);
#define SIMT_PLAN "simt_plan"

/* In both. Calls of a function since then; how many entries of the plan took
 * effect. */
typedef unsigned long simt_calls_function(const char *function);
#define SIMT_CALLS "simt_calls"
typedef unsigned simt_hits_function(void);
#define SIMT_HITS "simt_hits"

/* In libcuda. What the driver holds for its caller, in words: "" if nothing,
 * else "2 modules, 1 stream". */
typedef void simt_live_function(char *text, size_t size);
#define SIMT_LIVE "simt_live"

/* In libcuda. The last report of a kernel's fault, "" if there was none. */
typedef const char *simt_report_function(void);
#define SIMT_REPORT "simt_report"

#endif
