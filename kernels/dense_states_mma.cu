// SPDX-License-Identifier: Apache-2.0
// dense_states_mma.cu - the second half of a dense forward pass on sm_80 and
// later:
//
//     partials: sums over e of P[t,e] U[e],  P zero but for the routes' weights
//
// A block takes a tile of tokens by a tile of columns and goes through a range
// of experts, 64 at a time: their rows are copied while each warp puts the
// routes of its tokens into a tile of zeros, both a step ahead of the products.
//
// Rounding P to the data type would be a second rounding. Each token's weights
// are scaled by a power of two, so that f16 has room for them. bfloat16: P is
// rounded to f16, whose 11 bits are enough, and U becomes f16 in registers,
// exactly from 2^-26 up. float16: P is the sum of two f16.
#include "arguments.h"
#include "choices.cuh"
#include "element.cuh"
#include "route_list.cuh"
#include "routes.cuh"
#include "tensor.cuh"
#include "warp.cuh"

// ---- Constants: from the prelude DTYPE, HIDDEN_SIZE, TOP_K, TILE_TOKENS,
// TILE_COLUMNS, THREADS, STAGES, SHARED_BYTES, ROUNDS: times 32 routes a warp
// reads ahead

constexpr int DEPTH = FEX_ROUTE_BLOCK / 2; // experts of a stage
constexpr int BLOCK_STEPS = FEX_ROUTE_BLOCK / DEPTH;
constexpr int VECTOR = 8;              // elements of 16 bytes
constexpr int UP_ROW = TILE_COLUMNS / VECTOR;
constexpr int WEIGHT_ROW = DEPTH / VECTOR;
constexpr int PARTS = DTYPE == FEX_KERNEL_BF16 ? 1 : 2; // P is the sum of
constexpr int WARPS = THREADS / 32;
constexpr int PLACE_TOKENS = TILE_TOKENS / WARPS; // of a warp, to put routes
constexpr int WARP_TOKENS = 64;                   // of a warp, to multiply
constexpr int WARP_COLUMNS = 32;
constexpr int TOKEN_WARPS = TILE_TOKENS / WARP_TOKENS;
constexpr int PRODUCT_ROWS = 16;   // of one product: tokens,
constexpr int PRODUCT_COLUMNS = 8; // columns of H,
constexpr int PRODUCT_DEPTH = 16;  // experts
constexpr int TOKEN_PRODUCTS = WARP_TOKENS / PRODUCT_ROWS;
constexpr int COLUMN_PRODUCTS = WARP_COLUMNS / PRODUCT_COLUMNS;
constexpr int BLOCKS = 3 - PARTS; // of a multiprocessor

static_assert(DTYPE == FEX_KERNEL_BF16 || DTYPE == FEX_KERNEL_F16);
static_assert(HIDDEN_SIZE % VECTOR == 0, "no vector straddles a row's end");
static_assert(WARPS == TOKEN_WARPS * (TILE_COLUMNS / WARP_COLUMNS));
static_assert(PLACE_TOKENS == FEX_ROUTE_GROUP);
static_assert(STAGES == 2, "one that is read, one that is filled");

using Half = Dtype<FEX_KERNEL_F16>;
using Element = unsigned short;
using List = RouteList<32, ROUNDS, TOP_K>;

// ---- Shared memory. The vectors of a row are swizzled, so that eight rows' of
// one place are in different banks.

struct Stage {
    uint4 up[DEPTH * UP_ROW];
    uint4 weights[PARTS][TILE_TOKENS * WEIGHT_ROW];
};

struct Shared {
    Stage stages[STAGES];
};
static_assert(sizeof(Shared) <= SHARED_BYTES);

template <int ROW>
__device__ __forceinline__ int place_of(int row, int vector)
{
    return row * ROW + (vector ^ row % 8);
}

// What a block has to do. Blocks at one time share tokens' routes and the
// experts' rows.
struct Tile {
    int token, column, split;
    int step, end_step; // of experts, DEPTH each

    __device__ __forceinline__ explicit Tile(const fex_dense_states_args &args)
    {
        constexpr int COLUMN_TILES = ceil_div(HIDDEN_SIZE, TILE_COLUMNS);
        const int token_tiles = ceil_div(args.num_tokens, TILE_TOKENS);
        const int tile = static_cast<int>(blockIdx.x);
        column = tile % COLUMN_TILES * TILE_COLUMNS;
        token = tile / COLUMN_TILES % token_tiles * TILE_TOKENS;
        split = tile / COLUMN_TILES / token_tiles;
        const fex_i64 steps = ceil_div(args.num_experts, DEPTH);
        step = static_cast<int>(steps * split / args.splits);
        end_step = static_cast<int>(steps * (split + 1) / args.splits);
    }
};

__device__ __forceinline__ bool is_finite(float value)
{
    return (__float_as_uint(value) & 0x7f800000u) != 0x7f800000u;
}

// ---- Load: the rows of a step's experts

__device__ __forceinline__ void copy_up(const fex_dense_states_args &args,
                                        Stage &stage, const Tile &tile,
                                        int step)
{
    constexpr int ROWS_AT_ONCE = THREADS / UP_ROW;
    static_assert(DEPTH % ROWS_AT_ONCE == 0);
    const int vector = threadIdx.x % UP_ROW;
    const int column = tile.column + vector * VECTOR;
    const int first = static_cast<int>(threadIdx.x) / UP_ROW;
#pragma unroll
    for (int row = first; row < first + DEPTH; row += ROWS_AT_ONCE) {
        const int expert = step * DEPTH + row;
        const bool inside = expert < args.num_experts && column < HIDDEN_SIZE;
        const fex_i64 at =
            inside ? expert * args.up_weights_stride + column : 0;
        copy_16(&stage.up[place_of<UP_ROW>(row, vector)],
                static_cast<const Element *>(args.up_weights) + at, inside);
    }
}

__device__ __forceinline__ int first_token(const Tile &tile)
{
    return tile.token + static_cast<int>(threadIdx.x) / 32 * PLACE_TOKENS;
}

// ---- Compute: the tile of P

__device__ __forceinline__ Element *cell_of(Stage &stage, int part, int row,
                                            int column)
{
    return reinterpret_cast<Element *>(
               &stage.weights[part][place_of<WEIGHT_ROW>(row,
                                                         column / VECTOR)]) +
           column % VECTOR;
}

// Puts a route of each lane that has one, if it is of the step's experts.
// scale: of the warp's tokens, in its lanes.
__device__ __forceinline__ void put_route(Stage &stage, const fex_route &route,
                                          bool valid, int step, float scale)
{
    const float weight =
        route.weight * __shfl_sync(FULL_WARP, scale, row_of(route));
    const int row = static_cast<int>(threadIdx.x) / 32 * PLACE_TOKENS +
                    row_of(route);
    const int column = expert_of(route) - step * DEPTH % FEX_ROUTE_BLOCK;
    if (!valid || is_repeat(route) || column < 0 || column >= DEPTH)
        return;
    const Element high = Half::round(weight);
    *cell_of(stage, 0, row, column) = high;
    // What is not finite has no rest.
    const float rest = weight - Half::widen(high);
    if (PARTS == 2)
        *cell_of(stage, PARTS - 1, row, column) =
            fabsf(rest) < fabsf(weight) ? Half::round(rest) : 0;
}

__device__ __forceinline__ void put_tile(Stage &stage, List &list, int step,
                                         float scale)
{
    const int lane = threadIdx.x % 32;
    const int first = static_cast<int>(threadIdx.x) / 32 * PLACE_TOKENS;
#pragma unroll
    for (int part = 0; part < PARTS; ++part)
        for (int i = lane; i < PLACE_TOKENS * WEIGHT_ROW; i += 32)
            stage.weights[part][first * WEIGHT_ROW + i] =
                make_uint4(0, 0, 0, 0);
    __syncwarp();
    for (int i = 0; i < list.count; i += ROUNDS * 32) {
        if (i > 0)
            list.read(i);
#pragma unroll
        for (int round = 0; round < ROUNDS; ++round)
            put_route(stage, list.ahead[round],
                      i + round * 32 + lane < list.count, step, scale);
    }
}

// ---- Compute: products

using Sums = float[TOKEN_PRODUCTS][COLUMN_PRODUCTS][4];

// Elements of U as f16, and the largest of their magnitudes; a NaN shows in the
// sums.
__device__ __forceinline__ unsigned up_to_halves(unsigned word, float &largest)
{
    if (DTYPE == FEX_KERNEL_F16)
        return word;
    const float low = __uint_as_float(word << 16) * ROW_SCALE;
    const float high = __uint_as_float(word & 0xffff0000u) * ROW_SCALE;
    largest = fmaxf(largest, fmaxf(fabsf(low), fabsf(high)));
    return floats_to_halves(low, high);
}

__device__ __forceinline__ int warp_token()
{
    return static_cast<int>(threadIdx.x) / 32 % TOKEN_WARPS * WARP_TOKENS;
}

__device__ __forceinline__ int warp_column()
{
    return static_cast<int>(threadIdx.x) / 32 / TOKEN_WARPS * WARP_COLUMNS;
}

__device__ __forceinline__ void multiply_stage(const Stage &stage, Sums &sums,
                                               float &largest)
{
    const int lane = threadIdx.x % 32;
#pragma unroll 2
    for (int k = 0; k < DEPTH; k += PRODUCT_DEPTH) {
        unsigned up[COLUMN_PRODUCTS / 2][4]; // of two products each
#pragma unroll
        for (int j = 0; j < COLUMN_PRODUCTS / 2; ++j)
            load_transposed(
                up[j], &stage.up[place_of<UP_ROW>(
                           k + lane % 16,
                           warp_column() / VECTOR + j * 2 + lane / 16)]);
#pragma unroll
        for (auto &words : up)
#pragma unroll
            for (unsigned &word : words)
                word = up_to_halves(word, largest);
#pragma unroll
        for (int part = 0; part < PARTS; ++part)
#pragma unroll
            for (int i = 0; i < TOKEN_PRODUCTS; ++i) {
                unsigned weights[4];
                load_matrices(weights,
                              &stage.weights[part][place_of<WEIGHT_ROW>(
                                  warp_token() + i * PRODUCT_ROWS + lane % 16,
                                  k / VECTOR + lane / 16)]);
#pragma unroll
                for (int j = 0; j < COLUMN_PRODUCTS; ++j)
                    warp_product<FEX_KERNEL_F16>(sums[i][j], weights,
                                                 up[j / 2][j % 2 * 2],
                                                 up[j / 2][j % 2 * 2 + 1]);
            }
    }
}

__device__ __forceinline__ void multiply(const fex_dense_states_args &args,
                                         Shared &shared, const Tile &tile,
                                         float scale, Sums &sums,
                                         float &largest)
{
    const int first = tile.step;
    const bool busy = tile.token + warp_token() < args.num_tokens &&
                      tile.column + warp_column() < HIDDEN_SIZE;
    const int block = first / BLOCK_STEPS;
    List list(args, first_token(tile), block, 1);
    copy_up(args, shared.stages[0], tile, first);
    copies_commit();
    list.load(0);
    put_tile(shared.stages[0], list, first, scale);
    list.load((first + 1) / BLOCK_STEPS - block);
#pragma unroll 1
    for (int step = first; step < tile.end_step; ++step) {
        Stage &own = shared.stages[(step - first) % STAGES];
        Stage &next = shared.stages[(step - first + 1) % STAGES];
        copies_wait<0>();
        __syncthreads(); // this stage is there, and nobody reads the next
        if (step + 1 < tile.end_step) {
            copy_up(args, next, tile, step + 1);
            copies_commit();
            put_tile(next, list, step + 1, scale);
            list.load((step + 2) / BLOCK_STEPS - block);
        }
        if (busy)
            multiply_stage(own, sums, largest);
    }
    copies_wait<0>();
}

// ---- Store

// Whether rows that far up keep their bits in f16; zeros have none.
__device__ __forceinline__ bool keeps_bits(float largest)
{
    constexpr float LEAST = ROW_SCALE / (1 << 22);
    return DTYPE == FEX_KERNEL_F16 || largest == 0.0f || largest >= LEAST;
}

// What is not finite, though the token's weights are, comes from rows that f16
// has no room for, or of experts it did not choose: then the tile is unfit.
__device__ __forceinline__ bool store_sums(const fex_dense_states_args &args,
                                           const Tile &tile, const Sums &sums)
{
    const int lane = threadIdx.x % 32;
    float *const partials = args.partials + static_cast<fex_i64>(tile.split) *
                                                args.num_tokens * HIDDEN_SIZE;
    bool fit = true;
#pragma unroll
    for (int i = 0; i < TOKEN_PRODUCTS; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int token = tile.token + warp_token() + i * PRODUCT_ROWS +
                              half * 8 + lane / 4;
            if (token >= args.num_tokens)
                continue;
            const bool known = is_finite(__uint_as_float(args.largest[token]));
#pragma unroll
            for (int j = 0; j < COLUMN_PRODUCTS; ++j) {
                const int column = tile.column + warp_column() +
                                   j * PRODUCT_COLUMNS + lane % 4 * 2;
                const float2 pair = make_float2(sums[i][j][half * 2],
                                                sums[i][j][half * 2 + 1]);
                fit = fit &&
                      (!known || (is_finite(pair.x) && is_finite(pair.y)));
                if (column < HIDDEN_SIZE)
                    __stcg(reinterpret_cast<float2 *>(
                               partials +
                               static_cast<fex_i64>(token) * HIDDEN_SIZE +
                               column),
                           pair);
            }
        }
    return fit;
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    fex_dense_states(const __grid_constant__ fex_dense_states_args args)
{
    extern __shared__ uint4 memory[];
    Shared &shared = *reinterpret_cast<Shared *>(memory);
    const Tile tile(args);
    const int lane = threadIdx.x % 32;

    launch_dependents();
    wait_for_primary();
    float scale = 1.0f;
    if (lane < PLACE_TOKENS && first_token(tile) + lane < args.num_tokens)
        scale = scale_of(args.largest[first_token(tile) + lane]);
    Sums sums = {};
    float up = 0.0f; // the largest of U that was seen
    multiply(args, shared, tile, scale, sums, up);
    const bool fit = store_sums(args, tile, sums);
    const int all_fit = __syncthreads_and(fit && keeps_bits(up));
    if (threadIdx.x == 0)
        args.unfit[blockIdx.x] = !all_fit;
}
