/* SPDX-License-Identifier: Apache-2.0 */
/* files.h - what a cache needs of a file system: reading only what can be
 * trusted, replacing files whole, and locks that nothing can hold for ever.
 *
 * Functions return 0 or an errno value. Names are relative to an open
 * directory, and the last part of a name is never followed if it is a symbolic
 * link. Calls interrupted by a signal are made again. */
#ifndef FEX_FILES_H
#define FEX_FILES_H

#include <stddef.h>
#include <sys/stat.h>

/* Whose files are trusted besides the user's own. Nothing that anybody may
 * write to ever is; what a group may write to is with FEX_TRUST_GROUP only. */
enum {
    FEX_TRUST_ROOT = 1, /* the superuser's */
    FEX_TRUST_GROUP = 2 /* everybody's: a group shares its cache */
};

/* Opens a directory or a regular file for reading. EPERM if it is not to be
 * trusted, EINVAL if it is of another kind. */
int fex_files_open_directory(int parent, const char *name, unsigned trust,
                             int *directory);
int fex_files_open(int parent, const char *name, unsigned trust, int *file,
                   struct stat *status);

/* Why EPERM was given, and what would mend it. */
void fex_files_explain_trust(const struct stat *status, unsigned trust,
                             char *text, size_t size);

/* Reads until size bytes are there or the file ends. */
int fex_files_read(int file, void *bytes, size_t size, size_t *got);

/* Makes a directory, if there is none, with those above it; private, or the
 * group's if trust says so. */
int fex_files_make_directory(const char *path, unsigned trust);

/* Puts bytes under a name in one step: whoever looks finds the old file, or
 * none, or the new one whole. A directory in the way is removed. On failure
 * what was there is unchanged. */
int fex_files_replace(int directory, const char *name, const void *bytes,
                      size_t size, mode_t mode);

/* Finds out whether that could be done: writes a file and removes it. */
int fex_files_try_writing(int directory, mode_t mode);

/* Removes a file, or a directory and the files in it. */
int fex_files_remove(int directory, const char *name);

/* Removes a temporary file or a lock, named by fex_files_is_temporary, whose
 * maker is gone; 1 if it did. */
int fex_files_is_temporary(const char *name);
int fex_files_sweep(int directory, const char *name);

/* Locks a name among processes and threads, waiting at most wait_ms
 * milliseconds. The lock dies with its holder. ETIMEDOUT if it was not to be
 * had in time, another error if this file system has no locks. */
int fex_files_lock(int directory, const char *name, mode_t mode, int wait_ms,
                   int *lock);
void fex_files_unlock(int directory, const char *name, int lock);

/* An errno value of these functions in words; static or in buffer. */
const char *fex_files_reason(int error, char *buffer, size_t size);

#endif
