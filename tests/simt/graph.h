/* SPDX-License-Identifier: Apache-2.0 */
/* graph.h - graphs, as captures leave them: lists of operations. */
#ifndef SIMT_GRAPH_H
#define SIMT_GRAPH_H

#include "stream.h"

/* A graph with a copy of the operations. */
CUresult simt_graph_create(const simt_operations *operations, CUgraph *graph);

/* Graphs, executable ones and events. */
size_t simt_graph_live(void);
size_t simt_graph_exec_live(void);
size_t simt_event_live(void);
void simt_graph_clear(void); /* destroys all three */

#endif
