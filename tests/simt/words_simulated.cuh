// SPDX-License-Identifier: Apache-2.0
// words_simulated.cuh - the twins of kernels/words.cuh in plain C++, for the
// simulated device.
#pragma once

#include "element.cuh"

// Magnitudes are in the order of their bits, NaNs above all.
template <int DTYPE>
__device__ __forceinline__ unsigned max_magnitudes(unsigned largest,
                                                   unsigned word)
{
    for (int shift = 0; shift < 32; shift += 16) {
        const unsigned own = word >> shift & 0x7fffu;
        if (own > (largest >> shift & 0x7fffu))
            largest = (largest & ~(0xffffu << shift)) | own << shift;
    }
    return largest;
}

__device__ __forceinline__ unsigned upper_bytes(unsigned low, unsigned high)
{
    return (low >> 8 & 0xffu) | (low >> 16 & 0xff00u) |
           (high & 0xff00u) << 8 | (high & 0xff000000u);
}

// By way of f16, which rounds what lies near the middle of two numbers twice.
__device__ __forceinline__ unsigned char float_to_e5m2(float value)
{
    const unsigned half = float_to_half(value);
    return static_cast<unsigned char>((half + 0x7fu + (half >> 8 & 1u)) >> 8);
}

template <int DTYPE>
__device__ __forceinline__ unsigned floats_to_pair(float low, float high)
{
    return Dtype<DTYPE>::round(low) |
           static_cast<unsigned>(Dtype<DTYPE>::round(high)) << 16;
}

// Products of bfloat16 are exact in float32; of these, rounded once.
__device__ __forceinline__ unsigned times_halves(unsigned bfloats,
                                                 unsigned factors)
{
    using Bfloat = Dtype<FEX_KERNEL_BF16>;
    unsigned word = 0;
    for (int shift = 0; shift < 32; shift += 16) {
        const unsigned product = Bfloat::round(
            Bfloat::widen(static_cast<unsigned short>(bfloats >> shift)) *
            Bfloat::widen(static_cast<unsigned short>(factors >> shift)));
        word |= static_cast<unsigned>(float_to_half(Bfloat::widen(
                    static_cast<unsigned short>(product))))
                << shift;
    }
    return word;
}
