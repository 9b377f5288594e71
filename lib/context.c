/* SPDX-License-Identifier: Apache-2.0 */
/* context.c - one device and what serves it, put together and taken apart. */
#include "config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "context.h"

#define CACHE_NAME "flashexpert_rtc"
#define CACHE_MAX_DEFAULT (UINT64_C(1) << 30)
#define READ_ONLY_DEFAULT FEX_PKGDATADIR "/cache"

/* ---- Options ------------------------------------------------------------ */

static const char *either(const char *first, const char *second)
{
    return first != NULL ? first : second;
}

/* The user tier: the option, the variable, or the usual place. NULL where
 * there is no place for it; the caller frees. */
static fex_status find_cache_dir(const fex_environment *environment,
                                 const char *option, char **directory)
{
    const char *const given = either(option, environment->cache_dir);
    int length;
    *directory = NULL;
    if (given != NULL)
        length = asprintf(directory, "%s", given);
    else if (environment->xdg_cache_home != NULL)
        length = asprintf(directory, "%s/" CACHE_NAME,
                          environment->xdg_cache_home);
    else if (environment->home != NULL)
        length = asprintf(directory, "%s/.cache/" CACHE_NAME,
                          environment->home);
    else
        return FEX_OK;
    if (length < 0) {
        *directory = NULL;
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory for a path");
    }
    return FEX_OK;
}

/* "500M": a number of bytes with an optional K, M, G or T. */
static fex_status parse_bytes(const char *text, uint64_t *bytes)
{
    static const char suffixes[] = "KMGT";
    char *end;
    const unsigned long long number = strtoull(text, &end, 10);
    uint64_t scale = 1;
    const char *const suffix =
        *end != '\0' ? strchr(suffixes, *end) : NULL;
    if (suffix != NULL) {
        scale <<= 10 * (suffix - suffixes + 1);
        end++;
    }
    if (*text < '0' || *text > '9' || *end != '\0' ||
        number > UINT64_MAX / scale)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "FLASHEXPERT_CACHE_MAX is \"%s\", not a number of "
                        "bytes such as 500M",
                        text);
    *bytes = number * scale;
    return FEX_OK;
}

static fex_status find_policy(const fex_environment *environment,
                              fex_jit_policy option, fex_jit_policy *policy)
{
    static const char *const names[] = {[FEX_JIT_ALLOW] = "allow",
                                        [FEX_JIT_WARN] = "warn",
                                        [FEX_JIT_FORBID] = "forbid"};
    if ((int)option < FEX_JIT_AUTO || (int)option > FEX_JIT_FORBID)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "jit is %d, not one of FEX_JIT_...", (int)option);
    *policy = option != FEX_JIT_AUTO ? option : FEX_JIT_ALLOW;
    if (option != FEX_JIT_AUTO || environment->jit == NULL)
        return FEX_OK;
    for (int i = FEX_JIT_ALLOW; i <= FEX_JIT_FORBID; i++)
        if (strcmp(environment->jit, names[i]) == 0) {
            *policy = (fex_jit_policy)i;
            return FEX_OK;
        }
    return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                    "FLASHEXPERT_JIT is \"%s\", not allow, warn or forbid",
                    environment->jit);
}

static fex_status find_shared(const fex_environment *environment, int *shared)
{
    const char *const given = environment->cache_shared;
    *shared = given != NULL && strcmp(given, "1") == 0;
    if (given != NULL && !*shared && strcmp(given, "0") != 0)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "FLASHEXPERT_CACHE_SHARED is \"%s\", not 0 or 1",
                        given);
    return FEX_OK;
}

/* ---- Device ------------------------------------------------------------- */

static fex_status find_device(fex_context *context, int ordinal)
{
    const fex_driver *const driver = &context->driver;
    int count;
    if (ordinal == FEX_DEVICE_CURRENT) {
        return_if_error(fex_driver_check(
            driver, driver->cuCtxGetCurrent(&context->cuda_context),
            "cuCtxGetCurrent"));
        if (context->cuda_context == NULL)
            return fex_fail(FEX_ERROR_NO_DEVICE,
                            "the calling thread has no current CUcontext");
        return fex_driver_check(driver,
                                driver->cuCtxGetDevice(&context->cuda_device),
                                "cuCtxGetDevice");
    }
    return_if_error(fex_driver_check(driver, driver->cuDeviceGetCount(&count),
                                     "cuDeviceGetCount"));
    if (ordinal >= count)
        return fex_fail(FEX_ERROR_NO_DEVICE,
                        "device is %d, and there are %d devices", ordinal,
                        count);
    return fex_driver_check(driver,
                            driver->cuDeviceGet(&context->cuda_device, ordinal),
                            "cuDeviceGet");
}

/* Opens the driver and takes hold of the device; nothing is held on failure. */
static fex_status open_device(fex_context *context, int ordinal)
{
    fex_status status;
    if (ordinal == FEX_DEVICE_NONE) {
        context->device.ordinal = FEX_DEVICE_NONE;
        return FEX_OK;
    }
    return_if_error(
        fex_driver_open(context->environment.libcuda, &context->driver));
    status = find_device(context, ordinal);
    if (status != FEX_OK)
        goto fail_device;
    status = fex_device_describe(&context->driver, context->cuda_device,
                                 &context->device);
    if (status != FEX_OK)
        goto fail_device;
    if (context->cuda_context == NULL) {
        status = fex_driver_check(
            &context->driver,
            context->driver.cuDevicePrimaryCtxRetain(&context->cuda_context,
                                                     context->cuda_device),
            "cuDevicePrimaryCtxRetain");
        if (status != FEX_OK)
            goto fail_device;
        context->retained = 1;
    }
    return FEX_OK;

fail_device:
    fex_driver_close(&context->driver);
    return status;
}

static void close_device(fex_context *context)
{
    if (context->retained)
        context->driver.cuDevicePrimaryCtxRelease(context->cuda_device);
    fex_driver_close(&context->driver);
}

/* ---- Creating and destroying -------------------------------------------- */

static fex_status open_compiler(fex_context *context)
{
    const fex_environment *const environment = &context->environment;
    const fex_compiler_options options = {
        .library = environment->libnvrtc,
        .cuda_home = environment->cuda_home,
        .virtual_env = environment->virtual_env};
    return fex_compiler_create(&options, &context->log, &context->compiler);
}

static fex_status open_store(fex_context *context,
                             const fex_context_options *options)
{
    const fex_environment *const environment = &context->environment;
    const char *const given = either(options->cache_path,
                                     environment->cache_path);
    char *user_dir;
    int shared;
    uint64_t max_bytes = CACHE_MAX_DEFAULT;
    return_if_error(find_shared(environment, &shared));
    if (environment->cache_max != NULL)
        return_if_error(parse_bytes(environment->cache_max, &max_bytes));
    return_if_error(
        find_cache_dir(environment, options->cache_dir, &user_dir));
    const fex_store_options store = {
        .user_dir = user_dir,
        .read_only_path = either(given, READ_ONLY_DEFAULT),
        .named_by = options->cache_path != NULL ? "the option cache_path"
                    : given != NULL             ? "FLASHEXPERT_CACHE_PATH"
                                                : NULL,
        .max_bytes = max_bytes,
        .shared = shared,
        .log = &context->log};
    const fex_status status = fex_store_create(&store, &context->store);
    free(user_dir);
    return status;
}

static fex_status open_loader(fex_context *context, fex_jit_policy policy)
{
    const int device = context->device.ordinal != FEX_DEVICE_NONE;
    const fex_loader_options options = {
        .driver = device ? &context->driver : NULL,
        .cuda_context = context->cuda_context,
        .compiler = context->compiler,
        .store = context->store,
        .sources = &context->sources,
        .log = &context->log,
        .policy = policy};
    return fex_loader_create(&options, &context->loader);
}

/* Fills a zeroed context; what it holds on failure, nobody does. */
static fex_status open_context(fex_context *context,
                               const fex_context_options *options)
{
    fex_jit_policy policy;
    fex_status status;
    context->owner = getpid();
    return_if_error(fex_environment_read(&context->environment));
    status = fex_log_init(&context->log, options->log, options->log_user,
                          context->environment.log);
    if (status != FEX_OK)
        goto fail_log;
    status = find_policy(&context->environment, options->jit, &policy);
    if (status != FEX_OK)
        goto fail_policy;
    status = open_device(context, options->device);
    if (status != FEX_OK)
        goto fail_device;
    status = fex_sources_open(
        either(options->kernel_dir, context->environment.kernel_dir),
        &context->sources);
    if (status != FEX_OK)
        goto fail_sources;
    status = open_compiler(context);
    if (status != FEX_OK)
        goto fail_compiler;
    status = open_store(context, options);
    if (status != FEX_OK)
        goto fail_store;
    status = open_loader(context, policy);
    if (status != FEX_OK)
        goto fail_loader;
    return FEX_OK;

fail_loader:
    fex_store_destroy(context->store);
fail_store:
    fex_compiler_destroy(context->compiler);
fail_compiler:
    fex_sources_close(&context->sources);
fail_sources:
    close_device(context);
fail_device:
fail_policy:
fail_log:
    fex_environment_free(&context->environment);
    return status;
}

fex_status fex_context_create(const fex_context_options *options,
                              fex_context **context)
{
    const fex_context_options defaults = {.size = sizeof defaults};
    if (context == NULL)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT, "context is NULL");
    if (options == NULL)
        options = &defaults;
    return_if_error(fex_check_size(options, options->size, sizeof *options,
                                   sizeof *options, "fex_context_options"));
    if (options->device < FEX_DEVICE_NONE)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "device is %d, neither an ordinal nor one of "
                        "FEX_DEVICE_...",
                        options->device);

    fex_context *const made = calloc(1, sizeof *made);
    if (made == NULL)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory for a context");
    const fex_status status = open_context(made, options);
    if (status != FEX_OK) {
        free(made);
        return status;
    }
    *context = made;
    return FEX_OK;
}

void fex_context_destroy(fex_context *context)
{
    if (context == NULL)
        return;
    const int ours = context->owner == getpid();
    int pushed = 0;
    /* Modules are unloaded from the context they were loaded into. A driver
     * that refuses is going away, and they with it. */
    const int entered =
        ours && context->device.ordinal != FEX_DEVICE_NONE &&
        fex_context_enter(context, &pushed) == FEX_OK;
    fex_loader_destroy(context->loader, entered);
    if (entered)
        fex_context_leave(context, pushed);
    fex_store_destroy(context->store);
    fex_compiler_destroy(context->compiler);
    fex_sources_close(&context->sources);
    if (ours)
        close_device(context);
    fex_environment_free(&context->environment);
    free(context);
}

/* ---- Using -------------------------------------------------------------- */

fex_status fex_context_check(const fex_context *context)
{
    if (context == NULL)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT, "context is NULL");
    if (context->owner != getpid())
        return fex_fail(FEX_ERROR_FORKED,
                        "the context was created by process %ld",
                        (long)context->owner);
    return FEX_OK;
}

fex_status fex_context_enter(const fex_context *context, int *pushed)
{
    const fex_driver *const driver = &context->driver;
    CUcontext current = NULL;
    *pushed = 0;
    return_if_error(fex_driver_check(
        driver, driver->cuCtxGetCurrent(&current), "cuCtxGetCurrent"));
    if (current == context->cuda_context)
        return FEX_OK;
    return_if_error(fex_driver_check(
        driver, driver->cuCtxPushCurrent(context->cuda_context),
        "cuCtxPushCurrent"));
    *pushed = 1;
    return FEX_OK;
}

void fex_context_leave(const fex_context *context, int pushed)
{
    CUcontext popped;
    if (pushed)
        context->driver.cuCtxPopCurrent(&popped);
}

fex_status fex_context_get_info(fex_context *context, fex_context_info *info)
{
    return_if_error(fex_context_check(context));
    if (info == NULL)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT, "info is NULL");
    return_if_error(fex_check_size(info, info->size, sizeof *info,
                                   sizeof *info, "fex_context_info"));
    const fex_device *const device = &context->device;
    fex_context_info found = {.size = info->size,
                              .device = device->ordinal,
                              .multiprocessors = device->multiprocessors,
                              .l2_bytes = device->l2_bytes,
                              .driver_version = context->driver.version};
    snprintf(found.device_name, sizeof found.device_name, "%s", device->name);
    if (device->architecture != NULL)
        snprintf(found.architecture, sizeof found.architecture, "%s",
                 device->architecture->name);
    snprintf(found.driver_library, sizeof found.driver_library, "%s",
             context->driver.path);
    fex_compiler_info(context->compiler, found.compiler_library,
                   sizeof found.compiler_library, &found.compiler_version);
    fex_store_paths(context->store, found.cache_dir, sizeof found.cache_dir,
                    found.cache_path, sizeof found.cache_path);
    snprintf(found.kernel_digest, sizeof found.kernel_digest, "%s",
             context->sources.digest);
    *info = found;
    return FEX_OK;
}

fex_status fex_context_get_stats(fex_context *context,
                                 fex_context_stats *stats)
{
    return_if_error(fex_context_check(context));
    if (stats == NULL)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT, "stats is NULL");
    return_if_error(fex_check_size(stats, stats->size, sizeof *stats,
                                   sizeof *stats, "fex_context_stats"));
    fex_loader_get_stats(context->loader, stats);
    return FEX_OK;
}

fex_status fex_jit_monitor(fex_context *context, fex_jit_function function,
                           void *user)
{
    return_if_error(fex_context_check(context));
    fex_loader_monitor(context->loader, function, user);
    return FEX_OK;
}
