/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "cache_tiers.h"

#include <stdio.h>
#include <string.h>

static const char *const states[] = {[FEX_TIER_UNKNOWN] = "missing",
                                     [FEX_TIER_DIRECTORY] = "directory",
                                     [FEX_TIER_BUNDLE] = "bundle",
                                     [FEX_TIER_REFUSED] = "refused"};

json_t *cache_tiers_describe(fex_context *context)
{
    fex_tiers *tiers = fex_store_tiers(context->store);
    json_t *list = json_array();

    for (size_t i = 0; i < tiers->count; i++) {
        fex_tier *tier = &tiers->items[i];
        fex_tier_open(tier);
        const fex_tier_kind kind = tier->kind;
        json_array_append_new(
            list, json_pack("{s:s, s:b, s:s?, s:s, s:s?}", "path", tier->path,
                            "user", tier->writable, "named_by", tier->named_by,
                            "state", states[kind], "why",
                            kind == FEX_TIER_REFUSED ? tier->why : NULL));
    }
    return list;
}

void cache_tiers_mark(const json_t *tier, char text[CACHE_TIER_MARK_MAX])
{
    const char *state = json_string_value(json_object_get(tier, "state"));
    const char *why = json_string_value(json_object_get(tier, "why"));
    const int user = json_is_true(json_object_get(tier, "user"));

    text[0] = '\0';
    if (why != NULL)
        snprintf(text, CACHE_TIER_MARK_MAX, " (not used: %s)", why);
    else if (!user && state != NULL && strcmp(state, "missing") == 0)
        snprintf(text, CACHE_TIER_MARK_MAX, " (missing)");
}
