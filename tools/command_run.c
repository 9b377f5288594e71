/* SPDX-License-Identifier: Apache-2.0 */
/* command_run.c - one evaluation of each shape: made-up data or a file's, on a
 * device or the CPU; timed, verified, written to a file. */
#include "config.h"

#include <string.h>

#include "commands.h"
#include "data.h"
#include "evaluate.h"
#include "number.h"
#include "outcome.h"
#include "report.h"
#include "tensor_file.h"
#include "timing.h"
#include "traffic.h"
#include "verify.h"

typedef struct run_settings {
    tool_settings common;
    tool_texts shapes;
    tool_texts shape_files;
    const char *input;
    const char *output;
    const char *device;
    int distribution; /* data_distribution */
    int l2;           /* evaluate_l2 */
    int64_t seed;
    int64_t repeat;
    int verify;
    int graph;
} run_settings;

typedef struct run_state {
    const tool_command *command;
    const run_settings *settings;
    int ordinal; /* or FEX_DEVICE_NONE: the CPU */
    tool_shapes shapes;
    safetensors_file input;
    tool_device device;
    run_startup startup;
    json_t *results;
    int passed;
} run_state;

/* ---- What is asked for -------------------------------------------------- */

/* What only a device can do is not passed over in silence. */
static fex_status check_cpu_options(const run_state *r)
{
    static const char *const names[] = {"graph", "l2"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (options_given(r->command, &r->settings->common, names[i]))
            return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                            "--%s is for devices, and not for --device cpu",
                            names[i]);
    return FEX_OK;
}

static fex_status read_device(run_state *r)
{
    const char *text = r->settings->device;
    int64_t ordinal;

    if (strcmp(text, "cpu") == 0) {
        r->ordinal = FEX_DEVICE_NONE;
        return check_cpu_options(r);
    }
    if (number_parse(text, strlen(text), number_binary_units, &ordinal) != 0 ||
        ordinal > INT32_MAX)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "--device: expected cpu or a device's number, found "
                        "'%s'",
                        text);
    r->ordinal = (int)ordinal;
    return FEX_OK;
}

/* The shape is the file's; --shape may choose what it leaves open. */
static fex_status read_input(run_state *r)
{
    const run_settings *settings = r->settings;
    tool_shape found;

    if (settings->shape_files.count > 0 || settings->shapes.count > 1)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "--input goes with at most one --shape");
    return_if_error(safetensors_open(settings->input, &r->input));
    return_if_error(tensor_file_shape(settings->input, &r->input, &found));
    return shape_list_add(
        &r->shapes, "--shape",
        settings->shapes.count > 0 ? settings->shapes.items[0] : "", &found);
}

static fex_status read_settings(run_state *r)
{
    const run_settings *settings = r->settings;

    return_if_error(read_device(r));
    if (settings->input != NULL)
        return_if_error(read_input(r));
    else
        return_if_error(shape_list_add_all(&r->shapes, &settings->shapes,
                                           &settings->shape_files));
    if (settings->output == NULL)
        return FEX_OK;
    if (r->shapes.count != 1)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "--output takes one shape, not %zu", r->shapes.count);
    return safetensors_check_target(settings->output);
}

static fex_status make_inputs(const run_state *r, const tool_shape *shape,
                              tool_tensors *inputs)
{
    const run_settings *settings = r->settings;
    if (settings->input != NULL)
        return tensor_file_load(settings->input, &r->input, shape, inputs);
    return data_generate(shape, (data_distribution)settings->distribution,
                         (uint64_t)settings->seed, inputs);
}

/* ---- On the CPU --------------------------------------------------------- */

static fex_status evaluate_on_cpu(const run_state *r, const tool_shape *shape,
                                  const tool_tensors *inputs,
                                  tool_tensors *outputs, run_outcome *found)
{
    tool_tensors all = *inputs;
    const double begin = report_seconds();

    for (tensor_id id = 0; id < TENSOR_COUNT; id++)
        if (tensor_is_output(shape, id))
            all.data[id] = outputs->data[id];
    if (shape->passes & FEX_PASS_FORWARD) {
        const fex_forward_args args = tensors_forward_args(&all, shape);
        return_if_error(fex_reference_forward(&shape->desc, &args));
    }
    const double middle = report_seconds();
    if (shape->passes & FEX_PASS_BACKWARD) {
        const fex_backward_args args = tensors_backward_args(&all, shape);
        return_if_error(fex_reference_backward(&shape->desc, &args));
    }
    found->by_oracle = 1;
    if (r->settings->repeat == 0)
        return FEX_OK;
    found->times[FEX_PASS_FORWARD].seconds = middle - begin;
    found->times[FEX_PASS_BACKWARD].seconds = report_seconds() - middle;
    return FEX_OK;
}

/* ---- On a device -------------------------------------------------------- */

typedef struct pass_call {
    evaluation *evaluation;
    fex_pass pass;
} pass_call;

static fex_status call_pass(void *user)
{
    const pass_call *call = user;
    return evaluation_call(call->evaluation, call->pass);
}

static fex_status time_pass(const run_state *r, evaluation *e, fex_pass pass,
                            pass_times *times)
{
    pass_call call = {e, pass};
    const timing_subject subject = {call_pass, &call};
    timing t;

    return_if_error(timing_create(&r->device, subject,
                                  (size_t)r->settings->repeat,
                                  r->settings->graph ? e->token_sets : 0, &t));
    fex_status status = FEX_OK;
    for (int64_t i = 0; i < r->settings->repeat && status == FEX_OK; i++)
        status = timing_round(&t);
    times->seconds = timing_median(&t, t.device_seconds);
    times->host_seconds = timing_median(&t, t.host_seconds);
    if (r->settings->graph)
        times->graph_seconds = timing_median(&t, t.graph_seconds);
    timing_destroy(&t);
    return status;
}

/* One call of each pass on the exact inputs; these are the results. */
static fex_status first_calls(run_state *r, evaluation *e,
                              tool_tensors *outputs)
{
    const int first_of_all = r->startup.call == 0;

    for (size_t i = 0; i < OUTCOME_PASSES; i++) {
        if (!(e->shape->passes & outcome_passes[i]))
            continue;
        const double begin = report_seconds();
        e->turn = 0;
        return_if_error(evaluation_call(e, outcome_passes[i]));
        return_if_error(device_synchronize(&r->device));
        if (first_of_all && r->startup.call == 0)
            r->startup.call = report_seconds() - begin;
    }
    return evaluation_fetch(e, outputs);
}

/* Notes what the start took, when the first shape is there. */
static fex_status note_startup(run_state *r, double prepare)
{
    fex_context_stats stats = {.size = sizeof stats};

    if (r->startup.prepare > 0)
        return FEX_OK;
    return_if_error(fex_context_get_stats(r->device.context, &stats));
    r->startup.prepare = prepare;
    r->startup.compiles = stats.compiles;
    return FEX_OK;
}

static fex_status evaluate_on_device(run_state *r, const tool_shape *shape,
                                     const tool_tensors *inputs,
                                     tool_tensors *outputs, run_outcome *found)
{
    evaluation e = {0};
    char config[FEX_LAUNCH_TEXT_MAX];
    const double begin = report_seconds();
    fex_status status = evaluation_create(&r->device, shape, &e);

    if (status == FEX_OK)
        status = note_startup(r, report_seconds() - begin);
    if (status == FEX_OK)
        status = evaluation_load(&e, inputs, (evaluate_l2)r->settings->l2,
                                 EVALUATE_SCORES);
    if (status == FEX_OK)
        status = first_calls(r, &e, outputs);
    for (size_t i = 0; i < OUTCOME_PASSES && status == FEX_OK; i++)
        if (shape->passes & outcome_passes[i]) {
            found->families[outcome_passes[i]] =
                evaluation_family(&e, outcome_passes[i], config);
            if (r->settings->repeat > 0)
                status = time_pass(r, &e, outcome_passes[i],
                                   &found->times[outcome_passes[i]]);
        }
    evaluation_destroy(&e);
    return status;
}

/* ---- One shape ---------------------------------------------------------- */

static fex_status verify(run_state *r, const tool_shape *shape,
                         const tool_tensors *inputs,
                         const tool_tensors *outputs, run_outcome *found)
{
    return_if_error(verify_outputs(shape, inputs, outputs, VERIFY_BUDGET,
                                   (uint64_t)r->settings->seed,
                                   found->verified));
    for (tensor_id id = 0; id < TENSOR_COUNT; id++)
        found->passed &= found->verified[id].passed;
    r->passed &= found->passed;
    return FEX_OK;
}

static fex_status evaluate(run_state *r, const tool_shape *shape,
                           const tool_tensors *inputs, tool_tensors *outputs)
{
    run_outcome found = outcome_none();

    for (size_t i = 0; i < OUTCOME_PASSES; i++)
        if (shape->passes & outcome_passes[i])
            found.times[outcome_passes[i]].gathered_bytes =
                traffic_gathered_bytes(shape, inputs, outcome_passes[i]);
    if (r->ordinal == FEX_DEVICE_NONE)
        return_if_error(evaluate_on_cpu(r, shape, inputs, outputs, &found));
    else
        return_if_error(evaluate_on_device(r, shape, inputs, outputs, &found));
    if (r->settings->verify)
        return_if_error(verify(r, shape, inputs, outputs, &found));
    if (r->settings->output != NULL)
        return_if_error(tensor_file_save(r->settings->output, shape, outputs));
    if (r->settings->common.json)
        json_array_append_new(r->results,
                              outcome_json(shape, &found, r->settings->verify));
    else
        outcome_print(shape, &found, r->settings->verify);
    return FEX_OK;
}

static fex_status run_shape(run_state *r, const tool_shape *shape)
{
    tool_tensors inputs = {{NULL}};
    tool_tensors outputs = {{NULL}};
    fex_status status = make_inputs(r, shape, &inputs);

    if (status == FEX_OK)
        status = tensors_allocate_outputs(&outputs, shape);
    if (status == FEX_OK)
        status = evaluate(r, shape, &inputs, &outputs);
    tensors_free(&outputs);
    tensors_free(&inputs);
    return status;
}

/* ---- All of them -------------------------------------------------------- */

static fex_status open_device(run_state *r)
{
    char sentence[512];
    const fex_status status = device_open(r->ordinal, &r->device);

    if (status != FEX_ERROR_NO_DRIVER && status != FEX_ERROR_NO_DEVICE)
        return status;
    snprintf(sentence, sizeof sentence, "%s", fex_last_error());
    return fex_fail(status, "%s (--device cpu needs no GPU)", sentence);
}

static fex_status run_shapes(run_state *r)
{
    fex_status status = FEX_OK;

    if (r->ordinal != FEX_DEVICE_NONE) {
        return_if_error(open_device(r));
        r->startup.context = report_seconds() - r->settings->common.started;
        if (!r->settings->common.json)
            printf("%s (%s), L2 %s\n", r->device.info.device_name,
                   r->device.info.architecture,
                   r->settings->l2 == EVALUATE_COLD ? "cold" : "warm");
    }
    for (size_t i = 0; i < r->shapes.count && status == FEX_OK; i++)
        status = run_shape(r, &r->shapes.items[i]);
    if (r->ordinal != FEX_DEVICE_NONE)
        device_close(&r->device);
    return status;
}

static json_t *describe_run(const run_state *r)
{
    const int on_cpu = r->ordinal == FEX_DEVICE_NONE;
    json_t *object = json_pack("{s:s, s:O}", "device",
                               on_cpu ? "cpu" : r->device.info.device_name,
                               "results", r->results);

    if (object == NULL || on_cpu)
        return object;
    json_object_set_new(object, "startup", startup_json(&r->startup));
    json_object_set_new(object, "architecture",
                        json_string(r->device.info.architecture));
    json_object_set_new(
        object, "l2",
        json_string(r->settings->l2 == EVALUATE_COLD ? "cold" : "warm"));
    return object;
}

static int run(const tool_command *command, const void *settings)
{
    run_state r = {.command = command,
                   .settings = settings,
                   .passed = 1,
                   .results = json_array()};
    fex_status status = read_settings(&r);
    int code = TOOL_DONE;

    if (status == FEX_OK)
        status = run_shapes(&r);
    if (status != FEX_OK)
        code = report_status(command, status);
    else if (r.settings->common.json)
        code = report_json(command, describe_run(&r),
                           r.passed ? TOOL_DONE : TOOL_FAILED);
    else if (r.ordinal != FEX_DEVICE_NONE)
        startup_print(&r.startup);
    if (status == FEX_OK && !r.passed)
        code = command_fail(command, TOOL_FAILED,
                            "a result is further from the oracle than it "
                            "may be");
    json_decref(r.results);
    if (r.input.header != NULL)
        safetensors_close(&r.input);
    shape_list_free(&r.shapes);
    return code;
}

#define ROW(name, letter, kind, member, ...)                                   \
    {                                                                          \
        name, letter, kind, offsetof(run_settings, member), __VA_ARGS__        \
    }

static const tool_option options[] = {
    ROW("shape", 's', OPTION_TEXTS, shapes, "SHAPE", NULL, 0, 0,
        "what to evaluate; may be repeated"),
    ROW("shapes", 0, OPTION_TEXTS, shape_files, "FILE", NULL, 0, 0,
        "a file of shapes, one a line, or - for standard input; may be "
        "repeated"),
    ROW("distribution", 0, OPTION_CHOICE, distribution, DATA_DISTRIBUTIONS,
        "uniform", 0, 0, "how tokens choose experts"),
    ROW("seed", 0, OPTION_NUMBER, seed, "N", "1", 0, 0,
        "of the data and of samples"),
    ROW("input", 'i', OPTION_TEXT, input, "FILE", NULL, 0, 0,
        "take the data from a safetensors file"),
    ROW("output", 'o', OPTION_TEXT, output, "FILE", NULL, 0, 0,
        "write the results to a safetensors file"),
    ROW("device", 'd', OPTION_TEXT, device, "N|cpu", "0", 0, 0,
        "the device to use, or cpu"),
    ROW("verify", 0, OPTION_FLAG, verify, NULL, NULL, 0, 0,
        "hold the results against the oracle, which on the CPU made them, too"),
    ROW("repeat", 0, OPTION_NUMBER, repeat, "N", "20", 0, 1000000,
        "rounds to take the median of; 0 times nothing; the CPU does one"),
    ROW("graph", 0, OPTION_FLAG, graph, NULL, NULL, 0, 0,
        "also time the replay of a CUDA graph; not on the CPU"),
    ROW("l2", 0, OPTION_CHOICE, l2, EVALUATE_L2_CHOICES, "cold", 0, 0,
        "whether timed calls find their data in L2; not on the CPU"),
    {.name = NULL},
};

static void print_notes(void)
{
    puts("A file of data has the arrays hidden_states, down_weights, "
         "up_weights,\n"
         "indices, routing_weights and, for a backward pass, grad_output; the\n"
         "results are expert_states, scores and grad_... of each input. With\n"
         "--input, a --shape may leave out what the file tells.\n");
    shape_print_help();
}

const tool_command command_run = {
    .name = "run",
    .summary = "Evaluate shapes: run, time, verify, write the results",
    .options = options,
    .settings_size = sizeof(run_settings),
    .run = run,
    .notes = print_notes,
};
