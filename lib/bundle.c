/* SPDX-License-Identifier: Apache-2.0 */
/* bundle.c - writing and reading many entries in one file. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "bundle.h"
#include "bytes.h"
#include "entry.h"

static const unsigned char magic[8] = {'F', 'E', 'X', 'B', 'N', 'D', 'L', '\n'};

enum {
    AT_VERSION = 8,
    AT_COUNT = 16,
    AT_SIZE = 24,
    HEAD = 32,
    ROW = 32, /* of the list of entries */
    ROW_BEGIN = 16,
    ROW_SIZE = 24,
    TRAILER = FEX_DIGEST_BYTES
};

static const unsigned char *row_at(const fex_bundle *bundle, size_t position)
{
    return bundle->bytes + HEAD + position * ROW;
}

/* ---- Reading ------------------------------------------------------------ */

static fex_status check_rows(const fex_bundle *bundle, uint64_t first)
{
    for (size_t i = 0; i < bundle->count; i++) {
        const unsigned char *const row = row_at(bundle, i);
        const uint64_t begin = fex_bytes_get(row + ROW_BEGIN, 8);
        const uint64_t size = fex_bytes_get(row + ROW_SIZE, 8);
        if (begin < first || begin > bundle->size ||
            size > bundle->size - begin)
            return fex_fail(FEX_ERROR_CORRUPT, "entry %zu lies outside", i);
        if (i > 0 && memcmp(row - ROW, row, FEX_DIGEST_BYTES) >= 0)
            return fex_fail(FEX_ERROR_CORRUPT, "entry %zu is out of order", i);
    }
    return FEX_OK;
}

fex_status fex_bundle_open(const void *bytes, size_t size, fex_bundle *bundle)
{
    const unsigned char *const head = bytes;
    unsigned char digest[FEX_DIGEST_BYTES];
    if (size < sizeof magic || memcmp(head, magic, sizeof magic) != 0)
        return fex_fail(FEX_ERROR_CORRUPT, "not a bundle of kernels");
    if (size < HEAD + TRAILER)
        return fex_fail(FEX_ERROR_CORRUPT, "%zu bytes are too few", size);
    const uint64_t version = fex_bytes_get(head + AT_VERSION, 4);
    if (version != FEX_BUNDLE_VERSION)
        return fex_fail(FEX_ERROR_CORRUPT, "format %u is not known",
                        (unsigned)version);
    const uint64_t count = fex_bytes_get(head + AT_COUNT, 8);
    if (fex_bytes_get(head + AT_SIZE, 8) != size ||
        count > (size - HEAD - TRAILER) / ROW)
        return fex_fail(FEX_ERROR_CORRUPT, "truncated, or lengths are wrong");
    const size_t body = HEAD + (size_t)count * ROW;
    fex_digest(head, body, digest);
    if (memcmp(digest, head + body, TRAILER) != 0)
        return fex_fail(FEX_ERROR_CORRUPT, "checksum is wrong");
    const fex_bundle found = {
        .bytes = head, .size = size, .count = (size_t)count};
    return_if_error(check_rows(&found, body + TRAILER));
    *bundle = found;
    return FEX_OK;
}

fex_status fex_bundle_verify(const fex_bundle *bundle)
{
    fex_bundle_item item;
    fex_entry entry;
    for (size_t i = 0; i < bundle->count; i++) {
        fex_bundle_get(bundle, i, &item);
        return_if_error(fex_entry_decode(item.bytes, item.size, &entry));
        return_if_error(fex_entry_check_key(&entry, item.key));
    }
    return FEX_OK;
}

void fex_bundle_get(const fex_bundle *bundle, size_t position,
                    fex_bundle_item *item)
{
    const unsigned char *const row = row_at(bundle, position);
    fex_digest_format(row, item->key);
    item->bytes = bundle->bytes + fex_bytes_get(row + ROW_BEGIN, 8);
    item->size = (size_t)fex_bytes_get(row + ROW_SIZE, 8);
}

int fex_bundle_find(const fex_bundle *bundle, const char *key,
                    fex_bundle_item *item)
{
    unsigned char wanted[FEX_DIGEST_BYTES];
    size_t low = 0, high = bundle->count;
    if (!fex_digest_parse(key, wanted))
        return 0;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const int order =
            memcmp(row_at(bundle, middle), wanted, FEX_DIGEST_BYTES);
        if (order == 0) {
            fex_bundle_get(bundle, middle, item);
            return 1;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}

/* ---- Writing ------------------------------------------------------------ */

static int by_key(const void *a, const void *b)
{
    const fex_bundle_item *const first = a, *const second = b;
    return strcmp(first->key, second->key);
}

fex_status fex_bundle_encode(fex_bundle_item *items, size_t count,
                             unsigned char **bytes, size_t *size)
{
    const size_t body = HEAD + count * ROW;
    size_t total = body + TRAILER;
    for (size_t i = 0; i < count; i++)
        total += items[i].size;
    unsigned char *const made = calloc(1, total);
    if (made == NULL)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory for a bundle");
    if (count > 0)
        qsort(items, count, sizeof *items, by_key);
    memcpy(made, magic, sizeof magic);
    fex_bytes_put(made + AT_VERSION, 4, FEX_BUNDLE_VERSION);
    fex_bytes_put(made + AT_COUNT, 8, count);
    fex_bytes_put(made + AT_SIZE, 8, total);
    size_t begin = body + TRAILER;
    for (size_t i = 0; i < count; i++) {
        unsigned char *const row = made + HEAD + i * ROW;
        fex_digest_parse(items[i].key, row);
        fex_bytes_put(row + ROW_BEGIN, 8, begin);
        fex_bytes_put(row + ROW_SIZE, 8, items[i].size);
        memcpy(made + begin, items[i].bytes, items[i].size);
        begin += items[i].size;
    }
    fex_digest(made, body, made + body);
    *bytes = made;
    *size = total;
    return FEX_OK;
}
