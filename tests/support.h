/* SPDX-License-Identifier: Apache-2.0 */
/* support.h - random data for tests, and how far a result is from the truth.
 *
 * Everything follows from a seed, so that a failure can be run again. */
#ifndef TEST_SUPPORT_H
#define TEST_SUPPORT_H

#include <stddef.h>
#include <stdint.h>

#include "flashexpert_rtc.h"

/* Memory, or the end of the program: a thread other than Check's cannot fail a
 * test. Never NULL, 0 bytes included. */
void *test_allocate(size_t bytes);

/* ---- Random numbers ------------------------------------------------------ */

typedef struct test_random {
    uint64_t state; /* any value is a seed */
} test_random;

uint64_t test_random_bits(test_random *random);
double test_random_uniform(test_random *random); /* in [0, 1) */
double test_random_normal(test_random *random);
int64_t test_random_below(test_random *random, int64_t limit);

/* ---- Data ---------------------------------------------------------------- */

/* How tokens choose experts. */
typedef enum test_distribution {
    TEST_UNIFORM,
    TEST_ZIPF, /* expert e with a probability near 1 / (e + 1) */
    TEST_SAME, /* all the same one */
    TEST_DISTRIBUTIONS
} test_distribution;

const char *test_distribution_name(test_distribution distribution);

/* One index; with `empty` it may be negative or out of range instead, about
 * once in eight. */
int64_t test_random_index(test_random *random, test_distribution distribution,
                          int64_t num_experts, int empty);

/* Normal numbers. */
void test_random_row(test_random *random, double mean, double deviation,
                     int64_t count, double *values);

/* ---- Errors -------------------------------------------------------------- */

/* The relative error in the Frobenius norm; 0 where both are all zero. NaN
 * where a result is NaN, so compare as !(error <= tolerance). */
double test_relative_error(const double *result, const double *truth,
                           int64_t count);

/* What one rounding to dtype after sums in float32 comes to in this norm, over
 * numbers that are many and alike. */
double test_tolerance(fex_dtype dtype);

#endif
