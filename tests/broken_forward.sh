#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The numeric suite of the forward pass rejects broken kernels.
pass=forward
# shellcheck source=tests/simt/broken.sh
. "${top_srcdir:?set by make check}/tests/simt/broken.sh"

broken choices.cuh 'off by one: an index of num_experts' \
    's/expert < choices.num_experts/expert <= choices.num_experts/'
broken choices.cuh 'negative indices are not refused' \
    's/expert >= 0 && //'
broken element.cuh 'bf16 is cut off instead of rounded' \
    's/(bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16/bits >> 16/'
broken warp.cuh 'a reduction of half the width' \
    's,int offset = GROUP / 2;,int offset = GROUP / 4;,'

# Small cases, too, however they would be served.
FLASHEXPERT_FAMILY=gather
export FLASHEXPERT_FAMILY
broken sddmm_gather.cu 'no barrier after the list is emptied' \
    '/list.count = 0;/{n;d}'
broken sddmm_gather.cu 'no barrier before the list is read' \
    '/start += __popc(chosen/,/^}/s/^    __syncthreads();$//'
broken sddmm_gather.cu 'the place in the list from a wrong lane' \
    's/__shfl_sync(FULL_WARP, start, 0)/__shfl_sync(FULL_WARP, start, 1)/'
broken sddmm_gather.cu 'off by one: the first expert of a slab' \
    's/experts\[i\] >= first/experts[i] > first/'
broken sddmm_gather.cu 'the last columns are not guarded' \
    's/return HIDDEN_SIZE % TILE == 0 || column < HIDDEN_SIZE/return true/'
broken sddmm_gather.cu 'the last of K is dropped' \
    's/args.tile_pairs, TOP_K)/args.tile_pairs, TOP_K - 1)/'
broken sddmm_gather.cu 'the end of the list is not guarded' \
    's/ == 0 && entry < count)/ == 0)/'

broken spmm_gather.cu 'no barrier before the offsets are read' \
    '/load_offsets(args, shared.pairs/{n;d}'
broken spmm_gather.cu 'no barrier before the coefficients are read' \
    '/load_coefficients(args, shared.pairs/{n;d}'
broken spmm_gather.cu 'the scores are not waited for' \
    's/wait_for_primary();/;/'
broken spmm_gather.cu 'the weight of an empty slot counts' \
    's/pairs.offsets\[place_of(i)\] >= 0 ? values\[i\] : 0.0f/values[i]/'
broken spmm_gather.cu 'no barrier before the pairs are replaced' \
    '/sums\[v\]\[i\] += tile_sums/{n;d}'
broken spmm_gather.cu 'no barrier before the sums are read' \
    '/shared.sums\[group\]/{n;d}'
broken spmm_gather.cu 'the sum of a group is dropped' \
    's/g < GROUPS; ++g/g < GROUPS - 1; ++g/'
broken spmm_gather.cu 'the last columns are not guarded when stored' \
    's/if (chunk + i >= HIDDEN_SIZE)/if (false)/'
broken spmm_gather.cu 'the last columns are not guarded when loaded' \
    's/ && first_column + v \* STEP < HIDDEN_SIZE//'
broken spmm_gather.cu 'the last of K is dropped' \
    's/PAIR_TILE && k < TOP_K$/PAIR_TILE \&\& k < TOP_K - 1/'
broken spmm_gather.cu 'the last step adds old rows' \
    's/if (base + STEP_PAIRS < count)/if (base + 2 * STEP_PAIRS < count)/'
unset FLASHEXPERT_FAMILY

broken fused_cluster.cu 'no barrier before the sums of the warps are read' \
    '/shared.warps\[threadIdx.x/{n;d}'
broken fused_cluster.cu 'no barrier before the sums of blocks are read' \
    '/shared.block\[c\] = sum;/,/cluster_size/s/cluster_sync();//'
broken fused_cluster.cu 'a block ends while its sums are read' \
    '/must outlive/{n;d}'
broken fused_cluster.cu 'the sum of one block for all' \
    's/load_of_rank(&shared.block\[c\], r)/load_of_rank(\&shared.block[c], 0)/'
broken fused_cluster.cu 'a slice of the columns rounded down' \
    's,slice = ceil_div(HIDDEN_SIZE\, blocks),slice = HIDDEN_SIZE / blocks,'
broken fused_cluster.cu 'a reduction of half the width' \
    's/int offset = 16;/int offset = 8;/'
broken fused_cluster.cu 'pairs that fill no batch are dropped' \
    's/if constexpr (BATCH > 1)/if constexpr (false)/'
broken fused_cluster.cu 'the last of K is dropped' \
    's/if (k < TOP_K)/if (k < TOP_K - 1)/'

broken sort_routes.cu 'a round of slots is counted once too often' \
    's/position + __popc(equals\[j\]));/position + __popc(equals[j]) + (base > 0));/'
broken sort_routes.cu 'no barrier before the starts are stored' \
    '/add_up(shared);/{n;n;d}'
broken sort_routes.cu 'starts are not carried over' \
    's/before += __shfl_sync/before = __shfl_sync/'
broken sort_routes.cu 'scores of empty slots are not written' \
    's/else if (k < TOP_K/else if (k < 0/'
broken routes.cuh 'a route too few' \
    's/return i < total/return i < total - 1/'

broken dense_scores_mma.cu 'the stage is read before it is there' \
    's/copies_wait<STAGES - 2>/copies_wait<STAGES - 1>/'
broken dense_scores_mma.cu 'no barrier before the stages are reused' \
    '/the stages are free/d'
broken dense_scores_mma.cu 'the last columns are not guarded' \
    's/first + row < rows && c < HIDDEN_SIZE/first + row < rows/'
broken dense_scores_mma.cu 'half the depth is dropped' \
    's/for (int k = 0; k < ROW;/for (int k = 0; k < ROW \/ 2;/'
broken dense_scores_mma.cu 'only the first routes are stored' \
    's/i - lane < segments.total; i += 32/i < 32; i += 32/'

broken dense_states_mma.cu 'a token chose an expert twice: one is lost' \
    's/if (__any_sync(FULL_WARP, equal != 1u << lane))/if (false)/'
broken dense_states_mma.cu 'a token chose an expert again: the first is lost' \
    's/if (again)/if (false)/'
broken dense_states_mma.cu 'weights are rounded once too often' \
    's/? Half::round(rest) : 0/? 0 : 0/'
broken dense_states_mma.cu 'no barrier before a stage is read' \
    '/this stage is there/d'
broken dense_states_mma.cu 'routes past those read ahead are dropped' \
    's/for (int i = PICKS \* 32; i < routes/for (int i = PICKS * 32; i < 0 * routes/'
broken dense_states_mma.cu 'rows of experts not chosen are seen' \
    's/args.unfit\[blockIdx.x\] = !all_fit/args.unfit[blockIdx.x] = 0/'
broken dense_sum.cu 'the sum of one range for all' \
    's/own + (base + i) \* split_size/own/'

finish
