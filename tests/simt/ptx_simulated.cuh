// SPDX-License-Identifier: Apache-2.0
// ptx_simulated.cuh - the twins of kernels/ptx.cuh in plain C++, for the
// simulated device.
#pragma once

using L2Policy = unsigned long long;

__device__ __forceinline__ L2Policy l2_keep() { return 0; }
__device__ __forceinline__ L2Policy l2_stream() { return 0; }

__device__ __forceinline__ uint4 load_16(const void *address, L2Policy)
{
    return *static_cast<const uint4 *>(address);
}

__device__ __forceinline__ uint2 load_8(const void *address, L2Policy)
{
    return *static_cast<const uint2 *>(address);
}

__device__ __forceinline__ unsigned load_4(const void *address, L2Policy)
{
    return *static_cast<const unsigned *>(address);
}

__device__ __forceinline__ unsigned short load_2(const void *address, L2Policy)
{
    return *static_cast<const unsigned short *>(address);
}

__device__ __forceinline__ unsigned cluster_rank()
{
    return simt_runtime_of_module->cluster_rank;
}

__device__ __forceinline__ unsigned cluster_size()
{
    return simt_runtime_of_module->cluster_size;
}

__device__ __forceinline__ void cluster_sync(int line = __builtin_LINE())
{
    simt_cluster_sync(line);
}

__device__ __forceinline__ float load_of_rank(const float *address,
                                              unsigned rank,
                                              int line = __builtin_LINE())
{
    return *simt_remote(address, rank, line);
}

// Launches never overlap here, but who has to wait for the one ahead must.
__device__ __forceinline__ void launch_dependents() {}
__device__ __forceinline__ void wait_for_primary()
{
    simt_runtime_of_module->primary();
}

__device__ __forceinline__ float reciprocal(float value)
{
    return 1.0f / value;
}

// A half's exponent and fraction, moved to their places in a float, are off by
// 2^112: one multiplication puts that right, subnormals included.
__device__ __forceinline__ float half_to_float(unsigned short bits)
{
    const unsigned sign = (bits & 0x8000u) << 16;
    const unsigned rest = bits & 0x7fffu;
    if (rest >= 0x7c00u) // infinity, or a NaN, which becomes the usual one
        return __uint_as_float(rest > 0x7c00u ? 0x7fffffffu
                                              : sign | 0x7f800000u);
    const float magnitude = __uint_as_float(rest << 13) * 0x1p112f;
    return __uint_as_float(__float_as_uint(magnitude) | sign);
}

__device__ __forceinline__ unsigned short float_to_half(float value)
{
    const unsigned bits = __float_as_uint(value);
    const unsigned sign = bits >> 16 & 0x8000u;
    const unsigned rest = bits & 0x7fffffffu;
    unsigned half;
    if (rest > 0x7f800000u) {
        return 0x7fff;
    } else if (rest >= 0x477ff000u) { // 65520 and above round to infinity
        half = 0x7c00;
    } else if (rest < 0x38800000u) {
        // Subnormal: adding 1/2 leaves the rounded fraction in the lowest bits.
        half = __float_as_uint(__uint_as_float(rest) + 0.5f) - 0x3f000000u;
    } else {
        const unsigned odd = rest >> 13 & 1u;
        half = (rest - 0x38000000u + 0xfffu + odd) >> 13;
    }
    return static_cast<unsigned short>(sign | half);
}

__device__ __forceinline__ unsigned floats_to_halves(float low, float high)
{
    return float_to_half(low) |
           static_cast<unsigned>(float_to_half(high)) << 16;
}
