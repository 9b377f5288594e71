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

#include "commands.h"
#include "context.h"
#include "environment.h"
#include "kernel_set.h"
#include "report.h"
#include "targets.h"
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

typedef struct prewarm {
    const tool_command *command;
    const prewarm_settings *settings;
    tool_shapes shapes;
    prewarm_targets targets;
    worker_job *jobs; /* those that have something to do */
    size_t job_count;
    kernel_set kernels;
    kernel_set told; /* warnings and failures: each is told once */
    fex_log log;
    report_progress progress;
    int needed; /* the job looked at has a kernel that no job before has */
    fex_status status; /* of a callback */
    json_t *errors;
} prewarm;

/* ---- What is asked for -------------------------------------------------- */

static fex_status read_settings(prewarm *p)
{
    const prewarm_settings *settings = p->settings;

    if (settings->check && settings->refresh)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "--check and --refresh exclude each other");
    return_if_error(shape_list_add_all(&p->shapes, &settings->shapes,
                                       &settings->shape_files));
    return_if_error(targets_find_devices(&p->targets));
    for (size_t i = 0; i < settings->architectures.count; i++)
        return_if_error(
            targets_add(&p->targets, settings->architectures.items[i]));
    return p->targets.architecture_count > 0
               ? FEX_OK
               : targets_add_device_architecture(&p->targets);
}

/* ---- Telling ------------------------------------------------------------ */

static fex_status open_log(prewarm *p)
{
    fex_environment environment;

    return_if_error(fex_environment_read(&environment));
    const fex_status status =
        fex_log_init(&p->log, NULL, NULL, environment.log);
    fex_environment_free(&environment);
    return status;
}

static int is_news(prewarm *p, const char *sentence)
{
    size_t position;
    int added = 1; /* without memory rather twice than never */
    if (kernel_set_put(&p->told, sentence, FEX_PREWARM_HIT, &position,
                       &added) != FEX_OK)
        added = 1;
    return added;
}

/* Of worker_listener. What the look has found out the workers find out again,
 * each by itself. */
static void tell_warning(void *user, const char *message)
{
    prewarm *p = user;
    if (!is_news(p, message))
        return;
    report_progress_end(&p->progress);
    fex_log_write(&p->log, FEX_LOG_WARNING, "%s", message);
}

/* Of worker_listener. */
static void tell_failure(void *user, const char *sentence)
{
    prewarm *p = user;
    char line[1024];
    if (!is_news(p, sentence))
        return;
    snprintf(line, sizeof line, "flashexpert: %s: %s", p->command->name,
             sentence);
    report_progress_step(&p->progress, 0, line, 1);
    json_array_append_new(p->errors, json_string(sentence));
}

/* fex_log_function of the context that looks. */
static void log_message(void *user, fex_log_level level, const char *message)
{
    prewarm *p = user;
    if (level == FEX_LOG_WARNING)
        tell_warning(p, message);
    else
        fex_log_write(&p->log, level, "%s", message);
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

    const prewarm_targets *const t = &p->targets;
    for (size_t i = 0; i < t->device_count && status == FEX_OK; i++)
        if (strcmp(t->devices[i].architecture->name, job.architecture) == 0) {
            job.device = &t->devices[i];
            status = look_at(p, context, &job);
        }
    return job.device == NULL ? look_at(p, context, &job) : status;
}

/* Looks at every shape, pass and architecture. */
static fex_status look_at_jobs(prewarm *p, fex_context *context)
{
    static const fex_pass passes[] = {FEX_PASS_FORWARD, FEX_PASS_BACKWARD};

    for (size_t a = 0; a < p->targets.architecture_count; a++)
        for (size_t s = 0; s < p->shapes.count; s++)
            for (size_t i = 0; i < 2; i++) {
                const worker_job job = {&p->shapes.items[s], passes[i],
                                        p->targets.architectures[a], NULL};
                if (job.shape->passes & passes[i])
                    return_if_error(look_for_devices(p, context, job));
            }
    return FEX_OK;
}

/* Looks at all there is to do, and whether what will be made can be kept. */
static fex_status look_at_all(prewarm *p)
{
    const fex_context_options none = {.size = sizeof none,
                                      .device = FEX_DEVICE_NONE,
                                      .log = log_message,
                                      .log_user = p};
    fex_context *context;

    p->jobs = calloc(2 * p->shapes.count *
                         (p->targets.architecture_count +
                          p->targets.device_count),
                     sizeof *p->jobs);
    if (p->jobs == NULL)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "out of memory");
    return_if_error(fex_context_create(&none, &context));
    fex_status status = look_at_jobs(p, context);
    if (status == FEX_OK && p->job_count > 0 && !p->settings->check)
        status = fex_loader_try(context->loader);
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

/* Of worker_listener: what became of a kernel. The first report that is no
 * plain find is the one that counts. What is missing stands in the final
 * report. */
static void note_outcome(void *user, fex_prewarm_outcome outcome,
                         const char *text)
{
    prewarm *p = user;
    char line[1024];
    size_t position;
    int added;

    if (kernel_set_put(&p->kernels, text, outcome, &position, &added) != FEX_OK)
        return;
    kernel_entry *entry = &p->kernels.entries[position];
    const int news = !entry->reported;
    entry->reported = 1;
    if (news || entry->outcome == FEX_PREWARM_HIT)
        entry->outcome = outcome;
    snprintf(line, sizeof line, "%-9s%s", outcome_name(outcome), text);
    if (news)
        report_progress_step(&p->progress, 1,
                             outcome == FEX_PREWARM_MISSING ? NULL : line,
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
    const worker_listener listener = {.kernel = note_outcome,
                                      .failure = tell_failure,
                                      .warning = tell_warning,
                                      .user = p};

    report_progress_start(&p->progress, expected(p), "kernels");
    const fex_status status =
        workers_run(p->jobs, p->job_count, workers, flags, &p->log, &listener);
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
    char kernels[REPORT_COUNT_MAX];
    report_format_count(counts.requested, "kernel", kernels);
    printf("%s: %llu compiled, %llu found, %llu missing, %llu failed; %.1f s\n",
           kernels, (unsigned long long)counts.compiled,
           (unsigned long long)counts.hit, (unsigned long long)counts.missing,
           (unsigned long long)counts.failed, seconds);
    return code;
}

static int run(const tool_command *command, const void *settings)
{
    prewarm p = {
        .command = command, .settings = settings, .errors = json_array()};
    fex_status status = read_settings(&p);

    if (status == FEX_OK)
        status = open_log(&p);
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
    kernel_set_free(&p.told);
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
        "a file of shapes, one a line, or - for standard input; may be "
        "repeated"),
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

static void print_notes(void)
{
    size_t count;
    const fex_architecture *table = fex_architecture_table(&count);

    fputs("Architectures:\n ", stdout);
    for (size_t i = 0; i < count; i++)
        printf(" %s", table[i].name);
    fputs("\n\n", stdout);
    shape_print_help();
}

const tool_command command_prewarm = {
    .name = "prewarm",
    .summary = "Compile the kernels of shapes ahead; needs no GPU",
    .options = options,
    .settings_size = sizeof(prewarm_settings),
    .run = run,
    .notes = print_notes,
};
