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
#include "words.cuh"

// ---- Constants: from the prelude DTYPE, ROUTING_DTYPE, INDEX_TYPE,
// HIDDEN_SIZE, TOP_K, ACROSS, THREADS, STAGES, SHARED_BYTES

constexpr int COLUMNS = min_of(ACROSS, FEX_MATRIX_PIECE);
constexpr int PIECES = ACROSS / COLUMNS;
constexpr int BOXES = ACROSS / DEPTH;
constexpr int COLUMN_TILES = ceil_div(HIDDEN_SIZE, ACROSS);

using Own = Vectors<COLUMNS>; // of a piece
constexpr int WIDTH = Own::WIDTH;

static_assert(HIDDEN_SIZE % WIDTH == 0);
static_assert(DEPTH == ROWS_OF_BOX);

// ---- Shared memory

// Of a warp's rows: states as they are stored.
struct Piece {
    unsigned pairs[ROWS][COLUMNS / 2];

    // Rows are shifted against each other so that those who write and those
    // who read them meet different banks.
    __device__ __forceinline__ unsigned *pair_at(int row, int column)
    {
        return &pairs[row][column / 2 ^ row % 8 * 4];
    }
};

struct Shared {
    Stages ring;
    Piece pieces[COMPUTE_WARPS];
};
static_assert(sizeof(Shared) + TILE_ALIGNMENT <= SHARED_BYTES);

// The tile at hand, or a warp's rows of it.
struct Task {
    int token, column; // its first
};

__device__ __forceinline__ int tiles_of(const fex_matrix_states_args &args)
{
    return ceil_div(static_cast<int>(args.choices.num_tokens), TILE_TOKENS) *
           COLUMN_TILES;
}

__device__ __forceinline__ Task task_of(int tile)
{
    return {tile / COLUMN_TILES * TILE_TOKENS, tile % COLUMN_TILES * ACROSS};
}

// ---- Load

__device__ __forceinline__ int blocks_of(const fex_matrix_states_args &args)
{
    return ceil_div(static_cast<int>(args.choices.num_experts), DEPTH);
}

// All experts, then all of them again for the second part of P.
__device__ __forceinline__ void copy_stages(const fex_matrix_states_args &args,
                                            Stages &ring, Ring<STAGES> &at,
                                            const Task &task)
{
    const int tokens = static_cast<int>(args.choices.num_tokens);
    for (int part = 0; part < WEIGHT_PARTS; ++part)
        for (int block = 0; block < blocks_of(args); ++block, at.next()) {
            Stage &stage = next_stage(ring, at);
            Barrier *const full = &ring.full[at.stage];
            copy_tile(&args.weights_map, stage.tokens, full, block * DEPTH,
                      part * tokens + task.token);
            for (int box = 0; box < BOXES; ++box)
                copy_tile(&args.up_map, stage.across[box * ROWS_OF_BOX], full,
                          task.column + box * DEPTH, block * DEPTH);
        }
}

// ---- Judge

// What is known of operands in f16 is read before the product, and looked at
// after it.
struct Judged {
    unsigned level; // of the row of a lane's number, modulo their number
    unsigned up;    // of these columns

    __device__ __forceinline__ Judged(const fex_matrix_states_args &args,
                                      const Task &task)
    {
        const int own = task.token + static_cast<int>(threadIdx.x) % ROWS;
        level = own < args.choices.num_tokens ? __ldcg(args.levels + own)
                                              : FEX_WEIGHTS_NONE;
        up = DTYPE == FEX_KERNEL_BF16
                 ? __ldcg(args.up_largest + task.column / FEX_MATRIX_ACROSS)
                 : 0;
    }
    // A bit for each row that is no good: its weights are too small, or these
    // columns of U are too small or large.
    __device__ __forceinline__ unsigned unfit_rows() const
    {
        const bool up_unfit = DTYPE == FEX_KERNEL_BF16 && !fits_half<DTYPE>(up);
        return __ballot_sync(FULL_WARP, level == FEX_WEIGHTS_FAINT || up_unfit);
    }
};

// Whether a state is no number, or too large for one.
__device__ __forceinline__ bool is_unfit(const Vector<WIDTH * 2> &states)
{
    constexpr unsigned INFINITE = DTYPE == FEX_KERNEL_BF16 ? 0x7f80 : 0x7c00;
    unsigned largest = 0;
#pragma unroll
    for (const unsigned word : states.words)
        largest = max_magnitudes<DTYPE>(largest, word);
    return larger_magnitude(largest) >= INFINITE;
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

using States = unsigned[ACROSS / 4]; // two a word

__device__ __forceinline__ void round_sums(const Sums &sums, States &states)
{
    constexpr float UNSCALE =
        1 / WEIGHT_SCALE / (DTYPE == FEX_KERNEL_BF16 ? ROW_SCALE : 1.0f);
#pragma unroll
    for (int i = 0; i < ACROSS / 2; i += 2)
        states[i / 2] =
            floats_to_pair<DTYPE>(sums[i] * UNSCALE, sums[i + 1] * UNSCALE);
}

// Where a lane's first vector of a piece goes.
struct Target {
    Half *to;
    fex_i64 step; // from vector to vector
    int count;    // of vectors of a piece

    __device__ __forceinline__ Target(const fex_matrix_states_args &args,
                                      const Task &task)
        : to(static_cast<Half *>(args.expert_states) +
             (task.token + Own::first_row()) * args.expert_states_stride +
             task.column + Own::column()),
          step(Own::STEP * args.expert_states_stride),
          count(Own::count_of(args.choices.num_tokens - task.token))
    {
    }
};

// Returns which of a lane's vectors are no good, a bit each.
__device__ __forceinline__ unsigned
store_piece(Piece &piece, const Target &target, unsigned unfit_rows)
{
    unsigned unfit = 0;
#pragma unroll
    for (int i = 0; i < Own::COUNT; ++i) {
        const int row = Own::first_row() + i * Own::STEP;
        const uint4 words =
            *reinterpret_cast<const uint4 *>(piece.pair_at(row, Own::column()));
        const Vector<WIDTH * 2> states = {{words.x, words.y, words.z, words.w}};
        if (i >= target.count)
            break;
        if ((unfit_rows >> row & 1) != 0 || is_unfit(states))
            unfit |= 1u << i;
        store_vector<WIDTH * 2>(target.to + i * target.step, states);
    }
    return unfit;
}

// Over what was stored of all pieces.
__device__ __forceinline__ void mend_states(const fex_matrix_states_args &args,
                                            const Target &target,
                                            const Task &task, unsigned unfit)
{
    static_assert(PIECES * Own::COUNT <= 32);
#pragma unroll 1
    for (; unfit != 0; unfit &= unfit - 1) {
        const int piece = (__ffs(static_cast<int>(unfit)) - 1) / Own::COUNT;
        const int vector = (__ffs(static_cast<int>(unfit)) - 1) % Own::COUNT;
        float sums[WIDTH];
        sum_plainly(args, task.token + Own::first_row() + vector * Own::STEP,
                    task.column + piece * COLUMNS + Own::column(), sums);
        store_vector<WIDTH * 2>(target.to + piece * COLUMNS +
                                    vector * target.step,
                                narrow<DTYPE, WIDTH>(sums));
    }
}

// A warp's rows of a tile.
__device__ __forceinline__ void finish_rows(const fex_matrix_states_args &args,
                                            Piece &piece, const Sums &sums,
                                            const Task &task,
                                            unsigned unfit_rows)
{
    const Target target(args, task);
    const int columns = HIDDEN_SIZE - task.column - Own::column();
    States states;
    round_sums(sums, states);
    unsigned unfit = 0;
#pragma unroll 1
    for (int i = 0; i < PIECES; ++i) {
        for_sums<COLUMNS>(i, [&](int row, int column, int own) {
            *piece.pair_at(row, column) = states[own / 2];
        });
        __syncwarp();
        Target there = target;
        there.to += i * COLUMNS;
        if (i * COLUMNS < columns)
            unfit |= store_piece(piece, there, unfit_rows) << i * Own::COUNT;
        __syncwarp();
    }
    mend_states(args, target, task, unfit);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    fex_matrix_states(const __grid_constant__ fex_matrix_states_args args)
{
    extern __shared__ unsigned char memory[];
    Shared &shared = *reinterpret_cast<Shared *>(align_tile(memory));
    const int warp = threadIdx.x / 32;
    Ring<STAGES> at;

    prepare_stages(shared.ring);
    wait_for_primary();
    if (warp < COMPUTE_WARPS) {
        registers_take<COMPUTE_REGISTERS>();
        for_tiles(tiles_of(args), [&](int tile) {
            Task task = task_of(tile);
            task.token += warp * ROWS;
            const Judged judged(args, task);
            Sums sums;
            multiply<true>(shared.ring, at, sums,
                           WEIGHT_PARTS * blocks_of(args), [](int) {});
            finish_rows(args, shared.pieces[warp], sums, task,
                        judged.unfit_rows());
        });
        return;
    }
    registers_drop<OTHER_REGISTERS>();
    if (threadIdx.x == COPY_WARP * 32)
        for_tiles(tiles_of(args), [&](int tile) {
            copy_stages(args, shared.ring, at, task_of(tile));
        });
}
