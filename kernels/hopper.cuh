// SPDX-License-Identifier: Apache-2.0
// hopper.cuh - inline assembly for sm_90a: products by warpgroups, copies of
// tiles by the tensor memory accelerator, and the barriers that order them.
#pragma once

#include "arguments.h"

#ifdef FEX_SIMULATED
#include "hopper_simulated.cuh"
#else

__device__ __forceinline__ unsigned shared_address(const void *pointer)
{
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// ---- Barriers in shared memory, one 64-bit word each. A phase ends when
// `count` arrivals and all bytes they announced have come.

using Barrier = unsigned long long;

__device__ __forceinline__ void barrier_init(Barrier *barrier, unsigned count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(
                     shared_address(barrier)),
                 "r"(count)
                 : "memory");
}

// After all inits: other blocks of the cluster and the copy engine see them.
__device__ __forceinline__ void barrier_init_fence()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(Barrier *barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(
                     shared_address(barrier))
                 : "memory");
}

// Arrives at the barrier of that rank in the cluster at the same place.
__device__ __forceinline__ void barrier_arrive_at(Barrier *barrier,
                                                  unsigned rank)
{
    asm volatile("{\n\t.reg .u32 there;\n\t"
                 "mapa.shared::cluster.u32 there, %0, %1;\n\t"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n\t}" ::"r"(shared_address(barrier)),
                 "r"(rank)
                 : "memory");
}

// Arrives, and announces bytes that copies will bring.
__device__ __forceinline__ void barrier_expect(Barrier *barrier, unsigned bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                     shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}

// Until the phase of that parity has ended. The first phase has parity 0;
// waiting for parity 1 before it returns at once.
__device__ __forceinline__ void barrier_wait(Barrier *barrier, unsigned parity)
{
    asm volatile("{\n\t.reg .pred done;\n"
                 "again:\n\t"
                 "mbarrier.try_wait.parity.shared::cta.b64 "
                 "done, [%0], %1;\n\t"
                 "@!done bra again;\n\t}" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}

// ---- Copies of tiles

constexpr int TILE_ALIGNMENT = 1024; // of a tile with swizzle

__device__ __forceinline__ void *align_tile(void *memory)
{
    const unsigned over = shared_address(memory) % TILE_ALIGNMENT;
    return static_cast<char *>(memory) + (over ? TILE_ALIGNMENT - over : 0);
}

// A box of the map's size from column, row on, to shared memory of every block
// in `blocks` (bit r: rank r) at the same place; each block's barrier there
// gets the bytes. Rows and columns outside of the array are zeros.
__device__ __forceinline__ void copy_tile(const fex_tensor_map *map, void *to,
                                          Barrier *barrier, int column, int row,
                                          unsigned short blocks)
{
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier"
        "::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;"
        ::"r"(shared_address(to)),
        "l"(map), "r"(column), "r"(row), "r"(shared_address(barrier)),
        "h"(blocks)
        : "memory");
}

__device__ __forceinline__ void copy_tile(const fex_tensor_map *map, void *to,
                                          Barrier *barrier, int column, int row)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier"
                 "::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
                     shared_address(to)),
                 "l"(map), "r"(column), "r"(row), "r"(shared_address(barrier))
                 : "memory");
}

// What this thread stored to shared memory is there for copies and products.
__device__ __forceinline__ void publish_shared()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- Registers move from warpgroups that copy to those that compute

template <int REGISTERS> __device__ __forceinline__ void registers_drop()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

template <int REGISTERS> __device__ __forceinline__ void registers_take()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// ---- Products by a warpgroup: sums (64 x N) += a (64 x 16) b (16 x N). They run on
// while the warps go on: what they read and write must be left alone until
// product_wait.

// The tile of rows of 128 bytes that copy_tile laid out (128-byte swizzle); the
// 16 columns from byte `offset` of the rows on.
__device__ __forceinline__ unsigned long long tile_descriptor(const void *tile,
                                                              int offset)
{
    constexpr unsigned long long GROUP = 1024 >> 4; // of 8 rows
    constexpr unsigned long long SWIZZLE_128 = 1;
    return static_cast<unsigned long long>(
               (shared_address(tile) + offset) >> 4 & 0x3fff) |
           1ull << 16 | GROUP << 32 | SWIZZLE_128 << 62;
}

// Before the first product, and after other code wrote registers they use.
__device__ __forceinline__ void product_begin()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void product_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Until at most `pending` of the committed groups run.
template <int PENDING> __device__ __forceinline__ void product_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// clang-format off
#define FEX_SUMS_8(s, i)                                                       \
    "+f"((s)[i]), "+f"((s)[i + 1]), "+f"((s)[i + 2]), "+f"((s)[i + 3]),        \
    "+f"((s)[i + 4]), "+f"((s)[i + 5]), "+f"((s)[i + 6]), "+f"((s)[i + 7])
#define FEX_SUMS_32(s, i)                                                      \
    FEX_SUMS_8(s, i), FEX_SUMS_8(s, i + 8), FEX_SUMS_8(s, i + 16),             \
    FEX_SUMS_8(s, i + 24)
#define FEX_NAMES_32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, " \
    "%8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, " \
    "%24, %25, %26, %27, %28, %29, %30, %31"
#define FEX_NAMES_64 \
    "%0, %1, %2, %3, %4, %5, %6, %7, " \
    "%8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, " \
    "%24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, " \
    "%40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, " \
    "%56, %57, %58, %59, %60, %61, %62, %63"
#define FEX_NAMES_128 \
    "%0, %1, %2, %3, %4, %5, %6, %7, " \
    "%8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, " \
    "%24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, " \
    "%40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, " \
    "%56, %57, %58, %59, %60, %61, %62, %63, " \
    "%64, %65, %66, %67, %68, %69, %70, %71, " \
    "%72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, " \
    "%88, %89, %90, %91, %92, %93, %94, %95, " \
    "%96, %97, %98, %99, %100, %101, %102, %103, " \
    "%104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, " \
    "%120, %121, %122, %123, %124, %125, %126, %127"
// clang-format on

// Both operands from tiles; add: to the sums, which otherwise are replaced.
#define FEX_PRODUCT(type)                                                      \
    asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.b32 add, %34, 0;\n\t"       \
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type      \
                 " {" FEX_NAMES_32 "}, %32, %33, add, 1, 1, 0, 0;\n\t}"        \
                 : FEX_SUMS_32(sums, 0)                                                  \
                 : "l"(a), "l"(b), "r"(static_cast<int>(add)))
template <int DTYPE>
__device__ __forceinline__ void product(float (&sums)[32], unsigned long long a,
                                        unsigned long long b, bool add)
{
    if constexpr (DTYPE == FEX_KERNEL_BF16)
        FEX_PRODUCT("bf16");
    else
        FEX_PRODUCT("f16");
}
#undef FEX_PRODUCT

#define FEX_PRODUCT(type)                                                      \
    asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.b32 add, %66, 0;\n\t"       \
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type      \
                 " {" FEX_NAMES_64 "}, %64, %65, add, 1, 1, 0, 0;\n\t}"        \
                 : FEX_SUMS_32(sums, 0), FEX_SUMS_32(sums, 32)                                                  \
                 : "l"(a), "l"(b), "r"(static_cast<int>(add)))
template <int DTYPE>
__device__ __forceinline__ void product(float (&sums)[64], unsigned long long a,
                                        unsigned long long b, bool add)
{
    if constexpr (DTYPE == FEX_KERNEL_BF16)
        FEX_PRODUCT("bf16");
    else
        FEX_PRODUCT("f16");
}
#undef FEX_PRODUCT

#define FEX_PRODUCT(type)                                                      \
    asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.b32 add, %130, 0;\n\t"       \
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type      \
                 " {" FEX_NAMES_128 "}, %128, %129, add, 1, 1, 0, 0;\n\t}"        \
                 : FEX_SUMS_32(sums, 0), FEX_SUMS_32(sums, 32), FEX_SUMS_32(sums, 64), FEX_SUMS_32(sums, 96)                                                  \
                 : "l"(a), "l"(b), "r"(static_cast<int>(add)))
template <int DTYPE>
__device__ __forceinline__ void product(float (&sums)[128], unsigned long long a,
                                        unsigned long long b, bool add)
{
    if constexpr (DTYPE == FEX_KERNEL_BF16)
        FEX_PRODUCT("bf16");
    else
        FEX_PRODUCT("f16");
}
#undef FEX_PRODUCT

// a from registers, as mma.sync has them, in f16.
__device__ __forceinline__ void product(float (&sums)[64],
                                        const unsigned (&a)[4],
                                        unsigned long long b, bool add)
{
    asm volatile("{\n\t.reg .pred add;\n\tsetp.ne.b32 add, %69, 0;\n\t"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
                 "{" FEX_NAMES_64 "}, {%64, %65, %66, %67}, %68, add, 1, 1, "
                 "0;\n\t}"
                 : FEX_SUMS_32(sums, 0), FEX_SUMS_32(sums, 32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),
                   "r"(static_cast<int>(add)));
}

// ---- Pieces of tiles in registers

// Four 8 x 8 matrices of 16-bit elements, transposed; lanes 8 i to 8 i + 7 give
// the rows of matrix i.
__device__ __forceinline__ void load_matrices_transposed(unsigned (&words)[4],
                                                         const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 "
                 "{%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]),
                   "=r"(words[3])
                 : "r"(shared_address(row)));
}

// The larger of both halves of a word.
__device__ __forceinline__ unsigned max_halves(unsigned a, unsigned b)
{
    unsigned larger;
    asm("max.u16x2 %0, %1, %2;" : "=r"(larger) : "r"(a), "r"(b));
    return larger;
}

#undef FEX_NAMES_32
#undef FEX_NAMES_64
#undef FEX_NAMES_128
#undef FEX_SUMS_8
#undef FEX_SUMS_32

#endif
