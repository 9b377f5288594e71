/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "asan.h"
#include "compile.h"
#include "image.h"
#include "runtime.h"
#include "translate.h"

#ifdef SIMT_ASAN
#define SANITIZE "-fsanitize=address"
#define HAS_RED_ZONES 1
#else
#define SANITIZE ""
#define HAS_RED_ZONES 0
#endif

extern char **environ;

#define SOURCE_FILE "kernel.cpp"
#define OBJECT_FILE "kernel.o"
#define IMAGE_FILE "kernel.so"
#define LOG_FILE "log"

/* SIMT_CXX is the compiler that the build was configured with, SIMT_INCLUDE the
 * folder of dialect.h. The checks of sanitize.h are always in. Contraction of
 * products and sums, which NVRTC does too, would make results depend on the
 * host's processor. Linked apart: no sanitizer's library is to come along. */
static const char command_format[] =
    "cd '%s' && %s " SANITIZE " -std=c++17 -O1 -g1 -w -fPIC "
    "-fvisibility=hidden -ffp-contract=off -fno-math-errno "
    "-fsanitize=alignment,bounds,shift,signed-integer-overflow,"
    "integer-divide-by-zero %s "
    "-DFEX_SIMULATED -D__CUDA_ARCH__=%d0 -I. -I'" SIMT_INCLUDE "' "
    "-include dialect.h -include sanitize.h %s -c "
    "-o " OBJECT_FILE " " SOURCE_FILE " 2>" LOG_FILE " && "
    "exec %s " SANITIZE " -shared -Wl,-Bsymbolic -Wl,--as-needed "
    "-o " IMAGE_FILE " " OBJECT_FILE " -lm 2>>" LOG_FILE;

/* ---- Sources ------------------------------------------------------------ */

int simt_sources_copy(simt_sources *sources, const char *source,
                      size_t header_count, const char *const *headers,
                      const char *const *names)
{
    sources->header_count = 0;
    sources->headers = calloc(header_count + 1, sizeof *sources->headers);
    sources->names = calloc(header_count + 1, sizeof *sources->names);
    sources->source = simt_translate(source);
    if (sources->headers == NULL || sources->names == NULL ||
        sources->source == NULL)
        goto fail;
    for (size_t i = 0; i < header_count; i++) {
        sources->header_count = i + 1;
        sources->headers[i] = simt_translate(headers[i]);
        sources->names[i] = strdup(names[i]);
        if (sources->headers[i] == NULL || sources->names[i] == NULL)
            goto fail;
    }
    return 0;

fail:
    simt_sources_free(sources);
    return -1;
}

void simt_sources_free(simt_sources *sources)
{
    for (size_t i = 0; i < sources->header_count; i++) {
        free(sources->headers[i]);
        free(sources->names[i]);
    }
    free(sources->headers);
    free(sources->names);
    free(sources->source);
}

/* ---- Files -------------------------------------------------------------- */

static int write_file(int folder, const char *name, const char *text)
{
    const size_t length = strlen(text);
    const int file = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (file < 0)
        return -1;
    const int failed = write(file, text, length) != (ssize_t)length;
    return close(file) != 0 || failed ? -1 : 0;
}

/* The whole of a file and a NUL, or NULL. */
static char *read_file(int folder, const char *name, size_t *size)
{
    struct stat stat;
    char *text = NULL;
    const int file = openat(folder, name, O_RDONLY);
    if (file < 0)
        return NULL;
    if (fstat(file, &stat) == 0)
        text = calloc(1, (size_t)stat.st_size + 1);
    if (text != NULL &&
        read(file, text, (size_t)stat.st_size) != (ssize_t)stat.st_size) {
        free(text);
        text = NULL;
    }
    close(file);
    *size = (size_t)stat.st_size;
    return text;
}

static int write_sources(int folder, const simt_sources *sources)
{
    if (write_file(folder, SOURCE_FILE, sources->source) != 0)
        return -1;
    for (size_t i = 0; i < sources->header_count; i++)
        if (write_file(folder, sources->names[i], sources->headers[i]) != 0)
            return -1;
    return 0;
}

static void remove_folder(const char *path, int folder)
{
    DIR *const list = fdopendir(folder);
    const struct dirent *entry;
    if (list == NULL)
        return;
    while ((entry = readdir(list)) != NULL)
        if (entry->d_name[0] != '.')
            unlinkat(folder, entry->d_name, 0);
    closedir(list);
    rmdir(path);
}

/* ---- Compiling ---------------------------------------------------------- */

/* Options for accesses that are watched, see observe.h. */
static const char *observer(void)
{
    const char *const wanted = getenv("FLASHEXPERT_SIM_RACES");
    return wanted != NULL && atoi(wanted) != 0 && !HAS_RED_ZONES
               ? "-fsanitize=thread -include observe.h"
               : "";
}

/* The exit status of the compiler, or -1. */
static int run_compiler(const char *folder, int architecture)
{
    const char *const given = getenv("FLASHEXPERT_SIM_CXX");
    const char *const compiler = given != NULL ? given : SIMT_CXX;
    char *command;
    pid_t child;
    int status;
    /* A fused product and sum is a function of the C library without this. */
#ifdef __x86_64__
    const char *const machine = __builtin_cpu_supports("fma") ? "-mfma" : "";
#else
    const char *const machine = "";
#endif
    if (asprintf(&command, command_format, folder, compiler, machine,
                 architecture, observer(), compiler) < 0)
        return -1;
    char *const arguments[] = {(char[]){"sh"}, (char[]){"-c"}, command, NULL};
    const int error =
        posix_spawn(&child, "/bin/sh", NULL, NULL, arguments, environ);
    free(command);
    if (error != 0)
        return -1;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* What ptxas would refuse, unless red zones are in the way of knowing. Kernels
 * are those that the source names. */
static int check_shared(const char *source, const char *image_bytes, char **log)
{
    static const char mark[] = "SIMT_KERNEL(";
    simt_image image;
    char name[64];
    if (simt_image_read(image_bytes, &image) != 0)
        return -1;
    for (const char *s = strstr(source, mark); s != NULL;
         s = strstr(s + 1, mark)) {
        if (sscanf(s, "SIMT_KERNEL(%63[A-Za-z0-9_]", name) != 1)
            continue;
        const size_t bytes = simt_image_shared_bytes(&image, name);
        if (bytes <= SIMT_STATIC_SHARED_BYTES || HAS_RED_ZONES)
            continue;
        free(*log);
        if (asprintf(log,
                     "ptxas error   : Entry function '%s' uses too much "
                     "shared data (0x%zx bytes, 0x%x max)\n",
                     name, bytes, SIMT_STATIC_SHARED_BYTES) < 0)
            *log = NULL;
        return -1;
    }
    return 0;
}

simt_outcome simt_compile(const simt_sources *sources, int architecture,
                          char **image, size_t *image_size, char **log)
{
    const char *const base = getenv("TMPDIR");
    simt_outcome outcome = SIMT_FAILED;
    size_t log_size;
    char path[256];
    snprintf(path, sizeof path, "%s/simt-XXXXXX", base != NULL ? base : "/tmp");
    if (mkdtemp(path) == NULL)
        return SIMT_FAILED;
    const int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0 || write_sources(folder, sources) != 0)
        goto done;
    const int status = run_compiler(path, architecture);
    *log = read_file(folder, LOG_FILE, &log_size);
    if (status < 0 || *log == NULL)
        goto done;
    outcome = SIMT_REFUSED;
    if (status == 0)
        *image = read_file(folder, IMAGE_FILE, image_size);
    if (*image == NULL)
        goto done;
    if (check_shared(sources->source, *image, log) == 0) {
        outcome = SIMT_COMPILED;
        goto done;
    }
    free(*image);
    *image = NULL;
    *image_size = 0;

done:
    if (folder >= 0)
        remove_folder(path, folder);
    return outcome;
}
