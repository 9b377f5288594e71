// SPDX-License-Identifier: Apache-2.0
// sddmm_gather.cu - a dot product for every pair (t, k) of token and choice:
//
//     product[t,k] = rows[t] . table[i[t,k]]
//
// With EPILOGUE_SCORES the products are the scores s = x . D. With
// EPILOGUE_GATE they are p = dy . U and become the gradients of routing weights
// and scores at once.
//
// A block takes one token and one slab of experts, and reads the rows of the
// table that the token chose in that slab. Slabs are the slow dimension of the
// grid, so that at any time the whole device reads one slab, which fits L2. A
// row is read by a group of lanes, 16 bytes a lane; a group keeps several rows
// in flight. Products do not depend on the order of the list or on which warp
// takes a pair.
#include "arguments.h"
#include "choices.cuh"
#include "element.cuh"
#include "warp.cuh"

// ---- Constants: from the prelude DTYPE, ROUTING_DTYPE, INDEX_TYPE,
// HIDDEN_SIZE, TOP_K, VECTOR_BYTES, GROUP (lanes that read one row), EPILOGUE,
// THREADS, MIN_BLOCKS, LIST_MAX

constexpr int EPILOGUE_SCORES = 0;
constexpr int EPILOGUE_GATE = 1;

using Element = Dtype<DTYPE>::Storage;
constexpr int ELEMENT_BYTES = sizeof(Element);
constexpr int WIDTH = VECTOR_BYTES / ELEMENT_BYTES; // elements in a vector
constexpr int STEP = GROUP * WIDTH; // columns of one vector a lane
constexpr int VECTORS =
    min_of(ceil_div(HIDDEN_SIZE, STEP), max_of(32 / WIDTH, 1));
constexpr int TILE = STEP * VECTORS; // columns of a row held in registers
constexpr int TILES = ceil_div(HIDDEN_SIZE, TILE);
constexpr int GROUPS = 32 / GROUP; // rows a warp reads at once

// Rows a group keeps in flight: 64 registers' worth, a power of two.
__device__ constexpr int batch_for(int registers)
{
    int batch = 1;
    while (batch < 8 && batch < GROUP && 2 * batch * registers <= 64)
        batch *= 2;
    return batch;
}
constexpr int BATCH = batch_for(VECTORS * ceil_div(VECTOR_BYTES, 4));
constexpr int WARP_PAIRS = BATCH * GROUPS;
constexpr int WARPS = THREADS / 32;

static_assert(HIDDEN_SIZE >= 1 && TOP_K >= 1);
static_assert(GROUP >= 1 && GROUP <= 32 && (GROUP & (GROUP - 1)) == 0);
static_assert(VECTOR_BYTES >= ELEMENT_BYTES && VECTOR_BYTES <= 16);
static_assert(HIDDEN_SIZE % WIDTH == 0, "a vector must not straddle a row's end");
static_assert(THREADS % 32 == 0);
static_assert(EPILOGUE == EPILOGUE_SCORES || EPILOGUE == EPILOGUE_GATE);

// ---- Shared memory: the pairs of this block's token, tile and slab

struct SharedList {
    int experts[LIST_MAX];
    int slots[LIST_MAX]; // k
    int count;
};

// ---- Store: what becomes of one product

__device__ __forceinline__ void store_product(const fex_sddmm_args &args,
                                              fex_i64 token, int k,
                                              float product, bool empty)
{
    if constexpr (EPILOGUE == EPILOGUE_SCORES) {
        args.scores[token * args.scores_stride + k] = product;
    } else {
        const float s = __ldcs(args.scores + token * args.scores_stride + k);
        const float g = load_element<ROUTING_DTYPE>(
            args.routing_weights, token * args.routing_weights_stride + k);
        const fex_i64 pair = token * TOP_K + k;
        args.grad_scores[pair] = empty ? 0.0f : product * g * silu_derivative(s);
        args.coefficients[pair] = empty ? 0.0f : g * silu(s);
        if (args.grad_routing_weights != nullptr)
            store_element<ROUTING_DTYPE>(
                args.grad_routing_weights,
                token * args.grad_routing_weights_stride + k,
                empty ? 0.0f : product * silu(s), args.accumulate != 0);
    }
}

// ---- Load: the list of pairs, and pieces of rows

// Lists the pairs of this tile whose expert is in [first, end). Empty slots are
// settled here, by the first slab's block.
__device__ __forceinline__ void list_pairs(const fex_sddmm_args &args,
                                           SharedList &list, fex_i64 token,
                                           int first_k, int end_k,
                                           fex_i64 first, fex_i64 end)
{
    const int lane = threadIdx.x % 32;
    if (threadIdx.x == 0)
        list.count = 0;
    __syncthreads();
    for (int base = first_k; base < end_k; base += THREADS) {
        const int k = base + static_cast<int>(threadIdx.x);
        bool mine = false;
        int expert = EMPTY_SLOT;
        if (k < end_k) {
            expert = load_expert<INDEX_TYPE>(args.choices, token, k);
            mine = expert >= first && expert < end;
            if (expert == EMPTY_SLOT && blockIdx.y == 0)
                store_product(args, token, k, 0.0f, true);
        }
        const unsigned chosen = __ballot_sync(FULL_WARP, mine);
        int start = 0;
        if (lane == 0 && chosen != 0)
            start = atomicAdd(&list.count, __popc(chosen));
        start = __shfl_sync(FULL_WARP, start, 0);
        if (mine) {
            const int position = start + __popc(chosen & lanes_below(lane));
            list.experts[position] = expert;
            list.slots[position] = k;
        }
    }
    __syncthreads();
}

__device__ __forceinline__ int column_of(int tile, int vector, int lane)
{
    return tile * TILE + vector * STEP + lane * WIDTH;
}

__device__ __forceinline__ bool inside(int column)
{
    return HIDDEN_SIZE % TILE == 0 || column < HIDDEN_SIZE;
}

__device__ __forceinline__ void load_row(float (&row)[VECTORS][WIDTH],
                                         const Element *address, int tile,
                                         int lane)
{
    const L2Policy policy = l2_stream();
#pragma unroll
    for (int v = 0; v < VECTORS; ++v) {
        const int column = column_of(tile, v, lane);
        Vector<VECTOR_BYTES> vector = zero_vector<VECTOR_BYTES>();
        if (inside(column))
            vector = load_vector<VECTOR_BYTES>(address + column, policy);
#pragma unroll
        for (int i = 0; i < WIDTH; ++i)
            row[v][i] = widen<DTYPE>(vector, i);
    }
}

// ---- Compute

// Adds the products of BATCH gathered rows with the tile of the token's row.
__device__ __forceinline__ void add_products(float (&sums)[BATCH],
                                             const float (&row)[VECTORS][WIDTH],
                                             const Element *const (&rows)[BATCH],
                                             int tile, int lane)
{
    const L2Policy policy = l2_keep();
    Vector<VECTOR_BYTES> gathered[BATCH][VECTORS];
#pragma unroll
    for (int b = 0; b < BATCH; ++b)
#pragma unroll
        for (int v = 0; v < VECTORS; ++v) {
            const int column = column_of(tile, v, lane);
            gathered[b][v] = zero_vector<VECTOR_BYTES>();
            if (rows[b] != nullptr && inside(column))
                gathered[b][v] = load_vector<VECTOR_BYTES>(rows[b] + column, policy);
        }
#pragma unroll
    for (int b = 0; b < BATCH; ++b)
#pragma unroll
        for (int v = 0; v < VECTORS; ++v)
#pragma unroll
            for (int i = 0; i < WIDTH; ++i)
                sums[b] = fmaf(row[v][i], widen<DTYPE>(gathered[b][v], i),
                               sums[b]);
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    fex_sddmm_gather(const __grid_constant__ fex_sddmm_args args)
{
    __shared__ SharedList list;

    launch_dependents();
    const fex_i64 token = blockIdx.x / static_cast<unsigned>(args.token_tiles);
    const int first_k =
        static_cast<int>(blockIdx.x % static_cast<unsigned>(args.token_tiles)) *
        args.tile_pairs;
    const int end_k = min_of(first_k + args.tile_pairs, TOP_K);
    const fex_i64 first = blockIdx.y * args.slab_experts;
    list_pairs(args, list, token, first_k, end_k, first,
               first + args.slab_experts);

    const int warp = threadIdx.x / 32;
    const int group = threadIdx.x % 32 / GROUP;
    const int lane = threadIdx.x % GROUP;
    const Element *const own =
        static_cast<const Element *>(args.rows) + token * args.rows_stride;
    const Element *const table = static_cast<const Element *>(args.table);
    const int count = list.count;

    float row[VECTORS][WIDTH];
    if constexpr (TILES == 1)
        load_row(row, own, 0, lane);

    for (int start = warp * WARP_PAIRS; start < count;
         start += WARPS * WARP_PAIRS) {
        const Element *rows[BATCH];
        float sums[BATCH];
#pragma unroll
        for (int b = 0; b < BATCH; ++b) {
            const int entry = start + b * GROUPS + group;
            rows[b] = entry < count
                          ? table + list.experts[entry] * args.table_stride
                          : nullptr;
            sums[b] = 0.0f;
        }
        for (int tile = 0; tile < TILES; ++tile) {
            if constexpr (TILES > 1)
                load_row(row, own, tile, lane);
            add_products(sums, row, rows, tile, lane);
        }
        const int b = reduce_scatter<BATCH, GROUP>(sums, lane);
        const int entry = start + b * GROUPS + group;
        if (lane % (GROUP / BATCH) == 0 && entry < count)
            store_product(args, token, list.slots[entry], sums[0], false);
    }
}
