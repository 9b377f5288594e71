/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "element.h"

#include <math.h>
#include <string.h>

static float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float widen_f16(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    const uint32_t exponent = half >> 10 & 0x1f;
    const uint32_t fraction = half & 0x3ff;

    if (exponent == 0x1f) /* infinity or NaN */
        return float_of_bits(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) { /* fraction * 2^-24, exact */
        const float magnitude = (float)fraction * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

static uint16_t round_f16(float value)
{
    const uint32_t bits = bits_of_float(value);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    const float magnitude = fabsf(value);

    if (isnan(value))
        return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 65520.0f) /* halfway to the number after the largest */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x1p-14f) /* subnormal: a multiple of 2^-24 */
        return (uint16_t)(sign | (uint16_t)lrintf(magnitude * 0x1p24f));
    /* Move the exponent, then add just less than half a unit, or half of it
     * where the last bit kept is odd. */
    const uint32_t moved = (bits & 0x7fffffff) - (112u << 23);
    return (uint16_t)(sign | (moved + 0xfff + (moved >> 13 & 1)) >> 13);
}

static uint16_t round_bf16(float value)
{
    const uint32_t bits = bits_of_float(value);
    if (isnan(value))
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float element_load(const void *array, fex_dtype dtype, int64_t position)
{
    if (dtype == FEX_DTYPE_F32)
        return ((const float *)array)[position];
    const uint16_t bits = ((const uint16_t *)array)[position];
    return dtype == FEX_DTYPE_F16 ? widen_f16(bits)
                                  : float_of_bits((uint32_t)bits << 16);
}

void element_store(void *array, fex_dtype dtype, int64_t position, float value)
{
    if (dtype == FEX_DTYPE_F32)
        ((float *)array)[position] = value;
    else
        ((uint16_t *)array)[position] =
            dtype == FEX_DTYPE_F16 ? round_f16(value) : round_bf16(value);
}

int64_t element_load_index(const void *array, fex_index_type type,
                           int64_t position)
{
    return type == FEX_INDEX_I64 ? ((const int64_t *)array)[position]
                                 : ((const int32_t *)array)[position];
}

void element_store_index(void *array, fex_index_type type, int64_t position,
                         int64_t value)
{
    if (type == FEX_INDEX_I64)
        ((int64_t *)array)[position] = value;
    else
        ((int32_t *)array)[position] = (int32_t)value;
}
