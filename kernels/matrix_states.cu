// SPDX-License-Identifier: Apache-2.0
// matrix_states.cu - the second half of a forward pass by whole matrices, on
// sm_90a:
//
//     out[t] = sum over e of P[t,e] U[e]
//
// both in f16, which has bits enough for P: those of bfloat16 would round it
// a second time. Where float16 is what states are rounded to, P has a second
// part, what rounding left of the first. What is too large for f16 makes sums that
// are no numbers; that all of a token's P or of a tile's U is too small is known
// from the largest: such states are computed anew, plainly.
#include "arguments.h"
#include "choices.cuh"
#include "element.cuh"
#include "hopper.cuh"
#include "matrix_tile.cuh"
#include "routes.cuh"
#include "warp.cuh"

// ---- Constants: from the prelude DTYPE, ROUTING_DTYPE, INDEX_TYPE,
// HIDDEN_SIZE, TOP_K, THREADS, STAGES, SHARED_BYTES

constexpr int WIDTH = 8; // columns of a thread
constexpr int BOXES = TILE_ACROSS / DEPTH;
constexpr float FLOAT_MAX = 0x1.fffffep127f;

static_assert(HIDDEN_SIZE % WIDTH == 0);
static_assert(DEPTH == ROWS_OF_BOX);

// ---- Shared memory

struct Shared {
    Tile tile;
    bool faint[TILE_TOKENS]; // all weights of the token are too small for f16
    unsigned up_largest;     // of these columns
};
static_assert(sizeof(Shared) + TILE_ALIGNMENT <= SHARED_BYTES);

struct Task {
    int token, column;

    __device__ __forceinline__ explicit Task(const Share &share)
    {
        constexpr int COLUMN_TILES = ceil_div(HIDDEN_SIZE, TILE_ACROSS);
        const int tile = static_cast<int>(blockIdx.x) >> share.bits;
        token = tile / COLUMN_TILES * TILE_TOKENS;
        column = tile % COLUMN_TILES * TILE_ACROSS;
    }
};

// ---- Load

__device__ __forceinline__ int blocks_of(const fex_matrix_states_args &args)
{
    return ceil_div(static_cast<int>(args.choices.num_experts), DEPTH);
}

// All experts, then all of them again for the second part of P.
__device__ __forceinline__ void copy_stages(const fex_matrix_states_args &args,
                                            Tile &tile, const Share &share,
                                            const Task &task)
{
    const int tokens = static_cast<int>(args.choices.num_tokens);
    const int blocks = blocks_of(args);
    const int end = share.end_stage(WEIGHT_PARTS * blocks);
    Ring<STAGES> ring;
    for (int i = share.first_stage(WEIGHT_PARTS * blocks); i < end;
         ++i, ring.next()) {
        Stage &stage = tile.stages[ring.stage];
        Barrier *const full = &tile.full[ring.stage];
        const int part = i / blocks;
        const int expert = i % blocks * DEPTH;
        barrier_wait(&tile.empty[ring.stage], ring.parity ^ 1);
        barrier_expect(full, sizeof(Stage));
        copy_tile(&args.weights_map, stage.tokens, full, expert,
                  part * tokens + task.token);
        for (int box = 0; box < BOXES; ++box)
            copy_tile(&args.up_map, stage.across[box * ROWS_OF_BOX], full,
                      task.column + box * DEPTH, expert);
    }
}

// ---- Judge

__device__ __forceinline__ void
judge_weights(const fex_matrix_states_args &args, Shared &shared,
              const Task &task)
{
    const fex_i64 tokens = args.choices.num_tokens;
    for (int row = static_cast<int>(threadIdx.x) - COMPUTE_WARPS * 32;
         row < TILE_TOKENS; row += AIDE_WARPS * 32) {
        float largest = 0.0f;
        if (task.token + row < tokens)
#pragma unroll 4
            for (int part = 0; part < args.parts; ++part)
                largest = fmaxf(largest, __ldcg(args.largest + part * tokens +
                                                task.token + row));
        shared.faint[row] = largest > 0.0f && largest < LARGEST_MIN;
    }
}

// By the first aide.
__device__ __forceinline__ void judge_up(const fex_matrix_states_args &args,
                                         Shared &shared, const Task &task)
{
    const int lane = threadIdx.x % 32;
    const unsigned *const parts =
        args.up_largest + task.column / TILE_ACROSS * args.up_parts;
    unsigned largest = 0;
#pragma unroll 4
    for (int i = lane; i < args.up_parts; i += 32)
        largest = max_magnitudes<DTYPE>(largest, __ldcg(parts + i));
    largest = max_of_warp(largest);
    if (lane == 0)
        shared.up_largest = largest;
}

// Whether these columns of U are no good in f16.
__device__ __forceinline__ bool is_up_unfit(const Shared &shared)
{
    return DTYPE == FEX_KERNEL_BF16 && !fits_half<DTYPE>(shared.up_largest);
}

// ---- Store

// In the order of the slots.
__device__ __forceinline__ void sum_plainly(const fex_matrix_states_args &args,
                                            fex_i64 token, int column,
                                            float (&sums)[WIDTH])
{
    for (float &sum : sums)
        sum = 0.0f;
#pragma unroll 1
    for (int k = 0; k < TOP_K; ++k) {
        const int expert = load_expert<INDEX_TYPE>(args.choices, token, k);
        if (expert == EMPTY_SLOT)
            continue;
        const float weight =
            load_element<ROUTING_DTYPE>(
                args.routing_weights, token * args.routing_weights_stride + k) *
            silu(args.scores[token * args.scores_stride + k]);
        const auto up = load_vector<WIDTH * sizeof(Half)>(
            static_cast<const Half *>(args.up_weights) +
                expert * args.up_weights_stride + column,
            l2_keep());
#pragma unroll
        for (int j = 0; j < WIDTH; ++j)
            sums[j] = fmaf(weight, widen<DTYPE>(up, j), sums[j]);
    }
}

// Returns whether all are numbers.
__device__ __forceinline__ bool load_sums(const Shared &shared,
                                          const Share &share, int row,
                                          int column, float (&sums)[WIDTH])
{
    constexpr float UNSCALE =
        1 / WEIGHT_SCALE / (DTYPE == FEX_KERNEL_BF16 ? ROW_SCALE : 1.0f);
    bool finite = true;
#pragma unroll
    for (int j = 0; j < WIDTH; j += 4) {
        const float4 four = sum_of<float4>(shared.tile, share, row, column + j);
        sums[j] = four.x;
        sums[j + 1] = four.y;
        sums[j + 2] = four.z;
        sums[j + 3] = four.w;
    }
#pragma unroll
    for (float &sum : sums) {
        sum *= UNSCALE;
        finite &= fabsf(sum) <= FLOAT_MAX;
    }
    return finite;
}

__device__ __forceinline__ void store_states(const fex_matrix_states_args &args,
                                             const Shared &shared,
                                             const Share &share,
                                             const Task &task)
{
    constexpr int VECTORS = TILE_ACROSS / WIDTH; // of a row
    const bool up_unfit = is_up_unfit(shared);
    for (int i = threadIdx.x; i < share.rows() * VECTORS; i += THREADS) {
        const int row = share.first_row() + i / VECTORS;
        const fex_i64 token = task.token + row;
        const int column = task.column + i % VECTORS * WIDTH;
        float sums[WIDTH];
        if (token >= args.choices.num_tokens || column >= HIDDEN_SIZE)
            continue;
        if (!load_sums(shared, share, row, i % VECTORS * WIDTH, sums) ||
            up_unfit || shared.faint[row])
            sum_plainly(args, token, column, sums);
        store_vector<WIDTH * sizeof(Half)>(
            static_cast<Half *>(args.expert_states) +
                token * args.expert_states_stride + column,
            narrow<DTYPE, WIDTH>(sums));
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    fex_matrix_states(const __grid_constant__ fex_matrix_states_args args)
{
    extern __shared__ unsigned char memory[];
    Shared &shared = *reinterpret_cast<Shared *>(align_tile(memory));
    const Share share;
    const int depth = WEIGHT_PARTS * blocks_of(args);
    const Task task(share);
    const int warp = threadIdx.x / 32;

    prepare_tile(shared.tile);
    wait_for_primary();
    if (warp < COMPUTE_WARPS) {
        Ring<STAGES> ring;
        Sums sums;
        multiply<true>(shared.tile, ring, sums,
                       share.end_stage(depth) - share.first_stage(depth));
        put_sums(shared.tile, sums, 0);
    } else if (warp < COPY_WARP) {
        judge_weights(args, shared, task);
        if (DTYPE == FEX_KERNEL_BF16 && warp == COMPUTE_WARPS)
            judge_up(args, shared, task);
    } else if (threadIdx.x == COPY_WARP * 32) {
        copy_stages(args, shared.tile, share, task);
    }
    share.meet();
    store_states(args, shared, share, task);
    if (share.size > 1)
        share.meet(); // others read this block's sums
}
