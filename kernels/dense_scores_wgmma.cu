// SPDX-License-Identifier: Apache-2.0
// dense_scores_wgmma.cu - the first half of a dense forward pass on sm_90a:
//
//     routes: weight = g silu(s),  s = x[t] . D[e]
//
// All tokens by all experts, a tile at a time, of which only what the routes
// name is kept. Blocks stay and take tiles in turn. One warp of a block copies
// slices of 64 columns into a ring of stages; two warpgroups multiply, 64
// tokens each, and pick the routes out of their sums while the next tile's
// first stages arrive. The blocks of a cluster work at the same experts for
// different tokens: each copies a part of the experts' rows for all.
#include "arguments.h"
#include "choices.cuh"
#include "element.cuh"
#include "hopper.cuh"
#include "routes.cuh"
#include "warp.cuh"

// ---- Constants: from the prelude DTYPE, HIDDEN_SIZE, TOP_K, TILE_EXPERTS,
// STAGES

constexpr int TILE_TOKENS = 128;
constexpr int DEPTH = 64; // columns of a stage: a row is one swizzle of 128 bytes
constexpr int STEPS = ceil_div(HIDDEN_SIZE, DEPTH);
constexpr int GROUP_TOKENS = 64; // of a warpgroup
constexpr int WARP_TOKENS = 16;
constexpr int GROUPS = TILE_TOKENS / GROUP_TOKENS;
constexpr int PIECES = TILE_EXPERTS / FEX_ROUTE_BLOCK;
constexpr int PICKS = 6; // routes a lane holds before the sums are there
constexpr int PRODUCT_DEPTH = 16;
constexpr int THREADS = (GROUPS + 1) * 128;

static_assert(DTYPE == FEX_KERNEL_BF16 || DTYPE == FEX_KERNEL_F16);
static_assert(TILE_EXPERTS == 64 || TILE_EXPERTS == 128 || TILE_EXPERTS == 256);
static_assert(FEX_ROUTE_BLOCK == 64, "a piece of the sums is a block of routes");
static_assert(HIDDEN_SIZE % 8 == 0, "the copy engine takes rows of 16 bytes");

using Element = unsigned short;

// ---- Shared memory

struct Stage {
    Element hidden[TILE_TOKENS][DEPTH];
    Element down[TILE_EXPERTS][DEPTH];
};

using Piece = float[WARP_TOKENS][FEX_ROUTE_BLOCK];

struct Shared {
    Stage stages[STAGES];
    Piece pieces[GROUPS * 4]; // one a warp
    unsigned largest[GROUPS * 4][WARP_TOKENS];
    Barrier full[STAGES];
    Barrier empty[STAGES];
};
static_assert(sizeof(Stage) % TILE_ALIGNMENT == 0);
static_assert(sizeof(Shared) + TILE_ALIGNMENT <= 227 * 1024);

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

// Tiles in the order they are taken: a cluster's blocks at neighbouring tokens,
// clusters at one time at all tokens of few experts.
struct Tiles {
    int token_clusters; // clusters side by side cover all tokens
    int count;
    int first, step; // of this cluster
    __device__ __forceinline__ explicit Tiles(const fex_dense_scores_args &args)
    {
        const int blocks = static_cast<int>(cluster_size());
        token_clusters = ceil_div(args.num_tokens, TILE_TOKENS * blocks);
        count = token_clusters * ceil_div(args.num_experts, TILE_EXPERTS);
        first = static_cast<int>(blockIdx.x) / blocks;
        step = static_cast<int>(gridDim.x) / blocks;
    }
    __device__ __forceinline__ int token(int tile) const
    {
        const int blocks = static_cast<int>(cluster_size());
        return (tile % token_clusters * blocks +
                static_cast<int>(cluster_rank())) *
               TILE_TOKENS;
    }
    __device__ __forceinline__ int expert(int tile) const
    {
        return tile / token_clusters * TILE_EXPERTS;
    }
};

// ---- Load

__device__ __forceinline__ void copy_tiles(const fex_dense_scores_args &args,
                                           Shared &shared)
{
    const Tiles tiles(args);
    const int blocks = static_cast<int>(cluster_size());
    const int part = TILE_EXPERTS / blocks;
    const int own = static_cast<int>(cluster_rank()) * part;
    const auto all = static_cast<unsigned short>((1 << blocks) - 1);
    Ring ring;
    for (int tile = tiles.first; tile < tiles.count; tile += tiles.step)
        for (int step = 0; step < STEPS; ++step, ring.next()) {
            Stage &stage = shared.stages[ring.stage];
            Barrier *const full = &shared.full[ring.stage];
            barrier_wait(&shared.empty[ring.stage], ring.parity ^ 1);
            barrier_expect(full, sizeof(Stage));
            copy_tile(&args.hidden_map, stage.hidden, full, step * DEPTH,
                      tiles.token(tile));
            copy_tile(&args.down_map, stage.down[own], full, step * DEPTH,
                      tiles.expert(tile) + own, all);
        }
}

// ---- Compute

using Sums = float[TILE_EXPERTS / 2];

__device__ __forceinline__ void release(Shared &shared, int stage)
{
    if (threadIdx.x % 128 < cluster_size())
        barrier_arrive_at(&shared.empty[stage], threadIdx.x % 128);
}

// A route of the warp's 16 tokens to one of the tile's experts. The position
// counts from the first token's first route; -1: there is none.
struct Pick {
    fex_route route;
    int position;
};

// Lane's route i of 32 at a time.
__device__ __forceinline__ Pick load_pick(const fex_dense_scores_args &args,
                                          const Segments &segments,
                                          fex_i64 token, int i)
{
    Pick pick = {{0, 0.0f}, segments.locate(i * 32 + threadIdx.x % 32)};
    if (pick.position >= 0)
        pick.route = load_route(args.routes + token * TOP_K + pick.position);
    return pick;
}

// Multiplies a tile. Routes are read meanwhile.
__device__ __forceinline__ void
multiply(const fex_dense_scores_args &args, Shared &shared, Ring &ring,
         Sums &sums, Segments &segments, Pick (&picks)[PICKS], fex_i64 token)
{
    const int group = threadIdx.x / 128;
    int released = 0;
#pragma unroll 1
    for (int step = 0; step < STEPS; ++step, ring.next()) {
        const Stage &stage = shared.stages[ring.stage];
        barrier_wait(&shared.full[ring.stage], ring.parity);
        product_begin();
#pragma unroll
        for (int k = 0; k < DEPTH; k += PRODUCT_DEPTH)
            product<DTYPE>(
                sums,
                tile_descriptor(stage.hidden[group * GROUP_TOKENS],
                                k * sizeof(Element)),
                tile_descriptor(stage.down, k * sizeof(Element)),
                step > 0 || k > 0);
        product_commit();
        if (step > 0) {
            product_wait<1>();
            release(shared, released);
        }
        released = ring.stage;
        if (step == STEPS / 2) {
            segments.number<TOP_K>();
#pragma unroll
            for (int i = 0; i < PICKS; ++i)
                picks[i] = load_pick(args, segments, token, i);
        }
    }
    product_wait<0>();
    release(shared, released);
}

// ---- Store

// A block of experts' sums, to where every lane reads them. Rows are shifted
// against each other so that stores meet different banks.
__device__ __forceinline__ void stage_piece(Piece &piece, const Sums &sums,
                                            int block)
{
    const int row = threadIdx.x % 32 / 4;
    const int column = threadIdx.x % 4 * 2;
    __syncwarp();
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        const float *const s = &sums[block * 32 + j * 4];
        const int shifted = (j * 8 + column) ^ row % 4 * 8;
        *reinterpret_cast<float2 *>(&piece[row][shifted]) =
            make_float2(s[0], s[1]);
        *reinterpret_cast<float2 *>(&piece[row + 8][shifted]) =
            make_float2(s[2], s[3]);
    }
    __syncwarp();
}

__device__ __forceinline__ void store_pick(const fex_dense_scores_args &args,
                                           const Piece &piece,
                                           unsigned (&largest)[WARP_TOKENS],
                                           const Pick &pick, fex_i64 token,
                                           int block)
{
    const int expert =
        static_cast<int>(pick.route.place >> FEX_ROUTE_SLOT_BITS);
    if (pick.position < 0 ||
        expert % TILE_EXPERTS / FEX_ROUTE_BLOCK != block)
        return;
    const int row = pick.position / TOP_K;
    const float score = piece[row][expert % FEX_ROUTE_BLOCK ^ row % 4 * 8];
    const float weight = pick.route.weight * silu(score);
    args.routes[token * TOP_K + pick.position].weight = weight;
    if (args.scores != nullptr)
        args.scores[(token + row) * args.scores_stride +
                    slot_of(pick.route)] = score;
    atomicMax(&largest[row], __float_as_uint(weight) & 0x7fffffffu);
}

__device__ __forceinline__ void
store_picks(const fex_dense_scores_args &args, Shared &shared, const Sums &sums,
            const Segments &segments, const Pick (&picks)[PICKS], fex_i64 token)
{
    const int warp = threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    unsigned(&largest)[WARP_TOKENS] = shared.largest[warp];
    if (lane < WARP_TOKENS)
        largest[lane] = 0;
#pragma unroll
    for (int block = 0; block < PIECES; ++block) {
        stage_piece(shared.pieces[warp], sums, block);
#pragma unroll
        for (int i = 0; i < PICKS; ++i)
            store_pick(args, shared.pieces[warp], largest, picks[i], token,
                       block);
        for (int i = PICKS; i * 32 < segments.total; ++i)
            store_pick(args, shared.pieces[warp], largest,
                       load_pick(args, segments, token, i), token, block);
    }
    __syncwarp();
    if (lane < WARP_TOKENS && largest[lane] != 0)
        atomicMax(&args.largest[token + lane], largest[lane]);
}

__device__ __forceinline__ void compute_tiles(const fex_dense_scores_args &args,
                                              Shared &shared)
{
    const Tiles tiles(args);
    Ring ring;
    Sums sums;
    Pick picks[PICKS];
    for (int tile = tiles.first; tile < tiles.count; tile += tiles.step) {
        const int token =
            tiles.token(tile) + static_cast<int>(threadIdx.x) / 32 * WARP_TOKENS;
        const int block = tiles.expert(tile) / FEX_ROUTE_BLOCK;
        const int blocks = ceil_div(args.num_experts, FEX_ROUTE_BLOCK);
        Segments segments(args.starts, args.num_tokens, token, WARP_TOKENS,
                          block, min_of(block + PIECES, blocks));
        multiply(args, shared, ring, sums, segments, picks, token);
        store_picks(args, shared, sums, segments, picks, token);
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
            barrier_init(&shared.empty[i], GROUPS * cluster_size());
        }
        barrier_init_fence();
    }
    cluster_sync();
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
    // Neighbours arrive at this block's barriers until they are done.
    cluster_sync();
}
