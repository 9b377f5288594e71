// SPDX-License-Identifier: Apache-2.0
// spmm_gather.cu - a weighted sum of gathered rows for every token:
//
//     out[t] = sum over k of coefficient[t,k] table[i[t,k]]
//
// With COEFFICIENT_GATED the coefficients are g silu(s), from scores and
// routing weights: out is expert_states. With COEFFICIENT_PLAIN they are given:
// the score gradients, and out is grad_hidden_states.
//
// A block takes one token and one chunk of columns. Chunks are the slow
// dimension of the grid, so that at any time the whole device reads one chunk
// of the table, which fits L2. The block's groups of lanes share out the pairs
// by k modulo their number; their sums meet in shared memory and are added in
// the order of the groups, so that a result does not depend on timing.
#include "arguments.h"
#include "choices.cuh"
#include "element.cuh"

// ---- Constants: from the prelude DTYPE, ROUTING_DTYPE, INDEX_TYPE,
// HIDDEN_SIZE, TOP_K, VECTOR_BYTES, GROUP (lanes that read one row),
// COEFFICIENT, THREADS, MIN_BLOCKS, VECTORS, UNROLL

constexpr int COEFFICIENT_GATED = 0;
constexpr int COEFFICIENT_PLAIN = 1;

using Element = Dtype<DTYPE>::Storage;
constexpr int ELEMENT_BYTES = sizeof(Element);
constexpr int WIDTH = VECTOR_BYTES / ELEMENT_BYTES; // elements in a vector
constexpr int STEP = GROUP * WIDTH;     // columns of one vector a lane
constexpr int COLUMNS = STEP * VECTORS; // of a chunk
constexpr int GROUPS = THREADS / GROUP; // pairs a block reads at once
constexpr int STEP_PAIRS = GROUPS * UNROLL;
constexpr int PAIR_TILE = // pairs in shared memory, whole steps
    ceil_div(min_of(1024, TOP_K), STEP_PAIRS) * STEP_PAIRS;
constexpr int LOADS = ceil_div(PAIR_TILE, THREADS); // of them, a thread's

static_assert(HIDDEN_SIZE >= 1 && TOP_K >= 1);
static_assert(GROUP >= 1 && GROUP <= 32 && (GROUP & (GROUP - 1)) == 0);
static_assert(VECTOR_BYTES >= ELEMENT_BYTES && VECTOR_BYTES <= 16);
static_assert(HIDDEN_SIZE % WIDTH == 0, "a vector must not straddle a row's end");
static_assert(THREADS % 32 == 0);
static_assert(COEFFICIENT == COEFFICIENT_GATED ||
              COEFFICIENT == COEFFICIENT_PLAIN);

// ---- Shared memory: a tile of pairs, then the groups' sums in its place

struct Pairs {
    fex_i64 offsets[PAIR_TILE]; // of the expert's row in elements, -1 if empty
    float coefficients[PAIR_TILE];
};

union Shared {
    Pairs pairs;
    float sums[GROUPS][COLUMNS];
};
static_assert(sizeof(Shared) <= 48 * 1024, "static shared memory");

// ---- Load

// The place in the tile of a thread's i-th pair.
__device__ __forceinline__ int place_of(int i)
{
    return i * THREADS + static_cast<int>(threadIdx.x);
}

// Where the rows of the pairs from first_k on are. Up to a whole number of
// steps the tile is filled with empty ones.
__device__ __forceinline__ void load_offsets(const fex_spmm_args &args,
                                             Pairs &pairs, fex_i64 token,
                                             int first_k)
{
    int experts[LOADS];
#pragma unroll
    for (int i = 0; i < LOADS; ++i) {
        const int k = first_k + place_of(i);
        experts[i] = place_of(i) < PAIR_TILE && k < TOP_K
                         ? load_expert<INDEX_TYPE>(args.choices, token, k)
                         : EMPTY_SLOT;
    }
#pragma unroll
    for (int i = 0; i < LOADS; ++i)
        if (place_of(i) < PAIR_TILE)
            pairs.offsets[place_of(i)] = experts[i] != EMPTY_SLOT
                                             ? experts[i] * args.table_stride
                                             : -1;
}

// What those rows are to be multiplied by.
__device__ __forceinline__ void load_coefficients(const fex_spmm_args &args,
                                                  Pairs &pairs, fex_i64 token,
                                                  int first_k)
{
    float values[LOADS];
    float weights[LOADS];
#pragma unroll
    for (int i = 0; i < LOADS; ++i) {
        const int k = first_k + place_of(i);
        const bool there = place_of(i) < PAIR_TILE && k < TOP_K;
        values[i] =
            there ? __ldcs(args.values + token * args.values_stride + k) : 0.0f;
        if constexpr (COEFFICIENT == COEFFICIENT_GATED)
            weights[i] = there ? load_element<ROUTING_DTYPE>(
                                     args.routing_weights,
                                     token * args.routing_weights_stride + k)
                               : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < LOADS; ++i) {
        if constexpr (COEFFICIENT == COEFFICIENT_GATED)
            values[i] = silu(values[i]) * weights[i];
        // An empty slot's row is not read: nor must its weight count, which
        // may be no number.
        if (place_of(i) < PAIR_TILE)
            pairs.coefficients[place_of(i)] =
                pairs.offsets[place_of(i)] >= 0 ? values[i] : 0.0f;
    }
}

// UNROLL rows in flight: what a group reads in one step.
struct Step {
    Vector<VECTOR_BYTES> rows[UNROLL][VECTORS];
};

__device__ __forceinline__ void load_step(Step &step, const Pairs &pairs,
                                          int first, const Element *columns,
                                          int first_column)
{
    const L2Policy policy = l2_keep();
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
        const fex_i64 offset = pairs.offsets[first + u * GROUPS];
#pragma unroll
        for (int v = 0; v < VECTORS; ++v) {
            step.rows[u][v] = zero_vector<VECTOR_BYTES>();
            if (offset >= 0 && first_column + v * STEP < HIDDEN_SIZE)
                step.rows[u][v] = load_vector<VECTOR_BYTES>(
                    columns + offset + v * STEP, policy);
        }
    }
}

// ---- Compute

__device__ __forceinline__ void add_step(float (&sums)[VECTORS][WIDTH],
                                         const Step &step,
                                         const Pairs &pairs, int first)
{
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
        const float coefficient = pairs.coefficients[first + u * GROUPS];
#pragma unroll
        for (int v = 0; v < VECTORS; ++v)
#pragma unroll
            for (int i = 0; i < WIDTH; ++i)
                sums[v][i] = fmaf(coefficient,
                                  widen<DTYPE>(step.rows[u][v], i), sums[v][i]);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    fex_spmm_gather(const __grid_constant__ fex_spmm_args args)
{
    __shared__ Shared shared;

    const fex_i64 token = blockIdx.x;
    const int chunk = static_cast<int>(blockIdx.y) * COLUMNS;
    const int group = threadIdx.x / GROUP;
    const int lane = threadIdx.x % GROUP;
    const int first_column = chunk + lane * WIDTH;
    const Element *const columns =
        static_cast<const Element *>(args.table) + first_column;

    float sums[VECTORS][WIDTH] = {};
    for (int first_k = 0; first_k < TOP_K; first_k += PAIR_TILE) {
        load_offsets(args, shared.pairs, token, first_k);
        __syncthreads();
        // The first rows are on their way while coefficients are fetched, and
        // perhaps still computed, the next step's while a step is added.
        Step next;
        load_step(next, shared.pairs, group, columns, first_column);
        if (first_k == 0)
            wait_for_primary();
        load_coefficients(args, shared.pairs, token, first_k);
        __syncthreads();
        const int count = min_of(PAIR_TILE, TOP_K - first_k);
        float tile_sums[VECTORS][WIDTH] = {};
        for (int base = 0; base < count; base += STEP_PAIRS) {
            const Step step = next;
            if (base + STEP_PAIRS < count)
                load_step(next, shared.pairs, base + STEP_PAIRS + group,
                          columns, first_column);
            add_step(tile_sums, step, shared.pairs, base + group);
        }
        // Tile by tile, so that no chain of additions gets long.
#pragma unroll
        for (int v = 0; v < VECTORS; ++v)
#pragma unroll
            for (int i = 0; i < WIDTH; ++i)
                sums[v][i] += tile_sums[v][i];
        __syncthreads();
    }

    // ---- Store
#pragma unroll
    for (int v = 0; v < VECTORS; ++v)
#pragma unroll
        for (int i = 0; i < WIDTH; ++i)
            shared.sums[group][v * STEP + lane * WIDTH + i] = sums[v][i];
    __syncthreads();
    for (int i = threadIdx.x; i < COLUMNS; i += THREADS) {
        if (chunk + i >= HIDDEN_SIZE)
            break;
        float sum = 0.0f;
#pragma unroll
        for (int g = 0; g < GROUPS; ++g)
            sum += shared.sums[g][i];
        store_element<DTYPE>(args.out, token * args.out_stride + chunk + i, sum,
                             args.accumulate != 0);
    }
}
