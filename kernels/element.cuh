// SPDX-License-Identifier: Apache-2.0
// element.cuh - data types, and vectors of them as rows are read and written.
//
// All arithmetic is in float32: an element is widened when it is read and
// rounded once, to nearest even, when it is written.
#pragma once

#include "arguments.h"
#include "ptx.cuh"

__device__ constexpr int min_of(int a, int b) { return a < b ? a : b; }
__device__ constexpr int max_of(int a, int b) { return a > b ? a : b; }
__device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

template <int DTYPE> struct Dtype;

template <> struct Dtype<FEX_KERNEL_F16> {
    using Storage = unsigned short;
    static __device__ __forceinline__ float widen(Storage bits)
    {
        return half_to_float(bits);
    }
    static __device__ __forceinline__ Storage round(float value)
    {
        return float_to_half(value);
    }
};

template <> struct Dtype<FEX_KERNEL_BF16> {
    using Storage = unsigned short;
    static __device__ __forceinline__ float widen(Storage bits)
    {
        return __uint_as_float(static_cast<unsigned>(bits) << 16);
    }
    // Adds half a unit in the last place, or just less when that would round
    // a tie to odd; a NaN keeps its top bits and is made quiet.
    static __device__ __forceinline__ Storage round(float value)
    {
        const unsigned bits = __float_as_uint(value);
        if ((bits & 0x7fffffffu) > 0x7f800000u)
            return static_cast<Storage>((bits >> 16) | 0x40u);
        return static_cast<Storage>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
    }
};

template <> struct Dtype<FEX_KERNEL_F32> {
    using Storage = float;
    static __device__ __forceinline__ float widen(Storage value) { return value; }
    static __device__ __forceinline__ Storage round(float value) { return value; }
};

// BYTES bytes of a row in registers: 2, 4, 8 or 16.
template <int BYTES> struct Vector {
    unsigned words[(BYTES + 3) / 4];
};

template <int BYTES>
__device__ __forceinline__ Vector<BYTES> load_vector(const void *address,
                                                     L2Policy policy)
{
    Vector<BYTES> vector;
    if constexpr (BYTES == 16) {
        const uint4 value = load_16(address, policy);
        vector.words[0] = value.x;
        vector.words[1] = value.y;
        vector.words[2] = value.z;
        vector.words[3] = value.w;
    } else if constexpr (BYTES == 8) {
        const uint2 value = load_8(address, policy);
        vector.words[0] = value.x;
        vector.words[1] = value.y;
    } else if constexpr (BYTES == 4) {
        vector.words[0] = load_4(address, policy);
    } else {
        static_assert(BYTES == 2);
        vector.words[0] = load_2(address, policy);
    }
    return vector;
}

template <int BYTES> __device__ __forceinline__ Vector<BYTES> zero_vector()
{
    Vector<BYTES> vector;
    for (unsigned &word : vector.words)
        word = 0;
    return vector;
}

// Stores what this kernel does not read again, past the lines it wants in L2.
template <int BYTES>
__device__ __forceinline__ void store_vector(void *address,
                                             const Vector<BYTES> &vector)
{
    if constexpr (BYTES == 16) {
        __stcs(static_cast<uint4 *>(address),
               make_uint4(vector.words[0], vector.words[1], vector.words[2],
                          vector.words[3]));
    } else if constexpr (BYTES == 8) {
        __stcs(static_cast<uint2 *>(address),
               make_uint2(vector.words[0], vector.words[1]));
    } else if constexpr (BYTES == 4) {
        __stcs(static_cast<unsigned *>(address), vector.words[0]);
    } else {
        static_assert(BYTES == 2);
        __stcs(static_cast<unsigned short *>(address),
               static_cast<unsigned short>(vector.words[0]));
    }
}

// Element i of a vector, in float32. i is a constant after unrolling.
template <int DTYPE, int BYTES>
__device__ __forceinline__ float widen(const Vector<BYTES> &vector, int i)
{
    if constexpr (DTYPE == FEX_KERNEL_F32) {
        return __uint_as_float(vector.words[i]);
    } else if constexpr (DTYPE == FEX_KERNEL_BF16) {
        const unsigned word = vector.words[i / 2];
        return __uint_as_float(i % 2 ? word & 0xffff0000u : word << 16);
    } else {
        const unsigned word = vector.words[i / 2];
        return half_to_float(
            static_cast<unsigned short>(i % 2 ? word >> 16 : word & 0xffffu));
    }
}

// COUNT float32 values become a vector of DTYPE.
template <int DTYPE, int COUNT>
__device__ __forceinline__ auto narrow(const float *values)
{
    using Storage = typename Dtype<DTYPE>::Storage;
    Vector<COUNT * static_cast<int>(sizeof(Storage))> vector;
    if constexpr (DTYPE == FEX_KERNEL_F32) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
            vector.words[i] = __float_as_uint(values[i]);
    } else if constexpr (COUNT == 1) {
        vector.words[0] = Dtype<DTYPE>::round(values[0]);
    } else {
#pragma unroll
        for (int i = 0; i < COUNT / 2; ++i) {
            const unsigned low = Dtype<DTYPE>::round(values[2 * i]);
            const unsigned high = Dtype<DTYPE>::round(values[2 * i + 1]);
            vector.words[i] = low | high << 16;
        }
    }
    return vector;
}

// One element of an array of DTYPE that is read once, in float32.
template <int DTYPE>
__device__ __forceinline__ float load_element(const void *array, fex_i64 index)
{
    using Storage = typename Dtype<DTYPE>::Storage;
    return Dtype<DTYPE>::widen(__ldcs(static_cast<const Storage *>(array) + index));
}

// Rounds value into an array of DTYPE, adding what is there if asked to.
template <int DTYPE>
__device__ __forceinline__ void store_element(void *array, fex_i64 index,
                                              float value, bool accumulate)
{
    using Storage = typename Dtype<DTYPE>::Storage;
    Storage *const element = static_cast<Storage *>(array) + index;
    if (accumulate)
        value += Dtype<DTYPE>::widen(*element);
    *element = Dtype<DTYPE>::round(value);
}
