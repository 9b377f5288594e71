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

int fex_tier_init(fex_tier *tier, const char *path, const char *named_by,
                  unsigned trust)
{
    *tier = (fex_tier){.path = strdup(path), .named_by = named_by, .file = -1};
    if (tier->path == NULL)
        return ENOMEM;
    tier->directory = (fex_directory){.path = tier->path, .trust = trust};
    pthread_mutex_init(&tier->lock, NULL);
    return 0;
}

int fex_tier_init_user(fex_tier *tier, const char *path, unsigned trust)
{
    const int error = fex_tier_init(tier, path, NULL, trust);
    tier->writable = 1;
    return error;
}

int fex_tier_init_bundle(fex_tier *tier, const fex_bundle *bundle)
{
    const int error = fex_tier_init(tier, "(memory)", NULL, 0);
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
    if (size == 0) {
        fex_fail(FEX_ERROR_CORRUPT, "it is empty");
        error = EBADMSG;
        goto fail_map;
    }
    bytes = mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0);
    if (bytes == MAP_FAILED) {
        error = errno;
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

static int look_at_directory(const fex_tier *tier)
{
    int directory = -1;
    const int error = fex_files_open_directory(
        AT_FDCWD, tier->path, tier->directory.trust, &directory);
    if (error == 0)
        close(directory);
    return error;
}

/* Puts down why a tier is refused. */
static void explain(fex_tier *tier, int error, const struct stat *status)
{
    char buffer[128];
    const char *const kind = tier->writable
                                 ? "it is not a directory"
                                 : "it is neither a directory nor a bundle";
    if (error == EPERM)
        fex_files_explain_trust(status, tier->directory.trust, tier->why,
                                sizeof tier->why);
    else
        snprintf(tier->why, sizeof tier->why, "%s",
                 error == EINVAL || error == ENOTDIR
                     ? kind
                     : fex_tier_reason(error, buffer, sizeof buffer));
}

static int open_locked(fex_tier *tier)
{
    struct stat status;
    int error = 0;
    if (tier->kind != FEX_TIER_UNKNOWN)
        return 0;
    if (stat(tier->path, &status) != 0) {
        error = tier->missed ? 0 : errno;
        tier->missed = 1;
        return error;
    }
    const int directory = S_ISDIR(status.st_mode);
    if (directory)
        error = look_at_directory(tier);
    else
        error = tier->writable ? ENOTDIR : map_bundle(tier);
    if (error != 0)
        explain(tier, error, &status);
    tier->kind = error != 0  ? FEX_TIER_REFUSED
                 : directory ? FEX_TIER_DIRECTORY
                             : FEX_TIER_BUNDLE;
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

const char *fex_tier_reason(int error, char *buffer, size_t size)
{
    return error == EBADMSG ? fex_last_error()
                            : fex_files_reason(error, buffer, size);
}

/* ---- Looking ------------------------------------------------------------ */

/* Reading a mapped page that its file no longer has would kill the process. */
static int check_whole(const fex_tier *tier)
{
    struct stat status;
    if (tier->file < 0 || (fstat(tier->file, &status) == 0 &&
                           (uint64_t)status.st_size >= tier->bundle.size))
        return 0;
    fex_fail(FEX_ERROR_CORRUPT, "it has been cut since it was opened");
    return EBADMSG;
}

static int read_bundle(const fex_tier *tier, const char *key, size_t limit,
                       unsigned char **bytes, size_t *got, size_t *size)
{
    fex_bundle_item item;
    const int error = check_whole(tier);
    if (error != 0)
        return error;
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
    int result = check_whole(tier);
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
