/* SPDX-License-Identifier: Apache-2.0 */
/* cache_case.h - what tests of the kernel cache share: a scratch directory, a
 * record of what was logged, a recipe and its cubin. */
#ifndef TEST_CACHE_CASE_H
#define TEST_CACHE_CASE_H

#include <pthread.h>

#include "cubin.h"
#include "log.h"
#include "specialize.h"

/* ---- Scratch directories ------------------------------------------------- */

/* Makes an empty directory; path has room for 256 bytes. */
void scratch_make(char *path);
/* Removes a directory with all that is in it. */
void scratch_remove(const char *path);
/* path = directory/name; static storage, 32 at a time. */
const char *scratch_path(const char *directory, const char *name);

void scratch_write(const char *path, const void *bytes, size_t size);
/* Reads a whole file; the caller frees. */
unsigned char *scratch_read(const char *path, size_t *size);

/* How many files below a directory have a name that ends like this. */
int scratch_count(const char *directory, const char *suffix);

/* ---- Logs ---------------------------------------------------------------- */

typedef struct test_log {
    fex_log log;
    pthread_mutex_t lock;
    int count[FEX_LOG_DEBUG + 1]; /* by level */
    char last[FEX_LOG_DEBUG + 1][8192];
} test_log;

void test_log_init(test_log *record);

/* ---- Kernels ------------------------------------------------------------- */

/* Sources of two kernel files and a header: "twice.cu", whose kernel "twice"
 * needs the constant FACTOR, and "broken.cu", which does not compile. */
extern const fex_sources test_sources;

/* A specification of twice.cu for sm_90a. */
void test_spec(fex_kernel_spec *spec, int64_t factor);

/* Its recipe, and bytes that stand for its cubin. Freed by their functions. */
void test_recipe(fex_recipe *recipe, int64_t factor);
void test_cubin(fex_cubin *cubin, int64_t factor, size_t size);

#endif
