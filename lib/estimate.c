/* SPDX-License-Identifier: Apache-2.0 */
/* estimate.c - what families' estimates of their time are made of. */
#include "config.h"

#include <math.h>

#include "estimate.h"

double fex_row_bytes(const fex_problem *problem)
{
    return (double)problem->hidden_size *
           (double)fex_dtype_bytes(problem->dtype);
}

double fex_chosen_bytes(const fex_problem *problem, int64_t num_tokens)
{
    const double experts = (double)problem->num_experts;
    const double pairs = (double)num_tokens * (double)problem->top_k;
    return 2 * fex_row_bytes(problem) * -expm1(-pairs / experts) * experts;
}

double fex_memory_seconds(const fex_device *device, double bytes, double share)
{
    return bytes / (share * device->memory_rate);
}

double fex_gather_seconds(const fex_device *device, double bytes, double share)
{
    return bytes / (share * device->l2_rate);
}

double fex_clock_seconds(const fex_device *device, double clocks)
{
    return clocks / device->clock;
}

double fex_shared_seconds(const fex_device *device, double clocks)
{
    return fex_clock_seconds(device, clocks / device->multiprocessors);
}

double fex_tiles_seconds(const fex_device *device, int64_t tiles,
                         double operations, double share)
{
    const int64_t rounds =
        (tiles + device->multiprocessors - 1) / device->multiprocessors;
    return (double)rounds * operations * device->multiprocessors /
           (share * device->tensor_rate);
}

double fex_chunks_seconds(
    const fex_problem *problem, const fex_device *device, int64_t num_tokens,
    int64_t chunk,
    double (*chunk_seconds)(const fex_problem *problem,
                            const fex_device *device, int64_t num_tokens))
{
    const int64_t rest = num_tokens % chunk;
    const double whole = (double)(num_tokens / chunk) *
                         chunk_seconds(problem, device, chunk);
    return rest > 0 ? whole + chunk_seconds(problem, device, rest) : whole;
}
