/* SPDX-License-Identifier: Apache-2.0 */
/* status.h - results, and the sentence that goes with a failure. */
#ifndef FEX_STATUS_H
#define FEX_STATUS_H

#include "flashexpert_rtc.h"

/* Leaves the function with any status but FEX_OK. Only for places where
 * nothing is held; elsewhere, go to the label that releases what is. */
#define return_if_error(expression)                                            \
    do {                                                                       \
        const fex_status status_of_call_ = (expression);                       \
        if (status_of_call_ != FEX_OK)                                         \
            return status_of_call_;                                            \
    } while (0)

/* Records one sentence as this thread's last error and returns status, so that
 * a failure is reported and returned in one statement. */
fex_status fex_fail(fex_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Checks a caller's versioned structure: `given` is its size member, `known`
 * this library's sizeof, `minimum` the size in version 0.1. Unknown bytes must
 * be zero. `what` names it in the message. */
fex_status fex_check_size(const void *structure, size_t given, size_t known,
                          size_t minimum, const char *what);

#endif
