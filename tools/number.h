/* SPDX-License-Identifier: Apache-2.0 */
/* number.h - counts, sizes and ages as people write them. */
#ifndef TOOL_NUMBER_H
#define TOOL_NUMBER_H

#include <stddef.h>
#include <stdint.h>

/* What a letter behind a number multiplies it by. */
typedef struct tool_unit {
    char letter;    /* lower case; 0 ends a table, and is for no letter */
    int64_t factor; /* 0: there must be a letter */
} tool_unit;

/* K, M, G, T: powers of 1024, for counts as well as bytes. */
extern const tool_unit number_binary_units[];

/* s, m, h, d, w: seconds. A bare number could mean any of them. */
extern const tool_unit number_age_units[];

/* Reads `length` characters: decimal digits and at most one letter of `units`
 * in either case. 0, or -1 for anything else and for what int64_t cannot
 * hold; *value is then unchanged. */
int number_parse(const char *text, size_t length, const tool_unit *units,
                 int64_t *value);

/* Whether it was a number but for its sign. */
int number_is_negative(const char *text, size_t length);

#endif
