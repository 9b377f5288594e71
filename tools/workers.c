/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "workers.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "prewarm.h"

/* One report. It is written with one call and not longer than what a pipe
 * takes at once, so that reports of several workers never mix. */
typedef struct report {
    unsigned short length; /* of the text that follows, its NUL included */
    unsigned short about;  /* a fex_prewarm_outcome, or one of these */
} report;
enum { ABOUT_FAILURE = 1000, ABOUT_WARNING };

enum { TEXT_MAX = PIPE_BUF - (int)sizeof(report) };

/* ---- The worker's side -------------------------------------------------- */

typedef struct worker {
    const worker_job *jobs;
    size_t count;
    atomic_size_t *next; /* the next job to take; shared by all processes */
    unsigned flags;
    const fex_log *log;
    int pipe;
} worker;

static void send_report(const worker *self, int about, const char *text)
{
    const size_t length = strnlen(text, TEXT_MAX - 1);
    const report head = {(unsigned short)(length + 1), (unsigned short)about};
    char message[PIPE_BUF];

    memcpy(message, &head, sizeof head);
    memcpy(message + sizeof head, text, length);
    message[sizeof head + length] = '\0';
    while (write(self->pipe, message, sizeof head + length + 1) < 0 &&
           errno == EINTR)
        continue;
}

/* fex_prewarm_function */
static void send_kernel(void *user, fex_prewarm_outcome outcome,
                        const char *kernel)
{
    send_report(user, (int)outcome, kernel);
}

/* fex_log_function */
static void send_warning(void *user, fex_log_level level, const char *message)
{
    const worker *self = user;
    if (level == FEX_LOG_WARNING)
        send_report(self, ABOUT_WARNING, message);
    else
        fex_log_write(self->log, level, "%s", message);
}

/* Of the device its figures are all that is needed: the driver's own state does
 * not survive a fork. */
fex_status worker_prewarm(fex_context *context, const worker_job *job,
                          unsigned flags, fex_prewarm_function function,
                          void *user)
{
    return fex_prewarm_for(context, job->device, &job->shape->desc, job->pass,
                           job->shape->tokens, job->architecture, flags,
                           function, user, NULL);
}

static void work(worker *self)
{
    const fex_context_options none = {.size = sizeof none,
                                      .device = FEX_DEVICE_NONE,
                                      .log = send_warning,
                                      .log_user = self};
    fex_context *context;
    size_t i;

    if (fex_context_create(&none, &context) != FEX_OK) {
        send_report(self, ABOUT_FAILURE, fex_last_error());
        return;
    }
    while ((i = atomic_fetch_add(self->next, 1)) < self->count) {
        const fex_status status = worker_prewarm(
            context, &self->jobs[i], self->flags, send_kernel, self);
        /* That something is missing has been reported kernel by kernel. */
        if (status != FEX_OK && status != FEX_ERROR_JIT_FORBIDDEN)
            send_report(self, ABOUT_FAILURE, fex_last_error());
    }
    fex_context_destroy(context);
}

/* ---- The parent's side -------------------------------------------------- */

static void tell(const worker_listener *listener, int about, const char *text)
{
    if (about == ABOUT_FAILURE)
        listener->failure(listener->user, text);
    else if (about == ABOUT_WARNING)
        listener->warning(listener->user, text);
    else
        listener->kernel(listener->user, (fex_prewarm_outcome)about, text);
}

/* Hands on every whole report in the buffer; returns what is left over. */
static size_t hand_on(char *buffer, size_t used,
                      const worker_listener *listener)
{
    size_t at = 0;
    report head;

    while (used - at >= sizeof head) {
        memcpy(&head, buffer + at, sizeof head);
        if (used - at < sizeof head + head.length)
            break;
        tell(listener, head.about, buffer + at + sizeof head);
        at += sizeof head + head.length;
    }
    memmove(buffer, buffer + at, used - at);
    return used - at;
}

/* Reads until every worker has closed its end. */
static void listen_to_all(int pipe, const worker_listener *listener)
{
    char buffer[4 * PIPE_BUF];
    size_t used = 0;

    for (;;) {
        const ssize_t got = read(pipe, buffer + used, sizeof buffer - used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return;
        used = hand_on(buffer, used + (size_t)got, listener);
    }
}

static void await(pid_t child, const worker_listener *listener)
{
    char sentence[96];
    int status;

    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return;
    if (WIFSIGNALED(status)) {
        snprintf(sentence, sizeof sentence,
                 "a worker process was killed by signal %d (%s)",
                 WTERMSIG(status), strsignal(WTERMSIG(status)));
        tell(listener, ABOUT_FAILURE, sentence);
    }
}

/* Starts workers; returns how many there are, fewer if the system refuses. */
static size_t start(worker *prototype, const int ends[2], pid_t *children,
                    size_t workers)
{
    size_t started = 0;

    fflush(NULL); /* or each child would have a copy of what is unwritten */
    for (; started < workers; started++) {
        children[started] = fork();
        if (children[started] < 0)
            break;
        if (children[started] == 0) {
            close(ends[0]);
            prototype->pipe = ends[1];
            work(prototype);
            _exit(0);
        }
    }
    return started;
}

fex_status workers_run(const worker_job *jobs, size_t count, size_t workers,
                       unsigned flags, const fex_log *log,
                       const worker_listener *listener)
{
    worker prototype = {
        .jobs = jobs, .count = count, .flags = flags, .log = log};
    fex_status status = FEX_OK;
    size_t started;
    int ends[2];

    if (workers > count)
        workers = count;
    if (workers == 0)
        return FEX_OK;
    pid_t *children = calloc(workers, sizeof *children);
    if (children == NULL)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "out of memory");
    prototype.next = mmap(NULL, sizeof *prototype.next, PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (prototype.next == MAP_FAILED) {
        status = fex_fail(FEX_ERROR_OUT_OF_MEMORY, "out of memory");
        goto free_children;
    }
    if (pipe2(ends, O_CLOEXEC) != 0) {
        status =
            fex_fail(FEX_ERROR_IO, "cannot make a pipe: %s", strerror(errno));
        goto unmap_next;
    }
    started = start(&prototype, ends, children, workers);
    if (started == 0)
        status = fex_fail(FEX_ERROR_IO, "cannot start a process: %s",
                          strerror(errno));
    close(ends[1]);
    listen_to_all(ends[0], listener);
    close(ends[0]);
    for (size_t i = 0; i < started; i++)
        await(children[i], listener);
unmap_next:
    munmap(prototype.next, sizeof *prototype.next);
free_children:
    free(children);
    return status;
}
