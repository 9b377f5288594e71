/* SPDX-License-Identifier: Apache-2.0 */
/* environment.c - a copy of the variables the library reads. */
#include "config.h"

#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#include "environment.h"

/* Set for set-user-ID and set-group-ID programs, and for those with file
 * capabilities: whoever started them must not choose what they load. */
static int is_privileged(void)
{
    return getauxval(AT_SECURE) != 0;
}

static fex_status copy_variable(const char *variable, char **copy)
{
    const char *const value = getenv(variable);
    *copy = NULL;
    if (value == NULL || *value == '\0')
        return FEX_OK;
    *copy = strdup(value);
    return *copy != NULL ? FEX_OK
                         : fex_fail(FEX_ERROR_OUT_OF_MEMORY,
                                    "no memory to copy $%s", variable);
}

fex_status fex_environment_read(fex_environment *environment)
{
    fex_status status = FEX_OK;
    *environment = (fex_environment){0};
    if (is_privileged())
        return FEX_OK;
#define COPY_VARIABLE(field, variable, meaning)                                \
    if (status == FEX_OK)                                                      \
        status = copy_variable(variable, &environment->field);
    FEX_ENVIRONMENT_MAP(COPY_VARIABLE)
#undef COPY_VARIABLE
    if (status != FEX_OK)
        fex_environment_free(environment);
    return status;
}

void fex_environment_free(fex_environment *environment)
{
#define FREE_FIELD(field, variable, meaning) free(environment->field);
    FEX_ENVIRONMENT_MAP(FREE_FIELD)
#undef FREE_FIELD
    *environment = (fex_environment){0};
}
