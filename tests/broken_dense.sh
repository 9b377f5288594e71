#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The numeric suite of the forward pass rejects broken kernels of the dense
# family, of either engine.
FLASHEXPERT_FAMILY=dense
# No NaN, which would have sums computed anew without what is broken.
FLASHEXPERT_SIM_POISON=68
export FLASHEXPERT_FAMILY FLASHEXPERT_SIM_ARCH FLASHEXPERT_SIM_POISON
pass=forward
name=dense
# shellcheck source=tests/simt/broken.sh
. "${top_srcdir:?set by make check}/tests/simt/broken.sh"

# ---- What both engines share, with mma.sync

FLASHEXPERT_SIM_ARCH=8.6

broken sort_routes.cu 'no barrier before slots are counted' \
    '/^    clear_counts(counts);/{n;d}'
broken sort_routes.cu 'no barrier before crowded parts are looked for' \
    '/^    count_blocks(args, counts, group);/{n;d}'
broken route_counts.cuh 'no barrier before counts are added up' \
    's/return __syncthreads_or(found);/return found;/'
broken route_counts.cuh 'no barrier before crowded parts are numbered' \
    '/crowded.count\[threadIdx.x\] = 0;/{n;d}'
broken route_counts.cuh 'no barrier before their experts are marked' \
    '/^        number_crowded_parts(/{n;d}'
broken route_counts.cuh 'no barrier before their copies are counted' \
    '/^                    1u << own % 32);/{n;n;d}'
broken route_counts.cuh 'no barrier before the next are numbered' \
    '/^        count_copies(/{n;d}'
broken route_counts.cuh 'no barrier before the sums of warps are read' \
    '/counts.sums\[threadIdx.x \/ 32\] = inclusive;/{n;d}'
broken sort_routes.cu 'no barrier before starts are used' \
    '/^    add_up(counts, shared.crowded, first_row);/{n;d}'
broken sort_routes.cu 'no barrier before parts are sorted' \
    '/place_slots(args, shared, row, token);/{n;d}'
broken sort_routes.cu 'no barrier before long parts are taken' \
    '/args.largest\[token\] = 0;/{n;n;d}'
broken sort_routes.cu 'no barrier before routes are stored' \
    '/^    finish_long_parts(/{n;d}'
broken sort_routes.cu 'crowded parts are stored again' \
    's/if (key == NO_KEY)/if (false)/'
broken sort_routes.cu 'routes after a crowded part are not where they were counted' \
    's/own = part.routes + i - part.keys;/own = to + i;/'
broken route_counts.cuh 'sums of warps are not carried over' \
    's/before += counts.sums\[warp\];/;/'
broken route_counts.cuh 'routes of the tokens before do not count' \
    's/ firsts\[j\] = routes\[j\];/ firsts[j] = 0;/'
broken route_counts.cuh 'repeats count as routes' \
    's/routes\[j\] += part.routes();/routes[j] += part.slots;/'
broken route_counts.cuh 'copies are stored over those of other blocks' \
    's/if (first_row < own_row)/if (false)/'
broken sort_routes.cu 'scores of empty slots are not written' \
    's/if (k < TOP_K \&\& args.scores != nullptr)/if (k < 0)/'
broken route_parts.cuh 'short parts are not sorted' \
    '/^    merge_runs<1, 1>(keys);/d'
broken route_parts.cuh 'long parts are not sorted' \
    '/^    sort_long(part, count);/d'
broken route_parts.cuh 'parts of up to 256 are sorted as if of 128' \
    's/sort_in_registers<8>(part, count)/sort_in_registers<4>(part, count)/'
broken route_parts.cuh 'a step of a long sort goes the other way' \
    's/for (int step = size \/ 4; step > 0; step \/= 2)/for (int step = 1; step <= size \/ 4; step *= 2)/'
broken route_parts.cuh 'weights of repeats in short parts are lost' \
    's/^        if (merged \&\& !repeat)/        if (false)/'
broken route_parts.cuh 'lanes keep the smaller keys whichever way they go' \
    's/const bool smaller = ((lane \& step) == 0) == up;/const bool smaller = (lane \& step) == 0;/'
broken route_parts.cuh 'weights of repeats in long parts are lost' \
    's/is_last \&\& (crowded || !is_first)/is_last \&\& is_first/'
broken route_parts.cuh 'merged weights go where they would without copies' \
    's/__popc(listed \& lanes_below(start \& 31))/(start \& 31)/'
broken route_parts.cuh 'the first of an expert is forgotten after 32 keys' \
    's/found != 0 ? own_first : run.first/own_first/'
broken route_parts.cuh 'the sum of an expert is forgotten after 32 keys' \
    's/(found != 0 ? 0.0f : run.weight)/0.0f/'
broken route_parts.cuh 'the key before 32 is forgotten' \
    's/lane == 0 ? last : before/lane == 0 ? NO_KEY : before/'
broken dense_sum.cu 'copies have no scores' \
    's/if (args.scores != nullptr)/if (false)/'
broken routes.cuh 'small weights are not scaled' \
    's/static_cast<unsigned>(min_of(scaled, 253)) << 23/127u << 23/'
broken routes.cuh 'small rows lose bits' \
    's/ROW_SCALE = 4096.0f/ROW_SCALE = 1024.0f/; s/0x45804580/0x44804480/'
broken route_list.cuh 'the window does not slide on' \
    's/if (i - base >= LANES)/if (base < 0)/'
broken dense_sum.cu 'the sum of one range for all' \
    's/own + (base + i) \* split_size/own/'
broken dense_sum.cu 'tiles that do not fit f16 are kept' \
    's/return unfit != 0;/return false;/'
broken dense_sum.cu 'repeats count again' \
    's/if (is_repeat(route))/if (false)/'
broken dense_sum.cu 'a search goes past the first' \
    's/(load_route(routes + middle)) < row/(load_route(routes + middle)) <= row/'

# ---- mma.sync

broken dense_scores_mma.cu 'a stage is read before it is there' \
    's/copies_wait<STAGES - 2>/copies_wait<STAGES - 1>/'
broken dense_scores_mma.cu 'no barrier before stages become pieces' \
    '/the stages are free/d'
broken dense_scores_mma.cu 'the last columns are not guarded' \
    's/first + row < rows && c < HIDDEN_SIZE/first + row < rows/'
broken dense_scores_mma.cu 'half the depth is dropped' \
    's/for (int k = 0; k < ROW;/for (int k = 0; k < ROW \/ 2;/'
broken dense_scores_mma.cu 'only the first routes are stored' \
    's/^         i += 32) {/         i += 1 << 20) {/'
broken dense_states_mma.cu 'the rest of a weight is dropped' \
    's/? Half::round(rest) : 0/? 0 : 0/'
broken dense_states_mma.cu 'no barrier before a stage is read' \
    '/this stage is there/d'
broken dense_states_mma.cu 'routes past those read ahead are dropped' \
    's/i < list.count; i += ROUNDS/i < ROUNDS * 32; i += ROUNDS/'
broken dense_states_mma.cu 'rows of experts not chosen are seen' \
    's/args.unfit\[blockIdx.x\] = !all_fit/args.unfit[blockIdx.x] = 0/'

# ---- wgmma

FLASHEXPERT_SIM_ARCH=9.0

broken dense_scores_wgmma.cu 'a stage is read before it is there' \
    '/barrier_wait(&shared.full/d'
broken dense_scores_wgmma.cu 'a stage is filled while it is read' \
    '/barrier_wait(&shared.empty/d'
broken dense_scores_wgmma.cu 'a stage is given back too early' \
    's/product_wait<1>();/product_wait<2>();/'
broken dense_scores_wgmma.cu 'one warp gives a stage back for all' \
    's/threadIdx.x % 32 == 0/threadIdx.x % 128 < 4/'
broken dense_scores_wgmma.cu 'the last products are not waited for' \
    's/product_wait<0>();/product_wait<1>();/'
broken dense_scores_wgmma.cu 'routes past those read ahead are dropped' \
    's/if (picks.count > PICKS \* 32)/if (false)/'
broken dense_scores_wgmma.cu 'the second block has the columns of the first' \
    's/? column + FEX_ROUTE_BLOCK : column/? column : column/'
broken dense_scores_wgmma.cu 'the largest weight is not told' \
    's/if (lane < WARP_TOKENS && largest\[lane\] != 0)/if (false)/'
broken dense_states_wgmma.cu 'a stage is read before it is there' \
    '/barrier_wait(&shared.full/d'
broken dense_states_wgmma.cu 'rows are read before they are there' \
    '/barrier_wait(&shared.up_full/d'
broken dense_states_wgmma.cu 'a stage is filled while it is read' \
    '/barrier_wait(&shared.empty/,+1d'
broken dense_states_wgmma.cu 'a stage is given back too early' \
    's/product_wait<1>();/product_wait<2>();/'
broken dense_states_wgmma.cu 'one warp gives a stage back for all' \
    's/threadIdx.x % 32 == 0/threadIdx.x % 128 < 4/'
broken dense_states_wgmma.cu 'the last products are not waited for' \
    's/product_wait<0>();/product_wait<1>();/'
broken dense_states_wgmma.cu 'the weights before are not cleared' \
    '/^            clear(weights, warp, own/d'
broken weight_tile.cuh 'more weights than a trail has are not cleared' \
    's/if (__any_sync(FULL_WARP, trail.count >= Trail::MANY)) {/if (false) {/'
broken weight_fill.cuh 'routes past those read ahead are dropped' \
    's/first = AHEAD; __any_sync(FULL_WARP, first < list.count)/first = AHEAD; false/'
broken weight_fill.cuh 'routes of long blocks are not read on' \
    '/list.read(first + AHEAD, j);/d'
broken sort_routes.cu 'parts that another warp took are taken again' \
    's/if ((before >> bit \& 1u) != 0)/if (true)/'
broken dense_states_wgmma.cu 'rows that do not fit f16 are not told' \
    's/fit = compute_stages/compute_stages/'
broken weight_tile.cuh 'the rest of a weight is dropped' \
    's/? float_to_e5m2(rest \* REST_SCALE) : 0/? 0 : 0/'
broken weight_tile.cuh 'rests of light weights are too small for 8 bits' \
    's/REST_SCALE = 4096.0f/REST_SCALE = 1.0f/'
broken dense_states_wgmma.cu 'the sums of rests are dropped' \
    's/fmaf(sums\[1\]\[j\], 1 \/ REST_SCALE,/fmaf(sums[1][j], 0.0f,/'
broken dense_states_wgmma.cu 'bytes of the second half of columns come first' \
    's/bytes\[k % 2 \* 2 + half\]/bytes[half * 2 + k % 2]/'
broken dense_states_wgmma.cu 'all pieces have the rests of the first' \
    's/step \/ 2 \* STEP/0/'
broken weight_tile.cuh 'the rest of a weight is left behind' \
    's/rest_at(weights, place) = 0;/;/'
broken weight_tile.cuh 'rests are in the order of experts' \
    's/(expert \& 6) \* 2 | (expert \& 8) \/ 4 | (expert \& 1)/expert % 16/'
broken dense_states_wgmma.cu 'the second group has the routes of the first' \
    's/list(args, task.token + first_row/list(args, task.token + warp * WARP_TOKENS/'

finish
