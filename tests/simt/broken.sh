# SPDX-License-Identifier: Apache-2.0
# broken.sh - for scripts that break kernels one at a time, and want the numeric
# suite of one pass to notice. Source it with $pass and $name set, then call
# `broken` for each edit, and `finish`.
set -u
: "${top_srcdir:?set by make check}" "${top_builddir:?set by make check}"
: "${pass:?set by the script that sources this}"
: "${name:?set by the script that sources this}"
suite=$top_builddir/tests/test_$pass
scratch=$top_builddir/tests/scratch/broken_$name
kernels=$scratch/kernels
log=$scratch/log
seed=${FLASHEXPERT_SIM_SEED:-$(date +%s)}
rejected=0
failures=0

# An endless loop is a report after so many seconds of a kernel. A barrier of
# shared memory that is missing shows in any order of threads.
FLASHEXPERT_SIM_TIMEOUT=30
FLASHEXPERT_SIM_RACES=1
FLASHEXPERT_TEST_STOP=1
FLASHEXPERT_KERNEL_DIR=$kernels
export FLASHEXPERT_SIM_TIMEOUT FLASHEXPERT_SIM_RACES FLASHEXPERT_TEST_STOP \
    FLASHEXPERT_KERNEL_DIR

fail() {
    echo "FAIL: $*"
    failures=$((failures + 1))
}

copy_kernels() {
    rm -rf "$scratch"
    mkdir -p "$kernels"
    cp "$top_srcdir"/kernels/*.cu "$top_srcdir"/kernels/*.cuh \
        "$top_srcdir"/kernels/*.h "$kernels"
}

run_suite() {
    "$top_srcdir/tests/simt/run.sh" "$suite" >"$log" 2>&1
}

# broken FILE WHAT SED - the suite has to reject kernels of which FILE is edited
# so. An edit that changes nothing has lost its place and wants a new one; one
# that does not compile proves nothing.
broken() {
    copy_kernels
    sed "$3" "$top_srcdir/kernels/$1" >"$kernels/$1"
    if cmp -s "$top_srcdir/kernels/$1" "$kernels/$1"; then
        fail "$1, $2: the edit finds nothing to change"
        return
    fi
    # What does not wait for another kernel may pass in one order of blocks.
    for order in 0 1 2; do
        FLASHEXPERT_SIM_SEED=$((seed + order))
        export FLASHEXPERT_SIM_SEED
        run_suite
        status=$?
        if grep -q NVRTC_ERROR "$log"; then
            fail "$1, $2: does not compile"
            grep -m 1 -A 2 'error:.*error\|: error' "$log"
            return
        elif [ "$status" -ne 0 ] && [ "$status" -ne 77 ]; then
            rejected=$((rejected + 1))
            echo "rejected: $1, $2"
            return
        fi
    done
    fail "$1, $2: passes"
}

finish() {
    rm -rf "$scratch"
    echo "$rejected broken kernels rejected, $failures not"
    exit $((failures > 0))
}

simulator=$top_builddir/tests/simt/.libs/libcuda.so
if [ ! -f "$simulator" ]; then
    echo 'SKIP: the simulated device was not built'
    exit 77
fi
if [ "${FLASHEXPERT_TEST_BROKEN:-}" = skip ]; then
    echo 'SKIP: asked for by FLASHEXPERT_TEST_BROKEN'
    exit 77
fi
if grep -q __asan_init "$simulator"; then
    echo 'SKIP: takes long with AddressSanitizer, and passes without'
    exit 77
fi
# Kernels that are as they should be have to pass, or the rest proves nothing.
copy_kernels
run_suite || {
    cat "$log"
    echo 'FAIL: the suite rejects kernels that are not broken'
    exit 1
}
