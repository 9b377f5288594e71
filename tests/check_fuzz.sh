#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check_fuzz.sh - builds the fuzzer of the cache's files and runs it.
#
#   FUZZ_RUNS    executions (default 200000, a few seconds)
#
# Skipped (77) where there is no clang with libFuzzer.
set -eu
: "${top_srcdir:?set by make check}" "${top_builddir:?set by make check}"

clang=
for candidate in ${FUZZ_CC:-clang clang-14 clang-15 clang-16 clang-17 clang-18}
do
    if command -v "$candidate" >/dev/null 2>&1; then
        clang=$candidate
        break
    fi
done
if [ -z "$clang" ]; then
    echo "no clang"
    exit 77
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/flashexpert-fuzz-XXXXXX")
trap 'rm -rf "$work"' EXIT
sources=
for room in bundle digest entry specialize status sources architecture; do
    sources="$sources $top_srcdir/lib/$room.c"
done

# build OUTPUT FLAGS FILE...
build() {
    output=$1
    flags=$2
    shift 2
    # The words of lists and flags are to be split.
    # shellcheck disable=SC2086
    $clang -std=c11 -g -O1 $flags -I"$top_builddir" -I"$top_srcdir/include" \
        -I"$top_srcdir/lib" ${TEST_CPPFLAGS:-} "$@" $sources \
        "$top_builddir/lib/embedded_sources.c" -o "$output" -lxxhash
}

if ! build "$work/fuzz" -fsanitize=fuzzer,address,undefined \
    "$top_srcdir/tests/fuzz/fuzz_cache.c" 2>"$work/log"; then
    if grep -q 'fuzzer' "$work/log"; then
        echo "no libFuzzer: $(head -n 1 "$work/log")"
        exit 77
    fi
    cat "$work/log"
    exit 1
fi
build "$work/make_seeds" "" "$top_srcdir/tests/fuzz/make_seeds.c"
mkdir "$work/seeds" "$work/corpus"
"$work/make_seeds" "$work/seeds"

# A crash makes it fail, and leaves the input in the current folder. The seed
# makes a run repeatable.
if ! "$work/fuzz" -runs="${FUZZ_RUNS:-200000}" -seed=1 -max_len=2048 \
    -timeout=10 "$work/corpus" "$work/seeds" >"$work/output" 2>&1; then
    tail -n 60 "$work/output"
    exit 1
fi
tail -n 2 "$work/output"
