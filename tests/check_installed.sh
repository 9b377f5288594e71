#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# `make installcheck`: what was installed is what a user of the library needs,
# and pkg-config's word is enough to compile, link and run a program.
set -u
: "${includedir:?set by make installcheck}" "${libdir:?}" "${CC:?}"
scratch=$(mktemp -d) || exit 99
trap 'rm -rf "$scratch"' EXIT

fail() {
    echo "FAIL: $*"
    exit 1
}

[ -f "$includedir/flashexpert_rtc.h" ] || fail 'the public header is missing'
others=$(cd "$includedir" && find . -type f ! -name flashexpert_rtc.h \
    -exec grep -l 'FEX_\|fex_' {} +)
[ -z "$others" ] || fail "internal headers were installed: $others"

command -v pkg-config >"$scratch/where" || {
    echo 'PASS, but for pkg-config, which is not there'
    exit 0
}
PKG_CONFIG_PATH=$libdir/pkgconfig
LD_LIBRARY_PATH=$libdir${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export PKG_CONFIG_PATH LD_LIBRARY_PATH
cat >"$scratch/user.c" <<'END'
#include <flashexpert_rtc.h>
#include <stdio.h>

int main(void)
{
    return puts(fex_version()) < 0;
}
END
# shellcheck disable=SC2046,SC2086
$CC ${CFLAGS:-} -o "$scratch/user" "$scratch/user.c" \
    $(pkg-config --cflags --libs flashexpert_rtc) ||
    fail 'a program does not build with what pkg-config says'
expected=$(pkg-config --modversion flashexpert_rtc)
[ "$("$scratch/user")" = "$expected" ] ||
    fail "fex_version() is $("$scratch/user"), pkg-config says $expected"
echo "PASS: version $expected"
