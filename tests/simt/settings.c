/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "settings.h"

static simt_settings settings;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* A wrong setting must not pass for the default: a test would prove nothing. */
static void refuse(const char *variable, const char *value,
                   const char *expected)
{
    fprintf(stderr, "simulated device: %s=%s is not understood: expected %s\n",
            variable, value, expected);
    abort();
}

static unsigned long number(const char *variable, unsigned long otherwise)
{
    const char *const value = getenv(variable);
    char *end;
    if (value == NULL)
        return otherwise;
    const unsigned long result = strtoul(value, &end, 10);
    if (end == value || *end != '\0')
        refuse(variable, value, "a number");
    return result;
}

static void read_settings(void)
{
    const char *const variable = "FLASHEXPERT_SIM_ARCH";
    const char *const arch = getenv(variable) ? getenv(variable) : "9.0";
    char rest;
    if (sscanf(arch, "%d.%d%c", &settings.major, &settings.minor, &rest) != 2)
        refuse(variable, arch, "a compute capability, such as 8.6");
    settings.multiprocessors = (int)number("FLASHEXPERT_SIM_SMS", 4);
    settings.l2_bytes = (int)number("FLASHEXPERT_SIM_L2", 1 << 20);
    settings.memory_bytes = number("FLASHEXPERT_SIM_MEMORY", 1 << 30);
    settings.seed = number("FLASHEXPERT_SIM_SEED", 1);
    settings.timeout_seconds = (int)number("FLASHEXPERT_SIM_TIMEOUT", 60);
    settings.shared_poison = (int)number("FLASHEXPERT_SIM_POISON", 0xff);
    settings.races = number("FLASHEXPERT_SIM_RACES", 0) != 0;
}

const simt_settings *simt_settings_get(void)
{
    pthread_once(&once, read_settings);
    return &settings;
}
