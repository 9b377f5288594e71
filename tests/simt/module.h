/* SPDX-License-Identifier: Apache-2.0 */
/* module.h - simulated cubins, loaded, and their functions. */
#ifndef SIMT_MODULE_H
#define SIMT_MODULE_H

#include "exports.h"

#include "cluster.h"
#include "image.h"

struct CUfunc_st {
    struct CUfunc_st *next;
    CUmodule module;
    char name[64];
    const simt_kernel *kernel; /* of the first copy */
    int large_clusters;        /* of more blocks than every device can run */
    size_t static_shared;
    size_t dynamic_shared_max; /* without being asked for, what 48 KB leave */
};

/* The image, loaded once for each block of the largest cluster so far. */
typedef struct simt_loaded {
    int file; /* in memory; open as long as it is loaded */
    void *object;
    char *base; /* where it was loaded */
} simt_loaded;

struct CUmod_st {
    struct CUmod_st *next;
    simt_image image;
    simt_loaded copies[SIMT_CLUSTER_MAX];
    unsigned copy_count;
    CUfunction functions;
};

CUresult simt_module_load(const void *bytes, CUmodule *module);
CUresult simt_module_unload(CUmodule module);
CUresult simt_module_function(CUmodule module, const char *name,
                              CUfunction *function);

/* The function as a block of this rank in its cluster runs it; all lower ranks
 * were asked for before. */
CUresult simt_function_copy(CUfunction function, unsigned rank,
                            simt_copy *copy);

/* Fills that copy's static shared memory with poison. */
void simt_function_poison(CUfunction function, unsigned rank);

/* Has its static shared memory watched, see races.h. */
void simt_function_watch(CUfunction function, const simt_task *task);

/* simt_task.shared_at, of a CUfunction. */
size_t simt_function_shared_at(const void *function, size_t offset);

size_t simt_module_live(void);
void simt_module_clear(void); /* unloads all */

#endif
