/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include <stdarg.h>
#include <time.h>

#include "races.h"
#include "report.h"
#include "resident.h"

/* Far more looks in vain than a cluster's threads take turns. */
#define LOOKS_MAX 10000000

static __thread int running;

static unsigned count_of(simt_dim3 size)
{
    return size.x * size.y * size.z;
}

/* The place of a number in a box, x first. */
static simt_dim3 place_of(unsigned number, simt_dim3 size)
{
    return (simt_dim3){number % size.x, number / size.x % size.y,
                       number / size.x / size.y};
}

/* ---- What kernels call -------------------------------------------------- */

void simt_cluster_fault(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    simt_report_fault(resident.runtime.block_index,
                      resident.runtime.thread_index, format, args);
    va_end(args);
    resident.failed = 1;
    simt_fiber_leave(&resident.host);
}

/* How many bytes of this block's shared memory there are from an address on;
 * *base is what the other block's counterpart is told from. */
static size_t shared_from(const char *address, const simt_copy *own)
{
    const simt_task *const task = resident.task;
    const char *const dynamic = own->dynamic_shared;
    if (address >= dynamic && address < dynamic + task->dynamic_shared)
        return (size_t)(dynamic + task->dynamic_shared - address);
    return address >= own->base
               ? task->shared_at(task->user, (size_t)(address - own->base))
               : 0;
}

static void *find_remote(const void *pointer, size_t size, unsigned rank,
                         int line)
{
    const simt_copy *const own =
        &resident.task->copies[resident.runtime.cluster_rank];
    const char *const address = pointer;
    if (rank >= resident.block_count)
        simt_cluster_fault("rank %u in line %d, of a cluster of %u blocks",
                           rank, line, resident.block_count);
    if (shared_from(address, own) < size)
        simt_cluster_fault("%zu bytes at %p in line %d are not in shared memory",
                           size, pointer, line);
    if (resident.blocks[rank].present == 0)
        simt_cluster_fault("the block of rank %u has ended before its shared "
                           "memory is used in line %d",
                           rank, line);
    const simt_copy *const other = &resident.task->copies[rank];
    const char *const dynamic = own->dynamic_shared;
    if (address >= dynamic &&
        address < dynamic + resident.task->dynamic_shared)
        return (char *)other->dynamic_shared + (address - dynamic);
    return other->base + (address - own->base);
}

/* Launches never overlap here; but where they do, one whose blocks have not all
 * waited may end before the one ahead of it. */
static void wait_for_primary(void)
{
    resident.current->block->waited = 1;
}

static void look_again(int line)
{
    if (resident.runtime.events != resident.looked_at) {
        resident.looked_at = resident.runtime.events;
        resident.looks = 0;
    }
    if (++resident.looks > LOOKS_MAX)
        simt_cluster_fault("what line %d waits for never comes", line);
    schedule_yield();
}

static uint64_t read_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

simt_runtime *simt_cluster_runtime(void)
{
    resident.runtime.warp = meet_warp;
    resident.runtime.block = meet_block;
    resident.runtime.cluster = meet_cluster;
    resident.runtime.remote = find_remote;
    resident.runtime.look_again = look_again;
    resident.runtime.lend_turn = schedule_lend;
    resident.runtime.primary = wait_for_primary;
    resident.runtime.clock = read_clock;
    resident.runtime.access = races_access;
    resident.runtime.tell = races_tell;
    resident.runtime.learn = races_learn;
    resident.runtime.lanes_met = races_lanes_met;
    resident.runtime.fault = simt_cluster_fault;
    return &resident.runtime;
}

/* ---- The life of a thread ----------------------------------------------- */

static void live(void)
{
    resident_thread *const self = resident.current;
    resident.task->copies[self->block->rank].kernel->run(resident.task->args);
    self->state = EXITED;
    self->warp->present &= ~(1u << self->lane);
    self->block->present--;
    if (self->block->present == 0 && resident.task->dependent &&
        !self->block->waited)
        simt_cluster_fault("the block ends and has not waited for the launch "
                           "ahead");
    meet_without(self);
    schedule_exit();
}

static void start_thread(resident_block *block, unsigned number)
{
    resident_thread *const thread = &block->threads[number];
    *thread = (resident_thread){
        .state = READY,
        .lane = number % SIMT_WARP_SIZE,
        .index = place_of(number, resident.task->block_size),
        .block = block,
        .warp = &block->warps[number / SIMT_WARP_SIZE]};
    simt_fiber_start(&resident.fibers[thread - resident.threads], live);
}

static void start_block(resident_block *block, unsigned rank, simt_dim3 first)
{
    const simt_dim3 place = place_of(rank, resident.task->cluster_size);
    const unsigned threads = resident.block_threads;
    const unsigned warps = (threads + SIMT_WARP_SIZE - 1) / SIMT_WARP_SIZE;
    *block = (resident_block){
        .index = {first.x + place.x, first.y + place.y, first.z + place.z},
        .rank = rank,
        .threads = resident.threads + rank * threads,
        .warps = resident.warps + rank * warps,
        .warp_count = warps,
        .present = threads};
    for (unsigned w = 0; w < warps; w++) {
        const unsigned lanes = threads - w * SIMT_WARP_SIZE;
        block->warps[w] = (resident_warp){
            .threads = block->threads + w * SIMT_WARP_SIZE,
            .present = lanes < SIMT_WARP_SIZE ? (1u << lanes) - 1 : ~0u};
    }
    for (unsigned i = 0; i < threads; i++)
        start_thread(block, i);
    schedule_ready_block(block);
}

/* ---- The cluster -------------------------------------------------------- */

int simt_cluster_allocate(const simt_task *task)
{
    return simt_fiber_allocate(
        resident.fibers, (size_t)count_of(task->cluster_size) *
                             count_of(task->block_size));
}

int simt_cluster_running(void)
{
    return running;
}

int simt_cluster_run(const simt_task *task, simt_dim3 first, uint64_t random)
{
    resident.task = task;
    resident.block_count = count_of(task->cluster_size);
    resident.block_threads = count_of(task->block_size);
    resident.thread_count = resident.block_count * resident.block_threads;
    resident.runtime.block_size = task->block_size;
    resident.runtime.grid_size = task->grid_size;
    resident.runtime.cluster_size = resident.block_count;
    resident.ready_blocks = 0;
    resident.meeting = (resident_meeting){0};
    resident.random = random | 1;
    resident.stuck = 0;
    resident.failed = 0;
    resident.runtime.atomic = 0;
    races_start();
    for (unsigned rank = 0; rank < resident.block_count; rank++)
        start_block(&resident.blocks[rank], rank, first);
    running = 1;
    schedule_run();
    running = 0;
    return resident.failed ? -1 : 0;
}
