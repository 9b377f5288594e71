/* SPDX-License-Identifier: Apache-2.0 */
/* prewarm.c - every kernel an operation would need, brought into the cache
 * without a device. */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "digest.h"
#include "plan.h"
#include "prewarm.h"

#define PREWARM_FLAGS (FEX_PREWARM_CHECK | FEX_PREWARM_REFRESH)

/* Each family of either pass, and the check of indices. */
enum { KERNELS_MAX = 2 * FEX_FAMILIES_MAX * FEX_KERNELS_MAX + 1 };

/* Where kernels are told of and counted, which have been, and the first
 * failure. */
typedef struct tally {
    fex_loader *loader;
    const fex_sources *sources;
    unsigned flags;
    fex_prewarm_function function;
    void *user;
    fex_prewarm_counts *counts;
    char keys[KERNELS_MAX][FEX_DIGEST_TEXT];
    size_t key_count;
    fex_status status;
    char error[1024];
} tally;

static fex_status check_architecture(const fex_context *context,
                                     const char *name,
                                     const fex_architecture **architecture)
{
    if (name != NULL)
        return fex_architecture_find(name, architecture);
    *architecture = context->device.architecture;
    if (*architecture == NULL)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "architecture is NULL and the context has no device");
    return FEX_OK;
}

static void count_kernel(fex_prewarm_counts *counts,
                         fex_prewarm_outcome outcome)
{
    uint64_t *const of_outcome[] = {[FEX_PREWARM_HIT] = &counts->hit,
                                    [FEX_PREWARM_COMPILED] = &counts->compiled,
                                    [FEX_PREWARM_MISSING] = &counts->missing,
                                    [FEX_PREWARM_FAILED] = &counts->failed};
    counts->requested++;
    ++*of_outcome[outcome];
}

/* Families and passes share kernels. */
static int is_new(tally *t, const char *key)
{
    for (size_t i = 0; i < t->key_count; i++)
        if (strcmp(t->keys[i], key) == 0)
            return 0;
    snprintf(t->keys[t->key_count++], FEX_DIGEST_TEXT, "%s", key);
    return 1;
}

/* Keeps a failure before any other call of this thread, of the function that is
 * told too, can replace its sentence. */
static void note(tally *t, fex_prewarm_outcome outcome, fex_status status)
{
    if (t->counts != NULL)
        count_kernel(t->counts, outcome);
    if (t->status == FEX_OK && status != FEX_OK) {
        t->status = status;
        snprintf(t->error, sizeof t->error, "%s", fex_last_error());
    }
}

/* Brings in one kernel; after a failure the others are still tried. */
static void prewarm_kernel(tally *t, const fex_kernel_spec *spec)
{
    fex_recipe recipe;
    fex_prewarm_outcome outcome = FEX_PREWARM_FAILED;
    fex_status status = fex_specialize(t->sources, spec, &recipe);
    if (status != FEX_OK) {
        note(t, outcome, status);
        return;
    }
    if (is_new(t, recipe.key)) {
        status = fex_loader_prewarm(t->loader, spec, t->flags, &outcome);
        note(t, outcome, status);
        if (t->function != NULL)
            t->function(t->user, outcome, recipe.words);
    }
    fex_recipe_free(&recipe);
}

static void prewarm_family(tally *t, const fex_problem *problem,
                           const fex_architecture *architecture,
                           const fex_variant *variant)
{
    fex_kernel_spec specs[FEX_KERNELS_MAX];
    const size_t count = variant->describe(
        problem, architecture, fex_geometry_for(problem, 16), specs);
    for (size_t i = 0; i < count; i++)
        prewarm_kernel(t, &specs[i]);
}

/* The families that a device of the architecture may choose, and those that
 * this one does if it is one. */
static size_t find_families(const fex_context *context,
                            const fex_device *device,
                            const fex_problem *problem,
                            const fex_architecture *architecture, fex_pass pass,
                            int64_t num_tokens, const fex_variant **found)
{
    const char *const family = context->environment.family;
    size_t count = fex_plan_likely(problem, architecture, pass, num_tokens,
                                   family, found);
    if (device == NULL || device->architecture != architecture)
        return count;
    fex_plan plan;
    fex_plan_make(problem, device, pass, family, &plan);
    for (size_t i = 0; i < fex_plan_reach(&plan, num_tokens); i++) {
        size_t known = 0;
        while (known < count && found[known] != plan.ranges[i].variant)
            known++;
        if (known == count)
            found[count++] = plan.ranges[i].variant;
    }
    return count;
}

fex_status fex_prewarm_for(fex_context *context, const fex_device *device,
                           const fex_op_desc *desc, fex_pass passes,
                           int64_t num_tokens, const char *architecture,
                           unsigned flags, fex_prewarm_function function,
                           void *user, fex_prewarm_counts *counts)
{
    fex_problem problem;
    const fex_architecture *target;
    return_if_error(fex_problem_init(&problem, desc));
    return_if_error(fex_problem_check_tokens(&problem, num_tokens));
    return_if_error(fex_variant_check_family(context->environment.family));
    return_if_error(check_architecture(context, architecture, &target));
    return_if_error(fex_problem_check_passes(passes));
    if ((flags & ~PREWARM_FLAGS) != 0)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "flags is %#x, with unknown bits", flags);
    if (counts != NULL)
        return_if_error(fex_check_size(counts, counts->size, sizeof *counts,
                                       sizeof *counts, "fex_prewarm_counts"));

    tally t = {.loader = context->loader,
               .sources = &context->sources,
               .flags = flags,
               .function = function,
               .user = user,
               .counts = counts,
               .status = FEX_OK};
    for (int pass = FEX_PASS_FORWARD; pass <= FEX_PASS_BACKWARD; pass++) {
        if (((int)passes & pass) == 0)
            continue;
        const fex_variant *found[FEX_FAMILIES_MAX];
        const size_t count =
            find_families(context, device, &problem, target, (fex_pass)pass,
                          num_tokens, found);
        for (size_t i = 0; i < count; i++)
            prewarm_family(&t, &problem, target, found[i]);
    }
    if (problem.check_indices) {
        fex_kernel_spec check;
        fex_describe_check(&problem, target, &check);
        prewarm_kernel(&t, &check);
    }
    return t.status == FEX_OK ? FEX_OK : fex_fail(t.status, "%s", t.error);
}

fex_status fex_prewarm(fex_context *context, const fex_op_desc *desc,
                       fex_pass passes, int64_t num_tokens,
                       const char *architecture, unsigned flags,
                       fex_prewarm_function function, void *user,
                       fex_prewarm_counts *counts)
{
    return_if_error(fex_context_check(context));
    return fex_prewarm_for(context, &context->device, desc, passes, num_tokens,
                           architecture, flags, function, user, counts);
}
