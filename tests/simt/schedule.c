/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "resident.h"

resident_cluster resident;

/* ---- Lots --------------------------------------------------------------- */

static unsigned draw(void)
{
    resident.random ^= resident.random << 13;
    resident.random ^= resident.random >> 7;
    resident.random ^= resident.random << 17;
    return (unsigned)(resident.random >> 32);
}

/* A member of a set that is not empty: the first above or below a random one,
 * so that ascending and descending orders occur. */
static unsigned draw_member(unsigned set)
{
    const unsigned lot = draw();
    const unsigned start = lot % 32;
    const unsigned rotated = set >> start | set << (32 - start) % 32;
    const int bit = (lot & 32) != 0 ? __builtin_ctz(rotated)
                                    : 31 - __builtin_clz(rotated);
    return ((unsigned)bit + start) % 32;
}

/* ---- Who is ready ------------------------------------------------------- */

void schedule_ready(resident_block *block, resident_warp *warp, unsigned lanes)
{
    warp->ready |= lanes;
    if (warp->ready == 0)
        return;
    block->ready_warps |= 1u << (warp - block->warps);
    resident.ready_blocks |= 1u << block->rank;
}

void schedule_ready_block(resident_block *block)
{
    for (unsigned w = 0; w < block->warp_count; w++)
        schedule_ready(block, &block->warps[w], block->warps[w].present);
}

void schedule_appoint(resident_thread *thread)
{
    resident_block *const block = thread->block;
    resident_warp *const warp = thread->warp;
    warp->ready &= ~(1u << thread->lane);
    if (warp->ready == 0)
        block->ready_warps &= ~(1u << (warp - block->warps));
    if (block->ready_warps == 0)
        resident.ready_blocks &= ~(1u << block->rank);
    thread->state = READY;
    resident.current = thread;
    resident.runtime.thread_index = thread->index;
    resident.runtime.block_index = block->index;
    resident.runtime.cluster_rank = block->rank;
    resident.runtime.dynamic_shared =
        resident.task->copies[block->rank].dynamic_shared;
}

/* The next thread to run, of the same warp if possible, else of the same
 * block; NULL if nobody is ready. */
static resident_thread *choose(void)
{
    resident_block *block = resident.current->block;
    resident_warp *warp = resident.current->warp;
    if (resident.ready_blocks == 0)
        return NULL;
    if (block->ready_warps == 0)
        block = &resident.blocks[draw_member(resident.ready_blocks)];
    if (warp->ready == 0)
        warp = &block->warps[draw_member(block->ready_warps)];
    return &warp->threads[draw_member(warp->ready)];
}

/* A thread that waits, in the smallest circle there is; NULL if all have
 * exited. */
static resident_thread *find_waiting(void)
{
    resident_thread *found = NULL;
    for (unsigned i = 0; i < resident.thread_count; i++) {
        resident_thread *const thread = &resident.threads[i];
        if (thread->state != EXITED &&
            (found == NULL || thread->state < found->state))
            found = thread;
    }
    return found;
}

/* ---- Switching ---------------------------------------------------------- */

static simt_fiber *fiber_of(const resident_thread *thread)
{
    return &resident.fibers[thread - resident.threads];
}

void schedule_run(void)
{
    /* choose() stays near the current thread. */
    resident.current = &resident.threads[draw() % resident.thread_count];
    schedule_appoint(choose());
    simt_fiber_switch(&resident.host, fiber_of(resident.current));
}

void schedule_wait(enum resident_state state)
{
    resident_thread *const self = resident.current;
    self->state = state;
    resident_thread *next = choose();
    if (next == NULL) {
        resident.stuck = 1;
        next = find_waiting();
    }
    if (next != self) {
        schedule_appoint(next);
        simt_fiber_switch(fiber_of(self), fiber_of(next));
    }
    if (resident.stuck) {
        self->state = state;
        meet_fault();
    }
}

void schedule_yield(void)
{
    resident_thread *const self = resident.current;
    if (resident.ready_blocks == 0)
        return;
    resident_block *const block =
        &resident.blocks[draw_member(resident.ready_blocks)];
    resident_warp *const warp = &block->warps[draw_member(block->ready_warps)];
    resident_thread *const next = &warp->threads[draw_member(warp->ready)];
    schedule_ready(self->block, self->warp, 1u << self->lane);
    schedule_appoint(next);
    simt_fiber_switch(fiber_of(self), fiber_of(next));
    if (resident.stuck)
        simt_cluster_fault("the others wait for a thread that waits itself");
}

void schedule_lend(void)
{
    if (draw() % 8 == 0)
        schedule_yield();
}

void schedule_exit(void)
{
    resident_thread *next = choose();
    if (next == NULL) {
        next = find_waiting();
        resident.stuck = next != NULL;
    }
    if (next == NULL)
        simt_fiber_leave(&resident.host);
    schedule_appoint(next);
    simt_fiber_leave(fiber_of(next));
}
