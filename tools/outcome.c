/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "outcome.h"

#include <math.h>

#include "report.h"

const fex_pass outcome_passes[OUTCOME_PASSES] = {FEX_PASS_FORWARD,
                                                 FEX_PASS_BACKWARD};

run_outcome outcome_none(void)
{
    const pass_times none = {NAN, NAN, NAN, NAN};
    return (run_outcome){.times = {none, none, none}, .passed = 1};
}

static json_t *describe_times(const run_outcome *found, fex_pass pass)
{
    const pass_times *times = &found->times[pass];
    json_t *object = json_object();

    if (found->families[pass] != NULL)
        json_object_set_new(object, "family",
                            json_string(found->families[pass]));
    report_set_number(object, "seconds", times->seconds);
    report_set_number(object, "graph_seconds", times->graph_seconds);
    report_set_number(object, "host_seconds", times->host_seconds);
    report_set_number(object, "gathered_bytes", times->gathered_bytes);
    report_set_number(object, "gathered_bytes_per_second",
                      times->gathered_bytes / times->seconds);
    return object;
}

static json_t *describe_verified(const verify_result *result)
{
    json_t *object = json_pack(
        "{s:I, s:I, s:b}", "rows", (json_int_t)result->rows, "rows_total",
        (json_int_t)result->rows_total, "passed", result->passed);
    report_set_number(object, "error", result->error);
    report_set_number(object, "tolerance", result->tolerance);
    return object;
}

json_t *outcome_json(const tool_shape *shape, const run_outcome *found,
                     int verified)
{
    char text[SHAPE_TEXT_MAX];
    json_t *object = json_object();

    shape_format(shape, text);
    json_object_set_new(object, "shape", json_string(text));
    for (size_t i = 0; i < OUTCOME_PASSES; i++)
        if (shape->passes & outcome_passes[i])
            json_object_set_new(object, shape_pass_name(outcome_passes[i]),
                                describe_times(found, outcome_passes[i]));
    if (!verified)
        return object;
    json_t *results = json_object();
    for (tensor_id id = 0; id < TENSOR_COUNT; id++)
        if (tensor_is_output(shape, id))
            json_object_set_new(results, tensor_table[id].name,
                                describe_verified(&found->verified[id]));
    json_object_set_new(object, "verify", results);
    json_object_set_new(object, "independent", json_boolean(!found->by_oracle));
    json_object_set_new(object, "passed", json_boolean(found->passed));
    return object;
}

static void print_measured(const pass_times *times)
{
    char text[REPORT_TIME_MAX];
    char bytes[REPORT_BYTES_MAX];
    char rate[REPORT_BYTES_MAX];

    report_format_time(times->seconds, text);
    printf("%s", text);
    if (!isnan(times->graph_seconds)) {
        report_format_time(times->graph_seconds, text);
        printf(", %s in a graph", text);
    }
    if (!isnan(times->host_seconds)) {
        report_format_time(times->host_seconds, text);
        printf(", %s of the host's", text);
    }
    report_format_bytes(times->gathered_bytes, bytes);
    report_format_bytes(times->gathered_bytes / times->seconds, rate);
    printf("; %s gathered, %s/s", bytes, rate);
}

static void print_pass(const run_outcome *found, fex_pass pass)
{
    printf("  %-10s", shape_pass_name(pass));
    if (isnan(found->times[pass].seconds))
        printf("not timed");
    else
        print_measured(&found->times[pass]);
    if (found->families[pass] != NULL)
        printf("  (%s)", found->families[pass]);
    putchar('\n');
}

void outcome_print(const tool_shape *shape, const run_outcome *found,
                   int verified)
{
    char text[SHAPE_TEXT_MAX];

    shape_format(shape, text);
    puts(text);
    for (size_t i = 0; i < OUTCOME_PASSES; i++)
        if (shape->passes & outcome_passes[i])
            print_pass(found, outcome_passes[i]);
    if (verified && found->by_oracle)
        puts("  verified by the code that made them: this shows that results "
             "are rounded\n  as they should be, not that they are right");
    for (tensor_id id = 0; verified && id < TENSOR_COUNT; id++) {
        const verify_result *result = &found->verified[id];
        char rows[64] = "";
        if (!tensor_is_output(shape, id))
            continue;
        if (result->rows < result->rows_total)
            snprintf(rows, sizeof rows, ", a sample of %lld of %lld rows",
                     (long long)result->rows, (long long)result->rows_total);
        printf("  %-22s%s  error %.2e (may be %.1e)%s\n", tensor_table[id].name,
               result->passed ? "right" : "WRONG", result->error,
               result->tolerance, rows);
    }
}

/* ---- The start ---------------------------------------------------------- */

static double first_result(const run_startup *s)
{
    return s->context + s->prepare + s->call;
}

json_t *startup_json(const run_startup *s)
{
    json_t *object = json_object();

    report_set_number(object, "context_seconds", s->context);
    report_set_number(object, "prepare_seconds", s->prepare);
    report_set_number(object, "first_call_seconds", s->call);
    report_set_number(object, "first_result_seconds", first_result(s));
    json_object_set_new(object, "compiles",
                        json_integer((json_int_t)s->compiles));
    return object;
}

void startup_print(const run_startup *s)
{
    printf("process start to first result %.3f s, without the data: context "
           "%.3f, kernels %.3f (%llu compiled), call %.3f\n",
           first_result(s), s->context, s->prepare,
           (unsigned long long)s->compiles, s->call);
}
