/* SPDX-License-Identifier: Apache-2.0 */
/* cache.c - the public functions that look after the kernel cache. */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bundle.h"
#include "context.h"
#include "entry.h"
#include "files.h"
#include "store.h"

/* ---- Listing ------------------------------------------------------------ */

typedef struct listing {
    int verify;
    fex_cache_visitor visitor;
    void *user;
    int stopped;
} listing;

/* Reads what was met as an entry; FEX_ERROR_CORRUPT says what is wrong. */
static fex_status read_item(const fex_tiers_item *item, int whole,
                            fex_entry *entry)
{
    if (item->bytes == NULL || (whole && item->got != item->size))
        return fex_fail(FEX_ERROR_CORRUPT, "%s cannot be read", item->path);
    return_if_error(whole ? fex_entry_decode(item->bytes, item->size, entry)
                          : fex_entry_decode_head(item->bytes, item->got,
                                                  item->size, entry));
    return fex_entry_check_key(entry, item->file.key);
}

static fex_status list_item(void *user, const fex_tiers_item *item)
{
    listing *const l = user;
    fex_entry entry = {0};
    char *words = NULL;
    char architecture[16] = "";
    fex_status state = read_item(item, l->verify, &entry);
    if (state == FEX_OK)
        state = fex_describe_key(entry.key_text, entry.key_length, &words,
                                 architecture);
    if (state == FEX_ERROR_OUT_OF_MEMORY)
        return state;
    const fex_cache_entry shown = {
        .size = sizeof shown,
        .tier = item->tier,
        .path = item->path,
        .key = item->file.key,
        .kernel = words != NULL ? words : "",
        .architecture = architecture,
        .compiler_version = entry.compiler_version,
        .bytes = item->file.bytes,
        .last_used = item->file.last_used,
        .hits = item->file.hits,
        .state = state};
    l->stopped = l->visitor(l->user, &shown) == 0;
    free(words);
    /* Any failure ends the walk; this one is taken for success below. */
    return l->stopped ? FEX_ERROR_INVALID_ARGUMENT : FEX_OK;
}

fex_status fex_cache_list(fex_context *context, int verify,
                          fex_cache_visitor visitor, void *user)
{
    return_if_error(fex_context_check(context));
    if (visitor == NULL)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT, "visitor is NULL");
    listing l = {.verify = verify, .visitor = visitor, .user = user};
    const fex_status status = fex_tiers_walk(
        fex_store_tiers(context->store), verify, list_item, &l);
    return l.stopped ? FEX_OK : status;
}

/* ---- Removing ----------------------------------------------------------- */

fex_status fex_cache_prune(fex_context *context, uint64_t max_bytes,
                           int64_t older_than, uint64_t *removed)
{
    uint64_t count = 0;
    return_if_error(fex_context_check(context));
    if (older_than < 0)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "older_than is %lld seconds", (long long)older_than);
    const fex_status status =
        fex_store_prune(context->store, max_bytes, older_than, &count);
    if (removed != NULL)
        *removed = count;
    return status;
}

fex_status fex_cache_clear(fex_context *context, uint64_t *removed)
{
    uint64_t count = 0;
    return_if_error(fex_context_check(context));
    const fex_status status = fex_store_clear(context->store, &count);
    if (removed != NULL)
        *removed = count;
    return status;
}

/* ---- Exporting ---------------------------------------------------------- */

typedef struct collection {
    const char *architecture; /* NULL: all */
    const fex_log *log;
    fex_bundle_item *items; /* their bytes are owned */
    size_t count, room;
} collection;

static int is_collected(const collection *c, const char *key)
{
    for (size_t i = 0; i < c->count; i++)
        if (strcmp(c->items[i].key, key) == 0)
            return 1;
    return 0;
}

static fex_status add_item(collection *c, const fex_tiers_item *item)
{
    if (c->count == c->room) {
        const size_t room = 2 * c->room + 64;
        void *const larger = realloc(c->items, room * sizeof *c->items);
        if (larger == NULL)
            return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory to export");
        c->items = larger;
        c->room = room;
    }
    unsigned char *const bytes = malloc(item->size);
    if (bytes == NULL)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory to export");
    memcpy(bytes, item->bytes, item->size);
    fex_bundle_item *const added = &c->items[c->count++];
    *added = (fex_bundle_item){.bytes = bytes, .size = item->size};
    memcpy(added->key, item->file.key, sizeof added->key);
    return FEX_OK;
}

/* The first tier that has a sound entry of a key counts, as when loading. */
static fex_status collect_item(void *user, const fex_tiers_item *item)
{
    collection *const c = user;
    fex_entry entry;
    char *words;
    char architecture[16];
    if (is_collected(c, item->file.key))
        return FEX_OK;
    fex_status status = read_item(item, 1, &entry);
    if (status == FEX_OK)
        status = fex_describe_key(entry.key_text, entry.key_length, &words,
                                  architecture);
    if (status == FEX_ERROR_CORRUPT) {
        fex_log_write(c->log, FEX_LOG_WARNING, "%s is left out: %s",
                      item->path, fex_last_error());
        return FEX_OK;
    }
    return_if_error(status);
    free(words);
    if (c->architecture != NULL && strcmp(c->architecture, architecture) != 0)
        return FEX_OK;
    return add_item(c, item);
}

/* Puts bytes at a path, whole or not at all. */
static fex_status write_path(const char *path, const void *bytes, size_t size)
{
    char buffer[128];
    const char *const slash = strrchr(path, '/');
    const char *const name = slash != NULL ? slash + 1 : path;
    const size_t length = slash == NULL   ? 0
                          : slash == path ? 1
                                          : (size_t)(slash - path);
    char *const folder = length == 0 ? strdup(".") : strndup(path, length);
    if (folder == NULL)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory for a path");
    const int directory = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int error = errno;
    if (directory >= 0) {
        error = fex_files_replace(directory, name, bytes, size, 0644);
        close(directory);
    }
    free(folder);
    return error == 0
               ? FEX_OK
               : fex_fail(FEX_ERROR_IO, "%s: %s", path,
                          fex_files_reason(error, buffer, sizeof buffer));
}

fex_status fex_cache_export(fex_context *context, const char *path,
                            const char *architecture, uint64_t *count)
{
    unsigned char *bytes = NULL;
    size_t size = 0;
    return_if_error(fex_context_check(context));
    if (path == NULL || *path == '\0')
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT, "path is missing");
    collection c = {.log = &context->log};
    if (architecture != NULL) {
        const fex_architecture *known;
        return_if_error(fex_architecture_find(architecture, &known));
        c.architecture = known->name;
    }
    fex_status status = fex_tiers_walk(fex_store_tiers(context->store), 1,
                                       collect_item, &c);
    if (status == FEX_OK)
        status = fex_bundle_encode(c.items, c.count, &bytes, &size);
    if (status == FEX_OK) {
        status = write_path(path, bytes, size);
        free(bytes);
    }
    if (status == FEX_OK && count != NULL)
        *count = c.count;
    for (size_t i = 0; i < c.count; i++)
        free((void *)(uintptr_t)c.items[i].bytes);
    free(c.items);
    return status;
}

/* ---- Importing ---------------------------------------------------------- */

static fex_status read_path(const char *path, unsigned char **bytes,
                            size_t *size)
{
    char buffer[128];
    struct stat status;
    unsigned char *made = NULL;
    size_t got = 0;
    int error = 0;
    /* Here the caller names the file, and answers for it. */
    const int file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (file < 0 || fstat(file, &status) != 0)
        error = errno;
    else if (!S_ISREG(status.st_mode))
        error = EINVAL;
    else if ((made = malloc((size_t)status.st_size + 1)) == NULL)
        error = ENOMEM;
    else
        error = fex_files_read(file, made, (size_t)status.st_size, &got);
    if (file >= 0)
        close(file);
    if (error == 0) {
        *bytes = made;
        *size = got;
        return FEX_OK;
    }
    free(made);
    return fex_fail(error == ENOMEM ? FEX_ERROR_OUT_OF_MEMORY : FEX_ERROR_IO,
                    "%s: %s", path,
                    fex_files_reason(error, buffer, sizeof buffer));
}

static fex_status import_bundle(fex_store *store, const fex_bundle *bundle)
{
    fex_bundle_item item;
    for (size_t i = 0; i < bundle->count; i++) {
        fex_bundle_get(bundle, i, &item);
        return_if_error(
            fex_store_put_entry(store, item.key, item.bytes, item.size));
    }
    return FEX_OK;
}

fex_status fex_cache_import(fex_context *context, const char *path,
                            uint64_t *count)
{
    unsigned char *bytes = NULL;
    size_t size = 0;
    fex_bundle bundle;
    return_if_error(fex_context_check(context));
    if (path == NULL)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT, "path is NULL");
    return_if_error(read_path(path, &bytes, &size));
    fex_status status = fex_bundle_open(bytes, size, &bundle);
    if (status == FEX_OK)
        status = fex_bundle_verify(&bundle);
    if (status == FEX_OK) {
        status = import_bundle(context->store, &bundle);
        if (status == FEX_OK && count != NULL)
            *count = bundle.count;
    } else {
        char why[256];
        snprintf(why, sizeof why, "%s", fex_last_error());
        status = fex_fail(status, "%s: %s", path, why);
    }
    free(bytes);
    return status;
}

fex_status fex_cache_attach(fex_context *context, const void *bundle,
                            size_t bytes)
{
    fex_bundle opened;
    return_if_error(fex_context_check(context));
    if (bundle == NULL)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT, "bundle is NULL");
    return_if_error(fex_bundle_open(bundle, bytes, &opened));
    return_if_error(fex_bundle_verify(&opened));
    return fex_tiers_attach(fex_store_tiers(context->store), &opened);
}
