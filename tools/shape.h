/* SPDX-License-Identifier: Apache-2.0 */
/* shape.h - what to evaluate, in words: the grammar of --shape and --shapes.
 *
 *     dtype=bf16 hidden=1024 top_k=64 experts=16K tokens=1,4096 pass=both
 *
 * Fields are separated by blanks and may come in any order; a list separated
 * by commas stands for each of its values, several lists for every combination
 * (the last key of the table varies fastest). A number may end in K, M, G or
 * T, powers of 1024. In a file each line is one such text; # starts a comment.
 * The keys are a table in shape.c. */
#ifndef TOOL_SHAPE_H
#define TOOL_SHAPE_H

#include "options.h"
#include "status.h"

typedef struct tool_shape {
    fex_op_desc desc;
    int64_t tokens;
    fex_pass passes;
} tool_shape;

typedef struct tool_shapes {
    tool_shape *items;
    size_t count;
} tool_shapes;

/* Adds the shapes that `text` stands for; `origin` says in messages where it
 * came from. With `data`, a shape found in a file of data, keys that are left
 * out take its values and keys of what the data fix must agree with it.
 * FEX_ERROR_INVALID_ARGUMENT names line, column and what was expected;
 * FEX_ERROR_OUT_OF_MEMORY. */
fex_status shape_list_add(tool_shapes *list, const char *origin,
                          const char *text, const tool_shape *data);

/* Adds the shapes of a file, or of standard input for "-". Also FEX_ERROR_IO,
 * if it cannot be read, and FEX_ERROR_INVALID_ARGUMENT if there is no shape in
 * it. */
fex_status shape_list_add_file(tool_shapes *list, const char *path);

/* Adds what the options --shape and --shapes of a command were given; that
 * there is none is FEX_ERROR_INVALID_ARGUMENT. */
fex_status shape_list_add_all(tool_shapes *list, const tool_texts *texts,
                              const tool_texts *files);

void shape_list_free(tool_shapes *list);

/* The shape in the grammar's words: every key that differs from its default,
 * and those that have none. Always terminated. */
#define SHAPE_TEXT_MAX 192
void shape_format(const tool_shape *shape, char text[SHAPE_TEXT_MAX]);

/* Prints the grammar and the table of keys, for --help. */
void shape_print_help(void);

/* "forward", "backward", "both". */
const char *shape_pass_name(fex_pass pass);

#endif
