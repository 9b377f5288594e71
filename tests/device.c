/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "device.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- The device ---------------------------------------------------------- */

static void need(fex_status status)
{
    if (status == FEX_OK)
        return;
    const int absent =
        status == FEX_ERROR_NO_DRIVER || status == FEX_ERROR_NO_DEVICE;
    printf("%s: %s\n", absent ? "SKIP: no device" : "cannot open the device",
           fex_last_error());
    exit(absent ? TEST_SKIPPED : EXIT_FAILURE);
}

void test_device_open(test_device *device)
{
    const char *const library = getenv("FLASHEXPERT_LIBCUDA");
    CUdevice ordinal;
    *device = (test_device){.info.size = sizeof device->info};
    need(fex_driver_open(library != NULL && *library != '\0' ? library : NULL,
                         &device->driver));
    need(fex_driver_check(&device->driver,
                          device->driver.cuDeviceGet(&ordinal, 0),
                          "cuDeviceGet"));
    need(fex_driver_check(
        &device->driver,
        device->driver.cuDevicePrimaryCtxRetain(&device->cuda_context, ordinal),
        "cuDevicePrimaryCtxRetain"));
    need(fex_driver_check(&device->driver,
                          device->driver.cuCtxPushCurrent(device->cuda_context),
                          "cuCtxPushCurrent"));
    need(fex_context_create(NULL, &device->context));
    need(fex_context_get_info(device->context, &device->info));
    device->simulated = strcmp(device->info.device_name,
                               "Simulated device") == 0;
}

void test_device_close(test_device *device)
{
    CUcontext popped;
    fex_context_destroy(device->context);
    device->driver.cuCtxPopCurrent(&popped);
    device->driver.cuDevicePrimaryCtxRelease(0);
    fex_driver_close(&device->driver);
}

void test_driver_ok(const test_device *device, CUresult result,
                    const char *call)
{
    ck_assert_msg(fex_driver_check(&device->driver, result, call) == FEX_OK,
                  "%s", fex_last_error());
}

/* ---- Buffers ------------------------------------------------------------- */

enum { GUARD_BYTES = 256, GUARD = 0xa5 };

/* The first zone ends where the data begins, offset included, and the second
 * begins where the data ends, so that one byte too far is seen. */
void test_buffer_create(const test_device *device, size_t bytes, size_t offset,
                        test_buffer *buffer)
{
    TEST_DRIVER(device, cuMemAlloc(&buffer->allocation,
                                   bytes + offset + 2 * GUARD_BYTES));
    const CUdeviceptr start = buffer->allocation + GUARD_BYTES + offset;
    buffer->bytes = bytes;
    buffer->pointer = (void *)(uintptr_t)start;
    TEST_DRIVER(device, cuMemsetD8(buffer->allocation, GUARD,
                                   GUARD_BYTES + offset));
    TEST_DRIVER(device, cuMemsetD8(start + bytes, GUARD, GUARD_BYTES));
    if (bytes > 0)
        TEST_DRIVER(device, cuMemsetD8(start, TEST_POISON, bytes));
}

static void check_guard(const test_device *device, CUdeviceptr start)
{
    unsigned char zone[GUARD_BYTES];
    TEST_DRIVER(device, cuMemcpyDtoH(zone, start, sizeof zone));
    for (size_t i = 0; i < sizeof zone; i++)
        ck_assert_msg(zone[i] == GUARD,
                      "byte %zu of a guard zone was overwritten", i);
}

void test_buffer_check_guards(const test_device *device,
                              const test_buffer *buffer)
{
    const CUdeviceptr start = (CUdeviceptr)(uintptr_t)buffer->pointer;
    check_guard(device, start - GUARD_BYTES);
    check_guard(device, start + buffer->bytes);
}

void test_buffer_destroy(const test_device *device, test_buffer *buffer)
{
    device->driver.cuMemFree(buffer->allocation);
    *buffer = (test_buffer){0};
}

void test_buffer_upload(const test_device *device, const test_buffer *buffer,
                        const void *source)
{
    const CUdeviceptr start = (CUdeviceptr)(uintptr_t)buffer->pointer;
    if (buffer->bytes > 0)
        TEST_DRIVER(device, cuMemcpyHtoD(start, source, buffer->bytes));
}

void test_buffer_download(const test_device *device, const test_buffer *buffer,
                          void *target)
{
    const CUdeviceptr start = (CUdeviceptr)(uintptr_t)buffer->pointer;
    if (buffer->bytes > 0)
        TEST_DRIVER(device, cuMemcpyDtoH(target, start, buffer->bytes));
}
