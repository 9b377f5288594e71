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
broken matrix_tile.cuh 'the last warp to read a stage is not waited for' \
    's/\(&ring.empty\[i\], COMPUTE_WARPS\));/\1 - 1);/'
broken matrix_tile.cuh 'a stage is not waited for the second time' \
    's/\(barrier_wait(&ring.full\[at.stage\]\), at.parity);/\1, 0);/'
broken matrix_tile.cuh 'the last rows of a ragged tile are left out' \
    's/(own - first_row() + STEP - 1)/(own - first_row())/'
broken matrix_tile.cuh 'rows behind the last token are written' \
    's/rows < ROWS ? rows : ROWS/ROWS/'

broken matrix_lists.cu 'no barrier before choices are counted' \
    '/^    Slots slots = load_slots/{n;d}'
broken matrix_lists.cu 'no barrier before counts are added up' \
    '/^    count_choices(shared/{n;d}'
broken matrix_lists.cu 'no barrier before starts are read' \
    '/^    store_starts(shared/{n;d}'
broken matrix_lists.cu 'no barrier before the list is stored' \
    '/^    list_choices(shared/{n;d}'
broken matrix_lists.cu 'scores of empty slots are not written' \
    's/scores\[j \* 32\] = 0.0f;/;/'
broken matrix_lists.cu 'the last of an odd number of choices is not stored' \
    's/if (count % 2 != 0 \&\& threadIdx.x == 0)/if (false)/'
broken matrix_lists.cu 'tokens behind the last have choices' \
    's/token < args.choices.num_tokens ? TOP_K : 0/TOP_K/'

broken matrix_repeats.cuh 'no meeting before marks are read' \
    '/^            atomicOr(&marks.again/{n;d}'
broken matrix_repeats.cuh 'no meeting before marks are no more' \
    '/marks are no more/d'
broken matrix_repeats.cuh 'no meeting before keys are read' \
    '/^        merge.firsts\[i\] = NO_KEY;/{n;d}'
broken matrix_repeats.cuh 'no meeting after 32 keys' \
    '/^        merge_key(merge, first + lane, count);/{n;d}'
broken matrix_repeats.cuh 'sums of later keys do not count' \
    's/merge.weights\[first & 0xffffu\] += sum;/;/'

broken matrix_group.cuh 'half the columns of a block' \
    's/(FEX_MATRIX_BLOCK - 1u)/(FEX_MATRIX_BLOCK \/ 2 - 1u)/'
broken matrix_listed.cuh 'a piece ends where its repeats begin' \
    's/return begin(piece + 1);/return repeats(piece);/'

broken matrix_halves.cuh 'largest numbers come before they are cleared' \
    's/wait_for_primary();/;/'
broken matrix_halves.cuh 'U is not scaled' \
    's/times_halves(word, ROW_SCALE_PAIR)/times_halves(word, 0x3f803f80u)/'

broken matrix_scores.cu 'lists are not waited for' \
    's/wait_for_primary();/;/'
broken matrix_scores.cu 'P is not cleared to the end' \
    's/left = Own::count_of(args.num_tokens - token);/left = Own::COUNT - 1;/'
broken matrix_scores.cu 'the second part of P is not cleared' \
    's/j < WEIGHT_PARTS; ++j/j < 1; ++j/'
broken matrix_tile.cuh 'a block takes one tile only' \
    's/tile += static_cast<int>(gridDim.x))/tile += tiles)/'
broken matrix_scores.cu 'no meeting before scores are taken' \
    '/zeros are there before weights, too/d'
broken matrix_scores.cu 'no meeting before the next piece' \
    '/^        take_scores(args, piece/{n;d}'
broken matrix_scores.cu 'the second part of a weight is left out' \
    's/if (WEIGHT_PARTS == 2)/if (false)/'
broken matrix_scores.cu 'repeats have weights of their own' \
    's/expert, k < repeats);/expert, true);/'
broken matrix_scores.cu 'choices beyond the first batch are left out' \
    's/while (k < end) {/if (k < end) {/'
broken matrix_scores.cu 'a block of experts that is not whole is left out' \
    's/\(expert + i \* COLUMNS\) < args/\1 + 63 < args/'

broken matrix_states.cu 'P is not waited for' \
    's/wait_for_primary();/;/'
broken matrix_states.cu 'no meeting before states are stored' \
    '/^            \*piece.pair_at(row, column) =/{n;n;d}'
broken matrix_states.cu 'no meeting before the next piece' \
    '/^            unfit |= store_piece/{n;d}'
broken matrix_states.cu 'a tile of columns that is not whole is left out' \
    's/= ceil_div(HIDDEN_SIZE, ACROSS)/= max_of(HIDDEN_SIZE \/ ACROSS, 1)/'
broken matrix_states.cu 'columns behind the last are stored' \
    's/if (i \* COLUMNS < columns)/if (true)/'
broken matrix_states.cu 'all pieces mark the vectors of the first' \
    's/ << i \* Own::COUNT;/;/'

# What is no good in f16 is in one group of tests, which is far behind.
CK_RUN_CASE=numbers
export CK_RUN_CASE
broken matrix_lists.cu 'levels are not cleared' \
    's/args.levels\[token\] = 0;/;/'
broken matrix_scores.cu 'faint rows are not told' \
    's/magnitude >= LARGEST_MIN/magnitude > 0.0f/'
broken matrix_states.cu 'unfit columns of U are not computed anew' \
    's/level == FEX_WEIGHTS_FAINT || up_unfit/level == FEX_WEIGHTS_FAINT/'
broken matrix_states.cu 'sums that are no numbers are stored' \
    's/ || is_unfit(states))/)/'
broken matrix_states.cu 'one vector of a lane is computed anew' \
    's/unfit != 0; unfit &= unfit - 1/unfit != 0; unfit = 0/'

finish
