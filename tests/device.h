/* SPDX-License-Identifier: Apache-2.0 */
/* device.h - the device tests run on, and memory there with guard zones. */
#ifndef TEST_DEVICE_H
#define TEST_DEVICE_H

#include "driver.h"

typedef struct test_device {
    fex_driver driver;
    CUcontext cuda_context; /* current to the thread that opened it */
    fex_context *context;
    fex_context_info info;
    int simulated; /* not a GPU, but tests/simt */
} test_device;

/* What the automatic tests make of a test that cannot be run. */
#define TEST_SKIPPED 77

/* Opens device 0 of the driver that FLASHEXPERT_LIBCUDA names. Where there is
 * none, says so in one line and ends the program with TEST_SKIPPED; any other
 * failure ends it with 1. */
void test_device_open(test_device *device);
void test_device_close(test_device *device);

/* Fails the test unless a driver call succeeded. */
void test_driver_ok(const test_device *device, CUresult result,
                    const char *call);
#define TEST_DRIVER(device, call)                                              \
    test_driver_ok(device, (device)->driver.call, #call)

/* The byte that memory has before anything is written to it; as an element of
 * any type, NaN, and as an index, negative. */
#define TEST_POISON 0xff

/* Device memory between two guard zones, poison unless
 * $FLASHEXPERT_TEST_POISON is 0. */
typedef struct test_buffer {
    CUdeviceptr allocation;
    size_t bytes;
    void *pointer; /* a multiple of 256, plus the offset asked for */
} test_buffer;

void test_buffer_create(const test_device *device, size_t bytes, size_t offset,
                        test_buffer *buffer);
/* Fails the test if anything was written to a guard zone. */
void test_buffer_check_guards(const test_device *device,
                              const test_buffer *buffer);
void test_buffer_destroy(const test_device *device, test_buffer *buffer);

/* Copies all of the buffer; both wait. */
void test_buffer_upload(const test_device *device, const test_buffer *buffer,
                        const void *source);
void test_buffer_download(const test_device *device, const test_buffer *buffer,
                          void *target);

#endif
