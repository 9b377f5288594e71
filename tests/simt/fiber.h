/* SPDX-License-Identifier: Apache-2.0 */
/* fiber.h - device threads: stacks that are switched between by hand.
 *
 * The host thread that runs a kernel is a fiber too, so that a kernel is left
 * from any depth by switching to it. */
#ifndef SIMT_FIBER_H
#define SIMT_FIBER_H

#include <stddef.h>

typedef struct simt_fiber {
    void *saved; /* where it goes on */
    void *stack; /* lowest byte; NULL for a host thread */
    size_t stack_size;
    void *fake_stack; /* AddressSanitizer's */
} simt_fiber;

/* Stacks for `count` fibers, each above a page that may not be touched. 0 or
 * an errno. What fibers[] already has is kept. */
int simt_fiber_allocate(simt_fiber *fibers, size_t count);

/* Switching to a fiber for the first time calls entry, which must not return.
 * What the fiber did before is forgotten. */
void simt_fiber_start(simt_fiber *fiber, void (*entry)(void));

/* Goes on in `to`, until somebody switches back to `from`. */
void simt_fiber_switch(simt_fiber *from, simt_fiber *to);

/* Goes on in `to`; what is running will not be gone on with. */
void simt_fiber_leave(simt_fiber *to) __attribute__((noreturn));

#endif
