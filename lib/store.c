/* SPDX-License-Identifier: Apache-2.0 */
/* store.c - the tiers of the kernel cache on disk. */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "entry.h"
#include "store.h"

#define TIERS_MAX 16
#define PATH_BYTES 4096

struct fex_store {
    const fex_log *log;
    char *user_dir;           /* NULL: none */
    char *read_only_path;     /* as given */
    char *read_only_copy;     /* cut at its colons */
    const char *tiers[TIERS_MAX]; /* the user tier first, if there is one */
    size_t tier_count;
    atomic_uint_fast64_t damaged;
};

/* ---- Creating ----------------------------------------------------------- */

static void add_read_only_tiers(fex_store *store)
{
    char *rest = store->read_only_copy;
    for (char *tier; (tier = strsep(&rest, ":")) != NULL;)
        if (*tier != '\0' && store->tier_count < TIERS_MAX)
            store->tiers[store->tier_count++] = tier;
}

fex_status fex_store_create(const fex_store_options *options,
                            fex_store **store)
{
    const char *const path =
        options->read_only_path != NULL ? options->read_only_path : "";
    fex_store *const made = calloc(1, sizeof *made);
    if (made == NULL)
        goto fail_memory;
    made->log = options->log;
    made->read_only_path = strdup(path);
    made->read_only_copy = strdup(path);
    if (options->user_dir != NULL)
        made->user_dir = strdup(options->user_dir);
    if (made->read_only_path == NULL || made->read_only_copy == NULL ||
        (options->user_dir != NULL && made->user_dir == NULL))
        goto fail_copy;
    if (made->user_dir != NULL)
        made->tiers[made->tier_count++] = made->user_dir;
    add_read_only_tiers(made);
    *store = made;
    return FEX_OK;

fail_copy:
    fex_store_destroy(made);
fail_memory:
    return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory for a store");
}

void fex_store_destroy(fex_store *store)
{
    if (store == NULL)
        return;
    free(store->user_dir);
    free(store->read_only_path);
    free(store->read_only_copy);
    free(store);
}

void fex_store_paths(const fex_store *store, char *user_dir, size_t user_size,
                     char *read_only, size_t read_only_size)
{
    snprintf(user_dir, user_size, "%s",
             store->user_dir != NULL ? store->user_dir : "");
    snprintf(read_only, read_only_size, "%s", store->read_only_path);
}

uint64_t fex_store_damaged(const fex_store *store)
{
    return atomic_load(&store->damaged);
}

/* ---- Finding ------------------------------------------------------------ */

static int entry_path(const char *tier, const char *key, char *path)
{
    return snprintf(path, PATH_BYTES, "%s/%.2s/%s.fexk", tier, key, key) <
           PATH_BYTES;
}

/* The bytes of a regular file; NULL with errno set if it cannot be read. */
static unsigned char *read_file(const char *path, size_t *size)
{
    struct stat status;
    unsigned char *bytes = NULL;
    size_t used = 0;
    const int file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (file < 0)
        return NULL;
    if (fstat(file, &status) != 0)
        goto done;
    if (!S_ISREG(status.st_mode)) {
        errno = EINVAL;
        goto done;
    }
    const size_t length = (size_t)status.st_size;
    bytes = malloc(length + 1);
    while (bytes != NULL && used < length) {
        const ssize_t got = read(file, bytes + used, length - used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        used += (size_t)got;
    }
    *size = used;
done:
    close(file);
    return bytes;
}

static void refuse(fex_store *store, const char *path, const char *why)
{
    atomic_fetch_add(&store->damaged, 1);
    fex_log_write(store->log, FEX_LOG_WARNING,
                  "cache entry %s is not usable (%s) and will be replaced",
                  path, why);
}

/* Looks in one tier. What is wrong with an entry is nobody's error. */
static int find_in_tier(fex_store *store, const char *tier,
                        const fex_recipe *recipe, fex_cubin *cubin)
{
    char path[PATH_BYTES];
    size_t size = 0;
    fex_entry entry;
    int found = 0;
    if (!entry_path(tier, recipe->key, path))
        return 0;
    unsigned char *const bytes = read_file(path, &size);
    if (bytes == NULL) {
        if (errno != ENOENT && errno != ENOTDIR)
            refuse(store, path, strerror(errno));
        return 0;
    }
    if (fex_entry_decode(bytes, size, &entry) != FEX_OK) {
        refuse(store, path, fex_last_error());
    } else if (entry.key_length != strlen(recipe->key_text) ||
               memcmp(entry.key_text, recipe->key_text, entry.key_length) != 0) {
        refuse(store, path, "it is another kernel's");
    } else {
        /* The cubin moves to the front of the bytes that held the entry. */
        memmove(bytes, entry.cubin, entry.cubin_size);
        *cubin = (fex_cubin){.data = bytes,
                             .size = entry.cubin_size,
                             .compiler_version = entry.compiler_version};
        found = 1;
    }
    if (!found)
        free(bytes);
    return found;
}

fex_status fex_store_find(fex_store *store, const fex_recipe *recipe,
                          fex_cubin *cubin, int *found)
{
    *found = 0;
    for (size_t i = 0; i < store->tier_count && !*found; i++)
        *found = find_in_tier(store, store->tiers[i], recipe, cubin);
    return FEX_OK;
}

fex_status fex_store_has(fex_store *store, const fex_recipe *recipe,
                         int *found)
{
    fex_cubin cubin;
    return_if_error(fex_store_find(store, recipe, &cubin, found));
    if (*found)
        fex_cubin_free(&cubin);
    return FEX_OK;
}

/* ---- Writing ------------------------------------------------------------ */

/* Makes a directory and those above it, private to the user. */
static int make_directories(const char *path)
{
    char copy[PATH_BYTES];
    if (snprintf(copy, sizeof copy, "%s", path) >= (int)sizeof copy) {
        errno = ENAMETOOLONG;
        return -1;
    }
    for (char *slash = strchr(copy + 1, '/'); slash != NULL;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(copy, 0700) != 0 && errno != EEXIST)
            return -1;
        *slash = '/';
    }
    return mkdir(copy, 0700) != 0 && errno != EEXIST ? -1 : 0;
}

static int write_all(int file, const unsigned char *bytes, size_t size)
{
    while (size > 0) {
        const ssize_t written = write(file, bytes, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -1;
        bytes += written;
        size -= (size_t)written;
    }
    return 0;
}

/* Writes bytes to a private file beside path and renames it there. */
static int write_file(const char *path, const unsigned char *bytes,
                      size_t size)
{
    char temporary[PATH_BYTES];
    if (snprintf(temporary, sizeof temporary, "%s.XXXXXX", path) >=
        (int)sizeof temporary) {
        errno = ENAMETOOLONG;
        return -1;
    }
    const int file = mkostemp(temporary, O_CLOEXEC);
    if (file < 0)
        return -1;
    int failed = write_all(file, bytes, size) != 0 || fsync(file) != 0;
    int reason = errno;
    if (close(file) != 0 && !failed) {
        failed = 1;
        reason = errno;
    }
    if (!failed && rename(temporary, path) != 0) {
        failed = 1;
        reason = errno;
    }
    if (failed)
        unlink(temporary);
    errno = reason;
    return failed ? -1 : 0;
}

fex_status fex_store_put(fex_store *store, const fex_recipe *recipe,
                         const fex_cubin *cubin)
{
    char path[PATH_BYTES], directory[PATH_BYTES];
    unsigned char *bytes;
    size_t size;
    if (store->user_dir == NULL)
        return fex_fail(FEX_ERROR_IO, "there is no cache directory: neither "
                                      "HOME nor XDG_CACHE_HOME is set");
    if (!entry_path(store->user_dir, recipe->key, path))
        return fex_fail(FEX_ERROR_IO, "cache directory %s: its name is too long",
                        store->user_dir);
    return_if_error(
        fex_entry_encode(recipe->key_text, cubin, &bytes, &size));
    memcpy(directory, path, sizeof directory);
    *strrchr(directory, '/') = '\0';
    fex_status status = FEX_OK;
    if (make_directories(directory) != 0)
        status = fex_fail(FEX_ERROR_IO, "cache directory %s: %s", directory,
                          strerror(errno));
    else if (write_file(path, bytes, size) != 0)
        status = fex_fail(FEX_ERROR_IO, "cache entry %s: %s", path,
                          strerror(errno));
    free(bytes);
    return status;
}
