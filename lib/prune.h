/* SPDX-License-Identifier: Apache-2.0 */
/* prune.h - what goes when a cache directory is to hold less. */
#ifndef FEX_PRUNE_H
#define FEX_PRUNE_H

#include "directory.h"
#include "status.h"

typedef struct fex_prune {
    uint64_t max_bytes; /* what may be left */
    int64_t before;     /* what was last used earlier goes anyway; 0: none */
    int64_t spare;      /* what was used since is kept; 0: spare nothing */
    int verify;         /* what is damaged goes anyway */
    /* Entries it returns 1 for are kept whatever the rest says; may be NULL. */
    int (*keep)(void *user, const char *key);
    void *user;
} fex_prune;

/* Removes leftovers, then entries, the least recently used first. *removed
 * gets how many, *left the bytes of the others.
 *
 * FEX_OK, FEX_ERROR_OUT_OF_MEMORY, FEX_ERROR_IO (something could not be
 * removed; everything else was) */
fex_status fex_prune_directory(const fex_directory *directory,
                               const fex_prune *rule, uint64_t *removed,
                               uint64_t *left);

#endif
