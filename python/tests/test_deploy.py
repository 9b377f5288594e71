# SPDX-License-Identifier: Apache-2.0
"""prewarm, prepare, info, errors and caches, with no GPU or a simulated one."""

import os
import subprocess
import sys
import threading

import numpy
import pytest

import flashexpert_rtc as fex
from flashexpert_rtc import _deploy, _runtime
from flashexpert_rtc._structures import DEVICE_NONE

SHAPE = dict(hidden_size=64, top_k=4, num_experts=128, num_tokens=8)


def test_info_without_a_device():
    found = fex.info(None)
    assert found["version"] == fex.__version__
    assert found["device"] is None
    assert len(found["kernel_digest"]) == 32
    assert found["compiles"] == 0 or found["compile_seconds"] > 0


def test_info_where_there_is_no_driver():
    run("import flashexpert_rtc as fex\n"
        "assert fex.info() == fex.info(None)\n"
        "try:\n    fex.info(0)\n"
        "except fex.FlashExpertError as error:\n"
        "    assert error.status is fex.Status.ERROR_NO_DRIVER, error\n"
        "else:\n    raise AssertionError('a driver was found')\n",
        FLASHEXPERT_LIBCUDA="/no-such-driver.so")


def run(program, **environment):
    """Runs a program in a process of its own: the environment is read when a
    context is created, and this process may have one already."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


PREWARM = f"""
import flashexpert_rtc as fex
if not fex.info(None)["compiler_version"]:
    raise SystemExit("no compiler")
def prewarm(**options):
    return fex.prewarm(architecture="sm_90a", passes="forward",
                       **{SHAPE!r}, **options)
try:
    prewarm(check_only=True)
except fex.FlashExpertError as error:
    assert error.status is fex.Status.ERROR_JIT_FORBIDDEN, error
    assert "sm_90a" in str(error), error
else:
    raise AssertionError("nothing was missing")
first = prewarm()
assert first.compiled == first.requested > 0, first
second = prewarm(check_only=True)
assert second.hit == second.requested == first.requested, second
assert fex.info(None)["compiles"] == first.compiled
"""


@pytest.mark.skipif(not fex.info(None)["compiler_version"],
                    reason="needs NVRTC")
def test_prewarm_fills_the_cache(tmp_path):
    run(PREWARM, FLASHEXPERT_CACHE_DIR=str(tmp_path),
        FLASHEXPERT_CACHE_PATH="", FLASHEXPERT_JIT="allow")
    assert any(tmp_path.rglob("*"))


def test_a_missing_driver_is_said():
    run("import flashexpert_rtc as fex\n"
        "try:\n"
        f"    fex.prepare(**{SHAPE!r})\n"
        "except fex.FlashExpertError as error:\n"
        "    assert error.status is fex.Status.ERROR_NO_DRIVER, error\n"
        "    assert 'no-such-driver' in str(error), error\n"
        "else:\n"
        "    raise AssertionError('a driver was found')\n",
        FLASHEXPERT_LIBCUDA="/no-such-driver.so")


def test_a_missing_library_is_said(tmp_path):
    said = run("import flashexpert_rtc as fex\n"
               "try:\n    fex.info(None)\n"
               "except fex.LibraryError as error:\n    print(error)\n",
               FLASHEXPERT_LIBRARY=str(tmp_path / "none.so"))
    assert "FLASHEXPERT_LIBRARY" not in os.environ or (
        "none.so" in said and "not found" in said)


def test_wrong_words_are_named():
    for name, value in (("dtype", "float64"), ("routing_dtype", "int8"),
                        ("index_dtype", "int16"), ("passes", "sideways")):
        with pytest.raises(fex.ArgumentError, match=name) as caught:
            fex.prewarm(architecture="sm_90a", **SHAPE, **{name: value})
        assert caught.value.argument == name
    with pytest.raises(fex.ArgumentError, match="sm_1"):
        fex.prewarm(architecture="sm_1", **SHAPE)
    with pytest.raises(fex.ArgumentError, match="hidden_size"):
        fex.prewarm(architecture="sm_90a", **{**SHAPE, "hidden_size": 0})


@pytest.mark.parametrize("dtype", [
    numpy.float16, numpy.dtype("float16"), "float16", "f16"])
def test_dtypes_have_several_names(dtype):
    key = _deploy._key(64, 4, 128, dtype, None, numpy.int32)
    assert key == (1, 1, 1, 64, 4, 128)
    key = _deploy._key(64, 4, 128, "bfloat16", numpy.dtype("float32"), "i64")
    assert key == (2, 3, 2, 64, 4, 128)


@pytest.mark.parametrize("dtype", [numpy.float64, float, numpy.dtype("int8")])
def test_wrong_dtypes_are_named(dtype):
    name = getattr(dtype, "__name__", str(dtype))
    with pytest.raises(fex.ArgumentError, match=f"dtype has dtype {name},"):
        fex.prewarm(architecture="sm_90a", **SHAPE, dtype=dtype)


def test_threads_share_a_context_and_operations():
    key = (2, 2, 2, 64, 4, 777)
    found, start = [], threading.Barrier(8)

    def look():
        start.wait()
        found.append((_runtime.context(DEVICE_NONE).value,
                      _runtime.operation(DEVICE_NONE, key)))

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1


def test_a_child_starts_anew():
    key = (2, 2, 2, 64, 4, 778)
    parent = _runtime.operation(DEVICE_NONE, key)
    child = os.fork()
    if child == 0:
        worked = False
        try:
            fex.info(None)
            own = _runtime.operation(DEVICE_NONE, key)
            worked = own is not parent
        finally:
            os._exit(0 if worked else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert _runtime.operation(DEVICE_NONE, key) is parent


SIMULATED = os.environ.get("FLASHEXPERT_SIMULATED")  # its libraries' folder
MONITOR = f"""
import flashexpert_rtc as fex
heard = []
with fex.JitMonitor(heard.append) as monitor:
    fex.prepare(**{SHAPE!r}, passes="forward")
    assert monitor.kernels and monitor.kernels == heard
    before = len(heard)
    fex.prepare(**{SHAPE!r}, passes="forward")
    assert len(heard) == before
fex.prepare(**{SHAPE!r}, passes="backward")
assert len(heard) == before
assert fex.info(0)["compiles"] > before and fex.info(0)["device"] == 0
assert fex.info() == fex.info(0)
"""


@pytest.mark.skipif(not SIMULATED, reason="needs the simulated device")
def test_monitor_hears_of_compiles(tmp_path):
    run(MONITOR, FLASHEXPERT_CACHE_DIR=str(tmp_path),
        FLASHEXPERT_CACHE_PATH="", FLASHEXPERT_JIT="allow",
        FLASHEXPERT_LIBCUDA=f"{SIMULATED}/libcuda.so",
        FLASHEXPERT_LIBNVRTC=f"{SIMULATED}/libnvrtc.so")
