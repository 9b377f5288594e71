/* SPDX-License-Identifier: Apache-2.0 */
/* log.c - messages to the application's hook, or to standard error. */
#include "config.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

static const char *const level_names[] = {[FEX_LOG_ERROR] = "error",
                                          [FEX_LOG_WARNING] = "warning",
                                          [FEX_LOG_INFO] = "info",
                                          [FEX_LOG_DEBUG] = "debug"};

static void to_standard_error(void *user, fex_log_level level,
                              const char *message)
{
    (void)user;
    fprintf(stderr, "flashexpert: %s: %s\n", level_names[level], message);
}

static fex_status level_by_name(const char *name, fex_log_level *found)
{
    *found = FEX_LOG_WARNING;
    if (name == NULL)
        return FEX_OK;
    for (int level = FEX_LOG_ERROR; level <= FEX_LOG_DEBUG; level++)
        if (strcmp(name, level_names[level]) == 0) {
            *found = (fex_log_level)level;
            return FEX_OK;
        }
    return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                    "FLASHEXPERT_LOG is \"%s\", not error, warning, info or "
                    "debug",
                    name);
}

fex_status fex_log_init(fex_log *log, fex_log_function function, void *user,
                        const char *level_name)
{
    if (function != NULL) {
        *log = (fex_log){
            .function = function, .user = user, .level = FEX_LOG_DEBUG};
        return FEX_OK;
    }
    *log = (fex_log){.function = to_standard_error};
    return level_by_name(level_name, &log->level);
}

void fex_log_write(const fex_log *log, fex_log_level level, const char *format,
                   ...)
{
    char small[1024];
    va_list arguments;
    if (level > log->level)
        return;
    va_start(arguments, format);
    const int length = vsnprintf(small, sizeof small, format, arguments);
    va_end(arguments);
    if (length < (int)sizeof small) {
        log->function(log->user, level, small);
        return;
    }
    /* A compiler's log: any length. Without memory its head must do. */
    char *const whole = malloc((size_t)length + 1);
    if (whole != NULL) {
        va_start(arguments, format);
        vsnprintf(whole, (size_t)length + 1, format, arguments);
        va_end(arguments);
    }
    log->function(log->user, level, whole != NULL ? whole : small);
    free(whole);
}
