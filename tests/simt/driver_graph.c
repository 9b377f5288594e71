/* SPDX-License-Identifier: Apache-2.0 */
/* driver_graph.c - the driver's entry points for graphs and events. */
#include "config.h"

#include <stdlib.h>

#include "device.h"
#include "graph.h"

struct CUgraph_st {
    CUgraph next;
    simt_operations operations;
};

struct CUgraphExec_st {
    CUgraphExec next;
    simt_operations operations;
};

static CUgraph graphs;
static CUgraphExec graph_execs;
static CUevent events;

/* ---- Graphs ------------------------------------------------------------- */

CUresult simt_graph_create(const simt_operations *operations, CUgraph *graph)
{
    CUgraph made = calloc(1, sizeof *made);
    if (made == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (simt_operations_copy(&made->operations, operations) != 0) {
        free(made);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    made->next = graphs;
    graphs = made;
    *graph = made;
    return CUDA_SUCCESS;
}

/* The link that holds graph, or the last one, which holds NULL. */
static CUgraph *find_graph(CUgraph graph)
{
    CUgraph *link = &graphs;
    while (*link != NULL && *link != graph)
        link = &(*link)->next;
    return link;
}

static CUgraphExec *find_graph_exec(CUgraphExec graph)
{
    CUgraphExec *link = &graph_execs;
    while (*link != NULL && *link != graph)
        link = &(*link)->next;
    return link;
}

CUresult cuGraphDestroy(CUgraph graph)
{
    const CUresult result = simt_begin(__func__, SIMT_CONTEXT);
    CUgraph *const link = find_graph(graph);
    if (*link == NULL)
        return simt_end(CUDA_ERROR_INVALID_VALUE);
    *link = graph->next;
    simt_operations_free(&graph->operations);
    free(graph);
    return simt_end(result);
}

CUresult cuGraphInstantiate(CUgraphExec *exec, CUgraph graph,
                            unsigned long long flags)
{
    CUresult result = simt_begin("cuGraphInstantiate", SIMT_CONTEXT);
    if (result == CUDA_SUCCESS && (*find_graph(graph) == NULL || flags != 0))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result != CUDA_SUCCESS)
        return simt_end(result);
    CUgraphExec made = calloc(1, sizeof *made);
    if (made == NULL)
        return simt_end(CUDA_ERROR_OUT_OF_MEMORY);
    if (simt_operations_copy(&made->operations, &graph->operations) != 0) {
        free(made);
        return simt_end(CUDA_ERROR_OUT_OF_MEMORY);
    }
    made->next = graph_execs;
    graph_execs = made;
    *exec = made;
    return simt_end(CUDA_SUCCESS);
}

CUresult cuGraphExecDestroy(CUgraphExec exec)
{
    const CUresult result = simt_begin(__func__, SIMT_CONTEXT);
    CUgraphExec *const link = find_graph_exec(exec);
    if (*link == NULL)
        return simt_end(CUDA_ERROR_INVALID_VALUE);
    *link = exec->next;
    simt_operations_free(&exec->operations);
    free(exec);
    return simt_end(result);
}

CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream)
{
    CUresult result = simt_begin(__func__, SIMT_CONTEXT);
    CUstream found = simt_stream_find(stream);
    if (result == CUDA_SUCCESS &&
        (found == NULL || *find_graph_exec(exec) == NULL))
        result = CUDA_ERROR_INVALID_HANDLE;
    if (result != CUDA_SUCCESS)
        return simt_end(result);
    for (const simt_operation *o = exec->operations.first;
         o != NULL && result == CUDA_SUCCESS; o = o->next)
        result = simt_stream_add(found, o);
    return simt_end(result);
}

size_t simt_graph_live(void)
{
    size_t count = 0;
    for (CUgraph g = graphs; g != NULL; g = g->next)
        count++;
    return count;
}

size_t simt_graph_exec_live(void)
{
    size_t count = 0;
    for (CUgraphExec g = graph_execs; g != NULL; g = g->next)
        count++;
    return count;
}

/* ---- Events ------------------------------------------------------------- */

static CUevent *find_event(CUevent event)
{
    CUevent *link = &events;
    while (*link != NULL && *link != event)
        link = &(*link)->next;
    return link;
}

CUresult cuEventCreate(CUevent *event, unsigned flags)
{
    CUresult result = simt_begin(__func__, SIMT_CONTEXT);
    CUevent made = NULL;
    (void)flags;
    if (result == CUDA_SUCCESS) {
        made = calloc(1, sizeof *made);
        result = made == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
    }
    if (result == CUDA_SUCCESS) {
        made->next = events;
        events = made;
        *event = made;
    }
    return simt_end(result);
}

CUresult cuEventDestroy(CUevent event)
{
    const CUresult result = simt_begin(__func__, SIMT_CONTEXT);
    CUevent *const link = find_event(event);
    if (*link == NULL)
        return simt_end(CUDA_ERROR_INVALID_HANDLE);
    if (event->pending > 0)
        simt_stream_run_all();
    *link = event->next;
    free(event);
    return simt_end(result);
}

CUresult cuEventRecord(CUevent event, CUstream stream)
{
    CUresult result = simt_begin(__func__, SIMT_CONTEXT);
    CUstream found = simt_stream_find(stream);
    if (result == CUDA_SUCCESS && (found == NULL || *find_event(event) == NULL))
        result = CUDA_ERROR_INVALID_HANDLE;
    if (result == CUDA_SUCCESS) {
        const simt_operation record = {.kind = SIMT_RECORD, .event = event};
        result = simt_stream_add(found, &record);
    }
    if (result == CUDA_SUCCESS)
        event->recorded = 1;
    return simt_end(result);
}

CUresult cuEventSynchronize(CUevent event)
{
    CUresult result = simt_begin(__func__, SIMT_CONTEXT);
    if (result == CUDA_SUCCESS && *find_event(event) == NULL)
        result = CUDA_ERROR_INVALID_HANDLE;
    if (result == CUDA_SUCCESS && event->pending > 0)
        result = simt_stream_run_all();
    return simt_end(result);
}

CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end)
{
    CUresult result = simt_begin(__func__, SIMT_CONTEXT);
    if (result == CUDA_SUCCESS &&
        (*find_event(start) == NULL || *find_event(end) == NULL ||
         !start->recorded || !end->recorded))
        result = CUDA_ERROR_INVALID_HANDLE;
    if (result == CUDA_SUCCESS && (start->pending > 0 || end->pending > 0))
        result = CUDA_ERROR_NOT_READY;
    if (result == CUDA_SUCCESS)
        *milliseconds =
            (float)(end->time.tv_sec - start->time.tv_sec) * 1e3f +
            (float)(end->time.tv_nsec - start->time.tv_nsec) * 1e-6f;
    return simt_end(result);
}

void simt_graph_clear(void)
{
    while (graphs != NULL) {
        CUgraph old = graphs;
        graphs = old->next;
        simt_operations_free(&old->operations);
        free(old);
    }
    while (graph_execs != NULL) {
        CUgraphExec old = graph_execs;
        graph_execs = old->next;
        simt_operations_free(&old->operations);
        free(old);
    }
    while (events != NULL) {
        CUevent old = events;
        events = old->next;
        free(old);
    }
}

size_t simt_event_live(void)
{
    size_t count = 0;
    for (CUevent e = events; e != NULL; e = e->next)
        count++;
    return count;
}
