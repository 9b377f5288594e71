// SPDX-License-Identifier: Apache-2.0
// dense_states_wgmma.cu - the second half of a dense forward pass on sm_90a:
//
//     out[t] = sum over e of P[t,e] U[e],  P zero but for the routes' weights
//
// A block takes 128 columns of a tile of tokens and a range of the experts;
// dense_sum.cu adds the ranges up. Eight warps put the routes of 128 experts at
// a time into a tile of zeros, a copy engine brings the experts' rows, two
// warpgroups multiply: columns by experts from registers, experts by tokens
// from the tile.
//
// Rounding P to the data type would be a second rounding. bfloat16: each
// token's weights are scaled by a power of two and rounded to f16, whose 11
// bits are enough, and so is U, exactly from 2^-26 up. float16: P is the sum of
// two f16.
#include "arguments.h"
#include "choices.cuh"
#include "element.cuh"
#include "hopper.cuh"
#include "route_list.cuh"
#include "routes.cuh"
#include "tensor.cuh"
#include "warp.cuh"

// ---- Constants: from the prelude DTYPE, HIDDEN_SIZE, TOP_K, TILE_TOKENS,
// TILE_COLUMNS, THREADS, STAGES, SHARED_BYTES, ROUNDS: times 32 routes a warp
// reads ahead

constexpr int PARTS = DTYPE == FEX_KERNEL_BF16 ? 1 : 2; // P is the sum of
constexpr int HALF_TOKENS = 128; // of one product
constexpr int GROUP_COLUMNS = 64; // of a warpgroup
constexpr int GROUPS = TILE_COLUMNS / GROUP_COLUMNS;
constexpr int DEPTH = FEX_ROUTE_BLOCK; // experts of a stage
constexpr int SWIZZLE = 64;            // of a row of a tile, 128 bytes
constexpr int COMPUTE_THREADS = GROUPS * 128;
constexpr int PLACE_WARPS = 8;
constexpr int WARP_TOKENS = TILE_TOKENS / PLACE_WARPS;
constexpr int WARP_GROUPS = WARP_TOKENS / FEX_ROUTE_GROUP; // of tokens
constexpr int TRAIL = ROUNDS * 32 + 32; // places a warp remembers to clear

static_assert(DTYPE == FEX_KERNEL_BF16 || DTYPE == FEX_KERNEL_F16);
static_assert(TILE_TOKENS == 2 * HALF_TOKENS / PARTS);
static_assert(TILE_COLUMNS == 128);
static_assert(DEPTH == 2 * SWIZZLE, "a stage has two tiles of P");
static_assert(HIDDEN_SIZE % 8 == 0, "the copy engine takes rows of 16 bytes");

using Element = unsigned short;
using List = RouteList<WARP_GROUPS, ROUNDS, TOP_K>;

// ---- Shared memory

struct Stage {
    Element up[GROUPS][DEPTH][GROUP_COLUMNS];
    Element weights[2][2][HALF_TOKENS][SWIZZLE]; // experts; tokens, or parts
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
};
static_assert(sizeof(Stage) % TILE_ALIGNMENT == 0);
static_assert(sizeof(Shared) + TILE_ALIGNMENT <= SHARED_BYTES);
static_assert(THREADS == COMPUTE_THREADS + PLACE_WARPS * 32);

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

// ---- Load: the weights

// Where a stage has the weight of a token and an expert of the block, in
// elements, as descriptor_of has it.
__device__ __forceinline__ int place_of(int token, int expert)
{
    constexpr int TILE = 2 * HALF_TOKENS * SWIZZLE;
    return expert / SWIZZLE * TILE + token * SWIZZLE +
           (expert % SWIZZLE ^ token % 8 * 8);
}

__device__ __forceinline__ void set_weight(Stage &stage, int place,
                                           float weight)
{
    Element *const weights = reinterpret_cast<Element *>(stage.weights);
    const Element high = float_to_half(weight);
    weights[place] = high;
    // What is not finite has no rest.
    const float rest = weight - half_to_float(high);
    if (PARTS == 2)
        weights[place + HALF_TOKENS * SWIZZLE] =
            fabsf(rest) < fabsf(weight) ? float_to_half(rest) : 0;
}

// Back to zeros, where the last block's weights of this warp were.
__device__ __forceinline__ void clear(Stage &stage, const Trail &trail)
{
    const int lane = threadIdx.x % 32;
    const int warp = (threadIdx.x - COMPUTE_THREADS) / 32;
    Element *const weights = reinterpret_cast<Element *>(stage.weights);
    const int count = trail.count;
    if (count <= TRAIL) {
#pragma unroll
        for (int i = 0; i < TRAIL; i += 32)
            if (i + lane < count)
#pragma unroll
                for (int part = 0; part < PARTS; ++part)
                    weights[trail.places[i + lane] +
                            part * HALF_TOKENS * SWIZZLE] = 0;
    } else {
        constexpr int VECTORS = WARP_TOKENS * SWIZZLE / 8;
#pragma unroll
        for (int tile = 0; tile < 2 * PARTS; ++tile)
            for (int i = lane; i < VECTORS; i += 32)
                reinterpret_cast<uint4 *>(
                    weights +
                    (tile / PARTS * 2 * HALF_TOKENS +
                     tile % PARTS * HALF_TOKENS + warp * WARP_TOKENS) *
                        SWIZZLE)[i] = make_uint4(0, 0, 0, 0);
    }
    __syncwarp();
}

// Route i of a block. scale: of the warp's tokens, in its lanes.
__device__ __forceinline__ void set_route(Stage &stage, Trail &trail,
                                          const List &list, int i,
                                          const fex_route &route, float scale)
{
    const int warp = (threadIdx.x - COMPUTE_THREADS) / 32;
    const int row = list.row(route, i);
    const float weight =
        route.weight * __shfl_sync(FULL_WARP, scale, row);
    if (i >= list.count)
        return;
    const int place = place_of(warp * WARP_TOKENS + row, expert_of(route));
    if (i < TRAIL)
        trail.places[i] = static_cast<unsigned short>(place);
    if (!is_repeat(route))
        set_weight(stage, place, weight);
}

__device__ __forceinline__ void set_block(Stage &stage, Trail &trail,
                                          List &list, float scale)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < ROUNDS; ++i)
        set_route(stage, trail, list, i * 32 + lane, list.ahead[i], scale);
#pragma unroll 1
    for (int first = ROUNDS * 32; first < list.count; first += ROUNDS * 32) {
        list.read(first);
#pragma unroll
        for (int i = 0; i < ROUNDS; ++i)
            set_route(stage, trail, list, first + i * 32 + lane, list.ahead[i],
                      scale);
    }
    if (lane == 0)
        trail.count = list.count;
}

// A warp's rows of the weights, and the first warp's copies of U, for all
// stages in turn. Routes are read a block ahead.
__device__ __forceinline__ void fill_stages(const fex_dense_states_args &args,
                                            Shared &shared, const Task &task)
{
    const int lane = threadIdx.x % 32;
    const int warp = (threadIdx.x - COMPUTE_THREADS) / 32;
    const int token = task.token + warp * WARP_TOKENS;
    const float scale = lane < WARP_TOKENS && token + lane < args.num_tokens
                            ? scale_of(args.largest[token + lane])
                            : 0.0f;
    List list(args, token, task.block, task.end_block);
    list.load(task.block);
    Ring<STAGES> ring;
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
        set_block(stage, trail, list, scale);
        publish_shared();
        __syncwarp();
        if (lane == 0)
            barrier_arrive(full);
        list.load(block + 1);
    }
}

// ---- Compute

// The columns of a warp by 64 experts, in f16; a register has two experts.
struct Columns {
    unsigned words[SWIZZLE / 16][4];

    // Keeps the largest magnitudes seen.
    __device__ __forceinline__ void load(const Stage &stage, int first,
                                         unsigned &largest)
    {
        const int lane = threadIdx.x % 32;
        const int group = threadIdx.x / 128;
        const int warp = threadIdx.x / 32 % 4;
        const int row = first + lane % 8 + lane / 16 * 8; // expert
        const int vector = (warp * 2 + lane / 8 % 2) ^ row % 8;
#pragma unroll
        for (int k = 0; k < SWIZZLE / 16; ++k) {
            load_transposed(words[k],
                            &stage.up[group][row + k * 16][vector * 8]);
#pragma unroll
            for (unsigned &word : words[k]) {
                largest = max_magnitudes<DTYPE>(largest, word);
                if (DTYPE == FEX_KERNEL_BF16)
                    word = times_halves(word, ROW_SCALE_PAIR);
            }
        }
    }
};

constexpr int HALVES = 3 - PARTS; // of the tokens
using Sums = float[HALVES][64];

// By the tile of P at `weights`.
__device__ __forceinline__ void multiply(Sums &sums, const Columns &columns,
                                         Descriptor weights, bool add)
{
    constexpr int HALF = sizeof(Stage::weights) / 4 / 16;
    product_begin();
#pragma unroll
    for (int k = 0; k < SWIZZLE / 16; ++k)
#pragma unroll
        for (int half = 0; half < 2; ++half)
            product(sums[half % HALVES], columns.words[k],
                    weights + half * HALF + k * 2,
                    add || k > 0 || (PARTS == 2 && half > 0));
    product_commit();
}

// Returns whether the rows are good in f16. A range has a block at least.
__device__ __forceinline__ bool compute_stages(Shared &shared, const Task &task,
                                               Sums &sums)
{
    constexpr int TILE = sizeof(Stage::weights) / 2 / 16;
    const Descriptor weights = descriptor_of(shared.stages[0].weights);
    Columns columns[2];
    unsigned largest = 0;
    Ring<STAGES> ring;
    int released = 0;
#pragma unroll 1
    for (int block = task.block; block < task.end_block; ++block, ring.next()) {
        const Stage &stage = shared.stages[ring.stage];
        const Descriptor own = weights + ring.stage * (sizeof(Stage) / 16);
        barrier_wait(&shared.full[ring.stage], ring.parity);
        columns[0].load(stage, 0, largest);
        multiply(sums, columns[0], own, block > task.block);
        if (block > task.block) {
            product_wait<1>();
            if (threadIdx.x % 32 == 0)
                barrier_arrive(&shared.empty[released]);
        }
        columns[1].load(stage, SWIZZLE, largest);
        multiply(sums, columns[1], own + TILE, true);
        product_wait<1>();
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
    const int column = task.column + static_cast<int>(threadIdx.x) / 32 * 16 +
                       lane / 4;
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
                __stcg(partials +
                           static_cast<fex_i64>(token) * HIDDEN_SIZE + own,
                       sums[half][j]);
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
            barrier_init(&shared.empty[i], COMPUTE_THREADS / 32);
        }
        barrier_init_fence();
    }
    // More than any trail: all weights are cleared before their first use.
    for (int i = threadIdx.x; i < STAGES * PLACE_WARPS; i += THREADS)
        shared.trails[i / PLACE_WARPS][i % PLACE_WARPS].count = TRAIL + 1;
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
