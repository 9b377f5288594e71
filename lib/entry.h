/* SPDX-License-Identifier: Apache-2.0 */
/* entry.h - the form of one kernel in the cache.
 *
 *     8  magic "FEXKERN\n"
 *     4  version of this format
 *     4  version of the compiler: 13000
 *     8  bytes of key text
 *     8  bytes of cubin
 *        key text, cubin
 *    16  XXH3-128 of everything before, canonical
 *
 * Numbers are little-endian. The key text is everything the cubin depends on,
 * so an entry explains itself and cannot be taken for another. */
#ifndef FEX_ENTRY_H
#define FEX_ENTRY_H

#include "cubin.h"
#include "status.h"

#define FEX_ENTRY_VERSION 1
#define FEX_ENTRY_MAX ((size_t)64 << 20) /* bytes; more is not believed */

/* What an entry holds; points into its bytes. */
typedef struct fex_entry {
    int compiler_version;
    const char *key_text; /* not terminated */
    size_t key_length;
    const unsigned char *cubin; /* NULL if only the head was read */
    size_t cubin_size;
} fex_entry;

/* Writes an entry to fresh memory; the caller frees *bytes. */
fex_status fex_entry_encode(const char *key_text, const fex_cubin *cubin,
                            unsigned char **bytes, size_t *size);

/* Reads what comes before the cubin: all that can be told from the first `got`
 * bytes of `size`. FEX_ERROR_CORRUPT also if the key text is not among them. */
#define FEX_ENTRY_HEAD_MAX 16384
fex_status fex_entry_decode_head(const unsigned char *bytes, size_t got,
                                 size_t size, fex_entry *entry);

/* Reads an entry, of which nothing is trusted. FEX_ERROR_CORRUPT says what is
 * wrong: too short, foreign, from another version, or damaged. */
fex_status fex_entry_decode(const unsigned char *bytes, size_t size,
                            fex_entry *entry);

/* FEX_ERROR_CORRUPT if the entry's key text does not have this key. */
fex_status fex_entry_check_key(const fex_entry *entry, const char *key);

#endif
