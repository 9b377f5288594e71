#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The example in C: it compiles without a warning, README quotes it word for
# word, and on the simulated device it prints what the formula says.
set -u
: "${top_srcdir:?set by make check}" "${top_builddir:?set by make check}"
example=$top_srcdir/examples/forward.c
libraries=$top_builddir/.libs
simulated=$top_builddir/tests/simt/.libs
scratch=$top_builddir/tests/scratch/example
rm -rf "$scratch" && mkdir -p "$scratch" || exit 99

fail() {
    echo "FAIL: $*"
    exit 1
}

# From its first line of code up to the end of the first function.
quoted() {
    sed -n '/^enum {/,/^}/p' "$1"
}

quoted "$example" >"$scratch/code"
quoted "$top_srcdir/README.md" >"$scratch/quote"
[ -s "$scratch/code" ] || fail 'the example does not start with an enum'
diff "$scratch/quote" "$scratch/code" ||
    fail 'README (<) does not quote the example (>)'

# shellcheck disable=SC2086
$CC -std=c11 -Wall -Wextra -Wshadow -Wconversion -Werror $TEST_CFLAGS \
    -I"$top_srcdir/include" $TEST_CPPFLAGS -c -o "$scratch/forward.o" \
    "$example" || fail 'the example does not compile'

if [ ! -f "$simulated/libcuda.so" ] ||
    [ ! -f "$libraries/libflashexpert_rtc.so" ]; then
    echo 'SKIP: compiled, not run: needs the simulated device, a shared library'
    exit 77
fi
# shellcheck disable=SC2086
$CC $TEST_CFLAGS -pthread -o "$scratch/forward" "$scratch/forward.o" \
    -L"$libraries" -lflashexpert_rtc "$simulated/libcuda.so" \
    -Wl,-rpath,"$libraries" -Wl,-rpath,"$simulated" $TEST_LIBS ||
    fail 'the example does not link'
"$top_srcdir/tests/simt/run.sh" "$scratch/forward" >"$scratch/output" || {
    cat "$scratch/output"
    fail 'the example does not run'
}
# 0.75 silu(1), 0.25 silu(3); silu(2).
cat >"$scratch/expected" <<'END'
0.5483 0.5483 0.7144 0.7144
0.0000 1.7616 1.7616 0.0000
END
grep '^[0-9]' "$scratch/output" >"$scratch/result"
diff "$scratch/result" "$scratch/expected" ||
    fail 'the example printed (<) what it should not (>)'
echo 'PASS'
