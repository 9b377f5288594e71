// SPDX-License-Identifier: Apache-2.0
// weight_gradients.cu - the gradients of both tables:
//
//     grad_down[e] = sum over pairs of e of grad_scores[pair]  hidden_states[t]
//     grad_up[e]   = sum over pairs of e of coefficients[pair] grad_output[t]
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

// ---- Constants: from the prelude DTYPE, WEIGHT_GRAD_DTYPE, HIDDEN_SIZE,
// TOP_K, VECTOR_BYTES, GROUP (lanes that read one row), THREADS, VECTORS, UNROLL

using Element = Dtype<DTYPE>::Storage;
using Gradient = Dtype<WEIGHT_GRAD_DTYPE>::Storage;
constexpr int ELEMENT_BYTES = sizeof(Element);
constexpr int GRADIENT_BYTES = sizeof(Gradient);
constexpr int WIDTH = VECTOR_BYTES / ELEMENT_BYTES; // elements in a vector
constexpr int STEP = GROUP * WIDTH;     // columns of one vector a lane
constexpr int COLUMNS = STEP * VECTORS; // of a chunk of columns
constexpr int GROUPS = THREADS / GROUP; // experts of a block

// A vector of elements is written as gradients in pieces that are as aligned.
constexpr int PIECE_BYTES =
    max_of(GRADIENT_BYTES, min_of(VECTOR_BYTES, WIDTH * GRADIENT_BYTES));
constexpr int PIECE = PIECE_BYTES / GRADIENT_BYTES;

static_assert(HIDDEN_SIZE >= 1 && TOP_K >= 1);
static_assert(GROUP >= 1 && GROUP <= 32 && (GROUP & (GROUP - 1)) == 0);
static_assert(HIDDEN_SIZE % WIDTH == 0, "a vector must not straddle a row's end");
static_assert(WIDTH % PIECE == 0);
static_assert(THREADS % 32 == 0);

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

__device__ __forceinline__ void load_row(Vector<VECTOR_BYTES> (&row)[VECTORS],
                                         const void *rows, fex_i64 stride,
                                         fex_i64 token, int column, bool wanted)
{
#pragma unroll
    for (int v = 0; v < VECTORS; ++v) {
        row[v] = zero_vector<VECTOR_BYTES>();
        if (wanted && column + v * STEP < HIDDEN_SIZE)
            row[v] = load_streaming<VECTOR_BYTES>(
                static_cast<const Element *>(rows) + token * stride + column +
                v * STEP);
    }
}

// Adds positions [position, end) of the sorted list, UNROLL pairs in flight.
__device__ __forceinline__ void
add_pairs(const fex_weight_gradients_args &args, Sums &sums, unsigned position,
          unsigned end, int column)
{
    const bool down = args.grad_down_weights != nullptr;
    const bool up = args.grad_up_weights != nullptr;
    for (; position < end; position += UNROLL) {
        Vector<VECTOR_BYTES> hidden[UNROLL][VECTORS];
        Vector<VECTOR_BYTES> output[UNROLL][VECTORS];
        float down_weights[UNROLL];
        float up_weights[UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
            const bool valid = position + u < end;
            const unsigned pair = valid ? args.sorted_pairs[position + u] : 0;
            const fex_i64 token = pair / TOP_K;
            down_weights[u] = valid && down ? args.grad_scores[pair] : 0.0f;
            up_weights[u] = valid && up ? args.coefficients[pair] : 0.0f;
            load_row(hidden[u], args.hidden_states, args.hidden_states_stride,
                     token, column, valid && down);
            load_row(output[u], args.grad_output, args.grad_output_stride,
                     token, column, valid && up);
        }
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
            add_row(sums.down, hidden[u], down_weights[u]);
            add_row(sums.up, output[u], up_weights[u]);
        }
    }
}

// ---- Partial sums of experts with many pairs

// Slot 2 c of the partials belongs to the expert that covers the first position
// of chunk c, slot 2 c + 1 to one that begins inside; each is [2][HIDDEN_SIZE].
__device__ __forceinline__ float *slot_of(const fex_weight_gradients_args &args,
                                          fex_i64 chunk, bool inside)
{
    return args.partials +
           (2 * chunk + (inside ? 1 : 0)) * 2 * static_cast<fex_i64>(HIDDEN_SIZE);
}

__device__ __forceinline__ bool is_large(const fex_weight_gradients_args &args,
                                         unsigned first, unsigned end)
{
    return end - first > args.chunk;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    fex_weight_partials(const __grid_constant__ fex_weight_gradients_args args)
{
    const fex_i64 slot =
        static_cast<fex_i64>(blockIdx.x) * GROUPS + threadIdx.x / GROUP;
    const fex_i64 chunk = slot / 2;
    const bool inside = slot % 2 != 0;
    const fex_i64 chunk_first = chunk * args.chunk;
    if (chunk_first >= args.pairs)
        return;
    const fex_i64 chunk_end = chunk_first + args.chunk < args.pairs
                                  ? chunk_first + args.chunk
                                  : args.pairs;
    const unsigned expert =
        args.sorted_keys[inside ? chunk_end - 1 : chunk_first];
    if (expert >= args.num_experts)
        return;
    const unsigned first = args.segments[2 * static_cast<fex_i64>(expert)];
    const unsigned end = args.segments[2 * static_cast<fex_i64>(expert) + 1];
    if (!is_large(args, first, end) || inside != (first > chunk_first))
        return;

    Sums sums = {};
    const int column = first_column();
    add_pairs(args, sums,
              inside ? first : static_cast<unsigned>(chunk_first),
              end < chunk_end ? end : static_cast<unsigned>(chunk_end), column);

    float *const partial = slot_of(args, chunk, inside);
#pragma unroll
    for (int v = 0; v < VECTORS; ++v)
#pragma unroll
        for (int i = 0; i < WIDTH; ++i)
            if (column + v * STEP < HIDDEN_SIZE) {
                partial[column + v * STEP + i] = sums.down[v][i];
                partial[HIDDEN_SIZE + column + v * STEP + i] = sums.up[v][i];
            }
}

__device__ __forceinline__ void
add_partials(const fex_weight_gradients_args &args, Sums &sums, unsigned first,
             unsigned end, int column)
{
    const fex_i64 last = (end - 1) / args.chunk;
    for (fex_i64 chunk = first / args.chunk; chunk <= last; ++chunk) {
        const float *const partial =
            slot_of(args, chunk, first > chunk * args.chunk);
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

extern "C" __global__ void __launch_bounds__(THREADS)
    fex_weight_gradients(const __grid_constant__ fex_weight_gradients_args args)
{
    const fex_i64 expert =
        static_cast<fex_i64>(blockIdx.x) * GROUPS + threadIdx.x / GROUP;
    if (expert >= args.num_experts)
        return;
    const unsigned first = args.segments[2 * expert];
    const unsigned end = args.segments[2 * expert + 1];
    const int column = first_column();

    Sums sums = {};
    if (is_large(args, first, end))
        add_partials(args, sums, first, end, column);
    else
        add_pairs(args, sums, first, end, column);

    const bool chosen = end > first;
    if (args.grad_down_weights != nullptr && (chosen || !args.accumulate_down))
        store_row(args.grad_down_weights, args.grad_down_weights_stride, expert,
                  column, sums.down, args.accumulate_down != 0);
    if (args.grad_up_weights != nullptr && (chosen || !args.accumulate_up))
        store_row(args.grad_up_weights, args.grad_up_weights_stride, expert,
                  column, sums.up, args.accumulate_up != 0);
}
