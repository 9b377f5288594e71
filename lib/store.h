/* SPDX-License-Identifier: Apache-2.0 */
/* store.h - compiled kernels by key: one user tier, any read-only tiers.
 *
 * What cannot be read, is not to be trusted, or is not what its name says, is
 * a miss, with one warning. Looking takes no lock on disk. */
#ifndef FEX_STORE_H
#define FEX_STORE_H

#include <stdint.h>

#include "cubin.h"
#include "log.h"
#include "specialize.h"
#include "status.h"
#include "tiers.h"

typedef struct fex_store fex_store;

typedef struct fex_store_options {
    const char *user_dir;       /* NULL: no user tier */
    const char *read_only_path; /* directories and bundle files separated by
                                 * ':', or NULL */
    const char *named_by;       /* the variable or option that gave them, which
                                 * is told of one that is missing, or NULL */
    uint64_t max_bytes;         /* budget of the user tier */
    int shared;                 /* a group shares the directories */
    const fex_log *log;         /* outlives the store */
    int lock_wait_ms;           /* 0: a minute */
    int compiler_version_min;   /* 0: FEX_COMPILER_VERSION_MIN */
} fex_store_options;

/* Touches no file: a directory is made when something is first written. */
fex_status fex_store_create(const fex_store_options *options,
                            fex_store **store);
void fex_store_destroy(fex_store *store);

/* Why an entry is looked for. */
typedef enum fex_store_use {
    FEX_STORE_LOAD, /* to be run: counted, and kept in this run */
    FEX_STORE_KEEP, /* to be there for others: kept in this run */
    FEX_STORE_LOOK  /* only to know; nothing is written */
} fex_store_use;

/* Looks in every tier, the user tier first. *found tells whether *cubin was
 * set; the caller frees it. */
void fex_store_find(fex_store *store, const fex_recipe *recipe,
                    fex_store_use use, fex_cubin *cubin, int *found);

/* The right to make an entry: of all processes and threads one at a time has
 * it, unless it took too long or the file system has no locks. Once it has it,
 * a caller looks in the user tier again, where somebody may have put the entry
 * meanwhile; damage has been told of before and is passed over in silence. */
typedef fex_directory_lock fex_store_lock;
void fex_store_lock_key(fex_store *store, const char *key,
                        fex_store_lock *lock);
void fex_store_unlock_key(const char *key, fex_store_lock *lock);
void fex_store_find_again(fex_store *store, const fex_recipe *recipe,
                          fex_store_use use, fex_cubin *cubin, int *found);

/* Whether an entry could be put, found out by writing a file: asked before what
 * is made only to be kept. FEX_ERROR_IO as of fex_store_put, with no warning. */
fex_status fex_store_try(fex_store *store);

/* Writes an entry to the user tier, and makes room there if its budget is
 * exceeded. FEX_ERROR_IO says what went wrong, and is logged as a warning once
 * in the life of a store; nothing is left behind. */
fex_status fex_store_put(fex_store *store, const fex_recipe *recipe,
                         const fex_cubin *cubin);
fex_status fex_store_put_entry(fex_store *store, const char *key,
                               const void *bytes, size_t size);

/* For walking through entries, and for adding tiers. */
fex_tiers *fex_store_tiers(fex_store *store);

/* fex_cache_prune and fex_cache_clear. */
fex_status fex_store_prune(fex_store *store, uint64_t max_bytes,
                           int64_t older_than, uint64_t *removed);
fex_status fex_store_clear(fex_store *store, uint64_t *removed);

/* The tiers, as fex_context_info shows them. */
void fex_store_paths(const fex_store *store, char *user_dir, size_t user_size,
                     char *read_only, size_t read_only_size);

/* How many entries were refused. */
uint64_t fex_store_damaged(const fex_store *store);

#endif
