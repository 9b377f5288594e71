/* SPDX-License-Identifier: Apache-2.0 */
/* parallel.h - loops over all processors of the host. */
#ifndef TOOL_PARALLEL_H
#define TOOL_PARALLEL_H

#include <stdint.h>

/* Calls body for ranges that together make up [0, count), several at a time,
 * none shorter than `grain` but the last. Returns when all are done. */
void parallel_for(int64_t count, int64_t grain,
                  void (*body)(void *user, int64_t begin, int64_t end),
                  void *user);

#endif
