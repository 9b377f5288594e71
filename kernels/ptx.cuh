// SPDX-License-Identifier: Apache-2.0
// ptx.cuh - inline assembly for all architectures: one small function for each
// instruction that CUDA C++ cannot express without a CUDA header. Those of
// tensor cores and what feeds them are in tensor.cuh and hopper.cuh.
#pragma once

#ifdef FEX_SIMULATED
#include "ptx_simulated.cuh"
#else

// What the L2 cache does with the lines of a load, before sm_80 a mere wish.
using L2Policy = unsigned long long;

// Lines stay when others must go: a part of a table that is read again.
__device__ __forceinline__ L2Policy l2_keep()
{
    L2Policy policy = 0;
#if __CUDA_ARCH__ >= 800
    asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
#endif
    return policy;
}

// Lines are the first to go: what is read once, or too rarely to matter.
__device__ __forceinline__ L2Policy l2_stream()
{
    L2Policy policy = 0;
#if __CUDA_ARCH__ >= 800
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
#endif
    return policy;
}

// Loads of read-only rows, 16, 8, 4 or 2 bytes. By way of L1: where few experts
// are chosen often, their rows would all come from the same few slices of L2.
// Volatile, so that loads stay together ahead of the arithmetic and overlap.
#if __CUDA_ARCH__ >= 800
#define FEX_LOAD "ld.global.nc.L2::cache_hint"
#define FEX_HINT(n) ", %" #n ";"
#else
#define FEX_LOAD "ld.global.nc"
#define FEX_HINT(n) ";"
#endif

__device__ __forceinline__ uint4 load_16(const void *address, L2Policy policy)
{
    uint4 value;
    asm volatile(FEX_LOAD ".v4.u32 {%0, %1, %2, %3}, [%4]" FEX_HINT(5)
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(address), "l"(policy));
    return value;
}

__device__ __forceinline__ uint2 load_8(const void *address, L2Policy policy)
{
    uint2 value;
    asm volatile(FEX_LOAD ".v2.u32 {%0, %1}, [%2]" FEX_HINT(3)
                 : "=r"(value.x), "=r"(value.y)
                 : "l"(address), "l"(policy));
    return value;
}

__device__ __forceinline__ unsigned load_4(const void *address, L2Policy policy)
{
    unsigned value;
    asm volatile(FEX_LOAD ".u32 %0, [%1]" FEX_HINT(2)
                 : "=r"(value)
                 : "l"(address), "l"(policy));
    return value;
}

__device__ __forceinline__ unsigned short load_2(const void *address,
                                                 L2Policy policy)
{
    unsigned short value;
    asm volatile(FEX_LOAD ".u16 %0, [%1]" FEX_HINT(2)
                 : "=h"(value)
                 : "l"(address), "l"(policy));
    return value;
}

#undef FEX_LOAD
#undef FEX_HINT

// Clusters, from sm_90 on: blocks that run together and read each other's
// shared memory. Elsewhere they do not compile, and nothing uses them.
__device__ __forceinline__ unsigned cluster_rank()
{
    unsigned rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

__device__ __forceinline__ unsigned cluster_size()
{
    unsigned size;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    return size;
}

// Every thread of the cluster waits for every other; what they wrote to shared
// memory before is there for all after.
__device__ __forceinline__ void cluster_sync()
{
    asm volatile("barrier.cluster.arrive.release.aligned;\n\t"
                 "barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// *address as the block of that rank has it in its shared memory.
__device__ __forceinline__ float load_of_rank(const float *address,
                                              unsigned rank)
{
    float value;
    const unsigned own =
        static_cast<unsigned>(__cvta_generic_to_shared(address));
    asm volatile("{\n\t.reg .u32 there;\n\t"
                 "mapa.shared::cluster.u32 there, %1, %2;\n\t"
                 "ld.shared::cluster.f32 %0, [there];\n\t}"
                 : "=f"(value)
                 : "r"(own), "r"(rank)
                 : "memory");
    return value;
}

// A launch that may start before the one ahead of it in the stream has ended,
// from sm_90 on; elsewhere it starts after, and there is nothing to do.
//
// The rest of the launch ahead does not keep the next one from starting.
__device__ __forceinline__ void launch_dependents()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Returns when the launch ahead has ended and all it wrote is there to read, by
// the thread that called it. Some thread of every block has to, even if none
// reads: that a launch has ended means to the next that all before it have.
__device__ __forceinline__ void wait_for_primary()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// 1 / value, to within a unit in the last place or two.
__device__ __forceinline__ float reciprocal(float value)
{
    float inverse;
    asm("rcp.approx.f32 %0, %1;" : "=f"(inverse) : "f"(value));
    return inverse;
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

// Two floats as f16 in a word, from sm_80 on.
__device__ __forceinline__ unsigned floats_to_halves(float low, float high)
{
    unsigned word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

#endif
