/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <stdio.h>
#include <string.h>

#include "report.h"

#define FRAMES_MAX 48

static char message[512];
static void *frames[FRAMES_MAX];
static int frame_count;
static const void *exact_frame; /* where a signal came, not a return address */
static char report[4096];

void simt_report_signal(const void *instruction)
{
    exact_frame = instruction;
}

void simt_report_fault(simt_dim3 block, simt_dim3 thread, const char *format,
                       va_list args)
{
    const int used =
        snprintf(message, sizeof message, "block (%u,%u,%u), thread (%u,%u,%u): ",
                 block.x, block.y, block.z, thread.x, thread.y, thread.z);
    vsnprintf(message + used, sizeof message - (size_t)used, format, args);
    frame_count = backtrace(frames, FRAMES_MAX);
}

void simt_report_damage(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    frame_count = 0;
}

static void append(const char *text)
{
    const size_t used = strlen(report);
    snprintf(report + used, sizeof report - used, "%s", text);
}

/* Kernel lines are worth showing, not those of the dialect they go through. */
static int is_kernel_line(const char *line)
{
    static const char *const others[] = {"dialect.h", "observe.h", "__ubsan_handle_",
                                         "ptx_simulated.cuh", "tensor_simulated.cuh",
                                         "hopper_simulated.cuh", "words_simulated.cuh", "simt_run<",
                                         "??"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strstr(line, others[i]) != NULL)
            return 0;
    return 1;
}

/* " (inlined by) f at file:12 (discriminator 3)" becomes "    f at file:12". */
static void append_line(char *line)
{
    static const char inlined[] = " (inlined by) ";
    const size_t length = sizeof inlined - 1;
    char *const rest = strstr(line, " (discriminator");
    if (rest != NULL)
        *rest = '\0';
    line[strcspn(line, "\n")] = '\0';
    append("    ");
    append(strncmp(line, inlined, length) == 0 ? line + length : line);
    append("\n");
}

/* Appends the calls, inlined ones too, of one address of a kernel. Those are
 * in files of the process's own, see module.c. */
static void append_lines(void *frame)
{
    Dl_info info;
    char command[256];
    char line[512];
    if (dladdr(frame, &info) == 0 || info.dli_fname == NULL ||
        strncmp(info.dli_fname, "/proc/", 6) != 0)
        return;
    /* A return address is behind its call: one byte less is inside. */
    const unsigned long offset =
        (unsigned long)((char *)frame - (char *)info.dli_fbase) -
        (frame != exact_frame);
    snprintf(command, sizeof command,
             "addr2line -s -f -i -p -C -e %s 0x%lx 2>/dev/null",
             info.dli_fname, offset);
    FILE *const lines = popen(command, "r");
    if (lines == NULL)
        return;
    while (fgets(line, sizeof line, lines) != NULL) {
        if (is_kernel_line(line))
            append_line(line);
    }
    pclose(lines);
}

void simt_report_print(const char *kernel, unsigned long seed)
{
    snprintf(report, sizeof report, "simulated device: kernel %s, %s\n", kernel,
             message);
    for (int i = 0; i < frame_count; i++)
        append_lines(frames[i]);
    fputs(report, stderr);
    exact_frame = NULL;
    fprintf(stderr, "    (FLASHEXPERT_SIM_SEED=%lu)\n", seed);
}

const char *simt_report_last(void)
{
    return report;
}
