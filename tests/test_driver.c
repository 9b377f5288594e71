/* SPDX-License-Identifier: Apache-2.0 */
/* test_driver.c - opening the driver library, and what is said where that
 * fails. The libraries opened are stand-ins that the test compiles. */
#include "config.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "driver.h"
#include "suite.h"

#define SYMBOL_OF(name) #name
#define SYMBOL(name) SYMBOL_OF(name)

static const char *const symbols[] = {
#define DRIVER_SYMBOL(name) SYMBOL(name),
    FEX_DRIVER_FUNCTIONS(DRIVER_SYMBOL)
#undef DRIVER_SYMBOL
};

static char folder[] = "/tmp/flashexpert-driver-XXXXXX";
static char library[PATH_MAX];

static void make_folder(void)
{
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static void remove_folder(void)
{
    char command[PATH_MAX];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    ck_assert_int_eq(system(command), 0);
}

/* Those of its functions that do more than succeed. */
static const char special[] =
    "int cuInit(unsigned flags) { (void)flags; return CU_INIT; }\n"
    "int cuDriverGetVersion(int *version) { *version = 12345; return 0; }\n"
    "int cuGetErrorName(int error, const char **name)\n"
    "{ if (error > 900) return 1;\n"
    "  *name = \"CUDA_ERROR_OF_TEST\"; return 0; }\n"
    "int cuGetErrorString(int error, const char **text)\n"
    "{ if (error > 900) return 1; *text = \"as planned\"; return 0; }\n";

/* Compiles a driver of which cuInit gives `result` and `missing` is not
 * there. */
static void make_library(int result, const char *missing)
{
    char source[PATH_MAX], command[4 * PATH_MAX];
    const char *const compiler = getenv("CC");
    snprintf(source, sizeof source, "%s/driver.c", folder);
    snprintf(library, sizeof library, "%s/libdriver.so", folder);
    FILE *const file = fopen(source, "w");
    ck_assert_ptr_nonnull(file);
    fprintf(file, "#define CU_INIT %d\n%s", result, special);
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        char head[80];
        snprintf(head, sizeof head, "int %s(", symbols[i]);
        if (strstr(special, head) == NULL &&
            (missing == NULL || strcmp(symbols[i], missing) != 0))
            fprintf(file, "int %s(void) { return 0; }\n", symbols[i]);
    }
    fclose(file);
    snprintf(command, sizeof command, "%s -shared -fPIC -w -o '%s' '%s'",
             compiler != NULL ? compiler : "cc", library, source);
    ck_assert_int_eq(system(command), 0);
}

/* The library is refused, and nothing of it stays in the table. */
static void refuses(const char *name, fex_status status, const char *words)
{
    static const fex_driver nothing;
    fex_driver driver;
    test_refused(fex_driver_open(name, &driver), status, words);
    ck_assert_int_eq(memcmp(&driver, &nothing, sizeof driver), 0);
}

START_TEST(good_library_is_opened)
{
    fex_driver driver;
    make_library(0, NULL);
    test_ok(fex_driver_open(library, &driver));
    ck_assert_int_eq(driver.version, 12345);
    ck_assert_str_eq(driver.path, library);
    ck_assert_int_eq(driver.cuInit(0), 0);
    ck_assert_int_eq(driver.cuMemFree(0), 0);
    fex_driver_close(&driver);
    ck_assert_ptr_null(driver.library);
}
END_TEST

START_TEST(missing_library_is_named)
{
    refuses("/nonexistent/libcuda.so", FEX_ERROR_NO_DRIVER,
            "no NVIDIA driver here (/nonexistent/libcuda.so: ");
    refuses("/nonexistent/libcuda.so", FEX_ERROR_NO_DRIVER,
            "; FLASHEXPERT_LIBCUDA names it");
}
END_TEST

START_TEST(other_files_are_refused)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/text.so", folder);
    FILE *const file = fopen(path, "w");
    fputs("not a library\n", file);
    fclose(file);
    refuses(path, FEX_ERROR_NO_DRIVER, path);
}
END_TEST

/* _i: each function, as an older driver lacks it. */
START_TEST(missing_function_is_named)
{
    /* The stand-in's own four cannot be left out. */
    char head[80];
    snprintf(head, sizeof head, "int %s(", symbols[_i]);
    if (strstr(special, head) != NULL)
        return;
    make_library(0, symbols[_i]);
    refuses(library, FEX_ERROR_NO_DRIVER, symbols[_i]);
}
END_TEST

START_TEST(driver_without_a_device)
{
    make_library(CUDA_ERROR_NO_DEVICE, NULL);
    refuses(library, FEX_ERROR_NO_DEVICE, "no CUDA device");
}
END_TEST

START_TEST(failure_to_initialise_is_told)
{
    make_library(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, NULL);
    refuses(library, FEX_ERROR_DRIVER,
            "cuInit: CUDA_ERROR_OF_TEST (as planned)");
}
END_TEST

START_TEST(results_become_statuses)
{
    fex_driver driver;
    make_library(0, NULL);
    test_ok(fex_driver_open(library, &driver));
    test_ok(fex_driver_check(&driver, CUDA_SUCCESS, "cuCall"));
    test_refused(
        fex_driver_check(&driver, CUDA_ERROR_OUT_OF_MEMORY, "cuCall"),
        FEX_ERROR_DEVICE_OUT_OF_MEMORY, "cuCall: CUDA_ERROR_OF_TEST");
    test_refused(
        fex_driver_check(&driver, CUDA_ERROR_ILLEGAL_ADDRESS, "cuCall"),
        FEX_ERROR_DRIVER, "cuCall: CUDA_ERROR_OF_TEST (as planned)");
    /* An error that the driver itself has no name for. */
    test_refused(fex_driver_check(&driver, CUDA_ERROR_UNKNOWN, "cuCall"),
                 FEX_ERROR_DRIVER, "cuCall: unknown error");
    fex_driver_close(&driver);
}
END_TEST

static void fill(TCase *tests)
{
    tcase_add_checked_fixture(tests, make_folder, remove_folder);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, good_library_is_opened);
    tcase_add_test(tests, missing_library_is_named);
    tcase_add_test(tests, other_files_are_refused);
    tcase_add_loop_test(tests, missing_function_is_named, 0,
                        (int)(sizeof symbols / sizeof *symbols));
    tcase_add_test(tests, driver_without_a_device);
    tcase_add_test(tests, failure_to_initialise_is_told);
    tcase_add_test(tests, results_become_statuses);
}

int main(void)
{
    return test_suite_main("driver", fill);
}
