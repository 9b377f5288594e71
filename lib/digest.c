/* SPDX-License-Identifier: Apache-2.0 */
/* digest.c - XXH3-128 of bytes, in bytes and in text. */
#include "config.h"

#include <string.h>
#include <xxhash.h>

#include "digest.h"

static const char digits[] = "0123456789abcdef";

void fex_digest(const void *bytes, size_t size,
                unsigned char digest[FEX_DIGEST_BYTES])
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes, size));
    memcpy(digest, canonical.digest, FEX_DIGEST_BYTES);
}

void fex_digest_format(const unsigned char digest[FEX_DIGEST_BYTES],
                       char text[FEX_DIGEST_TEXT])
{
    for (size_t i = 0; i < FEX_DIGEST_BYTES; i++) {
        text[2 * i] = digits[digest[i] >> 4];
        text[2 * i + 1] = digits[digest[i] & 15];
    }
    text[2 * FEX_DIGEST_BYTES] = '\0';
}

int fex_digest_parse(const char *text, unsigned char digest[FEX_DIGEST_BYTES])
{
    if (strspn(text, digits) != 2 * FEX_DIGEST_BYTES ||
        text[2 * FEX_DIGEST_BYTES] != '\0')
        return 0;
    for (size_t i = 0; i < FEX_DIGEST_BYTES; i++) {
        const long high = strchr(digits, text[2 * i]) - digits;
        const long low = strchr(digits, text[2 * i + 1]) - digits;
        digest[i] = (unsigned char)(16 * high + low);
    }
    return 1;
}

void fex_digest_text(const void *bytes, size_t size, char text[FEX_DIGEST_TEXT])
{
    unsigned char digest[FEX_DIGEST_BYTES];
    fex_digest(bytes, size, digest);
    fex_digest_format(digest, text);
}
