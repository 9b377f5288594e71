#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The numeric suite of the backward pass, on the simulated device, its kernels
# watched for races.
FLASHEXPERT_SIM_RACES=1
export FLASHEXPERT_SIM_RACES
exec "$top_srcdir/tests/simt/run.sh" "$top_builddir/tests/test_backward"
