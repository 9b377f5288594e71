// SPDX-License-Identifier: Apache-2.0
// tensor_simulated.cuh - the twins of kernels/tensor.cuh in plain C++, for the
// simulated device.
#pragma once

#include "element.cuh"

// ---- Copies: done when their group is waited for, by the thread that asked;
// until then what they replace is wrong, but no NaN: sums of products that are
// not finite may be computed anew some other way.

struct SimtCopy {
    void *to;
    uint4 value;
    int group;
};

struct SimtCopies {
    SimtCopy copies[64];
    int count;
    int group; // that is being filled
};

// Of every thread of a block; blocks run one after another, those of a cluster
// have a module of their own. Inside a function it would be shared memory.
SimtCopies simt_all_copies[1024];

__forceinline__ SimtCopies &simt_copies()
{
    return simt_all_copies[threadIdx.x];
}

__device__ __forceinline__ void copy_16(void *to, const void *from, bool inside)
{
    SimtCopies &own = simt_copies();
    if (own.count == 64)
        simt_runtime_of_module->fault("more copies than the simulator keeps");
    uint4 *const place = static_cast<uint4 *>(to);
    own.copies[own.count++] = {
        place,
        inside ? *static_cast<const uint4 *>(from) : make_uint4(0, 0, 0, 0),
        own.group};
    *place = make_uint4(0x44444444, 0x44444444, 0x44444444, 0x44444444);
}

__device__ __forceinline__ void copies_commit() { ++simt_copies().group; }

template <int PENDING> __device__ __forceinline__ void copies_wait()
{
    SimtCopies &own = simt_copies();
    int kept = 0;
    for (int i = 0; i < own.count; ++i) {
        const SimtCopy &copy = own.copies[i];
        if (copy.group < own.group - PENDING)
            *static_cast<uint4 *>(copy.to) = copy.value;
        else
            own.copies[kept++] = copy;
    }
    own.count = kept;
}

// ---- What lanes tell each other: each writes its words, and all have when they
// meet. Taking turns with two sets, nobody writes what others still read.

struct SimtWords {
    unsigned words[4];
};

struct SimtFactors {
    float a[2][2][2]; // of rows l / 4 and l / 4 + 8: columns 2 (l % 4) on, of
    float b[2][2];    // either half of the depth, and of b the rows
};

SimtWords simt_words[2][1024];
SimtFactors simt_factors[2][1024];
unsigned char simt_turns[1024];

template <typename T>
__forceinline__ const T *simt_tell(T (&told)[2][1024], const T &own, int line)
{
    const unsigned thread = threadIdx.x;
    const int turn = simt_turns[thread] ^= 1;
    told[turn][thread] = own;
    __any_sync(0xffffffffu, 0, line); // which orders no shared memory
    return told[turn] + thread / 32 * 32;
}

// ---- Fragments

template <bool TRANSPOSED>
__forceinline__ void simt_load_matrices(unsigned (&words)[4], const void *row,
                                        int line)
{
    const int lane = threadIdx.x % 32;
    const uint4 read = *static_cast<const uint4 *>(row);
    const SimtWords *const rows =
        simt_tell(simt_words, {{read.x, read.y, read.z, read.w}}, line);
    for (int matrix = 0; matrix < 4; ++matrix) {
        words[matrix] = 0;
        for (int half = 0; half < 2; ++half) {
            const int r = TRANSPOSED ? lane % 4 * 2 + half : lane / 4;
            const int column = TRANSPOSED ? lane / 4 : lane % 4 * 2 + half;
            const unsigned element = rows[matrix * 8 + r].words[column / 2] >>
                                         column % 2 * 16 &
                                     0xffffu;
            words[matrix] |= element << half * 16;
        }
    }
}

__device__ __forceinline__ void load_matrices(unsigned (&words)[4],
                                              const void *row,
                                              int line = __builtin_LINE())
{
    simt_load_matrices<false>(words, row, line);
}

__device__ __forceinline__ void load_transposed(unsigned (&words)[4],
                                                const void *row,
                                                int line = __builtin_LINE())
{
    simt_load_matrices<true>(words, row, line);
}

// ---- Products

template <int DTYPE>
__device__ __forceinline__ void warp_product(float (&sums)[4],
                                             const unsigned (&a)[4],
                                             unsigned b0, unsigned b1,
                                             int line = __builtin_LINE())
{
    const int lane = threadIdx.x % 32;
    SimtFactors own;
    for (int half = 0; half < 2; ++half)
        for (int i = 0; i < 2; ++i) {
            const int shift = i * 16;
            own.a[0][half][i] = Dtype<DTYPE>::widen(
                static_cast<unsigned short>(a[half * 2] >> shift));
            own.a[1][half][i] = Dtype<DTYPE>::widen(
                static_cast<unsigned short>(a[half * 2 + 1] >> shift));
            own.b[half][i] = Dtype<DTYPE>::widen(
                static_cast<unsigned short>((half == 0 ? b0 : b1) >> shift));
        }
    const SimtFactors *const lanes = simt_tell(simt_factors, own, line);
    for (int i = 0; i < 4; ++i)
        for (int k = 0; k < 16; ++k)
            sums[i] += lanes[lane / 4 * 4 + k % 8 / 2].a[i / 2][k / 8][k % 2] *
                       lanes[(lane % 4 * 2 + i % 2) * 4 + k % 8 / 2]
                           .b[k / 8][k % 2];
}
