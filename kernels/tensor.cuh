// SPDX-License-Identifier: Apache-2.0
// tensor.cuh - inline assembly for sm_80 and later: products by the tensor
// cores of one warp, the loads that feed them, and copies to shared memory that
// run on while the threads do.
#pragma once

#include "arguments.h"

#ifdef FEX_SIMULATED
#include "tensor_simulated.cuh"
#else

// ---- Copies

// 16 bytes to shared memory, or zeros where there is nothing to read.
__device__ __forceinline__ void copy_16(void *to, const void *from, bool inside)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     static_cast<unsigned>(__cvta_generic_to_shared(to))),
                 "l"(from), "r"(inside ? 16 : 0)
                 : "memory");
}

// Ends a group of copies, which may be empty.
__device__ __forceinline__ void copies_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Until all but the last PENDING groups of this thread's copies are there.
template <int PENDING> __device__ __forceinline__ void copies_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// ---- Fragments

// Four matrices of 8 rows of 16 bytes: lane l gives the address of row l % 8 of
// matrix l / 8, and gets of each matrix the two elements of row l / 4 from
// column 2 (l % 4) on.
__device__ __forceinline__ void load_matrices(unsigned (&words)[4],
                                              const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, "
                 "[%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]),
                   "=r"(words[3])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
                 : "memory");
}

// The same of the matrices transposed.
__device__ __forceinline__ void load_transposed(unsigned (&words)[4],
                                                const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 "
                 "{%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]),
                   "=r"(words[3])
                 : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
                 : "memory");
}

// ---- Products

// sums (16 x 8) += a (16 x 16) b (16 x 8), in float32. Lane l holds row l / 4
// and row l / 4 + 8 of the sums, each from column 2 (l % 4) on.
#define FEX_PRODUCT(type)                                                      \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type        \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "         \
                 "{%0, %1, %2, %3};"                                           \
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0),        \
                   "r"(b1))
template <int DTYPE>
__device__ __forceinline__ void warp_product(float (&sums)[4],
                                             const unsigned (&a)[4],
                                             unsigned b0, unsigned b1)
{
    if constexpr (DTYPE == FEX_KERNEL_BF16)
        FEX_PRODUCT("bf16");
    else
        FEX_PRODUCT("f16");
}
#undef FEX_PRODUCT

#endif
