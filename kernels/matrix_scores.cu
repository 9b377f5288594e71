// SPDX-License-Identifier: Apache-2.0
// matrix_scores.cu - the first half of a forward pass by whole matrices, on
// sm_90a:
//
//     P[t,e] = sum over slots k with i[t,k] = e of g[t,k] silu(s),  s = x[t] . D[e]
//
// Tiles of tokens by experts are multiplied, and meanwhile P is cleared. Then each
// warp takes the scores of what is listed of its rows, and writes what these
// choices weigh. So that f16 may be multiplied next, other warps round U to
// it, which is exact but for what is very small or too large.
#include "arguments.h"
#include "element.cuh"
#include "hopper.cuh"
#include "matrix_halves.cuh"
#include "matrix_listed.cuh"
#include "matrix_tile.cuh"
#include "warp.cuh"

// ---- Constants: from the prelude DTYPE, HIDDEN_SIZE, TOP_K, ACROSS, THREADS,
// STAGES, SHARED_BYTES

constexpr int STEPS = ceil_div(HIDDEN_SIZE, DEPTH);
// Lists, which the kernel ahead makes, are waited for as late as may be.
constexpr int STARTS_STEP = max_of(STEPS - 3, 0);
constexpr int LISTS_STEP = max_of(STEPS - 2, 0);

static_assert(DTYPE == FEX_KERNEL_BF16 || DTYPE == FEX_KERNEL_F16);
static_assert(HIDDEN_SIZE % 8 == 0, "the copy engine takes rows of 16 bytes");

// ---- Shared memory

// Of a warp's rows.
struct Piece {
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
        const int token_tiles = ceil_div(args.num_tokens, TILE_TOKENS);
        token = tile % token_tiles * TILE_TOKENS;
        expert = tile / token_tiles * ACROSS;
    }
};

__device__ __forceinline__ int tiles_of(const fex_matrix_scores_args &args)
{
    return ceil_div(args.num_tokens, TILE_TOKENS) *
           ceil_div(args.num_experts, ACROSS);
}

// ---- Load

__device__ __forceinline__ void copy_stages(const fex_matrix_scores_args &args,
                                            Stages &ring, Ring<STAGES> &at,
                                            const Task &task)
{
    for (int i = 0; i < STEPS; ++i, at.next()) {
        Stage &stage = next_stage(ring, at);
        Barrier *const full = &ring.full[at.stage];
        copy_tile(&args.hidden_map, stage.tokens, full, i * DEPTH, task.token);
        copy_tile(&args.down_map, stage.across, full, i * DEPTH, task.expert);
    }
}

// ---- Clearing P: a warp's rows of a tile, which it writes weights to next, some
// with every stage of the product and all of them with the last

struct Clearing {
    using Own = Vectors<ACROSS>;
    static constexpr int EACH = ceil_div(Own::COUNT, STEPS);
    static_assert(EACH * STEPS >= Own::COUNT);
    Half *to;           // the lane's next vector
    fex_i64 step, part; // to the one after it, and to the same of the next part
    int left;

    __device__ __forceinline__ Clearing(const fex_matrix_scores_args &args,
                                        int token, int expert)
        : to(args.weights + (token + Own::first_row()) * args.weights_stride +
             expert + Own::column()),
          step(Own::STEP * args.weights_stride),
          part(args.num_tokens * args.weights_stride), left(0)
    {
        if (expert + Own::column() < args.weights_stride)
            left = Own::count_of(args.num_tokens - token);
    }
    __device__ __forceinline__ void go_on()
    {
#pragma unroll
        for (int i = 0; i < EACH; ++i, --left, to += step)
            if (left > 0)
#pragma unroll
                for (int j = 0; j < WEIGHT_PARTS; ++j)
                    *reinterpret_cast<uint4 *>(to + j * part) =
                        make_uint4(0, 0, 0, 0);
    }
};

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

__device__ __forceinline__ void
store_choice(const fex_matrix_scores_args &args, Found &found,
             const fex_choice &choice, float score, float weight, fex_i64 token,
             int expert, bool has_weight)
{
    const int row = row_of(choice);
    args.scores[(token + row) * args.scores_stride + slot_of(choice)] = score;
    if (has_weight) {
        store_weight(args, token + row, expert + column_of(choice), weight);
        found.add(row, weight);
    }
}

// Scores of what is listed of a piece, and weights of all but repeats.
__device__ __forceinline__ void take_scores(const fex_matrix_scores_args &args,
                                            Piece &piece, Listed &listed,
                                            Found &found, int token, int expert,
                                            int i)
{
    const int end = listed.end(i);
    const int repeats = listed.repeats(i);
    int k = listed.begin(i) + static_cast<int>(threadIdx.x % 32);
    Batch batch = listed.ahead;
    if (i + 1 < PIECES)
        listed.read_ahead(i + 1);
#pragma unroll 1
    while (k < end) {
        const Batch own = batch;
        float scores[AT_ONCE] = {};
        float weights[AT_ONCE];
#pragma unroll
        for (int j = 0; j < AT_ONCE; ++j)
            if (k + j * 32 < end)
                scores[j] = *piece.at(row_of(own.choices[j]),
                                      column_of(own.choices[j]));
        batch.load(listed.list, k + AT_ONCE * 32, end);
        // Of all without a branch, so that they overlap.
#pragma unroll
        for (int j = 0; j < AT_ONCE; ++j)
            weights[j] = own.choices[j].weight * scores[j] *
                         reciprocal(1.0f + expf(-scores[j])) * WEIGHT_SCALE;
#pragma unroll
        for (int j = 0; j < AT_ONCE; ++j, k += 32)
            if (k < end)
                store_choice(args, found, own.choices[j], scores[j], weights[j],
                             token, expert, k < repeats);
    }
}

// A warp's rows of a tile. Pieces behind the last expert are left out.
__device__ __forceinline__ void finish_rows(const fex_matrix_scores_args &args,
                                            Piece &piece, Listed &listed,
                                            const Sums &sums, int token,
                                            int expert)
{
    const int lane = threadIdx.x % 32;
    Found found;
#pragma unroll 1
    for (int i = 0; i < PIECES && expert + i * COLUMNS < args.num_experts;
         ++i) {
        for_sums<COLUMNS>(i, [&](int row, int column, int own) {
            *reinterpret_cast<float2 *>(piece.at(row, column)) =
                make_float2(sums[own], sums[own + 1]);
        });
        __syncwarp(); // zeros are there before weights, too
        take_scores(args, piece, listed, found, token, expert + i * COLUMNS, i);
        __syncwarp();
    }
    const unsigned level = found.level();
    if (lane < ROWS && token + lane < args.num_tokens)
        atomicMax(&args.levels[token + lane], level);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    fex_matrix_scores(const __grid_constant__ fex_matrix_scores_args args)
{
    extern __shared__ unsigned char memory[];
    Shared &shared = *reinterpret_cast<Shared *>(align_tile(memory));
    const int warp = threadIdx.x / 32;
    Ring<STAGES> at;

    prepare_stages(shared.ring);
    launch_dependents();
    if (warp < COMPUTE_WARPS) {
        registers_take<COMPUTE_REGISTERS>();
        for_tiles(tiles_of(args), [&](int tile) {
            const Task task(args, tile);
            const int token = task.token + warp * ROWS;
            Listed listed;
            Clearing clearing(args, token, task.expert);
            Sums sums;
            multiply<false>(shared.ring, at, sums, STEPS, [&](int i) {
                clearing.go_on();
                if (i == STARTS_STEP) {
                    wait_for_primary();
                    listed.load_starts(args, token, task.expert);
                }
                if (i == LISTS_STEP)
                    listed.read_ahead(0);
            });
            finish_rows(args, shared.pieces[warp], listed, sums, token,
                        task.expert);
        });
        return;
    }
    registers_drop<OTHER_REGISTERS>();
    if (warp == COPY_WARP) {
        if (threadIdx.x % 32 == 0)
            for_tiles(tiles_of(args), [&](int tile) {
                const Task task(args, tile);
                copy_stages(args, shared.ring, at, task);
            });
    } else if (DTYPE == FEX_KERNEL_BF16 && args.halves != nullptr) {
        convert_up(args);
    }
}
