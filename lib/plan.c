/* SPDX-License-Identifier: Apache-2.0 */
/* plan.c - families compared, over all numbers of tokens. */
#include "config.h"

#include <string.h>

#include "plan.h"

/* How many times faster another family has to be for a range to begin: where
 * two are alike, what divides well among multiprocessors would have them take
 * turns. */
#define GAIN 1.03

/* The families to choose among. */
typedef struct candidates {
    const fex_problem *problem;
    const fex_device *device;
    size_t count;
    const fex_variant *variants[FEX_FAMILIES_MAX];
} candidates;

static candidates find_candidates(const fex_problem *problem,
                                  const fex_device *device, fex_pass pass,
                                  const char *family)
{
    size_t count;
    const fex_variant *const *const table = fex_variant_table(&count);
    candidates found = {.problem = problem, .device = device};
    for (size_t i = 0; i < count; i++)
        if (table[i]->pass == pass &&
            (family == NULL || strcmp(table[i]->name, family) == 0) &&
            table[i]->applies(problem, device->architecture))
            found.variants[found.count++] = table[i];
    if (found.count == 0)
        found.variants[found.count++] = fex_variant_last(pass);
    return found;
}

/* None takes no time: 0 tokens are those of 1. */
static double seconds_of(const candidates *among, size_t i, int64_t num_tokens)
{
    return among->variants[i]->estimate(among->problem, among->device,
                                        num_tokens > 0 ? num_tokens : 1);
}

static size_t fastest(const candidates *among, int64_t num_tokens)
{
    size_t best = 0;
    if (among->count == 1)
        return best;
    double least = seconds_of(among, best, num_tokens);
    for (size_t i = 1; i < among->count; i++) {
        const double seconds = seconds_of(among, i, num_tokens);
        if (seconds < least) {
            least = seconds;
            best = i;
        }
    }
    return best;
}

/* Numbers of tokens at which families are compared: each of the first few, then
 * a quarter apart; and both each power of two, which calls often have and tiles
 * fit, and the number after it, which needs one tile more. */
static int64_t next_number(int64_t num_tokens)
{
    int64_t power = 1;
    while (power <= num_tokens)
        power *= 2;
    if (num_tokens == power / 2)
        return num_tokens + 1;
    return fex_min(num_tokens + num_tokens / 4 + 1, power);
}

/* Whether another is faster by enough to change over to it. */
static int is_beaten(const candidates *among, size_t i, int64_t num_tokens)
{
    const size_t best = fastest(among, num_tokens);
    return best != i && seconds_of(among, i, num_tokens) >
                            GAIN * seconds_of(among, best, num_tokens);
}

/* One is beaten for `last` tokens and not for `first`: from where on. */
static int64_t find_change(const candidates *among, size_t i, int64_t first,
                           int64_t last)
{
    while (last - first > 1) {
        const int64_t middle = first + (last - first) / 2;
        if (is_beaten(among, i, middle))
            last = middle;
        else
            first = middle;
    }
    return last;
}

/* Where there is no room for more, the last range takes in what follows. */
static void add_range(fex_plan *plan, int64_t first, const fex_variant *variant)
{
    if (plan->count < FEX_RANGES_MAX)
        plan->ranges[plan->count++].first = first;
    plan->ranges[plan->count - 1].variant = variant;
    if (plan->count > 1 && plan->ranges[plan->count - 2].variant == variant)
        plan->count--;
}

void fex_plan_make(const fex_problem *problem, const fex_device *device,
                   fex_pass pass, const char *family, fex_plan *plan)
{
    const candidates among = find_candidates(problem, device, pass, family);
    const int64_t most = FEX_PAIRS_MAX / problem->top_k;
    size_t current = fastest(&among, 0);
    int64_t at = 0;
    *plan = (fex_plan){0};
    add_range(plan, 0, among.variants[current]);
    while (at < most) {
        int64_t next = next_number(at) < most ? next_number(at) : most;
        if (is_beaten(&among, current, next)) {
            next = find_change(&among, current, at, next);
            current = fastest(&among, next);
            add_range(plan, next, among.variants[current]);
        }
        at = next;
    }
}

size_t fex_plan_reach(const fex_plan *plan, int64_t num_tokens)
{
    size_t count = 1;
    while (count < plan->count && plan->ranges[count].first <= num_tokens)
        count++;
    return count;
}

const fex_variant *fex_plan_find(const fex_plan *plan, int64_t num_tokens)
{
    return plan->ranges[fex_plan_reach(plan, num_tokens) - 1].variant;
}

/* ---- Without the device ------------------------------------------------- */

enum { EXAMPLES = 3, PARTS = 8 };

/* A family may be chosen by some device of an architecture if one of these
 * examples takes no more than so many times the least: by as much, and hardly
 * more, the others differ from the nearest of them in what makes one family
 * faster than another. */
#define LIKELY 2.5

/* Marks those that are likely for num_tokens tokens on the device. */
static void mark_likely(const candidates *among, int64_t num_tokens, int *marks)
{
    const double least =
        seconds_of(among, fastest(among, num_tokens), num_tokens);
    for (size_t i = 0; i < among->count; i++)
        if (seconds_of(among, i, num_tokens) <= LIKELY * least)
            marks[i] = 1;
}

/* The i-th of those that stand for all devices of the architecture: the typical
 * one; an eighth of it, as small as devices and parts of devices get; and such
 * an eighth that has all the memory's rate to itself. */
static void find_example(const fex_architecture *architecture, int i,
                         fex_device *device)
{
    fex_device_typical(architecture, device);
    const double memory_rate = device->memory_rate;
    if (i > 0)
        fex_device_part(device, PARTS);
    if (i > 1)
        device->memory_rate = memory_rate;
}

size_t fex_plan_likely(const fex_problem *problem,
                       const fex_architecture *architecture, fex_pass pass,
                       int64_t num_tokens, const char *family,
                       const fex_variant **likely)
{
    fex_device device;
    int marks[FEX_FAMILIES_MAX] = {0};
    size_t count = 0;
    find_example(architecture, 0, &device);
    const candidates among = find_candidates(problem, &device, pass, family);
    for (int i = 0; i < EXAMPLES && among.count > 1; i++) {
        find_example(architecture, i, &device);
        for (int64_t t = 0; t < num_tokens; t = next_number(t))
            mark_likely(&among, t, marks);
        mark_likely(&among, num_tokens, marks);
    }
    for (size_t i = 0; i < among.count; i++)
        if (marks[i] || among.count == 1)
            likely[count++] = among.variants[i];
    return count;
}
