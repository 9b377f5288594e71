/* SPDX-License-Identifier: Apache-2.0 */
/* loader.c - kernels by key: in memory, on disk, or compiled now. */
#include "config.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "digest.h"
#include "loader.h"

/* One key. Slots are only added until the loader goes, so that they are looked
 * through without a lock. */
typedef enum slot_state {
    SLOT_EMPTY, /* nobody has tried yet, or the last try failed */
    SLOT_LOADING,
    SLOT_READY
} slot_state;

typedef struct slot {
    struct slot *next;
    char key[FEX_DIGEST_TEXT];
    _Atomic slot_state state;
    fex_module module; /* once ready, never changes */
    unsigned tries;    /* finished */
    fex_status status; /* of the last try, */
    char error[512];   /* and what it said */
} slot;

struct fex_loader {
    fex_loader_options options;
    pthread_mutex_t lock; /* over what follows, and slots but for reading */
    pthread_cond_t changed;
    fex_jit_function monitor;
    void *monitor_user;
    double compile_seconds;

    _Atomic(slot *) slots;
    atomic_uint_fast64_t memory_hits, cache_hits, cache_misses, compiles;
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
        if (unload && s->state == SLOT_READY)
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

static fex_status check_policy(const fex_loader *loader,
                               const fex_recipe *recipe)
{
    if (loader->options.policy == FEX_JIT_FORBID)
        return fex_fail(FEX_ERROR_JIT_FORBIDDEN,
                        "not in the cache, and compiling is forbidden: %s",
                        recipe->words);
    return FEX_OK;
}

/* Tells those who want to know that a kernel is going to be compiled. */
static void announce(fex_loader *loader, const fex_recipe *recipe)
{
    if (loader->options.policy == FEX_JIT_WARN)
        fex_log_write(loader->options.log, FEX_LOG_WARNING, "compiling %s",
                      recipe->words);
    pthread_mutex_lock(&loader->lock);
    const fex_jit_function monitor = loader->monitor;
    void *const user = loader->monitor_user;
    pthread_mutex_unlock(&loader->lock);
    if (monitor != NULL)
        monitor(user, recipe->words);
}

static fex_status compile(fex_loader *loader, const fex_recipe *recipe,
                          fex_cubin *cubin)
{
    announce(loader, recipe);
    const double start = seconds_now();
    return_if_error(fex_compiler_compile(loader->options.compiler, recipe,
                                         loader->options.sources, cubin));
    const double seconds = seconds_now() - start;
    atomic_fetch_add(&loader->compiles, 1);
    pthread_mutex_lock(&loader->lock);
    loader->compile_seconds += seconds;
    pthread_mutex_unlock(&loader->lock);
    fex_log_write(loader->options.log, FEX_LOG_INFO, "compiled %s in %.0f ms",
                  recipe->words, 1e3 * seconds);
    return FEX_OK;
}

/* Makes what no tier has, unless somebody else makes it first (*found). What
 * was found but is of no use is replaced in any case. *kept is FEX_ERROR_IO if
 * only we have it. */
static fex_status make_entry(fex_loader *loader, const fex_recipe *recipe,
                             fex_store_use use, int replace, fex_cubin *cubin,
                             int *found, fex_status *kept)
{
    fex_store *const store = loader->options.store;
    fex_store_lock lock;
    fex_status status = FEX_OK;
    *kept = FEX_OK;
    *found = 0;
    return_if_error(check_policy(loader, recipe));
    if (use == FEX_STORE_KEEP)
        return_if_error(fex_store_try(store));
    fex_store_lock_key(store, recipe->key, &lock);
    if (!replace)
        fex_store_find_again(store, recipe, use, cubin, found);
    if (!*found) {
        status = compile(loader, recipe, cubin);
        if (status == FEX_OK)
            *kept = fex_store_put(store, recipe, cubin);
    }
    fex_store_unlock_key(recipe->key, &lock);
    return status;
}

/* ---- Loading ------------------------------------------------------------ */

/* *unusable tells whether it is the cubin that the driver does not like. */
static fex_status load_module(const fex_loader *loader,
                              const fex_kernel_spec *spec,
                              const fex_cubin *cubin, fex_module *module,
                              int *unusable)
{
    const fex_driver *const driver = loader->options.driver;
    const char *call = "cuModuleLoadDataEx";
    CUresult result =
        driver->cuModuleLoadDataEx(&module->module, cubin->data, 0, NULL, NULL);
    const int loaded = result == CUDA_SUCCESS;
    for (size_t i = 0; i < spec->function_count && result == CUDA_SUCCESS;
         i++) {
        call = "cuModuleGetFunction";
        result = driver->cuModuleGetFunction(
            &module->functions[i], module->module, spec->functions[i]);
        if (result == CUDA_SUCCESS && spec->shared_bytes > 0) {
            call = "cuFuncSetAttribute";
            result = driver->cuFuncSetAttribute(
                module->functions[i],
                CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                spec->shared_bytes);
        }
    }
    *unusable = result == CUDA_ERROR_INVALID_IMAGE ||
                result == CUDA_ERROR_NO_BINARY_FOR_GPU ||
                result == CUDA_ERROR_INVALID_VALUE ||
                result == CUDA_ERROR_NOT_FOUND;
    if (result != CUDA_SUCCESS && loaded)
        driver->cuModuleUnload(module->module);
    return fex_driver_check(driver, result, call);
}

/* Compiles and loads. */
static fex_status bring_in_anew(fex_loader *loader,
                                const fex_kernel_spec *spec,
                                const fex_recipe *recipe, int replace,
                                fex_module *module)
{
    fex_cubin cubin;
    fex_status kept;
    int found, unusable;
    return_if_error(make_entry(loader, recipe, FEX_STORE_LOAD, replace, &cubin,
                               &found, &kept));
    const fex_status status =
        load_module(loader, spec, &cubin, module, &unusable);
    fex_cubin_free(&cubin);
    return status;
}

static fex_status bring_in(fex_loader *loader, const fex_kernel_spec *spec,
                           const fex_recipe *recipe, fex_module *module)
{
    fex_cubin cubin;
    int found, unusable;
    fex_store_find(loader->options.store, recipe, FEX_STORE_LOAD, &cubin,
                   &found);
    if (!found) {
        atomic_fetch_add(&loader->cache_misses, 1);
        return bring_in_anew(loader, spec, recipe, 0, module);
    }
    atomic_fetch_add(&loader->cache_hits, 1);
    const fex_status status =
        load_module(loader, spec, &cubin, module, &unusable);
    fex_cubin_free(&cubin);
    if (status == FEX_OK || !unusable ||
        loader->options.policy == FEX_JIT_FORBID)
        return status;
    fex_log_write(loader->options.log, FEX_LOG_WARNING,
                  "the driver refuses the cached kernel %s, which is compiled "
                  "again: %s",
                  recipe->words, fex_last_error());
    return bring_in_anew(loader, spec, recipe, 1, module);
}

/* ---- Slots -------------------------------------------------------------- */

static slot *find_slot(fex_loader *loader, const char *key)
{
    slot *s = atomic_load_explicit(&loader->slots, memory_order_acquire);
    while (s != NULL && strcmp(s->key, key) != 0)
        s = s->next;
    return s;
}

/* With the lock held; NULL without memory. */
static slot *find_or_add_slot(fex_loader *loader, const char *key)
{
    slot *s = find_slot(loader, key);
    if (s == NULL && (s = calloc(1, sizeof *s)) != NULL) {
        memcpy(s->key, key, sizeof s->key);
        s->next = loader->slots;
        atomic_store_explicit(&loader->slots, s, memory_order_release);
    }
    return s;
}

/* With the lock held, waits while another thread is at work on the slot. If it
 * succeeded the slot is ready; if it failed, its failure is ours; if there was
 * none, the slot is the caller's to fill (*fill). */
static fex_status claim_slot(fex_loader *loader, slot *s, int *fill)
{
    const unsigned tries = s->tries;
    *fill = 0;
    while (s->state == SLOT_LOADING)
        pthread_cond_wait(&loader->changed, &loader->lock);
    if (s->state == SLOT_READY)
        return FEX_OK;
    if (s->tries != tries)
        return fex_fail(s->status, "%s", s->error);
    s->state = SLOT_LOADING;
    *fill = 1;
    return FEX_OK;
}

static void finish_slot(fex_loader *loader, slot *s, fex_status status)
{
    pthread_mutex_lock(&loader->lock);
    s->tries++;
    s->status = status;
    if (status != FEX_OK)
        snprintf(s->error, sizeof s->error, "%s", fex_last_error());
    atomic_store_explicit(&s->state,
                          status == FEX_OK ? SLOT_READY : SLOT_EMPTY,
                          memory_order_release);
    pthread_cond_broadcast(&loader->changed);
    pthread_mutex_unlock(&loader->lock);
}

static fex_status fill_slot(fex_loader *loader, const fex_kernel_spec *spec,
                            const fex_recipe *recipe, slot **filled)
{
    int fill = 0;
    pthread_mutex_lock(&loader->lock);
    slot *const s = find_or_add_slot(loader, recipe->key);
    fex_status status =
        s != NULL ? claim_slot(loader, s, &fill)
                  : fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory for a kernel");
    pthread_mutex_unlock(&loader->lock);
    if (fill) {
        status = bring_in(loader, spec, recipe, &s->module);
        finish_slot(loader, s, status);
    } else if (status == FEX_OK) {
        atomic_fetch_add(&loader->memory_hits, 1);
    }
    *filled = s;
    return status;
}

fex_status fex_loader_get(fex_loader *loader, const fex_kernel_spec *spec,
                          const fex_module **module)
{
    fex_recipe recipe;
    fex_status status = FEX_OK;
    return_if_error(fex_specialize(loader->options.sources, spec, &recipe));
    slot *s = find_slot(loader, recipe.key);
    if (s != NULL && atomic_load_explicit(&s->state, memory_order_acquire) ==
                         SLOT_READY)
        atomic_fetch_add(&loader->memory_hits, 1);
    else
        status = fill_slot(loader, spec, &recipe, &s);
    if (status == FEX_OK)
        *module = &s->module;
    fex_recipe_free(&recipe);
    return status;
}

/* ---- Prewarming --------------------------------------------------------- */

/* Whether a sound entry is there, and new enough if it is to be refreshed. */
static fex_status look(fex_loader *loader, const fex_recipe *recipe,
                       unsigned flags, int *found, int *outdated)
{
    fex_cubin cubin;
    char path[512];
    int version;
    const fex_store_use use =
        (flags & FEX_PREWARM_CHECK) != 0 ? FEX_STORE_LOOK : FEX_STORE_KEEP;
    *outdated = 0;
    fex_store_find(loader->options.store, recipe, use, &cubin, found);
    if (!*found)
        return FEX_OK;
    const int made_by = cubin.compiler_version;
    fex_cubin_free(&cubin);
    if ((flags & FEX_PREWARM_REFRESH) == 0)
        return FEX_OK;
    return_if_error(fex_compiler_info(loader->options.compiler, path,
                                      sizeof path, &version));
    *outdated = made_by < version;
    return FEX_OK;
}

static fex_status prewarm_recipe(fex_loader *loader, const fex_recipe *recipe,
                                 unsigned flags, fex_prewarm_outcome *outcome)
{
    fex_cubin cubin;
    fex_status kept;
    int found, outdated;
    return_if_error(look(loader, recipe, flags, &found, &outdated));
    atomic_fetch_add(found ? &loader->cache_hits : &loader->cache_misses, 1);
    if (found && !outdated) {
        *outcome = FEX_PREWARM_HIT;
        return FEX_OK;
    }
    if ((flags & FEX_PREWARM_CHECK) != 0) {
        *outcome = FEX_PREWARM_MISSING;
        return fex_fail(FEX_ERROR_JIT_FORBIDDEN,
                        outdated ? "made by an older compiler: %s"
                                 : "not in the cache: %s",
                        recipe->words);
    }
    const fex_status status = make_entry(loader, recipe, FEX_STORE_KEEP,
                                         outdated, &cubin, &found, &kept);
    if (status == FEX_ERROR_JIT_FORBIDDEN)
        *outcome = FEX_PREWARM_MISSING;
    return_if_error(status);
    fex_cubin_free(&cubin);
    if (kept == FEX_OK)
        *outcome = found ? FEX_PREWARM_HIT : FEX_PREWARM_COMPILED;
    return kept;
}

fex_status fex_loader_try(fex_loader *loader)
{
    return loader->options.policy == FEX_JIT_FORBID
               ? FEX_OK
               : fex_store_try(loader->options.store);
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
