// SPDX-License-Identifier: Apache-2.0
// matrix_scores.cu - the first half of a forward pass by whole matrices, on
// sm_90a:
//
//     P[t,e] = sum over slots k with i[t,k] = e of g[t,k] silu(s),  s = x[t] . D[e]
//
// A block multiplies a tile of tokens by one of experts. Meanwhile some of its
// warps list what these tokens have chosen of these experts. Then every warp
// takes the scores of some tokens' choices out of the tile, and writes these
// tokens' rows of P, zeros where nothing was chosen. So that f16 may be
// multiplied next, U is rounded to it, which is exact but for what is very small
// or too large.
#include "arguments.h"
#include "choices.cuh"
#include "element.cuh"
#include "hopper.cuh"
#include "matrix_list.cuh"
#include "matrix_tile.cuh"
#include "routes.cuh"
#include "warp.cuh"

// ---- Constants: from the prelude DTYPE, ROUTING_DTYPE, INDEX_TYPE,
// HIDDEN_SIZE, TOP_K, THREADS, STAGES, LIST_MAX, SHARED_BYTES

constexpr int STEPS = ceil_div(HIDDEN_SIZE, DEPTH);
constexpr int UNITS = TILE_TOKENS / UNIT_TOKENS;
constexpr int WARPS = THREADS / 32;
constexpr int WIDTH = 8; // elements of a vector

constexpr int COMPUTE_REGISTERS = 160;
constexpr int AIDE_REGISTERS = 96;

static_assert(COMPUTE_WARPS * COMPUTE_REGISTERS +
                  (WARPS - COMPUTE_WARPS) * AIDE_REGISTERS <=
              65536 / 32);
static_assert(DTYPE == FEX_KERNEL_BF16 || DTYPE == FEX_KERNEL_F16);
static_assert(HIDDEN_SIZE % 8 == 0, "the copy engine takes rows of 16 bytes");
static_assert(TILE_ACROSS == UNIT_EXPERTS);

// ---- Shared memory

struct Shared {
    Tile tile;
    List lists[UNITS];
    Seen seen[AIDE_WARPS];
    unsigned largest[TILE_TOKENS]; // bits of |P|
    Barrier met;
};
static_assert(sizeof(Shared) + TILE_ALIGNMENT <= SHARED_BYTES);

// Where all warps of the block meet, which are at different places in the code:
// __syncthreads is not made for that.
struct Meeting {
    Barrier *barrier;
    unsigned parity = 0;

    __device__ __forceinline__ void block()
    {
        __syncwarp();
        arrive(*barrier);
        barrier_wait(barrier, parity);
        parity ^= 1;
    }
    __device__ __forceinline__ void cluster(const Share &share)
    {
        if (share.size == 1)
            block();
        else
            share.meet();
    }
};

// The tile at hand.
struct Task {
    int token, expert; // its first

    __device__ __forceinline__ Task(const fex_matrix_scores_args &args,
                                    int tile)
    {
        const int token_tiles =
            ceil_div(static_cast<int>(args.choices.num_tokens), TILE_TOKENS);
        token = tile % token_tiles * TILE_TOKENS;
        expert = tile / token_tiles * TILE_ACROSS;
    }
    __device__ __forceinline__ Field of_unit(int unit) const
    {
        return {token + unit * UNIT_TOKENS, expert};
    }
};

// ---- Load

__device__ __forceinline__ void copy_stages(const fex_matrix_scores_args &args,
                                            Tile &tile, Ring<STAGES> &ring,
                                            const Share &share,
                                            const Task &task)
{
    for (int i = share.first_stage(STEPS); i < share.end_stage(STEPS);
         ++i, ring.next()) {
        Stage &stage = tile.stages[ring.stage];
        Barrier *const full = &tile.full[ring.stage];
        const int column = i * DEPTH;
        barrier_wait(&tile.empty[ring.stage], ring.parity ^ 1);
        barrier_expect(full, sizeof(Stage));
        copy_tile(&args.hidden_map, stage.tokens, full, column, task.token);
        copy_tile(&args.down_map, stage.across, full, column, task.expert);
    }
}

// Lists of this block's units, a warp every so many-th: of their first rows, or
// of those that the lists before had no room for. One that has had its last
// begins behind its rows. What the next list begins with comes meanwhile.
__device__ __forceinline__ void make_lists(const fex_matrix_scores_args &args,
                                           Shared &shared, const Share &share,
                                           const Task &task, bool anew)
{
    const int aide = static_cast<int>(threadIdx.x) / 32 - COMPUTE_WARPS;
    const int units = share.rows() / UNIT_TOKENS;
    const int first_unit = share.first_row() / UNIT_TOKENS;
    Batch batch;
#pragma unroll 1
    for (int unit = aide - AIDE_WARPS; unit < units; unit += AIDE_WARPS) {
        if (unit >= 0) {
            List &list = shared.lists[unit];
            list_choices(args, list, shared.seen[aide],
                         task.of_unit(first_unit + unit), batch,
                         anew ? 0 : list.end);
        }
        const int next = unit + AIDE_WARPS;
        if (next < units) {
            const Field field = task.of_unit(first_unit + next);
            const int first = anew ? 0 : shared.lists[next].end;
            batch.load(args, field.token + first,
                       rows_from(args, field, first) * FOURS, 0);
        }
        if (unit >= 0)
            merge_repeats(shared.lists[unit], shared.seen[aide]);
    }
}

// This warp's rows of U, a lane 8 columns of a tile of states, to f16.
__device__ __forceinline__ void convert_up(const fex_matrix_scores_args &args)
{
    constexpr int AT_ONCE = 4;
    const int lane = threadIdx.x % 32;
    const int experts = static_cast<int>(args.choices.num_experts);
    const int workers = static_cast<int>(gridDim.x) * AIDE_WARPS;
    const int own = static_cast<int>(blockIdx.x) * AIDE_WARPS +
                    static_cast<int>(threadIdx.x) / 32 - COMPUTE_WARPS;
    for (int tile = 0; tile < ceil_div(HIDDEN_SIZE, TILE_ACROSS); ++tile) {
        const int column = tile * TILE_ACROSS + lane * WIDTH;
        const int end = column < HIDDEN_SIZE ? experts : 0;
        unsigned largest = 0;
        for (int row = own; row < end; row += workers * AT_ONCE) {
            Vector<WIDTH * 2> up[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i)
                up[i] = load_vector<WIDTH * 2>(
                    static_cast<const Half *>(args.up_weights) +
                        min_of(row + i * workers, end - 1) *
                            args.up_weights_stride +
                        column,
                    l2_stream());
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i) {
                for (unsigned &word : up[i].words) {
                    largest = max_magnitudes<DTYPE>(largest, word);
                    word = times_halves(word, ROW_SCALE_PAIR);
                }
                const uint4 halves = make_uint4(up[i].words[0], up[i].words[1],
                                                up[i].words[2], up[i].words[3]);
                if (row + i * workers < end)
                    *reinterpret_cast<uint4 *>(
                        args.halves +
                        static_cast<fex_i64>(row + i * workers) * HIDDEN_SIZE +
                        column) = halves;
            }
        }
        largest = max_of_warp(largest);
        if (lane == 0)
            args.up_largest[tile * workers + own] = largest;
    }
}

// ---- Store

// A part of every list, so that all warps have some.
constexpr int LIST_PARTS = 4;

template <typename Function>
__device__ __forceinline__ void for_choices(Shared &shared, const Share &share,
                                            const Function &function)
{
    const int parts = share.rows() / UNIT_TOKENS * LIST_PARTS;
    for (int part = static_cast<int>(threadIdx.x) / 32; part < parts;
         part += WARPS) {
        const int unit = part / LIST_PARTS;
        List &list = shared.lists[unit];
        for (int i =
                 part % LIST_PARTS * 32 + static_cast<int>(threadIdx.x % 32);
             i < list.count; i += LIST_PARTS * 32)
            function(list.choices[i],
                     unit * UNIT_TOKENS + row_of(list.choices[i]));
    }
}

// Scores of all that is listed. Their weights become what P has.
__device__ __forceinline__ void take_scores(const fex_matrix_scores_args &args,
                                            Shared &shared, const Share &share,
                                            const Task &task)
{
    for_choices(shared, share, [&](Choice &choice, int row) {
        const fex_i64 token = task.token + share.first_row() + row;
        const float score = sum_of<float>(
            shared.tile, share, share.first_row() + row, column_of(choice));
        args.scores[token * args.scores_stride + slot_of(choice)] = score;
        if (is_repeat(choice))
            return;
        choice.weight *= silu(score) * WEIGHT_SCALE;
        atomicMax(&shared.largest[row],
                  __float_as_uint(choice.weight) & 0x7fffffffu);
    });
}

// A row of P, its parts one after the other, where its sums were.
__device__ __forceinline__ Half *weights_row(Shared &shared, const Share &share,
                                             int row)
{
    return reinterpret_cast<Half *>(shared.tile.sums[share.first_row() + row]);
}

__device__ __forceinline__ void set_weights(Shared &shared, const Share &share)
{
    for_choices(shared, share, [&](const Choice &choice, int row) {
        if (is_repeat(choice))
            return;
        Half *const weights =
            weights_row(shared, share, row) + column_of(choice);
        const Half high = float_to_half(choice.weight);
        weights[0] = high;
        if (WEIGHT_PARTS == 2)
            weights[TILE_ACROSS] =
                float_to_half(choice.weight - half_to_float(high));
    });
}

// Rows that are listed, each by a warp.
template <typename Function>
__device__ __forceinline__ void
for_rows(const Shared &shared, const Share &share, const Function &function)
{
    for (int row = static_cast<int>(threadIdx.x) / 32; row < share.rows();
         row += WARPS) {
        const List &list = shared.lists[row / UNIT_TOKENS];
        if (row % UNIT_TOKENS >= list.first && row % UNIT_TOKENS < list.end)
            function(row);
    }
}

__device__ __forceinline__ void clear_rows(Shared &shared, const Share &share)
{
    for_rows(shared, share, [&](int row) {
        auto *const vectors =
            reinterpret_cast<uint4 *>(weights_row(shared, share, row));
#pragma unroll
        for (int part = 0; part < WEIGHT_PARTS; ++part)
            vectors[part * 32 + threadIdx.x % 32] = make_uint4(0, 0, 0, 0);
    });
}

__device__ __forceinline__ void store_rows(const fex_matrix_scores_args &args,
                                           Shared &shared, const Share &share,
                                           const Task &task)
{
    static_assert(TILE_ACROSS == 32 * WIDTH, "a part of a row takes a warp");
    const int lane = threadIdx.x % 32;
    const int column = task.expert + lane * WIDTH;
    const fex_i64 tokens = args.choices.num_tokens;
    for_rows(shared, share, [&](int row) {
        const auto *const vectors =
            reinterpret_cast<const uint4 *>(weights_row(shared, share, row));
        const fex_i64 token = task.token + share.first_row() + row;
        if (token < tokens && column < args.weights_stride)
#pragma unroll
            for (int part = 0; part < WEIGHT_PARTS; ++part)
                *reinterpret_cast<uint4 *>(
                    args.weights +
                    (part * tokens + token) * args.weights_stride + column) =
                    vectors[part * 32 + lane];
    });
}

__device__ __forceinline__ void
store_largest(const fex_matrix_scores_args &args, const Shared &shared,
              const Share &share, const Task &task)
{
    const int row = threadIdx.x;
    const fex_i64 tokens = args.choices.num_tokens;
    const fex_i64 token = task.token + share.first_row() + row;
    if (row < share.rows() && token < tokens)
        args.largest[task.expert / TILE_ACROSS * tokens + token] =
            __uint_as_float(shared.largest[row]);
}

// Whether lists had no room for some rows.
__device__ __forceinline__ bool has_rest(const Shared &shared,
                                         const Share &share)
{
    const int unit = threadIdx.x % 32;
    return __any_sync(FULL_WARP, unit < share.rows() / UNIT_TOKENS &&
                                     shared.lists[unit].end < UNIT_TOKENS);
}

// What is listed.
__device__ __forceinline__ void store_listed(const fex_matrix_scores_args &args,
                                             Shared &shared, const Share &share,
                                             const Task &task, Meeting &meeting)
{
    take_scores(args, shared, share, task);
    meeting.block();
    clear_rows(shared, share);
    meeting.block();
    set_weights(shared, share);
    meeting.block();
    store_rows(args, shared, share, task);
}

// Warps that multiply go through the tiles by themselves, meeting the others: so
// the registers of sums are theirs only. `work` is done anew for
// every tile, and then as often as there was no room in lists.
template <typename Work>
__device__ __forceinline__ void for_tiles(const fex_matrix_scores_args &args,
                                          Shared &shared, const Share &share,
                                          const Work &work)
{
    const int tiles =
        ceil_div(static_cast<int>(args.choices.num_tokens), TILE_TOKENS) *
        ceil_div(static_cast<int>(args.choices.num_experts), TILE_ACROSS);
    const int stride = static_cast<int>(gridDim.x) >> share.bits;
    Meeting meeting = {&shared.met};
#pragma unroll 1
    for (int tile = static_cast<int>(blockIdx.x) >> share.bits; tile < tiles;
         tile += stride) {
        const Task task(args, tile);
        for (bool anew = true;; anew = false) {
            work(task, anew);
            if (anew)
                meeting.cluster(share);
            else
                meeting.block();
            store_listed(args, shared, share, task, meeting);
            if (!has_rest(shared, share))
                break;
            meeting.block(); // all know that there is more
        }
        store_largest(args, shared, share, task);
        // Copies come next, over what others may still read.
        publish_shared();
        meeting.cluster(share);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    fex_matrix_scores(const __grid_constant__ fex_matrix_scores_args args)
{
    extern __shared__ unsigned char memory[];
    Shared &shared = *reinterpret_cast<Shared *>(align_tile(memory));
    const Share share;
    const int warp = threadIdx.x / 32;
    Ring<STAGES> ring;

    if (threadIdx.x == 0)
        barrier_init(&shared.met, WARPS);
    prepare_tile(shared.tile);
    launch_dependents();
    if (warp < COMPUTE_WARPS) {
        registers_take<COMPUTE_REGISTERS>();
        unsigned parity = 0;
        for_tiles(args, shared, share, [&](const Task &, bool anew) {
            if (!anew)
                return;
            Sums sums;
            if (threadIdx.x < TILE_TOKENS)
                shared.largest[threadIdx.x] = 0;
            multiply<false>(shared.tile, ring, sums,
                            share.end_stage(STEPS) - share.first_stage(STEPS));
            put_sums(shared.tile, sums, parity);
            parity ^= 1;
        });
    } else {
        registers_drop<AIDE_REGISTERS>();
        bool converts = DTYPE == FEX_KERNEL_BF16 && args.halves != nullptr;
        for_tiles(args, shared, share, [&](const Task &task, bool anew) {
            if (warp < COPY_WARP) {
                make_lists(args, shared, share, task, anew);
                if (converts)
                    convert_up(args);
                converts = false;
            } else if (anew && threadIdx.x == COPY_WARP * 32) {
                copy_stages(args, shared.tile, ring, share, task);
            }
        });
    }
}
