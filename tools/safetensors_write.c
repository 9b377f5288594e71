/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static fex_status fail_write(const char *path)
{
    return fex_fail(FEX_ERROR_IO, "cannot write '%s': %s", path,
                    strerror(errno));
}

/* ---- Where the file goes ------------------------------------------------ */

/* The place behind a symbolic link, else a copy of path; NULL with errno. */
static char *resolve_target(const char *path)
{
    char *target = realpath(path, NULL);
    if (target == NULL && errno == ENOENT)
        target = strdup(path);
    return target;
}

/* Everything up to the last slash and with it; "" for the current folder. */
static size_t folder_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? (size_t)(slash - path) + 1 : 0;
}

static fex_status check_folder(const char *target, const char *path)
{
    char folder[4096];
    const size_t length = folder_length(target);

    if (length + 2 > sizeof folder) {
        errno = ENAMETOOLONG;
        return fail_write(path);
    }
    memcpy(folder, target, length);
    memcpy(folder + length, ".", 2);
    if (access(folder, W_OK | X_OK) != 0)
        return fail_write(path);
    return FEX_OK;
}

fex_status safetensors_check_target(const char *path)
{
    struct stat about;
    fex_status status;

    if (path[0] == '\0') {
        errno = ENOENT;
        return fail_write(path);
    }
    if (stat(path, &about) == 0 && !S_ISREG(about.st_mode))
        return fex_fail(FEX_ERROR_IO, "cannot write '%s': no regular file",
                        path);
    char *target = resolve_target(path);
    if (target == NULL)
        return fail_write(path);
    status = check_folder(target, path);
    free(target);
    return status;
}

/* ---- What goes into it -------------------------------------------------- */

static json_t *describe(const safetensors_array *array, size_t offset)
{
    json_t *shape = json_array();
    for (size_t i = 0; i < array->rank; i++)
        json_array_append_new(shape, json_integer(array->shape[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", array->dtype, "shape",
                     shape, "data_offsets", (json_int_t)offset,
                     (json_int_t)(offset + array->bytes));
}

/* The header's text, padded so that the data start at a multiple of 8. */
static char *make_header(const safetensors_array *arrays, size_t count,
                         size_t *length)
{
    json_t *header = json_object();
    size_t offset = 0;
    char *text = NULL;

    for (size_t i = 0; i < count; i++) {
        if (json_object_set_new(header, arrays[i].name,
                                describe(&arrays[i], offset)) != 0)
            goto done;
        offset += arrays[i].bytes;
    }
    text = json_dumps(header, JSON_COMPACT);
    if (text != NULL) {
        const size_t used = strlen(text);
        *length = (used + 7) / 8 * 8;
        char *padded = realloc(text, *length + 1);
        if (padded == NULL) {
            free(text);
            text = NULL;
            goto done;
        }
        text = padded;
        memset(text + used, ' ', *length - used);
    }
done:
    json_decref(header);
    return text;
}

static int write_all(int descriptor, const void *bytes, size_t size)
{
    const char *at = bytes;
    while (size > 0) {
        const ssize_t written = write(descriptor, at, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -1;
        at += written;
        size -= (size_t)written;
    }
    return 0;
}

static int write_contents(int descriptor, const char *header, size_t length,
                          const safetensors_array *arrays, size_t count)
{
    unsigned char prefix[8];

    for (size_t i = 0; i < sizeof prefix; i++)
        prefix[i] = (unsigned char)((uint64_t)length >> (8 * i));
    if (write_all(descriptor, prefix, sizeof prefix) != 0 ||
        write_all(descriptor, header, length) != 0)
        return -1;
    for (size_t i = 0; i < count; i++)
        if (write_all(descriptor, arrays[i].data, arrays[i].bytes) != 0)
            return -1;
    return fsync(descriptor);
}

/* ---- Writing it --------------------------------------------------------- */

/* The mode open() would have given the file; mkstemp gives 0600. */
static mode_t usual_mode(const char *target)
{
    struct stat about;
    if (stat(target, &about) == 0)
        return about.st_mode & 07777;
    const mode_t mask = umask(0);
    umask(mask);
    return 0666 & ~mask;
}

/* Writes to a private file in target's folder and gives it target's name. */
static fex_status write_and_rename(const char *path, const char *target,
                                   const char *header, size_t length,
                                   const safetensors_array *arrays,
                                   size_t count)
{
    const size_t folder = folder_length(target);
    fex_status status = FEX_OK;
    char *temporary;
    int descriptor;

    if (asprintf(&temporary, "%.*s.%s.XXXXXX", (int)folder, target,
                 target + folder) < 0)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "out of memory");
    descriptor = mkostemp(temporary, O_CLOEXEC);
    if (descriptor < 0) {
        status = fail_write(path);
        goto free_temporary;
    }
    if (write_contents(descriptor, header, length, arrays, count) != 0 ||
        fchmod(descriptor, usual_mode(target)) != 0)
        status = fail_write(path);
    /* A network file system may report a failed write only here. */
    if (close(descriptor) != 0 && status == FEX_OK)
        status = fail_write(path);
    if (status == FEX_OK && rename(temporary, target) != 0)
        status = fail_write(path);
    if (status != FEX_OK)
        unlink(temporary);
free_temporary:
    free(temporary);
    return status;
}

fex_status safetensors_write(const char *path, const safetensors_array *arrays,
                             size_t count)
{
    fex_status status;
    size_t length;

    return_if_error(safetensors_check_target(path));
    char *target = resolve_target(path);
    if (target == NULL)
        return fail_write(path);
    char *header = make_header(arrays, count, &length);
    if (header == NULL)
        status = fex_fail(FEX_ERROR_OUT_OF_MEMORY, "out of memory");
    else
        status = write_and_rename(path, target, header, length, arrays, count);
    free(header);
    free(target);
    return status;
}
