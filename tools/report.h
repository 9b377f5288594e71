/* SPDX-License-Identifier: Apache-2.0 */
/* report.h - what a subcommand tells: failures, JSON, figures, progress. */
#ifndef TOOL_REPORT_H
#define TOOL_REPORT_H

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

#include "options.h"
#include "status.h"

/* Monotonic time. */
double report_seconds(void);

/* Prints the library's last error as the command's failure. Returns TOOL_USAGE
 * for FEX_ERROR_INVALID_ARGUMENT, else TOOL_FAILED. */
int report_status(const tool_command *command, fex_status status);

/* Prints an object with a newline and releases it; NULL (jansson found no
 * memory) is a failure. Returns an exit code: `code` unless that failed. */
int report_json(const tool_command *command, json_t *object, int code);

/* Sets a member to a number; null where it is not finite. */
void report_set_number(json_t *object, const char *name, double value);

/* "1 kernel", "2 kernels", "0 kernels". */
#define REPORT_COUNT_MAX 64
void report_format_count(uint64_t count, const char *noun,
                         char text[REPORT_COUNT_MAX]);

/* "17 B", "3.4 MB", "1.2 GB": powers of 1000. */
#define REPORT_BYTES_MAX 16
void report_format_bytes(double bytes, char text[REPORT_BYTES_MAX]);

/* "12.3 us", "4.56 ms", "1.23 s". */
#define REPORT_TIME_MAX 16
void report_format_time(double seconds, char text[REPORT_TIME_MAX]);

/* "12000" as "12.0"; static text "not found" for 0. */
#define REPORT_VERSION_MAX 16
void report_format_version(int version, char text[REPORT_VERSION_MAX]);

/* Progress on standard error: on a terminal one bar with rate and time left,
 * redrawn in place; elsewhere nothing but the lines. */
typedef struct report_progress {
    int terminal;
    double started;
    double drawn;
    uint64_t total, done;
    const char *unit; /* "kernels" */
} report_progress;

void report_progress_start(report_progress *progress, uint64_t total,
                           const char *unit);

/* Counts `steps` done, and prints a line if it is not NULL: above the bar. On
 * a terminal only lines with `important` set are printed. */
void report_progress_step(report_progress *progress, uint64_t steps,
                          const char *line, int important);

/* Removes the bar. */
void report_progress_end(report_progress *progress);

#endif
