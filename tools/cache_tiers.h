/* SPDX-License-Identifier: Apache-2.0 */
/* cache_tiers.h - the tiers of the kernel cache, and what is the matter with
 * one that is of no use. */
#ifndef TOOL_CACHE_TIERS_H
#define TOOL_CACHE_TIERS_H

#include <jansson.h>

#include "context.h"

/* An array of {"path", "user", "named_by", "state", "why"}: the user tier, if
 * there is one, then the read-only ones, which are named by a variable or are
 * the default. Looks into each. The state is "directory", "bundle", "refused",
 * with a reason why, or "missing", as the user tier is before something is
 * written to it. */
json_t *cache_tiers_describe(fex_context *context);

/* "", " (missing)" or " (not used: the reason)": to stand behind a path. */
#define CACHE_TIER_MARK_MAX 300
void cache_tiers_mark(const json_t *tier, char text[CACHE_TIER_MARK_MAX]);

#endif
