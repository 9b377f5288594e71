// SPDX-License-Identifier: Apache-2.0
// dense_scores_wgmma.cu - the first half of a dense forward pass on sm_90a:
//
//     routes: weight = g silu(s),  s = x[t] . D[e]
//
// All tokens by all experts, a tile at a time, of which only what the routes
// name is kept. Blocks stay and take tiles in turn. One thread of a block has
// slices of 64 columns copied into a ring of stages; two warpgroups multiply,
// 64 tokens each, and pick the routes out of their sums while the next tile's
// first stages arrive.
#include "arguments.h"
#include "choices.cuh"
#include "element.cuh"
#include "hopper.cuh"
#include "routes.cuh"
#include "warp.cuh"

// ---- Constants: from the prelude DTYPE, HIDDEN_SIZE, TOP_K, TILE_TOKENS,
// TILE_EXPERTS, THREADS, STAGES, SHARED_BYTES

constexpr int DEPTH = 64; // columns of a stage: 128 bytes, as is a swizzle
constexpr int STEPS = ceil_div(HIDDEN_SIZE, DEPTH);
constexpr int GROUP_TOKENS = 64; // of a warpgroup
constexpr int WARP_TOKENS = 16;
constexpr int GROUPS = TILE_TOKENS / GROUP_TOKENS;
constexpr int WARPS = GROUPS * 4; // that compute
constexpr int PIECE_BITS = 6;
constexpr int PIECE_EXPERTS = 1 << PIECE_BITS;
constexpr int PIECES = TILE_EXPERTS / PIECE_EXPERTS;
constexpr int BLOCKS = max_of(TILE_EXPERTS / FEX_ROUTE_BLOCK, 1);
constexpr int PICKS = 6; // times 32 routes of a warp that come ahead
constexpr int PRODUCT_DEPTH = 16;
constexpr int PRODUCT_STRIDE = PRODUCT_DEPTH * 2 / 16; // of a descriptor

static_assert(DTYPE == FEX_KERNEL_BF16 || DTYPE == FEX_KERNEL_F16);
static_assert(TILE_TOKENS == 128);
static_assert(TILE_EXPERTS == 64 || TILE_EXPERTS == 256);
static_assert(THREADS == (GROUPS + 1) * 128);
static_assert(WARP_TOKENS == FEX_ROUTE_GROUP);
static_assert(FEX_ROUTE_BLOCK == 128, "a tile is half a block, one or two");
static_assert(HIDDEN_SIZE % 8 == 0, "the copy engine takes rows of 16 bytes");

using Element = unsigned short;

// ---- Shared memory

struct Stage {
    Element hidden[TILE_TOKENS][DEPTH];
    Element down[TILE_EXPERTS][DEPTH];
};

using Piece = float[WARP_TOKENS][PIECE_EXPERTS];

struct Shared {
    Stage stages[STAGES];
    Piece pieces[WARPS];
    unsigned largest[WARPS][WARP_TOKENS];
    Barrier full[STAGES];
    Barrier empty[STAGES];
};
static_assert(sizeof(Stage) % TILE_ALIGNMENT == 0);
static_assert(sizeof(Shared) + TILE_ALIGNMENT <= SHARED_BYTES);

// Tiles in the order they are taken: at one time all tokens of few experts.
struct Tiles {
    int tokens, count;

    __device__ __forceinline__ explicit Tiles(const fex_dense_scores_args &args)
    {
        tokens = ceil_div(args.num_tokens, TILE_TOKENS);
        count = tokens * ceil_div(args.num_experts, TILE_EXPERTS);
    }
    __device__ __forceinline__ int token(int tile) const
    {
        return tile % tokens * TILE_TOKENS;
    }
    __device__ __forceinline__ int expert(int tile) const
    {
        return tile / tokens * TILE_EXPERTS;
    }
};

// ---- Load

__device__ __forceinline__ void copy_tiles(const fex_dense_scores_args &args,
                                           Shared &shared)
{
    const Tiles tiles(args);
    Ring<STAGES> ring;
    for (int tile = blockIdx.x; tile < tiles.count; tile += gridDim.x)
        for (int step = 0; step < STEPS; ++step, ring.next()) {
            Stage &stage = shared.stages[ring.stage];
            Barrier *const full = &shared.full[ring.stage];
            barrier_wait(&shared.empty[ring.stage], ring.parity ^ 1);
            barrier_expect(full, sizeof(Stage));
            copy_tile(&args.hidden_map, stage.hidden, full, step * DEPTH,
                      tiles.token(tile));
            copy_tile(&args.down_map, stage.down, full, step * DEPTH,
                      tiles.expert(tile));
        }
}

// ---- Compute

using Sums = float[TILE_EXPERTS / 2];

// This warp is done with a stage.
__device__ __forceinline__ void release(Shared &shared, int stage)
{
    if (threadIdx.x % 32 == 0)
        barrier_arrive(&shared.empty[stage]);
}

// The routes of a warp's tokens to the blocks of a tile's experts, and the
// first of them in registers.
struct Picks {
    fex_route *routes; // from the tile's first on
    fex_i64 token;
    int starts;      // in lane i: where those of block i begin
    int count, next; // of all, number of the first of the second block
    int shift;       // the tile's first expert in its block
    fex_route ahead[PICKS];

    __device__ __forceinline__ Picks(const fex_dense_scores_args &args,
                                     int token, int expert)
        : token(token)
    {
        const int lane = threadIdx.x % 32;
        const int blocks = ceil_div(args.num_experts, FEX_ROUTE_BLOCK);
        routes = routes_of<TOP_K>(args.routes, token);
        shift = expert % FEX_ROUTE_BLOCK;
        starts = 0;
        if (token < args.num_tokens && lane <= BLOCKS) {
            const int block = expert / FEX_ROUTE_BLOCK + lane;
            starts =
                starts_of(args.starts, token, blocks)[min_of(block, blocks)];
        }
    }
    __device__ __forceinline__ void number()
    {
        const int first = __shfl_sync(FULL_WARP, starts, 0);
        count = __shfl_sync(FULL_WARP, starts, BLOCKS) - first;
        next = __shfl_sync(FULL_WARP, starts, 1) - first;
        routes += first;
    }
    __device__ __forceinline__ void load(int begin, int end)
    {
        begin += static_cast<int>(threadIdx.x % 32);
#pragma unroll
        for (int i = 0; i < PICKS; ++i)
            if (begin + i * 32 < end)
                ahead[i] = load_route(routes + begin + i * 32);
    }
    // The column of the tile that has the score of route i.
    __device__ __forceinline__ int column(const fex_route &route, int i) const
    {
        const int column = expert_of(route) - shift;
        return BLOCKS == 2 && i >= next ? column + FEX_ROUTE_BLOCK : column;
    }
};

// Multiplies a tile. Routes come meanwhile.
__device__ __forceinline__ void multiply(Shared &shared, Ring<STAGES> &ring,
                                         Sums &sums, Picks &picks)
{
    const int group = threadIdx.x / 128;
    const Descriptor hidden =
        descriptor_of(shared.stages[0].hidden[group * GROUP_TOKENS]);
    const Descriptor down = descriptor_of(shared.stages[0].down);
    int released = 0;
#pragma unroll 1
    for (int step = 0; step < STEPS; ++step, ring.next()) {
        const unsigned stage = ring.stage * (sizeof(Stage) / 16);
        barrier_wait(&shared.full[ring.stage], ring.parity);
        product_begin();
#pragma unroll
        for (int k = 0; k < DEPTH / PRODUCT_DEPTH; ++k)
            product<DTYPE>(sums, hidden + stage + k * PRODUCT_STRIDE,
                           down + stage + k * PRODUCT_STRIDE,
                           step > 0 || k > 0);
        product_commit();
        if (step > 0) {
            product_wait<1>();
            release(shared, released);
        }
        released = ring.stage;
        if (step == STEPS / 2) {
            picks.number();
            picks.load(0, picks.count);
        }
    }
    product_wait<0>();
    release(shared, released);
}

// ---- Store

// The sums of 64 experts, to where every lane reads them. Rows are shifted
// against each other so that stores meet different banks.
__device__ __forceinline__ void stage_piece(Piece &piece, const Sums &sums,
                                            int number)
{
    const int row = threadIdx.x % 32 / 4;
    const int column = threadIdx.x % 4 * 2;
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        const float *const s = &sums[number * 32 + j * 4];
        const int shifted = (j * 8 + column) ^ row % 4 * 8;
        *reinterpret_cast<float2 *>(&piece[row][shifted]) =
            make_float2(s[0], s[1]);
        *reinterpret_cast<float2 *>(&piece[row + 8][shifted]) =
            make_float2(s[2], s[3]);
    }
    __syncwarp();
}

__device__ __forceinline__ float score_at(const Piece &piece, int row,
                                          int column)
{
    return piece[row][column % PIECE_EXPERTS ^ row % 4 * 8];
}

__device__ __forceinline__ void store_route(const fex_dense_scores_args &args,
                                            unsigned (&largest)[WARP_TOKENS],
                                            fex_route *to,
                                            const fex_route &route, float score,
                                            fex_i64 token)
{
    const int row = row_of(route);
    if (args.scores != nullptr)
        args.scores[(token + row) * args.scores_stride + slot_of(route)] =
            score;
    if (is_repeat(route))
        return;
    const float weight = route.weight * silu(score);
    to->weight = weight;
    atomicMax(&largest[row], __float_as_uint(weight) & 0x7fffffffu);
}

// The routes that are not in registers, if their scores are in the piece.
__device__ __forceinline__ void store_rest(const fex_dense_scores_args &args,
                                           const Piece &piece,
                                           unsigned (&largest)[WARP_TOKENS],
                                           Picks picks, int number)
{
    // The second half of a tile of two blocks is the second block.
    const bool second = BLOCKS == 2 && number >= PIECES / 2;
    const int end = BLOCKS == 2 && !second ? picks.next : picks.count;
    int begin = PICKS * 32;
    if (second && picks.next > begin)
        begin = picks.next;
    for (; begin < end; begin += PICKS * 32) {
        picks.load(begin, end);
#pragma unroll
        for (int i = 0; i < PICKS; ++i) {
            const int own = begin + i * 32 + static_cast<int>(threadIdx.x % 32);
            const int column = picks.column(picks.ahead[i], own);
            if (own < end && column >> PIECE_BITS == number)
                store_route(args, largest, picks.routes + own, picks.ahead[i],
                            score_at(piece, row_of(picks.ahead[i]), column),
                            picks.token);
        }
    }
}

__device__ __forceinline__ void store_tile(const fex_dense_scores_args &args,
                                           Shared &shared, const Sums &sums,
                                           const Picks &picks)
{
    const int warp = threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    unsigned(&largest)[WARP_TOKENS] = shared.largest[warp];
    const Piece &piece = shared.pieces[warp];
    float scores[PICKS];
    int columns[PICKS]; // of the tile; none where there is no route
    if (lane < WARP_TOKENS)
        largest[lane] = 0;
#pragma unroll
    for (int i = 0; i < PICKS; ++i)
        columns[i] = i * 32 + lane < picks.count
                         ? picks.column(picks.ahead[i], i * 32 + lane)
                         : -1;
#pragma unroll
    for (int number = 0; number < PIECES; ++number) {
        stage_piece(shared.pieces[warp], sums, number);
#pragma unroll
        for (int i = 0; i < PICKS; ++i)
            if (columns[i] >> PIECE_BITS == number)
                scores[i] = score_at(piece, row_of(picks.ahead[i]), columns[i]);
        if (picks.count > PICKS * 32)
            store_rest(args, piece, largest, picks, number);
    }
#pragma unroll
    for (int i = 0; i < PICKS; ++i)
        if (columns[i] >= 0 && columns[i] < TILE_EXPERTS)
            store_route(args, largest, picks.routes + i * 32 + lane,
                        picks.ahead[i], scores[i], picks.token);
    __syncwarp();
    if (lane < WARP_TOKENS && largest[lane] != 0)
        atomicMax(&args.largest[picks.token + lane], largest[lane]);
}

__device__ __forceinline__ void compute_tiles(const fex_dense_scores_args &args,
                                              Shared &shared)
{
    const Tiles tiles(args);
    Ring<STAGES> ring;
    Sums sums;
    for (int tile = blockIdx.x; tile < tiles.count; tile += gridDim.x) {
        Picks picks(args,
                    tiles.token(tile) +
                        static_cast<int>(threadIdx.x) / 32 * WARP_TOKENS,
                    tiles.expert(tile));
        multiply(shared, ring, sums, picks);
        store_tile(args, shared, sums, picks);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    fex_dense_scores(const __grid_constant__ fex_dense_scores_args args)
{
    extern __shared__ unsigned char memory[];
    Shared &shared = *reinterpret_cast<Shared *>(align_tile(memory));

    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; ++i) {
            barrier_init(&shared.full[i], 1);
            barrier_init(&shared.empty[i], WARPS);
        }
        barrier_init_fence();
    }
    __syncthreads();
    launch_dependents();
    if (threadIdx.x >= GROUPS * 128) {
        registers_drop<40>();
        if (threadIdx.x == GROUPS * 128)
            copy_tiles(args, shared);
    } else {
        registers_take<232>();
        wait_for_primary();
        compute_tiles(args, shared);
    }
}
