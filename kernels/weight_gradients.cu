// SPDX-License-Identifier: Apache-2.0
// weight_gradients.cu - the gradients of both tables:
//
//     grad_down[e] = sum over pairs (t, k) of e of  ds[t,k]      hidden_states[t]
//     grad_up[e]   = sum over pairs (t, k) of e of  g silu(s)    grad_output[t]
//
// from the pairs sorted by expert. A group of lanes owns one expert and one
// chunk of columns: it walks the expert's pairs in order, keeps both sums in
// registers and writes each row once, zeros included.
//
// An expert with more than args.chunk pairs is too much for one group. The
// sorted list is cut into chunks of that length; fex_weight_partials sums every
// piece of such an expert that lies in one chunk, and the owner adds the pieces
// up in order. A chunk meets at most two such experts: one that covers its first
// position, and one that begins inside and then reaches its end.
#include "arguments.h"
#include "element.cuh"
#include "warp.cuh"

// ---- Constants: from the prelude DTYPE, WEIGHT_GRAD_DTYPE, HIDDEN_SIZE,
// VECTOR_BYTES, GROUP (lanes that read one row), THREADS, MIN_BLOCKS,
// VECTORS, UNROLL

using Element = Dtype<DTYPE>::Storage;
using Gradient = Dtype<WEIGHT_GRAD_DTYPE>::Storage;
constexpr int ELEMENT_BYTES = sizeof(Element);
constexpr int GRADIENT_BYTES = sizeof(Gradient);
constexpr int WIDTH = VECTOR_BYTES / ELEMENT_BYTES; // elements in a vector
constexpr int STEP = GROUP * WIDTH;     // columns of one vector a lane
constexpr int COLUMNS = STEP * VECTORS; // of a chunk
constexpr int GROUPS = THREADS / GROUP; // experts of a block
constexpr int IN_FLIGHT = min_of(UNROLL, GROUP); // pairs

// A vector of elements is written as gradients in pieces that are as aligned.
constexpr int PIECE_BYTES =
    max_of(GRADIENT_BYTES, min_of(VECTOR_BYTES, WIDTH * GRADIENT_BYTES));
constexpr int PIECE = PIECE_BYTES / GRADIENT_BYTES;

static_assert(HIDDEN_SIZE >= 1);
static_assert(GROUP >= 1 && GROUP <= 32 && (GROUP & (GROUP - 1)) == 0);
static_assert(HIDDEN_SIZE % WIDTH == 0, "a vector must not straddle a row's end");
static_assert(WIDTH % PIECE == 0);
static_assert(THREADS % 32 == 0);
static_assert(GROUP % IN_FLIGHT == 0);

struct Sums {
    float down[VECTORS][WIDTH];
    float up[VECTORS][WIDTH];
};

// Where a group stands: its first column, and what the guard needs.
__device__ __forceinline__ int first_column()
{
    return static_cast<int>(blockIdx.y) * COLUMNS +
           static_cast<int>(threadIdx.x % GROUP) * WIDTH;
}

// ---- Compute

__device__ __forceinline__ void add_row(float (&sums)[VECTORS][WIDTH],
                                        const Vector<VECTOR_BYTES> (&row)[VECTORS],
                                        float weight)
{
#pragma unroll
    for (int v = 0; v < VECTORS; ++v)
#pragma unroll
        for (int i = 0; i < WIDTH; ++i)
            sums[v][i] = fmaf(weight, widen<DTYPE>(row[v], i), sums[v][i]);
}

__device__ __forceinline__ void add_sums(Sums &sums, const Sums &more)
{
#pragma unroll
    for (int v = 0; v < VECTORS; ++v)
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            sums.down[v][i] += more.down[v][i];
            sums.up[v][i] += more.up[v][i];
        }
}

__device__ __forceinline__ void load_row(Vector<VECTOR_BYTES> (&row)[VECTORS],
                                         const void *rows, fex_i64 stride,
                                         fex_i64 token, int column, bool wanted)
{
    const L2Policy policy = l2_keep();
#pragma unroll
    for (int v = 0; v < VECTORS; ++v) {
        row[v] = zero_vector<VECTOR_BYTES>();
        if (wanted && column + v * STEP < HIDDEN_SIZE)
            row[v] = load_vector<VECTOR_BYTES>(
                static_cast<const Element *>(rows) + token * stride + column +
                    v * STEP,
                policy);
    }
}

// Adds positions [first, end) of the sorted list to the sums of this group. The
// lanes of a group read what GROUP pairs need at once and then hand it round.
// All groups of a warp go through as many steps as the longest.
__device__ __forceinline__ void
add_pairs(const fex_weight_gradients_args &args, Sums &sums, unsigned first,
          unsigned end, int column)
{
    const bool down = args.grad_down_weights != nullptr;
    const bool up = args.grad_up_weights != nullptr;
    const unsigned lane = threadIdx.x % GROUP;
    Sums step = {};
    for (unsigned base = first; __any_sync(FULL_WARP, base < end);
         base += GROUP) {
        unsigned own_token = 0;
        float2 own_weights = {0.0f, 0.0f};
        if (base + lane < end) {
            own_token = __ldcs(args.tokens + base + lane);
            own_weights = __ldcs(
                reinterpret_cast<const float2 *>(args.weights) + base + lane);
        }
        for (int j = 0; j < GROUP && __any_sync(FULL_WARP, base + j < end);
             j += IN_FLIGHT) {
            Vector<VECTOR_BYTES> hidden[IN_FLIGHT][VECTORS];
            Vector<VECTOR_BYTES> output[IN_FLIGHT][VECTORS];
#pragma unroll
            for (int u = 0; u < IN_FLIGHT; ++u) {
                const fex_i64 token =
                    __shfl_sync(FULL_WARP, own_token, j + u, GROUP);
                const bool valid = base + j + u < end;
                load_row(hidden[u], args.hidden_states,
                         args.hidden_states_stride, token, column,
                         valid && down);
                load_row(output[u], args.grad_output, args.grad_output_stride,
                         token, column, valid && up);
            }
#pragma unroll
            for (int u = 0; u < IN_FLIGHT; ++u) {
                add_row(step.down, hidden[u],
                        __shfl_sync(FULL_WARP, own_weights.x, j + u, GROUP));
                add_row(step.up, output[u],
                        __shfl_sync(FULL_WARP, own_weights.y, j + u, GROUP));
            }
        }
        // Every 32 pairs, so that no chain of additions gets long.
        if ((base - first + GROUP) % 32 == 0) {
            add_sums(sums, step);
            step = {};
        }
    }
    add_sums(sums, step);
}

// ---- Partial sums of experts with many pairs

struct Range {
    unsigned first, end;
};

__device__ __forceinline__ Range
segment_of(const fex_weight_gradients_args &args, fex_i64 expert)
{
    return {args.segments[2 * expert], args.segments[2 * expert + 1]};
}

__device__ __forceinline__ bool is_large(const fex_weight_gradients_args &args,
                                         Range segment)
{
    return segment.end - segment.first > args.chunk;
}

// Slot 2 c of the partials belongs to the expert that covers the first position
// of chunk c, slot 2 c + 1 to one that begins inside; each is [2][HIDDEN_SIZE].
__device__ __forceinline__ float *slot_at(const fex_weight_gradients_args &args,
                                          fex_i64 slot)
{
    return args.partials + slot * 2 * static_cast<fex_i64>(HIDDEN_SIZE);
}

// The positions that are summed into a slot; none if it is not used.
__device__ __forceinline__ Range piece_of(const fex_weight_gradients_args &args,
                                          fex_i64 slot)
{
    const fex_i64 chunk_first = slot / 2 * args.chunk;
    const bool inside = slot % 2 != 0;
    if (chunk_first >= args.pairs)
        return {0, 0};
    const fex_i64 rest = args.pairs - chunk_first;
    const unsigned first = static_cast<unsigned>(chunk_first);
    const unsigned end =
        first + static_cast<unsigned>(rest < args.chunk ? rest : args.chunk);
    const unsigned expert = args.sorted_keys[inside ? end - 1 : first];
    if (expert >= args.num_experts)
        return {0, 0};
    const Range segment = segment_of(args, expert);
    if (!is_large(args, segment) || inside != (segment.first > first))
        return {0, 0};
    return {inside ? segment.first : first,
            segment.end < end ? segment.end : end};
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    fex_weight_partials(const __grid_constant__ fex_weight_gradients_args args)
{
    const fex_i64 slot =
        static_cast<fex_i64>(blockIdx.x) * GROUPS + threadIdx.x / GROUP;
    const Range piece = piece_of(args, slot);
    const int column = first_column();
    Sums sums = {};
    add_pairs(args, sums, piece.first, piece.end, column);
    if (piece.end == piece.first)
        return;

    float *const partial = slot_at(args, slot);
#pragma unroll
    for (int v = 0; v < VECTORS; ++v)
#pragma unroll
        for (int i = 0; i < WIDTH; ++i)
            if (column + v * STEP < HIDDEN_SIZE) {
                partial[column + v * STEP + i] = sums.down[v][i];
                partial[HIDDEN_SIZE + column + v * STEP + i] = sums.up[v][i];
            }
}

// Adds up the pieces of a large expert: one inside the chunk it begins in,
// unless it begins with the chunk, then one in each that follows.
__device__ __forceinline__ void
add_partials(const fex_weight_gradients_args &args, Sums &sums, Range segment,
             int column)
{
    const fex_i64 last = (segment.end - 1) / args.chunk;
    for (fex_i64 chunk = segment.first / args.chunk; chunk <= last; ++chunk) {
        const bool inside = segment.first > chunk * args.chunk;
        const float *const partial =
            slot_at(args, 2 * chunk + (inside ? 1 : 0));
#pragma unroll
        for (int v = 0; v < VECTORS; ++v)
#pragma unroll
            for (int i = 0; i < WIDTH; ++i)
                if (column + v * STEP < HIDDEN_SIZE) {
                    sums.down[v][i] += partial[column + v * STEP + i];
                    sums.up[v][i] +=
                        partial[HIDDEN_SIZE + column + v * STEP + i];
                }
    }
}

// ---- Store

__device__ __forceinline__ void store_row(void *gradient, fex_i64 stride,
                                          fex_i64 expert, int column,
                                          const float (&sums)[VECTORS][WIDTH],
                                          bool accumulate)
{
#pragma unroll
    for (int v = 0; v < VECTORS; ++v) {
        if (column + v * STEP >= HIDDEN_SIZE)
            continue;
        Gradient *const address = static_cast<Gradient *>(gradient) +
                                  expert * stride + column + v * STEP;
#pragma unroll
        for (int i = 0; i < WIDTH; i += PIECE) {
            float values[PIECE];
#pragma unroll
            for (int j = 0; j < PIECE; ++j) {
                values[j] = sums[v][i + j];
                if (accumulate)
                    values[j] += Dtype<WEIGHT_GRAD_DTYPE>::widen(address[i + j]);
            }
            store_vector(address + i, narrow<WEIGHT_GRAD_DTYPE, PIECE>(values));
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
    fex_weight_gradients(const __grid_constant__ fex_weight_gradients_args args)
{
    const fex_i64 expert =
        static_cast<fex_i64>(blockIdx.x) * GROUPS + threadIdx.x / GROUP;
    const bool exists = expert < args.num_experts;
    const Range segment = exists ? segment_of(args, expert) : Range{0, 0};
    const bool large = is_large(args, segment);
    const int column = first_column();

    Sums sums = {};
    add_pairs(args, sums, segment.first, large ? segment.first : segment.end,
              column);
    if (large)
        add_partials(args, sums, segment, column);

    if (!exists)
        return;
    const bool chosen = segment.end > segment.first;
    if (args.grad_down_weights != nullptr && (chosen || !args.accumulate_down))
        store_row(args.grad_down_weights, args.grad_down_weights_stride, expert,
                  column, sums.down, args.accumulate_down != 0);
    if (args.grad_up_weights != nullptr && (chosen || !args.accumulate_up))
        store_row(args.grad_up_weights, args.grad_up_weights_stride, expert,
                  column, sums.up, args.accumulate_up != 0);
}
