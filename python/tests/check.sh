#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The Python package's tests, on the library just built. Those on tensors run
# where python3 has torch, and on a GPU where it sees one.
#
# Skipped (77) where python3 lacks numpy or pytest, or cannot load the library.
set -eu
: "${top_srcdir:?set by make check}" "${top_builddir:?set by make check}"
python=${PYTHON:-python3}
libraries=$top_builddir/.libs

skip() {
    echo "SKIP: $*"
    exit 77
}

"$python" -c 'import numpy, pytest' || skip 'needs python3, numpy and pytest'
[ -f "$libraries/libflashexpert_rtc.so.0" ] || skip 'no shared library'
[ -z "$TEST_CFLAGS" ] || skip 'python3 is not built with the sanitizers'

FLASHEXPERT_LIBRARY=$libraries/libflashexpert_rtc.so.0
FLASHEXPERT_INCLUDE=$top_srcdir/include
export FLASHEXPERT_LIBRARY FLASHEXPERT_INCLUDE
if [ -f "$top_builddir/tests/simt/.libs/libcuda.so" ]; then
    FLASHEXPERT_SIMULATED=$top_builddir/tests/simt/.libs
    export FLASHEXPERT_SIMULATED
fi
# A source tree may be read-only: leave nothing in it.
PYTHONDONTWRITEBYTECODE=1 exec "$python" -m pytest -q -p no:cacheprovider \
    "$top_srcdir/python/tests"
