#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The numeric suite of the forward pass rejects broken kernels of the matrix
# family.
FLASHEXPERT_FAMILY=matrix
FLASHEXPERT_SIM_ARCH=9.0
# So that there are more tiles than blocks, and tiles of every width.
FLASHEXPERT_SIM_SMS=8
# No NaN in shared memory, which would have sums computed anew without what is
# broken.
FLASHEXPERT_SIM_POISON=68
export FLASHEXPERT_FAMILY FLASHEXPERT_SIM_ARCH FLASHEXPERT_SIM_SMS \
    FLASHEXPERT_SIM_POISON
pass=forward
name=matrix
# shellcheck source=tests/simt/broken.sh
. "${top_srcdir:?set by make check}/tests/simt/broken.sh"

broken matrix_tile.cuh 'stages are copied over while they are read' \
    '/^    barrier_wait(&ring.empty\[at.stage\], at.parity ^ 1);/d'
broken matrix_tile.cuh 'a stage is released while its product runs' \
    's/product_wait<1>();/product_wait<2>();/'
broken matrix_tile.cuh 'a stage is not waited for the second time' \
    's/\(barrier_wait(&ring.full\[at.stage\]\), at.parity);/\1, 0);/'
broken matrix_tile.cuh 'a block takes one tile only' \
    's/tile += static_cast<int>(gridDim.x))/tile += tiles)/'

broken matrix_lists.cu 'no barrier before choices are counted' \
    '/^ *static_cast<int>(threadIdx.x) \/ TOKEN_THREADS);/{n;d}'
broken matrix_lists.cu 'no barrier before counts are added up' \
    '/^        count_repeats(shared/{n;d}'
broken matrix_lists.cu 'no barrier before starts are read' \
    '/^    add_up(shared);/{n;d}'
broken matrix_lists.cu 'repeats of a warp are listed in the same place' \
    's/__popc(all & lanes_below(lane)));/0);/'
broken matrix_lists.cu 'repeats of all rounds are listed in the same place' \
    's/before += __popc(all);/;/'
broken matrix_lists.cu 'repeats are listed over the others' \
    's/repeat ? shared.count : /repeat ? 0 : /'
broken matrix_lists.cu 'scores of empty slots are not written' \
    's/scores\[j \* TOKEN_THREADS\] = 0.0f;/;/'
broken matrix_lists.cu 'tokens behind the last have choices' \
    's/token < args.choices.num_tokens ? TOP_K : 0/TOP_K/'

broken matrix_repeats.cuh 'no meeting before marks are read' \
    '/^            atomicOr(&marks.again/{n;d}'
broken matrix_repeats.cuh 'no meeting before keys are read' \
    '/^        merge.firsts\[i\] = NO_KEY;/{n;d}'
broken matrix_repeats.cuh 'keys of the warps before do not count' \
    's/before += i < warp_of_token() ? keys : 0;/;/'
broken matrix_repeats.cuh 'sums of later keys do not count' \
    's/merge.weights\[first\] += sum;/;/'
broken matrix_repeats.cuh 'repeats do not know the slot of the first' \
    's/merge.weights\[slot\] = __uint_as_float(first);/;/'
broken matrix_repeats.cuh 'a table of firsts is used that was not cleared' \
    's/WARP_KEYS < count/WARP_KEYS <= count/'
broken matrix_repeats.cuh 'the rest of a queue is left out' \
    's/static_cast<int>(lane) < queued, true);/false, true);/'

broken matrix_group.cuh 'half the columns of a tile' \
    's/(FEX_MATRIX_ACROSS - 1u)/(FEX_MATRIX_ACROSS \/ 2 - 1u)/'

broken matrix_listed.cuh 'all groups have the rows of the first' \
    's/% 32 \/ LANES \* GROUP;/* 0;/'

broken matrix_scores.cu 'lists are not waited for' \
    's/wait_for_primary();/;/'
broken matrix_clearing.cuh 'P is not cleared to the end' \
    's/left = count_of(args.num_tokens - token);/left = COUNT - 1;/'
broken matrix_clearing.cuh 'the second part of P is not cleared' \
    's/j < WEIGHT_PARTS; ++j/j < 1; ++j/'
broken matrix_scores.cu 'no meeting before scores are taken' \
    '/zeros are there before weights, too/d'
broken matrix_scores.cu 'no meeting before the next piece' \
    '/^        finish_rest(finish, piece/{n;d}'
broken matrix_scores.cu 'the second part of a weight is left out' \
    's/if (WEIGHT_PARTS == 2)/if (false)/'
broken matrix_scores.cu 'choices beyond those ahead are left out' \
    's/^        finish_rest(finish, piece, block);/        ;/'
broken matrix_scores.cu 'a block of experts that is not whole is left out' \
    's/\(expert + i \* COLUMNS\) < args/\1 + 63 < args/'

broken matrix_states.cu 'repeats have no scores' \
    's/warp == COMPUTE_WARPS \&\& args.scores != nullptr/false/'
broken matrix_states.cu 'all ranges are of the first experts' \
    's/range, range \* each, min_of/range, 0, min_of/'
broken matrix_states.cu 'the second part of P is left out' \
    's/part < WEIGHT_PARTS/part < 1/;s/WEIGHT_PARTS \* task.count/task.count/'
broken matrix_columns.cuh 'a stage is not waited for the second time' \
    's/\(barrier_wait(&ring.full\[at.stage\]\), at.parity);/\1, 0);/'
broken matrix_columns.cuh 'a stage is released while its product runs' \
    's/product_wait<1>();/product_wait<2>();/'
broken matrix_columns.cuh 'a stage that is left is not multiplied' \
    's/^    if (i < stages)/    if (false)/'
broken matrix_columns.cuh 'U is not scaled' \
    's/times_halves(word, ROW_SCALE_PAIR)/times_halves(word, 0x3f803f80u)/'

broken matrix_finish.cuh 'no meeting before states are taken' \
    '/^        put(piece, words);/{n;d}'
broken matrix_finish.cuh 'no meeting before the next piece' \
    '/^        __syncwarp();/{N;/return unfit;/s/.*\n//;}'
broken matrix_finish.cuh 'lanes take the same column of pairs' \
    's/^                threadIdx.x % 2 == 0/                true/'
broken matrix_finish.cuh 'columns behind the last are stored' \
    's/token >= count || column >= HIDDEN_SIZE/token >= count/'

broken matrix_sum.cu 'sums over ranges are not waited for' \
    's/wait_for_primary();/;/'
broken matrix_sum.cu 'the last range is left out' \
    's/range < args.ranges;/range < args.ranges - 1;/'

# What is no good in f16 is in one group of tests, which is far behind.
CK_RUN_CASE=numbers
export CK_RUN_CASE
broken matrix_lists.cu 'levels are not cleared' \
    's/args.levels\[token\] = 0;/;/'
broken matrix_scores.cu 'faint rows are not told' \
    's/magnitude >= LARGEST_MIN/magnitude > 0.0f/'
broken matrix_scores.cu 'what choices weigh is not listed' \
    's/store_choice(listed.list + k, place, weight);/;/'
broken matrix_columns.cuh 'U is good whatever it is' \
    's/enough || none ? UNSCALE/true ? UNSCALE/'
broken matrix_finish.cuh 'faint tokens are not computed anew' \
    's/(faint\[i \/ 2\] >> token % 32 & 1u) != 0 || //'
broken matrix_finish.cuh 'sums that are no numbers are stored' \
    's/ || is_unfit(own))/)/'
broken matrix_finish.cuh 'one token of many is computed anew' \
    's/lanes &= ~(3u << first);/lanes = 0;/'
broken matrix_plain.cuh 'no meeting before weights are read' \
    '/^    __syncwarp();/d'
broken matrix_plain.cuh 'a slot of each lane counts' \
    's/k < TOP_K; k += 32/k < min_of(TOP_K, 32); k += 32/'
broken matrix_plain.cuh 'repeats count' \
    's/ || __float_as_uint(weights\[k\]) == REPEAT)/)/'

finish
