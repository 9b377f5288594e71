/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flashexpert_rtc.h - single-neuron experts (fine-grained mixture of experts)
 *                     on NVIDIA GPUs, compiled at run time.
 *
 * The operation
 * =============
 *
 * Every expert is one neuron: one row of a down table and one row of an up
 * table. A router, which is not part of this library, has chosen top_k experts
 * for each token and given each choice a weight. Written with
 *
 *     T  num_tokens     changes from call to call
 *     H  hidden_size    fixed by an operation
 *     K  top_k          fixed by an operation, 1 .. FEX_TOP_K_MAX
 *     E  num_experts    fixed by an operation, 1 .. 2^31 - 1
 *
 *     x  hidden_states    (T, H)       D  down_weights   (E, H)
 *     i  indices          (T, K)       U  up_weights     (E, H)
 *     g  routing_weights  (T, K)
 *
 * the forward pass is
 *
 *     s[t,k]  =  x[t] . D[i[t,k]]                             scores
 *     y[t]    =  sum over k of  g[t,k] silu(s[t,k]) U[i[t,k]] expert_states
 *
 * with silu(s) = s / (1 + exp(-s)). The backward pass takes dy = grad_output
 * (T, H) and, with e = i[t,k] and p[t,k] = dy[t] . U[e], yields
 *
 *     dg[t,k] =  p silu(s)                          grad_routing_weights (T, K)
 *     ds[t,k] =  p g[t,k] silu'(s)
 *     dx[t]   =  sum over k of ds[t,k] D[e]         grad_hidden_states   (T, H)
 *     dD[e]   =  sum over i[t,k]=e of ds[t,k] x[t]            grad_down_weights
 *     dU[e]   =  sum over i[t,k]=e of g[t,k] silu(s) dy[t]    grad_up_weights
 *
 * This is the expert layer of PEER (He, "Mixture of a Million Experts",
 * arXiv:2407.04153) and of the FlashMoE and OmniMoE libraries; in the terms of
 * sparse linear algebra, an SDDMM followed by an SpMM.
 *
 * What holds for every call
 * =========================
 *
 * Sums are taken in float32 whatever the data type, and each result is rounded
 * to its type once. Where tensor cores sum expert states of bfloat16, a term's
 * weight is rounded to 11 bits and an element of U below 2^-26 to a multiple of
 * 2^-36: up to 2^-11 of the sum of the terms' magnitudes, and more only where
 * a token chose nothing but experts with such elements, or where only weights
 * below 2^-28 of its largest count; see README.md. Of float16 the part of a
 * weight that was lost in rounding is multiplied as well, on Hopper with the
 * first 3 bits of an element of U: an error of some 2^-12 of the sum of the
 * terms' magnitudes, and up to 2^-11 for elements below 2^-14, of which float16
 * itself holds fewer than 11 bits. Scores that tensor cores sum have a relative
 * error of up to some 2e-9 for each of the H products, because they drop the
 * bits that a float cannot hold instead of rounding; other scores are within
 * 1e-6.
 *
 * The same call gives the same bits on every run, on every stream and in a
 * graph: the same inputs, equally aligned, of as many tokens, on the same
 * device, with the same library and kernels of the same compiler. No result
 * depends on the order in which threads happen to run.
 *
 * No more is promised. The number of tokens decides which algorithm serves a
 * call and how it cuts up sums, so that what a token gets may differ in its
 * last bits from what it gets in a call of more or fewer tokens. With
 * FLASHEXPERT_FAMILY=gather it does not, and dg and dx of the same scores never
 * do. dD and dU are sums over all tokens of a call.
 *
 * A negative index is an empty slot: it contributes nothing and its dg is 0.
 * An index >= num_experts is treated as an empty slot too; it never causes an
 * access outside a table. FEX_OP_CHECK_INDICES makes such a call fail instead
 * and name the first offender. An index may occur any number of times in a row.
 *
 * num_tokens may be 0. hidden_size need not be a multiple of anything. Tables
 * may hold more than 2^31 elements. num_tokens * top_k must not exceed
 * 2^31 - 1 in one call.
 *
 * Conventions
 * ===========
 *
 * Every function that can fail returns fex_status. After a failure,
 * fex_last_error() gives one sentence about the last failure in the calling
 * thread: which argument, which CUDA error, the head of the compiler's log.
 * Unless stated otherwise a failed call has had no effect, and output
 * parameters are unchanged.
 *
 * Structures that start with `size_t size` must have it set to their sizeof.
 * Zero in any other member asks for the default. A larger structure than the
 * library knows (a caller compiled against a newer header) is accepted as long
 * as all the bytes the library does not know are zero.
 *
 * Device memory is passed as `void *` (a CUdeviceptr or a CUDA runtime
 * pointer), a stream as `struct CUstream_st *`, which is what both CUstream and
 * cudaStream_t are. Neither CUDA header is needed. NULL is the legacy default
 * stream, however the caller was compiled; that of the calling thread is
 * CU_STREAM_PER_THREAD or cudaStreamPerThread.
 *
 * Every environment variable is read once, when a context is created.
 */
#ifndef FLASHEXPERT_RTC_H
#define FLASHEXPERT_RTC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define FEX_API __attribute__((visibility("default")))
#else
#define FEX_API
#endif

/* CUDA's stream, which CUstream and cudaStream_t point to. */
struct CUstream_st;

/* ---- Version ------------------------------------------------------------ */

/* The version of this header. configure.ac reads the library's version from
 * here, so the two cannot differ. */
#define FEX_VERSION_MAJOR 0
#define FEX_VERSION_MINOR 1
#define FEX_VERSION_PATCH 0

/* The version of the library in use, such as "0.1.0". Static storage. */
FEX_API const char *fex_version(void);

/* ---- Status ------------------------------------------------------------- */

/* The one list of results: name, value, meaning. Values never change. */
#define FEX_STATUS_MAP(X)                                                      \
    X(OK, 0, "success")                                                        \
    X(ERROR_INVALID_ARGUMENT, 1, "invalid argument")                           \
    X(ERROR_UNSUPPORTED, 2, "not supported by this library or device")         \
    X(ERROR_OUT_OF_MEMORY, 3, "out of host memory")                            \
    X(ERROR_DEVICE_OUT_OF_MEMORY, 4, "out of device memory")                   \
    X(ERROR_WORKSPACE, 5, "workspace missing, too small or misaligned")        \
    X(ERROR_INDEX, 6, "an expert index is not below num_experts")              \
    X(ERROR_NOT_PREPARED, 7,                                                   \
      "a kernel would have to be loaded during capture")                       \
    X(ERROR_NO_DRIVER, 8, "the CUDA driver library could not be opened")       \
    X(ERROR_NO_DEVICE, 9, "no such CUDA device")                               \
    X(ERROR_DRIVER, 10, "a CUDA driver call failed")                           \
    X(ERROR_NO_COMPILER, 11, "the NVRTC library could not be opened")          \
    X(ERROR_COMPILE, 12, "NVRTC rejected a kernel")                            \
    X(ERROR_JIT_FORBIDDEN, 13,                                                 \
      "a kernel is not cached and compiling is forbidden")                     \
    X(ERROR_IO, 14, "a file could not be read or written")                     \
    X(ERROR_CORRUPT, 15, "a file is damaged or not of the expected format")    \
    X(ERROR_FORKED, 16, "the context belongs to the parent process")

typedef enum fex_status {
#define FEX_STATUS_ENUMERATOR(name, value, text) FEX_##name = value,
    FEX_STATUS_MAP(FEX_STATUS_ENUMERATOR)
#undef FEX_STATUS_ENUMERATOR
} fex_status;

/* "FEX_ERROR_COMPILE", or "FEX_?" for a value not in the list. Static. */
FEX_API const char *fex_status_name(fex_status status);

/* The meaning in the list, or "unknown status". Static. */
FEX_API const char *fex_status_string(fex_status status);

/* One sentence about the last failed call of this thread, "" if there was
 * none. Valid until this thread's next call into the library. */
FEX_API const char *fex_last_error(void);

/* ---- Types of data ------------------------------------------------------ */

typedef enum fex_dtype {
    FEX_DTYPE_AUTO = 0,
    FEX_DTYPE_F16 = 1,  /* IEEE binary16 */
    FEX_DTYPE_BF16 = 2, /* bfloat16 */
    FEX_DTYPE_F32 = 3   /* IEEE binary32 */
} fex_dtype;

typedef enum fex_index_type {
    FEX_INDEX_AUTO = 0, /* FEX_INDEX_I32 */
    FEX_INDEX_I32 = 1,
    FEX_INDEX_I64 = 2
} fex_index_type;

/* A set of passes. */
typedef enum fex_pass {
    FEX_PASS_FORWARD = 1,
    FEX_PASS_BACKWARD = 2,
    FEX_PASS_BOTH = 3
} fex_pass;

/* The largest top_k. It may exceed num_experts: a token may choose an expert
 * any number of times. */
#define FEX_TOP_K_MAX 8192

/* ---- Context ------------------------------------------------------------ */

/* One device with everything that serves it: driver, compiler, kernel cache.
 * All functions may be called on one context from any number of threads at
 * once. After fork() a context must not be used in the child: every call that
 * takes it there, or an operation made from it, returns FEX_ERROR_FORKED;
 * destroying it there frees memory and touches neither device nor cache.
 *
 * It works in one CUcontext. That of an ordinal is the device's primary one,
 * which cudaSetDevice and PyTorch use as well; it is retained until
 * fex_context_destroy. That of FEX_DEVICE_CURRENT is the one current to the
 * thread that calls fex_context_create; it is not retained and must outlive the
 * context. Later calls need none to be current: they make theirs current where
 * it is not, and restore what was before they return. Streams must be of this
 * CUcontext, and device memory must be accessible in it. */
typedef struct fex_context fex_context;

#define FEX_DEVICE_CURRENT (-1) /* the creating thread's current CUcontext */
#define FEX_DEVICE_NONE (-2)    /* no device: prewarm and cache calls only */

typedef enum fex_log_level {
    FEX_LOG_ERROR = 1,
    FEX_LOG_WARNING = 2,
    FEX_LOG_INFO = 3,
    FEX_LOG_DEBUG = 4
} fex_log_level;

/* Receives messages, one line each but for full compiler logs, without a
 * trailing newline. May be called from any thread that calls the library, and
 * must not call the library back. */
typedef void (*fex_log_function)(void *user, fex_log_level level,
                                 const char *message);

/* What to do when a kernel is not in any tier of the cache. */
typedef enum fex_jit_policy {
    FEX_JIT_AUTO = 0,   /* $FLASHEXPERT_JIT if set, else FEX_JIT_ALLOW */
    FEX_JIT_ALLOW = 1,  /* compile it */
    FEX_JIT_WARN = 2,   /* compile it and log a warning that names it */
    FEX_JIT_FORBID = 3  /* fail with FEX_ERROR_JIT_FORBIDDEN */
} fex_jit_policy;

typedef struct fex_context_options {
    size_t size;              /* sizeof(fex_context_options) */
    int device;               /* a CUDA ordinal (its primary context is used)
                               * or FEX_DEVICE_CURRENT or FEX_DEVICE_NONE */
    fex_jit_policy jit;
    const char *cache_dir;    /* user tier of the kernel cache; NULL:
                               * $FLASHEXPERT_CACHE_DIR, else
                               * $XDG_CACHE_HOME/flashexpert_rtc, else
                               * $HOME/.cache/flashexpert_rtc */
    const char *cache_path;   /* read-only tiers, separated by ':', each a
                               * cache directory or a bundle file, ":" for
                               * none; NULL: $FLASHEXPERT_CACHE_PATH, else the
                               * directory PREFIX/share/flashexpert_rtc/cache.
                               * One that is named and missing, or is neither,
                               * is told of by one warning */
    const char *kernel_dir;   /* kernel sources used instead of the embedded
                               * ones; NULL: $FLASHEXPERT_KERNEL_DIR, if set */
    fex_log_function log;     /* NULL: messages at or above the level of
                               * $FLASHEXPERT_LOG (error, warning, info, debug;
                               * default warning) go to standard error */
    void *log_user;
} fex_context_options;

/* Creates a context. options may be NULL: device 0, everything by default.
 * The strings are copied. Neither the compiler nor the cache directory is
 * touched yet.
 *
 * FEX_OK
 * FEX_ERROR_INVALID_ARGUMENT  context is NULL, an option is out of range, or
 *                             $FLASHEXPERT_JIT, $FLASHEXPERT_CACHE_MAX,
 *                             $FLASHEXPERT_CACHE_SHARED or, where it counts,
 *                             $FLASHEXPERT_LOG is not understood
 * FEX_ERROR_IO                kernel_dir cannot be read or has no kernels
 * FEX_ERROR_OUT_OF_MEMORY, FEX_ERROR_DEVICE_OUT_OF_MEMORY
 * FEX_ERROR_NO_DRIVER         libcuda.so.1 (or $FLASHEXPERT_LIBCUDA) not found
 *                             or too old; not with FEX_DEVICE_NONE
 * FEX_ERROR_NO_DEVICE         no such ordinal, or no current CUcontext
 * FEX_ERROR_UNSUPPORTED       a compute capability below 7.5, or one newer than
 *                             this version of the library
 * FEX_ERROR_DRIVER            any other failure of the driver
 * On failure *context is unchanged. */
FEX_API fex_status fex_context_create(const fex_context_options *options,
                                      fex_context **context);

/* Destroys a context and unloads its kernels. Every operation made from it
 * must have been destroyed, every launch must have finished, and no graph that
 * captured one may be launched again. NULL is ignored. */
FEX_API void fex_context_destroy(fex_context *context);

/* What a context found. Strings live as long as the context; a string is ""
 * where there is nothing to tell. */
typedef struct fex_context_info {
    size_t size;
    int device;                /* ordinal, or FEX_DEVICE_NONE */
    char device_name[128];
    char architecture[16];     /* what kernels are compiled for: "sm_90a" */
    int multiprocessors;
    int64_t l2_bytes;
    int driver_version;        /* CUDA version of the driver: 13000 */
    char driver_library[512];  /* the file opened */
    int compiler_version;      /* NVRTC 13.0 is 13000; 0 if not found */
    char compiler_library[512];/* found and, for this call, opened */
    char cache_dir[512];       /* user tier */
    char cache_path[1024];     /* read-only tiers, separated by ':' */
    char kernel_digest[33];    /* XXH3-128 of the kernel sources */
} fex_context_info;

/* Fills *info, whose size member must be set. Opens the compiler library to
 * learn its version; that it is missing is no error.
 *
 * FEX_OK
 * FEX_ERROR_INVALID_ARGUMENT  an argument is NULL or the size is not known
 * FEX_ERROR_FORKED */
FEX_API fex_status fex_context_get_info(fex_context *context,
                                        fex_context_info *info);

/* Counts since the context was created. */
typedef struct fex_context_stats {
    size_t size;
    uint64_t memory_hits;   /* kernels found loaded already */
    uint64_t cache_hits;    /* kernels found in a tier on disk */
    uint64_t cache_misses;  /* kernels found in none */
    uint64_t compiles;      /* kernels compiled */
    double compile_seconds; /* spent in the compiler, over all threads */
    uint64_t damaged;       /* cache entries that were refused */
} fex_context_stats;

/* FEX_OK, FEX_ERROR_INVALID_ARGUMENT, FEX_ERROR_FORKED */
FEX_API fex_status fex_context_get_stats(fex_context *context,
                                         fex_context_stats *stats);

/* Watches for compiles on a serving path. Once armed, `function` is called
 * for each kernel compiled on this context, before it is compiled, with the
 * kernel in words ("sddmm_gather hidden=1024 ... sm_90a"). Arming again
 * replaces the function; NULL disarms. The function runs in the thread that
 * compiles and must not call the library; a thread that is about to compile may
 * still call the old one while it is being replaced.
 *
 * FEX_OK, FEX_ERROR_INVALID_ARGUMENT, FEX_ERROR_FORKED */
typedef void (*fex_jit_function)(void *user, const char *kernel);
FEX_API fex_status fex_jit_monitor(fex_context *context,
                                   fex_jit_function function, void *user);

/* ---- Operation ---------------------------------------------------------- */

/* One operation specialised for everything but the number of tokens.
 * Immutable: any number of threads may launch it on any number of streams. */
typedef struct fex_op fex_op;

/* Flags of fex_op_desc. */
#define FEX_OP_CHECK_INDICES 1u /* fail on an index >= num_experts. Each launch
                                 * then waits for its stream, and cannot be
                                 * captured in a graph. For finding bugs. */

typedef struct fex_op_desc {
    size_t size;                 /* sizeof(fex_op_desc) */
    fex_dtype dtype;             /* of x, D, U, y and their gradients;
                                  * required */
    fex_dtype routing_dtype;     /* of g and dg: dtype or F32; AUTO: dtype */
    fex_dtype weight_grad_dtype; /* of dD and dU: dtype or F32; AUTO: dtype */
    fex_index_type index_type;
    int64_t hidden_size;         /* H, 1 .. 2^20 */
    int64_t top_k;               /* K, 1 .. FEX_TOP_K_MAX; may exceed E */
    int64_t num_experts;         /* E, 1 .. 2^31 - 1 */
    unsigned flags;              /* FEX_OP_... */
} fex_op_desc;

/* Creates an operation. Compiles and loads nothing: fex_op_prepare does, or
 * the first launch. The context must outlive the operation.
 *
 * FEX_OK
 * FEX_ERROR_INVALID_ARGUMENT  an argument is NULL, a member out of range or an
 *                             unknown byte or flag is set, or
 *                             $FLASHEXPERT_FAMILY names no family
 * FEX_ERROR_OUT_OF_MEMORY
 * FEX_ERROR_FORKED */
FEX_API fex_status fex_op_create(fex_context *context, const fex_op_desc *desc,
                                 fex_op **op);

/* Destroys an operation. Its launches must have finished, and no graph that
 * captured one may be launched again. NULL is ignored. */
FEX_API void fex_op_destroy(fex_op *op);

/* Bytes of device memory that one call of `passes` needs as workspace for
 * num_tokens tokens: the larger one if both passes are named. May be 0. Grows
 * with num_tokens, so the size for the largest number serves every smaller.
 *
 * FEX_OK
 * FEX_ERROR_INVALID_ARGUMENT  NULL, unknown pass, num_tokens out of range
 * FEX_ERROR_NO_DEVICE         the context has no device
 * FEX_ERROR_FORKED */
FEX_API fex_status fex_op_workspace_size(const fex_op *op, fex_pass passes,
                                         int64_t num_tokens, size_t *bytes);

/* Brings the kernels of `passes` for any number of tokens from 0 to num_tokens
 * into memory now, compiling what no tier of the cache has, so that launches
 * find everything loaded. Prepares for device pointers and row strides that
 * are multiples of 16 bytes (or, where H does not allow it, of the largest
 * power of two that a dense row allows); a launch with less aligned arguments
 * loads what it needs on first use. Idempotent. Not to be called while a stream
 * of this thread is being captured: the driver may not load a kernel then.
 *
 * FEX_OK
 * FEX_ERROR_INVALID_ARGUMENT    NULL, unknown pass, num_tokens out of range
 * FEX_ERROR_NO_DEVICE           the context has no device
 * FEX_ERROR_NO_COMPILER         a kernel is not cached and NVRTC not found
 * FEX_ERROR_COMPILE             NVRTC rejected a kernel
 * FEX_ERROR_JIT_FORBIDDEN       a kernel is not cached and policy forbids
 * FEX_ERROR_IO                  kernel_dir lacks a kernel's source
 * FEX_ERROR_OUT_OF_MEMORY, FEX_ERROR_DEVICE_OUT_OF_MEMORY
 * FEX_ERROR_DRIVER, FEX_ERROR_FORKED
 * Kernels brought in before the failure stay. */
FEX_API fex_status fex_op_prepare(fex_op *op, fex_pass passes,
                                  int64_t num_tokens);

/* ---- Forward ------------------------------------------------------------ */

/* The arguments of a forward pass. All pointers are device memory of the
 * context's device; every array is row-major; a stride counts elements from
 * one row to the next, 0 meaning dense rows. Pointers must be aligned to their
 * element; 16 bytes, strides included, is fastest. Outputs must not overlap
 * inputs or each other. Rows of outputs are written whole and nothing between
 * them. The values are read when the kernels run on the stream, so arrays must
 * stay alive and unchanged until then; the structure itself only during the
 * call. */
typedef struct fex_forward_args {
    size_t size;                     /* sizeof(fex_forward_args) */
    int64_t num_tokens;              /* T >= 0; with 0, pointers are not used */
    const void *hidden_states;       /* (T, H) dtype */
    const void *down_weights;        /* (E, H) dtype */
    const void *up_weights;          /* (E, H) dtype */
    const void *indices;             /* (T, K) index_type */
    const void *routing_weights;     /* (T, K) routing_dtype */
    void *expert_states;             /* (T, H) dtype, output */
    float *scores;                   /* (T, K) float32, output, or NULL: saved
                                      * for the backward pass; 0 in an empty
                                      * slot */
    int64_t hidden_states_stride;    /* each >= H, or 0 */
    int64_t down_weights_stride;
    int64_t up_weights_stride;
    int64_t indices_stride;          /* each >= K, or 0 */
    int64_t routing_weights_stride;
    int64_t expert_states_stride;
    int64_t scores_stride;
    void *workspace;                 /* fex_op_workspace_size bytes, 256-byte
                                      * aligned; any content, and none to
                                      * keep */
    size_t workspace_size;
} fex_forward_args;

/* Queues a forward pass on a stream. Prepared, it neither allocates nor
 * synchronises nor takes a lock, and may be captured into a CUDA graph.
 * Launches that overlap in time need workspaces of their own.
 *
 * A graph uses the kernels, workspace and arrays of what it captured each time
 * it is launched: context, operation, workspace and arrays must outlive every
 * graph instantiated from it.
 *
 * FEX_OK                        queued (with FEX_OP_CHECK_INDICES: done)
 * FEX_ERROR_INVALID_ARGUMENT    a pointer NULL or not aligned to its element,
 *                               a stride below the row, T out of range
 * FEX_ERROR_WORKSPACE           workspace NULL, misaligned or too small
 * FEX_ERROR_INDEX               FEX_OP_CHECK_INDICES found an index >= E;
 *                               fex_last_error() names the first in row-major
 *                               order; outputs are unchanged
 * FEX_ERROR_NOT_PREPARED        the stream is being captured and a kernel is
 *                               not loaded, or FEX_OP_CHECK_INDICES is set;
 *                               the capture is unharmed
 * FEX_ERROR_NO_DEVICE, FEX_ERROR_DEVICE_OUT_OF_MEMORY, FEX_ERROR_DRIVER,
 * FEX_ERROR_FORKED
 * or what fex_op_prepare returns, where the operation is not prepared.
 * After FEX_ERROR_DRIVER outputs are undefined. */
FEX_API fex_status fex_forward(fex_op *op, const fex_forward_args *args,
                               struct CUstream_st *stream);

/* ---- Backward ----------------------------------------------------------- */

/* Flags of fex_backward_args: gradients to add to instead of overwrite. */
#define FEX_ACCUMULATE_HIDDEN_STATES 1u
#define FEX_ACCUMULATE_DOWN_WEIGHTS 2u
#define FEX_ACCUMULATE_UP_WEIGHTS 4u
#define FEX_ACCUMULATE_ROUTING_WEIGHTS 8u

/* The arguments of a backward pass; what is said of fex_forward_args holds.
 * Any of the four gradients may be NULL: it is not computed. Overwriting, a
 * weight gradient gets every row written: rows of experts no token chose become
 * 0. Accumulating, old and new are added in float32 and rounded once, and rows
 * no token chose are left alone. */
typedef struct fex_backward_args {
    size_t size;                        /* sizeof(fex_backward_args) */
    int64_t num_tokens;
    const void *grad_output;            /* (T, H) dtype: dy */
    const void *hidden_states;          /* (T, H) dtype */
    const void *down_weights;           /* (E, H) dtype */
    const void *up_weights;             /* (E, H) dtype */
    const void *indices;                /* (T, K) index_type */
    const void *routing_weights;        /* (T, K) routing_dtype */
    const float *scores;                /* (T, K) as saved by fex_forward, or
                                         * NULL: computed again */
    void *grad_hidden_states;           /* (T, H) dtype, or NULL */
    void *grad_down_weights;            /* (E, H) weight_grad_dtype, or NULL */
    void *grad_up_weights;              /* (E, H) weight_grad_dtype, or NULL */
    void *grad_routing_weights;         /* (T, K) routing_dtype, or NULL */
    int64_t grad_output_stride;         /* in elements; 0: dense */
    int64_t hidden_states_stride;
    int64_t down_weights_stride;
    int64_t up_weights_stride;
    int64_t indices_stride;
    int64_t routing_weights_stride;
    int64_t scores_stride;
    int64_t grad_hidden_states_stride;
    int64_t grad_down_weights_stride;
    int64_t grad_up_weights_stride;
    int64_t grad_routing_weights_stride;
    unsigned accumulate;                /* FEX_ACCUMULATE_..., 0: overwrite */
    void *workspace;                    /* as in fex_forward_args */
    size_t workspace_size;
} fex_backward_args;

/* Queues a backward pass on a stream. As fex_forward in every respect, the
 * statuses included. With num_tokens 0 weight gradients that are overwritten
 * become 0. */
FEX_API fex_status fex_backward(fex_op *op, const fex_backward_args *args,
                                struct CUstream_st *stream);

/* ---- Reference ---------------------------------------------------------- */

/* The operation on the CPU: the same structures with host pointers, every sum
 * in double and each result rounded once. Needs no context, driver or
 * workspace; meant as an oracle, and as a slow substitute where there is no
 * GPU. With FEX_OP_CHECK_INDICES an index >= E is FEX_ERROR_INDEX.
 *
 * FEX_OK, FEX_ERROR_INVALID_ARGUMENT, FEX_ERROR_INDEX,
 * FEX_ERROR_OUT_OF_MEMORY */
FEX_API fex_status fex_reference_forward(const fex_op_desc *desc,
                                         const fex_forward_args *args);
FEX_API fex_status fex_reference_backward(const fex_op_desc *desc,
                                          const fex_backward_args *args);

/* ---- Deploying: the kernel cache ---------------------------------------- */

/* Flags of fex_prewarm. */
#define FEX_PREWARM_CHECK 1u   /* compile nothing, only look */
#define FEX_PREWARM_REFRESH 2u /* compile again what an older compiler made */

/* Counts of a prewarm, in kernels: one that families or passes share counts
 * once a call. */
typedef struct fex_prewarm_counts {
    size_t size;
    uint64_t requested; /* hit + compiled + missing + failed */
    uint64_t hit;       /* found in a tier */
    uint64_t compiled;
    uint64_t missing;   /* not found, and FEX_PREWARM_CHECK or policy forbids */
    uint64_t failed;    /* could not be compiled, or not be written */
} fex_prewarm_counts;

typedef enum fex_prewarm_outcome {
    FEX_PREWARM_HIT = 1,
    FEX_PREWARM_COMPILED = 2,
    FEX_PREWARM_MISSING = 3,
    FEX_PREWARM_FAILED = 4
} fex_prewarm_outcome;

/* Told of each kernel once it is done, in the thread that called fex_prewarm.
 * Must not call the library back. */
typedef void (*fex_prewarm_function)(void *user, fex_prewarm_outcome outcome,
                                     const char *kernel);

/* Brings into the cache every kernel that `passes` of an operation would need
 * for any number of tokens from 0 to num_tokens on `architecture` ("sm_90a",
 * "sm_80", ...; NULL: the context's device). Which algorithm serves how many
 * tokens depends on the device: brought in are all that the context's own
 * chooses, if it is of the architecture, and all that others of it are likely
 * to choose, from a typical one down to an eighth of that. Only for the
 * context's device and rows aligned to 16 bytes is it certain that nothing else
 * will be needed. Kernels serve the types in *desc and no others: i64 indices
 * and float32 routing weights have kernels of their own. Needs no GPU: the
 * context may be FEX_DEVICE_NONE. Counts are added to *counts, which may be
 * NULL, and function may be NULL.
 *
 * FEX_OK                      all is there now
 * FEX_ERROR_INVALID_ARGUMENT  as for fex_op_create, an unknown architecture or
 *                             flag
 * FEX_ERROR_JIT_FORBIDDEN     something is missing, and FEX_PREWARM_CHECK or
 *                             the policy forbids compiling it; the message
 *                             names the first
 * FEX_ERROR_NO_COMPILER, FEX_ERROR_COMPILE, FEX_ERROR_OUT_OF_MEMORY,
 * FEX_ERROR_FORKED
 * FEX_ERROR_IO                the cache directory cannot be written, which is
 *                             found out before anything is compiled, or cannot
 *                             be any more; or kernel_dir lacks a kernel's
 *                             source
 * After a failure of one kernel the others have still been tried. */
FEX_API fex_status fex_prewarm(fex_context *context, const fex_op_desc *desc,
                               fex_pass passes, int64_t num_tokens,
                               const char *architecture, unsigned flags,
                               fex_prewarm_function function, void *user,
                               fex_prewarm_counts *counts);

/* One entry of the cache, as fex_cache_list shows it. Strings live during the
 * call of the visitor. */
typedef struct fex_cache_entry {
    size_t size;
    const char *tier;         /* directory or bundle it is in */
    const char *path;         /* its file; for a bundle, the bundle's */
    const char *key;          /* 32 hexadecimal digits */
    const char *kernel;       /* in words: file, constants, architecture */
    const char *architecture; /* "sm_90a" */
    int compiler_version;     /* NVRTC 13.0 is 13000 */
    uint64_t bytes;
    int64_t last_used;        /* seconds since 1970, 0 if not recorded */
    uint64_t hits;            /* loads from disk since it was made */
    fex_status state;         /* FEX_OK or FEX_ERROR_CORRUPT */
} fex_cache_entry;

/* Return 0 to stop the walk. */
typedef int (*fex_cache_visitor)(void *user, const fex_cache_entry *entry);

/* Visits every entry of every tier, sorted by key within a tier; damaged
 * entries are visited with their state. With `verify` the contents are checked
 * in full, else only the head.
 *
 * FEX_OK                      also when the visitor stopped the walk
 * FEX_ERROR_INVALID_ARGUMENT, FEX_ERROR_OUT_OF_MEMORY, FEX_ERROR_FORKED */
FEX_API fex_status fex_cache_list(fex_context *context, int verify,
                                  fex_cache_visitor visitor, void *user);

/* Removes entries from the user tier, the least recently used first, until at
 * most max_bytes are left (UINT64_MAX: no limit), and before that all that were
 * last used more than older_than seconds ago (0: none for their age). Damaged
 * entries and abandoned temporary files go in any case; what this context has
 * used stays. *removed, which may be NULL, gets the number of entries removed.
 * fex_cache_clear removes all entries.
 *
 * FEX_OK                      also when there is no cache directory
 * FEX_ERROR_IO                an entry could not be removed; the others were
 * FEX_ERROR_INVALID_ARGUMENT, FEX_ERROR_OUT_OF_MEMORY, FEX_ERROR_FORKED */
FEX_API fex_status fex_cache_prune(fex_context *context, uint64_t max_bytes,
                                   int64_t older_than, uint64_t *removed);
FEX_API fex_status fex_cache_clear(fex_context *context, uint64_t *removed);

/* Writes all entries of all tiers, or those for one architecture if it is not
 * NULL, to one bundle file, which appears complete or not at all. A bundle can
 * be imported, named in FLASHEXPERT_CACHE_PATH as a read-only tier, or attached
 * from memory. *count, which may be NULL, gets the number of entries.
 *
 * FEX_OK
 * FEX_ERROR_IO                path could not be written; what stood there is
 *                             unchanged
 * FEX_ERROR_INVALID_ARGUMENT, FEX_ERROR_OUT_OF_MEMORY, FEX_ERROR_FORKED */
FEX_API fex_status fex_cache_export(fex_context *context, const char *path,
                                    const char *architecture, uint64_t *count);

/* Copies every entry of a bundle file into the user tier.
 *
 * FEX_OK
 * FEX_ERROR_IO                the file cannot be read or the tier not written
 * FEX_ERROR_CORRUPT           not a bundle, or damaged; nothing was copied
 * FEX_ERROR_INVALID_ARGUMENT, FEX_ERROR_OUT_OF_MEMORY, FEX_ERROR_FORKED */
FEX_API fex_status fex_cache_import(fex_context *context, const char *path,
                                    uint64_t *count);

/* Adds a bundle in host memory as the last read-only tier. The memory is used
 * in place and must stay unchanged until the context is destroyed.
 *
 * FEX_OK
 * FEX_ERROR_CORRUPT           not a bundle, or damaged; nothing was added
 * FEX_ERROR_INVALID_ARGUMENT, FEX_ERROR_OUT_OF_MEMORY, FEX_ERROR_FORKED */
FEX_API fex_status fex_cache_attach(fex_context *context, const void *bundle,
                                    size_t bytes);

#ifdef __cplusplus
}
#endif

#endif /* FLASHEXPERT_RTC_H */
