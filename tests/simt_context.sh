#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Contexts with a device, on the simulated device.
exec "$top_srcdir/tests/simt/run.sh" "$top_builddir/tests/test_context"
