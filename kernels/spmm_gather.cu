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
// COEFFICIENT, THREADS, VECTORS, UNROLL

constexpr int COEFFICIENT_GATED = 0;
constexpr int COEFFICIENT_PLAIN = 1;

using Element = Dtype<DTYPE>::Storage;
constexpr int ELEMENT_BYTES = sizeof(Element);
constexpr int WIDTH = VECTOR_BYTES / ELEMENT_BYTES; // elements in a vector
constexpr int STEP = GROUP * WIDTH;     // columns of one vector a lane
constexpr int COLUMNS = STEP * VECTORS; // of a chunk
constexpr int GROUPS = THREADS / GROUP; // pairs a block reads at once
constexpr int PAIR_TILE = min_of(1024, ceil_div(TOP_K, 32) * 32);

static_assert(HIDDEN_SIZE >= 1 && TOP_K >= 1);
static_assert(GROUP >= 1 && GROUP <= 32 && (GROUP & (GROUP - 1)) == 0);
static_assert(VECTOR_BYTES >= ELEMENT_BYTES && VECTOR_BYTES <= 16);
static_assert(HIDDEN_SIZE % WIDTH == 0, "a vector must not straddle a row's end");
static_assert(THREADS % 32 == 0);
static_assert(COEFFICIENT == COEFFICIENT_GATED ||
              COEFFICIENT == COEFFICIENT_PLAIN);

// ---- Shared memory: a tile of pairs, then the groups' sums in its place

struct SharedPairs {
    int experts[PAIR_TILE];
    float coefficients[PAIR_TILE];
};

union Shared {
    SharedPairs pairs;
    float sums[GROUPS][COLUMNS];
};
static_assert(sizeof(Shared) <= 48 * 1024, "static shared memory");

// ---- Load

__device__ __forceinline__ void load_pairs(const fex_spmm_args &args,
                                           SharedPairs &pairs, fex_i64 token,
                                           int first_k, int count)
{
    for (int i = threadIdx.x; i < count; i += THREADS) {
        const int k = first_k + i;
        const int expert = load_expert<INDEX_TYPE>(args.choices, token, k);
        float coefficient = 0.0f;
        if (expert != EMPTY_SLOT) {
            coefficient = args.values[token * args.values_stride + k];
            if constexpr (COEFFICIENT == COEFFICIENT_GATED)
                coefficient =
                    silu(coefficient) *
                    load_element<ROUTING_DTYPE>(
                        args.routing_weights,
                        token * args.routing_weights_stride + k);
        }
        pairs.experts[i] = expert;
        pairs.coefficients[i] = coefficient;
    }
}

// ---- Compute: this group's pairs of a tile, UNROLL rows in flight

__device__ __forceinline__ void add_rows(float (&sums)[VECTORS][WIDTH],
                                         const SharedPairs &pairs, int count,
                                         const Element *columns,
                                         fex_i64 stride, int first_column,
                                         int group)
{
    for (int base = group; base < count; base += GROUPS * UNROLL) {
        Vector<VECTOR_BYTES> gathered[UNROLL][VECTORS];
        float coefficients[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
            const int i = base + u * GROUPS;
            const int expert = i < count ? pairs.experts[i] : EMPTY_SLOT;
            coefficients[u] = i < count ? pairs.coefficients[i] : 0.0f;
#pragma unroll
            for (int v = 0; v < VECTORS; ++v) {
                gathered[u][v] = zero_vector<VECTOR_BYTES>();
                if (expert != EMPTY_SLOT &&
                    first_column + v * STEP < HIDDEN_SIZE)
                    gathered[u][v] = load_streaming<VECTOR_BYTES>(
                        columns + expert * stride + v * STEP);
            }
        }
#pragma unroll
        for (int u = 0; u < UNROLL; ++u)
#pragma unroll
            for (int v = 0; v < VECTORS; ++v)
#pragma unroll
                for (int i = 0; i < WIDTH; ++i)
                    sums[v][i] = fmaf(coefficients[u],
                                      widen<DTYPE>(gathered[u][v], i),
                                      sums[v][i]);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
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
        const int count = min_of(PAIR_TILE, TOP_K - first_k);
        load_pairs(args, shared.pairs, token, first_k, count);
        __syncthreads();
        add_rows(sums, shared.pairs, count, columns, args.table_stride,
                 first_column, group);
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
