/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "subset.h"

#include <stdlib.h>

#include "convert.h"
#include "data.h"
#include "parallel.h"

/* Table rows a subset may hold, in elements: what the oracle needs besides in
 * doubles is four times as much in bytes as this. */
static const int64_t table_elements_max = INT64_C(1) << 25;

enum { CHUNK = 256 };

static fex_status no_memory(void)
{
    return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory to verify with");
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

void subset_free(tool_subset *s)
{
    tensors_free(&s->tensors);
    free(s->tokens);
    free(s->experts);
    *s = (tool_subset){.row_count = 0};
}

/* Row i of `count` rows that are spread over `total`: one at random from each
 * of `count` stretches of equal length. */
static int64_t sample_row(int64_t i, int64_t count, int64_t total,
                          uint64_t seed)
{
    const int64_t begin = (int64_t)((__int128)i * total / count);
    const int64_t end = (int64_t)((__int128)(i + 1) * total / count);
    return begin +
           (int64_t)(data_random(seed, (uint64_t)i) % (uint64_t)(end - begin));
}

/* The expert of a pair, or -1 for an empty slot. */
static int64_t expert_of(const tool_shape *shape, const tool_tensors *inputs,
                         int64_t pair)
{
    const int64_t index = fex_convert_index(shape->desc.index_type,
                                            inputs->data[TENSOR_INDICES], pair);
    return index >= 0 && index < shape->desc.num_experts ? index : -1;
}

/* ---- Widening rows ------------------------------------------------------ */

typedef struct widening {
    const void *from;
    fex_dtype dtype;
    const int64_t *rows;
    int64_t columns;
    float *to;
} widening;

static void widen(fex_dtype dtype, const void *from, int64_t position,
                  int64_t count, float *to)
{
    double values[CHUNK];

    for (int64_t at = 0; at < count; at += CHUNK) {
        const int64_t size = smaller(count - at, CHUNK);
        fex_convert_load(dtype, from, position + at, size, values);
        for (int64_t i = 0; i < size; i++)
            to[at + i] = (float)values[i];
    }
}

static void widen_rows(void *user, int64_t begin, int64_t end)
{
    const widening *w = user;
    for (int64_t r = begin; r < end; r++)
        widen(w->dtype, w->from, w->rows[r] * w->columns, w->columns,
              w->to + r * w->columns);
}

static void widen_weight(const tool_shape *shape, const tool_tensors *inputs,
                         int64_t pair, float *weight)
{
    widen(tensor_dtype(shape, TENSOR_ROUTING_WEIGHTS),
          inputs->data[TENSOR_ROUTING_WEIGHTS], pair, 1, weight);
}

/* Allocates the subset's inputs, and copies those with H columns. */
static fex_status copy_rows(tool_subset *s, const tool_shape *shape,
                            const tool_tensors *inputs)
{
    return_if_error(tensors_allocate_inputs(&s->tensors, &s->shape));
    for (tensor_id id = 0; id < TENSOR_COUNT; id++) {
        const int of_tokens = tensor_table[id].rows == 'T';
        const int64_t rows =
            of_tokens ? s->shape.tokens : s->shape.desc.num_experts;
        widening w = {.from = inputs->data[id],
                      .dtype = tensor_dtype(shape, id),
                      .rows = of_tokens ? s->tokens : s->experts,
                      .columns = shape->desc.hidden_size,
                      .to = s->tensors.data[id]};
        if (tensor_is_input(&s->shape, id) && tensor_table[id].columns == 'H')
            parallel_for(rows, 1, widen_rows, &w);
    }
    return FEX_OK;
}

static tool_shape widened_shape(const tool_shape *shape, int64_t tokens,
                                int64_t top_k, int64_t num_experts)
{
    tool_shape wide = {.desc = {.size = sizeof(fex_op_desc),
                                .dtype = FEX_DTYPE_F32,
                                .index_type = FEX_INDEX_I32,
                                .hidden_size = shape->desc.hidden_size,
                                .top_k = top_k,
                                .num_experts = num_experts},
                       .tokens = tokens,
                       .passes = shape->passes};
    return wide;
}

/* ---- Tokens ------------------------------------------------------------- */

/* Numbers the experts that the tokens chose: map[expert] becomes its number,
 * s->experts[number] the expert. Returns how many. */
static int64_t number_experts(tool_subset *s, const tool_shape *shape,
                              const tool_tensors *inputs, int64_t tokens,
                              int32_t *map)
{
    const int64_t k = shape->desc.top_k;
    int64_t count = 0;

    for (int64_t e = 0; e < shape->desc.num_experts; e++)
        map[e] = -1;
    for (int64_t i = 0; i < tokens * k; i++) {
        const int64_t expert =
            expert_of(shape, inputs, s->tokens[i / k] * k + i % k);
        if (expert < 0 || map[expert] >= 0)
            continue;
        map[expert] = (int32_t)count;
        s->experts[count++] = expert;
    }
    return count;
}

static void copy_pairs(tool_subset *s, const tool_shape *shape,
                       const tool_tensors *inputs, const int32_t *map)
{
    const int64_t k = shape->desc.top_k;
    int32_t *indices = s->tensors.data[TENSOR_INDICES];
    float *weights = s->tensors.data[TENSOR_ROUTING_WEIGHTS];

    for (int64_t i = 0; i < s->shape.tokens * k; i++) {
        const int64_t pair = s->tokens[i / k] * k + i % k;
        const int64_t expert = expert_of(shape, inputs, pair);
        indices[i] = expert >= 0 ? map[expert] : -1;
        widen_weight(shape, inputs, pair, &weights[i]);
    }
}

/* The outputs with a row a token; weight gradients stay NULL. */
static fex_status allocate_token_outputs(tool_subset *s)
{
    for (tensor_id id = 0; id < TENSOR_COUNT; id++)
        if (tensor_table[id].rows == 'T' && tensor_is_output(&s->shape, id)) {
            s->tensors.data[id] = malloc(tensor_bytes(&s->shape, id) + 1);
            if (s->tensors.data[id] == NULL)
                return no_memory();
        }
    return FEX_OK;
}

fex_status subset_of_tokens(const tool_shape *shape, const tool_tensors *inputs,
                            int64_t budget, uint64_t seed, tool_subset *s)
{
    const int64_t k = shape->desc.top_k;
    const int64_t per_token = k * shape->desc.hidden_size;
    const int64_t affordable = budget / per_token + 1;
    const int64_t tokens = smaller(shape->tokens, affordable);
    const int64_t experts_max = smaller(shape->desc.num_experts, tokens * k);
    fex_status status = FEX_OK;

    int32_t *map = malloc((size_t)shape->desc.num_experts * sizeof *map);
    s->tokens = malloc((size_t)tokens * sizeof *s->tokens + 1);
    s->experts = calloc((size_t)experts_max + 1, sizeof *s->experts);
    if (map == NULL || s->tokens == NULL || s->experts == NULL) {
        status = no_memory();
        goto free_map;
    }
    for (int64_t i = 0; i < tokens; i++)
        s->tokens[i] = sample_row(i, tokens, shape->tokens, seed);
    const int64_t chosen = number_experts(s, shape, inputs, tokens, map);
    s->shape = widened_shape(shape, tokens, k, chosen > 0 ? chosen : 1);
    s->row_count = tokens;
    s->longest_sum = k > shape->desc.hidden_size ? k : shape->desc.hidden_size;
    status = copy_rows(s, shape, inputs);
    if (status != FEX_OK)
        goto free_map;
    copy_pairs(s, shape, inputs, map);
    status = allocate_token_outputs(s);
free_map:
    free(map);
    return status;
}

/* ---- Experts ------------------------------------------------------------ */

/* The pairs of the experts that were chosen for the subset. */
typedef struct selection {
    int64_t *pairs_of; /* [E] how many pairs chose the expert */
    int32_t *map;      /* [E] its number in the subset, or -1 */
    int64_t count;
    int64_t busiest; /* pairs of the busiest */
} selection;

static void select_expert(selection *sel, tool_subset *s, int64_t expert)
{
    if (sel->map[expert] >= 0)
        return;
    sel->map[expert] = (int32_t)sel->count;
    s->experts[sel->count++] = expert;
}

/* Chooses the busiest, an idle one and up to `rows` others. */
static void select_experts(selection *sel, const tool_shape *shape,
                           int64_t rows, uint64_t seed, tool_subset *s)
{
    const int64_t num_experts = shape->desc.num_experts;
    int64_t busiest = 0;
    int64_t idle = 0;

    for (int64_t e = 0; e < num_experts; e++) {
        sel->map[e] = -1;
        if (sel->pairs_of[e] > sel->pairs_of[busiest])
            busiest = e;
        if (sel->pairs_of[e] < sel->pairs_of[idle])
            idle = e;
    }
    sel->busiest = sel->pairs_of[busiest];
    select_expert(sel, s, busiest);
    select_expert(sel, s, idle);
    for (int64_t i = 0; i < rows; i++)
        select_expert(sel, s, sample_row(i, rows, num_experts, seed));
}

/* Finds the tokens with a pair in the selection, and the most pairs that one
 * of them has. */
static int64_t select_tokens(const selection *sel, const tool_shape *shape,
                             const tool_tensors *inputs, tool_subset *s,
                             int64_t *slots)
{
    int64_t tokens = 0;

    *slots = 1;
    for (int64_t t = 0; t < shape->tokens; t++) {
        int64_t found = 0;
        for (int64_t k = 0; k < shape->desc.top_k; k++) {
            const int64_t expert =
                expert_of(shape, inputs, t * shape->desc.top_k + k);
            found += expert >= 0 && sel->map[expert] >= 0;
        }
        if (found > 0)
            s->tokens[tokens++] = t;
        if (found > *slots)
            *slots = found;
    }
    return tokens;
}

static void copy_selected_pairs(const selection *sel, const tool_shape *shape,
                                const tool_tensors *inputs, tool_subset *s)
{
    const int64_t k = shape->desc.top_k;
    const int64_t slots = s->shape.desc.top_k;
    int32_t *indices = s->tensors.data[TENSOR_INDICES];
    float *weights = s->tensors.data[TENSOR_ROUTING_WEIGHTS];

    for (int64_t i = 0; i < s->shape.tokens * slots; i++) {
        indices[i] = -1;
        weights[i] = 0;
    }
    for (int64_t i = 0; i < s->shape.tokens; i++) {
        int64_t slot = i * slots;
        for (int64_t pair = s->tokens[i] * k; pair < (s->tokens[i] + 1) * k;
             pair++) {
            const int64_t expert = expert_of(shape, inputs, pair);
            if (expert < 0 || sel->map[expert] < 0)
                continue;
            indices[slot] = sel->map[expert];
            widen_weight(shape, inputs, pair, &weights[slot++]);
        }
    }
}

/* The two weight gradients; what has a row a token stays NULL. */
static fex_status allocate_expert_outputs(tool_subset *s)
{
    for (tensor_id id = 0; id < TENSOR_COUNT; id++)
        if (tensor_table[id].type == TYPE_WEIGHT_GRAD) {
            s->tensors.data[id] = malloc(tensor_bytes(&s->shape, id));
            if (s->tensors.data[id] == NULL)
                return no_memory();
        }
    return FEX_OK;
}

/* How many experts fit the budget, if they have as many pairs as most. */
static int64_t affordable_rows(const tool_shape *shape, int64_t budget)
{
    const int64_t num_experts = shape->desc.num_experts;
    const int64_t pairs = shape->tokens * shape->desc.top_k;
    const int64_t per_row = (pairs / num_experts + 1) * shape->desc.hidden_size;
    const int64_t held = table_elements_max / shape->desc.hidden_size;
    return smaller(num_experts, smaller(budget / per_row, held) + 1);
}

fex_status subset_of_experts(const tool_shape *shape,
                             const tool_tensors *inputs, int64_t budget,
                             uint64_t seed, tool_subset *s)
{
    const int64_t num_experts = shape->desc.num_experts;
    const int64_t pairs = shape->tokens * shape->desc.top_k;
    const int64_t rows = affordable_rows(shape, budget);
    selection sel = {.count = 0};
    fex_status status = FEX_OK;
    int64_t slots;

    sel.pairs_of = calloc((size_t)num_experts, sizeof *sel.pairs_of);
    sel.map = malloc((size_t)num_experts * sizeof *sel.map);
    s->tokens = malloc((size_t)shape->tokens * sizeof *s->tokens + 1);
    s->experts = malloc(((size_t)rows + 2) * sizeof *s->experts);
    if (sel.pairs_of == NULL || sel.map == NULL || s->tokens == NULL ||
        s->experts == NULL) {
        status = no_memory();
        goto free_selection;
    }
    for (int64_t i = 0; i < pairs; i++) {
        const int64_t expert = expert_of(shape, inputs, i);
        if (expert >= 0)
            sel.pairs_of[expert]++;
    }
    select_experts(&sel, shape, rows, seed, s);
    const int64_t tokens = select_tokens(&sel, shape, inputs, s, &slots);
    s->shape = widened_shape(shape, tokens, slots, sel.count);
    s->row_count = sel.count;
    s->longest_sum = sel.busiest;
    status = copy_rows(s, shape, inputs);
    if (status != FEX_OK)
        goto free_selection;
    copy_selected_pairs(&sel, shape, inputs, s);
    status = allocate_expert_outputs(s);
free_selection:
    free(sel.pairs_of);
    free(sel.map);
    return status;
}
