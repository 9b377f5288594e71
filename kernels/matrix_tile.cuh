// SPDX-License-Identifier: Apache-2.0
// matrix_tile.cuh - a product of two matrices on sm_90a, 128 rows by 256 columns
// of it a block: two warpgroups multiply what one thread has copied into a ring
// of stages, and then put their sums where the stages were. The blocks of a
// cluster share a tile: each multiplies a part of the depth, and finishes a part
// of the rows, for which it reads the others' sums.
#pragma once

#include "arguments.h"
#include "element.cuh"
#include "hopper.cuh"
#include "ptx.cuh"
#include "warp.cuh"

// ---- Constants: from the prelude THREADS, STAGES

constexpr int TILE_TOKENS = FEX_MATRIX_TOKENS;
constexpr int TILE_ACROSS = FEX_MATRIX_ACROSS;
constexpr int DEPTH = FEX_MATRIX_DEPTH; // of a stage
constexpr int PRODUCT_DEPTH = 16;
constexpr int COMPUTE_WARPS = 8; // then come:
constexpr int AIDE_WARPS = THREADS / 32 - COMPUTE_WARPS - 1;
constexpr int CLUSTER_MAX = FEX_MATRIX_CLUSTER;
constexpr int COPY_WARP = COMPUTE_WARPS + AIDE_WARPS;

static_assert(THREADS % 128 == 0 && AIDE_WARPS > 0);
static_assert(TILE_TOKENS == COMPUTE_WARPS * 16, "16 rows of sums a warp");
static_assert(DEPTH * 2 == 128, "a row of a stage is as long as a swizzle");

// Weights are multiplied by this, that f16 may hold them: the largest of a token
// from 2^-19 to 2^7.
constexpr float WEIGHT_SCALE = 512.0f;
constexpr float LARGEST_MIN = 0x1p-10f; // of a token, when scaled
// As what is left of a weight in f16, they have a second part where more bits
// than 11 count.
constexpr int WEIGHT_PARTS = DTYPE == FEX_KERNEL_BF16 ? 1 : 2;

using Half = unsigned short;

// ---- Shared memory

struct Stage {
    Half tokens[TILE_TOKENS][DEPTH];
    Half across[TILE_ACROSS][DEPTH];
};

struct Tile {
    union {
        Stage stages[STAGES];
        float sums[TILE_TOKENS][TILE_ACROSS]; // column_at() tells where
    };
    Barrier full[STAGES];
    Barrier empty[STAGES];
    Barrier multiplied; // stages are no longer read
};
static_assert(sizeof(Stage) % TILE_ALIGNMENT == 0);
static_assert(sizeof(float[TILE_TOKENS][TILE_ACROSS]) <= sizeof(Stage[STAGES]));

// What a block does of a tile.
struct Share {
    int rank, size; // in the cluster, of it
    int bits;       // the size is 2 to their power

    __device__ __forceinline__ Share()
        : rank(static_cast<int>(cluster_rank())),
          size(static_cast<int>(cluster_size())), bits(__ffs(size) - 1)
    {
    }
    // Of a depth of so many stages, the first, and the first of the next block.
    __device__ __forceinline__ int first_stage(int depth) const
    {
        return rank * depth >> bits;
    }
    __device__ __forceinline__ int end_stage(int depth) const
    {
        return (rank + 1) * depth >> bits;
    }
    __device__ __forceinline__ int rows() const
    {
        return TILE_TOKENS >> bits;
    }
    __device__ __forceinline__ int first_row() const
    {
        return rank * rows();
    }
    // All of the cluster; what they wrote to shared memory before is there.
    __device__ __forceinline__ void meet() const
    {
        __syncwarp();
        if (size == 1)
            __syncthreads();
        else
            cluster_sync();
    }
};

__device__ __forceinline__ void prepare_tile(Tile &tile)
{
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(&tile.full[i], 1);
            barrier_init(&tile.empty[i], COMPUTE_WARPS);
        }
        barrier_init(&tile.multiplied, COMPUTE_WARPS);
        barrier_init_fence();
    }
    __syncthreads();
}

// ---- Judge

// Of all lanes the larger magnitudes, of both elements of a word.
__device__ __forceinline__ unsigned max_of_warp(unsigned largest)
{
    for (int offset = 16; offset > 0; offset /= 2)
        largest = max_magnitudes<DTYPE>(
            largest, __shfl_xor_sync(FULL_WARP, largest, offset));
    return largest;
}

// ---- Compute

using Sums = float[2][TILE_ACROSS / 4]; // of halves of the columns

// This warp has come so far.
__device__ __forceinline__ void arrive(Barrier &barrier)
{
    if (threadIdx.x % 32 == 0)
        barrier_arrive(&barrier);
}

// BY_ROWS: rows of `across` are along the depth, in f16.
template <bool BY_ROWS>
__device__ __forceinline__ void product_of_stage(Sums &sums, Descriptor tokens,
                                                 Descriptor across, bool add)
{
    constexpr int TOKENS_STEP = PRODUCT_DEPTH * 2 / 16;
    constexpr int ACROSS_STEP =
        BY_ROWS ? PRODUCT_DEPTH * 128 / 16 : TOKENS_STEP;
    constexpr int HALF = TILE_ACROSS / 2 * 128 / 16;
    product_begin();
#pragma unroll
    for (int k = 0; k < DEPTH / PRODUCT_DEPTH; ++k)
#pragma unroll
        for (int half = 0; half < 2; ++half)
            if constexpr (BY_ROWS)
                product_of_rows(sums[half], tokens + k * TOKENS_STEP,
                                across + half * HALF + k * ACROSS_STEP,
                                add || k > 0);
            else
                product<DTYPE>(sums[half], tokens + k * TOKENS_STEP,
                               across + half * HALF + k * ACROSS_STEP,
                               add || k > 0);
    product_commit();
}

// One stage at least.
template <bool BY_ROWS>
__device__ __forceinline__ void multiply(Tile &tile, Ring<STAGES> &ring,
                                         Sums &sums, int stages)
{
    constexpr int GROUP_TOKENS = 64; // of a warpgroup
    const int group = threadIdx.x / 128;
    const Descriptor tokens =
        descriptor_of(tile.stages[0].tokens[group * GROUP_TOKENS]);
    const Descriptor across = BY_ROWS
                                  ? descriptor_of_rows(tile.stages[0].across)
                                  : descriptor_of(tile.stages[0].across);
    int released = 0;
#pragma unroll 1
    for (int i = 0; i < stages; ++i, ring.next()) {
        const unsigned stage = ring.stage * (sizeof(Stage) / 16);
        barrier_wait(&tile.full[ring.stage], ring.parity);
        product_of_stage<BY_ROWS>(sums, tokens + stage, across + stage, i > 0);
        if (i > 0) {
            product_wait<1>();
            arrive(tile.empty[released]);
        }
        released = ring.stage;
    }
    product_wait<0>();
    arrive(tile.empty[released]);
}

// ---- The sums in shared memory. Rows are shifted against each other so that
// those who write and those who read them meet different banks.

__device__ __forceinline__ int column_at(int row, int column)
{
    return column ^ row % 4 * 8;
}

// Over the stages, when no warp multiplies any more.
__device__ __forceinline__ void put_sums(Tile &tile, const Sums &sums,
                                         unsigned parity)
{
    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
    const int column = threadIdx.x % 4 * 2;
    arrive(tile.multiplied);
    barrier_wait(&tile.multiplied, parity);
#pragma unroll
    for (int j = 0; j < TILE_ACROSS / 8; ++j) {
        const float *const s = &sums[j / 16][j % 16 * 4];
        const int own = column_at(row, j * 8 + column);
        *reinterpret_cast<float2 *>(&tile.sums[row][own]) =
            make_float2(s[0], s[1]);
        *reinterpret_cast<float2 *>(&tile.sums[row + 8][own]) =
            make_float2(s[2], s[3]);
    }
}

__device__ __forceinline__ float plus(float a, float b)
{
    return a + b;
}

__device__ __forceinline__ float4 plus(const float4 &a, const float4 &b)
{
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

// Of all blocks that share the tile, in their order. All are read before the
// first is added.
template <typename Number>
__device__ __forceinline__ Number sum_of(const Tile &tile, const Share &share,
                                         int row, int column)
{
    const auto *const own = reinterpret_cast<const Number *>(
        &tile.sums[row][column_at(row, column)]);
    if (share.size == 1)
        return *own;
    Number parts[CLUSTER_MAX];
#pragma unroll
    for (int rank = 0; rank < CLUSTER_MAX; ++rank)
        parts[rank] = load_of_rank(
            own, static_cast<unsigned>(min_of(rank, share.size - 1)));
    Number sum = parts[0];
#pragma unroll
    for (int rank = 1; rank < CLUSTER_MAX; ++rank)
        if (rank < share.size)
            sum = plus(sum, parts[rank]);
    return sum;
}
