/* SPDX-License-Identifier: Apache-2.0 */
/* store.c - the tiers of the kernel cache. */
#include "config.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "compiler.h"
#include "entry.h"
#include "files.h"
#include "prune.h"
#include "store.h"

#define LOCK_WAIT_MS 60000
#define UNKNOWN_BYTES UINT64_MAX

struct fex_store {
    const fex_log *log;
    uint64_t max_bytes;
    int lock_wait_ms;
    int compiler_version_min;
    fex_tiers tiers;
    char *read_only_path; /* as given */
    int64_t created;      /* seconds since 1970 */

    pthread_mutex_t lock; /* over what is used and the bytes */
    char (*used)[FEX_DIGEST_TEXT]; /* keys that must not be pruned */
    size_t used_count, used_room;
    uint64_t user_bytes; /* in the user tier, as far as we know */

    atomic_uint_fast64_t damaged;
    atomic_int warned; /* that nothing can be written */
    atomic_int tried;  /* whether something can be, and it could */
};

/* ---- Creating ----------------------------------------------------------- */

fex_status fex_store_create(const fex_store_options *options,
                            fex_store **store)
{
    const char *const path =
        options->read_only_path != NULL ? options->read_only_path : "";
    fex_status status;
    fex_store *const made = calloc(1, sizeof *made);
    if (made == NULL)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory for a store");
    made->log = options->log;
    made->max_bytes = options->max_bytes;
    made->lock_wait_ms =
        options->lock_wait_ms != 0 ? options->lock_wait_ms : LOCK_WAIT_MS;
    made->compiler_version_min = options->compiler_version_min != 0
                                     ? options->compiler_version_min
                                     : FEX_COMPILER_VERSION_MIN;
    made->created = time(NULL);
    made->user_bytes = UNKNOWN_BYTES;
    made->read_only_path = strdup(path);
    if (made->read_only_path == NULL) {
        status = fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory for a store");
        goto fail_path;
    }
    status = fex_tiers_init(&made->tiers, options->user_dir, path,
                            options->named_by, options->shared, options->log);
    if (status != FEX_OK)
        goto fail_tiers;
    pthread_mutex_init(&made->lock, NULL);
    *store = made;
    return FEX_OK;

fail_tiers:
    free(made->read_only_path);
fail_path:
    free(made);
    return status;
}

void fex_store_destroy(fex_store *store)
{
    if (store == NULL)
        return;
    fex_tiers_free(&store->tiers);
    pthread_mutex_destroy(&store->lock);
    free(store->used);
    free(store->read_only_path);
    free(store);
}

fex_tiers *fex_store_tiers(fex_store *store)
{
    return &store->tiers;
}

void fex_store_paths(const fex_store *store, char *user_dir, size_t user_size,
                     char *read_only, size_t read_only_size)
{
    snprintf(user_dir, user_size, "%s",
             store->tiers.has_user_tier ? store->tiers.items[0].path : "");
    snprintf(read_only, read_only_size, "%s", store->read_only_path);
}

uint64_t fex_store_damaged(const fex_store *store)
{
    return atomic_load(&store->damaged);
}

/* ---- What this run uses ------------------------------------------------- */

static int find_used(const fex_store *store, const char *key)
{
    for (size_t i = 0; i < store->used_count; i++)
        if (strcmp(store->used[i], key) == 0)
            return 1;
    return 0;
}

/* Without memory an entry may be pruned early, which costs a compile. */
static void note_used(fex_store *store, const char *key)
{
    pthread_mutex_lock(&store->lock);
    if (!find_used(store, key)) {
        if (store->used_count == store->used_room) {
            const size_t room = 2 * store->used_room + 64;
            void *const larger =
                realloc(store->used, room * sizeof *store->used);
            if (larger == NULL)
                goto done;
            store->used = larger;
            store->used_room = room;
        }
        snprintf(store->used[store->used_count++], FEX_DIGEST_TEXT, "%s", key);
    }
done:
    pthread_mutex_unlock(&store->lock);
}

static int is_used(void *user, const char *key)
{
    return find_used(user, key);
}

/* ---- Finding ------------------------------------------------------------ */

static void refuse(fex_store *store, const fex_tier *tier, const char *key,
                   const char *why)
{
    atomic_fetch_add(&store->damaged, 1);
    fex_log_write(store->log, FEX_LOG_WARNING,
                  "the cache entry %s in %s is not used: %s", key, tier->path,
                  why);
}

/* A user tier that is refused has had its warning; it gets no other when it
 * cannot be written. */
static void open_tier(fex_store *store, fex_tier *tier)
{
    if (!fex_tiers_open(&store->tiers, tier) &&
        tier == fex_tiers_user(&store->tiers))
        atomic_store(&store->warned, 1);
}

/* What is wrong with the bytes of an entry, or NULL. */
static const char *check_entry(const fex_store *store, const fex_recipe *recipe,
                               const unsigned char *bytes, size_t got,
                               size_t size, fex_entry *entry)
{
    if (got != size)
        return "it is too large";
    if (fex_entry_decode(bytes, size, entry) != FEX_OK)
        return fex_last_error();
    if (entry->key_length != strlen(recipe->key_text) ||
        memcmp(entry->key_text, recipe->key_text, entry->key_length) != 0)
        return "it is another kernel's";
    if (entry->compiler_version < store->compiler_version_min)
        return "its compiler is known to be wrong";
    return NULL;
}

/* Looks in one tier. What is wrong with an entry is nobody's error. */
static int find_in_tier(fex_store *store, fex_tier *tier,
                        const fex_recipe *recipe, int quiet, fex_cubin *cubin)
{
    char buffer[128];
    unsigned char *bytes;
    size_t got, size;
    fex_entry entry;
    open_tier(store, tier);
    const int error = fex_tier_read(tier, recipe->key, FEX_ENTRY_MAX, &bytes,
                                    &got, &size);
    if (error != 0) {
        if (error != ENOENT && !quiet)
            refuse(store, tier, recipe->key,
                   fex_tier_reason(error, buffer, sizeof buffer));
        return 0;
    }
    const char *const why =
        check_entry(store, recipe, bytes, got, size, &entry);
    if (why != NULL) {
        if (!quiet)
            refuse(store, tier, recipe->key, why);
        free(bytes);
        return 0;
    }
    /* The cubin moves to the front of the bytes that held the entry. */
    memmove(bytes, entry.cubin, entry.cubin_size);
    *cubin = (fex_cubin){.data = bytes,
                         .size = entry.cubin_size,
                         .compiler_version = entry.compiler_version};
    return 1;
}

static void note_use(fex_store *store, const fex_tier *tier, const char *key,
                     fex_store_use use)
{
    if (use == FEX_STORE_LOOK || tier != fex_tiers_user(&store->tiers))
        return;
    note_used(store, key);
    fex_directory_stamp(&tier->directory, key, use == FEX_STORE_LOAD);
}

void fex_store_find(fex_store *store, const fex_recipe *recipe,
                    fex_store_use use, fex_cubin *cubin, int *found)
{
    const size_t count = store->tiers.count;
    *found = 0;
    /* One that is of no use is told of even if an earlier one has it all. */
    for (size_t i = 0; i < count; i++)
        open_tier(store, &store->tiers.items[i]);
    for (size_t i = 0; i < count && !*found; i++) {
        *found = find_in_tier(store, &store->tiers.items[i], recipe, 0, cubin);
        if (*found)
            note_use(store, &store->tiers.items[i], recipe->key, use);
    }
}

void fex_store_find_again(fex_store *store, const fex_recipe *recipe,
                          fex_store_use use, fex_cubin *cubin, int *found)
{
    fex_tier *const tier = fex_tiers_user(&store->tiers);
    *found = tier != NULL && find_in_tier(store, tier, recipe, 1, cubin);
    if (*found)
        note_use(store, tier, recipe->key, use);
}

/* ---- Making entries ----------------------------------------------------- */

void fex_store_lock_key(fex_store *store, const char *key,
                        fex_store_lock *lock)
{
    char buffer[128];
    fex_tier *const tier = fex_tiers_user(&store->tiers);
    *lock = (fex_store_lock){.shard = -1, .file = -1};
    if (tier == NULL || tier->kind == FEX_TIER_REFUSED)
        return;
    const int error = fex_directory_lock_key(&tier->directory, key,
                                             store->lock_wait_ms, lock);
    if (error != 0)
        fex_log_write(store->log, FEX_LOG_DEBUG, "no lock for %s in %s: %s",
                      key, tier->path,
                      fex_files_reason(error, buffer, sizeof buffer));
}

void fex_store_unlock_key(const char *key, fex_store_lock *lock)
{
    fex_directory_unlock_key(key, lock);
}

static const char *user_path(const fex_store *store)
{
    return store->tiers.has_user_tier ? store->tiers.items[0].path : "(none)";
}

static fex_status fail_write(const fex_store *store, const char *why)
{
    return fex_fail(FEX_ERROR_IO,
                    "the cache %s cannot be written: %s; "
                    "set FLASHEXPERT_CACHE_DIR to another",
                    user_path(store), why);
}

/* Reports that entries cannot be kept: an error each time, a warning once. */
static fex_status fail_put(fex_store *store, const char *why)
{
    if (atomic_exchange(&store->warned, 1) == 0)
        fex_log_write(store->log, FEX_LOG_WARNING,
                      "kernels are kept in memory only, the cache %s cannot be "
                      "written: %s",
                      user_path(store), why);
    return fail_write(store, why);
}

/* Makes room. What others have used since this store began may be part of the
 * same job, and stays like what this one has used. */
static void keep_budget(fex_store *store, const fex_tier *user, uint64_t added)
{
    uint64_t removed, left;
    const fex_prune rule = {.max_bytes = store->max_bytes,
                            .spare = store->created,
                            .keep = is_used,
                            .user = store};
    pthread_mutex_lock(&store->lock);
    /* The first time nothing is known, and leftovers are to be swept. */
    if (store->user_bytes == UNKNOWN_BYTES ||
        store->user_bytes + added > store->max_bytes) {
        fex_prune_directory(&user->directory, &rule, &removed, &left);
        store->user_bytes = left;
        if (removed > 0)
            fex_log_write(store->log, FEX_LOG_INFO,
                          "removed %llu kernels from the cache %s",
                          (unsigned long long)removed, user->path);
    } else {
        store->user_bytes += added;
    }
    pthread_mutex_unlock(&store->lock);
}

/* The tier that entries are put in; else returns why there is none. */
static const char *open_user_tier(fex_store *store, fex_tier **tier)
{
    *tier = fex_tiers_user(&store->tiers);
    if (*tier == NULL)
        return "neither HOME nor XDG_CACHE_HOME is set";
    open_tier(store, *tier);
    return (*tier)->kind == FEX_TIER_REFUSED ? (*tier)->why : NULL;
}

fex_status fex_store_try(fex_store *store)
{
    char buffer[128];
    fex_tier *tier;
    if (atomic_load(&store->tried))
        return FEX_OK;
    const char *const why = open_user_tier(store, &tier);
    if (why != NULL)
        return fail_write(store, why);
    const int error = fex_directory_try_writing(&tier->directory);
    if (error != 0)
        return fail_write(store,
                          fex_files_reason(error, buffer, sizeof buffer));
    atomic_store(&store->tried, 1);
    return FEX_OK;
}

fex_status fex_store_put_entry(fex_store *store, const char *key,
                               const void *bytes, size_t size)
{
    char buffer[128];
    fex_tier *tier;
    const char *const why = open_user_tier(store, &tier);
    if (why != NULL)
        return fail_put(store, why);
    /* Before it is there, or another thread could prune it at once. */
    note_used(store, key);
    const int error = fex_directory_write(&tier->directory, key, bytes, size);
    if (error != 0)
        return fail_put(store, fex_files_reason(error, buffer, sizeof buffer));
    keep_budget(store, tier, size);
    return FEX_OK;
}

fex_status fex_store_put(fex_store *store, const fex_recipe *recipe,
                         const fex_cubin *cubin)
{
    unsigned char *bytes;
    size_t size;
    return_if_error(fex_entry_encode(recipe->key_text, cubin, &bytes, &size));
    const fex_status status =
        fex_store_put_entry(store, recipe->key, bytes, size);
    free(bytes);
    return status;
}

/* ---- Pruning ------------------------------------------------------------ */

static fex_status prune(fex_store *store, const fex_prune *rule,
                        uint64_t *removed)
{
    uint64_t left;
    fex_tier *const tier = fex_tiers_user(&store->tiers);
    *removed = 0;
    if (tier == NULL)
        return FEX_OK;
    open_tier(store, tier);
    if (tier->kind != FEX_TIER_DIRECTORY)
        return FEX_OK;
    pthread_mutex_lock(&store->lock);
    const fex_status status =
        fex_prune_directory(&tier->directory, rule, removed, &left);
    store->user_bytes = left;
    pthread_mutex_unlock(&store->lock);
    return status;
}

fex_status fex_store_prune(fex_store *store, uint64_t max_bytes,
                           int64_t older_than, uint64_t *removed)
{
    const fex_prune rule = {
        .max_bytes = max_bytes,
        .before = older_than > 0 ? time(NULL) - older_than : 0,
        .verify = 1,
        .keep = is_used,
        .user = store};
    return prune(store, &rule, removed);
}

fex_status fex_store_clear(fex_store *store, uint64_t *removed)
{
    const fex_prune rule = {.max_bytes = 0};
    return prune(store, &rule, removed);
}
