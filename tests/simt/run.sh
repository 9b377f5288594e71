#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# run.sh PROGRAM [ARGUMENT...] - runs a program on the simulated device, from the
# build folder. Settings of FLASHEXPERT_SIM_... that are there already stay.
set -eu
: "${top_srcdir:?the source folder; make check sets it}"
: "${top_builddir:?the build folder; make check sets it}"
# Absolute: some programs work in a folder of their own.
build=$(cd "$top_builddir" && pwd)
folder=$build/tests/simt/.libs

# Its compiler is the host's: without one there is no use in building it.
if grep -qs '^S\["HAVE_CXX_TRUE"\]="#"' "$top_builddir/config.status"; then
    echo 'SKIP: no simulated device: configure found no C++17 compiler'
    exit 77
fi
if [ ! -f "$folder/libcuda.so" ] || [ ! -f "$folder/libnvrtc.so" ]; then
    echo 'SKIP: the simulated device has not been built; to do so:'
    echo 'make tests/simt/libcuda.la tests/simt/libnvrtc.la'
    exit 77
fi
FLASHEXPERT_LIBCUDA=$folder/libcuda.so
FLASHEXPERT_LIBNVRTC=$folder/libnvrtc.so

# What the simulated compiler makes must never be taken for a GPU's code, nor
# that of an older simulated compiler or of other settings for its own.
simt=$top_srcdir/tests/simt
sum=$(cat "$simt"/*.h "$simt"/*.cuh "$simt"/compile.c "$simt"/translate.c |
    cksum | cut -d ' ' -f 1)-${FLASHEXPERT_SIM_RACES:-0}
FLASHEXPERT_CACHE_DIR=$build/tests/cache-simt/$sum
FLASHEXPERT_CACHE_PATH=: # no read-only tiers

# Another order of blocks and threads each time, which can be had again.
FLASHEXPERT_SIM_SEED=${FLASHEXPERT_SIM_SEED:-$(date +%s)}
echo "simulated device, FLASHEXPERT_SIM_SEED=$FLASHEXPERT_SIM_SEED"

export FLASHEXPERT_LIBCUDA FLASHEXPERT_LIBNVRTC FLASHEXPERT_CACHE_DIR \
    FLASHEXPERT_CACHE_PATH FLASHEXPERT_SIM_SEED
exec "$@"
