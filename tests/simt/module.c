/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "asan.h"
#include "cluster.h"
#include "memory.h"
#include "module.h"
#include "races.h"
#include "settings.h"

#ifdef SIMT_ASAN
#include <sanitizer/asan_interface.h>
#endif

static CUmodule modules;

/* The image has to be a file for dlopen, of its own for each time it is loaded,
 * and to be named by its process for whatever looks up source lines in it from
 * another one. */
static int load(const void *bytes, size_t size, simt_loaded *loaded)
{
    char path[64];
    struct link_map *map;
    loaded->file = memfd_create("kernel", MFD_CLOEXEC);
    if (loaded->file < 0)
        return -1;
    if (write(loaded->file, bytes, size) != (ssize_t)size)
        goto fail_file;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)getpid(), loaded->file);
    loaded->object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (loaded->object == NULL) {
        fprintf(stderr, "simulated device: %s\n", dlerror());
        goto fail_file;
    }
    simt_runtime **const runtime = dlsym(loaded->object, SIMT_RUNTIME_SYMBOL);
    if (runtime == NULL || dlinfo(loaded->object, RTLD_DI_LINKMAP, &map) != 0)
        goto fail_object;
    *runtime = simt_cluster_runtime();
    loaded->base = (char *)map->l_addr;
    return 0;

fail_object:
    dlclose(loaded->object);
fail_file:
    close(loaded->file);
    return -1;
}

static void unload(const simt_loaded *loaded)
{
    dlclose(loaded->object);
    close(loaded->file);
}

CUresult simt_module_load(const void *bytes, CUmodule *module)
{
    CUmodule made = calloc(1, sizeof *made);
    if (made == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (simt_image_read(bytes, &made->image) != 0 ||
        load(bytes, made->image.size, &made->copies[0]) != 0) {
        free(made);
        return CUDA_ERROR_INVALID_IMAGE;
    }
    made->copy_count = 1;
    made->next = modules;
    modules = made;
    *module = made;
    return CUDA_SUCCESS;
}

/* One copy more, of the first one's file. */
static int load_again(CUmodule module)
{
    const size_t size = module->image.size;
    void *const bytes = mmap(NULL, size, PROT_READ, MAP_PRIVATE,
                             module->copies[0].file, 0);
    if (bytes == MAP_FAILED)
        return -1;
    const int failed = load(bytes, size, &module->copies[module->copy_count]);
    munmap(bytes, size);
    module->copy_count += failed == 0;
    return failed;
}

CUresult simt_module_unload(CUmodule module)
{
    CUmodule *link = &modules;
    while (*link != NULL && *link != module)
        link = &(*link)->next;
    if (*link == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    *link = module->next;
    while (module->functions != NULL) {
        CUfunction old = module->functions;
        module->functions = old->next;
        free(old);
    }
    for (unsigned i = 0; i < module->copy_count; i++)
        unload(&module->copies[i]);
    free(module);
    return CUDA_SUCCESS;
}

static const simt_kernel *find_kernel(const simt_loaded *loaded,
                                      const char *name)
{
    char symbol[128];
    snprintf(symbol, sizeof symbol, SIMT_KERNEL_PREFIX "%s", name);
    return dlsym(loaded->object, symbol);
}

CUresult simt_module_function(CUmodule module, const char *name,
                              CUfunction *function)
{
    for (CUfunction f = module->functions; f != NULL; f = f->next)
        if (strcmp(f->name, name) == 0) {
            *function = f;
            return CUDA_SUCCESS;
        }
    const simt_kernel *const kernel = find_kernel(&module->copies[0], name);
    if (kernel == NULL)
        return CUDA_ERROR_NOT_FOUND;
    CUfunction made = calloc(1, sizeof *made);
    if (made == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    snprintf(made->name, sizeof made->name, "%s", name);
    made->module = module;
    made->kernel = kernel;
    made->static_shared = simt_image_shared_bytes(&module->image, name);
    if (made->static_shared < SIMT_STATIC_SHARED_BYTES)
        made->dynamic_shared_max =
            SIMT_STATIC_SHARED_BYTES - made->static_shared;
    made->next = module->functions;
    module->functions = made;
    *function = made;
    return CUDA_SUCCESS;
}

/* Some compilers count a variable's red zone as part of it. */
static size_t accessible(const char *address, size_t size)
{
#ifdef SIMT_ASAN
    const char *const first =
        __asan_region_is_poisoned((void *)(uintptr_t)address, size);
    return first != NULL ? (size_t)(first - address) : size;
#else
    (void)address;
    return size;
#endif
}

CUresult simt_function_copy(CUfunction function, unsigned rank, simt_copy *copy)
{
    const CUmodule module = function->module;
    if (rank >= module->copy_count && load_again(module) != 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    copy->base = module->copies[rank].base;
    copy->kernel = find_kernel(&module->copies[rank], function->name);
    return CUDA_SUCCESS;
}

void simt_function_poison(CUfunction function, unsigned rank)
{
    const CUmodule module = function->module;
    for (size_t i = 0; i < module->image.shared_count; i++) {
        const simt_shared_variable *const variable = &module->image.shared[i];
        char *const address = module->copies[rank].base + variable->offset;
        if (simt_image_uses(variable, function->name))
            memset(address, simt_settings_get()->shared_poison,
                   accessible(address, variable->size));
    }
}

void simt_function_watch(CUfunction function, const simt_task *task)
{
    const simt_image *const image = &function->module->image;
    for (size_t i = 0; i < image->shared_count; i++)
        if (simt_image_uses(&image->shared[i], function->name))
            races_watch_static(task, image->shared[i].offset,
                               image->shared[i].size);
}

size_t simt_function_shared_at(const void *user, size_t offset)
{
    const struct CUfunc_st *const function = user;
    const simt_image *const image = &function->module->image;
    for (size_t i = 0; i < image->shared_count; i++) {
        const simt_shared_variable *const variable = &image->shared[i];
        if (simt_image_uses(variable, function->name) &&
            offset >= variable->offset &&
            offset < variable->offset + variable->size)
            return variable->offset + variable->size - offset;
    }
    return 0;
}

void simt_module_clear(void)
{
    while (modules != NULL)
        simt_module_unload(modules);
}

size_t simt_module_live(void)
{
    size_t count = 0;
    for (CUmodule m = modules; m != NULL; m = m->next)
        count++;
    return count;
}
