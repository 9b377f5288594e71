/* SPDX-License-Identifier: Apache-2.0 */
/* directory.h - a cache directory: entries by key, when each was last used, a
 * lock for each.
 *
 *     DIR/ab/abcd....fexk        the entry of key abcd...
 *     DIR/ab/abcd....fexk.used   one byte for each load from disk; its time is
 *                                the time of the last use
 *     DIR/ab/abcd....lock        exists while somebody makes the entry
 *     DIR/ab/...tmp              being written
 *
 * Counting by appending a byte is whole whatever happens, needs no lock, and
 * leaves the entry alone. Functions return 0 or an errno value. */
#ifndef FEX_DIRECTORY_H
#define FEX_DIRECTORY_H

#include <stddef.h>
#include <stdint.h>

#define FEX_KEY_DIGITS 32

typedef struct fex_directory {
    const char *path;
    unsigned trust; /* FEX_TRUST_... */
} fex_directory;

/* What a walk tells of an entry without reading it. */
typedef struct fex_directory_item {
    char key[FEX_KEY_DIGITS + 1];
    uint64_t bytes;
    int64_t last_used; /* seconds since 1970 */
    int64_t nanoseconds;
    uint64_t hits;
} fex_directory_item;

/* Returns 0 to go on. */
typedef int (*fex_directory_visitor)(void *user,
                                     const fex_directory_item *item);

/* The file of an entry; 0 if the name is too long. */
int fex_directory_file(const fex_directory *directory, const char *key,
                       char *path, size_t size);

/* Reads at most limit bytes of an entry; *size is how many there are in all.
 * ENOENT if there is no such entry. The caller frees *bytes. */
int fex_directory_read(const fex_directory *directory, const char *key,
                       size_t limit, unsigned char **bytes, size_t *got,
                       size_t *size);

/* Makes the directory if need be. */
int fex_directory_write(const fex_directory *directory, const char *key,
                        const void *bytes, size_t size);

/* Finds out whether entries can be written. Makes the directory if need be. */
int fex_directory_try_writing(const fex_directory *directory);

/* Stamps an entry as used now; with `count` as loaded once more. */
void fex_directory_stamp(const fex_directory *directory, const char *key,
                         int count);

int fex_directory_remove(const fex_directory *directory, const char *key);

/* Only one of all processes and threads at a time holds the lock of a key, but
 * see fex_files_lock. Makes the directory if need be. */
typedef struct fex_directory_lock {
    int shard; /* open directory, or -1: not held */
    int file;
} fex_directory_lock;

int fex_directory_lock_key(const fex_directory *directory, const char *key,
                           int wait_ms, fex_directory_lock *lock);
void fex_directory_unlock_key(const char *key, fex_directory_lock *lock);

/* Visits all entries, sorted by key, until the visitor returns another number
 * than 0, which is then returned. A directory that is not there is empty. */
int fex_directory_walk(const fex_directory *directory,
                       fex_directory_visitor visitor, void *user);

/* Removes temporary files and locks whose maker is gone, and the stamps of
 * entries that are. */
void fex_directory_sweep(const fex_directory *directory);

#endif
