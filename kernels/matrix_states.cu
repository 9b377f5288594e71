// SPDX-License-Identifier: Apache-2.0
// matrix_states.cu - the second half of a forward pass by whole matrices, on
// sm_90a:
//
//     out[t] = sum over e of P[t,e] U[e]
//
// both in f16, which has bits enough for P: those of bfloat16 would round it
// a second time. U is rounded to it on the way to the tensor cores, which is exact
// but for what is very small or too large. Where float16 is what states are rounded
// to, P has a second part, what rounding left of the first. Tiles that are few are
// summed over ranges of the experts, and matrix_sum.cu adds these sums up.
#include "arguments.h"
#include "element.cuh"
#include "hopper.cuh"
#include "matrix_columns.cuh"
#include "matrix_finish.cuh"
#include "matrix_tile.cuh"
#include "matrix_weight.cuh"

// ---- Constants: from the prelude DTYPE, INDEX_TYPE, HIDDEN_SIZE, TOP_K, GROUP,
// ACROSS: tokens of a tile, THREADS, STAGES, SHARED_BYTES

constexpr int TILE_COLUMNS = TILE_ROWS;
constexpr int COLUMN_TILES = ceil_div(HIDDEN_SIZE, TILE_COLUMNS);
constexpr int BOX_COLUMNS = 64; // of U, as one copy brings them
constexpr int BOXES = TILE_COLUMNS / BOX_COLUMNS;
constexpr int PIECES = ACROSS / PIECE_TOKENS;

static_assert(HIDDEN_SIZE % WIDTH == 0);
static_assert(WARP_COLUMNS == ROWS && PIECES * Finish::EACH <= 32);

// ---- Shared memory

// A stage's rows are those of DEPTH experts, one box of columns behind the other.
struct Shared {
    Stages ring;
    Piece pieces[COMPUTE_WARPS];
};
static_assert(sizeof(Shared) + TILE_ALIGNMENT <= SHARED_BYTES);

// The tile at hand.
struct Task {
    int token, column; // its first
    int range;         // of experts:
    int block, count;  // of DEPTH each the first, and how many
};

// Of one range.
__device__ __forceinline__ int tiles_of(const fex_matrix_states_args &args)
{
    return ceil_div(static_cast<int>(args.plain.choices.num_tokens), ACROSS) *
           COLUMN_TILES;
}

__device__ __forceinline__ Task task_of(const fex_matrix_states_args &args,
                                        int number)
{
    const int tiles = tiles_of(args);
    const int tile = number % tiles;
    const int range = number / tiles;
    const int blocks =
        ceil_div(static_cast<int>(args.plain.choices.num_experts), DEPTH);
    const int each = ceil_div(blocks, args.ranges);
    return {tile / COLUMN_TILES * ACROSS, tile % COLUMN_TILES * TILE_COLUMNS,
            range, range * each, min_of(each, blocks - range * each)};
}

// ---- Load

// Calls copy(task, part, expert) for all stages of this block's tiles: all experts,
// then all of them again for the second part of P.
template <typename Copy>
__device__ __forceinline__ void for_stages(const fex_matrix_states_args &args,
                                           int tiles, Copy copy)
{
    for_tiles(tiles, [&](int tile) {
        const Task task = task_of(args, tile);
        for (int part = 0; part < WEIGHT_PARTS; ++part)
            for (int i = 0; i < task.count; ++i)
                copy(task, part, (task.block + i) * DEPTH);
    });
}

// By one thread, while the kernel ahead may still make P.
__device__ __forceinline__ void copy_up(const fex_matrix_states_args &args,
                                        Stages &ring, int tiles)
{
    Ring<STAGES> at;
    for_stages(args, tiles, [&](const Task &task, int, int expert) {
        Stage &stage = next_stage(ring, at, sizeof stage.rows);
        for (int box = 0; box < BOXES; ++box)
            copy_tile(&args.up_map, stage.rows[box * DEPTH],
                      &ring.full[at.stage], task.column + box * BOX_COLUMNS,
                      expert);
        at.next();
    });
}

// By another.
__device__ __forceinline__ void copy_weights(const fex_matrix_states_args &args,
                                             Stages &ring, int tiles)
{
    const int tokens = static_cast<int>(args.plain.choices.num_tokens);
    Ring<STAGES> at;
    wait_for_primary();
    for_stages(args, tiles, [&](const Task &task, int part, int expert) {
        Stage &stage = next_stage(ring, at, sizeof stage.across);
        copy_tile(&args.weights_map, stage.across, &ring.full[at.stage], expert,
                  part * tokens + task.token);
        at.next();
    });
}

// ---- Store

// As registers have them: matrix_sum.cu knows.
__device__ __forceinline__ void store_sums(const fex_matrix_states_args &args,
                                           const Sums &sums, int tile,
                                           float unscale)
{
    float4 *const to = fours_of(args.partials, tile, ACROSS,
                                static_cast<int>(threadIdx.x) / 32);
#pragma unroll
    for (int i = 0; i < ACROSS / 8; ++i)
        to[i * 32 + threadIdx.x % 32] =
            make_float4(sums[i * 4] * unscale, sums[i * 4 + 1] * unscale,
                        sums[i * 4 + 2] * unscale, sums[i * 4 + 3] * unscale);
}

__device__ __forceinline__ void
finish_columns(const fex_matrix_states_args &args, Piece &piece,
               const Sums &sums, const Levels (&levels)[PIECES],
               const Task &task, float unscale)
{
    const Finish finish(args.plain, args.expert_states,
                        args.expert_states_stride, task.column);
    unsigned unfit = 0;
#pragma unroll
    for (int i = 0; i < PIECES; ++i) {
        PieceWords words;
#pragma unroll
        for (int j = 0; j < PIECE_TOKENS / 4; j += 2) {
            const float *const s = &sums[i * (PIECE_TOKENS / 2) + j * 2];
            round_sums(make_float4(s[0], s[1], s[2], s[3]), unscale, words[j],
                       words[j + 1]);
        }
        unfit |=
            finish.store(piece, words, task.token + i * PIECE_TOKENS, levels[i])
            << i * Finish::EACH;
    }
    finish.mend(task.token, unfit);
}

__device__ __forceinline__ void compute_tile(const fex_matrix_states_args &args,
                                             Shared &shared, Ring<STAGES> &at,
                                             int tile)
{
    const int warp = threadIdx.x / 32;
    Task task = task_of(args, tile);
    Levels levels[PIECES]; // read while products run
    Judge judge;
    Sums sums;
#pragma unroll
    for (int i = 0; i < PIECES; ++i)
        levels[i].load(args.plain, task.token + i * PIECE_TOKENS);
    multiply_columns(shared.ring, at, sums, WEIGHT_PARTS * task.count, judge);
    const float unscale = judge.unscale();
    task.column += warp * WARP_COLUMNS;
    if (args.partials != nullptr)
        store_sums(args, sums, tile, unscale);
    else
        finish_columns(args, shared.pieces[warp], sums, levels, task, unscale);
}

// To repeats, of groups of tokens in turn.
__device__ __forceinline__ void copy_scores(const fex_matrix_states_args &args)
{
    wait_for_primary();
    const fex_matrix_plain &plain = args.plain;
    const int bins = bins_of(static_cast<int>(plain.choices.num_experts));
    for (fex_i64 group = blockIdx.x; group * GROUP < plain.choices.num_tokens;
         group += gridDim.x) {
        const int *const ends = starts_of(plain.starts, group, bins) + bins;
        const fex_choice *const list = list_of(plain.lists, group);
        for (int i = ends[0] + static_cast<int>(threadIdx.x % 32); i < ends[1];
             i += 32) {
            const fex_choice repeat = load_choice(list + i);
            float *const scores =
                args.scores +
                (group * GROUP + row_of(repeat.place)) * args.scores_stride;
            scores[slot_of(repeat.place)] =
                scores[__float_as_uint(repeat.weight)];
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    fex_matrix_states(const __grid_constant__ fex_matrix_states_args args)
{
    extern __shared__ unsigned char memory[];
    Shared &shared = *reinterpret_cast<Shared *>(align_tile(memory));
    const int warp = threadIdx.x / 32;
    const int tiles = tiles_of(args) * args.ranges;

    prepare_stages<2>(shared.ring);
    launch_dependents();
    if (warp < COMPUTE_WARPS) {
        Ring<STAGES> at;
        wait_for_primary();
        registers_take<COMPUTE_REGISTERS>();
        for_tiles(tiles,
                  [&](int tile) { compute_tile(args, shared, at, tile); });
        return;
    }
    static_assert(COPY_WARP - 1 > COMPUTE_WARPS);
    registers_drop<OTHER_REGISTERS>();
    if (threadIdx.x == COPY_WARP * 32)
        copy_weights(args, shared.ring, tiles);
    else if (threadIdx.x == (COPY_WARP - 1) * 32)
        copy_up(args, shared.ring, tiles);
    else if (warp == COMPUTE_WARPS && args.scores != nullptr)
        copy_scores(args);
}
