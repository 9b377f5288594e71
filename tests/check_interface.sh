#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The public face: the header compiles alone in the oldest dialects promised,
# and the library exports what the header declares, no more and no less, and
# needs neither CUDA library to be loaded.
set -u
: "${top_srcdir:?set by make check}" "${top_builddir:?set by make check}"
LC_ALL=C
export LC_ALL
header=$top_srcdir/include/flashexpert_rtc.h
library=$top_builddir/.libs/libflashexpert_rtc.so
scratch=$top_builddir/tests/scratch/interface
failures=0
rm -rf "$scratch" && mkdir -p "$scratch" || exit 99

fail() {
    echo "FAIL: $*"
    failures=$((failures + 1))
}

# same WHAT FILE WHAT FILE
same() {
    diff "$2" "$4" >"$scratch/diff" && return
    fail "$1 (<) and $3 (>) differ:"
    cat "$scratch/diff"
}

# $CC and $CXX may hold several words.
# shellcheck disable=SC2086
compiles() {
    dialect=$1
    shift
    echo '#include "flashexpert_rtc.h"' >"$scratch/alone.$dialect"
    "$@" -pedantic -Wall -Wextra -Werror -I"${header%/*}" -fsyntax-only \
        "$scratch/alone.$dialect" || fail "the header alone: $*"
}

# shellcheck disable=SC2086
compiles c $CC -std=c99
# shellcheck disable=SC2086
if command -v ${CXX%% *} >"$scratch/cxx"; then
    compiles cc $CXX -std=c++11
else
    echo "no C++ compiler: the header was not tried as C++11"
fi

sed -n 's/^FEX_API .*[ *]\(fex_[a-z0-9_]*\)(.*/\1/p' "$header" |
    sort >"$scratch/declared"
[ "$(wc -l <"$scratch/declared")" -eq "$(grep -c '^FEX_API' "$header")" ] ||
    fail "a line of the header starts with FEX_API and names no function"
sed -n 's/^ *\(fex_[a-z0-9_]*\);$/\1/p' "$top_srcdir/lib/flashexpert_rtc.map" |
    sort >"$scratch/mapped"
same "the header" "$scratch/declared" "the version map" "$scratch/mapped"

if [ -f "$library" ]; then
    # shellcheck disable=SC2086
    $NM -D "$library" | awk '$2 ~ /^[BDGRSTVW]$/ {
        sub(/@.*/, "", $3)
        print $3
    }' | sort >"$scratch/exported"
    same "the header" "$scratch/declared" "the library" "$scratch/exported"
    objdump -p "$library" | grep -E 'NEEDED.*lib(cuda|nvrtc)' &&
        fail "a CUDA library is linked; both are to be opened at run time"
else
    echo "no shared library was built: its exports were not looked at"
fi

version=$(sed -n 's/^#define FEX_VERSION_[MP][A-Z]* //p' "$header" | paste -sd. -)
grep -q "^#define PACKAGE_VERSION \"$version\"" "$top_builddir/config.h" ||
    fail "the header says $version, config.h another version: run autoreconf"

[ "$failures" -eq 0 ] && echo "PASS: $(wc -l <"$scratch/declared") functions"
exit $((failures > 0))
