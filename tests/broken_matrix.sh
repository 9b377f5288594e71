#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The numeric suite of the forward pass rejects broken kernels of the matrix
# family.
FLASHEXPERT_FAMILY=matrix
FLASHEXPERT_SIM_ARCH=9.0
# So that up to four blocks share a tile.
FLASHEXPERT_SIM_SMS=8
# No NaN, which would have sums computed anew without what is broken.
FLASHEXPERT_SIM_POISON=68
export FLASHEXPERT_FAMILY FLASHEXPERT_SIM_ARCH FLASHEXPERT_SIM_SMS \
    FLASHEXPERT_SIM_POISON
pass=forward
name=matrix
# shellcheck source=tests/simt/broken.sh
. "${top_srcdir:?set by make check}/tests/simt/broken.sh"

broken matrix_tile.cuh 'stages are overwritten while a warpgroup reads them' \
    '/^    barrier_wait(&tile.multiplied, parity);/d'
broken matrix_tile.cuh 'a stage is released before it was read' \
    's/released = ring.stage;/released = (ring.stage + 1) % STAGES;/'
broken matrix_tile.cuh 'a block sums as if it were the first of its cluster' \
    's/min_of(rank, share.size - 1)/0/'
broken matrix_tile.cuh 'the last block of a cluster does not count' \
    's/if (rank < share.size)/if (rank < share.size - 1)/'
broken matrix_tile.cuh 'a depth that blocks do not share evenly is cut short' \
    's/return (rank + 1) \* depth >> bits;/return (rank + 1) * (depth >> bits);/'

broken matrix_list.cuh 'off by one: the experts of a tile' \
    's/column < most \&\&/column + 1 < most \&\&/'
broken matrix_list.cuh 'slots behind the last are taken' \
    's/(TOP_K % FOUR == 0 || i < left)/true/'
broken matrix_list.cuh 'rows that are not whole are read four at a time' \
    's/(address | stride \* bytes) % min_of(FOUR \* bytes, 16) == 0/true/'
broken matrix_list.cuh 'the room in a list is not looked at' \
    's/if (count > LIST_MAX) {/if (false) {/'
broken matrix_list.cuh 'no meeting before a list is begun anew' \
    '/^            count = 0;/{n;d}'
broken matrix_list.cuh 'repeats are not looked for' \
    's/if (!has_repeats(list, seen))/if (true)/'
broken matrix_list.cuh 'repeats in other lanes do not count' \
    's/list.choices\[before\].weight += weight;/;/'
broken matrix_list.cuh 'weights of lanes that chose alike do not count' \
    's/rest = same \& ~(1u << lane); rest != 0/rest = 0; rest != 0/'
broken matrix_list.cuh 'scores of empty slots are not written' \
    's/if (field.expert == 0)/if (false)/'
broken matrix_list.cuh 'the count of lanes below is one too many' \
    's/return sum - own;/return sum;/'

broken matrix_scores.cu 'rows that lists had no room for are left out' \
    's/if (!has_rest(shared, share))/if (true)/'
broken matrix_scores.cu 'no barrier before rows of P replace scores' \
    '/^    take_scores(args, shared, share, task);/{n;d}'
broken matrix_scores.cu 'no barrier before weights are set' \
    '/^    clear_rows(shared, share);/{n;d}'
broken matrix_scores.cu 'no barrier before rows are stored' \
    '/^    set_weights(shared, share);/{n;d}'
broken matrix_scores.cu 'rows of P keep old scores' \
    '/^    clear_rows(shared, share);/d'
broken matrix_scores.cu 'the second part of a weight is left out' \
    's/if (WEIGHT_PARTS == 2)/if (false)/'
broken matrix_scores.cu 'a repeat has a weight of its own' \
    '/choice.weight \*= silu/,$s/if (is_repeat(choice))/if (false)/'
broken matrix_scores.cu 'copies come before all have read' \
    '/^        publish_shared();/{n;d}'
broken matrix_scores.cu 'the largest weight of a token is not kept' \
    's/atomicMax(&shared.largest\[row\],/atomicMax(\&shared.largest[0],/'

broken matrix_states.cu 'P is not waited for' \
    's/wait_for_primary();/;/'
broken matrix_states.cu 'faint weights are not computed anew' \
    's/up_unfit || shared.faint\[row\]/up_unfit/'
broken matrix_states.cu 'unfit columns of U are not computed anew' \
    's/up_unfit || shared.faint\[row\]/shared.faint[row]/'
broken matrix_states.cu 'sums that are no numbers are stored' \
    's/finite \&= fabsf(sum) <= FLOAT_MAX;/;/'
broken matrix_states.cu 'a block ends while its sums are read' \
    's/if (share.size > 1)/if (false)/'

finish
