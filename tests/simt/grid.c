/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "asan.h"
#include "cluster.h"
#include "device.h"
#include "grid.h"
#include "memory.h"
#include "races.h"
#include "report.h"
#include "settings.h"

#define SHARED_ALIGNMENT 1024 /* of dynamic shared memory: the same in all blocks */
#define PORTABLE_CLUSTER_MAX 8u
#define SIGNAL_STACK_SIZE ((size_t)64 * 1024)

#ifdef SIMT_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

/* ---- Faults the processor finds ----------------------------------------- */

/* What would end the process is made a fault of the kernel. AddressSanitizer
 * keeps its own way of telling of these signals: it knows the cause. */
static const int signals[] = {
#ifndef SIMT_ASAN
    SIGSEGV, SIGBUS, SIGFPE, SIGILL,
#endif
    SIGXCPU};
#define SIGNAL_COUNT (sizeof signals / sizeof *signals)

typedef struct guard {
    struct sigaction actions[SIGNAL_COUNT]; /* the process's own */
    stack_t stack;
    timer_t timer;
    int has_timer;
} guard;

static const char *running_kernel;
static char signal_stack[SIGNAL_STACK_SIZE];

static const void *instruction_of(const ucontext_t *context)
{
#if defined(__x86_64__)
    return (const void *)context->uc_mcontext.gregs[REG_RIP];
#else
    return (const void *)context->uc_mcontext.pc;
#endif
}

static void handle(int number, siginfo_t *info, void *context)
{
    if (!simt_cluster_running()) {
        /* Not a kernel's: happens again, and ends the process. The timer
         * may have run out just after the kernel. */
        if (number != SIGXCPU)
            signal(number, SIG_DFL);
        return;
    }
    simt_report_signal(instruction_of(context));
    if (number == SIGXCPU)
        simt_cluster_fault("still running after %d s of processor time",
                         simt_settings_get()->timeout_seconds);
    if (number == SIGFPE || number == SIGILL)
        simt_cluster_fault("%s", strsignal(number));
    simt_cluster_fault("access to %p, where there is no memory of the device",
                     info->si_addr);
}

/* Ends a kernel that waits in a loop for what will never happen. */
static void set_timer(guard *saved)
{
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID,
                             .sigev_signo = SIGXCPU};
    const struct itimerspec limit = {
        .it_value.tv_sec = simt_settings_get()->timeout_seconds};
    event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
    saved->has_timer =
        timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &saved->timer) == 0 &&
        timer_settime(saved->timer, 0, &limit, NULL) == 0;
}

#ifdef SIMT_ASAN
/* What AddressSanitizer cannot tell when it ends the process. */
static void tell_position(void)
{
    const simt_runtime *const runtime = simt_cluster_runtime();
    const simt_dim3 b = runtime->block_index;
    const simt_dim3 t = runtime->thread_index;
    if (simt_cluster_running())
        fprintf(stderr,
                "simulated device: kernel %s, block (%u,%u,%u), thread "
                "(%u,%u,%u)\n",
                running_kernel, b.x, b.y, b.z, t.x, t.y, t.z);
}
#endif

static void stand_guard(guard *saved)
{
    /* SA_NODEFER, since a handler is left by switching fibers. */
    struct sigaction action = {.sa_sigaction = handle,
                               .sa_flags =
                                   SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    const stack_t stack = {.ss_sp = signal_stack,
                           .ss_size = sizeof signal_stack};
#ifdef SIMT_ASAN
    __sanitizer_set_death_callback(tell_position);
#endif
    sigemptyset(&action.sa_mask);
    sigaltstack(&stack, &saved->stack);
    for (size_t i = 0; i < SIGNAL_COUNT; i++)
        sigaction(signals[i], &action, &saved->actions[i]);
    set_timer(saved);
}

static void stand_down(const guard *saved)
{
    if (saved->has_timer)
        timer_delete(saved->timer);
    for (size_t i = 0; i < SIGNAL_COUNT; i++)
        sigaction(signals[i], &saved->actions[i], NULL);
    sigaltstack(&saved->stack, NULL);
}

/* ---- Checks ------------------------------------------------------------- */

static unsigned long count_of(simt_dim3 size)
{
    return (unsigned long)size.x * size.y * size.z;
}

static CUresult check_cluster(const simt_grid *grid)
{
    const simt_dim3 blocks = grid->grid_size;
    const simt_dim3 cluster = grid->cluster_size;
    const unsigned long count = count_of(cluster);
    const unsigned most = grid->function->large_clusters ? SIMT_CLUSTER_MAX
                                                         : PORTABLE_CLUSTER_MAX;
    if (count == 1)
        return CUDA_SUCCESS;
    if (simt_settings_get()->major < 9)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (count == 0 || count > most || blocks.x % cluster.x != 0 ||
        blocks.y % cluster.y != 0 || blocks.z % cluster.z != 0)
        return CUDA_ERROR_INVALID_CLUSTER_SIZE;
    return CUDA_SUCCESS;
}

CUresult simt_grid_check(const simt_grid *grid)
{
    const simt_dim3 blocks = grid->grid_size;
    const unsigned long threads = count_of(grid->block_size);
    const int bound = grid->function->kernel->max_threads;
    if (count_of(blocks) == 0 || blocks.x > 0x7fffffff || blocks.y > 65535 ||
        blocks.z > 65535 || threads == 0 || threads > SIMT_BLOCK_MAX ||
        grid->dynamic_shared > grid->function->dynamic_shared_max)
        return CUDA_ERROR_INVALID_VALUE;
    if (bound > 0 && threads > (unsigned long)bound)
        return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
    return check_cluster(grid);
}

/* ---- Order -------------------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static unsigned long greatest_common_divisor(unsigned long a, unsigned long b)
{
    while (b != 0) {
        const unsigned long rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* A step that visits each of count blocks once before it comes round. */
static unsigned long draw_step(unsigned long count, uint64_t random)
{
    unsigned long step = random % count;
    while (greatest_common_divisor(step, count) != 1)
        step++;
    return step;
}

static void poison(const simt_grid *grid, const simt_task *task)
{
    for (unsigned rank = 0; rank < count_of(grid->cluster_size); rank++) {
        simt_function_poison(grid->function, rank);
        memset(task->copies[rank].dynamic_shared,
               simt_settings_get()->shared_poison, grid->dynamic_shared);
    }
}

static int run_clusters(const simt_grid *grid, const simt_task *task)
{
    static uint64_t launches;
    const uint64_t random =
        mix(simt_settings_get()->seed + mix(++launches));
    const simt_dim3 size = grid->cluster_size;
    const simt_dim3 clusters = {grid->grid_size.x / size.x,
                                grid->grid_size.y / size.y,
                                grid->grid_size.z / size.z};
    const unsigned long count = count_of(clusters);
    const unsigned long step = draw_step(count, random);
    unsigned long number = mix(random) % count;
    for (unsigned long i = 0; i < count; i++) {
        const simt_dim3 first = {
            (unsigned)(number % clusters.x) * size.x,
            (unsigned)(number / clusters.x % clusters.y) * size.y,
            (unsigned)(number / clusters.x / clusters.y) * size.z};
        poison(grid, task);
        if (simt_cluster_run(task, first, mix(random + i)) != 0)
            return -1;
        number = (number + step) % count;
    }
    return 0;
}

static int check_memory(void)
{
    const void *base;
    size_t size;
    const void *const damage = simt_memory_damage(&base, &size);
    if (damage == NULL)
        return 0;
    simt_report_damage("wrote to %p, outside of the %zu bytes allocated at %p",
                       damage, size, base);
    return -1;
}

/* What a block of each rank runs, and its dynamic shared memory. */
static CUresult prepare(const simt_grid *grid, simt_task *task)
{
    const size_t size = grid->dynamic_shared > 0 ? grid->dynamic_shared : 1;
    for (unsigned rank = 0; rank < count_of(grid->cluster_size); rank++) {
        simt_copy *const copy = &task->copies[rank];
        if (posix_memalign(&copy->dynamic_shared, SHARED_ALIGNMENT, size) != 0)
            return CUDA_ERROR_OUT_OF_MEMORY;
        const CUresult result = simt_function_copy(grid->function, rank, copy);
        if (result != CUDA_SUCCESS)
            return result;
    }
    if (simt_settings_get()->races) {
        races_watch(task);
        simt_function_watch(grid->function, task);
    }
    return simt_cluster_allocate(task) == 0 ? CUDA_SUCCESS
                                            : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult simt_grid_run(const simt_grid *grid)
{
    guard saved;
    simt_task task = {.args = grid->args,
                      .grid_size = grid->grid_size,
                      .block_size = grid->block_size,
                      .cluster_size = grid->cluster_size,
                      .shared_at = simt_function_shared_at,
                      .user = grid->function,
                      .dynamic_shared = grid->dynamic_shared,
                      .dependent = grid->dependent};
    CUresult result = prepare(grid, &task);
    if (result == CUDA_SUCCESS) {
        running_kernel = grid->function->name;
        stand_guard(&saved);
        int failed = run_clusters(grid, &task);
        stand_down(&saved);
        if (failed == 0)
            failed = check_memory();
        if (failed != 0) {
            simt_report_print(running_kernel, simt_settings_get()->seed);
            result = CUDA_ERROR_LAUNCH_FAILED;
        }
    }
    races_forget();
    for (unsigned rank = 0; rank < SIMT_CLUSTER_MAX; rank++)
        free(task.copies[rank].dynamic_shared);
    return result;
}
