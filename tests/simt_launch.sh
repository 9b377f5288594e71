#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What holds for a launch of either pass, on the simulated device.
exec "$top_srcdir/tests/simt/run.sh" "$top_builddir/tests/test_launch"
