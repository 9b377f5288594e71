/* SPDX-License-Identifier: Apache-2.0 */
/* digest.h - XXH3-128, the one digest of the cache: of keys, sources and
 * entries, in canonical form (the same bytes on every machine). */
#ifndef FEX_DIGEST_H
#define FEX_DIGEST_H

#include <stddef.h>

#define FEX_DIGEST_BYTES 16
#define FEX_DIGEST_TEXT 33 /* hexadecimal, with its NUL */

void fex_digest(const void *bytes, size_t size,
                unsigned char digest[FEX_DIGEST_BYTES]);
void fex_digest_format(const unsigned char digest[FEX_DIGEST_BYTES],
                       char text[FEX_DIGEST_TEXT]);

/* Reads what fex_digest_format wrote; 0 if it is anything else. */
int fex_digest_parse(const char *text, unsigned char digest[FEX_DIGEST_BYTES]);

/* The digest of bytes as text. */
void fex_digest_text(const void *bytes, size_t size,
                     char text[FEX_DIGEST_TEXT]);

#endif
