/* SPDX-License-Identifier: Apache-2.0 */
/* bundle.h - many entries in one file, to be used in place.
 *
 *     8  magic "FEXBNDL\n"
 *     4  version of this format
 *     4  0
 *     8  number of entries
 *     8  bytes of the whole file
 *        for each entry, sorted by key:
 *    16      key
 *     8      where the entry begins
 *     8      its bytes
 *    16  XXH3-128 of everything before, canonical
 *        the entries, each as in entry.h, with its own checksum
 *
 * Numbers are little-endian. */
#ifndef FEX_BUNDLE_H
#define FEX_BUNDLE_H

#include "digest.h"
#include "status.h"

#define FEX_BUNDLE_VERSION 1

/* A bundle in memory that somebody else owns. */
typedef struct fex_bundle {
    const unsigned char *bytes;
    size_t size;
    size_t count;
} fex_bundle;

/* One entry of a bundle. */
typedef struct fex_bundle_item {
    char key[FEX_DIGEST_TEXT];
    const unsigned char *bytes;
    size_t size;
} fex_bundle_item;

/* Checks all but the entries, of which nothing is trusted.
 * FEX_ERROR_CORRUPT says what is wrong. */
fex_status fex_bundle_open(const void *bytes, size_t size, fex_bundle *bundle);

/* Checks every entry as well: sound, and with the key it is listed by. */
fex_status fex_bundle_verify(const fex_bundle *bundle);

void fex_bundle_get(const fex_bundle *bundle, size_t position,
                    fex_bundle_item *item);
/* 0 if there is no such key. */
int fex_bundle_find(const fex_bundle *bundle, const char *key,
                    fex_bundle_item *item);

/* Writes a bundle of items, which have different keys and get sorted, to fresh
 * memory; the caller frees *bytes. */
fex_status fex_bundle_encode(fex_bundle_item *items, size_t count,
                             unsigned char **bytes, size_t *size);

#endif
