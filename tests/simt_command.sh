#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The command's run and bench, on the simulated device.
exec "$top_srcdir/tests/simt/run.sh" "$top_builddir/tests/test_command_device"
