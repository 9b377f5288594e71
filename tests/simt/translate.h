/* SPDX-License-Identifier: Apache-2.0 */
/* translate.h - the few places where CUDA C++ is not C++ with other words. */
#ifndef SIMT_TRANSLATE_H
#define SIMT_TRANSLATE_H

/* Copies a source, with
 *     extern __shared__ TYPE NAME[];
 * made a SIMT_DYNAMIC_SHARED(TYPE, NAME);, and with a SIMT_KERNEL(NAME, BOUND)
 * at the end for each __global__ function. Lines keep their numbers. Free the
 * result; NULL if there is no memory. */
char *simt_translate(const char *source);

#endif
