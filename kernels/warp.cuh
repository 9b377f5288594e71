// SPDX-License-Identifier: Apache-2.0
// warp.cuh - what the lanes of a warp do together.
#pragma once

constexpr unsigned FULL_WARP = 0xffffffffu;

__device__ __forceinline__ unsigned lanes_below(int lane)
{
    return (1u << lane) - 1u;
}

// Every lane of a group of GROUP lanes holds COUNT values; sums each over the
// group. The total of value i ends in values[0] of the GROUP / COUNT lanes from
// i * GROUP / COUNT on; returns that i. Halving the values while halving the
// group takes COUNT - 1 + log2(GROUP / COUNT) shuffles instead of COUNT *
// log2(GROUP). Every value is added up by the same tree, whatever its place.
template <int COUNT, int GROUP>
__device__ __forceinline__ int reduce_scatter(float (&values)[COUNT], int lane)
{
    static_assert(COUNT <= GROUP && GROUP <= 32);
    int offset = GROUP / 2;
#pragma unroll
    for (int count = COUNT; count > 1; count /= 2, offset /= 2) {
        const bool upper = (lane & offset) != 0;
#pragma unroll
        for (int i = 0; i < count / 2; ++i) {
            const float low = values[i];
            const float high = values[i + count / 2];
            const float received = __shfl_xor_sync(
                FULL_WARP, upper ? low : high, static_cast<unsigned>(offset));
            values[i] = (upper ? high : low) + received;
        }
    }
#pragma unroll
    for (; offset > 0; offset /= 2)
        values[0] += __shfl_xor_sync(FULL_WARP, values[0],
                                     static_cast<unsigned>(offset));
    return lane / (GROUP / COUNT);
}
