/* SPDX-License-Identifier: Apache-2.0 */
/* test_convert.c - every f16 and bf16 number is read exactly, and rounding
 * goes to the nearest. */
#include "config.h"

#include <math.h>
#include <string.h>

#include "convert.h"
#include "suite.h"

/* The two formats, in the terms of IEEE 754. */
static const struct {
    fex_dtype dtype;
    int bias, fraction;
    uint16_t infinity;
} formats[] = {{FEX_DTYPE_F16, 15, 10, 0x7c00},
               {FEX_DTYPE_BF16, 127, 7, 0x7f80}};
enum { FORMATS = sizeof formats / sizeof *formats };

static double load(fex_dtype dtype, uint16_t bits)
{
    double value;
    fex_convert_load(dtype, &bits, 0, 1, &value);
    return value;
}

static uint16_t store(fex_dtype dtype, double value)
{
    uint16_t bits;
    fex_convert_store(dtype, &bits, 0, 1, &value);
    return bits;
}

/* Sign, exponent and fraction, put together as the standard says. */
START_TEST(every_number_is_read_exactly)
{
    const int fraction = formats[_i].fraction, bias = formats[_i].bias;
    for (unsigned bits = 0; bits < formats[_i].infinity; bits++) {
        const int exponent = (int)(bits >> fraction);
        const int digits = (int)(bits & ((1u << fraction) - 1));
        const double value =
            exponent == 0
                ? ldexp(digits, 1 - bias - fraction)
                : ldexp(digits + (1 << fraction), exponent - bias - fraction);
        ck_assert(load(formats[_i].dtype, (uint16_t)bits) == value);
        ck_assert(load(formats[_i].dtype, (uint16_t)(bits | 0x8000)) == -value);
        ck_assert_uint_eq(store(formats[_i].dtype, value), bits);
        ck_assert_uint_eq(store(formats[_i].dtype, -value), bits | 0x8000);
    }
}
END_TEST

/* Between each number and the next: just below the middle, in it, and just
 * above it. Going through float on the way would miss the first and last. */
START_TEST(rounding_is_to_nearest_even)
{
    const fex_dtype dtype = formats[_i].dtype;
    for (uint16_t low = 0; low < formats[_i].infinity - 1; low++) {
        const uint16_t high = (uint16_t)(low + 1);
        const uint16_t even = (low & 1) == 0 ? low : high;
        const double middle = (load(dtype, low) + load(dtype, high)) / 2;
        ck_assert_uint_eq(store(dtype, nextafter(middle, 0)), low);
        ck_assert_uint_eq(store(dtype, middle), even);
        ck_assert_uint_eq(store(dtype, nextafter(middle, INFINITY)), high);
        ck_assert_uint_eq(store(dtype, -middle), even | 0x8000);
    }
}
END_TEST

START_TEST(overflow_is_infinity)
{
    const fex_dtype dtype = formats[_i].dtype;
    const uint16_t infinity = formats[_i].infinity;
    const double largest = load(dtype, (uint16_t)(infinity - 1));
    const double below = load(dtype, (uint16_t)(infinity - 2));
    const double limit = largest + (largest - below) / 2;
    ck_assert_uint_eq(store(dtype, nextafter(limit, 0)), infinity - 1);
    ck_assert_uint_eq(store(dtype, limit), infinity);
    ck_assert_uint_eq(store(dtype, -limit), infinity | 0x8000);
    ck_assert_uint_eq(store(dtype, 1e300), infinity);
    ck_assert_uint_eq(store(dtype, INFINITY), infinity);
    ck_assert_uint_eq(store(dtype, -INFINITY), infinity | 0x8000);
    ck_assert(load(dtype, infinity) == INFINITY);
    ck_assert(load(dtype, infinity | 0x8000) == -INFINITY);
}
END_TEST

START_TEST(tiny_is_zero_with_its_sign)
{
    const fex_dtype dtype = formats[_i].dtype;
    ck_assert_uint_eq(store(dtype, 0.0), 0);
    ck_assert_uint_eq(store(dtype, -0.0), 0x8000);
    ck_assert_uint_eq(store(dtype, 1e-300), 0);
    ck_assert_uint_eq(store(dtype, -5e-324), 0x8000);
}
END_TEST

START_TEST(nan_stays_nan)
{
    const fex_dtype dtype = formats[_i].dtype;
    ck_assert(isnan(load(dtype, store(dtype, NAN))));
    ck_assert(isnan(load(dtype, store(dtype, -NAN))));
    /* Every NaN, signalling ones included, and none becomes infinity. */
    for (unsigned bits = formats[_i].infinity + 1u; bits < 0x8000; bits++) {
        ck_assert(isnan(load(dtype, (uint16_t)bits)));
        ck_assert(isnan(load(dtype, (uint16_t)(bits | 0x8000))));
    }
}
END_TEST

START_TEST(float_is_rounded_once)
{
    const double values[] = {0x1.000001p0, 0x1.0000010000001p0, 1e300, -1e-300,
                             0x1p-149, 0x1.8p-149};
    const float expected[] = {1.0f, 0x1.000002p0f, INFINITY, -0.0f, 0x1p-149f,
                              0x1p-148f};
    float stored[6];
    double loaded[6];
    fex_convert_store(FEX_DTYPE_F32, stored, 0, 6, values);
    ck_assert_int_eq(memcmp(stored, expected, sizeof stored), 0);
    fex_convert_load(FEX_DTYPE_F32, stored, 0, 6, loaded);
    for (int i = 0; i < 6; i++)
        ck_assert(loaded[i] == (double)expected[i]);
}
END_TEST

/* Positions count elements, of whichever size. */
START_TEST(positions_and_counts)
{
    static const fex_dtype dtypes[] = {FEX_DTYPE_F16, FEX_DTYPE_BF16,
                                       FEX_DTYPE_F32};
    const double values[3] = {1, 2, 3};
    for (int d = 0; d < 3; d++) {
        float array[8] = {0};
        double all[8];
        fex_convert_store(dtypes[d], array, 2, 3, values);
        fex_convert_load(dtypes[d], array, 0, 8, all);
        for (int i = 0; i < 8; i++)
            ck_assert(all[i] == (i >= 2 && i < 5 ? i - 1 : 0));
    }
}
END_TEST

START_TEST(indices_of_both_types)
{
    const int32_t narrow[] = {5, -1, INT32_MIN, INT32_MAX};
    const int64_t wide[] = {5, -1, INT64_MIN, INT64_MAX};
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(fex_convert_index(FEX_INDEX_I32, narrow, i),
                         narrow[i]);
        ck_assert_int_eq(fex_convert_index(FEX_INDEX_I64, wide, i), wide[i]);
    }
}
END_TEST

static void fill(TCase *tests)
{
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, every_number_is_read_exactly, 0, FORMATS);
    tcase_add_loop_test(tests, rounding_is_to_nearest_even, 0, FORMATS);
    tcase_add_loop_test(tests, overflow_is_infinity, 0, FORMATS);
    tcase_add_loop_test(tests, tiny_is_zero_with_its_sign, 0, FORMATS);
    tcase_add_loop_test(tests, nan_stays_nan, 0, FORMATS);
    tcase_add_test(tests, float_is_rounded_once);
    tcase_add_test(tests, positions_and_counts);
    tcase_add_test(tests, indices_of_both_types);
}

int main(void)
{
    return test_suite_main("convert", fill);
}
