/* SPDX-License-Identifier: Apache-2.0 */
/* tier.h - one place to look for entries: a directory, a bundle file, or a
 * bundle in memory, told apart when it is first looked into.
 *
 * A bundle file is mapped, not read. Replacing it by renaming is harmless: the
 * old one stays in use. Functions return 0 or an errno value, EBADMSG for a
 * damaged bundle: then fex_last_error() says what is wrong. */
#ifndef FEX_TIER_H
#define FEX_TIER_H

#include <stdatomic.h>
#include <pthread.h>

#include "bundle.h"
#include "directory.h"

typedef enum fex_tier_kind {
    FEX_TIER_UNKNOWN = 0, /* nothing is there yet */
    FEX_TIER_DIRECTORY,
    FEX_TIER_BUNDLE,
    FEX_TIER_REFUSED /* and never looked into again */
} fex_tier_kind;

typedef struct fex_tier {
    char *path; /* owned */
    const char *named_by; /* the variable or option; NULL: it is a default */
    int writable;         /* entries are made here: no bundle will do */
    fex_directory directory;
    pthread_mutex_t lock; /* over finding out the kind */
    _Atomic fex_tier_kind kind;
    int missed;    /* that it is not there has been told */
    char why[256]; /* it is refused */
    fex_bundle bundle;
    int file; /* what is mapped, or -1 */
} fex_tier;

/* Touches no file. ENOMEM, or 0. named_by outlives the tier. */
int fex_tier_init(fex_tier *tier, const char *path, const char *named_by,
                  unsigned trust);
/* A tier to write to. */
int fex_tier_init_user(fex_tier *tier, const char *path, unsigned trust);
/* A tier that is a bundle in memory, already checked. */
int fex_tier_init_bundle(fex_tier *tier, const fex_bundle *bundle);
void fex_tier_free(fex_tier *tier);

/* Finds out the kind, once. If the tier is refused just now, or not there and
 * of unknown kind for the first time, the reason, and 0 ever after. */
int fex_tier_open(fex_tier *tier);

/* An errno value of these functions in words; static or in buffer. */
const char *fex_tier_reason(int error, char *buffer, size_t size);

/* Reads at most limit bytes of an entry; as fex_directory_read. */
int fex_tier_read(fex_tier *tier, const char *key, size_t limit,
                  unsigned char **bytes, size_t *got, size_t *size);

/* As fex_directory_walk. */
int fex_tier_walk(fex_tier *tier, fex_directory_visitor visitor, void *user);

#endif
