/* SPDX-License-Identifier: Apache-2.0 */
/* runtime.h - what a simulated kernel and the simulated driver know of each
 * other.
 *
 * A "cubin" of the simulator is a shared object. Its kernels reach the driver
 * through one pointer, simt_runtime_of_module, which the driver sets when it
 * loads the module, and the driver finds each kernel under the name
 * SIMT_KERNEL_PREFIX + its own. Included by both compilers. */
#ifndef SIMT_RUNTIME_H
#define SIMT_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SIMT_RUNTIME_SYMBOL "simt_runtime_of_module"
#define SIMT_KERNEL_PREFIX "simt_kernel_"

typedef struct simt_dim3 {
    unsigned x, y, z;
} simt_dim3;

typedef struct simt_kernel {
    void (*run)(const void *args); /* calls the kernel with a copy of *args */
    size_t args_size;
    int max_threads; /* of __launch_bounds__, or 0 */
} simt_kernel;

/* What the lanes named in a mask do together. */
enum simt_warp_operation {
    SIMT_WARP_SYNC,
    SIMT_WARP_ALL,
    SIMT_WARP_ANY,
    SIMT_WARP_BALLOT,
    SIMT_WARP_SHUFFLE,
    SIMT_WARP_SHUFFLE_UP,
    SIMT_WARP_SHUFFLE_DOWN,
    SIMT_WARP_SHUFFLE_XOR,
    SIMT_WARP_MATCH_ANY
};

/* One lane's part in such an operation. */
typedef struct simt_warp_call {
    enum simt_warp_operation operation;
    unsigned mask;
    uint64_t value;   /* predicate, or the bits of the value */
    unsigned operand; /* of a shuffle: lane, distance or lane mask */
    unsigned width;   /* of a shuffle */
    int line;
} simt_warp_call;

/* What all threads of a block are told when they meet; those of a cluster only
 * meet. */
enum simt_block_operation {
    SIMT_BLOCK_SYNC,
    SIMT_BLOCK_COUNT,
    SIMT_BLOCK_AND,
    SIMT_BLOCK_OR
};

/* What a thread does with memory. */
enum simt_touch { SIMT_READ, SIMT_WRITE, SIMT_UPDATE };

/* What the running thread sees. The members before the functions change from
 * one thread to the next. */
typedef struct simt_runtime {
    simt_dim3 thread_index;
    simt_dim3 block_index;
    simt_dim3 block_size;
    simt_dim3 grid_size;
    unsigned cluster_rank; /* of the block, among cluster_size */
    unsigned cluster_size;
    void *dynamic_shared;

    uint64_t (*warp)(const simt_warp_call *call);
    int (*block)(enum simt_block_operation operation, int predicate, int line);
    void (*cluster)(int line);
    /* Where the block of that rank has what is at `address` of this block's
     * shared memory. */
    void *(*remote)(const void *address, size_t size, unsigned rank, int line);
    /* Lets others run: for a thread that waits for something they change. Those
     * who change such a thing count it in `events`. */
    void (*look_again)(int line);
    uint64_t events;
    /* Lets others run now and then. */
    void (*lend_turn)(void);
    /* Told of accesses, if the kernel was compiled so; `atomic` is set meanwhile
     * by a thread whose accesses are one. */
    void (*access)(const void *address, size_t size, enum simt_touch touch);
    volatile int atomic;
    /* And of other ways for threads to meet than those above: what the running
     * thread's warp did is told by a barrier in memory, or found out from it;
     * its lanes have met. `at_once`: all that it did, not only until they met. */
    void (*tell)(const void *barrier, int at_once);
    void (*learn)(const void *barrier);
    void (*lanes_met)(void);
    /* Waits for the launch ahead of a dependent one. */
    void (*primary)(void);
    uint64_t (*clock)(void);
    /* Reports a fault of the running thread and ends the launch. */
    void (*fault)(const char *format, ...)
        __attribute__((noreturn, format(printf, 1, 2)));
} simt_runtime;

#ifdef __cplusplus
}
#endif

#endif
