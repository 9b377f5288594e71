#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The numeric suite of the backward pass rejects broken kernels.
pass=backward
name=backward
# shellcheck source=tests/simt/broken.sh
. "${top_srcdir:?set by make check}/tests/simt/broken.sh"

broken choices.cuh 'a wrong derivative' \
    's/(1.0f - gate))/gate)/'
broken element.cuh 'elements of a word change places' \
    's/low | high << 16/high | low << 16/'
broken element.cuh 'what is there is not added to' \
    '/void store_element/,/^}/s/if (accumulate)/if (false)/'

broken sort_pairs.cu 'no barrier before the sums of the warps are read' \
    '/sums\[warp\] = inclusive;/{n;d}'
broken sort_pairs.cu 'no barrier before the sums of the warps are replaced' \
    '/all += sums\[w\];/{n;n;d}'
broken sort_pairs.cu 'a scan that leaves out a lane' \
    's/lane >= offset/lane > offset/'
broken sort_pairs.cu 'a count is read after it has changed' \
    '/ranks\[j\] += seen/{n;d}'
broken sort_pairs.cu 'the last tile is not guarded' \
    '/ITEMS; ++j/,/^    }/s/if (i < args.pairs)/if (true)/'
broken sort_pairs.cu 'off by one: the end of a segment' \
    's/segment\[1\] = static_cast<unsigned>(i + 1)/segment[1] = static_cast<unsigned>(i)/'

broken weight_gradients.cu 'off by one: a pair of the next expert' \
    's/base + lane < end/base + lane <= end/; s/j + u < end/j + u <= end/'
broken weight_gradients.cu 'handed round the warp, not the group' \
    's/own_token, j + u, GROUP)/own_token, j + u)/'
broken weight_gradients.cu 'the last columns are not guarded when loaded' \
    's/wanted && column + v \* STEP < HIDDEN_SIZE/wanted/'
broken weight_gradients.cu 'the last columns are not guarded when stored' \
    's/if (column + v \* STEP >= HIDDEN_SIZE)/if (false)/'
broken weight_gradients.cu 'the last piece of a large expert is dropped' \
    's/chunk <= last/chunk < last/'
broken weight_gradients.cu 'a piece goes on into the next expert' \
    's/segment.end < end ? segment.end : end/end/'
broken weight_gradients.cu 'rows that nobody chose are not written' \
    's/(chosen || !args.accumulate_up)/chosen/'
broken weight_gradients.cu 'what is there is not added to' \
    '/void store_row/,/^}/s/if (accumulate)/if (false)/'

finish
