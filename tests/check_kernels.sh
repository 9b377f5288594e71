#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The kernels are self-contained: as NVRTC sees them, each includes only files
# of its own folder, so that no header of CUDA's is needed; and each is
# embedded.
set -u
: "${top_srcdir:?set by make check}" "${top_builddir:?set by make check}"
kernels=$top_srcdir/kernels
embedded=$top_builddir/lib/embedded_sources.c
failures=0

fail() {
    echo "FAIL: $*"
    failures=$((failures + 1))
}

count=0
for file in "$kernels"/*.cu "$kernels"/*.cuh "$kernels"/*.h; do
    [ -f "$file" ] || continue
    name=${file##*/}
    count=$((count + 1))
    grep -q "^/\* $name \*/\$" "$embedded" ||
        fail "$name is not embedded: add it to kernel_files in Makefile.am"
    # The C preprocessor, told that it is NVRTC's and left without any folder
    # of system headers, fails at an include from elsewhere and names the line.
    # shellcheck disable=SC2086
    $CC -E -x c -w -nostdinc -D__cplusplus=201703L -D__CUDACC_RTC__ \
        -I"$kernels" -o /dev/null "$file" ||
        fail "$name includes what is no file of kernels/"
    grep -n '#[ 	]*include.*cuda' "$file" && fail "$name names CUDA's headers"
done
[ "$count" -gt 0 ] || fail "there are no kernels in $kernels"
grep -c '^/\* .* \*/$' "$embedded" | grep -qx $((count + 1)) ||
    fail "the number of files embedded is not the $count of $kernels"

[ "$failures" -eq 0 ] && echo "PASS: $count files"
exit $((failures > 0))
