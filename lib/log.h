/* SPDX-License-Identifier: Apache-2.0 */
/* log.h - messages to the application's hook, or to standard error. */
#ifndef FEX_LOG_H
#define FEX_LOG_H

#include "status.h"

typedef struct fex_log {
    fex_log_function function; /* never NULL once initialised */
    void *user;
    fex_log_level level; /* messages above it are dropped before formatting */
} fex_log;

/* With function NULL messages go to standard error as "flashexpert: warning:
 * ...", filtered by level_name ("error" ... "debug"; NULL: "warning"), the
 * value of $FLASHEXPERT_LOG: FEX_ERROR_INVALID_ARGUMENT if it is none of these,
 * and the log works as with NULL. A hook of the application's sees every level,
 * whatever level_name is. FEX_OK otherwise. */
fex_status fex_log_init(fex_log *log, fex_log_function function, void *user,
                        const char *level_name);

void fex_log_write(const fex_log *log, fex_log_level level, const char *format,
                   ...) __attribute__((format(printf, 3, 4)));

#endif
