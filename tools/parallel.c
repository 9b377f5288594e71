/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "parallel.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

enum { THREADS_MAX = 64, RANGES_PER_THREAD = 4 };

typedef struct loop {
    int64_t count, step;
    atomic_llong next;
    void (*body)(void *user, int64_t begin, int64_t end);
    void *user;
} loop;

static void *take_ranges(void *argument)
{
    loop *l = argument;
    int64_t begin;

    while ((begin = atomic_fetch_add(&l->next, l->step)) < l->count) {
        const int64_t left = l->count - begin;
        l->body(l->user, begin, begin + (left < l->step ? left : l->step));
    }
    return NULL;
}

void parallel_for(int64_t count, int64_t grain,
                  void (*body)(void *user, int64_t begin, int64_t end),
                  void *user)
{
    const long processors = sysconf(_SC_NPROCESSORS_ONLN);
    const int threads = processors < 1             ? 1
                        : processors > THREADS_MAX ? THREADS_MAX
                                                   : (int)processors;
    const int64_t share = count / (threads * RANGES_PER_THREAD) + 1;
    loop l = {.count = count,
              .step = share > grain ? share : grain,
              .body = body,
              .user = user};
    pthread_t others[THREADS_MAX];
    int started = 0;

    /* This thread works too; if no other can be started it works alone. */
    while (started < threads - 1 && (started + 1) * l.step < count &&
           pthread_create(&others[started], NULL, take_ranges, &l) == 0)
        started++;
    take_ranges(&l);
    for (int i = 0; i < started; i++)
        pthread_join(others[i], NULL);
}
