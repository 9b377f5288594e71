// SPDX-License-Identifier: Apache-2.0
// gather_roof.cu - what the memory system can do, for `flashexpert bench` to
// compare with: reading rows at random and nothing else, and copying.
//
// A group of lanes reads a row, VECTOR_BYTES a lane, with BATCH rows in flight,
// by the same instructions as the kernels it is compared with. The words are
// combined so that no load can be left out. Rows are taken in the order of
// their list, with no thought for the caches.
#include "arguments.h"
#include "choices.cuh"
#include "element.cuh"

// ---- Constants: from the prelude DTYPE, HIDDEN_SIZE, VECTOR_BYTES, GROUP
// (lanes that read one row), INDEX_TYPE, THREADS

constexpr int ROW_BYTES =
    HIDDEN_SIZE * static_cast<int>(sizeof(Dtype<DTYPE>::Storage));
constexpr int ROW_VECTORS = ROW_BYTES / VECTOR_BYTES;
constexpr int VECTORS = min_of(ceil_div(ROW_VECTORS, GROUP), 4);
constexpr int TILE = GROUP * VECTORS; // vectors of a row in flight
constexpr int BATCH = 16 / VECTORS;   // rows in flight
constexpr int COPY_BATCH = 4;

static_assert(ROW_BYTES >= 1 && ROW_BYTES % VECTOR_BYTES == 0);
static_assert(THREADS % 32 == 0);

// ---- Load

// One tile of BATCH rows; a row that is NULL is not read.
__device__ __forceinline__ unsigned read_tile(const char *const (&rows)[BATCH],
                                              int first)
{
    const L2Policy policy = l2_keep();
    Vector<VECTOR_BYTES> vectors[BATCH][VECTORS];
    unsigned sum = 0;
#pragma unroll
    for (int b = 0; b < BATCH; ++b)
#pragma unroll
        for (int v = 0; v < VECTORS; ++v) {
            const int vector = first + v * GROUP;
            vectors[b][v] = zero_vector<VECTOR_BYTES>();
            if (rows[b] != nullptr && vector < ROW_VECTORS)
                vectors[b][v] = load_vector<VECTOR_BYTES>(
                    rows[b] + vector * VECTOR_BYTES, policy);
        }
#pragma unroll
    for (int b = 0; b < BATCH; ++b)
#pragma unroll
        for (int v = 0; v < VECTORS; ++v)
            for (const unsigned word : vectors[b][v].words)
                sum ^= word;
    return sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    fex_gather_roof(const __grid_constant__ fex_gather_roof_args args)
{
    const fex_i64 thread =
        static_cast<fex_i64>(blockIdx.x) * THREADS + threadIdx.x;
    const fex_i64 groups = static_cast<fex_i64>(gridDim.x) * THREADS / GROUP;
    const int lane = static_cast<int>(thread % GROUP);
    const fex_i64 pairs = args.choices.num_tokens;
    unsigned sum = 0;

    for (fex_i64 first = thread / GROUP * BATCH; first < pairs;
         first += groups * BATCH) {
        const char *rows[BATCH];
#pragma unroll
        for (int b = 0; b < BATCH; ++b) {
            const int row =
                first + b < pairs
                    ? load_expert<INDEX_TYPE>(args.choices, first + b, 0)
                    : EMPTY_SLOT;
            rows[b] = row == EMPTY_SLOT
                          ? nullptr
                          : static_cast<const char *>(args.table) +
                                static_cast<fex_i64>(row) * ROW_BYTES;
        }
        for (int tile = 0; tile < ROW_VECTORS; tile += TILE)
            sum ^= read_tile(rows, tile + lane);
    }
    // Never so in practice, which only the host knows.
    if (sum == args.unlikely)
        *args.sink = sum;
}

// ---- Copy: 16 bytes a thread, COPY_BATCH times

extern "C" __global__ void __launch_bounds__(THREADS)
    fex_copy_roof(const __grid_constant__ fex_copy_roof_args args)
{
    const L2Policy policy = l2_stream();
    const char *const from = static_cast<const char *>(args.from);
    char *const to = static_cast<char *>(args.to);
    const fex_i64 step = static_cast<fex_i64>(gridDim.x) * THREADS;

    for (fex_i64 first = static_cast<fex_i64>(blockIdx.x) * THREADS +
                         threadIdx.x;
         first < args.vectors; first += step * COPY_BATCH) {
        Vector<16> vectors[COPY_BATCH];
#pragma unroll
        for (int i = 0; i < COPY_BATCH; ++i)
            if (first + i * step < args.vectors)
                vectors[i] =
                    load_vector<16>(from + (first + i * step) * 16, policy);
#pragma unroll
        for (int i = 0; i < COPY_BATCH; ++i)
            if (first + i * step < args.vectors)
                store_vector(to + (first + i * step) * 16, vectors[i]);
    }
}
