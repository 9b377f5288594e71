/* SPDX-License-Identifier: Apache-2.0 */
/* files.c - trusted reading, whole writing and locks for the cache. */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "files.h"

#define TEMPORARY_SUFFIX ".tmp"
#define LOCK_SUFFIX ".lock"
/* Where locks do not work, what is older than this has no maker any more. */
#define ABANDONED_SECONDS 3600

static int open_retrying(int parent, const char *name, int flags, mode_t mode)
{
    int file;
    do
        file = openat(parent, name, flags | O_CLOEXEC | O_NOFOLLOW, mode);
    while (file < 0 && errno == EINTR);
    return file;
}

static int flock_retrying(int file, int operation)
{
    int result;
    do
        result = flock(file, operation);
    while (result != 0 && errno == EINTR);
    return result == 0 ? 0 : errno;
}

/* ---- Trust and reading -------------------------------------------------- */

static int has_trusted_owner(const struct stat *status, unsigned trust)
{
    return status->st_uid == geteuid() || (trust & FEX_TRUST_GROUP) != 0 ||
           ((trust & FEX_TRUST_ROOT) != 0 && status->st_uid == 0);
}

static mode_t forbidden_mode(unsigned trust)
{
    return (trust & FEX_TRUST_GROUP) != 0 ? S_IWOTH : S_IWOTH | S_IWGRP;
}

static int is_trusted(const struct stat *status, unsigned trust)
{
    return has_trusted_owner(status, trust) &&
           (status->st_mode & forbidden_mode(trust)) == 0;
}

void fex_files_explain_trust(const struct stat *status, unsigned trust,
                             char *text, size_t size)
{
    const unsigned mode = (unsigned)status->st_mode & 07777;
    if (!has_trusted_owner(status, trust))
        snprintf(text, size, "it belongs to user %lu (chown mends that)",
                 (unsigned long)status->st_uid);
    else if ((status->st_mode & S_IWOTH) != 0)
        snprintf(text, size,
                 "everybody may write to it (mode %04o; chmod go-w mends that)",
                 mode);
    else
        snprintf(text, size,
                 "a group may write to it (mode %04o; chmod g-w mends that, "
                 "FLASHEXPERT_CACHE_SHARED=1 allows it)",
                 mode);
}

static int is_link(int parent, const char *name)
{
    struct stat status;
    return fstatat(parent, name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
           S_ISLNK(status.st_mode);
}

static int open_kind(int parent, const char *name, int flags, mode_t kind,
                     unsigned trust, int *file, struct stat *status)
{
    int error = 0;
    const int opened = open_retrying(parent, name, O_RDONLY | flags, 0);
    if (opened < 0) {
        /* With O_DIRECTORY a link is reported as "not a directory". */
        error = errno;
        return error == ENOTDIR && is_link(parent, name) ? ELOOP : error;
    }
    if (fstat(opened, status) != 0)
        error = errno;
    else if ((status->st_mode & S_IFMT) != kind)
        error = EINVAL;
    else if (!is_trusted(status, trust))
        error = EPERM;
    if (error != 0) {
        close(opened);
        return error;
    }
    *file = opened;
    return 0;
}

int fex_files_open_directory(int parent, const char *name, unsigned trust,
                             int *directory)
{
    struct stat status;
    return open_kind(parent, name, O_DIRECTORY, S_IFDIR, trust, directory,
                     &status);
}

int fex_files_open(int parent, const char *name, unsigned trust, int *file,
                   struct stat *status)
{
    /* O_NONBLOCK: a pipe under this name must not stop us. */
    return open_kind(parent, name, O_NONBLOCK, S_IFREG, trust, file, status);
}

int fex_files_read(int file, void *bytes, size_t size, size_t *got)
{
    *got = 0;
    while (*got < size) {
        const ssize_t count = read(file, (char *)bytes + *got, size - *got);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return errno;
        if (count == 0)
            break;
        *got += (size_t)count;
    }
    return 0;
}

/* ---- Writing ------------------------------------------------------------ */

static int make_one(const char *path, unsigned trust, int last)
{
    if (mkdir(path, 0700) != 0)
        return errno == EEXIST ? 0 : errno;
    /* The set-group-ID bit hands the group on to what is made inside. */
    if (last && (trust & FEX_TRUST_GROUP) != 0 && chmod(path, 02770) != 0)
        return errno;
    return 0;
}

int fex_files_make_directory(const char *path, unsigned trust)
{
    char copy[PATH_MAX];
    struct stat status;
    if (stat(path, &status) == 0)
        return 0;
    if (snprintf(copy, sizeof copy, "%s", path) >= (int)sizeof copy)
        return ENAMETOOLONG;
    for (char *slash = strchr(copy + 1, '/'); slash != NULL;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        const int error = make_one(copy, trust, 0);
        if (error != 0)
            return error;
        *slash = '/';
    }
    return make_one(copy, trust, 1);
}

static int write_all(int file, const char *bytes, size_t size)
{
    while (size > 0) {
        const ssize_t written = write(file, bytes, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return errno;
        bytes += written;
        size -= (size_t)written;
    }
    return 0;
}

static int sync_retrying(int file)
{
    int result;
    do
        result = fsync(file);
    while (result != 0 && errno == EINTR);
    return result == 0 ? 0 : errno;
}

/* A name beside `name` that no other process, thread or host uses. */
static int name_temporary(const char *name, char *temporary)
{
    static atomic_uint serial;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const int length = snprintf(
        temporary, NAME_MAX + 1, "%s.%lx-%lx-%x" TEMPORARY_SUFFIX, name,
        (unsigned long)getpid(),
        (unsigned long)now.tv_sec * 1000000000ul + (unsigned long)now.tv_nsec,
        atomic_fetch_add(&serial, 1));
    return length <= NAME_MAX ? 0 : ENAMETOOLONG;
}

/* Makes a temporary file and locks it, which tells a sweeper that its maker is
 * alive. A sweeper that came between the two has removed it: then again. */
static int make_temporary(int directory, const char *name, mode_t mode,
                          char *temporary, int *file)
{
    struct stat status;
    for (int attempt = 0; attempt < 100; attempt++) {
        const int error = name_temporary(name, temporary);
        if (error != 0)
            return error;
        const int made = open_retrying(directory, temporary,
                                       O_WRONLY | O_CREAT | O_EXCL, 0600);
        if (made < 0 && errno == EEXIST)
            continue;
        if (made < 0)
            return errno;
        const int locked = flock_retrying(made, LOCK_EX | LOCK_NB);
        const int failed = fchmod(made, mode) == 0 && fstat(made, &status) == 0
                         ? 0
                         : errno;
        if (failed == 0 && locked != EWOULDBLOCK && status.st_nlink > 0) {
            *file = made;
            return 0;
        }
        unlinkat(directory, temporary, 0);
        close(made);
        if (failed != 0)
            return failed;
    }
    return EEXIST;
}

/* Gives a whole temporary file its name. */
static int publish(int directory, const char *temporary, const char *name)
{
    if (renameat(directory, temporary, directory, name) == 0)
        return 0;
    if (errno != EISDIR && errno != EEXIST && errno != ENOTEMPTY)
        return errno;
    const int error = fex_files_remove(directory, name);
    if (error != 0)
        return error;
    return renameat(directory, temporary, directory, name) == 0 ? 0 : errno;
}

int fex_files_replace(int directory, const char *name, const void *bytes,
                      size_t size, mode_t mode)
{
    char temporary[NAME_MAX + 1];
    int file = -1;
    int error = make_temporary(directory, name, mode, temporary, &file);
    if (error != 0)
        return error;
    error = write_all(file, bytes, size);
    if (error == 0)
        error = sync_retrying(file);
    if (error == 0)
        error = publish(directory, temporary, name);
    if (error != 0)
        unlinkat(directory, temporary, 0);
    /* Only now: with it the lock goes. What close could report, fsync has. */
    close(file);
    return error;
}

int fex_files_try_writing(int directory, mode_t mode)
{
    static const char byte = 'x';
    char temporary[NAME_MAX + 1];
    int file = -1;
    int error = make_temporary(directory, "try", mode, temporary, &file);
    if (error != 0)
        return error;
    error = write_all(file, &byte, sizeof byte);
    if (error == 0)
        error = sync_retrying(file);
    unlinkat(directory, temporary, 0);
    close(file);
    return error;
}

/* ---- Removing ----------------------------------------------------------- */

int fex_files_remove(int directory, const char *name)
{
    if (unlinkat(directory, name, 0) == 0)
        return 0;
    if (errno != EISDIR)
        return errno;
    const int inner = open_retrying(directory, name, O_RDONLY | O_DIRECTORY, 0);
    DIR *const listing = inner < 0 ? NULL : fdopendir(inner);
    if (listing != NULL) {
        for (struct dirent *d; (d = readdir(listing)) != NULL;)
            unlinkat(inner, d->d_name, 0);
        closedir(listing);
    } else if (inner >= 0) {
        close(inner);
    }
    return unlinkat(directory, name, AT_REMOVEDIR) == 0 ? 0 : errno;
}

static int has_suffix(const char *name, const char *suffix)
{
    const size_t length = strlen(name), wanted = strlen(suffix);
    return length > wanted && strcmp(name + length - wanted, suffix) == 0;
}

int fex_files_is_temporary(const char *name)
{
    return has_suffix(name, TEMPORARY_SUFFIX) || has_suffix(name, LOCK_SUFFIX);
}

int fex_files_sweep(int directory, const char *name)
{
    struct stat status;
    int gone = 0;
    const int file = open_retrying(directory, name, O_RDONLY | O_NONBLOCK, 0);
    if (file < 0)
        return 0;
    const int error = flock_retrying(file, LOCK_EX | LOCK_NB);
    /* A locked file has a maker that is alive. */
    if (error == 0 ||
        (error != EWOULDBLOCK && fstat(file, &status) == 0 &&
         time(NULL) - status.st_mtime > ABANDONED_SECONDS))
        gone = unlinkat(directory, name, 0) == 0;
    close(file);
    return gone;
}

/* ---- Locks -------------------------------------------------------------- */

static void sleep_ms(int ms)
{
    const struct timespec time = {.tv_sec = ms / 1000,
                                  .tv_nsec = ms % 1000 * 1000000L};
    nanosleep(&time, NULL);
}

static long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* One try: 0, EWOULDBLOCK while somebody has it, or why there is no locking.
 * A holder removes the file before it lets go, so a lock on a file that has no
 * name any more is none. */
static int try_lock(int directory, const char *name, mode_t mode, int *lock)
{
    struct stat status;
    const int file = open_retrying(directory, name, O_RDWR | O_CREAT, mode);
    if (file < 0)
        return errno;
    int error = flock_retrying(file, LOCK_EX | LOCK_NB);
    if (error == 0 && fstat(file, &status) != 0)
        error = errno;
    if (error == 0 && status.st_nlink == 0)
        error = EWOULDBLOCK;
    if (error != 0) {
        close(file);
        return error;
    }
    *lock = file;
    return 0;
}

int fex_files_lock(int directory, const char *name, mode_t mode, int wait_ms,
                   int *lock)
{
    char file_name[NAME_MAX + 1];
    const long deadline = now_ms() + wait_ms;
    snprintf(file_name, sizeof file_name, "%s" LOCK_SUFFIX, name);
    for (int pause = 1;; pause = pause < 16 ? pause * 2 : 16) {
        const int error = try_lock(directory, file_name, mode, lock);
        if (error != EWOULDBLOCK)
            return error;
        if (now_ms() >= deadline)
            return ETIMEDOUT;
        sleep_ms(pause);
    }
}

void fex_files_unlock(int directory, const char *name, int lock)
{
    char file_name[NAME_MAX + 1];
    snprintf(file_name, sizeof file_name, "%s" LOCK_SUFFIX, name);
    unlinkat(directory, file_name, 0);
    close(lock);
}

const char *fex_files_reason(int error, char *buffer, size_t size)
{
    switch (error) {
    case EPERM:
        return "it belongs to another user, or others may write to it";
    case ELOOP:
        return "it is a symbolic link";
    case EINVAL:
        return "it is not a regular file";
    default:
        return strerror_r(error, buffer, size);
    }
}
