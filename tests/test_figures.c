/* SPDX-License-Identifier: Apache-2.0 */
/* test_figures.c - a device's figures: as the driver tells them, and typical
 * ones for those it does not. */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "figures.h"
#include "suite.h"

/* What the driver answers; 0 for what it does not know, and -1 for what it
 * fails to tell. */
static struct {
    int major, clock, memory_clock, bus;
} answers;

static CUresult answer(int *value, CUdevice_attribute attribute,
                       CUdevice device)
{
    (void)device;
    switch ((int)attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
        *value = answers.major;
        break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
        *value = 0;
        return CUDA_SUCCESS;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
        *value = 100;
        break;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
        *value = 1 << 20;
        break;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
        *value = answers.clock;
        break;
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
        *value = answers.memory_clock;
        break;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH:
        *value = answers.bus;
        break;
    default:
        *value = 0;
    }
    if (*value < 0)
        return CUDA_ERROR_UNKNOWN;
    return *value != 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static CUresult name(char *text, int length, CUdevice device)
{
    (void)device;
    snprintf(text, (size_t)length, "Fake");
    return CUDA_SUCCESS;
}

static CUresult no_words(CUresult result, const char **text)
{
    (void)result;
    *text = "";
    return CUDA_SUCCESS;
}

static const fex_driver driver = {.cuDeviceGetAttribute = answer,
                                  .cuDeviceGetName = name,
                                  .cuGetErrorName = no_words,
                                  .cuGetErrorString = no_words};

static void ck_about(double value, double expected)
{
    ck_assert_double_gt(value, 0.999 * expected);
    ck_assert_double_lt(value, 1.001 * expected);
}

START_TEST(the_driver_is_asked)
{
    fex_device device = {0};
    answers.major = 9;
    answers.clock = 1000000;
    answers.memory_clock = 2000000;
    answers.bus = 4096;
    test_ok(fex_device_describe(&driver, 3, &device));
    ck_assert_int_eq(device.ordinal, 3);
    ck_assert_str_eq(device.name, "Fake");
    ck_assert_str_eq(device.architecture->name, "sm_90a");
    ck_assert_int_eq(device.multiprocessors, 100);
    ck_assert_int_eq(device.l2_bytes, 1 << 20);
    ck_about(device.clock, 1e9);
    ck_about(device.memory_rate, 2048e9);
    ck_about(device.tensor_rate, 100 * 1e9 * 4096);
    ck_about(device.l2_rate, 100 * 1e9 * 36.7);
}
END_TEST

START_TEST(what_it_does_not_tell_is_typical)
{
    fex_device device = {0}, typical;
    answers.major = 9;
    answers.clock = 0;
    answers.memory_clock = 2000000;
    answers.bus = 0;
    test_ok(fex_device_describe(&driver, 0, &device));
    fex_device_typical(device.architecture, &typical);
    ck_about(device.clock, typical.clock);
    ck_about(device.memory_rate, typical.memory_rate);
    ck_about(device.tensor_rate, typical.tensor_rate * 100 /
                                     typical.multiprocessors);
}
END_TEST

START_TEST(a_driver_that_fails_is_heard)
{
    fex_device device = {0};
    answers.major = 9;
    answers.clock = 1000000;
    answers.memory_clock = 2000000;
    answers.bus = -1;
    ck_assert_int_eq(fex_device_describe(&driver, 0, &device),
                     FEX_ERROR_DRIVER);
    ck_assert_ptr_nonnull(strstr(fex_last_error(), "cuDeviceGetAttribute"));
}
END_TEST

START_TEST(an_unknown_architecture_is_refused)
{
    fex_device device = {0};
    answers.major = 3;
    ck_assert_int_eq(fex_device_describe(&driver, 0, &device),
                     FEX_ERROR_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(fex_last_error(), "Fake"));
}
END_TEST

/* Every architecture has figures of its own. */
START_TEST(every_architecture_has_a_typical_device)
{
    size_t count;
    const fex_architecture *const table = fex_architecture_table(&count);
    for (size_t i = 0; i < count; i++) {
        fex_device device, earlier;
        fex_device_typical(&table[i], &device);
        ck_assert_int_eq(device.ordinal, FEX_DEVICE_NONE);
        ck_assert_ptr_eq(device.architecture, &table[i]);
        ck_assert_int_gt(device.multiprocessors, 0);
        ck_assert_int_gt(device.l2_bytes, 0);
        ck_assert_double_gt(device.clock, 1e9);
        ck_assert_double_gt(device.memory_rate, 1e11);
        ck_assert_double_gt(device.l2_rate, device.memory_rate);
        ck_assert_double_gt(device.tensor_rate, 1e13);
        for (size_t j = 0; j < i; j++) {
            fex_device_typical(&table[j], &earlier);
            ck_assert_str_ne(device.name, earlier.name);
        }
    }
}
END_TEST

START_TEST(a_part_has_its_share)
{
    fex_device whole, part;
    fex_device_typical(fex_architecture_by_name("sm_80"), &whole);
    part = whole;
    fex_device_part(&part, 8);
    ck_assert_int_eq(part.multiprocessors, 13); /* of 108 */
    ck_assert_int_eq(8 * part.l2_bytes, whole.l2_bytes);
    ck_assert_double_eq(part.clock, whole.clock);
    ck_about(8 * part.memory_rate, whole.memory_rate);
    ck_about(part.l2_rate / 13, whole.l2_rate / 108);
    ck_about(part.tensor_rate / 13, whole.tensor_rate / 108);
    fex_device_part(&part, 100);
    ck_assert_int_eq(part.multiprocessors, 1);
}
END_TEST

static void fill(TCase *tests)
{
    tcase_add_test(tests, the_driver_is_asked);
    tcase_add_test(tests, what_it_does_not_tell_is_typical);
    tcase_add_test(tests, a_driver_that_fails_is_heard);
    tcase_add_test(tests, an_unknown_architecture_is_refused);
    tcase_add_test(tests, every_architecture_has_a_typical_device);
    tcase_add_test(tests, a_part_has_its_share);
}

int main(void)
{
    return test_suite_main("figures", fill);
}
