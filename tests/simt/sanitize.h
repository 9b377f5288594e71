// SPDX-License-Identifier: Apache-2.0
// sanitize.h - what a kernel does when it runs into undefined behaviour.
//
// Kernels are compiled with -fsanitize=alignment,bounds,... and bring these
// functions along instead of the sanitizer's library, so that such an access
// ends the launch like any other fault. The structures are the compiler's.
#pragma once

#include "runtime.h"

struct simt_source {
    const char *file;
    unsigned line, column;
};

struct simt_type {
    unsigned short kind, info;
    char name[1];
};

struct simt_access {
    simt_source source;
    const simt_type *type;
    unsigned char log_alignment;
    unsigned char kind;
};

struct simt_arithmetic {
    simt_source source;
    const simt_type *type;
};

#define SIMT_HANDLER                                                           \
    extern "C" __attribute__((visibility("hidden"), used, noinline)) void

SIMT_HANDLER __ubsan_handle_type_mismatch_v1(const simt_access *access,
                                             uintptr_t address)
{
    simt_runtime_of_module->fault(
        "unaligned access to %s at 0x%llx, which is no multiple of %d, in "
        "line %u",
        access->type->name, static_cast<unsigned long long>(address),
        1 << access->log_alignment, access->source.line);
}

SIMT_HANDLER __ubsan_handle_out_of_bounds(const simt_arithmetic *array,
                                          uintptr_t index)
{
    simt_runtime_of_module->fault("index %lld is out of bounds of %s, in line %u",
                                  static_cast<long long>(index),
                                  array->type->name, array->source.line);
}

#define SIMT_ARITHMETIC(handler, what)                                         \
    SIMT_HANDLER __ubsan_handle_##handler(const simt_arithmetic *arithmetic,   \
                                          uintptr_t, uintptr_t)                \
    {                                                                          \
        simt_runtime_of_module->fault(what " of %s, in line %u",               \
                                      arithmetic->type->name,                  \
                                      arithmetic->source.line);                \
    }
SIMT_ARITHMETIC(add_overflow, "overflow of a sum")
SIMT_ARITHMETIC(sub_overflow, "overflow of a difference")
SIMT_ARITHMETIC(mul_overflow, "overflow of a product")
SIMT_ARITHMETIC(negate_overflow, "overflow of a negation")
SIMT_ARITHMETIC(divrem_overflow, "impossible division")
SIMT_ARITHMETIC(shift_out_of_bounds, "shift out of range")
#undef SIMT_ARITHMETIC
#undef SIMT_HANDLER
