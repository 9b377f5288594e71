// SPDX-License-Identifier: Apache-2.0
// matrix_sum.cu - the last step of a forward pass by whole matrices where experts
// are summed over ranges of them: these sums, added up in their order, and rounded.
#include "arguments.h"
#include "element.cuh"
#include "matrix_finish.cuh"
#include "ptx.cuh"

// ---- Constants: from the prelude DTYPE, INDEX_TYPE, HIDDEN_SIZE, TOP_K, GROUP,
// THREADS

constexpr int WARPS = THREADS / 32;
constexpr int TILE_COLUMNS = FEX_MATRIX_TILE;
constexpr int COLUMN_TILES = ceil_div(HIDDEN_SIZE, TILE_COLUMNS);

static_assert(WARPS * WARP_COLUMNS == TILE_COLUMNS,
              "a block has those of a tile");

// ---- Compute

// Of a piece: its sums over a range are so many fours, in `tiles` tiles.
__device__ __forceinline__ void add_partials(const fex_matrix_sum_args &args,
                                             fex_i64 tile, fex_i64 tiles,
                                             int piece, PieceWords &words)
{
    constexpr int FOURS = PIECE_TOKENS / 8; // of a lane
    float4 sums[FOURS] = {};
#pragma unroll 2
    for (int range = 0; range < args.ranges; ++range) {
        const float4 *const own =
            fours_of(args.partials, range * tiles + tile, args.tile_tokens,
                     static_cast<int>(threadIdx.x) / 32) +
            piece * FOURS * 32 + threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < FOURS; ++i) {
            const float4 four = __ldcs(own + i * 32);
            sums[i].x += four.x;
            sums[i].y += four.y;
            sums[i].z += four.z;
            sums[i].w += four.w;
        }
    }
#pragma unroll
    for (int i = 0; i < FOURS; ++i)
        round_sums(sums[i], 1.0f, words[i * 2], words[i * 2 + 1]);
}

// ---- A piece of a tile a block, 16 columns a warp

extern "C" __global__ void __launch_bounds__(THREADS)
    fex_matrix_sum(const __grid_constant__ fex_matrix_sum_args args)
{
    __shared__ Piece pieces[WARPS];
    const int warp = threadIdx.x / 32;
    const int of_tile = args.tile_tokens / PIECE_TOKENS;
    const int tile = static_cast<int>(blockIdx.x) / of_tile;
    const int piece = static_cast<int>(blockIdx.x) % of_tile;
    const int token =
        tile / COLUMN_TILES * args.tile_tokens + piece * PIECE_TOKENS;
    const int column = tile % COLUMN_TILES * TILE_COLUMNS + warp * WARP_COLUMNS;
    PieceWords words;
    Levels levels;

    wait_for_primary();
    levels.load(args.plain, token);
    add_partials(args, tile, gridDim.x / of_tile, piece, words);
    const Finish finish(args.plain, args.expert_states,
                        args.expert_states_stride, column);
    finish.mend(token, finish.store(pieces[warp], words, token, levels));
}
