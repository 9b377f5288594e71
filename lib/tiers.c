/* SPDX-License-Identifier: Apache-2.0 */
/* tiers.c - the places to look for entries, in order. */
#include "config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "entry.h"
#include "files.h"
#include "tiers.h"

/* ---- Making the list ---------------------------------------------------- */

/* The next free place, or NULL. */
static fex_tier *next_place(fex_tiers *tiers)
{
    return tiers->count < FEX_TIERS_MAX ? &tiers->items[tiers->count] : NULL;
}

static fex_status too_many(void)
{
    return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                    "there are more than %d cache tiers", FEX_TIERS_MAX);
}

static fex_status out_of_memory(void)
{
    return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory for a cache tier");
}

static fex_status add_user(fex_tiers *tiers, const char *path, unsigned trust)
{
    if (fex_tier_init_user(next_place(tiers), path, trust) != 0)
        return out_of_memory();
    tiers->count++;
    return FEX_OK;
}

static fex_status add_tier(fex_tiers *tiers, const char *path,
                           const char *named_by, unsigned trust)
{
    fex_tier *const place = next_place(tiers);
    if (place == NULL)
        return too_many();
    if (fex_tier_init(place, path, named_by, trust) != 0)
        return out_of_memory();
    tiers->count++;
    return FEX_OK;
}

static fex_status add_read_only(fex_tiers *tiers, const char *paths,
                                const char *named_by, unsigned trust)
{
    fex_status status = FEX_OK;
    char *const copy = strdup(paths);
    if (copy == NULL)
        return out_of_memory();
    char *rest = copy;
    for (char *path; status == FEX_OK && (path = strsep(&rest, ":")) != NULL;)
        if (*path != '\0')
            status = add_tier(tiers, path, named_by, trust);
    free(copy);
    return status;
}

fex_status fex_tiers_init(fex_tiers *tiers, const char *user_dir,
                          const char *read_only_path, const char *named_by,
                          int shared, const fex_log *log)
{
    const unsigned group = shared ? FEX_TRUST_GROUP : 0;
    fex_status status = FEX_OK;
    tiers->log = log;
    tiers->count = 0;
    tiers->has_user_tier = user_dir != NULL;
    pthread_mutex_init(&tiers->lock, NULL);
    if (user_dir != NULL)
        status = add_user(tiers, user_dir, group);
    if (status == FEX_OK)
        status = add_read_only(tiers, read_only_path, named_by,
                               group | FEX_TRUST_ROOT);
    if (status != FEX_OK)
        fex_tiers_free(tiers);
    return status;
}

void fex_tiers_free(fex_tiers *tiers)
{
    for (size_t i = 0; i < tiers->count; i++)
        fex_tier_free(&tiers->items[i]);
    pthread_mutex_destroy(&tiers->lock);
}

fex_status fex_tiers_attach(fex_tiers *tiers, const fex_bundle *bundle)
{
    fex_status status = FEX_OK;
    pthread_mutex_lock(&tiers->lock);
    fex_tier *const place = next_place(tiers);
    if (place == NULL)
        status = too_many();
    else if (fex_tier_init_bundle(place, bundle) != 0)
        status = out_of_memory();
    else
        tiers->count++;
    pthread_mutex_unlock(&tiers->lock);
    return status;
}

/* ---- Going through it --------------------------------------------------- */

fex_tier *fex_tiers_user(fex_tiers *tiers)
{
    return tiers->has_user_tier ? &tiers->items[0] : NULL;
}

int fex_tiers_open(const fex_tiers *tiers, fex_tier *tier)
{
    char buffer[128];
    const int error = fex_tier_open(tier);
    if (error == 0)
        return 1;
    if (tier->kind == FEX_TIER_REFUSED)
        fex_log_write(tiers->log, FEX_LOG_WARNING,
                      "the cache %s is not used: %s", tier->path, tier->why);
    else if (tier->named_by != NULL)
        fex_log_write(tiers->log, FEX_LOG_WARNING,
                      "%s names the cache %s, which is missing: %s",
                      tier->named_by, tier->path,
                      fex_tier_reason(error, buffer, sizeof buffer));
    return tier->kind != FEX_TIER_REFUSED;
}

typedef struct tiers_walk {
    fex_tier *tier;
    size_t limit;
    fex_tiers_visitor visitor;
    void *user;
    fex_status status;
} tiers_walk;

static int visit_file(void *user, const fex_directory_item *file)
{
    tiers_walk *const walk = user;
    fex_tiers_item item = {.tier = walk->tier->path, .file = *file};
    if (walk->tier->kind == FEX_TIER_BUNDLE)
        snprintf(item.path, sizeof item.path, "%s", walk->tier->path);
    else
        fex_directory_file(&walk->tier->directory, file->key, item.path,
                           sizeof item.path);
    const int error = fex_tier_read(walk->tier, file->key, walk->limit,
                                    &item.bytes, &item.got, &item.size);
    /* What is gone meanwhile has not been met. */
    if (error == ENOENT)
        return 0;
    walk->status = error == ENOMEM
                       ? fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory to walk")
                       : walk->visitor(walk->user, &item);
    if (error == 0)
        free(item.bytes);
    return walk->status == FEX_OK ? 0 : ECANCELED;
}

fex_status fex_tiers_walk(fex_tiers *tiers, int whole,
                          fex_tiers_visitor visitor, void *user)
{
    const size_t count = tiers->count;
    tiers_walk walk = {.limit = whole ? FEX_ENTRY_MAX : FEX_ENTRY_HEAD_MAX,
                       .visitor = visitor,
                       .user = user,
                       .status = FEX_OK};
    for (size_t i = 0; i < count && walk.status == FEX_OK; i++) {
        walk.tier = &tiers->items[i];
        fex_tiers_open(tiers, walk.tier);
        if (fex_tier_walk(walk.tier, visit_file, &walk) == ENOMEM)
            return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory to walk");
    }
    return walk.status;
}
