/* SPDX-License-Identifier: Apache-2.0 */
/* prune.c - what goes when a cache directory is to hold less. */
#include "config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "entry.h"
#include "files.h"
#include "prune.h"

typedef struct item_list {
    fex_directory_item *items;
    size_t count, room;
} item_list;

typedef struct pruning {
    const fex_directory *directory;
    const fex_prune *rule;
    uint64_t removed, left;
    int error;             /* the first, */
    char key[FEX_KEY_DIGITS + 1]; /* and what could not be removed */
} pruning;

static int add_item(void *user, const fex_directory_item *item)
{
    item_list *const list = user;
    if (list->count == list->room) {
        const size_t room = 2 * list->room + 64;
        void *const larger = realloc(list->items, room * sizeof *list->items);
        if (larger == NULL)
            return ENOMEM;
        list->items = larger;
        list->room = room;
    }
    list->items[list->count++] = *item;
    return 0;
}

static int by_use(const void *a, const void *b)
{
    const fex_directory_item *const first = a, *const second = b;
    if (first->last_used != second->last_used)
        return first->last_used < second->last_used ? -1 : 1;
    if (first->nanoseconds != second->nanoseconds)
        return first->nanoseconds < second->nanoseconds ? -1 : 1;
    return strcmp(first->key, second->key);
}

static int is_damaged(const fex_directory *directory, const char *key)
{
    unsigned char *bytes;
    size_t got, size;
    fex_entry entry;
    if (fex_directory_read(directory, key, FEX_ENTRY_MAX, &bytes, &got,
                           &size) != 0)
        return 1;
    const int sound = got == size &&
                      fex_entry_decode(bytes, size, &entry) == FEX_OK &&
                      fex_entry_check_key(&entry, key) == FEX_OK;
    free(bytes);
    return !sound;
}

static int must_go(const pruning *p, const fex_directory_item *item)
{
    return item->last_used < p->rule->before ||
           (p->rule->verify && is_damaged(p->directory, item->key));
}

static int may_go(const pruning *p, const fex_directory_item *item)
{
    return p->rule->spare == 0 || item->last_used < p->rule->spare;
}

static int is_kept(const pruning *p, const fex_directory_item *item)
{
    return p->rule->keep != NULL && p->rule->keep(p->rule->user, item->key);
}

static void remove_item(pruning *p, const fex_directory_item *item)
{
    const int error = fex_directory_remove(p->directory, item->key);
    if (error == 0) {
        p->removed++;
        p->left -= item->bytes;
    } else if (error == ENOENT) {
        /* Somebody else was quicker. */
        p->left -= item->bytes;
    } else if (p->error == 0) {
        p->error = error;
        memcpy(p->key, item->key, sizeof p->key);
    }
}

static void prune_items(pruning *p, item_list *list)
{
    size_t kept = 0;
    for (size_t i = 0; i < list->count; i++)
        p->left += list->items[i].bytes;
    if (list->count > 0)
        qsort(list->items, list->count, sizeof *list->items, by_use);
    for (size_t i = 0; i < list->count; i++) {
        if (is_kept(p, &list->items[i]))
            continue;
        if (must_go(p, &list->items[i]))
            remove_item(p, &list->items[i]);
        else if (may_go(p, &list->items[i]))
            list->items[kept++] = list->items[i];
    }
    for (size_t i = 0; i < kept && p->left > p->rule->max_bytes; i++)
        remove_item(p, &list->items[i]);
}

fex_status fex_prune_directory(const fex_directory *directory,
                               const fex_prune *rule, uint64_t *removed,
                               uint64_t *left)
{
    char buffer[128];
    item_list list = {0};
    pruning p = {.directory = directory, .rule = rule};
    fex_directory_sweep(directory);
    const int error = fex_directory_walk(directory, add_item, &list);
    if (error == 0)
        prune_items(&p, &list);
    free(list.items);
    *removed = p.removed;
    *left = p.left;
    if (error == ENOMEM)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory to prune");
    if (error != 0)
        return fex_fail(FEX_ERROR_IO, "cache directory %s: %s",
                        directory->path,
                        fex_files_reason(error, buffer, sizeof buffer));
    if (p.error != 0)
        return fex_fail(FEX_ERROR_IO, "cache entry %s: %s", p.key,
                        fex_files_reason(p.error, buffer, sizeof buffer));
    return FEX_OK;
}
