// SPDX-License-Identifier: Apache-2.0
// matrix_finish.cuh - from a warp's sums, 16 columns by tokens as products deal
// them out, to states, by pieces of 64 tokens that it turns in shared memory. Those
// that f16 was no good for are computed anew.
#pragma once

#include "arguments.h"
#include "element.cuh"
#include "matrix_plain.cuh"
#include "warp.cuh"
#include "words.cuh"

// ---- Constants: from the prelude DTYPE, HIDDEN_SIZE

constexpr int WARP_COLUMNS = 16;
constexpr int PIECE_TOKENS = 64;

// A lane's: of 8 tokens at a time it has two, of each two columns that are 8 apart,
// which are a word when they are states.
using PieceWords = unsigned[PIECE_TOKENS / 4];

// From four sums, as products deal them out: two tokens of a column, then of the
// other.
__device__ __forceinline__ void round_sums(float4 sums, float scale,
                                           unsigned &first, unsigned &second)
{
    first = floats_to_pair<DTYPE>(sums.x * scale, sums.z * scale);
    second = floats_to_pair<DTYPE>(sums.y * scale, sums.w * scale);
}

// ---- Shared memory

// A warp's. Rows are as long as lets those who write and those who read them meet
// different banks.
struct alignas(16) Piece {
    unsigned pairs[PIECE_TOKENS][12];
};

// ---- Sums over ranges, as registers have them

// A warp's, of a tile of so many tokens: of each lane four, and so on.
__device__ __forceinline__ float4 *fours_of(float *partials, fex_i64 tile,
                                            int tokens, int warp)
{
    constexpr int WARPS = FEX_MATRIX_TILE / WARP_COLUMNS;
    return reinterpret_cast<float4 *>(partials) +
           (tile * WARPS + warp) * (tokens * WARP_COLUMNS / 4);
}

// ---- Judge

// What is known of a piece's tokens, of each by a lane.
struct Levels {
    unsigned levels[PIECE_TOKENS / 32];

    __device__ __forceinline__ void load(const fex_matrix_plain &args,
                                         int token)
    {
#pragma unroll
        for (int i = 0; i < PIECE_TOKENS / 32; ++i) {
            const int own = token + i * 32 + static_cast<int>(threadIdx.x % 32);
            levels[i] = own < args.choices.num_tokens
                            ? __ldcg(args.levels + own)
                            : FEX_WEIGHTS_NONE;
        }
    }
    // Those of which the weights are too small, a bit each.
    __device__ __forceinline__ unsigned faint(int i) const
    {
        return __ballot_sync(FULL_WARP, levels[i] == FEX_WEIGHTS_FAINT);
    }
};

// ---- Store

struct Finish {
    const fex_matrix_plain &args;
    Half *states;
    fex_i64 stride;
    int column; // of this lane's vectors

    static constexpr int EACH = PIECE_TOKENS / 16; // vectors of a lane
    static_assert(VECTORS == 2 && WARP_COLUMNS == VECTORS * WIDTH,
                  "a token's are those of two lanes");

    __device__ __forceinline__ Finish(const fex_matrix_plain &args,
                                      void *states, fex_i64 stride,
                                      int first_column)
        : args(args), states(static_cast<Half *>(states)), stride(stride),
          column(first_column + static_cast<int>(threadIdx.x) % 2 * WIDTH)
    {
    }
    // The token of vector i of a lane, and of the lane beside it.
    __device__ __forceinline__ static int token_of(int i, int lane)
    {
        return i * 16 + lane / 2;
    }
    __device__ __forceinline__ static void put(Piece &piece,
                                               const PieceWords &words)
    {
        const int pair = threadIdx.x % 32 / 4;
        const int token = threadIdx.x % 4 * 2;
#pragma unroll
        for (int i = 0; i < PIECE_TOKENS / 4; ++i)
            piece.pairs[i / 2 * 8 + token + i % 2][pair] = words[i];
    }
    // Either column of the pairs.
    __device__ __forceinline__ static Vector<WIDTH * 2> take(const Piece &piece,
                                                             int token)
    {
        const auto *const fours =
            reinterpret_cast<const uint4 *>(piece.pairs[token]);
        const uint4 low = fours[0];
        const uint4 high = fours[1];
        const unsigned pairs[WIDTH] = {low.x,  low.y,  low.z,  low.w,
                                       high.x, high.y, high.z, high.w};
        Vector<WIDTH * 2> states;
#pragma unroll
        for (int i = 0; i < WIDTH / 2; ++i)
            states.words[i] =
                threadIdx.x % 2 == 0
                    ? (pairs[2 * i] & 0xffffu) | pairs[2 * i + 1] << 16
                    : pairs[2 * i] >> 16 | (pairs[2 * i + 1] & 0xffff0000u);
        return states;
    }
    // A piece, which its words are of. Returns which of the lane's vectors are no
    // good, a bit each.
    __device__ __forceinline__ unsigned store(Piece &piece,
                                              const PieceWords &words,
                                              int first_token,
                                              const Levels &levels) const
    {
        const fex_i64 count = args.choices.num_tokens - first_token;
        const unsigned faint[] = {levels.faint(0), levels.faint(1)};
        unsigned unfit = 0;
        static_assert(sizeof faint == sizeof levels.levels);
        put(piece, words);
        __syncwarp();
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            const int token = token_of(i, static_cast<int>(threadIdx.x) % 32);
            if (token >= count || column >= HIDDEN_SIZE)
                continue;
            const Vector<WIDTH * 2> own = take(piece, token);
            if ((faint[i / 2] >> token % 32 & 1u) != 0 || is_unfit(own))
                unfit |= 1u << i;
            store_vector<WIDTH * 2>(
                states + (first_token + token) * stride + column, own);
        }
        __syncwarp();
        return unfit;
    }
    // Of a token the vectors of a pair of lanes, those with a bit.
    __device__ __forceinline__ void mend_token(fex_i64 token,
                                               unsigned vectors) const
    {
        const int lane = threadIdx.x % 32;
        const int first_column = column - lane % 2 * WIDTH;
        const int vector = lane % 4;
        const float state = state_plainly(args, token, first_column);
        if (vector < VECTORS && (vectors >> vector & 1u) != 0)
            store_vector<2>(states + token * stride + first_column +
                                vector * WIDTH + lane / 4,
                            narrow<DTYPE, 1>(&state));
    }
    // Over what was stored of all pieces from a token on, by the warp.
    __device__ __forceinline__ void mend(int first_token, unsigned unfit) const
    {
#pragma unroll 1
        for (int i = 0; __any_sync(FULL_WARP, unfit != 0) != 0;
             ++i, unfit >>= 1) {
            unsigned lanes = __ballot_sync(FULL_WARP, (unfit & 1u) != 0);
#pragma unroll 1
            while (lanes != 0) {
                const int first = (__ffs(static_cast<int>(lanes)) - 1) / 2 * 2;
                mend_token(first_token + token_of(i, first),
                           lanes >> first & 3u);
                lanes &= ~(3u << first);
            }
        }
    }
};
