#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The numeric suite of the forward pass, on the simulated device; its small cases
# by gathering, however they would be served; and what older tensor cores and
# little shared memory make different.
set -eu
: "${top_srcdir:?set by make check}" "${top_builddir:?set by make check}"
"$top_srcdir/tests/simt/run.sh" "$top_builddir/tests/test_forward"
FLASHEXPERT_FAMILY=gather \
    "$top_srcdir/tests/simt/run.sh" "$top_builddir/tests/test_forward" small
FLASHEXPERT_SIM_ARCH=8.6
FLASHEXPERT_FAMILY=dense
export FLASHEXPERT_SIM_ARCH FLASHEXPERT_FAMILY
exec "$top_srcdir/tests/simt/run.sh" "$top_builddir/tests/test_forward"
