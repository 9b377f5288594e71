/* SPDX-License-Identifier: Apache-2.0 */
/* tier.c - directories and bundles, looked into alike. */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"
#include "tier.h"

int fex_tier_init(fex_tier *tier, const char *path, unsigned trust)
{
    *tier = (fex_tier){.path = strdup(path), .file = -1};
    if (tier->path == NULL)
        return ENOMEM;
    tier->directory = (fex_directory){.path = tier->path, .trust = trust};
    pthread_mutex_init(&tier->lock, NULL);
    return 0;
}

int fex_tier_init_bundle(fex_tier *tier, const fex_bundle *bundle)
{
    const int error = fex_tier_init(tier, "(memory)", 0);
    if (error != 0)
        return error;
    tier->bundle = *bundle;
    tier->kind = FEX_TIER_BUNDLE;
    return 0;
}

void fex_tier_free(fex_tier *tier)
{
    if (tier->file >= 0) {
        munmap((void *)(uintptr_t)tier->bundle.bytes, tier->bundle.size);
        close(tier->file);
    }
    pthread_mutex_destroy(&tier->lock);
    free(tier->path);
}

/* ---- Finding out the kind ----------------------------------------------- */

static int map_bundle(fex_tier *tier)
{
    struct stat status;
    void *bytes;
    int error = 0;
    int file = -1;
    error = fex_files_open(AT_FDCWD, tier->path, tier->directory.trust, &file,
                           &status);
    if (error != 0)
        return error;
    const size_t size = (size_t)status.st_size;
    bytes = size == 0 ? MAP_FAILED
                      : mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0);
    if (bytes == MAP_FAILED) {
        error = size == 0 ? EBADMSG : errno;
        goto fail_map;
    }
    if (fex_bundle_open(bytes, size, &tier->bundle) != FEX_OK) {
        error = EBADMSG;
        goto fail_bundle;
    }
    tier->file = file;
    return 0;

fail_bundle:
    munmap(bytes, size);
fail_map:
    close(file);
    return error;
}

static int open_locked(fex_tier *tier)
{
    struct stat status;
    int directory = -1;
    int error = 0;
    if (tier->kind != FEX_TIER_UNKNOWN || stat(tier->path, &status) != 0)
        return 0;
    fex_tier_kind kind = FEX_TIER_DIRECTORY;
    if (S_ISDIR(status.st_mode)) {
        error = fex_files_open_directory(AT_FDCWD, tier->path,
                                         tier->directory.trust, &directory);
        if (error == 0)
            close(directory);
    } else {
        kind = FEX_TIER_BUNDLE;
        error = map_bundle(tier);
    }
    tier->kind = error == 0 ? kind : FEX_TIER_REFUSED;
    return error;
}

int fex_tier_open(fex_tier *tier)
{
    if (tier->kind != FEX_TIER_UNKNOWN)
        return 0;
    pthread_mutex_lock(&tier->lock);
    const int error = open_locked(tier);
    pthread_mutex_unlock(&tier->lock);
    return error;
}

/* ---- Looking ------------------------------------------------------------ */

/* Reading a mapped page that its file no longer has would kill the process. */
static int is_whole(const fex_tier *tier)
{
    struct stat status;
    return tier->file < 0 ||
           (fstat(tier->file, &status) == 0 &&
            (uint64_t)status.st_size >= tier->bundle.size);
}

static int read_bundle(const fex_tier *tier, const char *key, size_t limit,
                       unsigned char **bytes, size_t *got, size_t *size)
{
    fex_bundle_item item;
    if (!is_whole(tier))
        return EBADMSG;
    if (!fex_bundle_find(&tier->bundle, key, &item))
        return ENOENT;
    const size_t wanted = item.size < limit ? item.size : limit;
    unsigned char *const copy = malloc(wanted > 0 ? wanted : 1);
    if (copy == NULL)
        return ENOMEM;
    memcpy(copy, item.bytes, wanted);
    *bytes = copy;
    *got = wanted;
    *size = item.size;
    return 0;
}

int fex_tier_read(fex_tier *tier, const char *key, size_t limit,
                  unsigned char **bytes, size_t *got, size_t *size)
{
    switch ((fex_tier_kind)tier->kind) {
    case FEX_TIER_DIRECTORY:
        return fex_directory_read(&tier->directory, key, limit, bytes, got,
                                  size);
    case FEX_TIER_BUNDLE:
        return read_bundle(tier, key, limit, bytes, got, size);
    default:
        return ENOENT;
    }
}

static int walk_bundle(const fex_tier *tier, fex_directory_visitor visitor,
                       void *user)
{
    fex_bundle_item found;
    int result = is_whole(tier) ? 0 : EBADMSG;
    for (size_t i = 0; result == 0 && i < tier->bundle.count; i++) {
        fex_directory_item item = {0};
        fex_bundle_get(&tier->bundle, i, &found);
        snprintf(item.key, sizeof item.key, "%s", found.key);
        item.bytes = found.size;
        result = visitor(user, &item);
    }
    return result;
}

int fex_tier_walk(fex_tier *tier, fex_directory_visitor visitor, void *user)
{
    switch ((fex_tier_kind)tier->kind) {
    case FEX_TIER_DIRECTORY:
        return fex_directory_walk(&tier->directory, visitor, user);
    case FEX_TIER_BUNDLE:
        return walk_bundle(tier, visitor, user);
    default:
        return 0;
    }
}
