/* SPDX-License-Identifier: Apache-2.0 */
/* architecture.c - the table of GPU architectures. */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "architecture.h"

/* Ascending. Hopper is compiled for with its own instructions (sm_90a); a
 * plain sm_90 is not offered, since nothing but Hopper would run it. */
static const fex_architecture table[] = {
    {"sm_75", 7, 5, 64 << 10},    {"sm_80", 8, 0, 163 << 10},
    {"sm_86", 8, 6, 99 << 10},    {"sm_87", 8, 7, 163 << 10},
    {"sm_89", 8, 9, 99 << 10},    {"sm_90a", 9, 0, 227 << 10},
    {"sm_100", 10, 0, 227 << 10}, {"sm_103", 10, 3, 227 << 10},
    {"sm_110", 11, 0, 99 << 10},  {"sm_120", 12, 0, 99 << 10},
    {"sm_121", 12, 1, 99 << 10},
};
#define COUNT (sizeof table / sizeof *table)

const fex_architecture *fex_architecture_table(size_t *count)
{
    *count = COUNT;
    return table;
}

const fex_architecture *fex_architecture_by_name(const char *name)
{
    const char *const prefix = "sm_";
    if (strncmp(name, prefix, strlen(prefix)) == 0)
        name += strlen(prefix);
    for (size_t i = 0; i < COUNT; i++)
        if (strcmp(name, table[i].name + strlen(prefix)) == 0)
            return &table[i];
    return NULL;
}

/* Every name, as "sm_75, sm_80, ..."; cut if size is too small. */
static void list_names(char *names, size_t size)
{
    size_t length = 0;
    for (size_t i = 0; i < COUNT && length < size; i++)
        length += (size_t)snprintf(names + length, size - length, "%s%s",
                                   i > 0 ? ", " : "", table[i].name);
}

fex_status fex_architecture_find(const char *name,
                                 const fex_architecture **found)
{
    char names[16 * COUNT];
    *found = fex_architecture_by_name(name);
    if (*found != NULL)
        return FEX_OK;
    list_names(names, sizeof names);
    return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                    "'%s' is no known architecture (%s)", name, names);
}

const fex_architecture *fex_architecture_of_device(int major, int minor)
{
    const fex_architecture *best = NULL;
    for (size_t i = 0; i < COUNT; i++)
        if (table[i].major == major && table[i].minor <= minor)
            best = &table[i];
    return best;
}
