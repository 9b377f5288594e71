/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "faults.h"

#define NAME_MAX_LENGTH 48
#define ENTRIES_MAX 32
#define FUNCTIONS_MAX 96

typedef struct entry {
    char function[NAME_MAX_LENGTH];
    unsigned long call;
    int later;        /* all later calls too */
    int result;       /* 0: only wait */
    int milliseconds;
    int hit;
} entry;

typedef struct counter {
    char function[NAME_MAX_LENGTH];
    unsigned long calls;
} counter;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static entry entries[ENTRIES_MAX];
static size_t entry_count;
static counter counters[FUNCTIONS_MAX];
static size_t counter_count;

static void refuse(const char *text)
{
    fprintf(stderr, "simulated device: FLASHEXPERT_SIM_FAIL: cannot read %s\n",
            text);
    abort();
}

/* "150ms", a number, or a name. */
static void parse_result(const char *text, simt_result_function result,
                         entry *parsed)
{
    char *end;
    const long value = strtol(text, &end, 10);
    if (end == text) {
        parsed->result = result(text);
        if (parsed->result < 0)
            refuse(text);
    } else if (strcmp(end, "ms") == 0) {
        parsed->milliseconds = (int)value;
    } else if (*end == '\0') {
        parsed->result = (int)value;
    } else {
        refuse(text);
    }
}

static void parse_entry(const char *text, const char *prefix,
                        simt_result_function result)
{
    entry parsed = {.call = 0};
    char name[NAME_MAX_LENGTH];
    int used = 0;
    if (sscanf(text, "%47[A-Za-z0-9]:%lu%n", parsed.function, &parsed.call,
               &used) != 2 ||
        parsed.call == 0 || entry_count == ENTRIES_MAX)
        refuse(text);
    if (strncmp(parsed.function, prefix, strlen(prefix)) != 0)
        return;
    parsed.later = text[used] == '+';
    used += parsed.later;
    if (sscanf(text + used, "=%47s", name) != 1)
        refuse(text);
    parse_result(name, result, &parsed);
    entries[entry_count++] = parsed;
}

void simt_faults_plan(const char *plan, const char *prefix,
                      simt_result_function result)
{
    char *rest;
    char *const copy = strdup(plan != NULL ? plan : "");
    if (copy == NULL)
        abort();
    pthread_mutex_lock(&lock);
    entry_count = 0;
    counter_count = 0;
    for (char *text = strtok_r(copy, "; ", &rest); text != NULL;
         text = strtok_r(NULL, "; ", &rest))
        parse_entry(text, prefix, result);
    pthread_mutex_unlock(&lock);
    free(copy);
}

static counter *find_counter(const char *function, size_t length)
{
    for (size_t i = 0; i < counter_count; i++)
        if (strlen(counters[i].function) == length &&
            memcmp(counters[i].function, function, length) == 0)
            return &counters[i];
    return NULL;
}

/* cuMemAlloc_v2 counts as cuMemAlloc. */
static counter *add_call(const char *function)
{
    const char *const version = strstr(function, "_v");
    const size_t length =
        version != NULL ? (size_t)(version - function) : strlen(function);
    counter *found = find_counter(function, length);
    if (found == NULL) {
        if (counter_count == FUNCTIONS_MAX || length >= NAME_MAX_LENGTH)
            refuse(function);
        found = &counters[counter_count++];
        memcpy(found->function, function, length);
        found->function[length] = '\0';
        found->calls = 0;
    }
    found->calls++;
    return found;
}

int simt_faults_count(const char *function)
{
    int result = 0;
    int milliseconds = 0;
    pthread_mutex_lock(&lock);
    const counter *const counted = add_call(function);
    for (size_t i = 0; i < entry_count; i++) {
        entry *const e = &entries[i];
        if (strcmp(e->function, counted->function) == 0 &&
            (counted->calls == e->call ||
             (e->later && counted->calls > e->call))) {
            e->hit = 1;
            result = e->result != 0 ? e->result : result;
            milliseconds += e->milliseconds;
        }
    }
    pthread_mutex_unlock(&lock);
    if (milliseconds > 0)
        nanosleep(&(struct timespec){milliseconds / 1000,
                                     milliseconds % 1000 * 1000000L},
                  NULL);
    return result;
}

unsigned long simt_faults_calls(const char *function)
{
    pthread_mutex_lock(&lock);
    const counter *const found = find_counter(function, strlen(function));
    const unsigned long calls = found != NULL ? found->calls : 0;
    pthread_mutex_unlock(&lock);
    return calls;
}

unsigned simt_faults_hit(void)
{
    unsigned hit = 0;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < entry_count; i++)
        hit += entries[i].hit != 0;
    pthread_mutex_unlock(&lock);
    return hit;
}
