/* SPDX-License-Identifier: Apache-2.0 */
/* tensor_map.h - maps of arrays for the copy engine, from sm_90 on. */
#ifndef FEX_TENSOR_MAP_H
#define FEX_TENSOR_MAP_H

#include "../kernels/arguments.h"
#include "driver.h"
#include "problem.h"

/* An array of rows; base and, where there is more than one row, the stride are
 * multiples of 16 bytes. */
typedef struct fex_rows {
    const void *base;
    int64_t count, columns;
    int64_t stride;  /* in elements */
    fex_dtype dtype; /* FEX_DTYPE_F16 or FEX_DTYPE_BF16 */
} fex_rows;

/* Rows of the problem's type and hidden size. */
fex_rows fex_rows_of(const fex_problem *problem, const void *base,
                     int64_t count, int64_t stride);

/* Of which boxes of box_rows by 64 columns are copied. */
fex_status fex_map_rows(const fex_driver *driver, fex_tensor_map *map,
                        const fex_rows *rows, int box_rows);

#endif
