/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "asan.h"
#include "memory.h"
#include "settings.h"

#define ALIGNMENT 256u
#define GUARD 0xfe

typedef struct allocation {
    struct allocation *next;
    unsigned char *address;
    size_t size;
    unsigned char *area; /* its pages that may be touched */
    size_t area_size;
} allocation;

static allocation *allocations;
static size_t bytes_in_use;

#ifdef SIMT_ASAN

static int map(allocation *made)
{
    void *address;
    const int error = posix_memalign(&address, ALIGNMENT, made->size);
    made->area = made->address = address;
    made->area_size = made->size;
    return error;
}

static void unmap(allocation *old)
{
    free(old->address);
}

#else

static size_t round_up(size_t size, size_t unit)
{
    return (size + unit - 1) / unit * unit;
}

static int map(allocation *made)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t used = round_up(made->size, ALIGNMENT);
    made->area_size = round_up(used, page);
    unsigned char *const pages =
        mmap(NULL, made->area_size + 2 * page, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED)
        return ENOMEM;
    made->area = pages + page;
    made->address = made->area + made->area_size - used;
    if (mprotect(made->area, made->area_size, PROT_READ | PROT_WRITE) != 0) {
        munmap(pages, made->area_size + 2 * page);
        return ENOMEM;
    }
    memset(made->area, GUARD, (size_t)(made->address - made->area));
    memset(made->address + made->size, GUARD, used - made->size);
    return 0;
}

static void unmap(allocation *old)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    munmap(old->area - page, old->area_size + 2 * page);
}

#endif

int simt_memory_allocate(size_t size, void **address)
{
    if (size > simt_settings_get()->memory_bytes - bytes_in_use)
        return ENOMEM;
    allocation *const made = calloc(1, sizeof *made);
    if (made == NULL)
        return ENOMEM;
    made->size = size;
    const int error = map(made);
    if (error != 0) {
        free(made);
        return error;
    }
    memset(made->address, SIMT_POISON, size);
    made->next = allocations;
    allocations = made;
    bytes_in_use += size;
    *address = made->address;
    return 0;
}

int simt_memory_free(void *address)
{
    for (allocation **link = &allocations; *link != NULL;
         link = &(*link)->next) {
        allocation *const old = *link;
        if (old->address != address)
            continue;
        *link = old->next;
        bytes_in_use -= old->size;
        unmap(old);
        free(old);
        return 0;
    }
    return -1;
}

int simt_memory_holds(const void *address, size_t size)
{
    const uintptr_t first = (uintptr_t)address;
    for (const allocation *a = allocations; a != NULL; a = a->next) {
        const uintptr_t base = (uintptr_t)a->address;
        if (first >= base && first - base <= a->size &&
            size <= a->size - (first - base))
            return 1;
    }
    return 0;
}

static const void *find_damage(const unsigned char *first,
                               const unsigned char *end)
{
    for (; first < end; first++)
        if (*first != GUARD)
            return first;
    return NULL;
}

const void *simt_memory_damage(const void **base, size_t *size)
{
    for (const allocation *a = allocations; a != NULL; a = a->next) {
        const void *damage = find_damage(a->area, a->address);
        if (damage == NULL)
            damage = find_damage(a->address + a->size, a->area + a->area_size);
        if (damage != NULL) {
            *base = a->address;
            *size = a->size;
            return damage;
        }
    }
    return NULL;
}

void simt_memory_clear(void)
{
    while (allocations != NULL)
        simt_memory_free(allocations->address);
}

size_t simt_memory_live(void)
{
    size_t count = 0;
    for (const allocation *a = allocations; a != NULL; a = a->next)
        count++;
    return count;
}
