/* SPDX-License-Identifier: Apache-2.0 */
/* figures.c - figures of devices: of one there is, and of typical ones. */
#include "config.h"

#include <stdio.h>

#include "figures.h"

/* One device of each architecture, from its data sheet. What L2 yields is as
 * measured with rows read at random on the H200, and set by what others report
 * of theirs where that is known. */
typedef struct typical {
    int major, minor;
    const char *name;
    int multiprocessors;
    int l2_mib;
    double clock;        /* 1/s */
    double memory_rate;  /* bytes/s */
    double l2_clock;     /* bytes of L2 a multiprocessor gets in one clock */
    double tensor_clock; /* and 16-bit operations it does */
} typical;

static const typical table[] = {
    {7, 5, "T4", 40, 4, 1.59e9, 320e9, 20, 1024},
    {8, 0, "A100", 108, 40, 1.41e9, 2039e9, 30, 2048},
    {8, 6, "RTX A6000", 84, 6, 1.80e9, 768e9, 18, 1024},
    {8, 7, "Jetson AGX Orin", 16, 4, 1.30e9, 205e9, 18, 2048},
    {8, 9, "L40S", 142, 96, 2.52e9, 864e9, 15, 1024},
    {9, 0, "H200", 132, 60, 1.98e9, 4815e9, 36.7, 4096},
    {10, 0, "B200", 148, 126, 1.97e9, 8000e9, 36.7, 8192},
    {10, 3, "B300", 148, 126, 1.97e9, 8000e9, 36.7, 8192},
    {11, 0, "Jetson Thor", 20, 32, 1.57e9, 273e9, 36.7, 8192},
    {12, 0, "RTX PRO 6000", 188, 128, 2.60e9, 1792e9, 18, 1024},
    {12, 1, "GB10", 48, 24, 2.42e9, 273e9, 18, 1024},
};
#define COUNT (sizeof table / sizeof *table)

static const typical *typical_of(const fex_architecture *architecture)
{
    const typical *found = &table[COUNT - 1];
    for (size_t i = 0; i < COUNT; i++)
        if (table[i].major == architecture->major &&
            table[i].minor == architecture->minor)
            found = &table[i];
    return found;
}

void fex_device_typical(const fex_architecture *architecture,
                        fex_device *device)
{
    const typical *const of = typical_of(architecture);
    *device = (fex_device){.ordinal = FEX_DEVICE_NONE,
                           .architecture = architecture,
                           .multiprocessors = of->multiprocessors,
                           .l2_bytes = (int64_t)of->l2_mib << 20,
                           .clock = of->clock,
                           .memory_rate = of->memory_rate,
                           .l2_rate = of->multiprocessors * of->clock *
                                      of->l2_clock,
                           .tensor_rate = of->multiprocessors * of->clock *
                                          of->tensor_clock};
    snprintf(device->name, sizeof device->name, "%s", of->name);
}

void fex_device_part(fex_device *device, int parts)
{
    const int whole = device->multiprocessors;
    device->multiprocessors = whole > parts ? whole / parts : 1;
    const double share = (double)device->multiprocessors / whole;
    device->l2_rate *= share;
    device->tensor_rate *= share;
    device->l2_bytes /= parts;
    device->memory_rate /= parts;
}

/* ---- Asking ------------------------------------------------------------- */

static fex_status get_attribute(const fex_driver *driver, CUdevice cuda_device,
                                CUdevice_attribute attribute, int *value)
{
    return fex_driver_check(
        driver, driver->cuDeviceGetAttribute(value, attribute, cuda_device),
        "cuDeviceGetAttribute");
}

/* Not every driver tells of clocks and buses; 0 for what this one does not. */
static fex_status get_figure(const fex_driver *driver, CUdevice cuda_device,
                             CUdevice_attribute attribute, double *figure)
{
    int value = 0;
    const CUresult result =
        driver->cuDeviceGetAttribute(&value, attribute, cuda_device);
    if (result != CUDA_ERROR_INVALID_VALUE &&
        result != CUDA_ERROR_NOT_SUPPORTED)
        return_if_error(
            fex_driver_check(driver, result, "cuDeviceGetAttribute"));
    *figure = value > 0 ? value : 0;
    return FEX_OK;
}

/* Clocks are in kHz, the bus is in bits, and brings two of each in a clock. */
static fex_status ask_rates(const fex_driver *driver, CUdevice cuda_device,
                            fex_device *device)
{
    const typical *const of = typical_of(device->architecture);
    double clock, memory_clock, bus;
    return_if_error(get_figure(driver, cuda_device,
                               CU_DEVICE_ATTRIBUTE_CLOCK_RATE, &clock));
    return_if_error(get_figure(driver, cuda_device,
                               CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE,
                               &memory_clock));
    return_if_error(get_figure(driver, cuda_device,
                               CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH,
                               &bus));
    const double memory = 1e3 * memory_clock * bus * 2 / 8;
    device->clock = clock > 0 ? 1e3 * clock : of->clock;
    device->memory_rate = memory > 0 ? memory : of->memory_rate;
    device->l2_rate = device->multiprocessors * device->clock * of->l2_clock;
    device->tensor_rate =
        device->multiprocessors * device->clock * of->tensor_clock;
    return FEX_OK;
}

fex_status fex_device_describe(const fex_driver *driver, CUdevice cuda_device,
                               fex_device *device)
{
    int major, minor, l2_bytes;
    device->ordinal = (int)cuda_device;
    return_if_error(fex_driver_check(
        driver,
        driver->cuDeviceGetName(device->name, sizeof device->name, cuda_device),
        "cuDeviceGetName"));
    return_if_error(get_attribute(driver, cuda_device,
                                  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                                  &major));
    return_if_error(get_attribute(driver, cuda_device,
                                  CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
                                  &minor));
    return_if_error(get_attribute(driver, cuda_device,
                                  CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
                                  &device->multiprocessors));
    return_if_error(get_attribute(driver, cuda_device,
                                  CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE,
                                  &l2_bytes));
    device->l2_bytes = l2_bytes;
    device->architecture = fex_architecture_of_device(major, minor);
    if (device->architecture == NULL)
        return fex_fail(FEX_ERROR_UNSUPPORTED,
                        "%s has compute capability %d.%d, which this version "
                        "does not compile for",
                        device->name, major, minor);
    return ask_rates(driver, cuda_device, device);
}
