/* SPDX-License-Identifier: Apache-2.0 */
/* prewarm.h - prewarming for a device that is known by its figures alone. */
#ifndef FEX_PREWARM_H
#define FEX_PREWARM_H

#include "context.h"

/* As fex_prewarm, for the choices of this device instead of the context's, so
 * that a process without the driver may prewarm for one of this machine's.
 * NULL: of none in particular. */
fex_status fex_prewarm_for(fex_context *context, const fex_device *device,
                           const fex_op_desc *desc, fex_pass passes,
                           int64_t num_tokens, const char *architecture,
                           unsigned flags, fex_prewarm_function function,
                           void *user, fex_prewarm_counts *counts);

#endif
