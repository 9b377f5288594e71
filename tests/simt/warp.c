/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "warp.h"

static const char *const names[] = {
    [SIMT_WARP_SYNC] = "__syncwarp",
    [SIMT_WARP_ALL] = "__all_sync",
    [SIMT_WARP_ANY] = "__any_sync",
    [SIMT_WARP_BALLOT] = "__ballot_sync",
    [SIMT_WARP_SHUFFLE] = "__shfl_sync",
    [SIMT_WARP_SHUFFLE_UP] = "__shfl_up_sync",
    [SIMT_WARP_SHUFFLE_DOWN] = "__shfl_down_sync",
    [SIMT_WARP_SHUFFLE_XOR] = "__shfl_xor_sync",
    [SIMT_WARP_MATCH_ANY] = "__match_any_sync",
};

const char *simt_warp_name(enum simt_warp_operation operation)
{
    return names[operation];
}

/* The lane that `lane` reads: its own where the operand leads out of its
 * segment of `width` lanes. */
static unsigned source_of(const simt_warp_call *call, unsigned lane)
{
    const unsigned width = call->width;
    const unsigned first = lane / width * width;
    unsigned source = lane;
    switch (call->operation) {
    case SIMT_WARP_SHUFFLE:
        return first + call->operand % width;
    case SIMT_WARP_SHUFFLE_UP:
        source = lane - call->operand;
        break;
    case SIMT_WARP_SHUFFLE_DOWN:
        source = lane + call->operand;
        break;
    default:
        source = lane ^ call->operand;
        /* As the hardware: only what lies beyond the segment is refused. */
        return source < first + width ? source : lane;
    }
    return source >= first && source < first + width ? source : lane;
}

static unsigned lanes_with(const simt_warp_call *const *calls, unsigned lanes,
                           uint64_t value)
{
    unsigned equal = 0;
    for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
        const unsigned lane = (unsigned)__builtin_ctz(rest);
        if (calls[lane]->value == value)
            equal |= 1u << lane;
    }
    return equal;
}

int simt_warp_compute(const simt_warp_call *const calls[SIMT_WARP_SIZE],
                      unsigned lanes, uint64_t results[SIMT_WARP_SIZE],
                      unsigned *missing)
{
    const enum simt_warp_operation operation =
        calls[__builtin_ctz(lanes)]->operation;
    const unsigned ballot =
        operation == SIMT_WARP_ALL || operation == SIMT_WARP_ANY ||
                operation == SIMT_WARP_BALLOT
            ? lanes_with(calls, lanes, 1)
            : 0;
    for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
        const unsigned lane = (unsigned)__builtin_ctz(rest);
        switch (operation) {
        case SIMT_WARP_SYNC:
            results[lane] = 0;
            break;
        case SIMT_WARP_ALL:
            results[lane] = ballot == lanes;
            break;
        case SIMT_WARP_ANY:
            results[lane] = ballot != 0;
            break;
        case SIMT_WARP_BALLOT:
            results[lane] = ballot;
            break;
        case SIMT_WARP_MATCH_ANY:
            results[lane] = lanes_with(calls, lanes, calls[lane]->value);
            break;
        default: {
            const unsigned source = source_of(calls[lane], lane);
            if ((lanes >> source & 1) == 0) {
                *missing = source;
                return (int)lane;
            }
            results[lane] = calls[source]->value;
        }
        }
    }
    return -1;
}
