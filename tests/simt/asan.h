/* SPDX-License-Identifier: Apache-2.0 */
/* asan.h - SIMT_ASAN is defined if AddressSanitizer is at work. */
#ifndef SIMT_ASAN_H
#define SIMT_ASAN_H

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ASAN 1
#endif
#endif

#endif
