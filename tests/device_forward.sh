#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The numeric suite of the forward pass on a device, by each of the families and
# not only the one that would be chosen. Skipped where there is no device.
set -eu
: "${top_builddir:?set by make check}"
for family in cluster gather dense matrix; do
    echo "family $family"
    FLASHEXPERT_FAMILY=$family "$top_builddir/tests/test_forward" small || exit
done
