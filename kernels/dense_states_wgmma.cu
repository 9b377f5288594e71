// SPDX-License-Identifier: Apache-2.0
// dense_states_wgmma.cu - the second half of a dense forward pass on sm_90a:
//
//     out[t] = sum over e of P[t,e] U[e],  P zero but for the routes' weights
//
// A block takes 128 columns of a tile of tokens and a range of the experts;
// dense_sum.cu adds the ranges up. Eight warps put the routes of 64 experts at a
// time into a tile of zeros, a copy engine brings the experts' rows, two
// warpgroups multiply: columns by experts from registers, experts by tokens from
// the tile.
//
// Rounding P to the data type would be a second rounding. bfloat16: each token's
// weights are scaled by a power of two and rounded to f16, whose 11 bits are
// enough, and so is U, exactly. float16: P is the sum of two f16.
#include "arguments.h"
#include "choices.cuh"
#include "element.cuh"
#include "hopper.cuh"
#include "routes.cuh"
#include "warp.cuh"

// ---- Constants: from the prelude DTYPE, HIDDEN_SIZE, TOP_K, STAGES

constexpr int PARTS = DTYPE == FEX_KERNEL_BF16 ? 1 : 2; // P is the sum of
constexpr int HALF_TOKENS = 128; // of one product
constexpr int TILE_TOKENS = 2 * HALF_TOKENS / PARTS;
constexpr int TILE_COLUMNS = 128;
constexpr int GROUP_COLUMNS = 64; // of a warpgroup
constexpr int GROUPS = TILE_COLUMNS / GROUP_COLUMNS;
constexpr int DEPTH = FEX_ROUTE_BLOCK; // experts of a stage
constexpr int COMPUTE_THREADS = GROUPS * 128;
constexpr int PLACE_WARPS = 8;
constexpr int WARP_TOKENS = TILE_TOKENS / PLACE_WARPS;
constexpr int THREADS = COMPUTE_THREADS + PLACE_WARPS * 32;
constexpr int ROUNDS = 4; // of 32 routes that a warp reads ahead
constexpr int TRAIL = 128; // places it remembers to clear

static_assert(DTYPE == FEX_KERNEL_BF16 || DTYPE == FEX_KERNEL_F16);
static_assert(DEPTH == 64, "a row of P in a stage is one swizzle of 128 bytes");
static_assert(HIDDEN_SIZE % 8 == 0, "the copy engine takes rows of 16 bytes");

using Element = unsigned short;

// ---- Shared memory

struct Stage {
    Element up[GROUPS][DEPTH][GROUP_COLUMNS];
    Element weights[2][HALF_TOKENS][DEPTH]; // tokens, or parts
};

struct Trail {
    int count;
    unsigned short places[TRAIL];
};

struct Shared {
    Stage stages[STAGES];
    Trail trails[STAGES][PLACE_WARPS];
    Barrier full[STAGES];
    Barrier empty[STAGES];
    int unfit; // rows of U were no good in f16
};
static_assert(sizeof(Stage) % TILE_ALIGNMENT == 0);
static_assert(sizeof(Shared) + TILE_ALIGNMENT <= 227 * 1024);

// What this block has to do. Blocks at one time share tokens' routes and the
// experts' rows.
struct Task {
    int token, column, split;
    int block, end_block; // of experts

    __device__ __forceinline__ explicit Task(const fex_dense_states_args &args)
    {
        constexpr int COLUMN_TILES = ceil_div(HIDDEN_SIZE, TILE_COLUMNS);
        const int token_tiles = ceil_div(args.num_tokens, TILE_TOKENS);
        const int tile = static_cast<int>(blockIdx.x);
        column = tile % COLUMN_TILES * TILE_COLUMNS;
        token = tile / COLUMN_TILES % token_tiles * TILE_TOKENS;
        split = tile / COLUMN_TILES / token_tiles;
        const fex_i64 blocks = ceil_div(args.num_experts, DEPTH);
        block = static_cast<int>(blocks * split / args.splits);
        end_block = static_cast<int>(blocks * (split + 1) / args.splits);
    }
};

// The stage a warp is at, and which time round.
struct Ring {
    int stage = 0;
    unsigned parity = 0;
    __device__ __forceinline__ void next()
    {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

// ---- Load: the weights

// Where a stage has the weight of a token and an expert of the block, in
// elements, as tile_descriptor wants it.
__device__ __forceinline__ int place_of(int token, int expert)
{
    return token * DEPTH + (expert ^ token % 8 * 8);
}

__device__ __forceinline__ float weight_at(const Stage &stage, int place)
{
    const Element *const weights = stage.weights[0][0];
    float weight = half_to_float(weights[place]);
    if (PARTS == 2)
        weight += half_to_float(weights[place + HALF_TOKENS * DEPTH]);
    return weight;
}

__device__ __forceinline__ void set_weight(Stage &stage, int place, float weight)
{
    Element *const weights = stage.weights[0][0];
    const Element high = float_to_half(weight);
    weights[place] = high;
    if (PARTS == 2)
        weights[place + HALF_TOKENS * DEPTH] =
            float_to_half(weight - half_to_float(high));
}

// Back to zeros, where the last block's weights were.
__device__ __forceinline__ void clear(Stage &stage, const Trail &trail)
{
    const int lane = threadIdx.x % 32;
    const int warp = (threadIdx.x - COMPUTE_THREADS) / 32;
    if (trail.count <= TRAIL) {
        for (int i = lane; i < trail.count; i += 32) {
            stage.weights[0][0][trail.places[i]] = 0;
            if (PARTS == 2)
                stage.weights[0][0][trail.places[i] + HALF_TOKENS * DEPTH] = 0;
        }
    } else {
        uint4 *const rows = reinterpret_cast<uint4 *>(
            stage.weights[0][0] + warp * WARP_TOKENS * DEPTH);
        constexpr int VECTORS = WARP_TOKENS * DEPTH / 8;
#pragma unroll
        for (int part = 0; part < PARTS; ++part)
            for (int i = lane; i < VECTORS; i += 32)
                rows[part * HALF_TOKENS * DEPTH / 8 + i] =
                    make_uint4(0, 0, 0, 0);
    }
    __syncwarp();
}

// The weights of a warp's tokens and a block of experts on their way to a stage.
struct Batch {
    Segments segments;
    fex_route routes[ROUNDS];
    int rows[ROUNDS]; // of the warp's tokens; -1: no route
};

__device__ __forceinline__ void load_round(Batch &batch, int slot,
                                           const fex_route *routes, int i)
{
    const int position = batch.segments.locate(i + threadIdx.x % 32);
    batch.rows[slot] = position >= 0 ? position / TOP_K : -1;
    batch.routes[slot] = {0, 0.0f};
    if (position >= 0)
        batch.routes[slot] = load_route(routes + position);
}

__device__ __forceinline__ void load_batch(Batch &batch, const fex_route *routes)
{
    batch.segments.number<TOP_K>();
#pragma unroll
    for (int i = 0; i < ROUNDS; ++i)
        load_round(batch, i, routes, i * 32);
}

// Adds 32 routes, in their order where they are of the same place.
__device__ __forceinline__ void add_round(Stage &stage, Trail &trail, int i,
                                          fex_route route, int row, float scale)
{
    const int lane = threadIdx.x % 32;
    const int warp = (threadIdx.x - COMPUTE_THREADS) / 32;
    const float weight =
        route.weight * __shfl_sync(FULL_WARP, scale, row < 0 ? 0 : row);
    const int place =
        row < 0 ? -1 - lane
                : place_of(warp * WARP_TOKENS + row, expert_of(route) % DEPTH);
    const unsigned same = __match_any_sync(FULL_WARP, place);
    const int turn = __popc(static_cast<int>(same & lanes_below(lane)));
    if (row >= 0 && i + lane < TRAIL)
        trail.places[i + lane] = static_cast<unsigned short>(place);
    for (int now = 0; __any_sync(FULL_WARP, turn >= now); ++now) {
        if (row >= 0 && turn == now)
            set_weight(stage, place, weight_at(stage, place) + weight);
        __syncwarp();
    }
}

__device__ __forceinline__ void place_batch(Stage &stage, Trail &trail,
                                            Batch &batch,
                                            const fex_route *routes, float scale)
{
    const int total = batch.segments.total;
#pragma unroll
    for (int i = 0; i < ROUNDS; ++i)
        if (i * 32 < total)
            add_round(stage, trail, i * 32, batch.routes[i], batch.rows[i],
                      scale);
    for (int i = ROUNDS * 32; i < total; i += 32) {
        load_round(batch, 0, routes, i);
        add_round(stage, trail, i, batch.routes[0], batch.rows[0], scale);
    }
    if (threadIdx.x % 32 == 0)
        trail.count = total;
}

// A warp's rows of the weights, and the first warp's copies of U, for all stages
// in turn. Routes are read a block ahead, and where they begin two.
__device__ __forceinline__ void fill_stages(const fex_dense_states_args &args,
                                            Shared &shared, const Task &task)
{
    const int lane = threadIdx.x % 32;
    const int warp = (threadIdx.x - COMPUTE_THREADS) / 32;
    const int token = task.token + warp * WARP_TOKENS;
    const fex_route *const routes =
        args.routes + static_cast<fex_i64>(token) * TOP_K;
    const float scale = lane < WARP_TOKENS && token + lane < args.num_tokens
                            ? scale_of(args.largest[token + lane])
                            : 0.0f;
    const auto segments_of = [&](int block) {
        return Segments(args.starts, args.num_tokens, token, WARP_TOKENS,
                        min_of(block, task.end_block),
                        min_of(block + 1, task.end_block));
    };
    Batch batch = {segments_of(task.block)};
    Segments next = segments_of(task.block + 1);
    load_batch(batch, routes);
    Ring ring;
    for (int block = task.block; block < task.end_block; ++block, ring.next()) {
        Stage &stage = shared.stages[ring.stage];
        Barrier *const full = &shared.full[ring.stage];
        Trail &trail = shared.trails[ring.stage][warp];
        barrier_wait(&shared.empty[ring.stage], ring.parity ^ 1);
        if (warp == 0 && lane == 0) {
            barrier_expect(full, sizeof stage.up);
            for (int group = 0; group < GROUPS; ++group)
                copy_tile(&args.up_map, stage.up[group], full,
                          task.column + group * GROUP_COLUMNS, block * DEPTH);
        }
        __syncwarp();
        clear(stage, trail);
        place_batch(stage, trail, batch, routes, scale);
        publish_shared();
        __syncwarp();
        if (lane == 0)
            barrier_arrive(full);
        batch.segments = next;
        next = segments_of(block + 2);
        load_batch(batch, routes);
    }
}

// ---- Compute

// The columns of a warp by 64 experts, in f16; a register has two experts.
struct Columns {
    unsigned words[DEPTH / 16][4];

    // Keeps the largest magnitudes seen.
    __device__ __forceinline__ void load(const Stage &stage, unsigned &largest)
    {
        const int lane = threadIdx.x % 32;
        const int group = threadIdx.x / 128;
        const int warp = threadIdx.x / 32 % 4;
        const int row = lane % 8 + lane / 16 * 8; // expert
        const int vector = (warp * 2 + lane / 8 % 2) ^ row % 8;
#pragma unroll
        for (int k = 0; k < DEPTH / 16; ++k) {
            load_matrices_transposed(words[k],
                                     &stage.up[group][row + k * 16][vector * 8]);
#pragma unroll
            for (unsigned &word : words[k]) {
                largest = max_halves(largest, word & 0x7fff7fffu);
                if (DTYPE == FEX_KERNEL_BF16)
                    word = bfloats_to_halves(word);
            }
        }
    }
};

constexpr int HALVES = 3 - PARTS; // of the tokens
using Sums = float[HALVES][64];

__device__ __forceinline__ void multiply(Sums &sums, const Columns &columns,
                                         const Stage &stage, bool add)
{
    product_begin();
#pragma unroll
    for (int k = 0; k < DEPTH / 16; ++k)
#pragma unroll
        for (int half = 0; half < 2; ++half)
            product(sums[half % HALVES], columns.words[k],
                    tile_descriptor(stage.weights[half], k * 32),
                    add || k > 0 || (PARTS == 2 && half > 0));
    product_commit();
}

__device__ __forceinline__ void compute_stages(Shared &shared, const Task &task,
                                               Sums &sums)
{
    Columns columns[2];
    unsigned largest = 0;
    Ring ring;
    int released = 0;
    const auto step = [&](Columns &own, int block) {
        const Stage &stage = shared.stages[ring.stage];
        barrier_wait(&shared.full[ring.stage], ring.parity);
        own.load(stage, largest);
        multiply(sums, own, stage, block > task.block);
        if (block > task.block) {
            product_wait<1>();
            if (threadIdx.x % 128 == 0)
                barrier_arrive(&shared.empty[released]);
        }
        released = ring.stage;
        ring.next();
    };
#pragma unroll 1
    for (int block = task.block; block < task.end_block; block += 2) {
        step(columns[0], block);
        if (block + 1 < task.end_block)
            step(columns[1], block + 1);
    }
    product_wait<0>();
    if (!fits_half<DTYPE>(largest))
        shared.unfit = 1;
}

// ---- Store

__device__ __forceinline__ void store_sums(const fex_dense_states_args &args,
                                           const Task &task, const Sums &sums)
{
    const int lane = threadIdx.x % 32;
    const int column = task.column + static_cast<int>(threadIdx.x) / 32 * 16 +
                       lane / 4;
    const bool any = task.block < task.end_block;
    float *const partials = args.partials + static_cast<fex_i64>(task.split) *
                                                args.num_tokens * HIDDEN_SIZE;
#pragma unroll
    for (int half = 0; half < HALVES; ++half)
#pragma unroll
        for (int j = 0; j < 64; ++j) {
            const int token = task.token + half * HALF_TOKENS + j / 4 * 8 +
                              lane % 4 * 2 + j % 2;
            const int own = column + j % 4 / 2 * 8;
            if (token < args.num_tokens && own < HIDDEN_SIZE)
                __stcg(partials + static_cast<fex_i64>(token) * HIDDEN_SIZE + own,
                       any ? sums[half][j] : 0.0f);
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
            barrier_init(&shared.full[i], PLACE_WARPS + 1);
            barrier_init(&shared.empty[i], GROUPS);
        }
        shared.unfit = 0;
        barrier_init_fence();
    }
    // More than any trail: all weights are cleared before their first use.
    for (int i = threadIdx.x; i < STAGES * PLACE_WARPS; i += THREADS)
        shared.trails[i / PLACE_WARPS][i % PLACE_WARPS].count = TRAIL + 1;
    __syncthreads();
    launch_dependents();
    if (threadIdx.x >= COMPUTE_THREADS) {
        registers_drop<56>();
        wait_for_primary();
        fill_stages(args, shared, task);
    } else {
        registers_take<200>();
        Sums sums;
        compute_stages(shared, task, sums);
        wait_for_primary();
        store_sums(args, task, sums);
    }
    __syncthreads();
    if (threadIdx.x == 0)
        args.unfit[blockIdx.x] = shared.unfit;
}
