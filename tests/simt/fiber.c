/* SPDX-License-Identifier: Apache-2.0 */
/* fiber.c - see fiber.h. A switch saves the registers that a function call
 * preserves on the old stack and takes them from the new one; the signal mask,
 * which swapcontext changes by a system call, stays as it is. */
#include "config.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "asan.h"
#include "fiber.h"

#ifdef SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define STACK_SIZE ((size_t)256 * 1024) /* frames grow by their red zones */
#else
#define STACK_SIZE ((size_t)64 * 1024)
#endif

/* Saves what is running in *from and goes on with `to`. */
void simt_switch_stack(void **from, void *to);
/* The first address a new fiber returns to. */
void simt_first_switch(void);

#if defined(__x86_64__)

#define SAVED_WORDS 8 /* 6 registers, the address to return to, alignment */
#define RETURN_WORD 6

__asm__(".text\n"
        ".globl simt_switch_stack\n"
        ".hidden simt_switch_stack\n"
        ".type simt_switch_stack, @function\n"
        "simt_switch_stack:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size simt_switch_stack, .-simt_switch_stack\n");

#elif defined(__aarch64__)

#define SAVED_WORDS 20 /* x19 to x30, d8 to d15 */
#define RETURN_WORD 11

__asm__(".text\n"
        ".globl simt_switch_stack\n"
        ".hidden simt_switch_stack\n"
        ".type simt_switch_stack, %function\n"
        "simt_switch_stack:\n"
        "    sub sp, sp, #160\n"
        "    stp x19, x20, [sp, #0]\n"
        "    stp x21, x22, [sp, #16]\n"
        "    stp x23, x24, [sp, #32]\n"
        "    stp x25, x26, [sp, #48]\n"
        "    stp x27, x28, [sp, #64]\n"
        "    stp x29, x30, [sp, #80]\n"
        "    stp d8, d9, [sp, #96]\n"
        "    stp d10, d11, [sp, #112]\n"
        "    stp d12, d13, [sp, #128]\n"
        "    stp d14, d15, [sp, #144]\n"
        "    mov x9, sp\n"
        "    str x9, [x0]\n"
        "    mov sp, x1\n"
        "    ldp x19, x20, [sp, #0]\n"
        "    ldp x21, x22, [sp, #16]\n"
        "    ldp x23, x24, [sp, #32]\n"
        "    ldp x25, x26, [sp, #48]\n"
        "    ldp x27, x28, [sp, #64]\n"
        "    ldp x29, x30, [sp, #80]\n"
        "    ldp d8, d9, [sp, #96]\n"
        "    ldp d10, d11, [sp, #112]\n"
        "    ldp d12, d13, [sp, #128]\n"
        "    ldp d14, d15, [sp, #144]\n"
        "    add sp, sp, #160\n"
        "    ret\n"
        ".size simt_switch_stack, .-simt_switch_stack\n");

#else
#error "the simulated device needs simt_switch_stack for this architecture"
#endif

/* A fiber's first argument, since a first switch passes none. */
static __thread void (*first_entry)(void);

#ifdef SIMT_ASAN

/* The sanitizer has to know on which stack the program is. The host thread's
 * bounds are what it reports when that is left for the first time. */
static __thread const void *host_stack;
static __thread size_t host_stack_size;

static void announce(void **fake_stack, const simt_fiber *to)
{
    const void *const stack = to->stack != NULL ? to->stack : host_stack;
    const size_t size = to->stack != NULL ? to->stack_size : host_stack_size;
    __sanitizer_start_switch_fiber(fake_stack, stack, size);
}

static void arrive(void *fake_stack)
{
    const void *stack;
    size_t size;
    __sanitizer_finish_switch_fiber(fake_stack, &stack, &size);
    if (host_stack == NULL) {
        host_stack = stack;
        host_stack_size = size;
    }
}

#else

static void announce(void **fake_stack, const simt_fiber *to)
{
    (void)fake_stack;
    (void)to;
}

static void arrive(void *fake_stack)
{
    (void)fake_stack;
}

#endif

void simt_first_switch(void)
{
    arrive(NULL);
    first_entry();
}

int simt_fiber_allocate(simt_fiber *fibers, size_t count)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t i = 0; i < count; i++) {
        if (fibers[i].stack != NULL)
            continue;
        char *const area =
            mmap(NULL, page + STACK_SIZE, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
        if (area == MAP_FAILED)
            return errno;
        if (mprotect(area, page, PROT_NONE) != 0) {
            munmap(area, page + STACK_SIZE);
            return errno;
        }
        fibers[i].stack = area + page;
        fibers[i].stack_size = STACK_SIZE;
    }
    return 0;
}

void simt_fiber_start(simt_fiber *fiber, void (*entry)(void))
{
    first_entry = entry;
#ifdef SIMT_ASAN
    /* A fiber that was left for good has not tidied up its frames. */
    __asan_unpoison_memory_region(fiber->stack, fiber->stack_size);
    fiber->fake_stack = NULL;
#endif
    /* Stacks are a power of two apart: without a colour, the same frame of
     * all of them would fall into one set of the processor's cache. */
    const size_t colour = (uintptr_t)fiber->stack / STACK_SIZE % 16 * 192;
    uintptr_t *const top =
        (uintptr_t *)((char *)fiber->stack + fiber->stack_size - colour);
    uintptr_t *const frame = top - SAVED_WORDS - 2;
    memset(frame, 0, (SAVED_WORDS + 2) * sizeof *frame);
    frame[RETURN_WORD] = (uintptr_t)&simt_first_switch;
    fiber->saved = frame;
}

void simt_fiber_switch(simt_fiber *from, simt_fiber *to)
{
    announce(&from->fake_stack, to);
    simt_switch_stack(&from->saved, to->saved);
    arrive(from->fake_stack);
}

void simt_fiber_leave(simt_fiber *to)
{
    void *unused;
    announce(NULL, to);
    simt_switch_stack(&unused, to->saved);
    __builtin_unreachable();
}
