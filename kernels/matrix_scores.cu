// SPDX-License-Identifier: Apache-2.0
// matrix_scores.cu - the first half of a forward pass by whole matrices, on
// sm_90a:
//
//     P[t,e] = sum over slots k with i[t,k] = e of g[t,k] silu(s),  s = x[t] . D[e]
//
// Tiles of tokens by experts are multiplied, and meanwhile P is cleared. Then each
// warp takes the scores of what is listed of its rows, and writes what these
// choices weigh.
#include "arguments.h"
#include "element.cuh"
#include "hopper.cuh"
#include "matrix_clearing.cuh"
#include "matrix_listed.cuh"
#include "matrix_tile.cuh"
#include "matrix_weight.cuh"
#include "warp.cuh"

// ---- Constants: from the prelude DTYPE, HIDDEN_SIZE, TOP_K, GROUP, AHEAD, ACROSS,
// THREADS, STAGES, SHARED_BYTES

constexpr int COLUMNS = FEX_MATRIX_BLOCK; // of a piece
constexpr int PIECES = ACROSS / COLUMNS;
constexpr int REST = 2; // choices of a lane at one time, beyond those ahead

// When starts, and then lists, are loaded. The kernel ahead makes them, and a
// block's first tile waits for them as late as may be.
constexpr int FIRST_STARTS_STEP = max_of(STEPS - 3, 0);
constexpr int FIRST_LISTS_STEP = max_of(STEPS - 2, 0);
constexpr int STARTS_STEP = STEPS / 2;
constexpr int LISTS_STEP = STEPS * 3 / 4;

static_assert(DTYPE == FEX_KERNEL_BF16 || DTYPE == FEX_KERNEL_F16);
static_assert(HIDDEN_SIZE % 8 == 0, "the copy engine takes rows of 16 bytes");

// ---- Shared memory

// Of a warp's rows.
struct alignas(16) Piece {
    float sums[ROWS][COLUMNS];

    // Rows are shifted against each other so that those who write meet different
    // banks.
    __device__ __forceinline__ float *at(int row, int column)
    {
        return &sums[row][column ^ row % 4 * 8];
    }
};

struct Shared {
    Stages ring;
    Piece pieces[COMPUTE_WARPS];
};
static_assert(sizeof(Shared) + TILE_ALIGNMENT <= SHARED_BYTES);

// The tile at hand.
struct Task {
    int token, expert; // its first

    __device__ __forceinline__ Task(const fex_matrix_scores_args &args,
                                    int tile)
    {
        const int token_tiles = ceil_div(args.num_tokens, TILE_ROWS);
        token = tile % token_tiles * TILE_ROWS;
        expert = tile / token_tiles * ACROSS;
    }
};

__device__ __forceinline__ int tiles_of(const fex_matrix_scores_args &args)
{
    return ceil_div(args.num_tokens, TILE_ROWS) *
           ceil_div(args.num_experts, ACROSS);
}

// ---- Load

__device__ __forceinline__ void copy_stages(const fex_matrix_scores_args &args,
                                            Stages &ring, Ring<STAGES> &at,
                                            const Task &task)
{
    for (int i = 0; i < STEPS; ++i, at.next()) {
        Stage &stage = next_stage(ring, at, sizeof(Stage));
        Barrier *const full = &ring.full[at.stage];
        copy_tile(&args.hidden_map, stage.rows, full, i * DEPTH, task.token);
        copy_tile(&args.down_map, stage.across, full, i * DEPTH, task.expert);
    }
}

// So that the kernel after this one need not wait for memory.
__device__ __forceinline__ void prefetch_up(const fex_matrix_scores_args &args)
{
    const int step = static_cast<int>(gridDim.x) * 32;
    for (int row = static_cast<int>(blockIdx.x) * 32 +
                   static_cast<int>(threadIdx.x % 32);
         row < args.num_experts; row += step)
        prefetch_row(static_cast<const Half *>(args.up_weights) +
                         row * args.up_weights_stride,
                     HIDDEN_SIZE * sizeof(Half));
}

// ---- Store

// Of what a lane weighed, a bit for each row: that it is not 0, and that it is
// good in f16.
struct Found {
    unsigned some = 0;
    unsigned good = 0;

    __device__ __forceinline__ void add(int row, float weight)
    {
        const float magnitude = fabsf(weight);
        some |= static_cast<unsigned>(magnitude > 0.0f) << row;
        good |= static_cast<unsigned>(magnitude >= LARGEST_MIN) << row;
    }
    // Of all lanes, by the lane of the row's number.
    __device__ __forceinline__ unsigned level() const
    {
        const int row = threadIdx.x % ROWS;
        unsigned both = some | good << ROWS;
#pragma unroll
        for (int offset = 16; offset > 0; offset /= 2)
            both |= __shfl_xor_sync(FULL_WARP, both, offset);
        return (both >> (row + ROWS) & 1) != 0 ? FEX_WEIGHTS_GOOD
               : (both >> row & 1) != 0        ? FEX_WEIGHTS_FAINT
                                               : FEX_WEIGHTS_NONE;
    }
};

__device__ __forceinline__ void store_weight(const fex_matrix_scores_args &args,
                                             fex_i64 token, int expert,
                                             float weight)
{
    Half *const to = args.weights + token * args.weights_stride + expert;
    const Half high = float_to_half(weight);
    *to = high;
    if (WEIGHT_PARTS == 2)
        to[args.num_tokens * args.weights_stride] =
            float_to_half(weight - half_to_float(high));
}

// Of what is listed of a warp's rows and a tile.
struct Finish {
    const fex_matrix_scores_args &args;
    const Listed &listed;
    int token,
        expert; // the first; of FEX_MATRIX_ACROSS of which a tile may be a
                // part
    Found found;

    __device__ __forceinline__ static float weigh(const fex_choice &choice,
                                                  float score)
    {
        // Rounded in one way wherever it is compiled: which choices are ahead
        // is not the same each time.
        const float gate = reciprocal(__fadd_rn(1.0f, expf(-score)));
        return __fmul_rn(choice.weight, __fmul_rn(score, gate));
    }
    // Choice number k.
    __device__ __forceinline__ void store(int k, unsigned place, float score,
                                          float weight)
    {
        const int row = Listed::first_row() + row_of(place);
        if (args.scores != nullptr)
            args.scores[(token + row) * args.scores_stride + slot_of(place)] =
                score;
        store_choice(listed.list + k, place, weight);
        store_weight(args, token + row, expert + column_of(place),
                     weight * WEIGHT_SCALE);
        found.add(row, weight * WEIGHT_SCALE);
    }
};

__device__ __forceinline__ float score_at(Piece &piece, unsigned place)
{
    return *piece.at(Listed::first_row() + row_of(place),
                     column_of(place) % COLUMNS);
}

// Choices of a block of experts that are not ahead.
__device__ __forceinline__ void finish_rest(Finish &finish, Piece &piece,
                                            int block)
{
    const Listed &listed = finish.listed;
#pragma unroll 1
    for (int k = listed.begin + AHEAD * LANES; k < listed.end;
         k += REST * LANES) {
        fex_choice own[REST];
        float scores[REST] = {};
#pragma unroll
        for (int j = 0; j < REST; ++j) {
            own[j].place = NO_PLACE;
            if (k + j * LANES < listed.end)
                own[j] = load_choice(listed.list + k + j * LANES);
        }
#pragma unroll
        for (int j = 0; j < REST; ++j)
            if (block_of(own[j].place) == block)
                scores[j] = score_at(piece, own[j].place);
#pragma unroll
        for (int j = 0; j < REST; ++j)
            if (block_of(own[j].place) == block)
                finish.store(k + j * LANES, own[j].place, scores[j],
                             Finish::weigh(own[j], scores[j]));
    }
}

// A warp's rows of a tile: scores of what is listed of them, and weights.
__device__ __forceinline__ void finish_rows(const fex_matrix_scores_args &args,
                                            Piece &piece, const Listed &listed,
                                            const Sums &sums, int token,
                                            int expert)
{
    const int lane = threadIdx.x % 32;
    const int column = expert % FEX_MATRIX_ACROSS;
    Finish finish = {args, listed, token, expert - column, {}};
    float scores[AHEAD] = {};
#pragma unroll 1
    for (int i = 0; i < PIECES && expert + i * COLUMNS < args.num_experts;
         ++i) {
        const int block = column / COLUMNS + i;
        for_sums<COLUMNS>(i, [&](int row, int column, int own) {
            *reinterpret_cast<float2 *>(piece.at(row, column)) =
                make_float2(sums[own], sums[own + 1]);
        });
        __syncwarp(); // zeros are there before weights, too
#pragma unroll
        for (int j = 0; j < AHEAD; ++j)
            if (block_of(listed.ahead[j].place) == block)
                scores[j] = score_at(piece, listed.ahead[j].place);
        finish_rest(finish, piece, block);
        __syncwarp();
    }
    // Of all without a branch, so that they overlap.
    float weights[AHEAD];
#pragma unroll
    for (int j = 0; j < AHEAD; ++j)
        weights[j] = Finish::weigh(listed.ahead[j], scores[j]);
#pragma unroll
    for (int j = 0; j < AHEAD; ++j)
        if (listed.begin + j * LANES < listed.end)
            finish.store(listed.begin + j * LANES, listed.ahead[j].place,
                         scores[j], weights[j]);
    const unsigned level = finish.found.level();
    if (lane < ROWS && token + lane < args.num_tokens)
        atomicMax(&args.levels[token + lane], level);
}

__device__ __forceinline__ void compute_tile(const fex_matrix_scores_args &args,
                                             Shared &shared, Ring<STAGES> &at,
                                             int tile)
{
    const bool first = tile == static_cast<int>(blockIdx.x);
    const int starts_step = first ? FIRST_STARTS_STEP : STARTS_STEP;
    const int lists_step = first ? FIRST_LISTS_STEP : LISTS_STEP;
    const int warp = threadIdx.x / 32;
    const Task task(args, tile);
    const int token = task.token + warp * ROWS;
    Clearing clearing(args, token, task.expert);
    Listed listed;
    Sums sums;
    multiply(shared.ring, at, sums, STEPS, [&](int i) {
        clearing.go_on();
        if (i == starts_step) {
            wait_for_primary();
            listed.load_starts(args, token, task.expert / FEX_MATRIX_BLOCK,
                               PIECES);
        }
        if (i == lists_step)
            listed.load_ahead();
    });
    finish_rows(args, shared.pieces[warp], listed, sums, token, task.expert);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    fex_matrix_scores(const __grid_constant__ fex_matrix_scores_args args)
{
    extern __shared__ unsigned char memory[];
    Shared &shared = *reinterpret_cast<Shared *>(align_tile(memory));
    const int warp = threadIdx.x / 32;
    Ring<STAGES> at;

    prepare_stages<1>(shared.ring);
    launch_dependents();
    if (warp < COMPUTE_WARPS) {
        registers_take<COMPUTE_REGISTERS>();
        for_tiles(tiles_of(args),
                  [&](int tile) { compute_tile(args, shared, at, tile); });
        return;
    }
    registers_drop<OTHER_REGISTERS>();
    if (threadIdx.x == COPY_WARP * 32)
        for_tiles(tiles_of(args), [&](int tile) {
            copy_stages(args, shared.ring, at, Task(args, tile));
        });
    else if (warp == COMPUTE_WARPS && args.up_weights != nullptr)
        prefetch_up(args);
}
