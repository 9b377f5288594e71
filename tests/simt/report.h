/* SPDX-License-Identifier: Apache-2.0 */
/* report.h - one fault of a kernel in words: which kernel, block and thread,
 * and the lines of source that led there. */
#ifndef SIMT_REPORT_H
#define SIMT_REPORT_H

#include <stdarg.h>

#include "runtime.h"

/* Called in the faulting thread, on its stack; keeps the way there. */
void simt_report_fault(simt_dim3 block, simt_dim3 thread, const char *format,
                       va_list args) __attribute__((format(printf, 3, 0)));

/* Before that, in a signal handler: the instruction that was interrupted. */
void simt_report_signal(const void *instruction);

/* For what is found after a kernel has ended. */
void simt_report_damage(const char *format, ...)
    __attribute__((format(printf, 1, 2)));

/* Looks up the lines and writes the report to standard error. */
void simt_report_print(const char *kernel, unsigned long seed);

/* The last report printed, "" if there was none. */
const char *simt_report_last(void);

#endif
