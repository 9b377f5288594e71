#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# run.sh PROGRAM [ARGUMENT...] - runs a program of `make check` on the simulated
# device. Settings of FLASHEXPERT_SIM_... that are there already stay.
set -eu
: "${top_srcdir:?set by make check}" "${top_builddir:?set by make check}"
folder=$top_builddir/tests/simt/.libs
if [ ! -f "$folder/libcuda.so" ]; then
    echo 'SKIP: the simulated device was not built: no C++17 compiler'
    exit 77
fi
FLASHEXPERT_LIBCUDA=$folder/libcuda.so
FLASHEXPERT_LIBNVRTC=$folder/libnvrtc.so

# What the simulated compiler makes must never be taken for a GPU's code, nor
# that of an older simulated compiler for its own.
simt=$top_srcdir/tests/simt
sum=$(cat "$simt"/*.h "$simt"/*.cuh "$simt"/compile.c "$simt"/translate.c |
    cksum | cut -d ' ' -f 1)
FLASHEXPERT_CACHE_DIR=$top_builddir/tests/cache-simt/$sum
FLASHEXPERT_CACHE_PATH=$top_builddir/tests/cache-simt/none

# Another order of blocks and threads each time, which can be had again.
FLASHEXPERT_SIM_SEED=${FLASHEXPERT_SIM_SEED:-$(date +%s)}
echo "simulated device, FLASHEXPERT_SIM_SEED=$FLASHEXPERT_SIM_SEED"

export FLASHEXPERT_LIBCUDA FLASHEXPERT_LIBNVRTC FLASHEXPERT_CACHE_DIR \
    FLASHEXPERT_CACHE_PATH FLASHEXPERT_SIM_SEED
exec "$@"
