// SPDX-License-Identifier: Apache-2.0
// sort_pairs.cu - pairs (t, k) sorted by expert, stable, for the gradients of
// the tables: a radix sort from the least significant digit, and the range each
// expert ends up with. Empty slots get the key num_experts and go last.
//
// One pass: fex_sort_count counts each tile's digits, fex_sort_scan turns the
// counts of each digit into offsets over the tiles, fex_sort_scatter moves every
// pair to its place. The order of equal keys is the order of pairs, so sums
// taken over an expert's range are reproducible. fex_sort_segments follows.
#include "arguments.h"
#include "choices.cuh"
#include "element.cuh"
#include "warp.cuh"

// ---- Constants: from the prelude INDEX_TYPE, TOP_K, DIGIT_BITS, THREADS,
// ITEMS

constexpr int BINS = 1 << DIGIT_BITS;
constexpr int WARPS = THREADS / 32;
constexpr int WARP_ITEMS = 32 * ITEMS; // consecutive pairs of one warp
constexpr int TILE = THREADS * ITEMS;

static_assert(DIGIT_BITS >= 1 && DIGIT_BITS <= 9);
static_assert(THREADS % 32 == 0 && THREADS <= 1024);

// ---- Load

__device__ __forceinline__ unsigned load_key(const fex_sort_args &args,
                                             fex_i64 i)
{
    if (args.keys_in != nullptr)
        return args.keys_in[i];
    const int expert = load_expert<INDEX_TYPE>(args.choices, i / TOP_K,
                                               static_cast<int>(i % TOP_K));
    return expert == EMPTY_SLOT ? static_cast<unsigned>(args.choices.num_experts)
                                : static_cast<unsigned>(expert);
}

__device__ __forceinline__ unsigned digit_of(const fex_sort_args &args,
                                             unsigned key)
{
    return key >> args.shift & (BINS - 1u);
}

// The exclusive sum of value over the block's threads, in their order; *total
// gets the sum of all. `sums` is scratch of WARPS elements.
__device__ __forceinline__ unsigned scan_block(unsigned value, unsigned *sums,
                                               unsigned *total)
{
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    unsigned inclusive = value;
    for (int offset = 1; offset < 32; offset *= 2) {
        const unsigned below = __shfl_up_sync(FULL_WARP, inclusive,
                                              static_cast<unsigned>(offset));
        if (lane >= offset)
            inclusive += below;
    }
    if (lane == 31)
        sums[warp] = inclusive;
    __syncthreads();
    unsigned before = 0;
    unsigned all = 0;
    for (int w = 0; w < WARPS; ++w) {
        if (w < warp)
            before += sums[w];
        all += sums[w];
    }
    __syncthreads();
    *total = all;
    return before + inclusive - value;
}

// ---- Count: counts[digit][tile]

extern "C" __global__ void __launch_bounds__(THREADS)
    fex_sort_count(const __grid_constant__ fex_sort_args args)
{
    __shared__ unsigned bins[BINS];
    for (int bin = threadIdx.x; bin < BINS; bin += THREADS)
        bins[bin] = 0;
    __syncthreads();
    const fex_i64 first = static_cast<fex_i64>(blockIdx.x) * TILE;
    for (int j = 0; j < ITEMS; ++j) {
        const fex_i64 i = first + j * THREADS + threadIdx.x;
        if (i < args.pairs)
            atomicAdd(&bins[digit_of(args, load_key(args, i))], 1u);
    }
    __syncthreads();
    for (int bin = threadIdx.x; bin < BINS; bin += THREADS)
        args.counts[static_cast<fex_i64>(bin) * args.tiles + blockIdx.x] =
            bins[bin];
}

// ---- Scan: one block a digit; counts become offsets within the digit

extern "C" __global__ void __launch_bounds__(THREADS)
    fex_sort_scan(const __grid_constant__ fex_sort_args args)
{
    __shared__ unsigned sums[WARPS];
    unsigned *const counts =
        args.counts + static_cast<fex_i64>(blockIdx.x) * args.tiles;
    unsigned before = 0;
    for (int base = 0; base < args.tiles; base += THREADS) {
        const int tile = base + static_cast<int>(threadIdx.x);
        const unsigned count = tile < args.tiles ? counts[tile] : 0;
        unsigned total;
        const unsigned offset = scan_block(count, sums, &total);
        if (tile < args.tiles)
            counts[tile] = before + offset;
        before += total;
    }
    if (threadIdx.x == 0)
        args.totals[blockIdx.x] = before;
}

// ---- Scatter

// Where this tile's pairs of each digit begin: all smaller digits, then the
// same digit in the tiles before.
__device__ __forceinline__ void find_starts(const fex_sort_args &args,
                                            unsigned *starts, unsigned *sums)
{
    unsigned before = 0;
    for (int base = 0; base < BINS; base += THREADS) {
        const int bin = base + static_cast<int>(threadIdx.x);
        const unsigned count = bin < BINS ? args.totals[bin] : 0;
        unsigned total;
        const unsigned offset = scan_block(count, sums, &total);
        if (bin < BINS)
            starts[bin] =
                before + offset +
                args.counts[static_cast<fex_i64>(bin) * args.tiles + blockIdx.x];
        before += total;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    fex_sort_scatter(const __grid_constant__ fex_sort_args args)
{
    __shared__ unsigned starts[BINS];
    __shared__ unsigned seen[WARPS][BINS]; // of each digit in each warp's items
    __shared__ unsigned sums[WARPS];

    for (int bin = threadIdx.x; bin < WARPS * BINS; bin += THREADS)
        seen[bin / BINS][bin % BINS] = 0;
    find_starts(args, starts, sums);
    __syncthreads();

    // Rank among equal digits of the warp's items, which are consecutive.
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const fex_i64 first = static_cast<fex_i64>(blockIdx.x) * TILE +
                          warp * WARP_ITEMS + lane;
    unsigned keys[ITEMS];
    unsigned ranks[ITEMS];
#pragma unroll
    for (int j = 0; j < ITEMS; ++j) {
        const fex_i64 i = first + j * 32;
        const bool valid = i < args.pairs;
        keys[j] = valid ? load_key(args, i) : 0;
        const unsigned digit = valid ? digit_of(args, keys[j]) : BINS;
        const unsigned equal = __match_any_sync(FULL_WARP, digit);
        ranks[j] = __popc(equal & lanes_below(lane));
        if (valid)
            ranks[j] += seen[warp][digit];
        __syncwarp();
        if (valid && (equal & lanes_below(lane)) == 0)
            seen[warp][digit] += __popc(equal);
        __syncwarp();
    }
    __syncthreads();

    // Counts of the warps become offsets over them.
    for (int bin = threadIdx.x; bin < BINS; bin += THREADS) {
        unsigned start = starts[bin];
        for (int w = 0; w < WARPS; ++w) {
            const unsigned count = seen[w][bin];
            seen[w][bin] = start;
            start += count;
        }
    }
    __syncthreads();

#pragma unroll
    for (int j = 0; j < ITEMS; ++j) {
        const fex_i64 i = first + j * 32;
        if (i < args.pairs) {
            const unsigned place =
                seen[warp][digit_of(args, keys[j])] + ranks[j];
            args.keys_out[place] = keys[j];
            args.pairs_out[place] = args.pairs_in != nullptr
                                        ? args.pairs_in[i]
                                        : static_cast<unsigned>(i);
        }
    }
}

// ---- Segments: [first, end) of each expert in the sorted list, and what is
// known of its pairs in that order. Experts without a pair keep what is there.

extern "C" __global__ void __launch_bounds__(THREADS)
    fex_sort_segments(const __grid_constant__ fex_segments_args args)
{
    const fex_i64 i = static_cast<fex_i64>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= args.pairs)
        return;
    const unsigned key = args.sorted_keys[i];
    if (key >= args.num_experts)
        return;
    unsigned *const segment = args.segments + 2 * static_cast<fex_i64>(key);
    if (i == 0 || args.sorted_keys[i - 1] != key)
        segment[0] = static_cast<unsigned>(i);
    if (i + 1 == args.pairs || args.sorted_keys[i + 1] != key)
        segment[1] = static_cast<unsigned>(i + 1);

    const unsigned pair = args.sorted_pairs[i];
    args.tokens[i] = pair / TOP_K;
    args.weights[i] = {args.grad_scores[pair], args.coefficients[pair]};
}
