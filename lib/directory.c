/* SPDX-License-Identifier: Apache-2.0 */
/* directory.c - the layout of a cache directory. */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "directory.h"
#include "files.h"

#define ENTRY_SUFFIX ".fexk"
#define USED_SUFFIX ".fexk.used"
#define SHARD_DIGITS 2
/* Loads are counted up to here; who reaches it need not be told apart. */
#define HITS_MAX (1 << 20)

/* ---- Names -------------------------------------------------------------- */

static int count_digits(const char *name)
{
    return (int)strspn(name, "0123456789abcdef");
}

static int is_entry(const char *name)
{
    return count_digits(name) == FEX_KEY_DIGITS &&
           strcmp(name + FEX_KEY_DIGITS, ENTRY_SUFFIX) == 0;
}

static int is_stamp(const char *name)
{
    return count_digits(name) == FEX_KEY_DIGITS &&
           strcmp(name + FEX_KEY_DIGITS, USED_SUFFIX) == 0;
}

static int may_be_left_over(const char *name)
{
    return fex_files_is_temporary(name) || is_stamp(name);
}

static int is_shard(const char *name)
{
    return count_digits(name) == SHARD_DIGITS && name[SHARD_DIGITS] == '\0';
}

static void name_file(char *name, const char *key, const char *suffix)
{
    snprintf(name, NAME_MAX + 1, "%.*s%s", FEX_KEY_DIGITS, key, suffix);
}

int fex_directory_file(const fex_directory *directory, const char *key,
                       char *path, size_t size)
{
    return snprintf(path, size, "%s/%.*s/%s" ENTRY_SUFFIX, directory->path,
                    SHARD_DIGITS, key, key) < (int)size;
}

/* ---- Shards ------------------------------------------------------------- */

static int open_root(const fex_directory *directory, int *root)
{
    return fex_files_open_directory(AT_FDCWD, directory->path,
                                    directory->trust, root);
}

/* Opens the folder that holds a key. */
static int open_shard(const fex_directory *directory, const char *key,
                      int *shard)
{
    char name[SHARD_DIGITS + 1];
    int root = -1;
    int error = open_root(directory, &root);
    if (error != 0)
        return error;
    snprintf(name, sizeof name, "%.*s", SHARD_DIGITS, key);
    error = fex_files_open_directory(root, name, directory->trust, shard);
    close(root);
    return error;
}

/* The same for writing: it is made where it is missing. */
static int make_shard(const fex_directory *directory, const char *key,
                      int *shard)
{
    char path[PATH_MAX];
    int error = open_shard(directory, key, shard);
    if (error != ENOENT)
        return error;
    error = fex_files_make_directory(directory->path, directory->trust);
    if (error != 0)
        return error;
    if (snprintf(path, sizeof path, "%s/%.*s", directory->path, SHARD_DIGITS,
                 key) >= (int)sizeof path)
        return ENAMETOOLONG;
    error = fex_files_make_directory(path, directory->trust);
    return error != 0 ? error : open_shard(directory, key, shard);
}

/* Files are for their user alone, or for a group to read and to stamp. */
static mode_t mode_of(const fex_directory *directory)
{
    return (directory->trust & FEX_TRUST_GROUP) != 0 ? 0660 : 0600;
}

/* ---- One entry ---------------------------------------------------------- */

static int read_file(int file, size_t length, size_t limit,
                     unsigned char **bytes, size_t *got)
{
    const size_t wanted = length < limit ? length : limit;
    unsigned char *const buffer = malloc(wanted > 0 ? wanted : 1);
    if (buffer == NULL)
        return ENOMEM;
    const int error = fex_files_read(file, buffer, wanted, got);
    if (error != 0) {
        free(buffer);
        return error;
    }
    *bytes = buffer;
    return 0;
}

int fex_directory_read(const fex_directory *directory, const char *key,
                       size_t limit, unsigned char **bytes, size_t *got,
                       size_t *size)
{
    char name[NAME_MAX + 1];
    struct stat status;
    int shard = -1, file = -1;
    int error = open_shard(directory, key, &shard);
    if (error != 0)
        return error;
    name_file(name, key, ENTRY_SUFFIX);
    error = fex_files_open(shard, name, directory->trust, &file, &status);
    close(shard);
    if (error != 0)
        return error;
    *size = (size_t)status.st_size;
    error = read_file(file, *size, limit, bytes, got);
    close(file);
    return error;
}

int fex_directory_write(const fex_directory *directory, const char *key,
                        const void *bytes, size_t size)
{
    char name[NAME_MAX + 1];
    int shard = -1;
    int error = make_shard(directory, key, &shard);
    if (error != 0)
        return error;
    name_file(name, key, ENTRY_SUFFIX);
    error = fex_files_replace(shard, name, bytes, size, mode_of(directory));
    if (error == 0) {
        /* The loads of what was replaced are not the new entry's. */
        name_file(name, key, USED_SUFFIX);
        unlinkat(shard, name, 0);
    }
    close(shard);
    return error;
}

int fex_directory_try_writing(const fex_directory *directory)
{
    int shard = -1;
    int error = make_shard(directory, "00", &shard);
    if (error != 0)
        return error;
    error = fex_files_try_writing(shard, mode_of(directory));
    close(shard);
    return error;
}

static void stamp_file(int shard, const char *name, mode_t mode, int count)
{
    struct stat status;
    const int file =
        openat(shard, name,
               O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, mode);
    if (file < 0)
        return;
    const int countable = count && fstat(file, &status) == 0 &&
                          S_ISREG(status.st_mode) &&
                          status.st_size < HITS_MAX;
    /* What cannot be counted is still used now. */
    if (!countable || write(file, "+", 1) != 1)
        futimens(file, NULL);
    close(file);
}

void fex_directory_stamp(const fex_directory *directory, const char *key,
                         int count)
{
    char name[NAME_MAX + 1];
    int shard = -1;
    if (open_shard(directory, key, &shard) != 0)
        return;
    name_file(name, key, USED_SUFFIX);
    stamp_file(shard, name, mode_of(directory), count);
    close(shard);
}

int fex_directory_remove(const fex_directory *directory, const char *key)
{
    char name[NAME_MAX + 1];
    int shard = -1;
    int error = open_shard(directory, key, &shard);
    if (error != 0)
        return error;
    name_file(name, key, ENTRY_SUFFIX);
    error = fex_files_remove(shard, name);
    if (error == 0) {
        name_file(name, key, USED_SUFFIX);
        unlinkat(shard, name, 0);
    }
    close(shard);
    return error;
}

/* ---- Locks -------------------------------------------------------------- */

int fex_directory_lock_key(const fex_directory *directory, const char *key,
                           int wait_ms, fex_directory_lock *lock)
{
    *lock = (fex_directory_lock){.shard = -1, .file = -1};
    int shard = -1;
    int error = make_shard(directory, key, &shard);
    if (error != 0)
        return error;
    error =
        fex_files_lock(shard, key, mode_of(directory), wait_ms, &lock->file);
    if (error != 0)
        close(shard);
    else
        lock->shard = shard;
    return error;
}

void fex_directory_unlock_key(const char *key, fex_directory_lock *lock)
{
    if (lock->shard < 0)
        return;
    fex_files_unlock(lock->shard, key, lock->file);
    close(lock->shard);
    lock->shard = -1;
}

/* ---- All of it ---------------------------------------------------------- */

/* The names in a directory, sorted. */
typedef struct name_list {
    char (*names)[NAME_MAX + 1];
    size_t count, room;
} name_list;

static int add_name(name_list *list, const char *name)
{
    if (list->count == list->room) {
        const size_t room = 2 * list->room + 16;
        void *const larger = realloc(list->names, room * sizeof *list->names);
        if (larger == NULL)
            return ENOMEM;
        list->names = larger;
        list->room = room;
    }
    snprintf(list->names[list->count++], NAME_MAX + 1, "%s", name);
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(a, b);
}

static int list_names(int directory, int (*wanted)(const char *),
                      name_list *list)
{
    int error = 0;
    *list = (name_list){0};
    const int copy = fcntl(directory, F_DUPFD_CLOEXEC, 0);
    DIR *const stream = copy < 0 ? NULL : fdopendir(copy);
    if (stream == NULL) {
        error = errno;
        if (copy >= 0)
            close(copy);
        return error;
    }
    rewinddir(stream);
    for (struct dirent *d; error == 0 && (d = readdir(stream)) != NULL;)
        if (wanted(d->d_name))
            error = add_name(list, d->d_name);
    closedir(stream);
    if (error == 0 && list->count > 0)
        qsort(list->names, list->count, sizeof *list->names, by_name);
    return error;
}

static void describe(int shard, const char *name, fex_directory_item *item)
{
    char used[NAME_MAX + 1];
    struct stat status;
    *item = (fex_directory_item){0};
    snprintf(item->key, sizeof item->key, "%.*s", FEX_KEY_DIGITS, name);
    if (fstatat(shard, name, &status, AT_SYMLINK_NOFOLLOW) == 0) {
        item->bytes = S_ISREG(status.st_mode) ? (uint64_t)status.st_size : 0;
        item->last_used = status.st_mtim.tv_sec;
        item->nanoseconds = status.st_mtim.tv_nsec;
    }
    name_file(used, item->key, USED_SUFFIX);
    if (fstatat(shard, used, &status, AT_SYMLINK_NOFOLLOW) != 0)
        return;
    item->hits = (uint64_t)status.st_size;
    if (status.st_mtim.tv_sec >= item->last_used) {
        item->last_used = status.st_mtim.tv_sec;
        item->nanoseconds = status.st_mtim.tv_nsec;
    }
}

/* Calls `each` for the wanted names of every shard, in order. */
static int walk_names(const fex_directory *directory,
                      int (*wanted)(const char *),
                      int (*each)(void *user, int shard, const char *name),
                      void *user)
{
    name_list shards, names;
    int root = -1;
    int result = open_root(directory, &root);
    if (result != 0)
        return result == ENOENT ? 0 : result;
    result = list_names(root, is_shard, &shards);
    for (size_t s = 0; result == 0 && s < shards.count; s++) {
        int shard = -1;
        if (fex_files_open_directory(root, shards.names[s], directory->trust,
                                     &shard) != 0)
            continue;
        result = list_names(shard, wanted, &names);
        for (size_t n = 0; result == 0 && n < names.count; n++)
            result = each(user, shard, names.names[n]);
        free(names.names);
        close(shard);
    }
    free(shards.names);
    close(root);
    return result;
}

typedef struct walk {
    fex_directory_visitor visitor;
    void *user;
} walk;

static int visit_name(void *user, int shard, const char *name)
{
    const walk *const w = user;
    fex_directory_item item;
    describe(shard, name, &item);
    return w->visitor(w->user, &item);
}

int fex_directory_walk(const fex_directory *directory,
                       fex_directory_visitor visitor, void *user)
{
    walk w = {.visitor = visitor, .user = user};
    return walk_names(directory, is_entry, visit_name, &w);
}

static int sweep_name(void *user, int shard, const char *name)
{
    char entry[NAME_MAX + 1];
    (void)user;
    if (!is_stamp(name)) {
        fex_files_sweep(shard, name);
        return 0;
    }
    name_file(entry, name, ENTRY_SUFFIX);
    if (faccessat(shard, entry, F_OK, AT_SYMLINK_NOFOLLOW) != 0 &&
        errno == ENOENT)
        unlinkat(shard, name, 0);
    return 0;
}

void fex_directory_sweep(const fex_directory *directory)
{
    walk_names(directory, may_be_left_over, sweep_name, NULL);
}
