// SPDX-License-Identifier: Apache-2.0
// observe.h - tells the driver of a kernel's accesses to memory.
//
// Kernels are compiled with -fsanitize=thread and bring these functions along
// instead of the sanitizer's library. The names are the compiler's.
#pragma once

#include "runtime.h"

#define SIMT_OBSERVER                                                          \
    extern "C" __attribute__((visibility("hidden"), used, noinline,            \
                              no_sanitize("thread"))) void

__attribute__((always_inline, no_sanitize("thread"))) inline void
simt_observe(const void *address, size_t size, enum simt_touch touch)
{
    simt_runtime *const runtime = simt_runtime_of_module;
    runtime->access(address, size,
                    runtime->atomic ? SIMT_UPDATE : touch);
}

#define SIMT_OBSERVE(size)                                                     \
    SIMT_OBSERVER __tsan_read##size(const void *address)                       \
    {                                                                          \
        simt_observe(address, size, SIMT_READ);                                \
    }                                                                          \
    SIMT_OBSERVER __tsan_write##size(void *address)                            \
    {                                                                          \
        simt_observe(address, size, SIMT_WRITE);                               \
    }                                                                          \
    SIMT_OBSERVER __tsan_unaligned_read##size(const void *address)             \
    {                                                                          \
        simt_observe(address, size, SIMT_READ);                                \
    }                                                                          \
    SIMT_OBSERVER __tsan_unaligned_write##size(void *address)                  \
    {                                                                          \
        simt_observe(address, size, SIMT_WRITE);                               \
    }
SIMT_OBSERVE(1)
SIMT_OBSERVE(2)
SIMT_OBSERVE(4)
SIMT_OBSERVE(8)
SIMT_OBSERVE(16)
#undef SIMT_OBSERVE

SIMT_OBSERVER __tsan_read_range(const void *address, size_t size)
{
    simt_observe(address, size, SIMT_READ);
}

SIMT_OBSERVER __tsan_write_range(void *address, size_t size)
{
    simt_observe(address, size, SIMT_WRITE);
}

// Clang calls these for copies that it does not inline.
extern "C" __attribute__((visibility("hidden"), used, noinline,
                          no_sanitize("thread"))) void *
__tsan_memcpy(void *to, const void *from, size_t size)
{
    simt_observe(from, size, SIMT_READ);
    simt_observe(to, size, SIMT_WRITE);
    return __builtin_memcpy(to, from, size);
}

extern "C" __attribute__((visibility("hidden"), used, noinline,
                          no_sanitize("thread"))) void *
__tsan_memset(void *to, int value, size_t size)
{
    simt_observe(to, size, SIMT_WRITE);
    return __builtin_memset(to, value, size);
}

SIMT_OBSERVER __tsan_init() {}
SIMT_OBSERVER __tsan_func_entry(void *) {}
SIMT_OBSERVER __tsan_func_exit() {}
#undef SIMT_OBSERVER
