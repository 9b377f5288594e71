/* SPDX-License-Identifier: Apache-2.0 */
/* command_info.c - what the library finds on this machine. */
#include "config.h"

#include "architecture.h"
#include "cache_tiers.h"
#include "commands.h"
#include "driver.h"
#include "environment.h"
#include "report.h"

static const tool_option options[] = {{.name = NULL}};

/* ---- The driver and its devices ----------------------------------------- */

static int attribute(const fex_driver *driver, CUdevice device,
                     CUdevice_attribute which)
{
    int value = 0;
    driver->cuDeviceGetAttribute(&value, which, device);
    return value;
}

static json_t *describe_device(const fex_driver *driver, int ordinal)
{
    CUdevice device;
    char name[128] = "";

    if (driver->cuDeviceGet(&device, ordinal) != CUDA_SUCCESS)
        return json_pack("{s:i, s:s}", "ordinal", ordinal, "name", "unusable");
    driver->cuDeviceGetName(name, (int)sizeof name, device);
    const int major =
        attribute(driver, device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
    const int minor =
        attribute(driver, device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
    const fex_architecture *architecture =
        fex_architecture_of_device(major, minor);
    return json_pack(
        "{s:i, s:s, s:[i, i], s:s?, s:i, s:i}", "ordinal", ordinal, "name",
        name, "compute_capability", major, minor, "architecture",
        architecture != NULL ? architecture->name : NULL, "multiprocessors",
        attribute(driver, device, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT),
        "l2_bytes",
        attribute(driver, device, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE));
}

/* Asks the driver itself: a context on each device would take seconds. */
static void add_driver(json_t *info, const fex_environment *environment)
{
    json_t *devices = json_array();
    fex_driver driver;
    int count = 0;

    json_object_set_new(info, "devices", devices);
    if (fex_driver_open(environment->libcuda, &driver) != FEX_OK) {
        json_object_set_new(info, "driver",
                            json_pack("{s:s}", "missing", fex_last_error()));
        return;
    }
    json_object_set_new(info, "driver",
                        json_pack("{s:i, s:s}", "version", driver.version,
                                  "library", driver.path));
    driver.cuDeviceGetCount(&count);
    for (int i = 0; i < count; i++)
        json_array_append_new(devices, describe_device(&driver, i));
    fex_driver_close(&driver);
}

/* ---- What a context knows without a device ------------------------------ */

static json_t *describe_compiler(fex_context *context)
{
    char path[512];
    int version;
    const fex_status status =
        fex_compiler_info(context->compiler, path, sizeof path, &version);

    return json_pack("{s:i, s:s, s:s*}", "version", version, "library", path,
                     "missing", status != FEX_OK ? fex_last_error() : NULL);
}

static fex_status add_context(json_t *object)
{
    const fex_context_options none = {.size = sizeof none,
                                      .device = FEX_DEVICE_NONE};
    fex_context_info info = {.size = sizeof info};
    fex_context *context;

    return_if_error(fex_context_create(&none, &context));
    const fex_status status = fex_context_get_info(context, &info);
    if (status == FEX_OK) {
        json_object_set_new(object, "kernel_digest",
                            json_string(info.kernel_digest));
        json_object_set_new(object, "compiler", describe_compiler(context));
        json_object_set_new(object, "cache_dir", json_string(info.cache_dir));
        json_object_set_new(object, "cache_path", json_string(info.cache_path));
        json_object_set_new(object, "tiers", cache_tiers_describe(context));
    }
    fex_context_destroy(context);
    return status;
}

static json_t *describe_environment(const fex_environment *environment)
{
    json_t *object = json_object();
#define ADD_VARIABLE(field, variable, meaning)                                 \
    json_object_set_new(object, variable,                                      \
                        environment->field != NULL                             \
                            ? json_string(environment->field)                  \
                            : json_null());
    FEX_ENVIRONMENT_MAP(ADD_VARIABLE)
#undef ADD_VARIABLE
    return object;
}

/* ---- Printing ----------------------------------------------------------- */

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text != NULL ? text : "";
}

static int number_of(const json_t *object, const char *name)
{
    return (int)json_integer_value(json_object_get(object, name));
}

/* "13.0  /usr/lib/libnvrtc.so.13" */
static void print_library(const char *label, const json_t *library)
{
    char version[REPORT_VERSION_MAX];
    report_format_version(number_of(library, "version"), version);
    printf("%-18s%s  %s%s\n", label, version, text_of(library, "library"),
           text_of(library, "missing"));
}

static void print_devices(const json_t *devices)
{
    size_t i;
    json_t *device;

    if (json_array_size(devices) == 0)
        printf("%-18snone\n", "devices");
    json_array_foreach(devices, i, device)
    {
        char l2[REPORT_BYTES_MAX];
        const char *architecture = text_of(device, "architecture");
        report_format_bytes(number_of(device, "l2_bytes"), l2);
        printf("device %-11d%s, %s, %d multiprocessors, L2 %s\n",
               number_of(device, "ordinal"), text_of(device, "name"),
               architecture[0] != '\0' ? architecture : "not supported",
               number_of(device, "multiprocessors"), l2);
    }
}

/* Variables that are set, and a line for each that is not. */
static void print_environment(const json_t *environment)
{
    puts("\nenvironment");
#define PRINT_VARIABLE(field, variable, meaning)                               \
    printf("  %-26s%s%s\n", variable,                                          \
           json_is_string(json_object_get(environment, variable))              \
               ? text_of(environment, variable)                                \
               : "unset: ",                                                    \
           json_is_string(json_object_get(environment, variable)) ? ""         \
                                                                  : meaning);
    FEX_ENVIRONMENT_MAP(PRINT_VARIABLE)
#undef PRINT_VARIABLE
}

/* The tiers of the user, or the others, one a line. */
static void print_tiers(const char *label, const json_t *tiers, int user)
{
    size_t i;
    json_t *tier;
    int printed = 0;

    json_array_foreach(tiers, i, tier)
    {
        char mark[CACHE_TIER_MARK_MAX];
        if (json_is_true(json_object_get(tier, "user")) != user)
            continue;
        cache_tiers_mark(tier, mark);
        printf("%-18s%s%s\n", printed ? "" : label, text_of(tier, "path"),
               mark);
        printed = 1;
    }
    if (!printed)
        printf("%-18snone\n", label);
}

static void print_info(const json_t *info)
{
    const json_t *tiers = json_object_get(info, "tiers");

    printf("%-18s%s\n", "flashexpert", text_of(info, "version"));
    printf("%-18s%s\n", "kernel sources", text_of(info, "kernel_digest"));
    print_library("driver", json_object_get(info, "driver"));
    print_devices(json_object_get(info, "devices"));
    print_library("NVRTC", json_object_get(info, "compiler"));
    print_tiers("cache", tiers, 1);
    print_tiers("read-only tiers", tiers, 0);
    print_environment(json_object_get(info, "environment"));
}

static int run(const tool_command *command, const void *settings)
{
    const tool_settings *common = settings;
    fex_environment environment;
    fex_status status = fex_environment_read(&environment);
    if (status != FEX_OK)
        return report_status(command, status);

    json_t *info = json_pack("{s:s}", "version", fex_version());
    json_object_set_new(info, "environment",
                        describe_environment(&environment));
    add_driver(info, &environment);
    fex_environment_free(&environment);
    status = add_context(info);
    if (status != FEX_OK) {
        json_decref(info);
        return report_status(command, status);
    }
    if (common->json)
        return report_json(command, info, TOOL_DONE);
    print_info(info);
    json_decref(info);
    return TOOL_DONE;
}

const tool_command command_info = {
    .name = "info",
    .summary = "Show versions, devices, compiler, cache and environment",
    .options = options,
    .settings_size = sizeof(tool_settings),
    .run = run,
};
