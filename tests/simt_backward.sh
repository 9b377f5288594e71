#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The numeric suite of the backward pass, on the simulated device.
exec "$top_srcdir/tests/simt/run.sh" "$top_builddir/tests/test_backward"
