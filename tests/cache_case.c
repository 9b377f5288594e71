/* SPDX-License-Identifier: Apache-2.0 */
/* cache_case.c - what tests of the kernel cache share. */
#include "config.h"

#include <check.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "architecture.h"
#include "cache_case.h"

/* ---- Scratch directories ------------------------------------------------- */

void scratch_make(char *path)
{
    const char *const where = getenv("TMPDIR");
    snprintf(path, 256, "%s/flashexpert-test-XXXXXX",
             where != NULL && *where != '\0' ? where : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(path));
}

static int remove_one(const char *path, const struct stat *status, int type,
                      struct FTW *walk)
{
    (void)status;
    (void)type;
    (void)walk;
    return remove(path);
}

/* Directories that were made unreadable must be opened up first. */
static int open_up(const char *path, const struct stat *status, int type,
                   struct FTW *walk)
{
    (void)status;
    (void)walk;
    if (type == FTW_D || type == FTW_DNR)
        chmod(path, 0700);
    return 0;
}

void scratch_remove(const char *path)
{
    nftw(path, open_up, 16, FTW_PHYS);
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *scratch_path(const char *directory, const char *name)
{
    static _Thread_local char paths[32][512];
    static _Thread_local int next;
    char *const path = paths[next++ % 32];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

void scratch_write(const char *path, const void *bytes, size_t size)
{
    FILE *const file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(bytes, 1, size, file), size);
    ck_assert_int_eq(fclose(file), 0);
}

unsigned char *scratch_read(const char *path, size_t *size)
{
    struct stat status;
    FILE *const file = fopen(path, "rb");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_eq(fstat(fileno(file), &status), 0);
    *size = (size_t)status.st_size;
    unsigned char *const bytes = malloc(*size + 1);
    ck_assert_ptr_nonnull(bytes);
    ck_assert_uint_eq(fread(bytes, 1, *size, file), *size);
    fclose(file);
    return bytes;
}

static struct {
    const char *suffix;
    int count;
} counting;

static int count_one(const char *path, const struct stat *status, int type,
                     struct FTW *walk)
{
    const size_t length = strlen(path), wanted = strlen(counting.suffix);
    (void)status;
    (void)type;
    (void)walk;
    counting.count += length >= wanted &&
                      strcmp(path + length - wanted, counting.suffix) == 0;
    return 0;
}

int scratch_count(const char *directory, const char *suffix)
{
    counting.suffix = suffix;
    counting.count = 0;
    nftw(directory, count_one, 16, FTW_PHYS);
    return counting.count;
}

/* ---- Logs ---------------------------------------------------------------- */

static void record_message(void *user, fex_log_level level,
                           const char *message)
{
    test_log *const record = user;
    pthread_mutex_lock(&record->lock);
    record->count[level]++;
    snprintf(record->last[level], sizeof record->last[level], "%s", message);
    pthread_mutex_unlock(&record->lock);
}

void test_log_init(test_log *record)
{
    memset(record, 0, sizeof *record);
    pthread_mutex_init(&record->lock, NULL);
    fex_log_init(&record->log, record_message, record, NULL);
}

/* ---- Kernels ------------------------------------------------------------- */

static const char twice_text[] =
    "#include \"number.cuh\"\n"
    "static_assert(FACTOR > 0);\n"
    "extern \"C\" __global__ void twice(number *x)\n"
    "{\n"
    "    x[threadIdx.x] *= FACTOR;\n"
    "}\n";
static const char broken_text[] = "int x = ;\n";
static const char number_text[] = "typedef float number;\n";

static const fex_source files[] = {
    {"broken.cu", broken_text, sizeof broken_text - 1},
    {"number.cuh", number_text, sizeof number_text - 1},
    {"twice.cu", twice_text, sizeof twice_text - 1},
};

const fex_sources test_sources = {
    .files = files, .count = 3, .digest = "0123456789abcdef0123456789abcdef"};

void test_spec(fex_kernel_spec *spec, int64_t factor)
{
    *spec = (fex_kernel_spec){
        .file = "twice.cu",
        .functions = {"twice"},
        .function_count = 1,
        .architecture = fex_architecture_by_name("sm_90a"),
        .constants = {{"FACTOR", factor}},
        .constant_count = 1};
}

void test_recipe(fex_recipe *recipe, int64_t factor)
{
    fex_kernel_spec spec;
    test_spec(&spec, factor);
    ck_assert_int_eq(fex_specialize(&test_sources, &spec, recipe), FEX_OK);
}

void test_cubin(fex_cubin *cubin, int64_t factor, size_t size)
{
    *cubin = (fex_cubin){
        .data = malloc(size), .size = size, .compiler_version = 13000};
    ck_assert_ptr_nonnull(cubin->data);
    for (size_t i = 0; i < size; i++)
        cubin->data[i] = (unsigned char)(31 * (int)i + (int)factor);
}
