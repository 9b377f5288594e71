// SPDX-License-Identifier: Apache-2.0
// ptx.cuh - the only inline assembly: one small function for each instruction
// that CUDA C++ cannot express without a CUDA header.
#pragma once

#ifdef FEX_SIMULATED
#include "ptx_simulated.cuh"
#else

// Reads through the read-only path without keeping a line in L1: a gathered
// row is used once by the multiprocessor that reads it.
__device__ __forceinline__ uint4 load_streaming_16(const void *address)
{
    uint4 value;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
        : "l"(address));
    return value;
}

__device__ __forceinline__ uint2 load_streaming_8(const void *address)
{
    uint2 value;
    asm("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];"
        : "=r"(value.x), "=r"(value.y)
        : "l"(address));
    return value;
}

__device__ __forceinline__ unsigned load_streaming_4(const void *address)
{
    unsigned value;
    asm("ld.global.nc.L1::no_allocate.u32 %0, [%1];"
        : "=r"(value)
        : "l"(address));
    return value;
}

__device__ __forceinline__ unsigned short load_streaming_2(const void *address)
{
    unsigned short value;
    asm("ld.global.nc.L1::no_allocate.u16 %0, [%1];"
        : "=h"(value)
        : "l"(address));
    return value;
}

// IEEE binary16 to and from float32, to nearest even.
__device__ __forceinline__ float half_to_float(unsigned short bits)
{
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ __forceinline__ unsigned short float_to_half(float value)
{
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

#endif
