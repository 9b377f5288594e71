/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "shape.h"

#include <stdio.h>
#include <string.h>

#include "problem.h"
#include "shape_keys.h"

static const shape_word dtype_words[] = {
    {"f16", FEX_DTYPE_F16},
    {"bf16", FEX_DTYPE_BF16},
    {"f32", FEX_DTYPE_F32},
    {NULL, 0},
};

static const shape_word second_dtype_words[] = {
    {"auto", FEX_DTYPE_AUTO},
    {"f16", FEX_DTYPE_F16},
    {"bf16", FEX_DTYPE_BF16},
    {"f32", FEX_DTYPE_F32},
    {NULL, 0},
};

static const shape_word index_words[] = {
    {"i32", FEX_INDEX_I32},
    {"i64", FEX_INDEX_I64},
    {NULL, 0},
};

static const shape_word pass_words[] = {
    {"forward", FEX_PASS_FORWARD},
    {"backward", FEX_PASS_BACKWARD},
    {"both", FEX_PASS_BOTH},
    {NULL, 0},
};

const shape_key shape_keys[KEY_COUNT] = {
    [KEY_DTYPE] = {"dtype", dtype_words, 0, 0, "bf16", 1,
                   "x, the tables and their gradients"},
    [KEY_HIDDEN] = {"hidden", NULL, 1, FEX_HIDDEN_SIZE_MAX, NULL, 1,
                    "hidden size H"},
    [KEY_TOP_K] = {"top_k", NULL, 1, FEX_TOP_K_MAX, NULL, 1,
                   "experts a token chooses, K"},
    [KEY_EXPERTS] = {"experts", NULL, 1, INT32_MAX, NULL, 1,
                     "experts in a table, E"},
    [KEY_TOKENS] = {"tokens", NULL, 0, FEX_PAIRS_MAX, NULL, 1,
                    "tokens in a call, T"},
    [KEY_PASS] = {"pass", pass_words, 0, 0, "both", 0, "what to evaluate"},
    [KEY_INDEX] = {"index", index_words, 0, 0, "i32", 1, "type of the indices"},
    [KEY_ROUTING] = {"routing", second_dtype_words, 0, 0, "auto", 1,
                     "routing weights"},
    [KEY_WEIGHT_GRAD] = {"weight_grad", second_dtype_words, 0, 0, "auto", 0,
                         "gradients of the tables"},
};

static const char *word_name(const shape_word *words, int64_t value)
{
    while (words->name != NULL && words->value != value)
        words++;
    return words->name != NULL ? words->name : "?";
}

const char *shape_pass_name(fex_pass pass)
{
    return word_name(pass_words, pass);
}

void shape_to_values(const tool_shape *shape, int64_t values[KEY_COUNT])
{
    const fex_op_desc *desc = &shape->desc;
    values[KEY_DTYPE] = desc->dtype;
    values[KEY_HIDDEN] = desc->hidden_size;
    values[KEY_TOP_K] = desc->top_k;
    values[KEY_EXPERTS] = desc->num_experts;
    values[KEY_TOKENS] = shape->tokens;
    values[KEY_PASS] = shape->passes;
    values[KEY_INDEX] = desc->index_type;
    values[KEY_ROUTING] = desc->routing_dtype;
    values[KEY_WEIGHT_GRAD] = desc->weight_grad_dtype;
}

/* A second type equal to dtype is what auto means: equal shapes are equal. */
static fex_dtype second_dtype(const int64_t values[KEY_COUNT], int key)
{
    return values[key] == values[KEY_DTYPE] ? FEX_DTYPE_AUTO
                                            : (fex_dtype)values[key];
}

tool_shape shape_of_values(const int64_t values[KEY_COUNT])
{
    return (tool_shape){
        .desc = {.size = sizeof(fex_op_desc),
                 .dtype = (fex_dtype)values[KEY_DTYPE],
                 .routing_dtype = second_dtype(values, KEY_ROUTING),
                 .weight_grad_dtype = second_dtype(values, KEY_WEIGHT_GRAD),
                 .index_type = (fex_index_type)values[KEY_INDEX],
                 .hidden_size = values[KEY_HIDDEN],
                 .top_k = values[KEY_TOP_K],
                 .num_experts = values[KEY_EXPERTS]},
        .tokens = values[KEY_TOKENS],
        .passes = (fex_pass)values[KEY_PASS],
    };
}

void shape_format(const tool_shape *shape, char text[SHAPE_TEXT_MAX])
{
    int64_t values[KEY_COUNT];
    size_t length = 0;

    shape_to_values(shape, values);
    text[0] = '\0';
    for (size_t k = 0; k < KEY_COUNT && length < SHAPE_TEXT_MAX; k++) {
        const shape_key *key = &shape_keys[k];
        char number[24];
        const char *value = number;
        snprintf(number, sizeof number, "%lld", (long long)values[k]);
        if (key->words != NULL)
            value = word_name(key->words, values[k]);
        /* dtype and pass are always of interest. */
        if (k > KEY_PASS && strcmp(value, key->preset) == 0)
            continue;
        length +=
            (size_t)snprintf(text + length, SHAPE_TEXT_MAX - length, "%s%s=%s",
                             length > 0 ? " " : "", key->name, value);
    }
}

void shape_print_help(void)
{
    puts(
        "A shape is KEY=VALUE fields, such as\n"
        "  'dtype=bf16 hidden=1024 top_k=64 experts=16K tokens=1,4096'\n"
        "Lists separated by commas expand to every combination. K, M, G and T\n"
        "are powers of 1024. A file of shapes has one such text a line; #\n"
        "starts a comment. Keys (auto is the same as dtype):");
    for (size_t k = 0; k < KEY_COUNT; k++) {
        printf("  %-14s%s", shape_keys[k].name, shape_keys[k].help);
        for (const shape_word *word = shape_keys[k].words;
             word != NULL && word->name != NULL; word++)
            printf("%s%s", word == shape_keys[k].words ? ": " : "|",
                   word->name);
        if (shape_keys[k].preset != NULL)
            printf(" (default %s)", shape_keys[k].preset);
        putchar('\n');
    }
}
