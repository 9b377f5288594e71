/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "support.h"

#include <math.h>
#include <stdlib.h>

void *test_allocate(size_t bytes)
{
    void *const memory = malloc(bytes + 1);
    if (memory == NULL)
        abort();
    return memory;
}

/* ---- Random numbers ------------------------------------------------------ */

/* SplitMix64: a counter, scrambled. */
uint64_t test_random_bits(test_random *random)
{
    uint64_t z = random->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

double test_random_uniform(test_random *random)
{
    return (double)(test_random_bits(random) >> 11) * 0x1p-53;
}

/* Box and Muller's; the second number is not worth keeping here. */
double test_random_normal(test_random *random)
{
    const double radius = sqrt(-2 * log(1 - test_random_uniform(random)));
    return radius * cos(2 * M_PI * test_random_uniform(random));
}

int64_t test_random_below(test_random *random, int64_t limit)
{
    return (int64_t)(test_random_bits(random) % (uint64_t)limit);
}

/* ---- Data ---------------------------------------------------------------- */

const char *test_distribution_name(test_distribution distribution)
{
    static const char *const names[TEST_DISTRIBUTIONS] = {
        [TEST_UNIFORM] = "uniform", [TEST_ZIPF] = "zipf", [TEST_SAME] = "same"};
    return names[distribution];
}

/* Not a number of an expert, whatever num_experts is. */
static int64_t empty_index(test_random *random, int64_t num_experts)
{
    const int64_t choices[] = {-1, INT32_MIN, num_experts, INT32_MAX};
    return choices[test_random_below(random, 4)];
}

int64_t test_random_index(test_random *random, test_distribution distribution,
                          int64_t num_experts, int empty)
{
    if (empty && test_random_below(random, 8) == 0)
        return empty_index(random, num_experts);
    switch (distribution) {
    case TEST_ZIPF: /* the integral of 1 / e, inverted */
        return (int64_t)pow((double)num_experts,
                            test_random_uniform(random)) - 1;
    case TEST_SAME:
        return num_experts / 2;
    default:
        return test_random_below(random, num_experts);
    }
}

void test_random_row(test_random *random, double mean, double deviation,
                     int64_t count, double *values)
{
    for (int64_t i = 0; i < count; i++)
        values[i] = mean + deviation * test_random_normal(random);
}

/* ---- Errors -------------------------------------------------------------- */

double test_relative_error(const double *result, const double *truth,
                           int64_t count)
{
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < count; i++) {
        const double d = result[i] - truth[i];
        difference += d * d;
        norm += truth[i] * truth[i];
    }
    if (difference == 0)
        return 0;
    return sqrt(difference / norm);
}

double test_tolerance(fex_dtype dtype)
{
    static const double tolerances[] = {[FEX_DTYPE_F16] = 2.8e-4,
                                        [FEX_DTYPE_BF16] = 2.2e-3,
                                        [FEX_DTYPE_F32] = 1e-6};
    return tolerances[dtype];
}
