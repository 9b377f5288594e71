/* SPDX-License-Identifier: Apache-2.0 */
/* driver.c - libcuda.so.1, opened at run time. */
#include "config.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "driver.h"

#define DRIVER_LIBRARY "libcuda.so.1"
#define DRIVER_VERSION_MIN 12000 /* cuLaunchKernelEx and all the rest */

/* The symbol of an entry: macros of cuda.h that rename it are expanded. */
#define SYMBOL_OF(name) #name
#define SYMBOL(name) SYMBOL_OF(name)

typedef struct entry {
    const char *symbol;
    size_t offset; /* of the member that gets its address */
} entry;

static const entry entries[] = {
#define DRIVER_ENTRY(name) {SYMBOL(name), offsetof(fex_driver, name)},
    FEX_DRIVER_FUNCTIONS(DRIVER_ENTRY)
#undef DRIVER_ENTRY
};

static fex_status resolve(fex_driver *driver)
{
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        void *const address = dlsym(driver->library, entries[i].symbol);
        if (address == NULL)
            return fex_fail(FEX_ERROR_NO_DRIVER,
                            "%s has no %s: the driver is too old (CUDA %d.%d "
                            "or newer is needed)",
                            driver->path, entries[i].symbol,
                            DRIVER_VERSION_MIN / 1000,
                            DRIVER_VERSION_MIN % 1000 / 10);
        /* POSIX promises that a function's address survives this. */
        memcpy((char *)driver + entries[i].offset, &address, sizeof address);
    }
    return FEX_OK;
}

/* The file behind a library opened by name. */
static void find_path(fex_driver *driver, const char *name)
{
    Dl_info info;
    const void *const symbol = dlsym(driver->library, "cuInit");
    const int known =
        symbol != NULL && dladdr(symbol, &info) != 0 && info.dli_fname != NULL;
    snprintf(driver->path, sizeof driver->path, "%s",
             known ? info.dli_fname : name);
}

static fex_status initialise(fex_driver *driver)
{
    const CUresult result = driver->cuInit(0);
    if (result == CUDA_ERROR_NO_DEVICE || result == CUDA_ERROR_STUB_LIBRARY)
        return fex_fail(FEX_ERROR_NO_DEVICE, "%s sees no CUDA device",
                        driver->path);
    return_if_error(fex_driver_check(driver, result, "cuInit"));
    return fex_driver_check(driver,
                            driver->cuDriverGetVersion(&driver->version),
                            "cuDriverGetVersion");
}

fex_status fex_driver_open(const char *override, fex_driver *driver)
{
    const char *const name = override != NULL ? override : DRIVER_LIBRARY;
    fex_status status;
    *driver = (fex_driver){.library = dlopen(name, RTLD_NOW | RTLD_LOCAL)};
    if (driver->library == NULL)
        return fex_fail(FEX_ERROR_NO_DRIVER,
                        "no NVIDIA driver here (%s); FLASHEXPERT_LIBCUDA "
                        "names %s",
                        dlerror(), override != NULL ? "it" : "another");
    find_path(driver, name);
    status = resolve(driver);
    if (status == FEX_OK)
        status = initialise(driver);
    if (status != FEX_OK)
        fex_driver_close(driver);
    return status;
}

void fex_driver_close(fex_driver *driver)
{
    if (driver->library != NULL)
        dlclose(driver->library);
    *driver = (fex_driver){0};
}

fex_status fex_driver_check(const fex_driver *driver, CUresult result,
                            const char *call)
{
    const char *name = NULL;
    const char *text = NULL;
    if (result == CUDA_SUCCESS)
        return FEX_OK;
    driver->cuGetErrorName(result, &name);
    driver->cuGetErrorString(result, &text);
    return fex_fail(result == CUDA_ERROR_OUT_OF_MEMORY
                        ? FEX_ERROR_DEVICE_OUT_OF_MEMORY
                        : FEX_ERROR_DRIVER,
                    "%s: %s (%s)", call, name != NULL ? name : "unknown error",
                    text != NULL ? text : "no description");
}
