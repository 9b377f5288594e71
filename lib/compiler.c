/* SPDX-License-Identifier: Apache-2.0 */
/* compiler.c - libnvrtc, opened at run time: finding it, compiling with it. */
#include "config.h"

#include <dlfcn.h>
#include <glob.h>
#include <nvrtc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compiler.h"

#define LOG_HEAD 1024 /* of a compiler's log, kept as the error's detail */

#define NVRTC_FUNCTIONS(X)                                                     \
    X(nvrtcVersion)                                                            \
    X(nvrtcGetErrorString)                                                     \
    X(nvrtcCreateProgram)                                                      \
    X(nvrtcDestroyProgram)                                                     \
    X(nvrtcCompileProgram)                                                     \
    X(nvrtcGetProgramLogSize)                                                  \
    X(nvrtcGetProgramLog)                                                      \
    X(nvrtcGetCUBINSize)                                                       \
    X(nvrtcGetCUBIN)

struct fex_compiler {
    pthread_mutex_t lock; /* over opening; what it opens never changes */
    char *override;
    char *cuda_home;
    char *virtual_env;
    const fex_log *log;
    pid_t owner; /* the process that may close it */
    void *library; /* NULL until opened */
    char trouble[512]; /* with the first candidate that is there; "" if none */
    char path[512];
    int version;
#define NVRTC_MEMBER(name) __typeof__(&name) name;
    NVRTC_FUNCTIONS(NVRTC_MEMBER)
#undef NVRTC_MEMBER
};

/* ---- Finding ------------------------------------------------------------ */

/* In this order. By these names alone the dynamic linker searches; patterns
 * are where a wheel from PyPI unpacks its libraries. %s is a folder. */
static const char *const sonames[] = {"libnvrtc.so.13", "libnvrtc.so.12"};
static const char *const python_patterns[] = {
    "%s/lib/python3*/site-packages/nvidia/*/lib/libnvrtc.so.1[23]",
    "%s/lib/python3*/dist-packages/nvidia/*/lib/libnvrtc.so.1[23]",
    "%s/nvidia/*/lib/libnvrtc.so.1[23]",
};

/* Keeps what the dynamic linker says of a candidate, unless that is but that
 * there is none. Of what one lacks it speaks by another name. */
static void note_trouble(fex_compiler *compiler, const char *path)
{
    const char *const message = dlerror();
    const int absent =
        compiler->override == NULL &&
        strncmp(message, path, strlen(path)) == 0 &&
        (strchr(path, '/') == NULL || access(path, F_OK) != 0);
    if (!absent && compiler->trouble[0] == '\0')
        snprintf(compiler->trouble, sizeof compiler->trouble, "%s", message);
}

static int open_file(fex_compiler *compiler, const char *path)
{
    /* NVRTC holds on to memory that closing it would leak, each time anew. */
    compiler->library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (compiler->library == NULL)
        note_trouble(compiler, path);
    return compiler->library != NULL;
}

static int open_in_toolkit(fex_compiler *compiler, const char *toolkit)
{
    static const char *const folders[] = {"lib64", "lib"};
    char path[512];
    for (size_t f = 0; f < 2; f++)
        for (size_t s = 0; s < 2; s++) {
            snprintf(path, sizeof path, "%s/%s/%s", toolkit, folders[f],
                     sonames[s]);
            if (open_file(compiler, path))
                return 1;
        }
    return 0;
}

int fex_compiler_find_wheel(const char *prefix, char *path, size_t size)
{
    char pattern[512];
    int length = 0;
    for (size_t p = 0; p < sizeof python_patterns / sizeof *python_patterns &&
                       length == 0;
         p++) {
        glob_t found;
        snprintf(pattern, sizeof pattern, python_patterns[p], prefix);
        if (glob(pattern, 0, NULL, &found) != 0)
            continue;
        length = snprintf(path, size, "%s", found.gl_pathv[found.gl_pathc - 1]);
        globfree(&found);
    }
    return length > 0 && length < (int)size;
}

static int open_in_python(fex_compiler *compiler, const char *prefix)
{
    char path[512];
    return fex_compiler_find_wheel(prefix, path, sizeof path) &&
           open_file(compiler, path);
}

/* Near our own file: PREFIX/lib/libflashexpert_rtc.so or PREFIX/bin/flashexpert
 * of a Python environment, or a library in a package in site-packages. */
static int open_near_us(fex_compiler *compiler)
{
    static const char here;
    char path[512];
    Dl_info info;
    if (dladdr(&here, &info) == 0 ||
        snprintf(path, sizeof path, "%s", info.dli_fname) >= (int)sizeof path)
        return 0;
    for (int level = 0; level < 2; level++) {
        char *const slash = strrchr(path, '/');
        if (slash == NULL)
            return 0;
        *slash = '\0';
    }
    return open_in_python(compiler, path);
}

static int open_by_linker(fex_compiler *compiler)
{
    return open_file(compiler, sonames[0]) || open_file(compiler, sonames[1]);
}

/* What somebody has named comes before what happens to be here. */
static int open_anywhere(fex_compiler *compiler)
{
    compiler->trouble[0] = '\0';
    if (compiler->override != NULL)
        return open_file(compiler, compiler->override);
    return (compiler->cuda_home != NULL &&
            open_in_toolkit(compiler, compiler->cuda_home)) ||
           open_by_linker(compiler) || open_in_toolkit(compiler, "/usr/local/cuda") ||
           open_near_us(compiler) ||
           (compiler->virtual_env != NULL &&
            open_in_python(compiler, compiler->virtual_env)) ||
           open_in_python(compiler, "/usr/local") ||
           open_in_python(compiler, "/usr");
}

/* ---- Opening ------------------------------------------------------------ */

static fex_status resolve(fex_compiler *compiler)
{
    static const struct {
        const char *symbol;
        size_t offset;
    } entries[] = {
#define NVRTC_ENTRY(name) {#name, offsetof(fex_compiler, name)},
        NVRTC_FUNCTIONS(NVRTC_ENTRY)
#undef NVRTC_ENTRY
    };
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        void *const address = dlsym(compiler->library, entries[i].symbol);
        if (address == NULL)
            return fex_fail(FEX_ERROR_NO_COMPILER, "%s has no %s: too old",
                            compiler->path, entries[i].symbol);
        memcpy((char *)compiler + entries[i].offset, &address, sizeof address);
    }
    return FEX_OK;
}

static fex_status fail_open(const fex_compiler *compiler)
{
    if (compiler->trouble[0] != '\0')
        return fex_fail(FEX_ERROR_NO_COMPILER, "%s cannot be opened: %s",
                        compiler->override != NULL
                            ? "the NVRTC that FLASHEXPERT_LIBNVRTC names"
                            : "NVRTC",
                        compiler->trouble);
    return fex_fail(FEX_ERROR_NO_COMPILER,
                    "there is no NVRTC (libnvrtc.so.13 or .12): not in "
                    "CUDA_HOME (%s), nor where the dynamic linker looks, nor "
                    "in /usr/local/cuda, nor in Python's packages; set "
                    "FLASHEXPERT_LIBNVRTC or CUDA_HOME",
                    compiler->cuda_home != NULL ? compiler->cuda_home
                                                : "unset");
}

static fex_status open_locked(fex_compiler *compiler)
{
    int major, minor;
    fex_status status;
    if (compiler->library != NULL)
        return FEX_OK;
    if (!open_anywhere(compiler))
        return fail_open(compiler);
    Dl_info info;
    const void *const symbol = dlsym(compiler->library, "nvrtcVersion");
    snprintf(compiler->path, sizeof compiler->path, "%s",
             symbol != NULL && dladdr(symbol, &info) != 0 ? info.dli_fname
                                                          : "libnvrtc");
    status = resolve(compiler);
    if (status != FEX_OK)
        goto fail_resolve;
    if (compiler->nvrtcVersion(&major, &minor) != NVRTC_SUCCESS) {
        status = fex_fail(FEX_ERROR_NO_COMPILER, "%s: nvrtcVersion failed",
                          compiler->path);
        goto fail_resolve;
    }
    compiler->version = 1000 * major + 10 * minor;
    if (compiler->version < FEX_COMPILER_VERSION_MIN) {
        status = fex_fail(FEX_ERROR_NO_COMPILER,
                          "%s is NVRTC %d.%d, which is too old",
                          compiler->path, major, minor);
        goto fail_resolve;
    }
    if (compiler->trouble[0] != '\0')
        fex_log_write(compiler->log, FEX_LOG_INFO, "%s is used instead of: %s",
                      compiler->path, compiler->trouble);
    fex_log_write(compiler->log, FEX_LOG_DEBUG, "opened %s, NVRTC %d.%d",
                  compiler->path, major, minor);
    return FEX_OK;

fail_resolve:
    dlclose(compiler->library);
    compiler->library = NULL;
    return status;
}

static fex_status open_once(fex_compiler *compiler)
{
    pthread_mutex_lock(&compiler->lock);
    const fex_status status = open_locked(compiler);
    pthread_mutex_unlock(&compiler->lock);
    return status;
}

static char *copy_text(const char *text, int *failed)
{
    char *const copy = text != NULL ? strdup(text) : NULL;
    *failed |= text != NULL && copy == NULL;
    return copy;
}

fex_status fex_compiler_create(const fex_compiler_options *options,
                               const fex_log *log, fex_compiler **compiler)
{
    int failed = 0;
    fex_compiler *const made = calloc(1, sizeof *made);
    if (made == NULL)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory for a compiler");
    made->log = log;
    made->owner = getpid();
    pthread_mutex_init(&made->lock, NULL);
    made->override = copy_text(options->library, &failed);
    made->cuda_home = copy_text(options->cuda_home, &failed);
    made->virtual_env = copy_text(options->virtual_env, &failed);
    if (failed) {
        fex_compiler_destroy(made);
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory for a compiler");
    }
    *compiler = made;
    return FEX_OK;
}

void fex_compiler_destroy(fex_compiler *compiler)
{
    if (compiler == NULL)
        return;
    /* In a forked child its threads are missing, and closing could wait for
     * them. */
    if (compiler->library != NULL && compiler->owner == getpid())
        dlclose(compiler->library);
    pthread_mutex_destroy(&compiler->lock);
    free(compiler->override);
    free(compiler->cuda_home);
    free(compiler->virtual_env);
    free(compiler);
}

fex_status fex_compiler_info(fex_compiler *compiler, char *path, size_t size,
                             int *version)
{
    const fex_status status = open_once(compiler);
    snprintf(path, size, "%s", status == FEX_OK ? compiler->path : "");
    *version = status == FEX_OK ? compiler->version : 0;
    return status;
}

/* ---- Compiling ---------------------------------------------------------- */

static fex_status check(const fex_compiler *compiler, nvrtcResult result,
                        const char *call)
{
    if (result == NVRTC_SUCCESS)
        return FEX_OK;
    return fex_fail(result == NVRTC_ERROR_OUT_OF_MEMORY
                        ? FEX_ERROR_OUT_OF_MEMORY
                        : FEX_ERROR_COMPILE,
                    "%s: %s", call, compiler->nvrtcGetErrorString(result));
}

/* The compiler's log, or NULL. */
static char *get_log(const fex_compiler *compiler, nvrtcProgram program)
{
    size_t size;
    if (compiler->nvrtcGetProgramLogSize(program, &size) != NVRTC_SUCCESS)
        return NULL;
    char *const log = calloc(1, size + 1);
    if (log != NULL &&
        compiler->nvrtcGetProgramLog(program, log) != NVRTC_SUCCESS)
        log[0] = '\0';
    return log;
}

/* From 13.0 on NVRTC keeps a cache of its own in the user's home, wherever
 * there is a driver. A second cache would only take room, and keep the
 * assembler's report back. What is compiled is the same, so this is no part of
 * a key. */
static nvrtcResult compile_uncached(const fex_compiler *compiler,
                                    nvrtcProgram program,
                                    const fex_recipe *recipe)
{
    const char *options[FEX_OPTIONS_MAX + 1];
    int count = recipe->option_count;
    for (int i = 0; i < count; i++)
        options[i] = recipe->options[i];
    if (compiler->version >= 13000)
        options[count++] = "--no-cache";
    return compiler->nvrtcCompileProgram(program, count, options);
}

static fex_status run_compiler(const fex_compiler *compiler,
                               nvrtcProgram program, const fex_recipe *recipe)
{
    const nvrtcResult result = compile_uncached(compiler, program, recipe);
    char *const log = get_log(compiler, program);
    fex_status status = FEX_OK;
    if (result != NVRTC_SUCCESS) {
        fex_log_write(compiler->log, FEX_LOG_ERROR, "%s: %s\n%s", recipe->words,
                      compiler->nvrtcGetErrorString(result),
                      log != NULL ? log : "");
        status = fex_fail(result == NVRTC_ERROR_OUT_OF_MEMORY
                              ? FEX_ERROR_OUT_OF_MEMORY
                              : FEX_ERROR_COMPILE,
                          "%s: %s: %.*s", recipe->words,
                          compiler->nvrtcGetErrorString(result), LOG_HEAD,
                          log != NULL ? log : "");
    } else if (log != NULL && log[0] != '\0') {
        fex_log_write(compiler->log, FEX_LOG_DEBUG, "%s:\n%s", recipe->words,
                      log);
    }
    free(log);
    return status;
}

static fex_status get_cubin(const fex_compiler *compiler, nvrtcProgram program,
                            fex_cubin *cubin)
{
    size_t size;
    return_if_error(check(compiler, compiler->nvrtcGetCUBINSize(program, &size),
                          "nvrtcGetCUBINSize"));
    unsigned char *const data = malloc(size > 0 ? size : 1);
    if (data == NULL)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory for a cubin");
    const fex_status status =
        check(compiler, compiler->nvrtcGetCUBIN(program, (char *)data),
              "nvrtcGetCUBIN");
    if (status != FEX_OK) {
        free(data);
        return status;
    }
    *cubin = (fex_cubin){
        .data = data, .size = size, .compiler_version = compiler->version};
    return FEX_OK;
}

fex_status fex_compiler_compile(fex_compiler *compiler,
                                const fex_recipe *recipe,
                                const fex_sources *sources, fex_cubin *cubin)
{
    nvrtcProgram program;
    fex_status status;
    return_if_error(open_once(compiler));
    const char **const texts = calloc(2 * sources->count, sizeof *texts);
    if (texts == NULL)
        return fex_fail(FEX_ERROR_OUT_OF_MEMORY, "no memory for headers");
    const char **const names = texts + sources->count;
    for (size_t i = 0; i < sources->count; i++) {
        texts[i] = sources->files[i].text;
        names[i] = sources->files[i].name;
    }
    status = check(compiler,
                   compiler->nvrtcCreateProgram(
                       &program, recipe->source, recipe->file,
                       (int)sources->count, texts, names),
                   "nvrtcCreateProgram");
    if (status != FEX_OK)
        goto fail_program;
    status = run_compiler(compiler, program, recipe);
    if (status == FEX_OK)
        status = get_cubin(compiler, program, cubin);
    compiler->nvrtcDestroyProgram(&program);
fail_program:
    free(texts);
    return status;
}
