/* SPDX-License-Identifier: Apache-2.0 */
/* element.h - single elements of arrays on the host: widened when read, and
 * rounded once, to nearest even, when written. */
#ifndef TOOL_ELEMENT_H
#define TOOL_ELEMENT_H

#include "flashexpert_rtc.h"

float element_load(const void *array, fex_dtype dtype, int64_t position);
void element_store(void *array, fex_dtype dtype, int64_t position, float value);

/* An index of either type. */
int64_t element_load_index(const void *array, fex_index_type type,
                           int64_t position);
void element_store_index(void *array, fex_index_type type, int64_t position,
                         int64_t value);

#endif
