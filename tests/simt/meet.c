/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include <stdio.h>

#include "races.h"
#include "resident.h"

/* ---- Warps -------------------------------------------------------------- */

/* Whether two lanes' calls are one operation. */
static void check_same(const simt_warp_call *call, const simt_warp_call *other)
{
    if (other->operation != call->operation || other->line != call->line ||
        other->width != call->width)
        simt_cluster_fault(
            "lanes of one warp meet at %s in line %d and %s in line %d",
            simt_warp_name(call->operation), call->line,
            simt_warp_name(other->operation), other->line);
}

/* If all lanes that `call` names and that are left wait with that mask, lets
 * them go on, and returns them, else 0. */
static unsigned complete_warp(resident_warp *warp, const simt_warp_call *call)
{
    const simt_warp_call *calls[SIMT_WARP_SIZE] = {NULL};
    uint64_t results[SIMT_WARP_SIZE];
    const unsigned lanes = call->mask & warp->present;
    unsigned missing;
    if ((warp->waiting & lanes) != lanes)
        return 0;
    for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
        const unsigned lane = (unsigned)__builtin_ctz(rest);
        calls[lane] = warp->threads[lane].call;
        if (calls[lane]->mask != call->mask)
            return 0;
    }
    for (unsigned rest = lanes; rest != 0; rest &= rest - 1)
        check_same(call, calls[__builtin_ctz(rest)]);
    const int reader = simt_warp_compute(calls, lanes, results, &missing);
    if (reader >= 0)
        simt_cluster_fault(
            "%s in line %d: lane %d reads lane %u, which takes no part (mask "
            "0x%08x, lanes there 0x%08x)",
            simt_warp_name(call->operation), call->line, reader, missing,
            call->mask, lanes);
    for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
        const unsigned lane = (unsigned)__builtin_ctz(rest);
        warp->threads[lane].result = results[lane];
    }
    warp->waiting &= ~lanes;
    if (call->operation == SIMT_WARP_SYNC)
        races_meet_warp(warp);
    return lanes;
}

uint64_t meet_warp(const simt_warp_call *call)
{
    resident_thread *const self = resident.current;
    resident_warp *const warp = self->warp;
    const unsigned bit = 1u << self->lane;
    if ((call->mask & bit) == 0)
        simt_cluster_fault(
            "%s in line %d: lane %u is not in its own mask 0x%08x",
            simt_warp_name(call->operation), call->line, self->lane,
            call->mask);
    if (call->width == 0 || call->width > SIMT_WARP_SIZE ||
        (call->width & (call->width - 1)) != 0)
        simt_cluster_fault(
            "%s in line %d: width %u is no power of two up to 32",
            simt_warp_name(call->operation), call->line, call->width);
    self->call = call;
    warp->waiting |= bit;
    const unsigned lanes = complete_warp(warp, call);
    if (lanes != 0)
        schedule_ready(self->block, warp, lanes & ~bit);
    else
        schedule_wait(AT_WARP);
    return self->result;
}

void meet_without(resident_thread *thread)
{
    resident_warp *const warp = thread->warp;
    for (unsigned rest = warp->waiting; rest != 0; rest &= rest - 1) {
        const unsigned lane = (unsigned)__builtin_ctz(rest);
        if ((warp->waiting >> lane & 1) != 0)
            schedule_ready(thread->block, warp,
                           complete_warp(warp, warp->threads[lane].call));
    }
}

/* ---- Blocks and clusters ------------------------------------------------ */

/* Counts the running thread in. Returns whether it is the last of `expected`. */
static int arrive(resident_meeting *meeting, unsigned expected,
                  enum simt_block_operation operation, int line)
{
    resident.current->line = line;
    if (meeting->count == 0) {
        meeting->operation = operation;
        meeting->line = line;
    } else if (meeting->operation != operation || meeting->line != line) {
        simt_cluster_fault(
            "threads meet at two barriers, in line %d and in line %d", line,
            meeting->line);
    }
    if (++meeting->count < expected)
        return 0;
    meeting->count = 0;
    return 1;
}

/* What the operation of a complete meeting gives all threads. */
static int result_of(const resident_block *block)
{
    unsigned count = 0;
    for (unsigned i = 0; i < resident.block_threads; i++)
        count += block->threads[i].predicate != 0;
    switch (block->meeting.operation) {
    case SIMT_BLOCK_COUNT:
        return (int)count;
    case SIMT_BLOCK_AND:
        return count == resident.block_threads;
    case SIMT_BLOCK_OR:
        return count != 0;
    default:
        return 0;
    }
}

int meet_block(enum simt_block_operation operation, int predicate, int line)
{
    resident_thread *const self = resident.current;
    resident_block *const block = self->block;
    self->predicate = predicate;
    if (arrive(&block->meeting, resident.block_threads, operation, line)) {
        block->meeting.result = result_of(block);
        races_meet_block(block);
        schedule_ready_block(block);
        schedule_appoint(self);
    } else {
        schedule_wait(AT_BLOCK);
    }
    return block->meeting.result;
}

void meet_cluster(int line)
{
    resident_thread *const self = resident.current;
    if (arrive(&resident.meeting, resident.thread_count, SIMT_BLOCK_SYNC,
               line)) {
        races_meet_cluster();
        for (unsigned b = 0; b < resident.block_count; b++)
            schedule_ready_block(&resident.blocks[b]);
        schedule_appoint(self);
    } else {
        schedule_wait(AT_CLUSTER);
    }
}

/* ---- Waiting in vain ---------------------------------------------------- */

/* What keeps a thread from coming. */
static void describe(const resident_thread *thread, char *text, size_t size)
{
    const simt_dim3 b = thread->block->index;
    const simt_dim3 t = thread->index;
    const int used =
        snprintf(text, size, "thread (%u,%u,%u) of block (%u,%u,%u) ", t.x, t.y,
                 t.z, b.x, b.y, b.z);
    text += used;
    size -= (size_t)used;
    switch (thread->state) {
    case EXITED:
        snprintf(text, size, "has exited");
        break;
    case AT_WARP:
        snprintf(text, size, "waits at %s in line %d, mask 0x%08x",
                 simt_warp_name(thread->call->operation), thread->call->line,
                 thread->call->mask);
        break;
    default:
        snprintf(text, size, "waits at the %s's barrier in line %d",
                 thread->state == AT_BLOCK ? "block" : "cluster",
                 thread->line);
    }
}

static void fault_at_warp(const resident_thread *self)
{
    const simt_warp_call *const call = self->call;
    char other[200];
    for (unsigned lane = 0; lane < SIMT_WARP_SIZE; lane++) {
        const resident_thread *const thread = &self->warp->threads[lane];
        if (((call->mask & self->warp->present) >> lane & 1) == 0 ||
            (thread->state == AT_WARP && thread->call->mask == call->mask))
            continue;
        describe(thread, other, sizeof other);
        simt_cluster_fault(
            "%s in line %d, mask 0x%08x, is never reached by lane %u: %s",
            simt_warp_name(call->operation), call->line, call->mask, lane,
            other);
    }
}

void meet_fault(void)
{
    const resident_thread *const self = resident.current;
    char other[200];
    resident.stuck = 0;
    if (self->state == AT_WARP)
        fault_at_warp(self);
    for (unsigned i = 0; i < resident.thread_count; i++) {
        const resident_thread *const thread = &resident.threads[i];
        if (thread->state == self->state ||
            (self->state == AT_BLOCK && thread->block != self->block))
            continue;
        describe(thread, other, sizeof other);
        simt_cluster_fault("the %s's barrier in line %d is not reached by all "
                           "threads: %s",
                           self->state == AT_BLOCK ? "block" : "cluster",
                           self->line, other);
    }
    simt_cluster_fault("the block waits for nobody");
}
