/* SPDX-License-Identifier: Apache-2.0 */
/* file_faults.h - makes calls on files fail on demand.
 *
 * A test program that is linked with file_faults.c has its own openat, write
 * and so on, which come before those of the C library and pass on to them
 * what is not to fail. */
#ifndef TEST_FILE_FAULTS_H
#define TEST_FILE_FAULTS_H

typedef enum file_call {
    CALL_OPENAT,
    CALL_READ,
    CALL_WRITE,
    CALL_FSYNC,
    CALL_RENAMEAT,
    CALL_FLOCK,
    CALL_MKDIR,
    CALL_FSTAT,
    FILE_CALLS
} file_call;

extern const char *const file_call_names[FILE_CALLS];

/* Sets all counts to 0 and lets every call pass. */
void file_faults_reset(void);

/* From its `nth` call on, counted from 0, and `times` times (-1: for ever),
 * this call fails with error. For EINTR see file_faults_interrupt. */
void file_faults_set(file_call call, int nth, int times, int error);

/* Every other call is interrupted, and reads and writes are short. */
void file_faults_interrupt(void);

/* Calls since the last reset. */
int file_faults_calls(file_call call);

/* Files opened for writing or creating since the last reset. */
int file_faults_writers(void);

#endif
