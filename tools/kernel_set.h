/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_set.h - distinct kernels by their words, each with what became of
 * it. Several shapes need the same kernel; a report counts it once. */
#ifndef TOOL_KERNEL_SET_H
#define TOOL_KERNEL_SET_H

#include "status.h"

typedef struct kernel_entry {
    char *words; /* "sddmm_gather hidden_size=1024 ... sm_90a" */
    fex_prewarm_outcome outcome;
    int reported; /* the caller's; 0 at first */
} kernel_entry;

typedef struct kernel_set {
    kernel_entry *entries; /* in the order of their coming */
    size_t count;
    size_t *slots; /* hash table of positions + 1; 0: free */
    size_t slot_count;
} kernel_set;

/* Finds a kernel or adds it with this outcome. *added says which; *position is
 * its place in entries. FEX_ERROR_OUT_OF_MEMORY. */
fex_status kernel_set_put(kernel_set *set, const char *words,
                          fex_prewarm_outcome outcome, size_t *position,
                          int *added);

/* Counts by outcome. */
fex_prewarm_counts kernel_set_count(const kernel_set *set);

void kernel_set_free(kernel_set *set);

#endif
