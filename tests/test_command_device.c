/* SPDX-License-Identifier: Apache-2.0 */
/* `flashexpert run` and `bench` on a device. */
#include "config.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../tools/safetensors.h"
#include "command.h"

/* Every test uses the same kernels, and the kernel cache they share. */
#define FIELDS "hidden=40 top_k=5 experts=30 tokens=17 dtype=f32"
#define SHAPE "-s '" FIELDS "'"

START_TEST(a_second_process_compiles_nothing)
{
    command_expect(0, "run --json --verify --repeat 0 " SHAPE);
    ck_assert(command_number("startup", "compiles", NULL) > 0);
    ck_assert(command_number("startup", "first_result_seconds", NULL) > 0);
    command_expect(0, "run --json --repeat 0 " SHAPE);
    ck_assert(command_number("startup", "compiles", NULL) == 0);
}
END_TEST

START_TEST(a_device_is_right)
{
    command_expect(0,
                   "run --verify --json --repeat 0 --distribution zipf " SHAPE
                   " -s 'hidden=40 top_k=5 experts=30 tokens=0 dtype=f32'"
                   " -s 'hidden=7 top_k=3 experts=9 tokens=4 index=i64 "
                   "routing=f32 weight_grad=f32'");
    const json_t *results = json_object_get(command_json(), "results");
    ck_assert_uint_eq(json_array_size(results), 3);
    for (size_t i = 0; i < 3; i++)
        ck_assert(json_is_true(
            json_object_get(json_array_get(results, i), "passed")));
}
END_TEST

START_TEST(a_run_is_timed)
{
    command_expect(0, "run --json --graph --repeat 2 --l2 warm " SHAPE);
    static const char *const passes[] = {"forward", "backward"};
    for (int i = 0; i < 2; i++) {
        ck_assert(command_number("results", "0", passes[i], "seconds", NULL) >
                  0);
        ck_assert(command_number("results", "0", passes[i], "host_seconds",
                                 NULL) > 0);
        ck_assert(command_number("results", "0", passes[i], "graph_seconds",
                                 NULL) > 0);
    }
}
END_TEST

START_TEST(a_device_and_the_cpu_agree)
{
    command_expect(0, "run -o device --repeat 0 " SHAPE);
    command_expect(0, "run -o cpu -d cpu " SHAPE);
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

/* A simulated device of one multiprocessor chooses what others of its
 * architecture would not: its own choices are prewarmed, and looked for. */
START_TEST(what_is_prewarmed_is_not_compiled)
{
    static const char odd[] = "-s 'hidden=256 top_k=32 experts=256 tokens=10 "
                              "dtype=f16 pass=forward'";
    setenv("FLASHEXPERT_SIM_SMS", "1", 1);
    command_expect(1, "prewarm --check %s", odd);
    command_expect(0, "prewarm %s", odd);
    command_expect(0, "prewarm --check %s", odd);
    setenv("FLASHEXPERT_JIT", "forbid", 1);
    command_expect(0, "run --repeat 0 %s", odd);
    unsetenv("FLASHEXPERT_JIT");
    unsetenv("FLASHEXPERT_SIM_SMS");
}
END_TEST

/* What a device would choose is not known then: 0 would be no proof. */
START_TEST(a_failing_driver_is_no_missing_device)
{
    static const char one[] = "-s 'hidden=64 top_k=4 experts=16 tokens=4' "
                              "--arch sm_90a";
    if (getenv("FLASHEXPERT_LIBCUDA") == NULL)
        return; /* a real driver fails when it likes */
    setenv("FLASHEXPERT_SIM_FAIL", "cuDeviceGetCount:1=CUDA_ERROR_UNKNOWN", 1);
    command_refuses(1, "cuDeviceGetCount", "prewarm --check %s", one);
    setenv("FLASHEXPERT_SIM_FAIL", "cuDeviceGetName:1=CUDA_ERROR_UNKNOWN", 1);
    command_refuses(1, "cuDeviceGetName", "prewarm --check %s", one);
    setenv("FLASHEXPERT_SIM_FAIL", "cuInit:1=CUDA_ERROR_STUB_LIBRARY", 1);
    command_expect(0, "prewarm %s", one);
    unsetenv("FLASHEXPERT_SIM_FAIL");
}
END_TEST

START_TEST(a_bench_reports_every_pass)
{
    command_expect(0, "bench --json --rounds 1 " SHAPE);
    ck_assert_uint_eq(
        json_array_size(json_object_get(command_json(), "results")), 2);
    ck_assert(command_number("results", "1", "roof_fraction", NULL) > 0);
    ck_assert(command_number("results", "1", "floor_fraction", NULL) > 0);
    ck_assert(command_number("copy_bytes_per_second", NULL) > 0);
    const command_result *csv =
        command_expect(0, "bench --csv --rounds 1 --l2 warm " SHAPE);
    ck_assert_int_eq(
        strncmp(csv->out, "shape,pass,family,config,seconds,", 33), 0);
    ck_assert_ptr_nonnull(strstr(csv->out, "threads="));
}
END_TEST

/* Times a forward pass: returns what it has to move at least, and whether it
 * wrote scores. */
static double bench_forward(const char *pass, int *saves_scores)
{
    command_expect(0, "bench --json --rounds 1 -s '" FIELDS " pass=%s'", pass);
    const json_t *forward =
        json_array_get(json_object_get(command_json(), "results"), 0);
    *saves_scores = json_is_true(json_object_get(forward, "saves_scores"));
    return command_number("results", "0", "compulsory_bytes", NULL);
}

/* Scores are for a backward pass to use; they are a result of run all the
 * same. */
START_TEST(a_forward_pass_alone_is_timed_without_scores)
{
    int alone;
    int of_both;
    const double bytes = bench_forward("forward", &alone);

    ck_assert_double_eq(bench_forward("both", &of_both) - bytes,
                        17 * 5 * sizeof(float));
    ck_assert(!alone);
    ck_assert(of_both);
    command_expect(0, "run --verify --json --repeat 1 "
                      "-s '" FIELDS " pass=forward'");
    const json_t *found =
        json_array_get(json_object_get(command_json(), "results"), 0);
    ck_assert(json_is_true(json_object_get(found, "passed")));
    ck_assert_ptr_nonnull(
        json_object_get(json_object_get(found, "verify"), "scores"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("command device");
    TCase *tests = tcase_create("device");

    if (!command_has_device())
        command_skip("there is no device");

    /* On the simulated device, few data are more than L2 holds. */
    setenv("FLASHEXPERT_SIM_L2", "4096", 0);
    tcase_add_unchecked_fixture(tests, command_enter_scratch,
                                command_leave_scratch);
    tcase_set_timeout(tests, 300);
    tcase_add_test(tests, a_second_process_compiles_nothing);
    tcase_add_test(tests, a_device_is_right);
    tcase_add_test(tests, a_run_is_timed);
    tcase_add_test(tests, a_device_and_the_cpu_agree);
    tcase_add_test(tests, what_is_prewarmed_is_not_compiled);
    tcase_add_test(tests, a_failing_driver_is_no_missing_device);
    tcase_add_test(tests, a_bench_reports_every_pass);
    tcase_add_test(tests, a_forward_pass_alone_is_timed_without_scores);
    suite_add_tcase(suite, tests);

    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed > 0;
}
