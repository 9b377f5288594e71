/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include <stdio.h>
#include <string.h>

#include "control.h"
#include "device.h"
#include "faults.h"
#include "graph.h"
#include "memory.h"
#include "module.h"
#include "report.h"

SIMT_EXPORT simt_plan_function simt_plan;
SIMT_EXPORT simt_calls_function simt_calls;
SIMT_EXPORT simt_hits_function simt_hits;
SIMT_EXPORT simt_live_function simt_live;
SIMT_EXPORT simt_report_function simt_report;

void simt_plan(const char *plan)
{
    simt_device_plan(plan);
}

unsigned long simt_calls(const char *function)
{
    return simt_faults_calls(function);
}

unsigned simt_hits(void)
{
    return simt_faults_hit();
}

const char *simt_report(void)
{
    return simt_report_last();
}

void simt_live(char *text, size_t size)
{
    const struct {
        size_t count;
        const char *what;
    } held[] = {{simt_device_retained(), "primary contexts"},
                {simt_module_live(), "modules"},
                {simt_memory_live(), "allocations"},
                {simt_stream_live(), "streams"},
                {simt_event_live(), "events"},
                {simt_graph_live(), "graphs"},
                {simt_graph_exec_live(), "executable graphs"}};
    text[0] = '\0';
    for (size_t i = 0; i < sizeof held / sizeof *held; i++) {
        const size_t used = strlen(text);
        if (held[i].count > 0)
            snprintf(text + used, size - used, "%s%zu %s",
                     used > 0 ? ", " : "", held[i].count, held[i].what);
    }
}
