/* SPDX-License-Identifier: Apache-2.0 */
/* command_cache.c - the kernel cache: looking at it, tidying it, moving it. */
#include "config.h"

#include <string.h>
#include <time.h>

#include "architecture.h"
#include "cache_tiers.h"
#include "commands.h"
#include "report.h"

typedef struct cache_settings {
    tool_settings common;
    const char *architecture;
    const char *out;
    int64_t max;
    int64_t older_than;
} cache_settings;

#define ROW(name, kind, member, ...)                                           \
    {                                                                          \
        name, 0, kind, offsetof(cache_settings, member), __VA_ARGS__           \
    }

static fex_status create_context(fex_context **context)
{
    const fex_context_options none = {.size = sizeof none,
                                      .device = FEX_DEVICE_NONE};
    return fex_context_create(&none, context);
}

/* ---- list, verify ------------------------------------------------------- */

/* Entries as they are visited, and what they add up to. */
typedef struct cache_listing {
    int json;
    int only_damaged; /* print no others */
    json_t *entries;
    char tier[512]; /* whose heading was printed last */
    uint64_t count, bytes, damaged;
} cache_listing;

static json_t *describe_entry(const fex_cache_entry *entry)
{
    return json_pack(
        "{s:s, s:s, s:s, s:s?, s:s?, s:i, s:I, s:I, s:I, s:b}", "tier",
        entry->tier, "path", entry->path, "key", entry->key, "kernel",
        entry->kernel, "architecture", entry->architecture, "compiler_version",
        entry->compiler_version, "bytes", (json_int_t)entry->bytes, "last_used",
        (json_int_t)entry->last_used, "hits", (json_int_t)entry->hits,
        "damaged", entry->state != FEX_OK);
}

static void print_entry(cache_listing *listing, const fex_cache_entry *entry)
{
    char bytes[REPORT_BYTES_MAX];
    char version[REPORT_VERSION_MAX];
    char used[32] = "never";
    const time_t stamp = (time_t)entry->last_used;
    struct tm when;

    if (strncmp(listing->tier, entry->tier, sizeof listing->tier - 1) != 0) {
        snprintf(listing->tier, sizeof listing->tier, "%s", entry->tier);
        printf("%s\n", entry->tier);
    }
    if (entry->state != FEX_OK) {
        printf("  %s  damaged: %s\n", entry->key, entry->path);
        return;
    }
    if (stamp > 0 && localtime_r(&stamp, &when) != NULL)
        strftime(used, sizeof used, "%Y-%m-%d %H:%M", &when);
    report_format_bytes((double)entry->bytes, bytes);
    report_format_version(entry->compiler_version, version);
    printf("  %s  %8s  NVRTC %s  %llu hits, last %s\n      %s\n", entry->key,
           bytes, version, (unsigned long long)entry->hits, used,
           entry->kernel);
}

static int visit(void *user, const fex_cache_entry *entry)
{
    cache_listing *listing = user;
    const int damaged = entry->state != FEX_OK;

    listing->count++;
    listing->bytes += entry->bytes;
    listing->damaged += (uint64_t)damaged;
    if (listing->only_damaged && !damaged)
        return 1;
    if (listing->json)
        json_array_append_new(listing->entries, describe_entry(entry));
    else
        print_entry(listing, entry);
    return 1;
}

/* Names the tiers that have no entries because they are of no use. */
static void print_useless_tiers(const json_t *tiers)
{
    size_t i;
    json_t *tier;

    json_array_foreach(tiers, i, tier)
    {
        char mark[CACHE_TIER_MARK_MAX];
        cache_tiers_mark(tier, mark);
        /* The default is for those who want it. */
        if (mark[0] != '\0' &&
            (json_is_string(json_object_get(tier, "named_by")) ||
             json_is_string(json_object_get(tier, "why"))))
            printf("%s%s\n",
                   json_string_value(json_object_get(tier, "path")), mark);
    }
}

/* Walks all tiers; with `verify` reads every byte, prints what is damaged
 * only, and fails if anything is. */
static int walk(const tool_command *command, const cache_settings *settings,
                int verify)
{
    cache_listing listing = {.json = settings->common.json,
                             .only_damaged = verify,
                             .entries = json_array()};
    json_t *tiers = NULL;
    fex_context *context;
    fex_status status = create_context(&context);

    if (status == FEX_OK) {
        status = fex_cache_list(context, verify, visit, &listing);
        tiers = cache_tiers_describe(context);
        fex_context_destroy(context);
    }
    if (status != FEX_OK) {
        json_decref(listing.entries);
        json_decref(tiers);
        return report_status(command, status);
    }
    const int code = verify && listing.damaged > 0 ? TOOL_FAILED : TOOL_DONE;
    if (settings->common.json)
        return report_json(command,
                           json_pack("{s:o, s:o, s:I, s:I, s:I}", "entries",
                                     listing.entries, "tiers", tiers, "count",
                                     (json_int_t)listing.count, "bytes",
                                     (json_int_t)listing.bytes, "damaged",
                                     (json_int_t)listing.damaged),
                           code);
    json_decref(listing.entries);
    print_useless_tiers(tiers);
    json_decref(tiers);
    char kernels[REPORT_COUNT_MAX];
    char bytes[REPORT_BYTES_MAX];
    report_format_count(listing.count, "kernel", kernels);
    report_format_bytes((double)listing.bytes, bytes);
    printf("%s, %s, %llu damaged\n", kernels, bytes,
           (unsigned long long)listing.damaged);
    return code;
}

static int run_list(const tool_command *command, const void *settings)
{
    return walk(command, settings, 0);
}

static int run_verify(const tool_command *command, const void *settings)
{
    return walk(command, settings, 1);
}

/* ---- clear, prune, export, import --------------------------------------- */

/* Does one thing to the cache, which yields a count of entries. */
static int change(const tool_command *command, const cache_settings *settings,
                  const char *done,
                  fex_status (*action)(fex_context *, const cache_settings *,
                                       uint64_t *))
{
    fex_context *context;
    uint64_t count = 0;
    fex_status status = create_context(&context);

    if (status == FEX_OK) {
        status = action(context, settings, &count);
        fex_context_destroy(context);
    }
    if (status != FEX_OK)
        return report_status(command, status);
    if (settings->common.json)
        return report_json(command, json_pack("{s:I}", done, (json_int_t)count),
                           TOOL_DONE);
    char kernels[REPORT_COUNT_MAX];
    report_format_count(count, "kernel", kernels);
    printf("%s %s\n", kernels, done);
    return TOOL_DONE;
}

static fex_status do_clear(fex_context *context, const cache_settings *settings,
                           uint64_t *count)
{
    (void)settings;
    return fex_cache_clear(context, count);
}

static fex_status do_prune(fex_context *context, const cache_settings *settings,
                           uint64_t *count)
{
    const uint64_t max =
        settings->max < 0 ? UINT64_MAX : (uint64_t)settings->max;
    const int64_t older_than =
        settings->older_than < 0 ? 0 : settings->older_than;
    return fex_cache_prune(context, max, older_than, count);
}

/* Counts what an export would have in it. */
typedef struct export_count {
    const char *architecture; /* NULL: all */
    uint64_t count;
} export_count;

static int count_for_export(void *user, const fex_cache_entry *entry)
{
    export_count *found = user;
    found->count +=
        entry->state == FEX_OK &&
        (found->architecture == NULL ||
         strcmp(found->architecture, entry->architecture) == 0);
    return 1;
}

/* A bundle without kernels is hardly what was meant. */
static fex_status check_export(fex_context *context,
                               const cache_settings *settings)
{
    const fex_architecture *architecture = NULL;
    export_count found = {0};

    if (settings->architecture != NULL) {
        return_if_error(
            fex_architecture_find(settings->architecture, &architecture));
        found.architecture = architecture->name;
    }
    return_if_error(fex_cache_list(context, 1, count_for_export, &found));
    if (found.count > 0)
        return FEX_OK;
    return fex_fail(FEX_ERROR_IO,
                    "there is no kernel%s%s in the cache; '%s' is not written",
                    architecture != NULL ? " for " : "",
                    architecture != NULL ? architecture->name : "",
                    settings->out);
}

static fex_status do_export(fex_context *context,
                            const cache_settings *settings, uint64_t *count)
{
    return_if_error(check_export(context, settings));
    return fex_cache_export(context, settings->out, settings->architecture,
                            count);
}

static fex_status do_import(fex_context *context,
                            const cache_settings *settings, uint64_t *count)
{
    return fex_cache_import(context, settings->common.argument, count);
}

static int run_clear(const tool_command *command, const void *settings)
{
    return change(command, settings, "removed", do_clear);
}

static int run_prune(const tool_command *command, const void *settings)
{
    return change(command, settings, "removed", do_prune);
}

static int run_export(const tool_command *command, const void *settings)
{
    const cache_settings *wanted = settings;
    if (wanted->out == NULL)
        return command_fail(command, TOOL_USAGE, "--out FILE is missing");
    return change(command, settings, "exported", do_export);
}

static int run_import(const tool_command *command, const void *settings)
{
    return change(command, settings, "imported", do_import);
}

/* ---- The tables --------------------------------------------------------- */

static const tool_option no_options[] = {{.name = NULL}};

static const tool_option prune_options[] = {
    ROW("max", OPTION_NUMBER, max, "SIZE", NULL, 0, 0,
        "remove the least recently used until at most SIZE bytes are left"),
    ROW("older-than", OPTION_AGE, older_than, "AGE", NULL, 1, 0,
        "remove what was last used more than AGE ago: a number with its unit, "
        "s, m, h, d or w, such as 30d"),
    {.name = NULL},
};

static const tool_option export_options[] = {
    ROW("out", OPTION_TEXT, out, "FILE", NULL, 0, 0, "the bundle to write"),
    ROW("arch", OPTION_TEXT, architecture, "ARCH", NULL, 0, 0,
        "only kernels for this architecture, such as sm_90a"),
    {.name = NULL},
};

const tool_command command_cache_list = {
    .name = "cache list",
    .summary = "List the kernels in every tier of the cache",
    .options = no_options,
    .settings_size = sizeof(cache_settings),
    .run = run_list,
};

const tool_command command_cache_verify = {
    .name = "cache verify",
    .summary = "Read every kernel in full and name those that are damaged",
    .options = no_options,
    .settings_size = sizeof(cache_settings),
    .run = run_verify,
};

const tool_command command_cache_prune = {
    .name = "cache prune",
    .summary = "Remove old, excess and damaged kernels from the user tier",
    .options = prune_options,
    .settings_size = sizeof(cache_settings),
    .run = run_prune,
};

const tool_command command_cache_clear = {
    .name = "cache clear",
    .summary = "Remove every kernel from the user tier",
    .options = no_options,
    .settings_size = sizeof(cache_settings),
    .run = run_clear,
};

const tool_command command_cache_export = {
    .name = "cache export",
    .summary = "Write the kernels of all tiers to one bundle file",
    .options = export_options,
    .settings_size = sizeof(cache_settings),
    .run = run_export,
};

const tool_command command_cache_import = {
    .name = "cache import",
    .argument = "FILE",
    .summary = "Copy the kernels of a bundle file into the user tier",
    .options = no_options,
    .settings_size = sizeof(cache_settings),
    .run = run_import,
};
