// SPDX-License-Identifier: Apache-2.0
// dialect.h - CUDA C++ for the host's compiler: the words, types and functions
// that NVRTC knows without any header. Included before every simulated kernel.
//
// Not here: what a kernel needs inline PTX for, see ptx_simulated.cuh; the
// functions that carry out undefined behaviour, see sanitize.h.
#pragma once

#include "runtime.h"

extern "C" __attribute__((visibility("default"))) simt_runtime *
    simt_runtime_of_module;
simt_runtime *simt_runtime_of_module;

// ---- Words

#define __global__ __attribute__((noinline))
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__
#define __launch_bounds__(...)

// Static, since blocks run one after another; those of a cluster have a copy of
// the whole module each. image.h tells how the driver finds these variables. In
// functions only.
#define __shared__ static

// `extern __shared__ T name[];` is rewritten to this before compiling.
#define SIMT_DYNAMIC_SHARED(type, name)                                        \
    type *const name = static_cast<type *>(simt_runtime_of_module->dynamic_shared)

#define threadIdx (simt_runtime_of_module->thread_index)
#define blockIdx (simt_runtime_of_module->block_index)
#define blockDim (simt_runtime_of_module->block_size)
#define gridDim (simt_runtime_of_module->grid_size)
constexpr int warpSize = 32;

// One for each kernel, appended to its file.
template <typename Args, void (*Kernel)(Args)>
void simt_run(const void *args)
{
    Kernel(*static_cast<const Args *>(args));
}

template <typename> struct simt_args_of;
template <typename Args> struct simt_args_of<void(Args)> {
    using type = Args;
};

#define SIMT_KERNEL(name, bounds)                                              \
    extern "C" __attribute__((visibility("default")))                          \
    const simt_kernel simt_kernel_##name = {                                   \
        simt_run<simt_args_of<decltype(name)>::type, name>,                    \
        sizeof(simt_args_of<decltype(name)>::type), bounds};

// ---- Types

#define SIMT_VECTOR(name, scalar, bytes)                                       \
    struct alignas(bytes > 16 ? 16 : bytes) name##2 { scalar x, y; };          \
    struct name##3 { scalar x, y, z; };                                        \
    struct alignas(2 * bytes > 16 ? 16 : 2 * bytes) name##4                    \
    {                                                                          \
        scalar x, y, z, w;                                                     \
    };                                                                         \
    inline name##2 make_##name##2(scalar x, scalar y) { return {x, y}; }       \
    inline name##3 make_##name##3(scalar x, scalar y, scalar z)                \
    {                                                                          \
        return {x, y, z};                                                      \
    }                                                                          \
    inline name##4 make_##name##4(scalar x, scalar y, scalar z, scalar w)      \
    {                                                                          \
        return {x, y, z, w};                                                   \
    }
SIMT_VECTOR(char, signed char, 2)
SIMT_VECTOR(uchar, unsigned char, 2)
SIMT_VECTOR(short, short, 4)
SIMT_VECTOR(ushort, unsigned short, 4)
SIMT_VECTOR(int, int, 8)
SIMT_VECTOR(uint, unsigned, 8)
SIMT_VECTOR(longlong, long long, 16)
SIMT_VECTOR(ulonglong, unsigned long long, 16)
SIMT_VECTOR(float, float, 8)
SIMT_VECTOR(double, double, 16)
#undef SIMT_VECTOR

using dim3 = simt_dim3;

template <typename To, typename From> __forceinline__ To simt_bits(From from)
{
    static_assert(sizeof(To) >= sizeof(From));
    To to{};
    __builtin_memcpy(&to, &from, sizeof from);
    return to;
}

// ---- Arithmetic

extern "C" {
float expf(float) noexcept;
float exp2f(float) noexcept;
float logf(float) noexcept;
float log2f(float) noexcept;
float tanhf(float) noexcept;
float sqrtf(float) noexcept;
float fabsf(float) noexcept;
float fmaf(float, float, float) noexcept;
float fminf(float, float) noexcept;
float fmaxf(float, float) noexcept;
double exp(double) noexcept;
double fma(double, double, double) noexcept;
}

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }

inline float __uint_as_float(unsigned x) { return simt_bits<float>(x); }
inline float __int_as_float(int x) { return simt_bits<float>(x); }
inline unsigned __float_as_uint(float x) { return simt_bits<unsigned>(x); }
inline int __float_as_int(float x) { return simt_bits<int>(x); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x)
{
    return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x));
}

#define SIMT_MIN_MAX(type)                                                     \
    inline type min(type a, type b) { return b < a ? b : a; }                  \
    inline type max(type a, type b) { return a < b ? b : a; }
SIMT_MIN_MAX(int)
SIMT_MIN_MAX(unsigned)
SIMT_MIN_MAX(long long)
SIMT_MIN_MAX(unsigned long long)
#undef SIMT_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }

// ---- Memory

template <typename T> __forceinline__ T __ldcs(const T *address)
{
    return *address;
}
template <typename T> __forceinline__ void __stcs(T *address, T value)
{
    *address = value;
}
template <typename T> __forceinline__ T __ldcg(const T *address)
{
    return *address;
}
template <typename T> __forceinline__ void __stcg(T *address, T value)
{
    *address = value;
}
template <typename T> __forceinline__ T __ldg(const T *address)
{
    return *address;
}

// Threads take turns only where they meet, and after atomic operations, by
// which they may share out work: any other code is atomic too. Who watches
// accesses is told which are meant to be.
struct SimtAtomic {
    SimtAtomic() { simt_runtime_of_module->atomic = 1; }
    ~SimtAtomic()
    {
        simt_runtime_of_module->atomic = 0;
        simt_runtime_of_module->lend_turn();
    }
};

#define SIMT_ATOMIC(name, type, result)                                        \
    __forceinline__ type name(type *address, type value)                       \
    {                                                                          \
        const SimtAtomic atomic;                                               \
        const type old = *address;                                             \
        *address = result;                                                     \
        return old;                                                            \
    }
#define SIMT_ATOMICS(type)                                                     \
    SIMT_ATOMIC(atomicMin, type, value < old ? value : old)                    \
    SIMT_ATOMIC(atomicMax, type, old < value ? value : old)                    \
    SIMT_ATOMIC(atomicAnd, type, old &value)                                   \
    SIMT_ATOMIC(atomicOr, type, old | value)                                   \
    SIMT_ATOMIC(atomicXor, type, old ^ value)                                  \
    SIMT_ATOMIC(atomicExch, type, value)                                       \
    __forceinline__ type atomicCAS(type *address, type expected, type value)   \
    {                                                                          \
        const SimtAtomic atomic;                                               \
        const type old = *address;                                             \
        *address = old == expected ? value : old;                              \
        return old;                                                            \
    }
SIMT_ATOMICS(int)
SIMT_ATOMICS(unsigned)
SIMT_ATOMICS(unsigned long long)
SIMT_ATOMIC(atomicAdd, int, static_cast<int>(unsigned(old) + unsigned(value)))
SIMT_ATOMIC(atomicAdd, unsigned, old + value)
SIMT_ATOMIC(atomicAdd, unsigned long long, old + value)
SIMT_ATOMIC(atomicAdd, float, old + value)
SIMT_ATOMIC(atomicAdd, double, old + value)
#undef SIMT_ATOMICS
#undef SIMT_ATOMIC

inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

// ---- Meeting: the lanes of a warp

__forceinline__ unsigned simt_warp(enum simt_warp_operation operation,
                                   unsigned mask, uint64_t value, int line)
{
    const simt_warp_call call = {operation, mask, value, 0, 32, line};
    return static_cast<unsigned>(simt_runtime_of_module->warp(&call));
}

// Here and below `line` is the caller's, and never passed.
__forceinline__ void __syncwarp(unsigned mask = 0xffffffffu,
                                int line = __builtin_LINE())
{
    simt_warp(SIMT_WARP_SYNC, mask, 0, line);
}

__forceinline__ int __all_sync(unsigned mask, int predicate,
                               int line = __builtin_LINE())
{
    return static_cast<int>(
        simt_warp(SIMT_WARP_ALL, mask, predicate != 0, line));
}

__forceinline__ int __any_sync(unsigned mask, int predicate,
                               int line = __builtin_LINE())
{
    return static_cast<int>(
        simt_warp(SIMT_WARP_ANY, mask, predicate != 0, line));
}

__forceinline__ unsigned __ballot_sync(unsigned mask, int predicate,
                                       int line = __builtin_LINE())
{
    return simt_warp(SIMT_WARP_BALLOT, mask, predicate != 0, line);
}

template <typename T>
__forceinline__ unsigned __match_any_sync(unsigned mask, T value,
                                          int line = __builtin_LINE())
{
    return simt_warp(SIMT_WARP_MATCH_ANY, mask, simt_bits<uint64_t>(value),
                     line);
}

// The lanes that happen to run together may be none but the caller.
inline unsigned __activemask()
{
    const dim3 &i = threadIdx;
    return 1u << (i.x + blockDim.x * (i.y + blockDim.y * i.z)) % 32;
}

#define SIMT_SHUFFLE(name, operation, Operand)                                 \
    template <typename T>                                                      \
    __forceinline__ T name(unsigned mask, T value, Operand operand,            \
                           int width = 32, int line = __builtin_LINE())        \
    {                                                                          \
        static_assert(sizeof(T) == 4 || sizeof(T) == 8);                       \
        const simt_warp_call call = {operation,                                \
                                     mask,                                     \
                                     simt_bits<uint64_t>(value),               \
                                     static_cast<unsigned>(operand),           \
                                     static_cast<unsigned>(width),             \
                                     line};                                    \
        const uint64_t bits = simt_runtime_of_module->warp(&call);             \
        T result;                                                              \
        __builtin_memcpy(&result, &bits, sizeof result);                       \
        return result;                                                         \
    }
SIMT_SHUFFLE(__shfl_sync, SIMT_WARP_SHUFFLE, int)
SIMT_SHUFFLE(__shfl_up_sync, SIMT_WARP_SHUFFLE_UP, unsigned)
SIMT_SHUFFLE(__shfl_down_sync, SIMT_WARP_SHUFFLE_DOWN, unsigned)
SIMT_SHUFFLE(__shfl_xor_sync, SIMT_WARP_SHUFFLE_XOR, int)
#undef SIMT_SHUFFLE

// ---- Meeting: the threads of a block

__forceinline__ void __syncthreads(int line = __builtin_LINE())
{
    simt_runtime_of_module->block(SIMT_BLOCK_SYNC, 0, line);
}

__forceinline__ int __syncthreads_count(int predicate,
                                        int line = __builtin_LINE())
{
    return simt_runtime_of_module->block(SIMT_BLOCK_COUNT, predicate, line);
}

__forceinline__ int __syncthreads_and(int predicate,
                                      int line = __builtin_LINE())
{
    return simt_runtime_of_module->block(SIMT_BLOCK_AND, predicate, line);
}

__forceinline__ int __syncthreads_or(int predicate,
                                     int line = __builtin_LINE())
{
    return simt_runtime_of_module->block(SIMT_BLOCK_OR, predicate, line);
}

// ---- Meeting: the blocks of a cluster, for ptx_simulated.cuh

__forceinline__ void simt_cluster_sync(int line = __builtin_LINE())
{
    simt_runtime_of_module->cluster(line);
}

template <typename T>
__forceinline__ T *simt_remote(T *address, unsigned rank,
                               int line = __builtin_LINE())
{
    return static_cast<T *>(simt_runtime_of_module->remote(
        const_cast<const void *>(static_cast<const volatile void *>(address)),
        sizeof *address, rank, line));
}

// ---- Time

inline long long clock64()
{
    return static_cast<long long>(simt_runtime_of_module->clock());
}
