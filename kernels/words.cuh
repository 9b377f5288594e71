// SPDX-License-Identifier: Apache-2.0
// words.cuh - inline assembly for words of two 16-bit elements, from sm_90 on.
#pragma once

#include "arguments.h"
#include "ptx.cuh"

#ifdef FEX_SIMULATED
#include "words_simulated.cuh"
#else

// Of both elements the larger magnitudes; a NaN is larger than all.
#define FEX_MAX(type)                                                          \
    asm("{\n\t.reg .b32 magnitudes;\n\t"                                       \
        "abs." type " magnitudes, %1;\n\t"                                     \
        "max.NaN." type " %0, %0, magnitudes;\n\t}"                            \
        : "+r"(largest)                                                        \
        : "r"(word))
template <int DTYPE>
__device__ __forceinline__ unsigned max_magnitudes(unsigned largest,
                                                   unsigned word)
{
    if constexpr (DTYPE == FEX_KERNEL_BF16)
        FEX_MAX("bf16x2");
    else
        FEX_MAX("f16x2");
    return largest;
}
#undef FEX_MAX

// The upper bytes of four 16-bit elements: of f16, e5m2 cut off.
__device__ __forceinline__ unsigned upper_bytes(unsigned low, unsigned high)
{
    unsigned word;
    asm("prmt.b32 %0, %1, %2, 0x7531;" : "=r"(word) : "r"(low), "r"(high));
    return word;
}

// To e5m2, to nearest even.
__device__ __forceinline__ unsigned char float_to_e5m2(float value)
{
    unsigned short bits;
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;"
        : "=h"(bits)
        : "f"(0.0f), "f"(value));
    return static_cast<unsigned char>(bits);
}

// Two floats as elements in a word, to nearest even.
template <int DTYPE>
__device__ __forceinline__ unsigned floats_to_pair(float low, float high)
{
    if constexpr (DTYPE == FEX_KERNEL_F16)
        return floats_to_halves(low, high);
    unsigned word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

// Two bfloat16 times two others, in f16.
__device__ __forceinline__ unsigned times_halves(unsigned bfloats,
                                                 unsigned factors)
{
    unsigned word;
    asm("{\n\t.reg .b32 product, low, high;\n\t"
        "mul.bf16x2 product, %1, %2;\n\t"
        "shl.b32 low, product, 16;\n\t"
        "and.b32 high, product, 0xffff0000;\n\t"
        "cvt.rn.f16x2.f32 %0, high, low;\n\t}"
        : "=r"(word)
        : "r"(bfloats), "r"(factors));
    return word;
}

#endif
