#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check_threads.sh - builds the tests of loader and store once more, with
# ThreadSanitizer, and runs them.
#
# Skipped (77) where the compiler has no ThreadSanitizer, or it cannot run.
set -eu
: "${top_srcdir:?set by make check}" "${top_builddir:?set by make check}"

work=$(mktemp -d "${TMPDIR:-/tmp}/flashexpert-threads-XXXXXX")
trap 'rm -rf "$work"' EXIT

cat >"$work/probe.c" <<'END'
int main(void) { return 0; }
END
if ! $CC -fsanitize=thread "$work/probe.c" -o "$work/probe" 2>"$work/log" ||
    ! "$work/probe" 2>>"$work/log"; then
    echo "no ThreadSanitizer: $(head -n 1 "$work/log")"
    exit 77
fi

rooms="architecture bundle compiler digest directory entry files loader log
    prune sources specialize status store tier tiers driver"
sources=
for room in $rooms; do
    sources="$sources $top_srcdir/lib/$room.c"
done

for test in test_loader test_store test_store_writing; do
    # The words of lists and flags are to be split.
    # shellcheck disable=SC2086
    $CC -std=c11 -g -O1 -fsanitize=thread -pthread \
        -I"$top_builddir" -I"$top_srcdir/include" -I"$top_srcdir/lib" \
        -I"$top_srcdir/tests" $TEST_CPPFLAGS \
        $sources "$top_builddir/lib/embedded_sources.c" \
        "$top_srcdir/tests/$test.c" "$top_srcdir/tests/cache_case.c" \
        "$top_srcdir/tests/file_faults.c" "$top_srcdir/tests/store_case.c" \
        "$top_srcdir/tests/suite.c" \
        -o "$work/$test" $TEST_LIBS
    # Threads and fork do not go together under it; and a report is a failure.
    CK_FORK=no TSAN_OPTIONS="halt_on_error=0 exitcode=66" "$work/$test"
done
