/* SPDX-License-Identifier: Apache-2.0 */
/* test_simt.c - the simulated device runs kernels as a GPU does, and reports
 * what a kernel must not do. */
#include "config.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "simt/asan.h"
#include "simt/harness.h"

#ifdef SIMT_ASAN
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* Of every kernel here: `struct args { unsigned *out; unsigned count; }`. */
typedef struct kernel_args {
    CUdeviceptr out;
    unsigned count;
} kernel_args;

#define KERNEL(body)                                                           \
    "struct kernel_args { unsigned *out; unsigned count; };\n"                 \
    "extern \"C\" __global__ void __launch_bounds__(256)\n"                    \
    "    kernel(const __grid_constant__ kernel_args args)\n"                   \
    "{\n" body "}\n"
#define FIRST_LINE 5 /* of the body */

#define OUT_MAX 4096u

static simt_harness h;
static unsigned out[OUT_MAX];

/* What runs must show by itself, so nothing watches, whatever is set outside. */
static void open_device(void)
{
    setenv("FLASHEXPERT_SIM_RACES", "0", 1);
    simt_harness_open(&h);
}

static void close_device(void)
{
    simt_harness_close(&h);
}

/* Runs a kernel with `count` words of output, which are read back. */
static CUresult run_clusters(const char *source, unsigned cluster,
                             unsigned blocks, unsigned threads,
                             unsigned shared, unsigned count)
{
    CUlaunchAttribute attribute = {.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
                                   .value.clusterDim = {cluster, 1, 1}};
    kernel_args args = {.count = count};
    CUmodule module = simt_harness_load(&h, source);
    ck_assert_uint_le(count, OUT_MAX);
    ck_assert_int_eq(h.driver.cuMemAlloc(&args.out, count * sizeof *out),
                     CUDA_SUCCESS);
    const CUlaunchConfig config = {.gridDimX = blocks,
                                   .gridDimY = 1,
                                   .gridDimZ = 1,
                                   .blockDimX = threads,
                                   .blockDimY = 1,
                                   .blockDimZ = 1,
                                   .sharedMemBytes = shared,
                                   .attrs = &attribute,
                                   .numAttrs = cluster > 0};
    CUresult result = simt_harness_launch(&h, module, "kernel", config, &args);
    if (result == CUDA_SUCCESS)
        result = h.driver.cuMemcpyDtoH(out, args.out, count * sizeof *out);
    h.driver.cuMemFree(args.out);
    h.driver.cuModuleUnload(module);
    return result;
}

static CUresult run(const char *source, unsigned blocks, unsigned threads,
                    unsigned shared, unsigned count)
{
    return run_clusters(source, 0, blocks, threads, shared, count);
}

static void run_well(const char *source, unsigned blocks, unsigned threads,
                     unsigned count)
{
    const CUresult result = run(source, blocks, threads, 0, count);
    ck_assert_msg(result == CUDA_SUCCESS, "%s", h.report());
}

/* ---- What works --------------------------------------------------------- */

START_TEST(every_thread_runs_once)
{
    run_well(KERNEL("atomicAdd(args.out + blockIdx.x * blockDim.x + "
                    "threadIdx.x, 2u);"),
             7, 100, 700);
    for (unsigned i = 0; i < 700; i++)
        ck_assert_uint_eq(out[i], 0xffffffffu + 2u);
}
END_TEST

START_TEST(fresh_memory_is_poison)
{
    run_well(KERNEL("__shared__ unsigned fresh[256];\n"
                    "if (threadIdx.x == 0) args.out[blockIdx.x] = fresh[9];\n"
                    "__syncthreads();\n"
                    "fresh[threadIdx.x] = 1;"),
             2, 256, 3);
    for (unsigned i = 0; i < 3; i++)
        ck_assert_uint_eq(out[i], 0xffffffffu);
}
END_TEST

START_TEST(dynamic_shared_memory)
{
    static const char source[] =
        KERNEL("extern __shared__ unsigned words[];\n"
               "words[threadIdx.x] = threadIdx.x;\n"
               "__syncthreads();\n"
               "args.out[threadIdx.x] = words[threadIdx.x ^ 77];");
    ck_assert_int_eq(run(source, 3, 256, 1024, 256), CUDA_SUCCESS);
    for (unsigned i = 0; i < 256; i++)
        ck_assert_uint_eq(out[i], i ^ 77);
    ck_assert_int_eq(run(source, 3, 256, 48 * 1024 + 1, 256),
                     CUDA_ERROR_INVALID_VALUE);
}
END_TEST

/* What lane i gets from each, with operand 5 and width w; all lanes of two
 * warps take part, each with the value 100 * lane + warp. */
static unsigned shuffled(unsigned kind, unsigned lane, unsigned width)
{
    const unsigned first = lane / width * width;
    int source;
    switch (kind) {
    case 0:
        source = (int)(first + 5 % width);
        break;
    case 1:
        source = (int)lane - 5 < (int)first ? (int)lane : (int)lane - 5;
        break;
    case 2:
        source = lane + 5 >= first + width ? (int)lane : (int)lane + 5;
        break;
    default:
        source = (lane ^ 5) >= first + width ? (int)lane : (int)(lane ^ 5);
    }
    return 100 * (unsigned)source;
}

START_TEST(shuffles)
{
    run_well(KERNEL("const unsigned v = threadIdx.x % 32 * 100 + "
                    "threadIdx.x / 32;\n"
                    "for (int w = 4, i = 0; w <= 32; w *= 2, ++i) {\n"
                    "unsigned *out = args.out + i * 256 + threadIdx.x * 4;\n"
                    "out[0] = __shfl_sync(~0u, v, 5, w);\n"
                    "out[1] = __shfl_up_sync(~0u, v, 5, w);\n"
                    "out[2] = __shfl_down_sync(~0u, v, 5, w);\n"
                    "out[3] = __shfl_xor_sync(~0u, v, 5, w);\n"
                    "}"),
             1, 64, 1024);
    for (unsigned width = 4, i = 0; width <= 32; width *= 2, i++)
        for (unsigned thread = 0; thread < 64; thread++)
            for (unsigned kind = 0; kind < 4; kind++)
                ck_assert_msg(
                    out[i * 256 + thread * 4 + kind] ==
                        shuffled(kind, thread % 32, width) + thread / 32,
                    "shuffle %u, width %u, thread %u", kind, width, thread);
}
END_TEST

/* Votes among the lanes of a mask, while the other lanes do something else. */
START_TEST(votes)
{
    run_well(KERNEL("const unsigned lane = threadIdx.x;\n"
                    "const unsigned mask = lane < 20 ? 0xfffffu : ~0xfffffu;\n"
                    "unsigned *out = args.out + lane * 5;\n"
                    "if (lane < 20)\n"
                    "    out[0] = __ballot_sync(mask, lane % 3 == 0);\n"
                    "else out[0] = __ballot_sync(mask, lane % 2 == 0);\n"
                    "out[1] = __all_sync(mask, lane < 20);\n"
                    "out[2] = __any_sync(mask, lane == 3);\n"
                    "out[3] = __match_any_sync(mask, lane / 8);\n"
                    "out[4] = __match_any_sync(~0u, lane % 4 - 10.0);"),
             1, 32, 160);
    for (unsigned lane = 0; lane < 32; lane++) {
        const unsigned *const mine = out + lane * 5;
        const unsigned mask = lane < 20 ? 0xfffffu : ~0xfffffu;
        ck_assert_uint_eq(mine[0], lane < 20 ? 0x49249u : 0x55500000u);
        ck_assert_uint_eq(mine[1], lane < 20);
        ck_assert_uint_eq(mine[2], lane < 20);
        ck_assert_uint_eq(mine[3], 0xffu << lane / 8 * 8 & mask);
        ck_assert_uint_eq(mine[4], 0x11111111u << lane % 4);
    }
}
END_TEST

START_TEST(exited_lanes_are_not_waited_for)
{
    run_well(KERNEL("if (threadIdx.x % 2 == 1) return;\n"
                    "args.out[threadIdx.x] = __ballot_sync(~0u, 1);"),
             1, 50, 50);
    for (unsigned i = 0; i < 50; i += 2)
        ck_assert_uint_eq(out[i], i < 32 ? 0x55555555u : 0x00015555u);
}
END_TEST

START_TEST(barriers_that_count)
{
    run_well(KERNEL("unsigned *out = args.out + threadIdx.x * 4;\n"
                    "out[0] = __syncthreads_count(threadIdx.x % 3 == 0);\n"
                    "out[1] = __syncthreads_and(threadIdx.x < 90);\n"
                    "out[2] = __syncthreads_or(threadIdx.x == 89);\n"
                    "out[3] = __syncthreads_or(threadIdx.x == 90);"),
             1, 90, 360);
    for (unsigned i = 0; i < 90; i++) {
        ck_assert_uint_eq(out[4 * i], 30);
        ck_assert_uint_eq(out[4 * i + 1], 1);
        ck_assert_uint_eq(out[4 * i + 2], 1);
        ck_assert_uint_eq(out[4 * i + 3], 0);
    }
}
END_TEST

/* Each block adds up what all of its cluster have, static and dynamic. */
START_TEST(clusters_share_memory)
{
    static const char source[] = KERNEL(
        "__shared__ unsigned word;\n"
        "extern __shared__ unsigned words[];\n"
        "if (threadIdx.x == 0) word = blockIdx.x;\n"
        "words[threadIdx.x] = 100 * blockIdx.x + threadIdx.x;\n"
        "simt_cluster_sync();\n"
        "unsigned sum = 0;\n"
        "for (unsigned r = 0; r < simt_runtime_of_module->cluster_size; ++r)\n"
        "    sum += *simt_remote(&word, r) * 10000 +\n"
        "           *simt_remote(&words[threadIdx.x], r);\n"
        "args.out[blockIdx.x * 40 + threadIdx.x] = sum;\n"
        "simt_cluster_sync();\n");
    const CUresult result = run_clusters(source, 4, 8, 40, 160, 320);
    ck_assert_msg(result == CUDA_SUCCESS, "%s", h.report());
    for (unsigned block = 0; block < 8; block++)
        for (unsigned thread = 0; thread < 40; thread++)
            ck_assert_uint_eq(out[block * 40 + thread],
                              (block < 4 ? 6u : 22u) * 10100 + 4 * thread);
    ck_assert_int_eq(run_clusters(source, 3, 8, 40, 160, 320),
                     CUDA_ERROR_INVALID_CLUSTER_SIZE);
    ck_assert_int_eq(run_clusters(source, 16, 16, 40, 160, 320),
                     CUDA_ERROR_INVALID_CLUSTER_SIZE);
}
END_TEST

/* Runs a kernel that may overlap with whatever is ahead of it. */
static CUresult run_dependent(const char *source, unsigned blocks,
                              unsigned threads)
{
    CUlaunchAttribute attribute = {
        .id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        .value.programmaticStreamSerializationAllowed = 1};
    kernel_args args = {.count = 0};
    CUmodule module = simt_harness_load(&h, source);
    const CUlaunchConfig config = {.gridDimX = blocks,
                                   .gridDimY = 1,
                                   .gridDimZ = 1,
                                   .blockDimX = threads,
                                   .blockDimY = 1,
                                   .blockDimZ = 1,
                                   .attrs = &attribute,
                                   .numAttrs = 1};
    CUresult result = simt_harness_launch(&h, module, "kernel", config, &args);
    if (result == CUDA_SUCCESS)
        result = h.driver.cuCtxSynchronize();
    h.driver.cuModuleUnload(module);
    return result;
}

#define WAIT "simt_runtime_of_module->primary();"

START_TEST(dependent_launches_wait)
{
    ck_assert_int_eq(run_dependent(KERNEL(WAIT), 3, 40), CUDA_SUCCESS);
    ck_assert_int_eq(run_dependent(KERNEL("if (threadIdx.x == 39) " WAIT), 3,
                                   40),
                     CUDA_SUCCESS);
    ck_assert_int_eq(run_dependent(KERNEL("if (blockIdx.x != 1) " WAIT), 3,
                                   40),
                     CUDA_ERROR_LAUNCH_FAILED);
    ck_assert_ptr_nonnull(strstr(h.report(), "block (1,0,0)"));
    ck_assert_ptr_nonnull(strstr(h.report(), "not waited"));
}
END_TEST

/* Of 40 blocks, those that come right after the one before them. */
static unsigned count_ascending(void)
{
    unsigned ascending = 0;
    run_well(KERNEL("args.out[1 + blockIdx.x] = atomicAdd(args.out, 1u);\n"),
             40, 1, 41);
    for (unsigned i = 1; i < 40; i++)
        ascending += out[1 + i] == out[i] + 1;
    return ascending;
}

/* Blocks and warps come in some other order than that of their numbers. Any
 * one order may be drawn, theirs too, but not again and again. */
START_TEST(order_is_drawn)
{
    unsigned least = 40;
    for (unsigned launch = 0; launch < 5; launch++) {
        const unsigned ascending = count_ascending();
        least = ascending < least ? ascending : least;
    }
    ck_assert_uint_lt(least, 20);

    run_well(KERNEL("__shared__ unsigned turn;\n"
                    "if (threadIdx.x == 0) turn = 0;\n"
                    "__syncthreads();\n"
                    "const unsigned mine = atomicAdd(&turn, 1u);\n"
                    "args.out[blockIdx.x * 64 + mine] = threadIdx.x;"),
             64, 64, 4096);
    unsigned first_lane = 0;
    unsigned first_warp = 0;
    for (unsigned block = 0; block < 64; block++) {
        first_lane += out[block * 64] % 32 == 0;
        first_warp += out[block * 64] < 32;
    }
    ck_assert_uint_lt(first_lane, 32);
    ck_assert_uint_gt(first_warp, 0);
    ck_assert_uint_lt(first_warp, 64);
}
END_TEST

/* Of what warps take from each other none gets all, though they never meet. */
START_TEST(warps_share_out_work)
{
    run_well(KERNEL("__shared__ unsigned next;\n"
                    "if (threadIdx.x == 0) next = 0;\n"
                    "__syncthreads();\n"
                    "for (unsigned i; threadIdx.x % 32 == 0 &&\n"
                    "     (i = atomicAdd(&next, 1u)) < 64;)\n"
                    "    args.out[blockIdx.x * 64 + i] = threadIdx.x;"),
             64, 128, 4096);
    unsigned shared_out = 0;
    for (unsigned block = 0; block < 64; block++)
        for (unsigned i = 1; i < 64; i++)
            if (out[block * 64 + i] != out[block * 64]) {
                shared_out++;
                break;
            }
    ck_assert_uint_gt(shared_out, 60);
}
END_TEST

/* A value another thread was to write: one barrier too few shows. */
START_TEST(missing_barriers_show)
{
    static const char *const sources[] = {
        KERNEL("__shared__ unsigned word;\n"
               "if (threadIdx.x == 37) word = 1;\n"
               "args.out[blockIdx.x * 64 + threadIdx.x] = word;"),
        KERNEL("__shared__ unsigned words[64];\n"
               "words[threadIdx.x] = 1;\n"
               "args.out[blockIdx.x * 64 + threadIdx.x] =\n"
               "    words[threadIdx.x ^ 1];"),
    };
    for (size_t i = 0; i < 2; i++) {
        unsigned wrong = 0;
        run_well(sources[i], 8, 64, 512);
        for (unsigned j = 0; j < 512; j++)
            wrong += out[j] != 1;
        ck_assert_uint_gt(wrong, 0);
    }
}
END_TEST

/* ---- Races --------------------------------------------------------------- */

static void open_watched_device(void)
{
    setenv("FLASHEXPERT_SIM_RACES", "1", 1);
    simt_harness_open(&h);
}

#define WORDS "__shared__ unsigned words[64];\n"
#define OWN "const unsigned t = threadIdx.x;\n"

/* For 64 threads; each is right by chance or always, but for the order. */
static const struct {
    const char *source;
    const char *words; /* of the report, NULL if there is none to be */
} races[] = {
    /* between warps, in either order, and where nothing is read */
    {KERNEL(WORDS OWN "if (t == 0) words[0] = 1;\n"
                      "if (t == 32) args.out[0] = words[0];"),
     "a race: "},
    {KERNEL(WORDS OWN "if (t == 32) words[0] = 1;\n"
                      "if (t == 0) args.out[0] = words[0];"),
     "a race: "},
    {KERNEL(WORDS OWN "words[t % 32] = t;\n__syncthreads();\n"
                      "args.out[t] = words[t % 32];"),
     "another value was written"},
    /* in a warp: a vote is not enough; a read before a write counts too */
    {KERNEL(WORDS OWN "words[t] = t;\n__any_sync(0xffffffffu, 1);\n"
                      "args.out[t] = words[t ^ 1];"),
     "reads shared memory"},
    {KERNEL(WORDS OWN "args.out[t] = words[t ^ 1];\n"
                      "__any_sync(0xffffffffu, 1);\nwords[t] = t;"),
     "which thread"},
    /* the first of two that read */
    {KERNEL(WORDS OWN "if (t < 2) args.out[t] = words[5];\n"
                      "if (t == 1) words[5] = 1;"),
     "race"},
    {KERNEL(WORDS OWN "if (t % 32 == 0) args.out[t] = words[5];\n"
                      "__syncwarp();\nif (t == 33) words[5] = 1;"),
     "race"},
    /* an update beside a read */
    {KERNEL(WORDS OWN "if (t < 40) atomicAdd(&words[0], 1u);\n"
                      "else args.out[t] = words[0];"),
     "race"},
    /* in the other order of a barrier that only one warp's lanes meet at */
    {KERNEL(WORDS OWN "words[t] = t;\n__syncwarp();\n"
                      "args.out[t] = words[t ^ 32];"),
     "race"},
    /* none */
    {KERNEL(WORDS OWN "words[t] = t;\n__syncthreads();\n"
                      "args.out[t] = words[t ^ 33];\n__syncthreads();\n"
                      "words[t ^ 33] = t;"),
     NULL},
    {KERNEL(WORDS OWN "words[t] = t;\n__syncwarp();\n"
                      "args.out[t] = words[t ^ 1];\n__syncwarp();\n"
                      "words[t ^ 1] = 0;"),
     NULL},
    {KERNEL(WORDS OWN "atomicAdd(&words[0], t);"), NULL},
    {KERNEL(WORDS OWN "words[0] = 7;\n__syncthreads();\n"
                      "args.out[t] = words[0];"),
     NULL},
    {KERNEL(WORDS OWN "if (t == 0) words[0] = 1;\n"
                      "if (__syncthreads_or(t == 3)) args.out[t] = words[0];"),
     NULL},
};

START_TEST(races_are_found_in_any_order)
{
    /* Another order each time. */
    for (unsigned i = 0; i < 4; i++) {
        const CUresult result = run(races[_i].source, 1, 64, 0, 64);
        const char *const words = races[_i].words;
        if (words == NULL) {
            ck_assert_msg(result == CUDA_SUCCESS, "%s", h.report());
            continue;
        }
        ck_assert_int_eq(result, CUDA_ERROR_LAUNCH_FAILED);
        ck_assert_msg(strstr(h.report(), words) != NULL, "no '%s' in: %s",
                      words, h.report());
        simt_harness_reset(&h);
    }
}
END_TEST

/* ---- Conversions of the PTX twins --------------------------------------- */

static float half_value(unsigned bits)
{
    const int exponent = (int)(bits >> 10 & 31);
    const int fraction = (int)(bits & 1023);
    const float sign = bits & 0x8000 ? -1.0f : 1.0f;
    if (exponent == 31)
        return fraction != 0 ? NAN : sign * INFINITY;
    return sign * (exponent > 0
                       ? ldexpf((float)(fraction + 1024), exponent - 25)
                       : ldexpf((float)fraction, -24));
}

/* Every half, and for each the floats around the middle between it and the
 * next one, of which the middle itself goes to the even one. */
START_TEST(half_conversions)
{
    run_well("#include \"ptx_simulated.cuh\"\n" KERNEL(
                 "for (unsigned i = blockIdx.x * 1024; "
                 "i < blockIdx.x * 1024 + 1024; ++i) {\n"
                 "const unsigned short h = i;\n"
                 "const float f = half_to_float(h);\n"
                 "const float next = half_to_float(h + 1);\n"
                 "unsigned bad = float_to_half(f) != h;\n"
                 "if ((i & 0x7fff) < 0x7bff) {\n"
                 "const float middle = f + (next - f) / 2;\n"
                 "const unsigned bits = __float_as_uint(middle);\n"
                 "bad |= float_to_half(middle) != h + (h & 1);\n"
                 "bad |= float_to_half(__uint_as_float(bits - 1)) != h;\n"
                 "bad |= float_to_half(__uint_as_float(bits + 1)) != h + 1;\n"
                 "}\n"
                 "if ((i & 0x7fff) > 0x7c00)\n"
                 "    bad = f == f || float_to_half(f) != 0x7fff;\n"
                 "if (i == 0x7bff) {\n"
                 "bad |= float_to_half(65519.996f) != 0x7bff;\n"
                 "bad |= float_to_half(65520.0f) != 0x7c00;\n"
                 "bad |= float_to_half(3e38f) != 0x7c00;\n"
                 "}\n"
                 "if (blockIdx.x == args.count / 64) {\n"
                 "args.out[i % 1024 * 2] = __float_as_uint(f);\n"
                 "}\n"
                 "if (bad) args.out[2 * (i % 1024) + 1] = i;\n"
                 "}"),
             64, 1, 2048);
    for (unsigned i = 0; i < 1024; i++) {
        float f;
        memcpy(&f, &out[2 * i], sizeof f);
        ck_assert_float_eq(f, half_value(32 * 1024 + i));
        ck_assert_msg(out[2 * i + 1] == 0xffffffffu, "half 0x%04x",
                      out[2 * i + 1]);
    }
}
END_TEST

/* ---- What is reported --------------------------------------------------- */

/* A kernel of 64 threads that must not get away with it, the line of its body
 * that is to blame, and words of the report. */
static const struct {
    const char *source;
    int line;
    const char *words;
} offences[] = {
    {KERNEL("if (threadIdx.x < 40)\n__syncthreads();"), 2,
     "has exited"},
    {KERNEL("if (threadIdx.x < 40)\n__syncthreads();\nelse\n__syncthreads();"),
     0, "meet at two barriers"},
    {KERNEL("if (blockIdx.x == 1 && threadIdx.x < 40)\n__syncwarp();\n"
            "__syncthreads();"),
     2,
     "is never reached by lane 8: thread (40,0,0) of block (1,0,0) waits at "
     "the block's barrier in line 7"},
    {KERNEL("if (threadIdx.x % 32 < 9)\n__ballot_sync(0x3ff, 1);\n"
            "else if (threadIdx.x % 32 == 9)\n__ballot_sync(0xffff, 1);"),
     0, "__ballot_sync"},
    {KERNEL("\nif (threadIdx.x < 16) __shfl_sync(0xffff0000, 1, 0);"), 2,
     "is not in its own mask 0xffff0000"},
    {KERNEL("if (threadIdx.x % 32 > 3)\n"
            "args.out[0] = __shfl_sync(~0xfu, 1, 2);"),
     2, "reads lane 2, which takes no part"},
    {KERNEL("if (threadIdx.x % 2)\n__all_sync(~0u, 1);\nelse\n__syncwarp();"),
     0, "lanes of one warp meet at"},
    {KERNEL("\n\n*(uint4 *)(args.out + 1) = make_uint4(1, 2, 3, 4);"), 3,
     "uint4' at 0x"},
    {KERNEL("__shared__ int words[33];\nwords[threadIdx.x] = 1;"), 2,
     "index"},
    {KERNEL("int i = 0x7fffff00 + threadIdx.x;\nargs.out[0] = i + 256;"), 2,
     "overflow of a sum of 'int'"},
    {KERNEL("\nargs.out[0] = 1u << threadIdx.x;"), 2, "shift out of range"},
    {KERNEL("volatile int x = 1;\nwhile (x)\n    ;"), 0,
     "still running after 1 s"},
    {KERNEL("float deep[64];\nfor (unsigned i = 0; i < 64; ++i)\n"
            "deep[i] = i;\nargs.out[0] = deep[args.count + threadIdx.x];"),
     4, "is out of bounds of 'float [64]'"},
};

/* The same, of clusters of two blocks. */
static const struct {
    const char *source;
    int line;
    const char *words;
} cluster_offences[] = {
    {KERNEL("__shared__ unsigned word;\nif (blockIdx.x % 2 == 0)\n"
            "simt_cluster_sync();"),
     3, "the cluster's barrier in line 7 is not reached by all threads: thread "
        "(0,0,0) of block (1,0,0) has exited"},
    {KERNEL("__shared__ unsigned word;\nword = 1;\nsimt_cluster_sync();\n"
            "if (blockIdx.x % 2 == 0)\nargs.out[0] = *simt_remote(&word, 1);\n"
            "else if (args.count == 0)\nsimt_cluster_sync();"),
     5, "has ended before its shared memory is used in line 9"},
    {KERNEL("unsigned word = 1;\nargs.out[0] = *simt_remote(&word, 0);"), 2,
     "are not in shared memory"},
    {KERNEL("__shared__ unsigned word;\nargs.out[0] = *simt_remote(&word, 2);"),
     2, "rank 2 in line 6, of a cluster of 2 blocks"},
};

START_TEST(offence_of_a_cluster_is_reported)
{
    unsigned seen = 0;
    char line[32];
    /* Whether a block ends too early is a matter of order, decided anew each
     * time. */
    for (unsigned i = 0; i < 40 && seen == 0; i++) {
        run_clusters(cluster_offences[_i].source, 2, 2, 64, 0, 64);
        seen = strstr(h.report(), cluster_offences[_i].words) != NULL;
    }
    ck_assert_msg(seen, "%s", h.report());
    snprintf(line, sizeof line, "kernel.cpp:%d",
             cluster_offences[_i].line + FIRST_LINE - 1);
    ck_assert_msg(strstr(h.report(), line) != NULL, "no %s in: %s", line,
                  h.report());
}
END_TEST

START_TEST(offence_is_reported)
{
    const char *const words = offences[_i].words;
    char line[32];
    const CUresult result = run(offences[_i].source, 2, 64, 0, 64);
    const char *const report = h.report();
    ck_assert_msg(result == CUDA_ERROR_LAUNCH_FAILED, "result %d, %s", result,
                  report);
    ck_assert_msg(strstr(report, words) != NULL, "no '%s' in: %s", words,
                  report);
    ck_assert_msg(strstr(report, "kernel kernel, block (") != NULL, "%s",
                  report);
    if (offences[_i].line > 0) {
        snprintf(line, sizeof line, "kernel.cpp:%d",
                 offences[_i].line + FIRST_LINE - 1);
        ck_assert_msg(strstr(report, line) != NULL, "no %s in: %s", line,
                      report);
    }
}
END_TEST

START_TEST(a_failure_stays_until_the_context_goes)
{
    ck_assert_int_eq(run(offences[0].source, 1, 64, 0, 64),
                     CUDA_ERROR_LAUNCH_FAILED);
    ck_assert_int_eq(h.driver.cuCtxSynchronize(), CUDA_ERROR_LAUNCH_FAILED);
    simt_harness_reset(&h);
    ck_assert_int_eq(h.driver.cuCtxSynchronize(), CUDA_SUCCESS);
    run_well(KERNEL("args.out[0] = 5;"), 1, 1, 1);
    ck_assert_uint_eq(out[0], 5);
}
END_TEST

/* Accesses to what is not the kernel's, in a process that has no device yet.
 * AddressSanitizer ends it; without it some are not seen. */
static const struct {
    const char *source;
    int line;
    int only_sanitized;
} accesses[] = {
    {KERNEL("int *p = nullptr;\n*p = 1;"), 2, 0},
    {KERNEL("args.out[0] = args.out[args.count];"), 1, 0},
    {KERNEL("__shared__ int words[8];\nint *p = words;\n"
            "p[args.count / 8] = 1;"),
     3, 1},
    {KERNEL("extern __shared__ int words[];\nwords[args.count / 16] = 1;"), 2,
     1},
};

START_TEST(wild_access_is_reported)
{
    char report[8192];
    char line[32];
    int ends[2];
    int status;
    if (accesses[_i].only_sanitized && !SANITIZED)
        return;
    ck_assert_int_eq(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        open_device();
        run(accesses[_i].source, 1, 1, 16, 64);
        _exit(0);
    }
    close(ends[1]);
    FILE *const text = fdopen(ends[0], "r");
    const size_t length = fread(report, 1, sizeof report - 1, text);
    report[length] = '\0';
    fclose(text);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status != 0, SANITIZED);
    snprintf(line, sizeof line, "kernel.cpp:%d",
             accesses[_i].line + FIRST_LINE - 1);
    ck_assert_msg(strstr(report, line) != NULL, "no %s in: %s", line, report);
    ck_assert_msg(
        strstr(report, "kernel kernel, block (0,0,0), thread") != NULL, "%s",
        report);
}
END_TEST

START_TEST(writes_outside_are_noticed)
{
    if (SANITIZED)
        return;
    ck_assert_int_eq(run(KERNEL("args.out[args.count] = 1;"), 1, 1, 0, 3),
                     CUDA_ERROR_LAUNCH_FAILED);
    ck_assert_ptr_nonnull(strstr(h.report(), "outside of the 12 bytes"));
}
END_TEST

START_TEST(too_much_shared_memory_is_refused)
{
    char *log;
    if (SANITIZED)
        return;
    char *const image = simt_harness_compile(
        &h, KERNEL("__shared__ char words[49153];\nwords[threadIdx.x] = 1;\n"
                   "args.out[0] = words[args.count];"),
        &log);
    ck_assert_ptr_null(image);
    ck_assert_msg(strstr(log, "too much shared data") != NULL, "%s", log);
    free(log);
}
END_TEST

START_TEST(errors_are_logged_with_their_line)
{
    char *log;
    char *const image = simt_harness_compile(
        &h, "#line 1 \"some.cu\"\n" KERNEL("\nnonsense;"), &log);
    ck_assert_ptr_null(image);
    ck_assert_msg(strstr(log, "some.cu:6:") != NULL, "%s", log);
    free(log);
}
END_TEST

START_TEST(launch_bounds_bind)
{
    ck_assert_int_eq(run(KERNEL(""), 1, 257, 0, 1),
                     CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    ck_assert_int_eq(run(KERNEL(""), 0, 1, 0, 1), CUDA_ERROR_INVALID_VALUE);
}
END_TEST

int main(void)
{
    Suite *const suite = suite_create("simt");
    TCase *const works = tcase_create("works");
    TCase *const watched = tcase_create("watched");
    TCase *const reports = tcase_create("reports");
    TCase *const wild = tcase_create("wild accesses");
    const int offence_count = (int)(sizeof offences / sizeof *offences);
    const int cluster_offence_count =
        (int)(sizeof cluster_offences / sizeof *cluster_offences);
    const int access_count = (int)(sizeof accesses / sizeof *accesses);
    setenv("FLASHEXPERT_SIM_TIMEOUT", "1", 1);

    tcase_add_checked_fixture(works, open_device, close_device);
    tcase_set_timeout(works, 60);
    tcase_add_test(works, every_thread_runs_once);
    tcase_add_test(works, fresh_memory_is_poison);
    tcase_add_test(works, dynamic_shared_memory);
    tcase_add_test(works, shuffles);
    tcase_add_test(works, votes);
    tcase_add_test(works, exited_lanes_are_not_waited_for);
    tcase_add_test(works, barriers_that_count);
    tcase_add_test(works, clusters_share_memory);
    tcase_add_test(works, dependent_launches_wait);
    tcase_add_test(works, order_is_drawn);
    tcase_add_test(works, warps_share_out_work);
    tcase_add_test(works, missing_barriers_show);
    tcase_add_test(works, half_conversions);
    suite_add_tcase(suite, works);

    tcase_add_checked_fixture(watched, open_watched_device, close_device);
    tcase_set_timeout(watched, 60);
    if (!SANITIZED) /* AddressSanitizer takes the place of what watches */
        tcase_add_loop_test(watched, races_are_found_in_any_order, 0,
                            sizeof races / sizeof *races);
    suite_add_tcase(suite, watched);

    tcase_add_checked_fixture(reports, open_device, close_device);
    tcase_set_timeout(reports, 60);
    tcase_add_loop_test(reports, offence_is_reported, 0, offence_count);
    tcase_add_loop_test(reports, offence_of_a_cluster_is_reported, 0,
                        cluster_offence_count);
    tcase_add_test(reports, a_failure_stays_until_the_context_goes);
    tcase_add_test(reports, writes_outside_are_noticed);
    tcase_add_test(reports, too_much_shared_memory_is_refused);
    tcase_add_test(reports, errors_are_logged_with_their_line);
    tcase_add_test(reports, launch_bounds_bind);
    suite_add_tcase(suite, reports);

    tcase_set_timeout(wild, 60);
    tcase_add_loop_test(wild, wild_access_is_reported, 0, access_count);
    suite_add_tcase(suite, wild);

    SRunner *const runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
