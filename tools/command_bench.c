/* SPDX-License-Identifier: Apache-2.0 */
/* command_bench.c - how fast each pass of each shape is, beside the limits of
 * the device measured in the same rounds. */
#include "config.h"

#include <math.h>
#include <stdlib.h>

#include "commands.h"
#include "data.h"
#include "outcome.h"
#include "report.h"
#include "roof.h"
#include "timing.h"
#include "traffic.h"

typedef struct bench_settings {
    tool_settings common;
    tool_texts shapes;
    tool_texts shape_files;
    int64_t device;
    int64_t rounds;
    int64_t seed;
    int distribution;
    int l2;
    int csv;
} bench_settings;

/* One pass of one shape: a line of the report. */
typedef struct bench_row {
    evaluation *evaluation;
    fex_pass pass;
    const char *family;
    char config[FEX_LAUNCH_TEXT_MAX];
    double gathered_bytes;
    double compulsory_bytes;
    gather_roof roof;
    timing pass_timing;
    timing roof_timing;
} bench_row;

typedef struct bench {
    const tool_command *command;
    const bench_settings *settings;
    tool_shapes shapes;
    tool_device device;
    evaluation *evaluations; /* one a shape */
    bench_row *rows;
    size_t row_count;
    copy_roof copy;
    timing copy_timing;
    json_t *results;
} bench;

/* ---- Setting up --------------------------------------------------------- */

static fex_status call_row(void *user)
{
    const bench_row *row = user;
    return evaluation_call(row->evaluation, row->pass);
}

static fex_status add_row(bench *b, evaluation *e, const tool_tensors *inputs,
                          fex_pass pass)
{
    const size_t rounds = (size_t)b->settings->rounds;
    bench_row *row = &b->rows[b->row_count++];
    const timing_subject reading = {gather_roof_call, &row->roof};
    const timing_subject calling = {call_row, row};

    row->evaluation = e;
    row->pass = pass;
    row->family = evaluation_family(e, pass, row->config);
    row->gathered_bytes = traffic_gathered_bytes(e->shape, inputs, pass);
    row->compulsory_bytes = traffic_compulsory_bytes(e->shape, inputs, pass);
    return_if_error(gather_roof_create(e, inputs, pass, &row->roof));
    return_if_error(timing_create(&b->device, calling, rounds, e->token_sets,
                                  &row->pass_timing));
    return timing_create(&b->device, reading, rounds, 0, &row->roof_timing);
}

static fex_status add_shape(bench *b, const tool_shape *shape, evaluation *e)
{
    const bench_settings *settings = b->settings;
    tool_tensors inputs = {{NULL}};
    fex_status status =
        data_generate(shape, (data_distribution)settings->distribution,
                      (uint64_t)settings->seed, &inputs);

    if (status == FEX_OK)
        status = evaluation_create(&b->device, shape, e);
    if (status == FEX_OK)
        status = evaluation_load(e, &inputs, (evaluate_l2)settings->l2,
                                 EVALUATE_SCORES_IF_USED);
    for (size_t i = 0; i < OUTCOME_PASSES && status == FEX_OK; i++)
        if (shape->passes & outcome_passes[i])
            status = add_row(b, e, &inputs, outcome_passes[i]);
    tensors_free(&inputs);
    return status;
}

static fex_status set_up(bench *b)
{
    const timing_subject copying = {copy_roof_call, &b->copy};

    b->evaluations = calloc(b->shapes.count, sizeof *b->evaluations);
    b->rows = calloc(OUTCOME_PASSES * b->shapes.count, sizeof *b->rows);
    if (b->evaluations == NULL || b->rows == NULL)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "out of memory");
    for (size_t i = 0; i < b->shapes.count; i++)
        return_if_error(add_shape(b, &b->shapes.items[i], &b->evaluations[i]));
    return_if_error(copy_roof_create(&b->device, &b->copy));
    return timing_create(&b->device, copying, (size_t)b->settings->rounds, 0,
                         &b->copy_timing);
}

static void tear_down(bench *b)
{
    for (size_t i = 0; i < b->row_count; i++) {
        timing_destroy(&b->rows[i].roof_timing);
        timing_destroy(&b->rows[i].pass_timing);
        gather_roof_destroy(&b->rows[i].roof);
    }
    for (size_t i = 0; b->evaluations != NULL && i < b->shapes.count; i++)
        evaluation_destroy(&b->evaluations[i]);
    timing_destroy(&b->copy_timing);
    copy_roof_destroy(&b->copy);
    free(b->rows);
    free(b->evaluations);
}

/* ---- Measuring ---------------------------------------------------------- */

/* All rows take turns, so that a change of clocks falls on all of them. */
static fex_status measure(bench *b)
{
    report_progress progress;
    fex_status status = FEX_OK;

    report_progress_start(&progress, (uint64_t)b->settings->rounds, "rounds");
    for (int64_t i = 0; i < b->settings->rounds && status == FEX_OK; i++) {
        status = timing_round(&b->copy_timing);
        for (size_t r = 0; r < b->row_count && status == FEX_OK; r++) {
            status = timing_round(&b->rows[r].pass_timing);
            if (status == FEX_OK)
                status = timing_round(&b->rows[r].roof_timing);
        }
        report_progress_step(&progress, 1, NULL, 0);
    }
    report_progress_end(&progress);
    return status;
}

/* ---- The report --------------------------------------------------------- */

typedef struct bench_figures {
    double seconds, graph_seconds, host_seconds;
    double gather_rate;    /* bytes per second */
    double roof_rate;      /* the same bytes, merely read */
    double roof_fraction;  /* of the plain reading's rate */
    double floor_fraction; /* of the time is what compulsory traffic takes */
} bench_figures;

static double copy_rate(const bench *b)
{
    return 2 * (double)b->copy.bytes /
           timing_median(&b->copy_timing, b->copy_timing.device_seconds);
}

static bench_figures figures_of(const bench *b, const bench_row *row)
{
    const timing *t = &row->pass_timing;
    const double roof =
        timing_median(&row->roof_timing, row->roof_timing.device_seconds);
    const double seconds = timing_median(t, t->device_seconds);

    return (bench_figures){.seconds = seconds,
                           .graph_seconds = timing_median(t, t->graph_seconds),
                           .host_seconds = timing_median(t, t->host_seconds),
                           .gather_rate = row->gathered_bytes / seconds,
                           .roof_rate = row->gathered_bytes / roof,
                           .roof_fraction = roof / seconds,
                           .floor_fraction =
                               row->compulsory_bytes / copy_rate(b) / seconds};
}

/* The columns of every form of the report. */
#define BENCH_COLUMNS(X)                                                       \
    X("seconds", f.seconds)                                                    \
    X("graph_seconds", f.graph_seconds)                                        \
    X("host_seconds", f.host_seconds)                                          \
    X("gathered_bytes", row->gathered_bytes)                                   \
    X("gathered_bytes_per_second", f.gather_rate)                              \
    X("roof_bytes_per_second", f.roof_rate)                                    \
    X("roof_fraction", f.roof_fraction)                                        \
    X("compulsory_bytes", row->compulsory_bytes)                               \
    X("floor_fraction", f.floor_fraction)

static void add_json(const bench *b, const bench_row *row)
{
    const bench_figures f = figures_of(b, row);
    char text[SHAPE_TEXT_MAX];
    json_t *object = json_object();

    shape_format(row->evaluation->shape, text);
    json_object_set_new(object, "shape", json_string(text));
    json_object_set_new(object, "pass",
                        json_string(shape_pass_name(row->pass)));
    json_object_set_new(object, "family", json_string(row->family));
    json_object_set_new(object, "config", json_string(row->config));
    if (row->pass == FEX_PASS_FORWARD)
        json_object_set_new(
            object, "saves_scores",
            json_boolean(row->evaluation->memory[TENSOR_SCORES] != 0));
#define ADD_COLUMN(name, value) report_set_number(object, name, value);
    BENCH_COLUMNS(ADD_COLUMN)
#undef ADD_COLUMN
    json_array_append_new(b->results, object);
}

static void print_csv(const bench *b)
{
    printf("shape,pass,family,config");
#define PRINT_NAME(name, value) printf(",%s", name);
    BENCH_COLUMNS(PRINT_NAME)
#undef PRINT_NAME
    putchar('\n');
    for (size_t i = 0; i < b->row_count; i++) {
        const bench_row *row = &b->rows[i];
        const bench_figures f = figures_of(b, row);
        char text[SHAPE_TEXT_MAX];
        shape_format(row->evaluation->shape, text);
        printf("%s,%s,%s,%s", text, shape_pass_name(row->pass), row->family,
               row->config);
#define PRINT_VALUE(name, value) printf(",%.6g", value);
        BENCH_COLUMNS(PRINT_VALUE)
#undef PRINT_VALUE
        putchar('\n');
    }
}

static void print_row(const bench *b, const bench_row *row)
{
    const bench_figures f = figures_of(b, row);
    char text[SHAPE_TEXT_MAX];
    char seconds[REPORT_TIME_MAX], graph[REPORT_TIME_MAX];
    char host[REPORT_TIME_MAX];
    char gathered[REPORT_BYTES_MAX], rate[REPORT_BYTES_MAX];

    shape_format(row->evaluation->shape, text);
    report_format_time(f.seconds, seconds);
    report_format_time(f.graph_seconds, graph);
    report_format_time(f.host_seconds, host);
    report_format_bytes(row->gathered_bytes, gathered);
    report_format_bytes(f.gather_rate, rate);
    printf("%9s %9s %9s %9s %7s/s %5.2f %5.2f  %-8s %s (%s%s%s)\n", seconds,
           graph, host, gathered, rate, f.roof_fraction, f.floor_fraction,
           shape_pass_name(row->pass), text, row->family,
           row->config[0] != '\0' ? ": " : "", row->config);
}

static void print_table(const bench *b)
{
    char rate[REPORT_BYTES_MAX];

    report_format_bytes(copy_rate(b), rate);
    printf("%s (%s), L2 %s, copy %s/s\n", b->device.info.device_name,
           b->device.info.architecture,
           b->settings->l2 == EVALUATE_COLD ? "cold" : "warm", rate);
    printf("%9s %9s %9s %9s %9s %5s %5s\n", "time", "graph", "host", "gathered",
           "rate", "roof", "floor");
    for (size_t i = 0; i < b->row_count; i++)
        print_row(b, &b->rows[i]);
}

static int report(const bench *b)
{
    if (!b->settings->common.json) {
        if (b->settings->csv)
            print_csv(b);
        else
            print_table(b);
        return TOOL_DONE;
    }
    for (size_t i = 0; i < b->row_count; i++)
        add_json(b, &b->rows[i]);
    json_t *object = json_pack(
        "{s:s, s:s, s:s, s:I, s:O}", "device", b->device.info.device_name,
        "architecture", b->device.info.architecture, "l2",
        b->settings->l2 == EVALUATE_COLD ? "cold" : "warm", "rounds",
        (json_int_t)b->settings->rounds, "results", b->results);
    if (object != NULL)
        report_set_number(object, "copy_bytes_per_second", copy_rate(b));
    return report_json(b->command, object, TOOL_DONE);
}

static int run(const tool_command *command, const void *settings)
{
    bench b = {.command = command, .settings = settings};
    int code = TOOL_DONE;

    if (b.settings->csv && b.settings->common.json)
        return command_fail(command, TOOL_USAGE,
                            "--csv and --json exclude each other");
    b.results = json_array();
    fex_status status = shape_list_add_all(&b.shapes, &b.settings->shapes,
                                           &b.settings->shape_files);
    if (status == FEX_OK)
        status = device_open((int)b.settings->device, &b.device);
    if (status != FEX_OK)
        goto report_failure;
    status = set_up(&b);
    if (status == FEX_OK)
        status = measure(&b);
    if (status == FEX_OK)
        code = report(&b);
    else
        code = report_status(command, status);
    tear_down(&b);
    device_close(&b.device);
    goto free_lists;

report_failure:
    code = report_status(command, status);
free_lists:
    json_decref(b.results);
    shape_list_free(&b.shapes);
    return code;
}

#define ROW(name, letter, kind, member, ...)                                   \
    {                                                                          \
        name, letter, kind, offsetof(bench_settings, member), __VA_ARGS__      \
    }

static const tool_option options[] = {
    ROW("shape", 's', OPTION_TEXTS, shapes, "SHAPE", NULL, 0, 0,
        "what to measure; may be repeated"),
    ROW("shapes", 0, OPTION_TEXTS, shape_files, "FILE", NULL, 0, 0,
        "a file of shapes, one a line, or - for standard input; may be "
        "repeated"),
    ROW("distribution", 0, OPTION_CHOICE, distribution, DATA_DISTRIBUTIONS,
        "uniform", 0, 0, "how tokens choose experts"),
    ROW("seed", 0, OPTION_NUMBER, seed, "N", "1", 0, 0, "of the data"),
    ROW("device", 'd', OPTION_NUMBER, device, "N", "0", 0, INT32_MAX,
        "the device to use"),
    ROW("rounds", 0, OPTION_NUMBER, rounds, "N", "20", 1, 1000000,
        "rounds to take medians of; all shapes take turns in each"),
    ROW("l2", 0, OPTION_CHOICE, l2, EVALUATE_L2_CHOICES, "cold", 0, 0,
        "whether calls find their data in L2"),
    ROW("csv", 0, OPTION_FLAG, csv, NULL, NULL, 0, 0,
        "print lines of comma-separated values"),
    {.name = NULL},
};

static void print_notes(void)
{
    puts("Times are medians for one call: on the device, in a replayed graph,\n"
         "and of the host. `roof` is the part of the rate at which the same\n"
         "rows are merely read, in plain order; keeping tables in L2 can "
         "exceed\n"
         "it. `floor` is the part of the time in which the device could copy\n"
         "every byte that has to be moved once. With pass=forward scores are "
         "not\nasked for; with pass=both they are saved and used.\n");
    shape_print_help();
}

const tool_command command_bench = {
    .name = "bench",
    .summary = "Measure shapes beside the limits of the device",
    .options = options,
    .settings_size = sizeof(bench_settings),
    .run = run,
    .notes = print_notes,
};
