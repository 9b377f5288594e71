/* SPDX-License-Identifier: Apache-2.0 */
/* convert.c - f16 and bf16 in integer arithmetic, for hosts that have
 * neither. */
#include "config.h"

#include <math.h>
#include <string.h>

#include "convert.h"

/* ---- Reading ------------------------------------------------------------ */

static float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* As a float with f16's exponent the number is too small by 2^112, whether
 * normal or not; infinity and NaN come out at 2^16 and above, where no finite
 * f16 is. No branch, so that loops over it become vector code. */
static float widen_f16(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t magnitude = (uint32_t)(half & 0x7fffu) << 13;
    const uint32_t special = (half & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0;
    const float scaled = float_of_bits(magnitude) * 0x1p112f;
    uint32_t bits;
    memcpy(&bits, &scaled, sizeof bits);
    return float_of_bits(sign | bits | special);
}

static float widen_bf16(uint16_t bits)
{
    return float_of_bits((uint32_t)bits << 16);
}

void fex_convert_load(fex_dtype dtype, const void *array, int64_t position,
                      int64_t count, double *values)
{
    if (dtype == FEX_DTYPE_F32) {
        const float *const in = (const float *)array + position;
        for (int64_t i = 0; i < count; i++)
            values[i] = (double)in[i];
    } else if (dtype == FEX_DTYPE_F16) {
        const uint16_t *const in = (const uint16_t *)array + position;
        for (int64_t i = 0; i < count; i++)
            values[i] = (double)widen_f16(in[i]);
    } else {
        const uint16_t *const in = (const uint16_t *)array + position;
        for (int64_t i = 0; i < count; i++)
            values[i] = (double)widen_bf16(in[i]);
    }
}

int64_t fex_convert_index(fex_index_type type, const void *array,
                          int64_t position)
{
    return type == FEX_INDEX_I64 ? ((const int64_t *)array)[position]
                                 : ((const int32_t *)array)[position];
}

/* ---- Writing ------------------------------------------------------------ */

/* Rounds to a 16-bit format straight from double: going through float would
 * round twice. bias is that of the format's exponent, fraction the bits it
 * stores of the significand. */
static uint16_t narrow(double value, int bias, int fraction)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint16_t sign = (uint16_t)(bits >> 48 & 0x8000u);
    const uint16_t infinity = (uint16_t)(0x7fffu >> fraction << fraction);
    const double magnitude = fabs(value);

    if (isnan(value))
        return (uint16_t)(sign | infinity | 1u << (fraction - 1));
    if (isinf(value))
        return sign | infinity;
    /* Below the smallest normal number: a multiple of the smallest of all. */
    if (magnitude < ldexp(1.0, 1 - bias))
        return (uint16_t)(sign |
                          lrint(ldexp(magnitude, bias - 1 + fraction)));
    /* Move the exponent, then add just less than half a unit, or half of it
     * where the last bit kept is odd. A carry ends in the exponent, as it
     * should. */
    const int shift = 52 - fraction;
    const uint64_t moved = (bits & INT64_MAX) - ((uint64_t)(1023 - bias) << 52);
    const uint64_t half = (UINT64_C(1) << (shift - 1)) - 1;
    const uint64_t rounded = (moved + half + (moved >> shift & 1)) >> shift;
    return (uint16_t)(sign | (rounded < infinity ? rounded : infinity));
}

void fex_convert_store(fex_dtype dtype, void *array, int64_t position,
                       int64_t count, const double *values)
{
    if (dtype == FEX_DTYPE_F32) {
        float *const out = (float *)array + position;
        for (int64_t i = 0; i < count; i++)
            out[i] = (float)values[i];
    } else {
        const int half = dtype == FEX_DTYPE_F16;
        uint16_t *const out = (uint16_t *)array + position;
        for (int64_t i = 0; i < count; i++)
            out[i] = half ? narrow(values[i], 15, 10)
                          : narrow(values[i], 127, 7);
    }
}
