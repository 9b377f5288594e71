/* SPDX-License-Identifier: Apache-2.0 */
/* bytes.h - little-endian numbers in files. */
#ifndef FEX_BYTES_H
#define FEX_BYTES_H

#include <stdint.h>

static inline void fex_bytes_put(unsigned char *bytes, int width,
                                 uint64_t number)
{
    for (int i = 0; i < width; i++)
        bytes[i] = (unsigned char)(number >> 8 * i);
}

static inline uint64_t fex_bytes_get(const unsigned char *bytes, int width)
{
    uint64_t number = 0;
    for (int i = 0; i < width; i++)
        number |= (uint64_t)bytes[i] << 8 * i;
    return number;
}

#endif
