/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "data.h"

#include <math.h>
#include <string.h>

#include "convert.h"
#include "parallel.h"

enum { GRAIN = 1 << 14, CHUNK = 256 };

/* ---- Random numbers by position, so that threads need no order ---------- */

/* splitmix64 (Steele, Lea, Flood 2014): a good 64 bits for each position. */
uint64_t data_random(uint64_t seed, uint64_t position)
{
    uint64_t z = seed + (position + 1) * UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* In (0, 1). */
static double random_even(uint64_t bits)
{
    return ((double)(bits >> 11) + 0.5) * 0x1p-53;
}

/* Close to normal with deviation 1: the sum of four even numbers. */
static double random_normal(uint64_t bits)
{
    const int sum = (int)(bits & 0xffff) + (int)(bits >> 16 & 0xffff) +
                    (int)(bits >> 32 & 0xffff) + (int)(bits >> 48);
    return (sum - 2 * 0xffff) * (1.7320508075688772 / 65536);
}

/* ---- Values ------------------------------------------------------------- */

typedef struct filling {
    void *array;
    fex_dtype dtype;
    int normal; /* else even in (0, 2) */
    double scale;
    uint64_t seed;
} filling;

static void fill_values(void *user, int64_t begin, int64_t end)
{
    const filling *f = user;
    double values[CHUNK];

    for (int64_t at = begin; at < end; at += CHUNK) {
        const int64_t count = end - at < CHUNK ? end - at : CHUNK;
        for (int64_t i = 0; i < count; i++) {
            const uint64_t bits = data_random(f->seed, (uint64_t)(at + i));
            values[i] = f->scale * (f->normal ? random_normal(bits)
                                              : 2 * random_even(bits));
        }
        fex_convert_store(f->dtype, f->array, at, count, values);
    }
}

static void generate_values(const tool_shape *shape, tensor_id id,
                            uint64_t seed, void *array)
{
    const double width = (double)tensor_columns(shape, id);
    const int table = tensor_table[id].rows == 'E';
    const int routing = tensor_table[id].type == TYPE_ROUTING;
    filling f = {.array = array,
                 .dtype = tensor_dtype(shape, id),
                 .normal = !routing,
                 .scale = table || routing ? 1 / sqrt(width) : 1,
                 .seed = seed};
    parallel_for(tensor_rows(shape, id) * tensor_columns(shape, id), GRAIN,
                 fill_values, &f);
}

/* ---- Choices ------------------------------------------------------------ */

static int64_t common_divisor(int64_t a, int64_t b)
{
    while (b != 0) {
        const int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* A step that visits every expert: near the golden section of their number and
 * without a common divisor. */
static int64_t step_of(int64_t num_experts)
{
    int64_t step = (int64_t)((double)num_experts * 0.6180339887) | 1;
    while (common_divisor(step, num_experts) != 1)
        step++;
    return step;
}

/* The experts that ranks are dealt to, by a mixing of as many bits as their
 * numbers have. It meets each number once, since multiplying by odd numbers,
 * adding and folding the upper half down can all be undone. */
typedef struct spreading {
    uint64_t mask;
    int shift; /* half of them */
} spreading;

static spreading spreading_of(int64_t num_experts)
{
    int bits = 1;
    while (INT64_C(1) << bits < num_experts)
        bits++;
    return (spreading){(UINT64_C(1) << bits) - 1, (bits + 1) / 2};
}

/* Numbers that are none of the experts are mixed on until one is. */
static int64_t expert_of_rank(const spreading *s, int64_t num_experts,
                              int64_t rank)
{
    static const uint64_t factors[] = {UINT64_C(0x9e3779b97f4a7c15),
                                       UINT64_C(0xbf58476d1ce4e5b9),
                                       UINT64_C(0x94d049bb133111eb)};
    uint64_t place = (uint64_t)rank;
    do {
        for (size_t i = 0; i < sizeof factors / sizeof factors[0]; i++) {
            place = (place + factors[2]) * factors[i] & s->mask;
            place ^= place >> s->shift;
        }
    } while (place >= (uint64_t)num_experts);
    return (int64_t)place;
}

/* A rank from 0 with probability ~ 1/(rank + 1), by rejection-inversion
 * (Hormann and Derflinger 1996) for the exponent 1. */
static int64_t zipf_rank(uint64_t seed, uint64_t position, int64_t count)
{
    const double low = log(1.5) - 1;
    const double high = log((double)count + 0.5);

    for (uint64_t attempt = 0;; attempt++) {
        const double u =
            low +
            (high - low) * random_even(data_random(seed + attempt, position));
        const double x = exp(u);
        const double n = fmin(fmax(round(x), 1), (double)count);
        if (u >= log(n + 0.5) - 1 / n)
            return (int64_t)n - 1;
    }
}

typedef struct choosing {
    const tool_shape *shape;
    data_distribution distribution;
    uint64_t seed;
    spreading spread;
    void *indices;
} choosing;

static void fill_choices(void *user, int64_t begin, int64_t end)
{
    const choosing *c = user;
    const fex_op_desc *desc = &c->shape->desc;
    const int64_t count = desc->num_experts;

    for (int64_t i = begin; i < end; i++) {
        int64_t rank = 0;
        switch (c->distribution) {
        case DATA_UNIFORM:
            rank = (int64_t)(random_even(data_random(c->seed, (uint64_t)i)) *
                             (double)count);
            break;
        case DATA_ZIPF:
            rank = zipf_rank(c->seed, (uint64_t)i, count);
            break;
        case DATA_SAME:
            rank = (i % desc->top_k) % count;
            break;
        }
        tensor_store_index(c->shape, c->indices, i,
                           expert_of_rank(&c->spread, count, rank));
    }
}

/* ---- The interface ------------------------------------------------------ */

fex_status data_generate(const tool_shape *shape,
                         data_distribution distribution, uint64_t seed,
                         tool_tensors *tensors)
{
    return_if_error(tensors_allocate_inputs(tensors, shape));
    for (tensor_id id = 0; id < TENSOR_COUNT; id++) {
        const uint64_t own = data_random(seed, id);
        choosing choices = {shape, distribution, own,
                            spreading_of(shape->desc.num_experts),
                            tensors->data[id]};
        if (!tensor_is_input(shape, id))
            continue;
        if (tensor_table[id].type == TYPE_INDEX)
            parallel_for(shape->tokens * shape->desc.top_k, GRAIN, fill_choices,
                         &choices);
        else
            generate_values(shape, id, own, tensors->data[id]);
    }
    return FEX_OK;
}

void data_shift_indices(const tool_shape *shape, const void *from, void *to,
                        int64_t turn)
{
    const int64_t count = shape->desc.num_experts;
    const fex_index_type type = shape->desc.index_type;
    const int64_t distance = turn % count * step_of(count) % count;

    for (int64_t i = 0; i < shape->tokens * shape->desc.top_k; i++) {
        int64_t index = fex_convert_index(type, from, i);
        if (index >= 0 && index < count)
            index = (index + distance) % count;
        tensor_store_index(shape, to, i, index);
    }
}
