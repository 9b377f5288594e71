/* SPDX-License-Identifier: Apache-2.0 */
/* store_case.h - what tests of the store share: a directory for the user tier
 * and another, kernels numbered from 1, and ways to put and find them. */
#ifndef TEST_STORE_CASE_H
#define TEST_STORE_CASE_H

#include "cache_case.h"
#include "digest.h"
#include "store.h"

/* Of the running test; neither directory is there at first. */
extern char store_scratch[256];
extern char store_user[300], store_other[300];

void store_set_up(void);
void store_tear_down(void);

/* max_bytes 0: no limit. The log is the record below. */
fex_store *store_open_with(fex_store_options options);
fex_store *store_open(const char *directory, const char *read_only);

fex_status store_put(fex_store *store, int64_t factor);
/* Whether a kernel is found; what is found must be right. */
int store_find(fex_store *store, int64_t factor, fex_store_use use);
int store_load(fex_store *store, int64_t factor);

/* Puts the kernels 1 .. count in a directory. */
void store_fill(const char *directory, int count);

/* The file of a kernel in a directory; storage as of scratch_path. */
const char *store_file(const char *directory, int64_t factor);
void store_key(char *key, int64_t factor);

/* Changes a byte of a file, and cuts it. */
void store_spoil(const char *file, size_t at, unsigned char change,
                 size_t length);

/* Warnings since the test began, or were forgotten. */
int store_warnings(void);
void store_forget_warnings(void);
const char *store_last_warning(void);

double store_seconds_now(void);

#endif
