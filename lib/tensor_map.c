/* SPDX-License-Identifier: Apache-2.0 */
/* tensor_map.c - maps of arrays for the copy engine. */
#include "config.h"

#include <string.h>

#include "tensor_map.h"

#define BOX_COLUMNS 64 /* 128 bytes, what the copy engine swizzles */
#define ALIGNED 8      /* elements: 16 bytes */

_Static_assert(sizeof(fex_tensor_map) == sizeof(CUtensorMap),
               "the kernels' tensor map is the driver's");

fex_rows fex_rows_of(const fex_problem *problem, const void *base,
                     int64_t count, int64_t stride)
{
    return (fex_rows){.base = base,
                      .count = count,
                      .columns = problem->hidden_size,
                      .stride = stride,
                      .dtype = problem->dtype};
}

fex_status fex_map_rows(const fex_driver *driver, fex_tensor_map *map,
                        const fex_rows *rows, int box_rows)
{
    const CUtensorMapDataType type = rows->dtype == FEX_DTYPE_F16
                                         ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                         : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    const cuuint64_t sizes[2] = {(cuuint64_t)rows->columns,
                                 (cuuint64_t)rows->count};
    /* That of one row may be any number, also one that the driver refuses. */
    const int64_t step =
        rows->count > 1 ? rows->stride
                        : (rows->columns + ALIGNED - 1) / ALIGNED * ALIGNED;
    const cuuint64_t strides[1] = {(cuuint64_t)step *
                                   fex_dtype_bytes(rows->dtype)};
    const cuuint32_t box[2] = {BOX_COLUMNS, (cuuint32_t)box_rows};
    const cuuint32_t steps[2] = {1, 1};
    CUtensorMap made; /* aligned as the driver wants it */
    return_if_error(fex_driver_check(
        driver,
        driver->cuTensorMapEncodeTiled(
            &made, type, 2, (void *)(uintptr_t)rows->base, sizes, strides, box,
            steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
            CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
        "cuTensorMapEncodeTiled"));
    memcpy(map, &made, sizeof *map);
    return FEX_OK;
}
