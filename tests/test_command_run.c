/* SPDX-License-Identifier: Apache-2.0 */
/* `flashexpert run --device cpu`: results, files of data, and bad ones. */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../tools/data.h"
#include "../tools/safetensors.h"
#include "../tools/tensor_file.h"
#include "command.h"

#define SHAPE "hidden=40 top_k=5 experts=30 tokens=17"

/* ---- Files of data ------------------------------------------------------ */

static tool_shape shape_of(const char *text)
{
    tool_shapes list = {0};
    ck_assert_int_eq(shape_list_add(&list, "shape", text, NULL), FEX_OK);
    const tool_shape shape = list.items[0];
    shape_list_free(&list);
    return shape;
}

/* The safetensors name of a tensor's type. */
static const char *type_of(const tool_shape *shape, tensor_id id)
{
    static const char *const names[] = {[FEX_DTYPE_F16] = "F16",
                                        [FEX_DTYPE_BF16] = "BF16",
                                        [FEX_DTYPE_F32] = "F32"};
    if (tensor_table[id].type == TYPE_INDEX)
        return shape->desc.index_type == FEX_INDEX_I64 ? "I64" : "I32";
    return names[tensor_dtype(shape, id)];
}

/* Writes the data that `run --seed 1` makes up, but for what `edit` changes. */
static void write_data(const char *path, const char *text,
                       void (*edit)(safetensors_array *arrays, size_t *count))
{
    const tool_shape shape = shape_of(text);
    tool_tensors inputs = {{NULL}};
    safetensors_array arrays[TENSOR_COUNT];
    size_t count = 0;

    ck_assert_int_eq(data_generate(&shape, DATA_UNIFORM, 1, &inputs), FEX_OK);
    for (tensor_id id = 0; id < TENSOR_COUNT; id++)
        if (tensor_is_input(&shape, id))
            arrays[count++] = (safetensors_array){
                tensor_table[id].name,
                type_of(&shape, id),
                2,
                {tensor_rows(&shape, id), tensor_columns(&shape, id)},
                inputs.data[id],
                tensor_bytes(&shape, id)};
    if (edit != NULL)
        edit(arrays, &count);
    ck_assert_int_eq(safetensors_write(path, arrays, count), FEX_OK);
    tensors_free(&inputs);
}

static void put(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    fputs(text, file);
    fclose(file);
}

static int same_files(const char *a, const char *b)
{
    char words[256];
    snprintf(words, sizeof words, "cmp -s %s %s", a, b);
    return system(words) == 0;
}

/* ---- On the CPU --------------------------------------------------------- */

START_TEST(the_cpu_is_right_without_a_driver)
{
    setenv("FLASHEXPERT_LIBCUDA", "/nonexistent", 1);
    setenv("FLASHEXPERT_LIBNVRTC", "/nonexistent", 1);
    command_expect(0, "run --device cpu --verify --json --distribution zipf "
                      "--shape '" SHAPE " dtype=f16,bf16,f32 index=i32,i64' "
                      "--shape 'hidden=1 top_k=1 experts=1 tokens=0,1'");
    const json_t *results = json_object_get(command_json(), "results");
    ck_assert_uint_eq(json_array_size(results), 8);
    for (size_t i = 0; i < 8; i++) {
        const json_t *one = json_array_get(results, i);
        const json_t *verify = json_object_get(one, "verify");
        ck_assert(json_is_true(json_object_get(one, "passed")));
        ck_assert_uint_eq(json_object_size(verify), 6);
        ck_assert(json_object_get(verify, "grad_down_weights") != NULL);
    }
}
END_TEST

/* The oracle made them: the report does not claim more than it shows. */
START_TEST(the_cpu_does_not_vouch_for_itself)
{
    static const char words[] = "verified by the code that made them";
    const command_result *result =
        command_expect(0, "run -d cpu --verify -s '" SHAPE "'");
    ck_assert_msg(strstr(result->out, words) != NULL, "%s", result->out);
    command_expect(0, "run -d cpu --verify --json -s '" SHAPE "'");
    const json_t *one =
        json_array_get(json_object_get(command_json(), "results"), 0);
    ck_assert(json_is_false(json_object_get(one, "independent")));
    result = command_expect(0, "run -d cpu -s '" SHAPE "'");
    ck_assert_msg(strstr(result->out, "verified") == NULL, "%s", result->out);
}
END_TEST

START_TEST(no_repeat_times_nothing_on_the_cpu)
{
    const command_result *result =
        command_expect(0, "run -d cpu --repeat 0 -s '" SHAPE "'");
    ck_assert_msg(strstr(result->out, "  forward   not timed\n"
                                      "  backward  not timed\n") != NULL,
                  "%s", result->out);
    command_expect(0, "run -d cpu --repeat 0 --json -s '" SHAPE "'");
    const json_t *one =
        json_array_get(json_object_get(command_json(), "results"), 0);
    const json_t *forward = json_object_get(one, "forward");
    ck_assert(json_is_null(json_object_get(forward, "seconds")));
    ck_assert(json_is_null(
        json_object_get(forward, "gathered_bytes_per_second")));
}
END_TEST

START_TEST(shapes_come_from_standard_input)
{
    put("shapes", SHAPE "\n" SHAPE " pass=forward\n");
    command_expect(0, "run -d cpu --json --shapes - <shapes");
    ck_assert_uint_eq(
        json_array_size(json_object_get(command_json(), "results")), 2);
    command_refuses(2, "standard input: there is no shape in it",
                    "run -d cpu --shapes - </dev/null");
    put("shapes", "hidden=0\n");
    command_refuses(2, "standard input, line 1, column 8: hidden",
                    "run -d cpu --shapes - <shapes");
}
END_TEST

START_TEST(one_pass_has_its_results_only)
{
    command_expect(0, "run -d cpu --verify --json -s '" SHAPE " pass=forward'");
    const json_t *one =
        json_array_get(json_object_get(command_json(), "results"), 0);
    ck_assert_uint_eq(json_object_size(json_object_get(one, "verify")), 2);
    ck_assert_ptr_null(json_object_get(one, "backward"));
    ck_assert(command_number("results", "0", "forward", "seconds", NULL) > 0);
    /* 17 tokens, 5 choices, two rows of 40 bf16 */
    ck_assert_double_eq(
        command_number("results", "0", "forward", "gathered_bytes", NULL),
        17 * 5 * 2 * 40 * 2);
}
END_TEST

START_TEST(a_file_gives_the_same_as_its_data)
{
    write_data("x", SHAPE " dtype=f16 index=i64 routing=f32", NULL);
    command_expect(0, "run -d cpu --verify -i x -o from_file");
    command_expect(0, "run -d cpu -o made_up -s '" SHAPE " dtype=f16 "
                      "index=i64 routing=f32'");
    ck_assert(same_files("from_file", "made_up"));
    /* What the file leaves open can be chosen. */
    command_expect(0, "run -d cpu -i x -o y -s 'pass=forward'");
    command_expect(0, "run -d cpu -i x -o z -s 'weight_grad=f32'");

    safetensors_file file;
    ck_assert_int_eq(safetensors_open("y", &file), FEX_OK);
    ck_assert_uint_eq(file.count, 2);
    const safetensors_array *states = safetensors_find(&file, "expert_states");
    ck_assert_str_eq(states->dtype, "F16");
    ck_assert_int_eq(states->shape[0], 17);
    ck_assert_int_eq(states->shape[1], 40);
    safetensors_close(&file);
    ck_assert_int_eq(safetensors_open("z", &file), FEX_OK);
    ck_assert_uint_eq(file.count, 6);
    ck_assert_str_eq(safetensors_find(&file, "grad_up_weights")->dtype, "F32");
    ck_assert_str_eq(safetensors_find(&file, "scores")->dtype, "F32");
    safetensors_close(&file);
}
END_TEST

/* ---- Bad files ---------------------------------------------------------- */

static void drop_up_weights(safetensors_array *arrays, size_t *count)
{
    arrays[TENSOR_UP_WEIGHTS] = arrays[--*count];
}

static void drop_grad_output(safetensors_array *arrays, size_t *count)
{
    (void)arrays;
    --*count;
}

static void narrow_up_weights(safetensors_array *arrays, size_t *count)
{
    (void)count;
    arrays[TENSOR_UP_WEIGHTS].shape[0]--;
    arrays[TENSOR_UP_WEIGHTS].bytes -= 80;
}

static void mistype_indices(safetensors_array *arrays, size_t *count)
{
    (void)count;
    arrays[TENSOR_INDICES].dtype = "F32";
}

static void mistype_down_weights(safetensors_array *arrays, size_t *count)
{
    (void)count;
    arrays[TENSOR_DOWN_WEIGHTS].dtype = "F16";
}

static void flatten_indices(safetensors_array *arrays, size_t *count)
{
    (void)count;
    arrays[TENSOR_INDICES].rank = 1;
    arrays[TENSOR_INDICES].shape[0] *= arrays[TENSOR_INDICES].shape[1];
}

static void empty_hidden_states(safetensors_array *arrays, size_t *count)
{
    (void)count;
    arrays[TENSOR_HIDDEN_STATES].shape[1] = 0;
    arrays[TENSOR_HIDDEN_STATES].bytes = 0;
}

static const struct {
    void (*edit)(safetensors_array *arrays, size_t *count);
    const char *words;
} bad_files[] = {
    {drop_up_weights, "there is no 'up_weights'"},
    {narrow_up_weights, "'up_weights' is 29 x 40 where the other arrays need "
                        "30 x 40"},
    {mistype_indices, "'indices' is F32, not I32 or I64"},
    {mistype_down_weights, "'down_weights' is F16, but hidden_states is bf16"},
    {flatten_indices, "'indices' has 1 dimensions, not 2"},
    {empty_hidden_states, "hidden_size"},
};

/* A failed run leaves an output that was there alone, and nothing else. */
static void check_output_untouched(void)
{
    char text[16] = "";
    FILE *file = fopen("y", "r");
    ck_assert_ptr_nonnull(file);
    ck_assert_ptr_nonnull(fgets(text, sizeof text, file));
    fclose(file);
    ck_assert_str_eq(text, "precious");
    ck_assert_int_eq(system("test $(ls -A | grep -c y) = 1"), 0);
}

START_TEST(a_file_of_a_wrong_shape_is_refused)
{
    put("y", "precious");
    write_data("x", SHAPE, bad_files[_i].edit);
    command_refuses(1, bad_files[_i].words, "run -d cpu -i x -o y");
    check_output_untouched();
}
END_TEST

START_TEST(a_file_cut_anywhere_is_refused)
{
    struct stat about;

    put("y", "precious");
    write_data("x", SHAPE, NULL);
    ck_assert_int_eq(stat("x", &about), 0);
    for (off_t size = about.st_size - 1; size >= 0; size = size * 2 / 3 - 1) {
        ck_assert_int_eq(truncate("x", size), 0);
        command_refuses(1, "x: ", "run -d cpu -i x -o y");
    }
    check_output_untouched();
}
END_TEST

START_TEST(a_file_without_grad_output_is_forward_only)
{
    write_data("x", SHAPE, drop_grad_output);
    command_expect(0, "run -d cpu -i x --json");
    const json_t *one =
        json_array_get(json_object_get(command_json(), "results"), 0);
    ck_assert_ptr_null(json_object_get(one, "backward"));
    command_refuses(1, "there is no 'grad_output'",
                    "run -d cpu -i x -s pass=both");
}
END_TEST

START_TEST(inputs_and_outputs_that_cannot_be)
{
    write_data("x", SHAPE, NULL);
    put("y", "precious");
    command_refuses(1, "'none'", "run -d cpu -i none -o y");
    command_refuses(1, "'.'", "run -d cpu -i . -o y");
    command_refuses(1, "'none/z'", "run -d cpu -i x -o none/z");
    command_refuses(1, "'.'", "run -d cpu -i x -o .");
    command_refuses(1, "'/dev/full'", "run -d cpu -i x -o /dev/full");
    command_refuses(2, "hidden does not agree",
                    "run -d cpu -i x -o y -s hidden=41");
    command_refuses(2, "--output takes one shape",
                    "run -d cpu -o y -s '" SHAPE " pass=forward,both'");
    command_refuses(1, "'none'", "run -d cpu --shapes none -o y");
    check_output_untouched();
}
END_TEST

START_TEST(an_output_that_does_not_fit_leaves_what_was_there)
{
    const struct rlimit small = {4096, 4096};

    put("y", "precious");
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
    command_refuses(1, "'y'",
                    "run -d cpu -o y -s 'hidden=1K top_k=1 "
                    "experts=9 tokens=9'");
    check_output_untouched();
}
END_TEST

START_TEST(a_device_that_is_not_there)
{
    setenv("FLASHEXPERT_LIBCUDA", "/nonexistent", 1);
    command_refuses(1, "no NVIDIA driver here (/nonexistent: ",
                    "run -s '" SHAPE "'");
    command_refuses(1, "--device cpu needs no GPU", "run -s '" SHAPE "'");
    command_refuses(1, "no NVIDIA driver here (/nonexistent: ",
                    "bench -s '" SHAPE "'");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("command run");
    TCase *cpu = tcase_create("cpu");
    const int count = (int)(sizeof bad_files / sizeof bad_files[0]);

    tcase_add_checked_fixture(cpu, command_enter_scratch,
                              command_leave_scratch);
    tcase_set_timeout(cpu, 120);
    tcase_add_test(cpu, the_cpu_is_right_without_a_driver);
    tcase_add_test(cpu, the_cpu_does_not_vouch_for_itself);
    tcase_add_test(cpu, no_repeat_times_nothing_on_the_cpu);
    tcase_add_test(cpu, shapes_come_from_standard_input);
    tcase_add_test(cpu, one_pass_has_its_results_only);
    tcase_add_test(cpu, a_file_gives_the_same_as_its_data);
    tcase_add_loop_test(cpu, a_file_of_a_wrong_shape_is_refused, 0, count);
    tcase_add_test(cpu, a_file_cut_anywhere_is_refused);
    tcase_add_test(cpu, a_file_without_grad_output_is_forward_only);
    tcase_add_test(cpu, inputs_and_outputs_that_cannot_be);
    tcase_add_test(cpu, an_output_that_does_not_fit_leaves_what_was_there);
    tcase_add_test(cpu, a_device_that_is_not_there);
    suite_add_tcase(suite, cpu);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed > 0;
}
