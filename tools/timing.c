/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "timing.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "report.h"

/* A block lasts about this long, and is no more calls than this: a queue that
 * is full makes the host wait for the device. */
static const double block_seconds = 2e-4;
enum { BLOCK_CALLS_MAX = 100, HOST_CALLS = 16, WARM_UP_CALLS = 3 };

static fex_status check(const timing *t, CUresult result, const char *call)
{
    return fex_driver_check(t->device->driver, result, call);
}

static fex_status queue(const timing *t, size_t calls)
{
    for (size_t i = 0; i < calls; i++)
        return_if_error(t->subject.call(t->subject.user));
    return FEX_OK;
}

/* ---- One figure --------------------------------------------------------- */

static fex_status begin_block(const timing *t)
{
    return check(t,
                 t->device->driver->cuEventRecord(t->start, t->device->stream),
                 "cuEventRecord");
}

/* Waits for the block and divides its time by its calls. */
static fex_status end_block(const timing *t, size_t calls, double *seconds)
{
    const fex_driver *driver = t->device->driver;
    float milliseconds;

    return_if_error(check(t, driver->cuEventRecord(t->stop, t->device->stream),
                          "cuEventRecord"));
    return_if_error(
        check(t, driver->cuEventSynchronize(t->stop), "cuEventSynchronize"));
    return_if_error(
        check(t, driver->cuEventElapsedTime(&milliseconds, t->start, t->stop),
              "cuEventElapsedTime"));
    *seconds = 1e-3 * (double)milliseconds / (double)calls;
    return FEX_OK;
}

static fex_status time_calls(const timing *t, size_t calls, double *seconds)
{
    return_if_error(begin_block(t));
    return_if_error(queue(t, calls));
    return end_block(t, calls, seconds);
}

static fex_status time_graph(const timing *t, double *seconds)
{
    return_if_error(begin_block(t));
    return_if_error(
        check(t, t->device->driver->cuGraphLaunch(t->graph, t->device->stream),
              "cuGraphLaunch"));
    return end_block(t, t->graph_calls, seconds);
}

/* The host's share: an empty stream and few calls, so that nothing waits. */
static fex_status time_host(const timing *t, double *seconds)
{
    return_if_error(device_synchronize(t->device));
    const double begin = report_seconds();
    return_if_error(queue(t, HOST_CALLS));
    *seconds = (report_seconds() - begin) / HOST_CALLS;
    return device_synchronize(t->device);
}

/* ---- The graph ---------------------------------------------------------- */

static fex_status capture(timing *t)
{
    const fex_driver *driver = t->device->driver;
    CUgraph graph = NULL;

    return_if_error(
        check(t,
              driver->cuStreamBeginCapture(t->device->stream,
                                           CU_STREAM_CAPTURE_MODE_THREAD_LOCAL),
              "cuStreamBeginCapture"));
    fex_status status = queue(t, t->graph_calls);
    const CUresult ended =
        driver->cuStreamEndCapture(t->device->stream, &graph);
    if (status == FEX_OK)
        status = check(t, ended, "cuStreamEndCapture");
    if (status == FEX_OK)
        status = check(t, driver->cuGraphInstantiate(&t->graph, graph, 0),
                       "cuGraphInstantiate");
    if (graph != NULL)
        driver->cuGraphDestroy(graph);
    return status;
}

/* ---- The interface ------------------------------------------------------ */

static fex_status make_events(timing *t)
{
    const fex_driver *driver = t->device->driver;
    return_if_error(
        check(t, driver->cuEventCreate(&t->start, 0), "cuEventCreate"));
    return check(t, driver->cuEventCreate(&t->stop, 0), "cuEventCreate");
}

static fex_status calibrate(timing *t, size_t graph_calls)
{
    double seconds;

    return_if_error(queue(t, WARM_UP_CALLS));
    return_if_error(time_calls(t, WARM_UP_CALLS, &seconds));
    const double calls = ceil(block_seconds / fmax(seconds, 1e-7));
    t->calls = calls > BLOCK_CALLS_MAX ? BLOCK_CALLS_MAX
               : calls < 1             ? 1
                                       : (size_t)calls;
    if (graph_calls == 0)
        return FEX_OK;
    t->graph_calls = t->calls > graph_calls ? t->calls : graph_calls;
    return_if_error(capture(t));
    return time_graph(t, &seconds);
}

fex_status timing_create(const tool_device *device, timing_subject subject,
                         size_t rounds_max, size_t graph_calls, timing *t)
{
    fex_status status;

    *t = (timing){
        .device = device, .subject = subject, .rounds_max = rounds_max};
    t->device_seconds = calloc(3 * rounds_max + 1, sizeof *t->device_seconds);
    if (t->device_seconds == NULL)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "out of memory");
    t->graph_seconds = t->device_seconds + rounds_max;
    t->host_seconds = t->graph_seconds + rounds_max;
    status = make_events(t);
    if (status == FEX_OK)
        status = calibrate(t, graph_calls);
    if (status != FEX_OK)
        timing_destroy(t);
    return status;
}

fex_status timing_round(timing *t)
{
    const size_t i = t->rounds;

    if (i == t->rounds_max)
        return FEX_OK;
    return_if_error(time_calls(t, t->calls, &t->device_seconds[i]));
    if (t->graph != NULL)
        return_if_error(time_graph(t, &t->graph_seconds[i]));
    return_if_error(time_host(t, &t->host_seconds[i]));
    t->rounds++;
    return FEX_OK;
}

static int compare_numbers(const void *a, const void *b)
{
    const double left = *(const double *)a;
    const double right = *(const double *)b;
    return (left > right) - (left < right);
}

double timing_median(const timing *t, const double *seconds)
{
    const size_t count = t->rounds;
    double *sorted = malloc(count * sizeof *sorted + 1);

    if (count == 0 || sorted == NULL) {
        free(sorted);
        return NAN;
    }
    memcpy(sorted, seconds, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, compare_numbers);
    const double median = 0.5 * (sorted[(count - 1) / 2] + sorted[count / 2]);
    free(sorted);
    return median;
}

void timing_destroy(timing *t)
{
    if (t->device == NULL)
        return;
    const fex_driver *driver = t->device->driver;
    if (t->graph != NULL)
        driver->cuGraphExecDestroy(t->graph);
    if (t->stop != NULL)
        driver->cuEventDestroy(t->stop);
    if (t->start != NULL)
        driver->cuEventDestroy(t->start);
    free(t->device_seconds);
    *t = (timing){.rounds = 0};
}
