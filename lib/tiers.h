/* SPDX-License-Identifier: Apache-2.0 */
/* tiers.h - the places to look for entries, in order: the user tier, if there
 * is one, then read-only ones. Tiers are added and never removed, so that they
 * are gone through without a lock. */
#ifndef FEX_TIERS_H
#define FEX_TIERS_H

#include "log.h"
#include "status.h"
#include "tier.h"

#define FEX_TIERS_MAX 32

typedef struct fex_tiers {
    const fex_log *log;
    pthread_mutex_t lock; /* over adding */
    fex_tier items[FEX_TIERS_MAX];
    atomic_size_t count;
    int has_user_tier; /* it is items[0] */
} fex_tiers;

/* Touches no file. user_dir may be NULL; read_only_path is separated by ':',
 * and named_by is the variable or option that gave it, or NULL. On failure
 * nothing is held. */
fex_status fex_tiers_init(fex_tiers *tiers, const char *user_dir,
                          const char *read_only_path, const char *named_by,
                          int shared, const fex_log *log);
void fex_tiers_free(fex_tiers *tiers);

/* NULL if there is none. */
fex_tier *fex_tiers_user(fex_tiers *tiers);

/* Opens a tier. That it cannot be used, or that one somebody has named is not
 * there, is logged once; 0 if it is refused just now. */
int fex_tiers_open(const fex_tiers *tiers, fex_tier *tier);

/* Adds a bundle in memory as the last. */
fex_status fex_tiers_attach(fex_tiers *tiers, const fex_bundle *bundle);

/* An entry met on a walk. */
typedef struct fex_tiers_item {
    const char *tier;
    char path[4096]; /* its file, or the bundle's */
    fex_directory_item file;
    unsigned char *bytes; /* the first `got` of `size`: its head, or all with
                           * `whole`; NULL if unreadable */
    size_t got, size;
} fex_tiers_item;

/* Visits the entries of all tiers, tier by tier, sorted by key. The visitor
 * returns FEX_OK to go on; any other status ends the walk and is returned. */
typedef fex_status (*fex_tiers_visitor)(void *user,
                                        const fex_tiers_item *item);
fex_status fex_tiers_walk(fex_tiers *tiers, int whole,
                          fex_tiers_visitor visitor, void *user);

#endif
