/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include <stdlib.h>
#include <string.h>

#include "races.h"

#define RANGES_MAX 256u
#define WARPS_MAX (SIMT_CLUSTER_MAX * SIMT_BLOCK_MAX / SIMT_WARP_SIZE)
#define BARRIERS_MAX 64u
#define ACCESS_MAX 16u /* bytes of one access, but for copies */

/* Reads of one warp since its lanes last met. */
typedef struct reads {
    uint64_t time; /* of the last */
    const resident_warp *warp;
    unsigned lanes;
} reads;

/* What is known of a byte: its last write, and who has read it since, of which
 * two warps are remembered. Times are numbers of meetings. */
typedef struct byte {
    uint64_t written;
    const resident_thread *writer;
    int atomically;
    int by_several; /* unordered updates by others too */
    reads reads[2];
} byte;

typedef struct range {
    uintptr_t first;
    size_t size;
    byte *bytes;
} range;

/* Until when each warp's accesses are known. */
typedef struct knowledge {
    uint64_t until[WARPS_MAX];
} knowledge;

typedef struct told {
    const void *barrier;
    knowledge knowledge;
} told;

static range ranges[RANGES_MAX];
static unsigned range_count;
static uint64_t now;
static knowledge learned[WARPS_MAX]; /* by a warp, from barriers in memory */
static told barriers[BARRIERS_MAX];
static unsigned barrier_count;

/* Two threads may write the same value: whether they did is seen at the next
 * access, for accesses are told of before they happen. */
static struct {
    const resident_thread *first; /* NULL: nothing to look at */
    const void *address;
    size_t size;
    char value[ACCESS_MAX]; /* before the second */
} twice;

/* ---- What is watched ---------------------------------------------------- */

static void watch(const void *address, size_t size)
{
    byte *const bytes = calloc(size, sizeof *bytes);
    if (bytes == NULL || range_count == RANGES_MAX) {
        free(bytes);
        return;
    }
    ranges[range_count++] = (range){(uintptr_t)address, size, bytes};
}

static unsigned blocks_of(const simt_task *task)
{
    return task->cluster_size.x * task->cluster_size.y * task->cluster_size.z;
}

void races_watch(const simt_task *task)
{
    for (unsigned rank = 0; rank < blocks_of(task); rank++)
        watch(task->copies[rank].dynamic_shared, task->dynamic_shared);
}

void races_watch_static(const simt_task *task, size_t offset, size_t size)
{
    for (unsigned rank = 0; rank < blocks_of(task); rank++)
        watch(task->copies[rank].base + offset, size);
}

void races_forget(void)
{
    while (range_count > 0)
        free(ranges[--range_count].bytes);
}

static const range *find(uintptr_t address)
{
    for (const range *r = ranges; r < ranges + range_count; r++)
        if (address - r->first < r->size)
            return r;
    return NULL;
}

/* ---- Meetings ----------------------------------------------------------- */

void races_start(void)
{
    const size_t warps = resident.thread_count / SIMT_WARP_SIZE + 1;
    memset(learned, 0, warps * sizeof *learned);
    barrier_count = 0;
    twice.first = NULL;
    races_meet_cluster();
}

void races_meet_warp(resident_warp *warp)
{
    warp->met = ++now;
}

void races_meet_block(resident_block *block)
{
    block->met = ++now;
}

void races_meet_cluster(void)
{
    resident.met = ++now;
}

static void merge(knowledge *into, const knowledge *from)
{
    for (unsigned w = 0; w < resident.block_threads / SIMT_WARP_SIZE; w++)
        if (into->until[w] < from->until[w])
            into->until[w] = from->until[w];
}

static unsigned number_of(const resident_warp *warp)
{
    return (unsigned)(warp - warp->threads->block->warps);
}

static knowledge *own_knowledge(void)
{
    return &learned[resident.current->warp - resident.warps];
}

static told *find_told(const void *barrier)
{
    for (told *t = barriers; t < barriers + barrier_count; t++)
        if (t->barrier == barrier)
            return t;
    if (barrier_count == BARRIERS_MAX)
        simt_cluster_fault("more barriers than races.c keeps");
    told *const made = &barriers[barrier_count++];
    *made = (told){.barrier = barrier};
    return made;
}

void races_tell(const void *barrier, int at_once)
{
    const resident_warp *const warp = resident.current->warp;
    if (range_count == 0)
        return;
    told *const t = find_told(barrier);
    merge(&t->knowledge, own_knowledge());
    uint64_t *const until = &t->knowledge.until[number_of(warp)];
    const uint64_t time = at_once ? ++now : warp->met;
    if (*until < time)
        *until = time;
}

void races_learn(const void *barrier)
{
    if (range_count > 0)
        merge(own_knowledge(), &find_told(barrier)->knowledge);
}

void races_lanes_met(void)
{
    races_meet_warp(resident.current->warp);
}

/* Whether all threads of a warp's block, or of the cluster if the running one
 * is of another block, have met since that time, or the running thread's warp
 * knows what the other did until then. */
static int have_met(const resident_warp *warp, uint64_t time)
{
    const resident_block *const own = resident.current->block;
    const resident_block *const block = warp->threads->block;
    return resident.met > time ||
           (block == own && (block->met > time ||
                             own_knowledge()->until[number_of(warp)] > time));
}

/* ---- Accesses ----------------------------------------------------------- */

static void report(uintptr_t address, const char *what, const char *before,
                   const resident_thread *other)
{
    const simt_dim3 b = other->block->index;
    const simt_dim3 t = other->index;
    simt_cluster_fault("a race: %s shared memory at %p, which thread "
                       "(%u,%u,%u) of block (%u,%u,%u) %s, and they have not "
                       "met since",
                       what, (void *)address, t.x, t.y, t.z, b.x, b.y, b.z,
                       before);
}

static const char *name_of(enum simt_touch touch)
{
    return touch == SIMT_READ ? "reads" : "writes";
}

static void check_twice(void)
{
    const resident_thread *const first = twice.first;
    twice.first = NULL;
    if (first != NULL && memcmp(twice.address, twice.value, twice.size) != 0)
        report((uintptr_t)twice.address,
               "another value was written just before to", "wrote", first);
}

/* Whether the running thread knows of the last write. */
static int is_after_write(const byte *b)
{
    const resident_thread *const self = resident.current;
    return b->writer == NULL || (b->writer == self && !b->by_several) ||
           have_met(b->writer->warp, b->written) ||
           (b->writer->warp == self->warp && self->warp->met > b->written);
}

static void check_write_before(const byte *b, uintptr_t address,
                               enum simt_touch touch)
{
    if (is_after_write(b) || (b->atomically && touch == SIMT_UPDATE))
        return;
    if (touch != SIMT_WRITE || b->atomically)
        report(address, name_of(touch), "wrote", b->writer);
    twice.first = b->writer;
}

static void check_reads_before(const byte *b, uintptr_t address,
                               enum simt_touch touch)
{
    const resident_thread *const self = resident.current;
    for (const reads *r = b->reads; r < b->reads + 2; r++) {
        if (r->warp == NULL || have_met(r->warp, r->time))
            continue;
        unsigned lanes = r->lanes;
        if (r->warp == self->warp)
            lanes = self->warp->met > r->time ? 0 : lanes & ~(1u << self->lane);
        if (lanes != 0)
            report(address, name_of(touch), "has read",
                   &r->warp->threads[__builtin_ctz(lanes)]);
    }
}

static void note_read(byte *b)
{
    const resident_thread *const self = resident.current;
    if (b->reads[0].warp != self->warp) {
        const reads older = b->reads[0];
        b->reads[0] = b->reads[1].warp == self->warp ? b->reads[1]
                                                     : (reads){.warp = NULL};
        b->reads[1] = older;
    }
    reads *const own = &b->reads[0];
    if (own->warp == NULL || self->warp->met > own->time ||
        have_met(self->warp, own->time))
        own->lanes = 0;
    *own = (reads){now, self->warp, own->lanes | 1u << self->lane};
}

void races_access(const void *address, size_t size, enum simt_touch touch)
{
    const uintptr_t first = (uintptr_t)address;
    check_twice();
    const range *const r = find(first);
    if (r == NULL)
        return;
    const uintptr_t end = first + size < r->first + r->size
                              ? first + size
                              : r->first + r->size;
    for (uintptr_t at = first; at < end; at++) {
        byte *const b = &r->bytes[at - r->first];
        check_write_before(b, at, touch);
        if (touch == SIMT_READ) {
            note_read(b);
            continue;
        }
        check_reads_before(b, at, touch);
        b->by_several = touch == SIMT_UPDATE && !is_after_write(b);
        b->written = now;
        b->writer = resident.current;
        b->atomically = touch == SIMT_UPDATE;
    }
    if (twice.first != NULL) {
        twice.address = address;
        twice.size = size < ACCESS_MAX ? size : ACCESS_MAX;
        memcpy(twice.value, address, twice.size);
    }
}
