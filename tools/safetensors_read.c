/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LENGTH_BYTES = 8 };

/* A header above this length is refused unread, as the format has it. */
static const uint64_t header_max = 100000000;

static const struct {
    const char *name;
    size_t bytes;
} dtypes[] = {
    {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1},
    {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
    {"U32", 4},  {"F32", 4}, {"I64", 8}, {"U64", 8},     {"F64", 8},
};

/* Sets the name of the format's table; 0 if there is no such type. */
static size_t find_dtype(const char *text, const char **name)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof(dtypes[0]); i++)
        if (strcmp(dtypes[i].name, text) == 0) {
            *name = dtypes[i].name;
            return dtypes[i].bytes;
        }
    return 0;
}

/* Reads "shape"; *bytes becomes the size that it and the type stand for. */
static fex_status read_shape(const char *path, const json_t *shape,
                             size_t element, safetensors_array *array,
                             size_t *bytes)
{
    array->rank = json_array_size(shape);
    *bytes = element;
    if (!json_is_array(shape) || array->rank > SAFETENSORS_RANK_MAX)
        return fex_fail(FEX_ERROR_CORRUPT,
                        "%s: the shape of '%s' is no list of at most %d sizes",
                        path, array->name, SAFETENSORS_RANK_MAX);
    for (size_t i = 0; i < array->rank; i++) {
        const json_t *size = json_array_get(shape, i);
        array->shape[i] = json_integer_value(size);
        if (!json_is_integer(size) || array->shape[i] < 0)
            return fex_fail(FEX_ERROR_CORRUPT,
                            "%s: the shape of '%s' holds what is no size", path,
                            array->name);
        if (__builtin_mul_overflow(*bytes, array->shape[i], bytes))
            return fex_fail(FEX_ERROR_CORRUPT,
                            "%s: the shape of '%s' is impossibly large", path,
                            array->name);
    }
    return FEX_OK;
}

/* Reads one member of the header. */
static fex_status read_array(const char *path, const char *data, size_t size,
                             const json_t *entry, safetensors_array *array)
{
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *first = json_array_get(offsets, 0);
    const json_t *end = json_array_get(offsets, 1);
    const size_t element = dtype != NULL ? find_dtype(dtype, &array->dtype) : 0;
    size_t bytes;

    if (element == 0)
        return fex_fail(FEX_ERROR_CORRUPT, "%s: the dtype of '%s' is %s", path,
                        array->name, dtype != NULL ? "unknown" : "missing");
    return_if_error(read_shape(path, json_object_get(entry, "shape"), element,
                               array, &bytes));
    if (json_array_size(offsets) != 2 || !json_is_integer(first) ||
        !json_is_integer(end))
        return fex_fail(FEX_ERROR_CORRUPT,
                        "%s: the data_offsets of '%s' are not two numbers",
                        path, array->name);

    const json_int_t from = json_integer_value(first);
    const json_int_t to = json_integer_value(end);
    if (from < 0 || to < from || (uint64_t)to > size)
        return fex_fail(FEX_ERROR_CORRUPT,
                        "%s: '%s' is said to be at bytes %lld to %lld of the "
                        "%zu bytes of data",
                        path, array->name, (long long)from, (long long)to,
                        size);
    if ((uint64_t)(to - from) != bytes)
        return fex_fail(FEX_ERROR_CORRUPT,
                        "%s: '%s' has %lld bytes where its dtype and shape "
                        "need %zu",
                        path, array->name, (long long)(to - from), bytes);
    array->data = data + from;
    array->bytes = bytes;
    return FEX_OK;
}

static int compare_arrays(const void *a, const void *b)
{
    const safetensors_array *left = a;
    const safetensors_array *right = b;
    const uintptr_t first = (uintptr_t)left->data;
    const uintptr_t second = (uintptr_t)right->data;
    if (first != second)
        return first < second ? -1 : 1;
    return (left->bytes > right->bytes) - (left->bytes < right->bytes);
}

/* Every byte of the data belongs to one array. */
static fex_status check_layout(const char *path, const char *data, size_t size,
                               safetensors_file *file)
{
    const char *end = data;

    qsort(file->arrays, file->count, sizeof *file->arrays, compare_arrays);
    for (size_t i = 0; i < file->count; i++) {
        const safetensors_array *array = &file->arrays[i];
        if (array->data != end)
            return fex_fail(FEX_ERROR_CORRUPT, "%s: %s '%s'", path,
                            (const char *)array->data < end
                                ? "two arrays overlap, the second is"
                                : "bytes that belong to no array precede",
                            array->name);
        end += array->bytes;
    }
    if (end != data + size)
        return fex_fail(FEX_ERROR_CORRUPT,
                        "%s: %zu bytes at the end belong to no array", path,
                        (size_t)(data + size - end));
    return FEX_OK;
}

static fex_status read_arrays(const char *path, const char *data, size_t size,
                              safetensors_file *file)
{
    json_t *const header = file->header;
    const char *name;
    json_t *entry;

    file->arrays = calloc(json_object_size(header) + 1, sizeof *file->arrays);
    if (file->arrays == NULL)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "%s: out of memory", path);
    json_object_foreach(header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        file->arrays[file->count].name = name;
        return_if_error(
            read_array(path, data, size, entry, &file->arrays[file->count]));
        file->count++;
    }
    return check_layout(path, data, size, file);
}

/* Checks the length in front and reads the header behind it. */
static fex_status read_header(const char *path, const unsigned char *bytes,
                              size_t size, json_t **header, size_t *length)
{
    uint64_t claimed = 0;
    json_error_t error;

    if (size < LENGTH_BYTES)
        return fex_fail(FEX_ERROR_CORRUPT,
                        "%s: %zu bytes are too few for a safetensors file",
                        path, size);
    for (int i = LENGTH_BYTES - 1; i >= 0; i--)
        claimed = claimed << 8 | bytes[i];
    if (claimed > size - LENGTH_BYTES || claimed > header_max)
        return fex_fail(FEX_ERROR_CORRUPT,
                        "%s: a header of %llu bytes is said to be in a file "
                        "of %zu (truncated, or no safetensors file)",
                        path, (unsigned long long)claimed, size);
    *length = (size_t)claimed;
    *header = json_loadb((const char *)bytes + LENGTH_BYTES, *length,
                         JSON_REJECT_DUPLICATES, &error);
    if (*header == NULL)
        return fex_fail(FEX_ERROR_CORRUPT, "%s: the header is not JSON: %s",
                        path, error.text);
    if (!json_is_object(*header)) {
        json_decref(*header);
        return fex_fail(FEX_ERROR_CORRUPT, "%s: the header is no JSON object",
                        path);
    }
    return FEX_OK;
}

fex_status safetensors_parse(const char *path, const void *bytes, size_t size,
                             safetensors_file *file)
{
    fex_status status;
    json_t *header;
    size_t length;

    return_if_error(read_header(path, bytes, size, &header, &length));
    *file = (safetensors_file){.header = header};
    status = read_arrays(path, (const char *)bytes + LENGTH_BYTES + length,
                         size - LENGTH_BYTES - length, file);
    if (status != FEX_OK)
        safetensors_close(file);
    return status;
}

/* Maps the regular file `path`. */
static fex_status map_file(const char *path, void **map, size_t *size)
{
    struct stat about;
    fex_status status = FEX_OK;

    /* Without O_NONBLOCK, opening a pipe that nobody writes to would wait. */
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0)
        return fex_fail(FEX_ERROR_IO, "cannot read '%s': %s", path,
                        strerror(errno));
    if (fstat(descriptor, &about) != 0 || !S_ISREG(about.st_mode)) {
        status = fex_fail(FEX_ERROR_IO, "'%s' is no regular file", path);
    } else if (about.st_size == 0) {
        status = fex_fail(FEX_ERROR_CORRUPT, "%s: the file is empty", path);
    } else {
        *size = (size_t)about.st_size;
        *map = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, descriptor, 0);
        if (*map == MAP_FAILED)
            status = fex_fail(FEX_ERROR_IO, "cannot map '%s': %s", path,
                              strerror(errno));
    }
    close(descriptor);
    return status;
}

fex_status safetensors_open(const char *path, safetensors_file *file)
{
    void *map = NULL;
    size_t size = 0;

    return_if_error(map_file(path, &map, &size));
    const fex_status status = safetensors_parse(path, map, size, file);
    if (status != FEX_OK) {
        munmap(map, size);
        return status;
    }
    file->map = map;
    file->size = size;
    return FEX_OK;
}

void safetensors_close(safetensors_file *file)
{
    free(file->arrays);
    json_decref(file->header);
    if (file->map != NULL)
        munmap(file->map, file->size);
    *file = (safetensors_file){.map = NULL};
}

const safetensors_array *safetensors_find(const safetensors_file *file,
                                          const char *name)
{
    for (size_t i = 0; i < file->count; i++)
        if (strcmp(file->arrays[i].name, name) == 0)
            return &file->arrays[i];
    return NULL;
}
