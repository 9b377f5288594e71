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

/* As an element of any type the guard is huge or no number at all, so that what
 * is read there shows too. */
enum { GUARD_BYTES = 256, GUARD = 0xfe };

/* The simulated device has better zones of its own, which ours would hide. */
static size_t guard_bytes(const test_device *device)
{
    return device->simulated ? 0 : GUARD_BYTES;
}

/* Memory that was filled counts as initialised: a tool that looks for reads of
 * what was not does better without. */
static int wants_poison(void)
{
    const char *const poison = getenv("FLASHEXPERT_TEST_POISON");
    return poison == NULL || strcmp(poison, "0") != 0;
}

/* The first zone ends where the data begins, offset included, and the second
 * begins where the data ends, so that one byte too far is seen. */
void test_buffer_create(const test_device *device, size_t bytes, size_t offset,
                        test_buffer *buffer)
{
    const size_t guard = guard_bytes(device);
    const size_t total = guard + offset + bytes + guard;
    /* There is no allocation of nothing. */
    TEST_DRIVER(device,
                cuMemAlloc(&buffer->allocation, total > 0 ? total : 1));
    const CUdeviceptr start = buffer->allocation + guard + offset;
    buffer->bytes = bytes;
    buffer->pointer = (void *)(uintptr_t)start;
    TEST_DRIVER(device,
                cuMemsetD8(buffer->allocation, GUARD, guard + offset));
    TEST_DRIVER(device, cuMemsetD8(start + bytes, GUARD, guard));
    if (bytes > 0 && wants_poison())
        TEST_DRIVER(device, cuMemsetD8(start, TEST_POISON, bytes));
    TEST_DRIVER(device, cuCtxSynchronize());
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
    if (guard_bytes(device) == 0)
        return;
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
    /* The copy may return before it is done, and not every stream waits. */
    TEST_DRIVER(device, cuCtxSynchronize());
}

void test_buffer_download(const test_device *device, const test_buffer *buffer,
                          void *target)
{
    const CUdeviceptr start = (CUdeviceptr)(uintptr_t)buffer->pointer;
    if (buffer->bytes > 0)
        TEST_DRIVER(device, cuMemcpyDtoH(target, start, buffer->bytes));
}
