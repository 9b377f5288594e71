/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "kernel_set.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* The slot that holds `words`, or the free one where they would go. */
static size_t find_slot(const kernel_set *set, const char *words)
{
    size_t slot = XXH3_64bits(words, strlen(words)) % set->slot_count;
    while (set->slots[slot] != 0 &&
           strcmp(set->entries[set->slots[slot] - 1].words, words) != 0)
        slot = (slot + 1) % set->slot_count;
    return slot;
}

/* Makes room for one more; at most half of the slots are ever taken. */
static fex_status reserve(kernel_set *set)
{
    if (2 * (set->count + 1) <= set->slot_count)
        return FEX_OK;
    const size_t slot_count = set->slot_count > 0 ? 2 * set->slot_count : 64;
    kernel_entry *entries =
        realloc(set->entries, slot_count / 2 * sizeof *entries);
    if (entries != NULL)
        set->entries = entries;
    size_t *slots = calloc(slot_count, sizeof *slots);
    if (entries == NULL || slots == NULL) {
        free(slots);
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "out of memory");
    }
    free(set->slots);
    set->slots = slots;
    set->slot_count = slot_count;
    for (size_t i = 0; i < set->count; i++)
        slots[find_slot(set, entries[i].words)] = i + 1;
    return FEX_OK;
}

fex_status kernel_set_put(kernel_set *set, const char *words,
                          fex_prewarm_outcome outcome, size_t *position,
                          int *added)
{
    return_if_error(reserve(set));
    const size_t slot = find_slot(set, words);
    *added = set->slots[slot] == 0;
    if (*added) {
        char *copy = strdup(words);
        if (copy == NULL)
            return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "out of memory");
        set->entries[set->count] = (kernel_entry){copy, outcome, 0};
        set->slots[slot] = ++set->count;
    }
    *position = set->slots[slot] - 1;
    return FEX_OK;
}

fex_prewarm_counts kernel_set_count(const kernel_set *set)
{
    fex_prewarm_counts counts = {.size = sizeof counts,
                                 .requested = set->count};
    for (size_t i = 0; i < set->count; i++) {
        const fex_prewarm_outcome outcome = set->entries[i].outcome;
        counts.hit += outcome == FEX_PREWARM_HIT;
        counts.compiled += outcome == FEX_PREWARM_COMPILED;
        counts.missing += outcome == FEX_PREWARM_MISSING;
        counts.failed += outcome == FEX_PREWARM_FAILED;
    }
    return counts;
}

void kernel_set_free(kernel_set *set)
{
    for (size_t i = 0; i < set->count; i++)
        free(set->entries[i].words);
    free(set->entries);
    free(set->slots);
    *set = (kernel_set){.count = 0};
}
