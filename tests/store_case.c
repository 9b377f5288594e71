/* SPDX-License-Identifier: Apache-2.0 */
/* store_case.c - what tests of the store share. */
#include "config.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "file_faults.h"
#include "store_case.h"

#define CUBIN_BYTES 500

char store_scratch[256];
char store_user[300], store_other[300];
static test_log record;

void store_set_up(void)
{
    umask(022);
    scratch_make(store_scratch);
    snprintf(store_user, sizeof store_user, "%s/user", store_scratch);
    snprintf(store_other, sizeof store_other, "%s/other", store_scratch);
    test_log_init(&record);
    file_faults_reset();
}

void store_tear_down(void)
{
    file_faults_reset();
    scratch_remove(store_scratch);
}

fex_store *store_open_with(fex_store_options options)
{
    fex_store *store;
    options.log = &record.log;
    if (options.max_bytes == 0)
        options.max_bytes = UINT64_MAX;
    ck_assert_int_eq(fex_store_create(&options, &store), FEX_OK);
    return store;
}

fex_store *store_open(const char *directory, const char *read_only)
{
    return store_open_with((fex_store_options){
        .user_dir = directory, .read_only_path = read_only});
}

fex_status store_put(fex_store *store, int64_t factor)
{
    fex_recipe recipe;
    fex_cubin cubin;
    test_recipe(&recipe, factor);
    test_cubin(&cubin, factor, CUBIN_BYTES);
    const fex_status status = fex_store_put(store, &recipe, &cubin);
    fex_cubin_free(&cubin);
    fex_recipe_free(&recipe);
    return status;
}

/* Whether the kernel is found; what is found must be right. */
int store_find(fex_store *store, int64_t factor, fex_store_use use)
{
    fex_recipe recipe;
    fex_cubin cubin, wanted;
    int found;
    test_recipe(&recipe, factor);
    test_cubin(&wanted, factor, CUBIN_BYTES);
    fex_store_find(store, &recipe, use, &cubin, &found);
    if (found) {
        ck_assert_uint_eq(cubin.size, wanted.size);
        ck_assert_mem_eq(cubin.data, wanted.data, wanted.size);
        ck_assert_int_eq(cubin.compiler_version, 13000);
        fex_cubin_free(&cubin);
    }
    fex_cubin_free(&wanted);
    fex_recipe_free(&recipe);
    return found;
}

int store_load(fex_store *store, int64_t factor)
{
    return store_find(store, factor, FEX_STORE_LOAD);
}

/* The file of a kernel in a directory; static storage. */
const char *store_file(const char *directory, int64_t factor)
{
    char name[64];
    fex_recipe recipe;
    test_recipe(&recipe, factor);
    snprintf(name, sizeof name, "%.2s/%s.fexk", recipe.key, recipe.key);
    fex_recipe_free(&recipe);
    return scratch_path(directory, name);
}

/* A directory with the kernels 1 .. count. */
void store_fill(const char *directory, int count)
{
    fex_store *const store = store_open(directory, NULL);
    for (int i = 1; i <= count; i++)
        ck_assert_int_eq(store_put(store, i), FEX_OK);
    fex_store_destroy(store);
}

int store_warnings(void)
{
    return record.count[FEX_LOG_WARNING];
}

void store_forget_warnings(void)
{
    record.count[FEX_LOG_WARNING] = 0;
}

const char *store_last_warning(void)
{
    return record.last[FEX_LOG_WARNING];
}

void store_key(char *key, int64_t factor)
{
    fex_recipe recipe;
    test_recipe(&recipe, factor);
    strcpy(key, recipe.key);
    fex_recipe_free(&recipe);
}

void store_spoil(const char *file, size_t at, unsigned char change,
                  size_t length)
{
    size_t size;
    unsigned char *const bytes = scratch_read(file, &size);
    bytes[at % size] ^= change;
    scratch_write(file, bytes, length < size ? length : size);
    free(bytes);
}

double store_seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
