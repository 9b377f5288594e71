/* SPDX-License-Identifier: Apache-2.0 */
/* store.h - compiled kernels on disk: one user tier, any read-only tiers.
 *
 * An entry is the file TIER/ab/abcd...fexk named by its key. It is written
 * whole under another name and renamed, so that a reader sees all of it or
 * none. What cannot be read, or is not what its name says, is a miss. */
#ifndef FEX_STORE_H
#define FEX_STORE_H

#include <stdint.h>

#include "cubin.h"
#include "log.h"
#include "specialize.h"
#include "status.h"

typedef struct fex_store fex_store;

typedef struct fex_store_options {
    const char *user_dir;       /* NULL: no user tier */
    const char *read_only_path; /* directories separated by ':', or NULL */
    uint64_t max_bytes;         /* budget of the user tier */
    int shared;                 /* accept directories of a group */
    const fex_log *log;         /* outlives the store */
} fex_store_options;

/* Touches no file: a directory is made when something is first written. */
fex_status fex_store_create(const fex_store_options *options,
                            fex_store **store);
void fex_store_destroy(fex_store *store);

/* Looks in every tier, the user tier first. *found tells whether *cubin was
 * set; the caller frees it. Damaged entries are logged, counted and passed
 * over. FEX_OK or FEX_ERROR_OUT_OF_MEMORY. */
fex_status fex_store_find(fex_store *store, const fex_recipe *recipe,
                          fex_cubin *cubin, int *found);

/* Whether a tier has a sound entry, without handing it out. */
fex_status fex_store_has(fex_store *store, const fex_recipe *recipe,
                         int *found);

/* Writes an entry to the user tier. FEX_ERROR_IO says what went wrong; nothing
 * is left behind. */
fex_status fex_store_put(fex_store *store, const fex_recipe *recipe,
                         const fex_cubin *cubin);

/* The tiers, as fex_context_info shows them. */
void fex_store_paths(const fex_store *store, char *user_dir, size_t user_size,
                     char *read_only, size_t read_only_size);

/* How many entries were refused. */
uint64_t fex_store_damaged(const fex_store *store);

#endif
