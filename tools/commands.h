/* SPDX-License-Identifier: Apache-2.0 */
/* commands.h - the subcommands, one file each; main.c has them in a table. */
#ifndef TOOL_COMMANDS_H
#define TOOL_COMMANDS_H

#include "options.h"

extern const tool_command command_info;
extern const tool_command command_run;
extern const tool_command command_bench;
extern const tool_command command_prewarm;
extern const tool_command command_cache_list;
extern const tool_command command_cache_verify;
extern const tool_command command_cache_clear;
extern const tool_command command_cache_prune;
extern const tool_command command_cache_export;
extern const tool_command command_cache_import;

#endif
