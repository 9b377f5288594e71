// SPDX-License-Identifier: Apache-2.0
// dense_scores_mma.cu - the first half of a dense forward pass on sm_80 and
// later:
//
//     routes: weight = g silu(s),  s = x[t] . D[e]
//
// A block multiplies a tile of tokens by a tile of experts, of which only what
// the routes name is kept. All threads copy slices of 32 columns into a ring of
// stages and multiply; in the end a warp has 32 tokens by half a block of
// experts, puts its sums into shared memory, and picks the routes out.
#include "arguments.h"
#include "choices.cuh"
#include "element.cuh"
#include "routes.cuh"
#include "tensor.cuh"
#include "warp.cuh"

// ---- Constants: from the prelude DTYPE, HIDDEN_SIZE, TOP_K, TILE_TOKENS,
// TILE_EXPERTS, THREADS, STAGES, SHARED_BYTES

constexpr int DEPTH = 32; // columns of a stage
constexpr int VECTOR = 8; // columns of 16 bytes
constexpr int ROW = DEPTH / VECTOR;
constexpr int STEPS = ceil_div(HIDDEN_SIZE, DEPTH);
constexpr int WARP_TOKENS = 32;
constexpr int WARP_EXPERTS = FEX_ROUTE_BLOCK / 2;
constexpr int TOKEN_WARPS = TILE_TOKENS / WARP_TOKENS;
constexpr int EXPERT_WARPS = TILE_EXPERTS / WARP_EXPERTS;
constexpr int WARPS = THREADS / 32;
constexpr int PRODUCT_ROWS = 16;   // of one product: tokens,
constexpr int PRODUCT_COLUMNS = 8; // experts,
constexpr int PRODUCT_DEPTH = 16;  // columns of H
constexpr int TOKEN_PRODUCTS = WARP_TOKENS / PRODUCT_ROWS;
constexpr int EXPERT_PRODUCTS = WARP_EXPERTS / PRODUCT_COLUMNS;

static_assert(DTYPE == FEX_KERNEL_BF16 || DTYPE == FEX_KERNEL_F16);
static_assert(HIDDEN_SIZE % VECTOR == 0, "no vector straddles a row's end");
static_assert(WARPS == TOKEN_WARPS * EXPERT_WARPS);
static_assert(STAGES >= 2);

using Element = unsigned short;

// ---- Shared memory. Rows of 64 bytes, two in a line of all banks, are
// swizzled: eight rows' vectors of one place are in different banks.

struct Stage {
    uint4 hidden[TILE_TOKENS * ROW];
    uint4 down[TILE_EXPERTS * ROW];
};

using Piece = float[WARP_TOKENS][WARP_EXPERTS];

struct Shared {
    union {
        Stage stages[STAGES];
        Piece pieces[WARPS];
    };
    unsigned largest[WARPS][WARP_TOKENS];
};
static_assert(sizeof(Shared) <= SHARED_BYTES);

__device__ __forceinline__ int place_of(int row, int vector)
{
    return row * ROW + (vector ^ row / 2 % ROW);
}

// What a block has to do: blocks of one time are at neighbouring tokens.
struct Tile {
    int token, expert;
    __device__ __forceinline__ explicit Tile(const fex_dense_scores_args &args)
    {
        const int tokens = ceil_div(args.num_tokens, TILE_TOKENS);
        token = static_cast<int>(blockIdx.x) % tokens * TILE_TOKENS;
        expert = static_cast<int>(blockIdx.x) / tokens * TILE_EXPERTS;
    }
};

// ---- Load

template <int ROWS>
__device__ __forceinline__ void copy_rows(uint4 (&to)[ROWS * ROW],
                                          const void *table, fex_i64 stride,
                                          int first, int rows, int column)
{
#pragma unroll
    for (int i = threadIdx.x; i < ROWS * ROW; i += THREADS) {
        const int row = i / ROW;
        const int c = column + i % ROW * VECTOR;
        const bool inside = first + row < rows && c < HIDDEN_SIZE;
        const fex_i64 at =
            inside ? static_cast<fex_i64>(first + row) * stride + c : 0;
        copy_16(&to[place_of(row, i % ROW)],
                static_cast<const Element *>(table) + at, inside);
    }
}

// Begins to copy a step's slices, if there is such a step.
__device__ __forceinline__ void copy_step(const fex_dense_scores_args &args,
                                          Shared &shared, const Tile &tile,
                                          int step)
{
    if (step < STEPS) {
        Stage &stage = shared.stages[step % STAGES];
        copy_rows<TILE_TOKENS>(stage.hidden, args.hidden_states,
                               args.hidden_states_stride, tile.token,
                               args.num_tokens, step * DEPTH);
        copy_rows<TILE_EXPERTS>(stage.down, args.down_weights,
                                args.down_weights_stride, tile.expert,
                                args.num_experts, step * DEPTH);
    }
    copies_commit();
}

// ---- Compute

using Sums = float[TOKEN_PRODUCTS][EXPERT_PRODUCTS][4];

__device__ __forceinline__ void multiply_stage(const Stage &stage, Sums &sums)
{
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const int token = warp % TOKEN_WARPS * WARP_TOKENS;
    const int expert = warp / TOKEN_WARPS * WARP_EXPERTS;
#pragma unroll
    for (int k = 0; k < ROW; k += PRODUCT_DEPTH / VECTOR) {
        unsigned hidden[TOKEN_PRODUCTS][4];
#pragma unroll
        for (int i = 0; i < TOKEN_PRODUCTS; ++i)
            load_matrices(hidden[i],
                          &stage.hidden[place_of(token + i * PRODUCT_ROWS +
                                                     lane % 16,
                                                 k + lane / 16)]);
#pragma unroll
        for (int j = 0; j < EXPERT_PRODUCTS; j += 2) {
            unsigned down[4]; // of two products
            load_matrices(down,
                          &stage.down[place_of(expert + j * PRODUCT_COLUMNS +
                                                   lane / 16 * 8 + lane % 8,
                                               k + lane / 8 % 2)]);
#pragma unroll
            for (int i = 0; i < TOKEN_PRODUCTS; ++i) {
                warp_product<DTYPE>(sums[i][j], hidden[i], down[0], down[1]);
                warp_product<DTYPE>(sums[i][j + 1], hidden[i], down[2],
                                    down[3]);
            }
        }
    }
}

__device__ __forceinline__ void multiply(const fex_dense_scores_args &args,
                                         Shared &shared, const Tile &tile,
                                         Sums &sums, bool busy)
{
#pragma unroll
    for (int step = 0; step < STAGES - 1; ++step)
        copy_step(args, shared, tile, step);
#pragma unroll 1
    for (int step = 0; step < STEPS; ++step) {
        copies_wait<STAGES - 2>();
        __syncthreads(); // this step is there, and nobody reads the last one
        copy_step(args, shared, tile, step + STAGES - 1);
        if (busy)
            multiply_stage(shared.stages[step % STAGES], sums);
    }
    copies_wait<0>();
    __syncthreads(); // the stages are free
}

// ---- Store

// Rows are shifted against each other to meet different banks.
__device__ __forceinline__ int shifted(int row, int column)
{
    return column ^ row % 4 * 8;
}

__device__ __forceinline__ void stage_sums(Piece &piece, const Sums &sums)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < TOKEN_PRODUCTS; ++i)
#pragma unroll
        for (int j = 0; j < EXPERT_PRODUCTS; ++j)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int row = i * PRODUCT_ROWS + half * 8 + lane / 4;
                const int column = j * PRODUCT_COLUMNS + lane % 4 * 2;
                *reinterpret_cast<float2 *>(
                    &piece[row][shifted(row, column)]) =
                    make_float2(sums[i][j][half * 2], sums[i][j][half * 2 + 1]);
            }
}

// The routes of a warp's tokens, of which row_of counts from `first_row`, to
// its experts.
__device__ __forceinline__ void store_routes(const fex_dense_scores_args &args,
                                             const Piece &piece,
                                             unsigned (&largest)[WARP_TOKENS],
                                             int token, int expert,
                                             int first_row)
{
    const int blocks = ceil_div(args.num_experts, FEX_ROUTE_BLOCK);
    const int *const start = starts_of(args.starts, token + first_row, blocks) +
                             expert / FEX_ROUTE_BLOCK;
    fex_route *const routes = routes_of<TOP_K>(args.routes, token + first_row);
    const int end = start[1];
    for (int i = start[0] + static_cast<int>(threadIdx.x % 32); i < end;
         i += 32) {
        const fex_route route = load_route(routes + i);
        const int row = first_row + row_of(route);
        const int column = expert_of(route) - expert % FEX_ROUTE_BLOCK;
        if (column < 0 || column >= WARP_EXPERTS)
            continue;
        const float score = piece[row][shifted(row, column)];
        if (args.scores != nullptr)
            args.scores[(token + row) * args.scores_stride + slot_of(route)] =
                score;
        if (is_repeat(route))
            continue;
        const float weight = route.weight * silu(score);
        routes[i].weight = weight;
        atomicMax(&largest[row], __float_as_uint(weight) & 0x7fffffffu);
    }
}

__device__ __forceinline__ void store_tile(const fex_dense_scores_args &args,
                                           Shared &shared, const Sums &sums,
                                           int token, int expert)
{
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    Piece &piece = shared.pieces[warp];
    unsigned(&largest)[WARP_TOKENS] = shared.largest[warp];
    stage_sums(piece, sums);
    largest[lane] = 0;
    __syncwarp();
    for (int row = 0; row < WARP_TOKENS; row += FEX_ROUTE_GROUP)
        if (token + row < args.num_tokens && expert < args.num_experts)
            store_routes(args, piece, largest, token, expert, row);
    __syncwarp();
    if (largest[lane] != 0)
        atomicMax(&args.largest[token + lane], largest[lane]);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    fex_dense_scores(const __grid_constant__ fex_dense_scores_args args)
{
    extern __shared__ uint4 memory[];
    Shared &shared = *reinterpret_cast<Shared *>(memory);
    const Tile tile(args);
    const int warp = threadIdx.x / 32;
    const int token = tile.token + warp % TOKEN_WARPS * WARP_TOKENS;
    const int expert = tile.expert + warp / TOKEN_WARPS * WARP_EXPERTS;
    const bool busy = token < args.num_tokens && expert < args.num_experts;

    Sums sums = {};
    launch_dependents();
    multiply(args, shared, tile, sums, busy);
    wait_for_primary();
    store_tile(args, shared, sums, token, expert);
}
