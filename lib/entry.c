/* SPDX-License-Identifier: Apache-2.0 */
/* entry.c - writing and reading the form of one kernel in the cache. */
#include "config.h"

#include <stdint.h>
#include <string.h>

#include "bytes.h"
#include "digest.h"
#include "entry.h"

static const unsigned char magic[8] = {'F', 'E', 'X', 'K', 'E', 'R', 'N', '\n'};

enum {
    AT_VERSION = 8,
    AT_COMPILER = 12,
    AT_KEY_LENGTH = 16,
    AT_CUBIN_SIZE = 24,
    HEAD = 32,
    TRAILER = FEX_DIGEST_BYTES
};

fex_status fex_entry_encode(const char *key_text, const fex_cubin *cubin,
                            unsigned char **bytes, size_t *size)
{
    const size_t key_length = strlen(key_text);
    const size_t body = HEAD + key_length + cubin->size;
    unsigned char *const made = malloc(body + TRAILER);
    if (made == NULL)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory for an entry");
    memcpy(made, magic, sizeof magic);
    fex_bytes_put(made + AT_VERSION, 4, FEX_ENTRY_VERSION);
    fex_bytes_put(made + AT_COMPILER, 4, (uint64_t)cubin->compiler_version);
    fex_bytes_put(made + AT_KEY_LENGTH, 8, key_length);
    fex_bytes_put(made + AT_CUBIN_SIZE, 8, cubin->size);
    memcpy(made + HEAD, key_text, key_length);
    memcpy(made + HEAD + key_length, cubin->data, cubin->size);
    fex_digest(made, body, made + body);
    *bytes = made;
    *size = body + TRAILER;
    return FEX_OK;
}

fex_status fex_entry_decode_head(const unsigned char *bytes, size_t got,
                                 size_t size, fex_entry *entry)
{
    if (got < HEAD || size < HEAD + TRAILER)
        return fex_fail(FEX_ERROR_CORRUPT, "%zu bytes are too few", size);
    if (memcmp(bytes, magic, sizeof magic) != 0)
        return fex_fail(FEX_ERROR_CORRUPT, "not a kernel entry");
    const uint64_t version = fex_bytes_get(bytes + AT_VERSION, 4);
    if (version != FEX_ENTRY_VERSION)
        return fex_fail(FEX_ERROR_CORRUPT, "format %u is not known",
                        (unsigned)version);
    const uint64_t compiler = fex_bytes_get(bytes + AT_COMPILER, 4);
    const uint64_t key_length = fex_bytes_get(bytes + AT_KEY_LENGTH, 8);
    const uint64_t cubin_size = fex_bytes_get(bytes + AT_CUBIN_SIZE, 8);
    const uint64_t room = size - HEAD - TRAILER;
    if (key_length > room || cubin_size != room - key_length ||
        key_length > got - HEAD || compiler > INT32_MAX)
        return fex_fail(FEX_ERROR_CORRUPT, "truncated, or lengths are wrong");
    *entry = (fex_entry){.compiler_version = (int)compiler,
                         .key_text = (const char *)bytes + HEAD,
                         .key_length = (size_t)key_length,
                         .cubin_size = (size_t)cubin_size};
    return FEX_OK;
}

fex_status fex_entry_decode(const unsigned char *bytes, size_t size,
                            fex_entry *entry)
{
    unsigned char digest[FEX_DIGEST_BYTES];
    return_if_error(fex_entry_decode_head(bytes, size, size, entry));
    fex_digest(bytes, size - TRAILER, digest);
    if (memcmp(digest, bytes + size - TRAILER, TRAILER) != 0)
        return fex_fail(FEX_ERROR_CORRUPT, "checksum is wrong");
    entry->cubin = bytes + HEAD + entry->key_length;
    return FEX_OK;
}

fex_status fex_entry_check_key(const fex_entry *entry, const char *key)
{
    char own[FEX_DIGEST_TEXT];
    fex_digest_text(entry->key_text, entry->key_length, own);
    if (strcmp(own, key) != 0)
        return fex_fail(FEX_ERROR_CORRUPT, "it is another kernel's");
    return FEX_OK;
}
