/* SPDX-License-Identifier: Apache-2.0 */
/* status.c - names of results, and this thread's last failure in a sentence. */
#include "config.h"

#include <stdarg.h>
#include <stdio.h>

#include "status.h"

/* Detail for people, kept per thread so that no call needs a lock for it. */
static _Thread_local char last_error[2048];

const char *fex_version(void)
{
    return PACKAGE_VERSION;
}

const char *fex_status_name(fex_status status)
{
    switch (status) {
#define STATUS_NAME(name, value, text)                                         \
    case FEX_##name:                                                           \
        return "FEX_" #name;
        FEX_STATUS_MAP(STATUS_NAME)
#undef STATUS_NAME
    }
    return "FEX_?";
}

const char *fex_status_string(fex_status status)
{
    switch (status) {
#define STATUS_TEXT(name, value, text)                                         \
    case FEX_##name:                                                           \
        return text;
        FEX_STATUS_MAP(STATUS_TEXT)
#undef STATUS_TEXT
    }
    return "unknown status";
}

const char *fex_last_error(void)
{
    return last_error;
}

fex_status fex_fail(fex_status status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(last_error, sizeof last_error, format, arguments);
    va_end(arguments);
    return status;
}

fex_status fex_check_size(const void *structure, size_t given, size_t known,
                          size_t minimum, const char *what)
{
    if (given < minimum)
        return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                        "%s.size is %zu, at least %zu is needed", what, given,
                        minimum);
    const unsigned char *const bytes = structure;
    for (size_t i = known; i < given; i++)
        if (bytes[i] != 0)
            return fex_fail(FEX_ERROR_INVALID_ARGUMENT,
                            "%s has a member at byte %zu that this version of "
                            "the library does not know",
                            what, i);
    return FEX_OK;
}
