/* SPDX-License-Identifier: Apache-2.0 */
/* file_faults.c - calls on files that fail on demand. */
#include "config.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "file_faults.h"

const char *const file_call_names[FILE_CALLS] = {
    "openat", "read", "write", "fsync", "renameat", "flock", "mkdir", "fstat"};

typedef struct fault {
    int nth, times, error;
} fault;

static fault faults[FILE_CALLS];
static atomic_int calls[FILE_CALLS];
static atomic_int writers;
static atomic_int interrupting;

void file_faults_reset(void)
{
    for (int i = 0; i < FILE_CALLS; i++) {
        faults[i] = (fault){0};
        calls[i] = 0;
    }
    writers = 0;
    interrupting = 0;
}

void file_faults_set(file_call call, int nth, int times, int error)
{
    faults[call] = (fault){.nth = nth, .times = times, .error = error};
    calls[call] = 0;
}

void file_faults_interrupt(void)
{
    interrupting = 1;
}

int file_faults_calls(file_call call)
{
    return calls[call];
}

int file_faults_writers(void)
{
    return writers;
}

/* Counts a call; whether it fails, with errno set. */
static int fails(file_call call)
{
    const fault *const f = &faults[call];
    const int number = atomic_fetch_add(&calls[call], 1);
    if (f->error != 0 && number >= f->nth &&
        (f->times < 0 || number < f->nth + f->times)) {
        errno = f->error;
        return 1;
    }
    if (interrupting && number % 2 == 0 && call != CALL_MKDIR &&
        call != CALL_RENAMEAT && call != CALL_FSTAT) {
        errno = EINTR;
        return 1;
    }
    return 0;
}

/* The C library's function of a name. */
static void find_real(const char *name, void *function)
{
    void *const address = dlsym(RTLD_NEXT, name);
    memcpy(function, &address, sizeof address);
}

#define REAL(name)                                                             \
    static __typeof__(&name) real;                                             \
    if (real == NULL)                                                          \
    find_real(#name, &real)

int openat(int directory, const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    REAL(openat);
    if (fails(CALL_OPENAT))
        return -1;
    if ((flags & O_ACCMODE) != O_RDONLY)
        writers++;
    return real(directory, path, flags, mode);
}

ssize_t read(int file, void *bytes, size_t size)
{
    REAL(read);
    if (fails(CALL_READ))
        return -1;
    return real(file, bytes, interrupting && size > 7 ? 7 : size);
}

ssize_t write(int file, const void *bytes, size_t size)
{
    REAL(write);
    if (fails(CALL_WRITE))
        return -1;
    /* A disk that is going to be full takes a part first. */
    const int short_write =
        interrupting || faults[CALL_WRITE].nth > calls[CALL_WRITE] - 1;
    return real(file, bytes, short_write && size > 7 ? 7 : size);
}

int fsync(int file)
{
    REAL(fsync);
    return fails(CALL_FSYNC) ? -1 : real(file);
}

int renameat(int from, const char *old, int to, const char *new)
{
    REAL(renameat);
    return fails(CALL_RENAMEAT) ? -1 : real(from, old, to, new);
}

int flock(int file, int operation)
{
    REAL(flock);
    return fails(CALL_FLOCK) ? -1 : real(file, operation);
}

int mkdir(const char *path, mode_t mode)
{
    REAL(mkdir);
    return fails(CALL_MKDIR) ? -1 : real(path, mode);
}

int fstat(int file, struct stat *status)
{
    REAL(fstat);
    return fails(CALL_FSTAT) ? -1 : real(file, status);
}
