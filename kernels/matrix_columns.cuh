// SPDX-License-Identifier: Apache-2.0
// matrix_columns.cuh - columns of U times P: each warp rounds its own to f16 on the way
// to the tensor cores, while the products of others run.
#pragma once

#include "arguments.h"
#include "element.cuh"
#include "hopper.cuh"
#include "matrix_tile.cuh"
#include "matrix_weight.cuh"
#include "routes.cuh"
#include "tensor.cuh"
#include "warp.cuh"
#include "words.cuh"

// ---- Constants: from the prelude DTYPE, ACROSS: tokens of a tile

// A stage's experts in registers at one time, or a half of them where sums leave less
// room; twice, as products run while the next ones come.
constexpr int PARTS = ACROSS == 256 ? 2 : 1;
constexpr int STAGES_AT_ONCE = 2 / PARTS;
constexpr int PRODUCTS = DEPTH / PARTS / PRODUCT_DEPTH;

// Whether U is good in f16: of bfloat16, if it is not all too small. What is too
// large makes sums that are no numbers. The largest is kept until it is enough,
// which is after the first experts, most likely.
struct Judge {
    unsigned largest = 0;                  // magnitudes that the lane met
    bool enough = DTYPE == FEX_KERNEL_F16; // of the warp

    __device__ __forceinline__ void look(const unsigned (&words)[PRODUCTS][4])
    {
        if (enough)
            return;
#pragma unroll
        for (int k = 0; k < PRODUCTS; ++k)
#pragma unroll
            for (const unsigned word : words[k])
                largest = max_magnitudes<DTYPE>(largest, word);
        enough = __any_sync(FULL_WARP,
                            largest != 0 && fits_half<DTYPE>(largest)) != 0;
    }
    // What brings sums back; no number where they are no good.
    __device__ __forceinline__ float unscale() const
    {
        const bool none = __any_sync(FULL_WARP, largest != 0) == 0;
        return enough || none ? UNSCALE : __uint_as_float(NO_NUMBER);
    }
};

// The columns of a warp by experts, in f16; a register has two experts.
struct Columns {
    unsigned words[PRODUCTS][4];

    __device__ __forceinline__ void load(const Stage &stage, int part,
                                         Judge &judge)
    {
        const int lane = threadIdx.x % 32;
        const int box = threadIdx.x / 128;
        const int warp = threadIdx.x / 32 % 4;
        const int row = part * (DEPTH / PARTS) + lane % 8 + lane / 16 * 8;
        const int vector = (warp * 2 + lane / 8 % 2) ^ row % 8;
#pragma unroll
        for (int k = 0; k < PRODUCTS; ++k)
            load_transposed(
                words[k],
                &stage.rows[box * DEPTH + row + k * PRODUCT_DEPTH][vector * 8]);
        judge.look(words);
        if (DTYPE == FEX_KERNEL_BF16)
#pragma unroll
            for (int k = 0; k < PRODUCTS; ++k)
#pragma unroll
                for (unsigned &word : words[k])
                    word = times_halves(word, ROW_SCALE_PAIR);
    }
};

// By a part of the experts of the tile of P at `weights`.
__device__ __forceinline__ void multiply_part(Sums &sums,
                                              const Columns &columns,
                                              Descriptor weights, int part,
                                              bool add)
{
    constexpr int STEP = PRODUCT_DEPTH * 2 / 16;
    product_begin();
#pragma unroll
    for (int k = 0; k < PRODUCTS; ++k)
        product(sums, columns.words[k], weights + (part * PRODUCTS + k) * STEP,
                add || k > 0);
    product_commit();
}

// Sums are those of a warp's columns (rows) by all tokens. One stage at least.
__device__ __forceinline__ void multiply_columns(Stages &ring, Ring<STAGES> &at,
                                                 Sums &sums, int stages,
                                                 Judge &judge)
{
    const bool arrives = threadIdx.x % 32 == 0; // for its warp
    const Descriptor weights = descriptor_of(ring.stages[0].across);
    Columns columns[2];
    int released = 0;
    const auto multiply_stage = [&](int i, int number) {
        const Descriptor own = weights + at.stage * (sizeof(Stage) / 16);
        barrier_wait(&ring.full[at.stage], at.parity);
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            Columns &now = columns[(number * PARTS + part) % 2];
            now.load(ring.stages[at.stage], part, judge);
            multiply_part(sums, now, own, part, i > 0 || part > 0);
            product_wait<1>();
            if (part == 0 && i > 0 && arrives)
                barrier_arrive(&ring.empty[released]);
        }
        released = at.stage;
        at.next();
    };
    int i = 0;
#pragma unroll 1
    for (; i + STAGES_AT_ONCE <= stages; i += STAGES_AT_ONCE)
#pragma unroll
        for (int number = 0; number < STAGES_AT_ONCE; ++number)
            multiply_stage(i + number, number);
    if (i < stages)
        multiply_stage(i, 0);
    product_wait<0>();
    if (arrives)
        barrier_arrive(&ring.empty[released]);
}
