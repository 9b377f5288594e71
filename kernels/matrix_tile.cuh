// SPDX-License-Identifier: Apache-2.0
// matrix_tile.cuh - products of two matrices on sm_90a, a tile of 128 rows by
// ACROSS columns at a time: two warpgroups multiply what threads of others have
// copied into a ring of stages. Each warp finishes its own 16 rows by pieces, some
// columns that it puts where all its lanes can read them; copies for the next tile
// come meanwhile. Warps meet at the barriers of stages only.
#pragma once

#include "arguments.h"
#include "element.cuh"
#include "hopper.cuh"
#include "warp.cuh"
#include "words.cuh"

// ---- Constants: from the prelude ACROSS, STAGES, THREADS

constexpr int TILE_ROWS = FEX_MATRIX_TILE;
constexpr int DEPTH = FEX_MATRIX_DEPTH; // of a stage
constexpr int PRODUCT_DEPTH = 16;
constexpr int COMPUTE_WARPS = 8; // then come those that do other things, and
constexpr int COPY_WARP = THREADS / 32 - 1;
// A thread's, of 65536 for 384 threads, and after they have changed hands.
constexpr int LAUNCH_REGISTERS = 65536 / THREADS / 8 * 8;
constexpr int COMPUTE_REGISTERS = 224;
constexpr int OTHER_REGISTERS = 56;
constexpr int ROWS = FEX_MATRIX_ROWS; // of a warp

static_assert(THREADS % 128 == 0, "registers are those of warpgroups");
static_assert(COMPUTE_WARPS * COMPUTE_REGISTERS +
                      (COPY_WARP + 1 - COMPUTE_WARPS) * OTHER_REGISTERS <=
                  (COPY_WARP + 1) * LAUNCH_REGISTERS,
              "more than the block has would wait for ever");
static_assert(TILE_ROWS == COMPUTE_WARPS * ROWS);
static_assert(ROWS == 16, "as a product deals out its sums");
static_assert(DEPTH * 2 == 128, "a row of a stage is as long as a swizzle");
static_assert(ACROSS == 64 || ACROSS == 128 || ACROSS == 256,
              "products there are");

using Half = unsigned short;

// ---- Shared memory

struct Stage {
    Half rows[TILE_ROWS][DEPTH];
    Half across[ACROSS][DEPTH];
};

struct Stages {
    Stage stages[STAGES];
    Barrier full[STAGES];
    Barrier empty[STAGES];
};
static_assert(sizeof(Stage) % TILE_ALIGNMENT == 0);

// Threads that copy, each some of a stage.
template <int COPIERS>
__device__ __forceinline__ void prepare_stages(Stages &ring)
{
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(&ring.full[i], COPIERS);
            barrier_init(&ring.empty[i], COMPUTE_WARPS);
        }
        barrier_init_fence();
    }
    __syncthreads();
}

// ---- Tiles: a block's, in turn

template <typename Work>
__device__ __forceinline__ void for_tiles(int tiles, Work work)
{
#pragma unroll 1
    for (int tile = static_cast<int>(blockIdx.x); tile < tiles;
         tile += static_cast<int>(gridDim.x))
        work(tile);
}

// ---- Load

// The stage that is next, when no warp reads it any more; its barrier waits for
// so many bytes that the thread copies.
__device__ __forceinline__ Stage &
next_stage(Stages &ring, const Ring<STAGES> &at, unsigned bytes)
{
    barrier_wait(&ring.empty[at.stage], at.parity ^ 1);
    barrier_expect(&ring.full[at.stage], bytes);
    return ring.stages[at.stage];
}

// ---- Compute

using Sums = float[ACROSS / 2];

__device__ __forceinline__ void product_of_stage(Sums &sums, Descriptor rows,
                                                 Descriptor across, bool add)
{
    constexpr int STEP = PRODUCT_DEPTH * 2 / 16;
    product_begin();
#pragma unroll
    for (int k = 0; k < DEPTH / PRODUCT_DEPTH; ++k)
        product<DTYPE>(sums, rows + k * STEP, across + k * STEP, add || k > 0);
    product_commit();
}

// One stage at least. Calls meanwhile(i) at each stage i, while products run.
template <typename Meanwhile>
__device__ __forceinline__ void multiply(Stages &ring, Ring<STAGES> &at,
                                         Sums &sums, int stages,
                                         Meanwhile meanwhile)
{
    constexpr int GROUP_ROWS = 64; // of a warpgroup
    const int group = threadIdx.x / 128;
    const bool arrives = threadIdx.x % 32 == 0; // for its warp
    const Descriptor rows =
        descriptor_of(ring.stages[0].rows[group * GROUP_ROWS]);
    const Descriptor across = descriptor_of(ring.stages[0].across);
    int released = 0;
#pragma unroll 1
    for (int i = 0; i < stages; ++i, at.next()) {
        const unsigned stage = at.stage * (sizeof(Stage) / 16);
        barrier_wait(&ring.full[at.stage], at.parity);
        product_of_stage(sums, rows + stage, across + stage, i > 0);
        meanwhile(i);
        if (i > 0) {
            product_wait<1>();
            if (arrives)
                barrier_arrive(&ring.empty[released]);
        }
        released = at.stage;
    }
    product_wait<0>();
    if (arrives)
        barrier_arrive(&ring.empty[released]);
}

// Calls put(row, column, i) for all sums i and i + 1 of a piece that this lane
// has; columns are of the piece.
template <int COLUMNS, typename Put>
__device__ __forceinline__ void for_sums(int piece, Put put)
{
    const int row = threadIdx.x % 32 / 4;
    const int column = threadIdx.x % 4 * 2;
    // Registers have no number but in the code.
#pragma unroll
    for (int own = 0; own < ACROSS / COLUMNS; ++own)
        if (own == piece)
#pragma unroll
            for (int j = 0; j < COLUMNS / 8; ++j) {
                const int i = (own * (COLUMNS / 8) + j) * 4;
                put(row, j * 8 + column, i);
                put(row + 8, j * 8 + column, i + 2);
            }
}
