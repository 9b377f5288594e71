/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "report.h"

#include <math.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

double report_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int report_status(const tool_command *command, fex_status status)
{
    const char *detail = fex_last_error();
    return command_fail(
        command,
        status == FEX_ERROR_INVALID_ARGUMENT ? TOOL_USAGE : TOOL_FAILED, "%s",
        detail[0] != '\0' ? detail : fex_status_string(status));
}

int report_json(const tool_command *command, json_t *object, int code)
{
    if (object == NULL)
        return command_fail(command, TOOL_FAILED, "out of memory");
    json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(object);
    return code;
}

void report_set_number(json_t *object, const char *name, double value)
{
    json_object_set_new(object, name,
                        isfinite(value) ? json_real(value) : json_null());
}

void report_format_count(uint64_t count, const char *noun,
                         char text[REPORT_COUNT_MAX])
{
    snprintf(text, REPORT_COUNT_MAX, "%llu %s%s", (unsigned long long)count,
             noun, count == 1 ? "" : "s");
}

/* Three significant digits and the unit that leaves 1 to 999 before it. */
static void format_scaled(double value, const char *const *units, size_t count,
                          char *text, size_t size)
{
    size_t unit = 0;
    while (unit + 1 < count && value >= 999.5) {
        value /= 1000.0;
        unit++;
    }
    const int decimals = value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
    snprintf(text, size, "%.*f %s", decimals, value, units[unit]);
}

void report_format_bytes(double bytes, char text[REPORT_BYTES_MAX])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    if (bytes < 999.5)
        snprintf(text, REPORT_BYTES_MAX, "%.0f B", bytes);
    else
        format_scaled(bytes, units, 5, text, REPORT_BYTES_MAX);
}

void report_format_time(double seconds, char text[REPORT_TIME_MAX])
{
    static const char *const units[] = {"us", "ms", "s"};
    format_scaled(1e6 * seconds, units, 3, text, REPORT_TIME_MAX);
}

void report_format_version(int version, char text[REPORT_VERSION_MAX])
{
    if (version == 0)
        snprintf(text, REPORT_VERSION_MAX, "not found");
    else
        snprintf(text, REPORT_VERSION_MAX, "%d.%d", version / 1000,
                 version % 1000 / 10);
}

/* ---- Progress ----------------------------------------------------------- */

void report_progress_start(report_progress *progress, uint64_t total,
                           const char *unit)
{
    *progress = (report_progress){.terminal = isatty(STDERR_FILENO),
                                  .started = report_seconds(),
                                  .total = total,
                                  .unit = unit};
}

static void erase(const report_progress *progress)
{
    if (progress->drawn > 0)
        fputs("\r\033[K", stderr);
}

static void draw(report_progress *progress, double now)
{
    enum { WIDTH = 30 };
    static const char full[] = "##############################";
    static const char empty[] = "..............................";
    const double elapsed = now - progress->started;
    const double rate = (double)progress->done / fmax(elapsed, 1e-9);
    const int filled = progress->total == 0
                           ? WIDTH
                           : (int)(WIDTH * progress->done / progress->total);

    fprintf(stderr, "\r\033[K[%.*s%.*s] %llu/%llu %s", filled, full,
            WIDTH - filled, empty, (unsigned long long)progress->done,
            (unsigned long long)progress->total, progress->unit);
    if (progress->done > 0)
        fprintf(stderr, "  %.1f/s  ETA %.0f s", rate,
                ceil((double)(progress->total - progress->done) / rate));
    fflush(stderr);
    progress->drawn = now;
}

void report_progress_step(report_progress *progress, uint64_t steps,
                          const char *line, int important)
{
    const double now = report_seconds();
    int printed = 0;

    progress->done += steps;
    if (line != NULL && (important || !progress->terminal)) {
        erase(progress);
        fprintf(stderr, "%s\n", line);
        printed = 1;
    }
    /* Ten times a second is as fast as anybody reads. */
    if (progress->terminal && (printed || now - progress->drawn >= 0.1))
        draw(progress, now);
}

void report_progress_end(report_progress *progress)
{
    erase(progress);
    progress->drawn = 0;
}
