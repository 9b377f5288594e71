/* SPDX-License-Identifier: Apache-2.0 */
/* shape_keys.h - the keys of the shape grammar as data; for shape.c, which has
 * the table, and shape_list.c, which parses by it. */
#ifndef TOOL_SHAPE_KEYS_H
#define TOOL_SHAPE_KEYS_H

#include "shape.h"

typedef struct shape_word {
    const char *name; /* NULL ends a table */
    int64_t value;
} shape_word;

enum {
    KEY_DTYPE,
    KEY_HIDDEN,
    KEY_TOP_K,
    KEY_EXPERTS,
    KEY_TOKENS,
    KEY_PASS,
    KEY_INDEX,
    KEY_ROUTING,
    KEY_WEIGHT_GRAD,
    KEY_COUNT
};

/* A key's values are words, or numbers from least to most. */
typedef struct shape_key {
    const char *name;
    const shape_word *words; /* NULL: a number */
    int64_t least, most;
    const char *preset; /* NULL: has to be given */
    int fixed_by_data;  /* a file of data says what it is */
    const char *help;
} shape_key;

extern const shape_key shape_keys[KEY_COUNT];

/* A shape as one value a key, and back. */
void shape_to_values(const tool_shape *shape, int64_t values[KEY_COUNT]);
tool_shape shape_of_values(const int64_t values[KEY_COUNT]);

#endif
