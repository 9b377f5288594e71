/* SPDX-License-Identifier: Apache-2.0 */
/* loader.c - kernels by key: in memory, on disk, or compiled now. */
#include "config.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "loader.h"

/* One key. While `loading`, the thread that made the slot is at work on it and
 * others wait; a slot that failed is taken out again, so that the next call
 * tries anew. */
typedef struct slot {
    struct slot *next;
    char key[33];
    int loading;
    fex_module module;
} slot;

struct fex_loader {
    fex_loader_options options;
    pthread_mutex_t lock; /* over the slots, the monitor and the seconds */
    pthread_cond_t changed;
    slot *slots;
    fex_jit_function monitor;
    void *monitor_user;
    double compile_seconds;
    atomic_uint_fast64_t memory_hits, cache_hits, cache_misses, compiles;
    atomic_int warned; /* that the cache cannot be written */
};

fex_status fex_loader_create(const fex_loader_options *options,
                             fex_loader **loader)
{
    fex_loader *const made = calloc(1, sizeof *made);
    if (made == NULL)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory for a loader");
    made->options = *options;
    pthread_mutex_init(&made->lock, NULL);
    pthread_cond_init(&made->changed, NULL);
    *loader = made;
    return FEX_OK;
}

void fex_loader_destroy(fex_loader *loader, int unload)
{
    if (loader == NULL)
        return;
    for (slot *s = loader->slots, *next; s != NULL; s = next) {
        next = s->next;
        if (unload)
            loader->options.driver->cuModuleUnload(s->module.module);
        free(s);
    }
    pthread_cond_destroy(&loader->changed);
    pthread_mutex_destroy(&loader->lock);
    free(loader);
}

void fex_loader_monitor(fex_loader *loader, fex_jit_function function,
                        void *user)
{
    pthread_mutex_lock(&loader->lock);
    loader->monitor = function;
    loader->monitor_user = user;
    pthread_mutex_unlock(&loader->lock);
}

void fex_loader_get_stats(fex_loader *loader, fex_context_stats *stats)
{
    pthread_mutex_lock(&loader->lock);
    stats->compile_seconds = loader->compile_seconds;
    pthread_mutex_unlock(&loader->lock);
    stats->memory_hits = atomic_load(&loader->memory_hits);
    stats->cache_hits = atomic_load(&loader->cache_hits);
    stats->cache_misses = atomic_load(&loader->cache_misses);
    stats->compiles = atomic_load(&loader->compiles);
    stats->damaged = fex_store_damaged(loader->options.store);
}

/* ---- Compiling ---------------------------------------------------------- */

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* What policy and monitor have to say before a kernel is compiled. */
static fex_status announce(fex_loader *loader, const fex_recipe *recipe)
{
    const fex_loader_options *const options = &loader->options;
    if (options->policy == FEX_JIT_FORBID)
        return fex_fail(FEX_ERROR_JIT_FORBIDDEN,
                        "not in the cache, and compiling is forbidden: %s",
                        recipe->words);
    if (options->policy == FEX_JIT_WARN)
        fex_log_write(options->log, FEX_LOG_WARNING, "compiling %s",
                      recipe->words);
    pthread_mutex_lock(&loader->lock);
    const fex_jit_function monitor = loader->monitor;
    void *const user = loader->monitor_user;
    pthread_mutex_unlock(&loader->lock);
    if (monitor != NULL)
        monitor(user, recipe->words);
    return FEX_OK;
}

static fex_status compile(fex_loader *loader, const fex_recipe *recipe,
                          fex_cubin *cubin)
{
    return_if_error(announce(loader, recipe));
    const double start = seconds_now();
    const fex_status status = fex_compiler_compile(
        loader->options.compiler, recipe, loader->options.sources, cubin);
    const double seconds = seconds_now() - start;
    if (status == FEX_OK)
        atomic_fetch_add(&loader->compiles, 1);
    pthread_mutex_lock(&loader->lock);
    loader->compile_seconds += seconds;
    pthread_mutex_unlock(&loader->lock);
    fex_log_write(loader->options.log, FEX_LOG_INFO, "compiled %s in %.0f ms",
                  recipe->words, 1e3 * seconds);
    return status;
}

/* The cubin from a tier, or compiled and kept. That it cannot be kept is worth
 * one warning and no more: work goes on in memory. */
static fex_status get_cubin(fex_loader *loader, const fex_recipe *recipe,
                            fex_cubin *cubin)
{
    int found;
    return_if_error(
        fex_store_find(loader->options.store, recipe, cubin, &found));
    if (found) {
        atomic_fetch_add(&loader->cache_hits, 1);
        return FEX_OK;
    }
    atomic_fetch_add(&loader->cache_misses, 1);
    return_if_error(compile(loader, recipe, cubin));
    if (fex_store_put(loader->options.store, recipe, cubin) != FEX_OK &&
        atomic_exchange(&loader->warned, 1) == 0)
        fex_log_write(loader->options.log, FEX_LOG_WARNING,
                      "kernels are kept in memory only: %s", fex_last_error());
    return FEX_OK;
}

/* ---- Loading ------------------------------------------------------------ */

static fex_status load_module(const fex_loader *loader,
                              const fex_kernel_spec *spec,
                              const fex_cubin *cubin, fex_module *module)
{
    const fex_driver *const driver = loader->options.driver;
    fex_status status = FEX_OK;
    return_if_error(fex_driver_check(
        driver,
        driver->cuModuleLoadDataEx(&module->module, cubin->data, 0, NULL, NULL),
        "cuModuleLoadDataEx"));
    for (size_t i = 0; i < spec->function_count && status == FEX_OK; i++)
        status = fex_driver_check(
            driver,
            driver->cuModuleGetFunction(&module->functions[i], module->module,
                                        spec->functions[i]),
            "cuModuleGetFunction");
    if (status != FEX_OK)
        driver->cuModuleUnload(module->module);
    return status;
}

static fex_status bring_in(fex_loader *loader, const fex_kernel_spec *spec,
                           const fex_recipe *recipe, fex_module *module)
{
    fex_cubin cubin;
    return_if_error(get_cubin(loader, recipe, &cubin));
    const fex_status status = load_module(loader, spec, &cubin, module);
    fex_cubin_free(&cubin);
    return status;
}

static slot *find_slot(const fex_loader *loader, const char *key)
{
    slot *s = loader->slots;
    while (s != NULL && strcmp(s->key, key) != 0)
        s = s->next;
    return s;
}

static void remove_slot(fex_loader *loader, slot *gone)
{
    slot **link = &loader->slots;
    while (*link != gone)
        link = &(*link)->next;
    *link = gone->next;
    free(gone);
}

/* The slot of a key: a finished one, after waiting if need be, or a new one
 * that is the caller's to fill (*fill). NULL without memory. */
static slot *claim_slot(fex_loader *loader, const char *key, int *fill)
{
    slot *s;
    while ((s = find_slot(loader, key)) != NULL && s->loading)
        pthread_cond_wait(&loader->changed, &loader->lock);
    *fill = s == NULL;
    if (s == NULL && (s = calloc(1, sizeof *s)) != NULL) {
        strcpy(s->key, key);
        s->loading = 1;
        s->next = loader->slots;
        loader->slots = s;
    }
    return s;
}

static fex_status get_by_recipe(fex_loader *loader,
                                const fex_kernel_spec *spec,
                                const fex_recipe *recipe,
                                const fex_module **module)
{
    int fill;
    pthread_mutex_lock(&loader->lock);
    slot *const s = claim_slot(loader, recipe->key, &fill);
    pthread_mutex_unlock(&loader->lock);
    if (s == NULL)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory for a kernel");
    if (!fill) {
        atomic_fetch_add(&loader->memory_hits, 1);
        *module = &s->module;
        return FEX_OK;
    }
    const fex_status status = bring_in(loader, spec, recipe, &s->module);
    pthread_mutex_lock(&loader->lock);
    s->loading = 0;
    if (status == FEX_OK)
        *module = &s->module;
    else
        remove_slot(loader, s);
    pthread_cond_broadcast(&loader->changed);
    pthread_mutex_unlock(&loader->lock);
    return status;
}

fex_status fex_loader_get(fex_loader *loader, const fex_kernel_spec *spec,
                          const fex_module **module)
{
    fex_recipe recipe;
    return_if_error(fex_specialize(loader->options.sources, spec, &recipe));
    const fex_status status = get_by_recipe(loader, spec, &recipe, module);
    fex_recipe_free(&recipe);
    return status;
}

/* ---- Prewarming --------------------------------------------------------- */

static fex_status prewarm_recipe(fex_loader *loader, const fex_recipe *recipe,
                                 unsigned flags, fex_prewarm_outcome *outcome)
{
    fex_cubin cubin;
    int found;
    *outcome = FEX_PREWARM_FAILED;
    return_if_error(fex_store_has(loader->options.store, recipe, &found));
    if (found) {
        *outcome = FEX_PREWARM_HIT;
        return FEX_OK;
    }
    if ((flags & FEX_PREWARM_CHECK) != 0) {
        *outcome = FEX_PREWARM_MISSING;
        return fex_fail(FEX_ERROR_JIT_FORBIDDEN, "not in the cache: %s",
                        recipe->words);
    }
    fex_status status = compile(loader, recipe, &cubin);
    if (status == FEX_ERROR_JIT_FORBIDDEN)
        *outcome = FEX_PREWARM_MISSING;
    return_if_error(status);
    status = fex_store_put(loader->options.store, recipe, &cubin);
    fex_cubin_free(&cubin);
    if (status == FEX_OK)
        *outcome = FEX_PREWARM_COMPILED;
    return status;
}

fex_status fex_loader_prewarm(fex_loader *loader, const fex_kernel_spec *spec,
                              unsigned flags, fex_prewarm_outcome *outcome)
{
    fex_recipe recipe;
    *outcome = FEX_PREWARM_FAILED;
    return_if_error(fex_specialize(loader->options.sources, spec, &recipe));
    const fex_status status = prewarm_recipe(loader, &recipe, flags, outcome);
    fex_recipe_free(&recipe);
    return status;
}
