/* SPDX-License-Identifier: Apache-2.0 */
/* exports.h - cuda.h with its functions exported, under the versioned names
 * that its macros give them. */
#ifndef SIMT_EXPORTS_H
#define SIMT_EXPORTS_H

#pragma GCC visibility push(default)
#include <cuda.h>
#pragma GCC visibility pop

#endif
