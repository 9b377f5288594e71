/* SPDX-License-Identifier: Apache-2.0 */
/* `flashexpert run` and `bench` on a device. */
#include "config.h"

#include <check.h>
#include <math.h>
#include <string.h>

#include "../tools/safetensors.h"
#include "command.h"

#define SHAPE "hidden=40 top_k=5 experts=30 tokens=17"
#define F32 "-s '" SHAPE " dtype=f32'"

START_TEST(a_device_is_right)
{
    command_expect(0, "run --verify --json --graph --repeat 3 -s '" SHAPE
                      " dtype=f16,bf16,f32' -s 'hidden=7 top_k=3 experts=9 "
                      "tokens=4 index=i64 routing=f32' -s 'hidden=8 top_k=1 "
                      "experts=3 tokens=0'");
    const json_t *results = json_object_get(command_json(), "results");
    for (size_t i = 0; i < json_array_size(results); i++)
        ck_assert(json_is_true(
            json_object_get(json_array_get(results, i), "passed")));
    ck_assert(command_number("results", "0", "forward", "host_seconds", NULL) >
              0);
    ck_assert(
        command_number("results", "0", "backward", "graph_seconds", NULL) > 0);
    ck_assert(command_number("startup", "first_result_seconds", NULL) > 0);
    ck_assert(command_number("startup", "compiles", NULL) > 0);
    /* A second process finds the kernels. */
    command_expect(0, "run --json --repeat 0 -s '" SHAPE "'");
    ck_assert(command_number("startup", "compiles", NULL) == 0);
}
END_TEST

START_TEST(a_device_and_the_cpu_agree)
{
    command_expect(0, "run --verify -o device --repeat 1 " F32);
    command_expect(0, "run --verify -o cpu -d cpu " F32);
    safetensors_file device;
    safetensors_file cpu;
    ck_assert_int_eq(safetensors_open("device", &device), FEX_OK);
    ck_assert_int_eq(safetensors_open("cpu", &cpu), FEX_OK);
    ck_assert_uint_eq(device.count, cpu.count);
    for (size_t i = 0; i < cpu.count; i++) {
        const safetensors_array *other =
            safetensors_find(&device, cpu.arrays[i].name);
        const float *exact = cpu.arrays[i].data;
        const float *found = other->data;
        ck_assert_uint_eq(other->bytes, cpu.arrays[i].bytes);
        for (size_t j = 0; j < other->bytes / sizeof *found; j++)
            ck_assert(fabsf(found[j] - exact[j]) <=
                      1e-5f + 1e-5f * fabsf(exact[j]));
    }
    safetensors_close(&cpu);
    safetensors_close(&device);
}
END_TEST

START_TEST(a_bench_reports_every_pass)
{
    command_expect(0, "bench --json --rounds 2 -s '" SHAPE "'");
    ck_assert_uint_eq(
        json_array_size(json_object_get(command_json(), "results")), 2);
    ck_assert(command_number("results", "1", "roof_fraction", NULL) > 0);
    ck_assert(command_number("results", "1", "floor_fraction", NULL) > 0);
    ck_assert(command_number("copy_bytes_per_second", NULL) > 0);
    const command_result *csv =
        command_expect(0, "bench --csv --rounds 1 --l2 warm -s '" SHAPE "'");
    ck_assert_int_eq(strncmp(csv->out, "shape,pass,family,seconds,", 26), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("command device");
    TCase *tests = tcase_create("device");

    if (!command_has_device())
        command_skip("there is no device");

    tcase_add_checked_fixture(tests, command_enter_scratch,
                              command_leave_scratch);
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, a_device_is_right);
    tcase_add_test(tests, a_device_and_the_cpu_agree);
    tcase_add_test(tests, a_bench_reports_every_pass);
    suite_add_tcase(suite, tests);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed > 0;
}
