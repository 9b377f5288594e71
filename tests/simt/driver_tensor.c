/* SPDX-License-Identifier: Apache-2.0 */
/* driver_tensor.c - the driver's entry point for tensor maps. A map of the
 * simulator holds its figures in plain words, for tensor_map.h to read. */
#include "config.h"

#include <stdint.h>
#include <string.h>

#include "device.h"
#include "tensor_map.h"

_Static_assert(sizeof(simt_tensor_map) <= sizeof(CUtensorMap),
               "the figures fit in a map");

/* What the library asks for: two dimensions of 16-bit elements, whole boxes
 * of rows swizzled by 128 bytes. */
static int is_supported(CUtensorMapDataType type, cuuint32_t rank,
                        CUtensorMapInterleave interleave,
                        CUtensorMapSwizzle swizzle,
                        CUtensorMapFloatOOBfill fill)
{
    return (type == CU_TENSOR_MAP_DATA_TYPE_FLOAT16 ||
            type == CU_TENSOR_MAP_DATA_TYPE_BFLOAT16) &&
           rank == 2 && interleave == CU_TENSOR_MAP_INTERLEAVE_NONE &&
           swizzle == CU_TENSOR_MAP_SWIZZLE_128B &&
           fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
}

/* The driver's rules. */
static int is_valid(const void *address, const cuuint64_t *sizes,
                    const cuuint64_t *strides, const cuuint32_t *box,
                    const cuuint32_t *steps)
{
    int valid = (uintptr_t)address % 16 == 0 && strides[0] % 16 == 0 &&
                strides[0] < UINT64_C(1) << 40 && box[0] * 2 <= 128;
    for (int i = 0; i < 2; i++)
        valid = valid && sizes[i] >= 1 && sizes[i] <= UINT64_C(1) << 32 &&
                box[i] >= 1 && box[i] <= 256 && steps[i] == 1;
    return valid;
}

CUresult cuTensorMapEncodeTiled(
    CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address,
    const cuuint64_t *sizes, const cuuint64_t *strides, const cuuint32_t *box,
    const cuuint32_t *steps, CUtensorMapInterleave interleave,
    CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
    CUtensorMapFloatOOBfill fill)
{
    CUresult result = simt_begin(__func__, SIMT_NOTHING);
    (void)promotion;
    if (result != CUDA_SUCCESS)
        return simt_end(result);
    if (!is_supported(type, rank, interleave, swizzle, fill))
        return simt_end(CUDA_ERROR_NOT_SUPPORTED);
    if (map == NULL || (uintptr_t)map % 64 != 0 ||
        !is_valid(address, sizes, strides, box, steps))
        return simt_end(CUDA_ERROR_INVALID_VALUE);
    const simt_tensor_map figures = {.address = (uintptr_t)address,
                                     .columns = sizes[0],
                                     .rows = sizes[1],
                                     .stride_bytes = strides[0],
                                     .box_columns = box[0],
                                     .box_rows = box[1]};
    memset(map, 0, sizeof *map);
    memcpy(map, &figures, sizeof figures);
    return simt_end(CUDA_SUCCESS);
}
