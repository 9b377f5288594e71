// SPDX-License-Identifier: Apache-2.0
// dense_states_wgmma.cu - the second half of a dense forward pass on sm_90a:
//
//     out[t] = sum over e of P[t,e] U[e],  P zero but for the routes' weights
//
// A block takes 128 columns of a tile of tokens and every so many-th block of
// experts; dense_sum.cu adds those sums up. Eight warps put the routes to 128
// experts at a time into a tile of zeros, a copy engine brings the experts'
// rows, two warpgroups multiply: columns by experts from registers, experts by
// tokens from the tile.
//
// Rounding P to the data type would be a second rounding. bfloat16: each
// token's weights are scaled by a power of two and rounded to f16, whose 11
// bits are enough, and so is U, exactly from 2^-26 up. float16: what rounding
// left of a weight, a part in 2^11, is multiplied with the upper bytes of U, in
// half the time.
#include "arguments.h"
#include "element.cuh"
#include "hopper.cuh"
#include "routes.cuh"
#include "tensor.cuh"
#include "warp.cuh"
#include "words.cuh"
#include "weight_fill.cuh"
#include "weight_tile.cuh"

// ---- Constants: from the prelude DTYPE, HIDDEN_SIZE, TOP_K, TILE_TOKENS,
// TILE_COLUMNS, THREADS, STAGES, SHARED_BYTES, and those of weight_fill.cuh

constexpr int GROUP_COLUMNS = 64; // of a warpgroup
constexpr int GROUPS = TILE_COLUMNS / GROUP_COLUMNS;
constexpr int COMPUTE_THREADS = GROUPS * 128;
constexpr int UP_STAGES = STAGES + 1; // rows take longer to come than weights

static_assert(TILE_COLUMNS == 128);
static_assert(HIDDEN_SIZE % 8 == 0, "the copy engine takes rows of 16 bytes");

// ---- Shared memory

using Up = Element[GROUPS][DEPTH][GROUP_COLUMNS];

struct Shared {
    Up up[UP_STAGES];
    Weights weights[STAGES];
    Barrier up_full[UP_STAGES];
    Barrier full[STAGES];
    Barrier empty[STAGES]; // and the rows that were multiplied with these
};
static_assert(sizeof(Up) % TILE_ALIGNMENT == 0);
static_assert(sizeof(Weights) % TILE_ALIGNMENT == 0);
static_assert(sizeof(Shared) + TILE_ALIGNMENT <= SHARED_BYTES);
static_assert(THREADS == COMPUTE_THREADS + PLACE_WARPS * 32);

// What this block has to do. Blocks at one time share tokens' routes and the
// experts' rows.
struct Task {
    int token, column, split;
    int count; // blocks of experts

    __device__ __forceinline__ explicit Task(const fex_dense_states_args &args)
    {
        constexpr int COLUMN_TILES = ceil_div(HIDDEN_SIZE, TILE_COLUMNS);
        const int token_tiles = ceil_div(args.num_tokens, TILE_TOKENS);
        const int tile = static_cast<int>(blockIdx.x);
        column = tile % COLUMN_TILES * TILE_COLUMNS;
        token = tile / COLUMN_TILES % token_tiles * TILE_TOKENS;
        split = tile / COLUMN_TILES / token_tiles;
        const int blocks = ceil_div(args.num_experts, DEPTH);
        count = ceil_div(blocks - split, args.splits);
    }
};

// ---- Load

__device__ __forceinline__ void copy_up(const fex_dense_states_args &args,
                                        Shared &shared, const Task &task,
                                        Ring<UP_STAGES> &ring, int i)
{
    Barrier *const full = &shared.up_full[ring.stage];
    if (i >= task.count)
        return;
    barrier_expect(full, sizeof(Up));
    for (int group = 0; group < GROUPS; ++group)
        copy_tile(&args.up_map, shared.up[ring.stage][group], full,
                  task.column + group * GROUP_COLUMNS,
                  (task.split + i * args.splits) * DEPTH);
    ring.next();
}

// A warp's rows of the weights, and the first warp's copies of U, for all
// stages in turn. Routes are read a block ahead, and so are rows copied.
__device__ __forceinline__ void fill_stages(const fex_dense_states_args &args,
                                            Shared &shared, const Task &task)
{
    const int lane = threadIdx.x % 32;
    const int warp = (threadIdx.x - COMPUTE_THREADS) / 32;
    const int first_row = warp * WARP_TOKENS + lane / LANES * FEX_ROUTE_GROUP;
    const int token = task.token + warp * WARP_TOKENS + lane;
    const float scale = lane < WARP_TOKENS && token < args.num_tokens
                            ? scale_of(args.largest[token])
                            : 0.0f;
    List list(args, task.token + first_row, task.split, args.splits);
    list.load(0);
    Ring<UP_STAGES> ring;
    Trail trails[STAGES];
    for (Trail &trail : trails)
        trail.count = Trail::MANY; // weights are cleared before their first use
    if (warp == 0 && lane == 0)
        copy_up(args, shared, task, ring, 0);
    for (int first = 0; first < task.count; first += STAGES)
#pragma unroll
        for (int stage = 0; stage < STAGES; ++stage) {
            const int i = first + stage;
            if (i >= task.count)
                break;
            Weights &weights = shared.weights[stage];
            Element *const own =
                reinterpret_cast<Element *>(weights) + first_row * SWIZZLE;
            barrier_wait(&shared.empty[stage],
                         static_cast<unsigned>(first / STAGES % 2) ^ 1u);
            if (warp == 0 && lane == 0)
                copy_up(args, shared, task, ring, i + 1);
            __syncwarp();
            clear(weights, warp, own, trails[stage]);
            set_weights(own, trails[stage], list, scale);
            publish_shared();
            __syncwarp();
            if (lane == 0)
                barrier_arrive(&shared.full[stage]);
            list.load(i + 1);
        }
}

// ---- Compute

// Experts in registers at one time, two times; less where sums of both parts
// leave less room.
constexpr int PIECE = PARTS == 1 ? 64 : 32;
constexpr int PIECES = DEPTH / PIECE;
constexpr int PRODUCTS = PIECE / 16; // in 16 bits

static_assert(SWIZZLE % PIECE == 0);

// The columns of a warp by a piece's experts, in f16; a register has two
// experts. And where P has a second part, their upper bytes.
struct Columns {
    unsigned words[PRODUCTS][4];
    unsigned bytes[4];

    // Keeps the largest magnitudes seen.
    __device__ __forceinline__ void load(const Up &up, int piece,
                                         unsigned &largest)
    {
        const int lane = threadIdx.x % 32;
        const int group = threadIdx.x / 128;
        const int warp = threadIdx.x / 32 % 4;
        const int row = piece * PIECE + lane % 8 + lane / 16 * 8; // expert
        const int vector = (warp * 2 + lane / 8 % 2) ^ row % 8;
#pragma unroll
        for (int k = 0; k < PRODUCTS; ++k) {
            load_transposed(words[k], &up[group][row + k * 16][vector * 8]);
#pragma unroll
            for (unsigned &word : words[k]) {
                largest = max_magnitudes<DTYPE>(largest, word);
                if (DTYPE == FEX_KERNEL_BF16)
                    word = times_halves(word, ROW_SCALE_PAIR);
            }
            if (PARTS == 2)
#pragma unroll
                for (int half = 0; half < 2; ++half) // of the columns
                    bytes[k % 2 * 2 + half] =
                        upper_bytes(words[k][half], words[k][half + 2]);
        }
    }
};

// Of both halves of the tokens, or of both parts of P.
using Sums = float[2][64];

// By a piece of the tile of P at `weights`.
__device__ __forceinline__ void multiply(Sums &sums, const Columns &columns,
                                         Descriptor weights, int piece,
                                         bool add)
{
    constexpr int SECOND = sizeof(Weights) / 4 / 16; // half, or part
    constexpr int TILE = 2 * SECOND;
    constexpr int STEP = 32 / 16; // bytes of a product, in a row
    weights += piece * PIECE / SWIZZLE * TILE;
    const int step = piece * PIECE % SWIZZLE / 16;
    product_begin();
#pragma unroll
    for (int k = 0; k < PRODUCTS; ++k) {
        const bool add_too = add || k > 0;
        product(sums[0], columns.words[k], weights + (step + k) * STEP,
                add_too);
        if (PARTS == 1)
            product(sums[1], columns.words[k],
                    weights + SECOND + (step + k) * STEP, add_too);
    }
    if (PARTS == 2)
        product_8(sums[1], columns.bytes, weights + SECOND + step / 2 * STEP,
                  add);
    product_commit();
}

// Returns whether the rows are good in f16. A range has a block at least.
__device__ __forceinline__ bool compute_stages(Shared &shared, const Task &task,
                                               Sums &sums)
{
    const Descriptor weights = descriptor_of(shared.weights[0]);
    Columns columns[2];
    unsigned largest = 0;
    Ring<STAGES> ring;
    Ring<UP_STAGES> up_ring;
    int released = 0;
#pragma unroll 1
    for (int i = 0; i < task.count; ++i, ring.next(), up_ring.next()) {
        const Up &up = shared.up[up_ring.stage];
        const Descriptor own = weights + ring.stage * (sizeof(Weights) / 16);
        barrier_wait(&shared.up_full[up_ring.stage], up_ring.parity);
#pragma unroll
        for (int piece = 0; piece < PIECES; ++piece) {
            columns[piece % 2].load(up, piece, largest);
            if (piece == 0)
                barrier_wait(&shared.full[ring.stage], ring.parity);
            multiply(sums, columns[piece % 2], own, piece, i > 0 || piece > 0);
            product_wait<1>();
            if (piece == 0 && i > 0 && threadIdx.x % 32 == 0)
                barrier_arrive(&shared.empty[released]);
        }
        released = ring.stage;
    }
    product_wait<0>();
    return fits_half<DTYPE>(largest);
}

// ---- Store

__device__ __forceinline__ void store_sums(const fex_dense_states_args &args,
                                           const Task &task, const Sums &sums)
{
    const int lane = threadIdx.x % 32;
    const int column =
        task.column + static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
    float *const partials = args.partials + static_cast<fex_i64>(task.split) *
                                                args.num_tokens * HIDDEN_SIZE;
#pragma unroll
    for (int half = 0; half < 2 / PARTS; ++half)
#pragma unroll
        for (int j = 0; j < 64; ++j) {
            const int token = task.token + half * HALF_TOKENS + j / 4 * 8 +
                              lane % 4 * 2 + j % 2;
            const int own = column + j % 4 / 2 * 8;
            if (token < args.num_tokens && own < HIDDEN_SIZE)
                __stcg(partials + static_cast<fex_i64>(token) * HIDDEN_SIZE +
                           own,
                       PARTS == 1 ? sums[half][j]
                                  : fmaf(sums[1][j], 1 / REST_SCALE,
                                         sums[0][j]));
        }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    fex_dense_states(const __grid_constant__ fex_dense_states_args args)
{
    extern __shared__ unsigned char memory[];
    Shared &shared = *reinterpret_cast<Shared *>(align_tile(memory));
    const Task task(args);

    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(&shared.full[i], PLACE_WARPS);
            barrier_init(&shared.empty[i], COMPUTE_THREADS / 32);
        }
        for (Barrier &barrier : shared.up_full)
            barrier_init(&barrier, 1);
        barrier_init_fence();
    }
    __syncthreads();
    launch_dependents();
    bool fit = true;
    if (threadIdx.x >= COMPUTE_THREADS) {
        registers_drop<64>();
        wait_for_primary();
        fill_stages(args, shared, task);
    } else {
        registers_take<192>();
        Sums sums;
        fit = compute_stages(shared, task, sums);
        wait_for_primary();
        store_sums(args, task, sums);
    }
    const int all_fit = __syncthreads_and(fit);
    if (threadIdx.x == 0)
        args.unfit[blockIdx.x] = !all_fit;
}
