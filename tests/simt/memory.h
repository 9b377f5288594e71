/* SPDX-License-Identifier: Apache-2.0 */
/* memory.h - device memory: host memory with red zones.
 *
 * With AddressSanitizer its allocator's red zones do. Without, each allocation
 * ends as close as its alignment permits to a page that may not be touched,
 * and the rest of its own pages holds a pattern that is looked at now and
 * then. Fresh memory is all ones: a NaN of any type, an empty slot as an
 * index. */
#ifndef SIMT_MEMORY_H
#define SIMT_MEMORY_H

#include <stddef.h>

#define SIMT_POISON 0xff

/* 0 or an errno; ENOMEM also beyond FLASHEXPERT_SIM_MEMORY. */
int simt_memory_allocate(size_t size, void **address);

/* -1 if there is no allocation at this address. */
int simt_memory_free(void *address);

/* Whether a range lies in one allocation. */
int simt_memory_holds(const void *address, size_t size);

/* Looks at the patterns of all allocations. Returns NULL, or a byte that was
 * written outside; *base and *size then tell of which allocation. */
const void *simt_memory_damage(const void **base, size_t *size);

size_t simt_memory_live(void);
void simt_memory_clear(void); /* frees all */

#endif
