// SPDX-License-Identifier: Apache-2.0
// hopper.cuh - inline assembly for sm_90a: products by warpgroups, copies of
// tiles by the tensor memory accelerator, and the barriers that order them.
#pragma once

#include "arguments.h"

// The stage a warp is at, and in which time round.
template <int STAGES> struct Ring {
    int stage = 0;
    unsigned parity = 0;
    __device__ __forceinline__ void next()
    {
        if (++stage == STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

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

// After all inits: the copy engine sees them.
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

// A box of the map's size, from column and row on; the barrier gets its bytes.
// Rows and columns outside of the array are zeros.
__device__ __forceinline__ void copy_tile(const fex_tensor_map *map, void *to,
                                          Barrier *barrier, int column, int row)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier"
                 "::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
                     shared_address(to)),
                 "l"(map), "r"(column), "r"(row), "r"(shared_address(barrier))
                 : "memory");
}

// Bytes of a row of an array, a multiple of 16, to L2.
__device__ __forceinline__ void prefetch_row(const void *row, unsigned bytes)
{
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(row),
                 "r"(bytes)
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

// ---- Products by a warpgroup: sums (64 x N) += a (64 x 16) b (16 x N). They
// run on while the warps go on: what they read and write must be left alone
// until product_wait.

// The operand from a tile of rows of 128 bytes as copy_tile lays it out
// (128-byte swizzle): 16 columns of all its rows. Bytes further on in shared
// memory are descriptor + bytes / 16.
using Descriptor = unsigned long long;

__device__ __forceinline__ Descriptor descriptor_of(const void *tile)
{
    constexpr Descriptor GROUP = 1024 >> 4; // of 8 rows
    constexpr Descriptor SWIZZLE_128 = 1;
    return static_cast<Descriptor>(shared_address(tile) >> 4 & 0x3fff) |
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
#define FEX_SUMS_8(i)                                                          \
    "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3]),    \
    "+f"(sums[i + 4]), "+f"(sums[i + 5]), "+f"(sums[i + 6]), "+f"(sums[i + 7])
#define FEX_SUMS_32(i)                                                         \
    FEX_SUMS_8(i), FEX_SUMS_8(i + 8), FEX_SUMS_8(i + 16), FEX_SUMS_8(i + 24)
#define FEX_SUMS_64 FEX_SUMS_32(0), FEX_SUMS_32(32)
#define FEX_SUMS_128 FEX_SUMS_64, FEX_SUMS_32(64), FEX_SUMS_32(96)
#define FEX_NAMES_32                                                           \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "   \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, "   \
    "%30, %31"
#define FEX_NAMES_64 FEX_NAMES_32 ", "                                         \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, "   \
    "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, "   \
    "%60, %61, %62, %63"
#define FEX_NAMES_128 FEX_NAMES_64 ", "                                        \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, "   \
    "%78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, "   \
    "%92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, "   \
    "%105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, "       \
    "%116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
// clang-format on

// sums += a b, or sums = a b: `add` names the operand that decides, `major`
// says of 16-bit tiles that their rows are along the depth.
#define FEX_PRODUCT(shape, type, names, sums, a, b, add, major, ...)           \
    asm volatile("{\n\t.reg .pred add;\n\t"                                    \
                 "setp.ne.b32 add, " add ", 0;\n\t"                            \
                 "wgmma.mma_async.sync.aligned." shape ".f32." type "." type   \
                 " {" names "}, " a ", " b ", add, 1, 1" major ";\n\t}"        \
                 : sums                                                        \
                 : __VA_ARGS__, "r"(static_cast<int>(add_to_sums)))

// Both operands from tiles, by 64, 128 and 256 columns.
#define FEX_PRODUCT_64(type)                                                   \
    FEX_PRODUCT("m64n64k16", type, FEX_NAMES_32, FEX_SUMS_32(0), "%32", "%33", \
                "%34", ", 0, 0", "l"(a), "l"(b))
#define FEX_PRODUCT_128(type)                                                  \
    FEX_PRODUCT("m64n128k16", type, FEX_NAMES_64, FEX_SUMS_64, "%64", "%65",   \
                "%66", ", 0, 0", "l"(a), "l"(b))
#define FEX_PRODUCT_256(type)                                                  \
    FEX_PRODUCT("m64n256k16", type, FEX_NAMES_128, FEX_SUMS_128, "%128",       \
                "%129", "%130", ", 0, 0", "l"(a), "l"(b))
template <int DTYPE>
__device__ __forceinline__ void product(float (&sums)[32], Descriptor a,
                                        Descriptor b, bool add_to_sums)
{
    if constexpr (DTYPE == FEX_KERNEL_BF16)
        FEX_PRODUCT_64("bf16");
    else
        FEX_PRODUCT_64("f16");
}

template <int DTYPE>
__device__ __forceinline__ void product(float (&sums)[64], Descriptor a,
                                        Descriptor b, bool add_to_sums)
{
    if constexpr (DTYPE == FEX_KERNEL_BF16)
        FEX_PRODUCT_128("bf16");
    else
        FEX_PRODUCT_128("f16");
}

template <int DTYPE>
__device__ __forceinline__ void product(float (&sums)[128], Descriptor a,
                                        Descriptor b, bool add_to_sums)
{
    if constexpr (DTYPE == FEX_KERNEL_BF16)
        FEX_PRODUCT_256("bf16");
    else
        FEX_PRODUCT_256("f16");
}

// a from registers, as mma.sync has them, in f16.
__device__ __forceinline__ void product(float (&sums)[32],
                                        const unsigned (&a)[4],
                                        Descriptor b, bool add_to_sums)
{
    FEX_PRODUCT("m64n64k16", "f16", FEX_NAMES_32, FEX_SUMS_32(0),
                "{%32, %33, %34, %35}", "%36", "%37", ", 0", "r"(a[0]),
                "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ __forceinline__ void product(float (&sums)[64],
                                        const unsigned (&a)[4],
                                        Descriptor b, bool add_to_sums)
{
    FEX_PRODUCT("m64n128k16", "f16", FEX_NAMES_64, FEX_SUMS_64,
                "{%64, %65, %66, %67}", "%68", "%69", ", 0", "r"(a[0]),
                "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ __forceinline__ void product(float (&sums)[128],
                                        const unsigned (&a)[4],
                                        Descriptor b, bool add_to_sums)
{
    FEX_PRODUCT("m64n256k16", "f16", FEX_NAMES_128, FEX_SUMS_128,
                "{%128, %129, %130, %131}", "%132", "%133", ", 0", "r"(a[0]),
                "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// The same of 32 columns in 8 bits, f16 cut short (e5m2): four in a register.
__device__ __forceinline__ void product_8(float (&sums)[64],
                                          const unsigned (&a)[4], Descriptor b,
                                          bool add_to_sums)
{
    FEX_PRODUCT("m64n128k32", "e5m2", FEX_NAMES_64, FEX_SUMS_64,
                "{%64, %65, %66, %67}", "%68", "%69", "", "r"(a[0]), "r"(a[1]),
                "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef FEX_PRODUCT_256
#undef FEX_PRODUCT_128
#undef FEX_PRODUCT_64
#undef FEX_PRODUCT
#undef FEX_NAMES_128
#undef FEX_NAMES_64
#undef FEX_NAMES_32
#undef FEX_SUMS_128
#undef FEX_SUMS_64
#undef FEX_SUMS_32
#undef FEX_SUMS_8

#endif
