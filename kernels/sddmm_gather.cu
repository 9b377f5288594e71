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
// in flight, and reads the next ones while it multiplies. Products do not
// depend on the order of the list or on which warp takes a pair.
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

// Rows a group reads at once, twice that are in flight: 32 registers' worth, a
// power of two.
__device__ constexpr int batch_for(int registers)
{
    int batch = 1;
    while (batch < 8 && batch < GROUP && 2 * batch * registers <= 32)
        batch *= 2;
    return batch;
}
constexpr int BATCH = batch_for(VECTORS * ceil_div(VECTOR_BYTES, 4));
constexpr int WARP_PAIRS = BATCH * GROUPS;
constexpr int WARPS = THREADS / 32;
constexpr int STRIDE_PAIRS = WARPS * WARP_PAIRS;
constexpr int LIST_BATCH = // choices a thread reads at once
    min_of(8, ceil_div(LIST_MAX, THREADS));
constexpr int NO_CHOICE = EMPTY_SLOT - 1;

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
    for (int base = first_k + static_cast<int>(threadIdx.x) - lane;
         base < end_k; base += THREADS * LIST_BATCH) {
        int experts[LIST_BATCH];
        unsigned chosen[LIST_BATCH]; // lanes
        int start = 0;
#pragma unroll
        for (int i = 0; i < LIST_BATCH; ++i) {
            const int k = base + i * THREADS + lane;
            experts[i] = k < end_k
                             ? load_expert<INDEX_TYPE>(args.choices, token, k)
                             : NO_CHOICE;
        }
        int total = 0;
#pragma unroll
        for (int i = 0; i < LIST_BATCH; ++i) {
            if (experts[i] == EMPTY_SLOT && blockIdx.y == 0)
                store_product(args, token, base + i * THREADS + lane, 0.0f,
                              true);
            chosen[i] = __ballot_sync(FULL_WARP,
                                      experts[i] >= first && experts[i] < end);
            total += __popc(chosen[i]);
        }
        if (lane == 0 && total != 0)
            start = atomicAdd(&list.count, total);
        start = __shfl_sync(FULL_WARP, start, 0);
#pragma unroll
        for (int i = 0; i < LIST_BATCH; ++i) {
            const int position = start + __popc(chosen[i] & lanes_below(lane));
            if ((chosen[i] >> lane & 1) != 0) {
                list.experts[position] = experts[i];
                list.slots[position] = base + i * THREADS + lane;
            }
            start += __popc(chosen[i]);
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

// A tile of the token's row.
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

// A tile of BATCH gathered rows.
struct Batch {
    Vector<VECTOR_BYTES> rows[BATCH][VECTORS];
};

// Those of the list from `entry` on, GROUPS apart; past its end zeros.
__device__ __forceinline__ void load_batch(Batch &batch,
                                           const fex_sddmm_args &args,
                                           const SharedList &list, int count,
                                           int entry, int tile, int lane)
{
    const L2Policy policy = l2_keep();
    const Element *const table = static_cast<const Element *>(args.table);
#pragma unroll
    for (int b = 0; b < BATCH; ++b) {
        const int place = entry + b * GROUPS;
        const bool listed = place < count;
        const Element *const row =
            listed ? table + list.experts[place] * args.table_stride : table;
#pragma unroll
        for (int v = 0; v < VECTORS; ++v) {
            const int column = column_of(tile, v, lane);
            batch.rows[b][v] = zero_vector<VECTOR_BYTES>();
            if (listed && inside(column))
                batch.rows[b][v] =
                    load_vector<VECTOR_BYTES>(row + column, policy);
        }
    }
}

// ---- Compute

// Adds the products of the gathered rows with the tile of the token's row.
__device__ __forceinline__ void add_products(float (&sums)[BATCH],
                                             const float (&row)[VECTORS][WIDTH],
                                             const Batch &batch)
{
#pragma unroll
    for (int b = 0; b < BATCH; ++b)
#pragma unroll
        for (int v = 0; v < VECTORS; ++v)
#pragma unroll
            for (int i = 0; i < WIDTH; ++i)
                sums[b] = fmaf(row[v][i], widen<DTYPE>(batch.rows[b][v], i),
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
    const int warp = threadIdx.x / 32;
    const int group = threadIdx.x % 32 / GROUP;
    const int lane = threadIdx.x % GROUP;
    const Element *const own =
        static_cast<const Element *>(args.rows) + token * args.rows_stride;

    // It is on its way while pairs are listed.
    float row[VECTORS][WIDTH];
    if constexpr (TILES == 1)
        load_row(row, own, 0, lane);
    list_pairs(args, list, token, first_k, end_k, first,
               first + args.slab_experts);
    const int count = list.count;

    int start = warp * WARP_PAIRS;
    int tile = 0;
    float sums[BATCH] = {};
    Batch next;
    if (start < count)
        load_batch(next, args, list, count, start + group, 0, lane);
    while (start < count) {
        const Batch batch = next;
        const int next_tile = tile + 1 < TILES ? tile + 1 : 0;
        const int next_start = next_tile > 0 ? start : start + STRIDE_PAIRS;
        if (next_start < count)
            load_batch(next, args, list, count, next_start + group, next_tile,
                       lane);
        if constexpr (TILES > 1)
            load_row(row, own, tile, lane);
        add_products(sums, row, batch);
        if (next_tile == 0) {
            const int b = reduce_scatter<BATCH, GROUP>(sums, lane);
            const int entry = start + b * GROUPS + group;
            if (lane % (GROUP / BATCH) == 0 && entry < count)
                store_product(args, token, list.slots[entry], sums[0], false);
#pragma unroll
            for (float &sum : sums)
                sum = 0.0f;
        }
        tile = next_tile;
        start = next_start;
    }
}
