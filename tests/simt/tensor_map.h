/* SPDX-License-Identifier: Apache-2.0 */
/* tensor_map.h - what a tensor map of the simulator holds: rows of 16-bit
 * elements, of which boxes are copied. Included by both compilers. */
#ifndef SIMT_TENSOR_MAP_H
#define SIMT_TENSOR_MAP_H

#include <stdint.h>

typedef struct simt_tensor_map {
    uint64_t address;
    uint64_t columns, rows;
    uint64_t stride_bytes;
    uint32_t box_columns, box_rows;
} simt_tensor_map;

#endif
