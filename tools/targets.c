/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "targets.h"

#include <stdio.h>
#include <string.h>

#include "environment.h"

/* ---- What is here ------------------------------------------------------- */

static int is_alike(const fex_device *a, const fex_device *b)
{
    return a->architecture == b->architecture &&
           a->multiprocessors == b->multiprocessors &&
           a->l2_bytes == b->l2_bytes && a->clock == b->clock &&
           a->memory_rate == b->memory_rate;
}

/* One that the library does not serve is left out. */
static fex_status add_device(prewarm_targets *t, const fex_driver *driver,
                             int ordinal)
{
    fex_device device = {0};
    CUdevice handle;

    return_if_error(fex_driver_check(
        driver, driver->cuDeviceGet(&handle, ordinal), "cuDeviceGet"));
    const fex_status status = fex_device_describe(driver, handle, &device);
    if (status != FEX_OK)
        return status == FEX_ERROR_UNSUPPORTED ? FEX_OK : status;
    for (size_t i = 0; i < t->device_count; i++)
        if (is_alike(&t->devices[i], &device))
            return FEX_OK;
    if (t->device_count == TARGET_DEVICES_MAX)
        return fex_fail(FEX_ERROR_UNSUPPORTED,
                        "more than %d kinds of devices on one machine",
                        TARGET_DEVICES_MAX);
    t->devices[t->device_count++] = device;
    return FEX_OK;
}

static fex_status add_devices(prewarm_targets *t, const fex_driver *driver)
{
    int count = 0;

    return_if_error(fex_driver_check(
        driver, driver->cuDeviceGetCount(&count), "cuDeviceGetCount"));
    for (int i = 0; i < count; i++)
        return_if_error(add_device(t, driver, i));
    return FEX_OK;
}

/* Asks the driver itself: a context on each device would take seconds. It is in
 * order that there is none, but not that the driver fails: whether all is there
 * that a device needs would not be known. */
fex_status targets_find_devices(prewarm_targets *t)
{
    fex_environment environment;
    fex_driver driver;
    fex_status status;

    return_if_error(fex_environment_read(&environment));
    status = fex_driver_open(environment.libcuda, &driver);
    if (status == FEX_OK) {
        status = add_devices(t, &driver);
        fex_driver_close(&driver);
    } else if (status == FEX_ERROR_NO_DRIVER || status == FEX_ERROR_NO_DEVICE) {
        status = FEX_OK;
    }
    fex_environment_free(&environment);
    return status;
}

/* ---- What is asked for -------------------------------------------------- */

static fex_status add_architecture(prewarm_targets *t, const char *name)
{
    const fex_architecture *architecture;

    return_if_error(fex_architecture_find(name, &architecture));
    for (size_t i = 0; i < t->architecture_count; i++)
        if (t->architectures[i] == architecture->name)
            return FEX_OK;
    if (t->architecture_count == TARGET_ARCHITECTURES_MAX)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "--arch: too many architectures");
    t->architectures[t->architecture_count++] = architecture->name;
    return FEX_OK;
}

fex_status targets_add(prewarm_targets *t, const char *text)
{
    fex_status status = FEX_OK;
    size_t count;

    if (strcmp(text, "all") == 0) {
        const fex_architecture *table = fex_architecture_table(&count);
        for (size_t i = 0; i < count && status == FEX_OK; i++)
            status = add_architecture(t, table[i].name);
        return status;
    }
    while (status == FEX_OK) {
        const size_t width = strcspn(text, ",");
        char name[32];
        snprintf(name, sizeof name, "%.*s", (int)width, text);
        status = add_architecture(t, name);
        if (text[width] == '\0')
            break;
        text += width + 1;
    }
    return status;
}

fex_status targets_add_device_architecture(prewarm_targets *t)
{
    if (t->device_count == 0)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "--arch is missing, and there is no device to take it "
                        "from");
    return add_architecture(t, t->devices[0].architecture->name);
}
