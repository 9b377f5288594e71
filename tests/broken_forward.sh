#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The numeric suite of the forward pass rejects broken kernels, but for those of
# the dense family.
pass=forward
name=forward
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

finish
