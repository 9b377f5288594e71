#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The numeric suite of the forward pass, on the simulated device: as it would be
# served, by gathering, by dense products on either kind of tensor cores, and by
# whole matrices; all kernels watched for races.
set -eu
: "${top_srcdir:?set by make check}" "${top_builddir:?set by make check}"
FLASHEXPERT_SIM_RACES=1
# What is for whole matrices takes long, and tells other families little.
CK_EXCLUDE_TAGS=matrix
export FLASHEXPERT_SIM_RACES CK_EXCLUDE_TAGS
"$top_srcdir/tests/simt/run.sh" "$top_builddir/tests/test_forward"
FLASHEXPERT_FAMILY=gather \
    "$top_srcdir/tests/simt/run.sh" "$top_builddir/tests/test_forward" small
# Fresh shared memory is no NaN, which would have sums computed anew.
FLASHEXPERT_FAMILY=dense
FLASHEXPERT_SIM_POISON=68
export FLASHEXPERT_FAMILY FLASHEXPERT_SIM_POISON
"$top_srcdir/tests/simt/run.sh" "$top_builddir/tests/test_forward"
# With so many multiprocessors tiles of every width are chosen.
CK_EXCLUDE_TAGS=dense FLASHEXPERT_FAMILY=matrix FLASHEXPERT_SIM_SMS=8 \
    "$top_srcdir/tests/simt/run.sh" "$top_builddir/tests/test_forward"
FLASHEXPERT_SIM_ARCH=8.6
export FLASHEXPERT_SIM_ARCH
exec "$top_srcdir/tests/simt/run.sh" "$top_builddir/tests/test_forward"
