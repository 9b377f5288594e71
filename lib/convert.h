/* SPDX-License-Identifier: Apache-2.0 */
/* convert.h - elements of arrays on the host: exact as double when read, and
 * rounded once, to nearest even, when written. Overflow rounds to infinity;
 * subnormal numbers are kept; NaN stays a (quiet) NaN. */
#ifndef FEX_CONVERT_H
#define FEX_CONVERT_H

#include "flashexpert_rtc.h"

/* `count` elements of array from `position` on. */
void fex_convert_load(fex_dtype dtype, const void *array, int64_t position,
                      int64_t count, double *values);
void fex_convert_store(fex_dtype dtype, void *array, int64_t position,
                       int64_t count, const double *values);

/* One index of either type. */
int64_t fex_convert_index(fex_index_type type, const void *array,
                          int64_t position);

#endif
