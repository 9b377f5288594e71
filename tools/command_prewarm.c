/* SPDX-License-Identifier: Apache-2.0 */
/* command_prewarm.c - every kernel that given shapes need, brought into the
 * cache before anybody waits for it.
 *
 * First all shapes are looked up, which compiles nothing: that is what --check
 * reports, and it tells which jobs are left for the workers. */
#include "config.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "architecture.h"
#include "commands.h"
#include "environment.h"
#include "figures.h"
#include "kernel_set.h"
#include "report.h"
#include "workers.h"

typedef struct prewarm_settings {
    tool_settings common;
    tool_texts shapes;
    tool_texts shape_files;
    tool_texts architectures;
    int64_t jobs;
    int check;
    int refresh;
} prewarm_settings;

enum { DEVICES_MAX = 16 };

typedef struct prewarm {
    const tool_command *command;
    const prewarm_settings *settings;
    tool_shapes shapes;
    fex_device devices[DEVICES_MAX]; /* this machine's, of each kind one */
    size_t device_count;
    const char *architectures[64];
    size_t architecture_count;
    worker_job *jobs; /* those that have something to do */
    size_t job_count;
    kernel_set kernels;
    report_progress progress;
    int needed; /* the job looked at has a kernel that no job before has */
    fex_status status; /* of a callback */
    json_t *errors;
} prewarm;

/* ---- What is here ------------------------------------------------------- */

static int is_alike(const fex_device *a, const fex_device *b)
{
    return a->architecture == b->architecture &&
           a->multiprocessors == b->multiprocessors &&
           a->l2_bytes == b->l2_bytes && a->clock == b->clock &&
           a->memory_rate == b->memory_rate;
}

/* One that the library does not serve is left out. */
static fex_status add_device(prewarm *p, const fex_driver *driver, int ordinal)
{
    fex_device device = {0};
    CUdevice handle;

    return_if_error(fex_driver_check(
        driver, driver->cuDeviceGet(&handle, ordinal), "cuDeviceGet"));
    const fex_status status = fex_device_describe(driver, handle, &device);
    if (status != FEX_OK)
        return status == FEX_ERROR_UNSUPPORTED ? FEX_OK : status;
    for (size_t i = 0; i < p->device_count; i++)
        if (is_alike(&p->devices[i], &device))
            return FEX_OK;
    if (p->device_count == DEVICES_MAX)
        return fex_fail(FEX_ERROR_UNSUPPORTED,
                        "more than %d kinds of devices on one machine",
                        DEVICES_MAX);
    p->devices[p->device_count++] = device;
    return FEX_OK;
}

static fex_status add_devices(prewarm *p, const fex_driver *driver)
{
    int count = 0;

    return_if_error(fex_driver_check(
        driver, driver->cuDeviceGetCount(&count), "cuDeviceGetCount"));
    for (int i = 0; i < count; i++)
        return_if_error(add_device(p, driver, i));
    return FEX_OK;
}

/* Asks the driver itself: a context on each device would take seconds. It is in
 * order that there is none, but not that the driver fails: whether all is there
 * that a device needs would not be known. */
static fex_status find_devices(prewarm *p)
{
    fex_environment environment;
    fex_driver driver;
    fex_status status;

    return_if_error(fex_environment_read(&environment));
    status = fex_driver_open(environment.libcuda, &driver);
    if (status == FEX_OK) {
        status = add_devices(p, &driver);
        fex_driver_close(&driver);
    } else if (status == FEX_ERROR_NO_DRIVER || status == FEX_ERROR_NO_DEVICE) {
        status = FEX_OK;
    }
    fex_environment_free(&environment);
    return status;
}

/* ---- What is asked for -------------------------------------------------- */

static fex_status add_architecture(prewarm *p, const char *name)
{
    const fex_architecture *architecture;

    return_if_error(fex_architecture_find(name, &architecture));
    for (size_t i = 0; i < p->architecture_count; i++)
        if (p->architectures[i] == architecture->name)
            return FEX_OK;
    if (p->architecture_count ==
        sizeof p->architectures / sizeof p->architectures[0])
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "--arch: too many architectures");
    p->architectures[p->architecture_count++] = architecture->name;
    return FEX_OK;
}

/* "sm_80,sm_90a" or "all" */
static fex_status add_architectures(prewarm *p, const char *text)
{
    fex_status status = FEX_OK;
    size_t count;

    if (strcmp(text, "all") == 0) {
        const fex_architecture *table = fex_architecture_table(&count);
        for (size_t i = 0; i < count && status == FEX_OK; i++)
            status = add_architecture(p, table[i].name);
        return status;
    }
    while (status == FEX_OK) {
        const size_t width = strcspn(text, ",");
        char name[32];
        snprintf(name, sizeof name, "%.*s", (int)width, text);
        status = add_architecture(p, name);
        if (text[width] == '\0')
            break;
        text += width + 1;
    }
    return status;
}

/* Without --arch: that of the device of this machine. */
static fex_status add_device_architecture(prewarm *p)
{
    if (p->device_count == 0)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "--arch is missing, and there is no device to take it "
                        "from");
    return add_architecture(p, p->devices[0].architecture->name);
}

static fex_status read_settings(prewarm *p)
{
    const prewarm_settings *settings = p->settings;

    if (settings->check && settings->refresh)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "--check and --refresh exclude each other");
    return_if_error(shape_list_add_all(&p->shapes, &settings->shapes,
                                       &settings->shape_files));
    return_if_error(find_devices(p));
    for (size_t i = 0; i < settings->architectures.count; i++)
        return_if_error(add_architectures(p, settings->architectures.items[i]));
    return p->architecture_count > 0 ? FEX_OK : add_device_architecture(p);
}

/* ---- Looking, without compiling ----------------------------------------- */

/* fex_prewarm_function: notes a kernel, and whether it is news. */
static void note_kernel(void *user, fex_prewarm_outcome outcome,
                        const char *words)
{
    prewarm *p = user;
    size_t position;
    int added = 0;
    const fex_status status =
        kernel_set_put(&p->kernels, words, outcome, &position, &added);

    if (status != FEX_OK)
        p->status = status;
    if (added && (outcome != FEX_PREWARM_HIT || p->settings->refresh))
        p->needed = 1;
}

static fex_status look_at(prewarm *p, fex_context *context,
                          const worker_job *job)
{
    p->needed = 0;
    const fex_status status =
        worker_prewarm(context, job, FEX_PREWARM_CHECK, note_kernel, p);
    if (status != FEX_OK && status != FEX_ERROR_JIT_FORBIDDEN)
        return status;
    if (p->needed)
        p->jobs[p->job_count++] = *job;
    return p->status;
}

/* Looks at a job for each device here that is of its architecture, or without
 * one. */
static fex_status look_for_devices(prewarm *p, fex_context *context,
                                   worker_job job)
{
    fex_status status = FEX_OK;

    for (size_t i = 0; i < p->device_count && status == FEX_OK; i++)
        if (strcmp(p->devices[i].architecture->name, job.architecture) == 0) {
            job.device = &p->devices[i];
            status = look_at(p, context, &job);
        }
    return job.device == NULL ? look_at(p, context, &job) : status;
}

/* Looks at every shape, pass and architecture. */
static fex_status look_at_all(prewarm *p)
{
    static const fex_pass passes[] = {FEX_PASS_FORWARD, FEX_PASS_BACKWARD};
    const fex_context_options none = {.size = sizeof none,
                                      .device = FEX_DEVICE_NONE};
    fex_context *context;
    fex_status status;

    p->jobs = calloc(2 * p->shapes.count *
                         (p->architecture_count + p->device_count),
                     sizeof *p->jobs);
    if (p->jobs == NULL)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "out of memory");
    return_if_error(fex_context_create(&none, &context));
    status = FEX_OK;
    for (size_t a = 0; a < p->architecture_count; a++)
        for (size_t s = 0; s < p->shapes.count; s++)
            for (size_t i = 0; i < 2 && status == FEX_OK; i++) {
                const worker_job job = {&p->shapes.items[s], passes[i],
                                        p->architectures[a], NULL};
                if (job.shape->passes & passes[i])
                    status = look_for_devices(p, context, job);
            }
    fex_context_destroy(context);
    return status;
}

/* ---- Compiling ---------------------------------------------------------- */

static const char *outcome_name(fex_prewarm_outcome outcome)
{
    switch (outcome) {
    case FEX_PREWARM_HIT:
        return "hit";
    case FEX_PREWARM_COMPILED:
        return "compiled";
    case FEX_PREWARM_MISSING:
        return "missing";
    case FEX_PREWARM_FAILED:
        return "failed";
    }
    return "?";
}

/* worker_function: what became of a kernel. The first report that is no plain
 * find is the one that counts. */
static void note_outcome(void *user, fex_prewarm_outcome outcome,
                         const char *text)
{
    prewarm *p = user;
    char line[1024];
    size_t position;
    int added;

    if (outcome == 0) {
        snprintf(line, sizeof line, "flashexpert: %s: %s", p->command->name,
                 text);
        report_progress_step(&p->progress, 0, line, 1);
        json_array_append_new(p->errors, json_string(text));
        return;
    }
    if (kernel_set_put(&p->kernels, text, outcome, &position, &added) != FEX_OK)
        return;
    kernel_entry *entry = &p->kernels.entries[position];
    const int news = !entry->reported;
    entry->reported = 1;
    if (news || entry->outcome == FEX_PREWARM_HIT)
        entry->outcome = outcome;
    snprintf(line, sizeof line, "%-9s%s", outcome_name(outcome), text);
    if (news)
        report_progress_step(&p->progress, 1, line,
                             outcome == FEX_PREWARM_FAILED);
}

/* How many kernels the workers will report. */
static uint64_t expected(const prewarm *p)
{
    const fex_prewarm_counts counts = kernel_set_count(&p->kernels);
    return p->settings->refresh ? counts.requested : counts.missing;
}

static fex_status compile(prewarm *p)
{
    const long processors = sysconf(_SC_NPROCESSORS_ONLN);
    const size_t workers = p->settings->jobs > 0 ? (size_t)p->settings->jobs
                           : processors > 0      ? (size_t)processors
                                                 : 1;
    const unsigned flags = p->settings->refresh ? FEX_PREWARM_REFRESH : 0;

    report_progress_start(&p->progress, expected(p), "kernels");
    const fex_status status =
        workers_run(p->jobs, p->job_count, workers, flags, note_outcome, p);
    report_progress_end(&p->progress);
    return status;
}

/* ---- The report --------------------------------------------------------- */

static json_t *names_of(const prewarm *p, fex_prewarm_outcome outcome)
{
    json_t *names = json_array();
    for (size_t i = 0; i < p->kernels.count; i++)
        if (p->kernels.entries[i].outcome == outcome)
            json_array_append_new(names,
                                  json_string(p->kernels.entries[i].words));
    return names;
}

static int report(prewarm *p, double seconds)
{
    const fex_prewarm_counts counts = kernel_set_count(&p->kernels);
    const int code =
        counts.missing + counts.failed > 0 || json_array_size(p->errors) > 0
            ? TOOL_FAILED
            : TOOL_DONE;

    if (p->settings->common.json) {
        json_t *object = json_pack(
            "{s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:O}", "requested",
            (json_int_t)counts.requested, "compiled",
            (json_int_t)counts.compiled, "hit", (json_int_t)counts.hit,
            "missing", (json_int_t)counts.missing, "failed",
            (json_int_t)counts.failed, "missing_kernels",
            names_of(p, FEX_PREWARM_MISSING), "failed_kernels",
            names_of(p, FEX_PREWARM_FAILED), "errors", p->errors);
        if (object != NULL)
            report_set_number(object, "seconds", seconds);
        return report_json(p->command, object, code);
    }
    for (size_t i = 0; i < p->kernels.count; i++)
        if (p->kernels.entries[i].outcome == FEX_PREWARM_MISSING)
            printf("missing  %s\n", p->kernels.entries[i].words);
    printf("%llu kernels: %llu compiled, %llu found, %llu missing, %llu "
           "failed; %.1f s\n",
           (unsigned long long)counts.requested,
           (unsigned long long)counts.compiled, (unsigned long long)counts.hit,
           (unsigned long long)counts.missing,
           (unsigned long long)counts.failed, seconds);
    return code;
}

static int run(const tool_command *command, const void *settings)
{
    prewarm p = {
        .command = command, .settings = settings, .errors = json_array()};
    fex_status status = read_settings(&p);

    if (status == FEX_OK)
        status = look_at_all(&p);
    if (status == FEX_OK && !p.settings->check)
        status = compile(&p);
    const int code =
        status == FEX_OK
            ? report(&p, report_seconds() - p.settings->common.started)
            : report_status(command, status);
    json_decref(p.errors);
    kernel_set_free(&p.kernels);
    free(p.jobs);
    shape_list_free(&p.shapes);
    return code;
}

#define ROW(name, letter, kind, member, ...)                                   \
    {                                                                          \
        name, letter, kind, offsetof(prewarm_settings, member), __VA_ARGS__    \
    }

static const tool_option options[] = {
    ROW("shape", 's', OPTION_TEXTS, shapes, "SHAPE", NULL, 0, 0,
        "what will be evaluated; may be repeated"),
    ROW("shapes", 0, OPTION_TEXTS, shape_files, "FILE", NULL, 0, 0,
        "a file of shapes, one a line; may be repeated"),
    ROW("arch", 'a', OPTION_TEXTS, architectures, "ARCH", NULL, 0, 0,
        "sm_80,sm_90a,... or all; may be repeated (default: the device's)"),
    ROW("jobs", 'j', OPTION_NUMBER, jobs, "N", NULL, 1, 1024,
        "worker processes (default: one a processor)"),
    ROW("check", 0, OPTION_FLAG, check, NULL, NULL, 0, 0,
        "compile nothing; fail if anything is missing, and name it"),
    ROW("refresh", 0, OPTION_FLAG, refresh, NULL, NULL, 0, 0,
        "compile again what an older compiler made"),
    {.name = NULL},
};

const tool_command command_prewarm = {
    .name = "prewarm",
    .summary = "Compile the kernels of shapes ahead; needs no GPU",
    .options = options,
    .settings_size = sizeof(prewarm_settings),
    .run = run,
    .notes = shape_print_help,
};
