/* SPDX-License-Identifier: Apache-2.0 */
/* entry.c - writing and reading the form of one kernel in the cache. */
#include "config.h"

#include <stdint.h>
#include <string.h>
#include <xxhash.h>

#include "entry.h"

static const unsigned char magic[8] = {'F', 'E', 'X', 'K', 'E', 'R', 'N', '\n'};

enum {
    AT_VERSION = 8,
    AT_COMPILER = 12,
    AT_KEY_LENGTH = 16,
    AT_CUBIN_SIZE = 24,
    HEAD = 32,
    TRAILER = sizeof(XXH128_canonical_t)
};

static void put_number(unsigned char *bytes, int width, uint64_t number)
{
    for (int i = 0; i < width; i++)
        bytes[i] = (unsigned char)(number >> 8 * i);
}

static uint64_t get_number(const unsigned char *bytes, int width)
{
    uint64_t number = 0;
    for (int i = 0; i < width; i++)
        number |= (uint64_t)bytes[i] << 8 * i;
    return number;
}

static XXH128_canonical_t digest_of(const unsigned char *bytes, size_t size)
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, size));
    return canonical;
}

fex_status fex_entry_encode(const char *key_text, const fex_cubin *cubin,
                            unsigned char **bytes, size_t *size)
{
    const size_t key_length = strlen(key_text);
    const size_t body = HEAD + key_length + cubin->size;
    unsigned char *const made = malloc(body + TRAILER);
    if (made == NULL)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory for an entry");
    memcpy(made, magic, sizeof magic);
    put_number(made + AT_VERSION, 4, FEX_ENTRY_VERSION);
    put_number(made + AT_COMPILER, 4, (uint64_t)cubin->compiler_version);
    put_number(made + AT_KEY_LENGTH, 8, key_length);
    put_number(made + AT_CUBIN_SIZE, 8, cubin->size);
    memcpy(made + HEAD, key_text, key_length);
    memcpy(made + HEAD + key_length, cubin->data, cubin->size);
    const XXH128_canonical_t digest = digest_of(made, body);
    memcpy(made + body, digest.digest, TRAILER);
    *bytes = made;
    *size = body + TRAILER;
    return FEX_OK;
}

fex_status fex_entry_decode(const unsigned char *bytes, size_t size,
                            fex_entry *entry)
{
    if (size < HEAD + TRAILER)
        return fex_fail(FEX_ERROR_CORRUPT, "%zu bytes are too few", size);
    if (memcmp(bytes, magic, sizeof magic) != 0)
        return fex_fail(FEX_ERROR_CORRUPT, "not a kernel entry");
    const uint64_t version = get_number(bytes + AT_VERSION, 4);
    if (version != FEX_ENTRY_VERSION)
        return fex_fail(FEX_ERROR_CORRUPT, "format %u is not known",
                        (unsigned)version);
    const uint64_t key_length = get_number(bytes + AT_KEY_LENGTH, 8);
    const uint64_t cubin_size = get_number(bytes + AT_CUBIN_SIZE, 8);
    const uint64_t room = size - HEAD - TRAILER;
    if (key_length > room || cubin_size != room - key_length)
        return fex_fail(FEX_ERROR_CORRUPT, "truncated, or lengths are wrong");
    const XXH128_canonical_t digest = digest_of(bytes, size - TRAILER);
    if (memcmp(digest.digest, bytes + size - TRAILER, TRAILER) != 0)
        return fex_fail(FEX_ERROR_CORRUPT, "checksum is wrong");
    *entry = (fex_entry){
        .compiler_version = (int)get_number(bytes + AT_COMPILER, 4),
        .key_text = (const char *)bytes + HEAD,
        .key_length = (size_t)key_length,
        .cubin = bytes + HEAD + key_length,
        .cubin_size = (size_t)cubin_size};
    return FEX_OK;
}
