// SPDX-License-Identifier: Apache-2.0
// fused_cluster.cu - the whole forward pass in one launch, for few tokens:
//
//     expert_states[t] = sum over k of g silu(x[t] . D[e]) U[e],  e = i[t,k]
//
// With few tokens what counts is how long one pair's chain of loads takes, so
// every pair's chain starts at once. A token is shared by the blocks of a
// cluster, its pairs by their warps; a warp reads both rows of a pair together,
// the down row for the score and the up row for the sum it keeps in registers.
// The warps' sums meet in the block's shared memory, and the blocks' sums are
// read from there by their neighbours, each for a slice of the columns. All sums
// are taken in a fixed order.
#include "arguments.h"
#include "choices.cuh"
#include "element.cuh"
#include "warp.cuh"

// ---- Constants: from the prelude DTYPE, ROUTING_DTYPE, INDEX_TYPE,
// HIDDEN_SIZE, TOP_K, VECTOR_BYTES, GROUP (32), THREADS, MIN_BLOCKS, UNROLL
// (pairs a warp has in flight), CLUSTER_MAX

using Element = Dtype<DTYPE>::Storage;
constexpr int ELEMENT_BYTES = sizeof(Element);
constexpr int WIDTH = VECTOR_BYTES / ELEMENT_BYTES; // elements in a vector
constexpr int STEP = 32 * WIDTH;                    // columns of one vector
constexpr int VECTORS = ceil_div(HIDDEN_SIZE, STEP);
constexpr int WARPS = THREADS / 32;

static_assert(HIDDEN_SIZE >= 1 && TOP_K >= 1);
static_assert(HIDDEN_SIZE % WIDTH == 0, "a vector must not straddle a row's end");
static_assert(GROUP == 32, "a row takes a whole warp");
static_assert(VECTORS * WIDTH <= 32, "a row's sums must fit in registers");
static_assert(32 % UNROLL == 0);
static_assert(THREADS % 32 == 0);

// ---- Shared memory: the sums of the warps, then of the block

struct Shared {
    float warps[WARPS][HIDDEN_SIZE];
    float block[HIDDEN_SIZE];
};
static_assert(sizeof(Shared) <= 48 * 1024, "static shared memory");

using Row = Vector<VECTOR_BYTES>[VECTORS];

// ---- Load

__device__ __forceinline__ int column_of(int vector)
{
    return vector * STEP + static_cast<int>(threadIdx.x % 32) * WIDTH;
}

// An empty slot's row is zeros: it is not read.
__device__ __forceinline__ Vector<VECTOR_BYTES>
load_part(const void *table, fex_i64 stride, fex_i64 index, int vector,
          L2Policy policy)
{
    if (index < 0 || column_of(vector) >= HIDDEN_SIZE)
        return zero_vector<VECTOR_BYTES>();
    return load_vector<VECTOR_BYTES>(static_cast<const Element *>(table) +
                                         index * stride + column_of(vector),
                                     policy);
}

__device__ __forceinline__ void load_row(Row &row, const void *table,
                                         fex_i64 stride, fex_i64 index,
                                         L2Policy policy)
{
#pragma unroll
    for (int v = 0; v < VECTORS; ++v)
        row[v] = load_part(table, stride, index, v, policy);
}

// ---- Compute

__device__ __forceinline__ void add_row(float (&sums)[VECTORS][WIDTH],
                                        float coefficient, const Row &row)
{
#pragma unroll
    for (int v = 0; v < VECTORS; ++v)
#pragma unroll
        for (int i = 0; i < WIDTH; ++i)
            sums[v][i] =
                fmaf(coefficient, widen<DTYPE>(row[v], i), sums[v][i]);
}

// A lane knows one pair of those its warp is about to work on.
struct OwnPair {
    int k;
    int expert;
    float routing_weight;
};

__device__ __forceinline__ OwnPair load_pair(const fex_fused_args &args,
                                             fex_i64 token, int k)
{
    OwnPair pair = {k, EMPTY_SLOT, 0.0f};
    if (k < TOP_K) {
        pair.expert = load_expert<INDEX_TYPE>(args.choices, token, k);
        pair.routing_weight = load_element<ROUTING_DTYPE>(
            args.routing_weights, token * args.routing_weights_stride + k);
    }
    return pair;
}

// A lane's part of the scores of BATCH rows. The token's row is read again for
// each batch, from L1: to keep it would take registers that blocks need.
template <int BATCH>
__device__ __forceinline__ void partial_scores(const fex_fused_args &args,
                                               fex_i64 token,
                                               const Row (&down)[BATCH],
                                               float (&scores)[BATCH])
{
#pragma unroll
    for (int u = 0; u < BATCH; ++u)
        scores[u] = 0.0f;
#pragma unroll
    for (int v = 0; v < VECTORS; ++v) {
        const Vector<VECTOR_BYTES> hidden =
            load_part(args.hidden_states, args.hidden_states_stride, token, v,
                      l2_keep());
#pragma unroll
        for (int u = 0; u < BATCH; ++u)
#pragma unroll
            for (int i = 0; i < WIDTH; ++i)
                scores[u] = fmaf(widen<DTYPE>(hidden, i),
                                 widen<DTYPE>(down[u][v], i), scores[u]);
    }
}

// Adds the pairs of lanes first .. first + BATCH - 1, all rows in flight at
// once. Returns a lane's own score if its pair is among them.
template <int BATCH>
__device__ __forceinline__ void add_pairs(const fex_fused_args &args,
                                          float (&sums)[VECTORS][WIDTH],
                                          fex_i64 token, const OwnPair &own,
                                          int first, float &own_score)
{
    const L2Policy policy = l2_keep();
    int experts[BATCH];
    Row down[BATCH];
    Row up[BATCH];
    float scores[BATCH];
#pragma unroll
    for (int u = 0; u < BATCH; ++u) {
        experts[u] = __shfl_sync(FULL_WARP, own.expert, first + u);
        load_row(down[u], args.down_weights, args.down_weights_stride,
                 experts[u], policy);
    }
#pragma unroll
    for (int u = 0; u < BATCH; ++u)
        load_row(up[u], args.up_weights, args.up_weights_stride, experts[u],
                 policy);
    partial_scores<BATCH>(args, token, down, scores);
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
#pragma unroll
        for (int u = 0; u < BATCH; ++u)
            scores[u] += __shfl_xor_sync(FULL_WARP, scores[u], offset);
#pragma unroll
    for (int u = 0; u < BATCH; ++u) {
        const float coefficient =
            silu(scores[u]) *
            __shfl_sync(FULL_WARP, own.routing_weight, first + u);
        // Padding may hold anything: what is not finite would spread from it.
        add_row(sums, experts[u] == EMPTY_SLOT ? 0.0f : coefficient, up[u]);
        if (static_cast<int>(threadIdx.x % 32) == first + u)
            own_score = scores[u];
    }
}

// Adds the pairs of lanes first .. count - 1, by batches as large as there are
// pairs for.
template <int BATCH>
__device__ __forceinline__ void
add_batches(const fex_fused_args &args, float (&sums)[VECTORS][WIDTH],
            fex_i64 token, const OwnPair &own, int first, int count,
            float &own_score)
{
#pragma unroll 1
    for (; first + BATCH <= count; first += BATCH)
        add_pairs<BATCH>(args, sums, token, own, first, own_score);
    if constexpr (BATCH > 1)
        add_batches<BATCH / 2>(args, sums, token, own, first, count,
                               own_score);
}

// ---- Store

// This block's sum of its warps, then a slice of the columns of all blocks'.
__device__ __forceinline__ void store_states(const fex_fused_args &args,
                                             Shared &shared,
                                             const float (&sums)[VECTORS][WIDTH],
                                             fex_i64 token)
{
#pragma unroll
    for (int v = 0; v < VECTORS; ++v)
#pragma unroll
        for (int i = 0; i < WIDTH; ++i)
            if (column_of(v) < HIDDEN_SIZE)
                shared.warps[threadIdx.x / 32][column_of(v) + i] = sums[v][i];
    __syncthreads();
    for (int c = threadIdx.x; c < HIDDEN_SIZE; c += THREADS) {
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; ++w)
            sum += shared.warps[w][c];
        shared.block[c] = sum;
    }
    cluster_sync();
    const int blocks = static_cast<int>(cluster_size());
    const int slice = ceil_div(HIDDEN_SIZE, blocks);
    const int first = static_cast<int>(cluster_rank()) * slice;
    const int end = min_of(first + slice, HIDDEN_SIZE);
    for (int c = first + static_cast<int>(threadIdx.x); c < end; c += THREADS) {
        float parts[CLUSTER_MAX];
        float sum = 0.0f;
#pragma unroll
        for (int r = 0; r < CLUSTER_MAX; ++r)
            parts[r] = r < blocks ? load_of_rank(&shared.block[c], r) : 0.0f;
#pragma unroll
        for (int r = 0; r < CLUSTER_MAX; ++r)
            sum += parts[r];
        store_element<DTYPE>(args.expert_states,
                             token * args.expert_states_stride + c, sum, false);
    }
    // A block's shared memory must outlive its neighbours' reading.
    cluster_sync();
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    fex_fused_cluster(const __grid_constant__ fex_fused_args args)
{
    __shared__ Shared shared;

    const int blocks = static_cast<int>(cluster_size());
    const fex_i64 token = blockIdx.x / static_cast<unsigned>(blocks);
    const int lane = threadIdx.x % 32;
    // Warps of the cluster take pairs in turn.
    const int warp =
        static_cast<int>(cluster_rank()) * WARPS + threadIdx.x / 32;
    const int warps = blocks * WARPS;

    float sums[VECTORS][WIDTH] = {};
    for (int base = warp; base < TOP_K; base += 32 * warps) {
        const OwnPair own = load_pair(args, token, base + lane * warps);
        float own_score = 0.0f;
        const int count = min_of(32, ceil_div(TOP_K - base, warps));
        add_batches<UNROLL>(args, sums, token, own, 0, count, own_score);
        if (args.scores != nullptr && own.k < TOP_K)
            args.scores[token * args.scores_stride + own.k] =
                own.expert == EMPTY_SLOT ? 0.0f : own_score;
    }
    store_states(args, shared, sums, token);
}
