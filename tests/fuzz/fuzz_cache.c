/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_cache.c - a libFuzzer target: files of the cache written by an enemy.
 *
 * The first byte chooses what the rest is taken for. An enemy can compute
 * checksums, so in half of the cases the target puts them right, which lets
 * the fuzzer past them. Whatever is accepted is then read in full. */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "bundle.h"
#include "entry.h"
#include "specialize.h"

enum { ENTRY, ENTRY_SIGNED, HEAD, BUNDLE, BUNDLE_SIGNED, KEY_TEXT, KINDS };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Reads every byte, so that a sanitizer checks every address. */
static unsigned touch(const void *bytes, size_t size)
{
    unsigned sum = 0;
    for (size_t i = 0; i < size; i++)
        sum += ((const unsigned char *)bytes)[i];
    return sum;
}

static void use_key_text(const char *text, size_t length)
{
    char architecture[16];
    char *words;
    if (fex_describe_key(text, length, &words, architecture) != FEX_OK)
        return;
    if (strlen(architecture) >= sizeof architecture ||
        strchr(words, '\n') != NULL || strchr(words, '\033') != NULL)
        abort();
    free(words);
}

static void use_entry(const unsigned char *bytes, size_t size)
{
    fex_entry entry;
    if (fex_entry_decode(bytes, size, &entry) != FEX_OK)
        return;
    touch(entry.key_text, entry.key_length);
    touch(entry.cubin, entry.cubin_size);
    use_key_text(entry.key_text, entry.key_length);
    fex_entry_check_key(&entry, "00000000000000000000000000000000");
}

static void use_head(const unsigned char *bytes, size_t size)
{
    fex_entry entry;
    /* The file is said to be larger than what was read of it. */
    if (fex_entry_decode_head(bytes, size, size + 1000, &entry) == FEX_OK)
        use_key_text(entry.key_text, entry.key_length);
}

static void use_bundle(const unsigned char *bytes, size_t size)
{
    fex_bundle bundle;
    fex_bundle_item item, found;
    if (fex_bundle_open(bytes, size, &bundle) != FEX_OK)
        return;
    for (size_t i = 0; i < bundle.count; i++) {
        fex_bundle_get(&bundle, i, &item);
        touch(item.bytes, item.size);
        use_entry(item.bytes, item.size);
        if (!fex_bundle_find(&bundle, item.key, &found) ||
            found.bytes != item.bytes)
            abort();
    }
    fex_bundle_verify(&bundle);
}

/* Puts the checksum of a bundle's list where its own count says it is. */
static void sign_bundle(unsigned char *bytes, size_t size)
{
    uint64_t count;
    if (size < 48)
        return;
    memcpy(&count, bytes + 16, sizeof count);
    if (count > (size - 48) / 32)
        return;
    memcpy(bytes + 24, &size, sizeof size);
    fex_digest(bytes, 32 + 32 * (size_t)count, bytes + 32 + 32 * count);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const int kind = data[0] % KINDS;
    const size_t length = size - 1;
    /* Of exactly this size, so that a byte too far is noticed. */
    unsigned char *const bytes = malloc(length > 0 ? length : 1);
    if (bytes == NULL)
        return 0;
    memcpy(bytes, data + 1, length);
    if (kind == ENTRY_SIGNED && length >= FEX_DIGEST_BYTES)
        fex_digest(bytes, length - FEX_DIGEST_BYTES,
                   bytes + length - FEX_DIGEST_BYTES);
    if (kind == BUNDLE_SIGNED)
        sign_bundle(bytes, length);
    switch (kind) {
    case ENTRY:
    case ENTRY_SIGNED:
        use_entry(bytes, length);
        break;
    case HEAD:
        use_head(bytes, length);
        break;
    case BUNDLE:
    case BUNDLE_SIGNED:
        use_bundle(bytes, length);
        break;
    default:
        use_key_text((const char *)bytes, length);
        break;
    }
    free(bytes);
    return 0;
}
