/* SPDX-License-Identifier: Apache-2.0 */
/* variants.h - the table of algorithm families.
 *
 * A family knows when it applies, which kernels it needs, what workspace, how
 * to launch and about how long that takes. What is compiled depends only on the
 * problem, the alignment and the architecture, so that it can be known without
 * a device; figures of the device shape launches and choose the family. */
#ifndef FEX_VARIANTS_H
#define FEX_VARIANTS_H

#include "../kernels/arguments.h"
#include "context.h"
#include "problem.h"

#define FEX_KERNELS_MAX 8
#define FEX_FAMILIES_MAX 8
#define FEX_LAUNCH_TEXT_MAX 96

/* The constants of a launch that were decided when kernels were compiled. */
typedef struct fex_geometry {
    int vector_bytes; /* of one load of a row: 2, 4, 8 or 16 */
    int group;        /* lanes that read one row */
} fex_geometry;

/* Everything a launch needs. Filled on the stack, only read by families. */
typedef struct fex_launch {
    const fex_driver *driver;
    const fex_device *device;
    const fex_problem *problem;
    fex_geometry geometry;
    const fex_module *const *modules; /* in the order of the specs */
    CUstream stream;
    int64_t num_tokens; /* of the call, as are the next two */
    const void *indices;
    int64_t indices_stride;
    void *workspace; /* the family's */
    const fex_forward_args *forward; /* one of the two, strides resolved */
    const fex_backward_args *backward;
} fex_launch;

typedef struct fex_variant {
    const char *name;
    fex_pass pass; /* FEX_PASS_FORWARD or FEX_PASS_BACKWARD */
    int vector_bytes; /* loads of rows it needs; 0: takes any */
    int (*applies)(const fex_problem *problem,
                   const fex_architecture *architecture);
    /* Fills specs[FEX_KERNELS_MAX], returns how many. */
    size_t (*describe)(const fex_problem *problem,
                       const fex_architecture *architecture,
                       fex_geometry geometry, fex_kernel_spec *specs);
    size_t (*workspace_size)(const fex_problem *problem, int64_t num_tokens);
    /* Seconds that num_tokens > 0 tokens would take; see estimate.h. NULL for
     * the only family of a pass, which nobody compares. */
    double (*estimate)(const fex_problem *problem, const fex_device *device,
                       int64_t num_tokens);
    /* How a launch would be cut up, in words such as "cluster=4 unroll=2"; rows
     * are dense and num_tokens > 0. NULL: there is nothing to tell. */
    void (*describe_launch)(const fex_problem *problem,
                            const fex_device *device, int64_t num_tokens,
                            char text[FEX_LAUNCH_TEXT_MAX]);
    /* A forward launch has num_tokens > 0. */
    fex_status (*launch)(const fex_launch *launch);
} fex_variant;

extern const fex_variant fex_cluster_forward;
extern const fex_variant fex_matrix_forward;
extern const fex_variant fex_dense_forward;
extern const fex_variant fex_gather_forward;
extern const fex_variant fex_gather_backward;

/* All families. The last of either pass applies to every problem. */
const fex_variant *const *fex_variant_table(size_t *count);

/* FEX_ERROR_INVALID_ARGUMENT if no family has this name; NULL is in order. */
fex_status fex_variant_check_family(const char *family);

/* The last family of a pass, for rows that the one chosen cannot read. */
const fex_variant *fex_variant_last(fex_pass pass);

/* The geometry for rows of which every address and stride is a multiple of
 * `alignment` bytes; 16 for what fex_op_prepare promises. */
fex_geometry fex_geometry_for(const fex_problem *problem, size_t alignment);

/* The kernel that finds an index out of range, in checked mode. */
void fex_describe_check(const fex_problem *problem,
                        const fex_architecture *architecture,
                        fex_kernel_spec *spec);
/* Waits for the stream. *first gets the pair, t * top_k + k, or -1; the
 * workspace holds it on the way. num_tokens > 0. */
fex_status fex_launch_check(const fex_launch *launch, const fex_module *module,
                            int64_t *first);

/* For families: a specification with the architecture, the constants of every
 * kernel that reads rows, those of every kernel that reads choices, and more
 * one by one. */
void fex_spec_init(fex_kernel_spec *spec, const char *file,
                   const char *function,
                   const fex_architecture *architecture);
void fex_spec_add(fex_kernel_spec *spec, const char *constant, int64_t value);
void fex_spec_add_rows(fex_kernel_spec *spec, const fex_problem *problem,
                       fex_geometry geometry);
void fex_spec_add_choices(fex_kernel_spec *spec, const fex_problem *problem);
/* As SHARED_BYTES: dynamic shared memory. */
void fex_spec_add_shared(fex_kernel_spec *spec, int bytes);

/* The choices of a launch, as kernels take them. */
fex_choices fex_choices_of(const fex_launch *launch);

/* Launches function with its one argument structure. The grid must not be
 * empty.
 *
 * A dependent launch may start when every block of the launch ahead of it has
 * called launch_dependents() or ended. Until wait_for_primary() returns, and
 * some thread of every block has to call it, a kernel neither reads what the
 * launch ahead writes nor writes what that one reads; and if that one is
 * dependent too, the same goes for the one ahead of it. */
typedef struct fex_grid {
    int64_t x, y;
    int threads;
    int cluster; /* blocks along x that run together; 0 or 1: none do */
    int shared_bytes; /* dynamic shared memory, as the spec has it */
    int dependent;
} fex_grid;
fex_status fex_launch_kernel(const fex_launch *launch, CUfunction function,
                             fex_grid grid, const void *args);

/* How many of `room` blocks run at once in clusters of so many: parts of the
 * device with a number of multiprocessors that is no multiple of large clusters
 * leave some idle. */
int64_t fex_cluster_room(int64_t room, int cluster);

/* Workspace is handed out piece by piece, each aligned to 256 bytes. With base
 * NULL only sizes are added up. */
typedef struct fex_layout {
    char *base;
    size_t used;
} fex_layout;
void *fex_layout_take(fex_layout *layout, int64_t count, size_t size);

/* Row `first` of an array, NULL of none. */
void *fex_row_at(const void *array, int64_t stride, int64_t first,
                 size_t element);

int64_t fex_ceil_div(int64_t a, int64_t b);
int64_t fex_min(int64_t a, int64_t b);
int64_t fex_max(int64_t a, int64_t b);

#endif
