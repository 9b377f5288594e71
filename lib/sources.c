/* SPDX-License-Identifier: Apache-2.0 */
/* sources.c - the kernel sources: embedded at build time, or a directory. */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "digest.h"
#include "sources.h"

/* What a directory of sources keeps: the list, and every name and text. */
typedef struct owned_sources {
    fex_source *files;
    size_t count;
} owned_sources;

static void digest_sources(fex_sources *sources)
{
    XXH3_state_t *const state = XXH3_createState();
    XXH3_128bits_reset(state);
    for (size_t i = 0; i < sources->count; i++) {
        const fex_source *const file = &sources->files[i];
        /* With their ends, so that no two lists run together alike. */
        XXH3_128bits_update(state, file->name, strlen(file->name) + 1);
        XXH3_128bits_update(state, file->text, file->length + 1);
    }
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state));
    XXH3_freeState(state);
    fex_digest_format(canonical.digest, sources->digest);
}

/* ---- A directory -------------------------------------------------------- */

static int has_suffix(const char *name, const char *suffix)
{
    const size_t length = strlen(name), wanted = strlen(suffix);
    return length > wanted && strcmp(name + length - wanted, suffix) == 0;
}

static int is_source(const struct dirent *entry)
{
    return entry->d_name[0] != '.' && (has_suffix(entry->d_name, ".cu") ||
                                       has_suffix(entry->d_name, ".cuh") ||
                                       has_suffix(entry->d_name, ".h"));
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void free_owned(owned_sources *owned)
{
    for (size_t i = 0; i < owned->count; i++) {
        free((char *)(uintptr_t)owned->files[i].name);
        free((char *)(uintptr_t)owned->files[i].text);
    }
    free(owned->files);
    free(owned);
}

/* The whole of a file, NUL-terminated. */
static fex_status read_text(const char *path, char **text, size_t *length)
{
    fex_status status = FEX_OK;
    char *buffer = NULL;
    size_t used = 0, size = 0;
    FILE *const file = fopen(path, "re");
    if (file == NULL)
        return fex_fail(FEX_ERROR_IO, "%s: %s", path, strerror(errno));
    do {
        if (size - used < 2) {
            size = size * 2 + 4096;
            char *const larger = realloc(buffer, size);
            if (larger == NULL) {
                status = fex_fail(FEX_ERROR_OUT_OF_MEMORY,
                                  "no memory to read %s", path);
                goto fail_read;
            }
            buffer = larger;
        }
        used += fread(buffer + used, 1, size - used - 1, file);
    } while (!feof(file) && !ferror(file));
    if (ferror(file)) {
        status = fex_fail(FEX_ERROR_IO, "%s: %s", path, strerror(errno));
        goto fail_read;
    }
    fclose(file);
    buffer[used] = '\0';
    *text = buffer;
    *length = used;
    return FEX_OK;

fail_read:
    free(buffer);
    fclose(file);
    return status;
}

static fex_status add_file(owned_sources *owned, const char *directory,
                           const char *name)
{
    char *path = NULL, *copy = NULL, *text = NULL;
    size_t length = 0;
    fex_status status;
    if (asprintf(&path, "%s/%s", directory, name) < 0)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory for a path");
    status = read_text(path, &text, &length);
    free(path);
    return_if_error(status);
    copy = strdup(name);
    if (copy == NULL) {
        free(text);
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory for a name");
    }
    owned->files[owned->count++] =
        (fex_source){.name = copy, .text = text, .length = length};
    return FEX_OK;
}

static fex_status read_directory(const char *directory, owned_sources **result)
{
    struct dirent **entries;
    fex_status status = FEX_OK;
    int kernels = 0;
    const int count = scandir(directory, &entries, is_source, by_name);
    if (count < 0)
        return fex_fail(FEX_ERROR_IO, "kernel directory %s: %s", directory,
                        strerror(errno));
    owned_sources *const owned = calloc(1, sizeof *owned);
    if (owned != NULL)
        owned->files = calloc((size_t)count + 1, sizeof *owned->files);
    if (owned == NULL || owned->files == NULL)
        status = fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory for sources");
    for (int i = 0; i < count; i++) {
        kernels += has_suffix(entries[i]->d_name, ".cu");
        if (status == FEX_OK)
            status = add_file(owned, directory, entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
    if (status == FEX_OK && kernels == 0)
        status = fex_fail(FEX_ERROR_IO, "kernel directory %s has no .cu file",
                          directory);
    if (status != FEX_OK) {
        if (owned != NULL)
            free_owned(owned);
        return status;
    }
    *result = owned;
    return FEX_OK;
}

/* ---- Either ------------------------------------------------------------- */

fex_status fex_sources_open(const char *directory, fex_sources *sources)
{
    owned_sources *owned = NULL;
    if (directory != NULL)
        return_if_error(read_directory(directory, &owned));
    *sources = owned == NULL
                   ? (fex_sources){.files = fex_embedded_sources,
                                   .count = fex_embedded_source_count}
                   : (fex_sources){.files = owned->files,
                                   .count = owned->count,
                                   .owned = owned};
    digest_sources(sources);
    return FEX_OK;
}

void fex_sources_close(fex_sources *sources)
{
    if (sources->owned != NULL)
        free_owned(sources->owned);
    *sources = (fex_sources){0};
}

const fex_source *fex_sources_find(const fex_sources *sources,
                                   const char *name)
{
    for (size_t i = 0; i < sources->count; i++)
        if (strcmp(sources->files[i].name, name) == 0)
            return &sources->files[i];
    return NULL;
}
