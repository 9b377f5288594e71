# SPDX-License-Identifier: Apache-2.0
"""The way to the kernels, on the simulated device: what the operators do with
tensors on a GPU, with memory of the simulated driver in their place."""

import os
import subprocess
import sys

import pytest

SIMULATED = os.environ.get("FLASHEXPERT_SIMULATED")  # its libraries' folder

pytestmark = pytest.mark.skipif(
    not SIMULATED, reason="needs the simulated device")

SETUP = """
import ctypes, os, sys
import numpy
from reference import assert_close, evaluate, make_arrays
from flashexpert_rtc import _runtime
from flashexpert_rtc._structures import BackwardArgs, ForwardArgs

driver = ctypes.CDLL(os.environ["FLASHEXPERT_LIBCUDA"])
def call(name, *arguments):
    status = getattr(driver, name)(*arguments)
    assert status == 0, (name, status)

call("cuInit", 0)
primary = ctypes.c_void_p()
call("cuDevicePrimaryCtxRetain", ctypes.byref(primary), 0)
call("cuCtxPushCurrent_v2", primary)

def allocate(size):
    pointer = ctypes.c_void_p()
    call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size))
    return pointer.value

def upload(array):
    pointer = allocate(array.nbytes)
    call("cuMemcpyHtoD_v2", ctypes.c_void_p(pointer),
         ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes))
    return pointer

def download(pointer, like):
    found = numpy.empty_like(like)
    call("cuMemcpyDtoH_v2", ctypes.c_void_p(found.ctypes.data),
         ctypes.c_void_p(pointer), ctypes.c_size_t(found.nbytes))
    return found
"""

BOTH_PASSES = """
tokens, hidden, top_k, experts = 3, 32, 4, 9
arrays = make_arrays((tokens,), hidden, top_k, experts)
wide = numpy.zeros((tokens, hidden + 8), numpy.float32)
wide[:, :hidden] = arrays[0]
x, down, up, i, g = (upload(a) for a in (wide, *arrays[1:]))
y, scores = upload(numpy.zeros_like(arrays[0])), upload(
    numpy.zeros((tokens, top_k), numpy.float32))
op = _runtime.operation(0, (3, 3, 2, hidden, top_k, experts))
assert _runtime.operation(0, (3, 3, 2, hidden, top_k, experts)) is op

size = op.workspace_size(3, tokens)
workspace = allocate(size) if size else None
op.forward(ForwardArgs(
    ctypes.sizeof(ForwardArgs), tokens, x, down, up, i, g, y, scores,
    hidden + 8, workspace=workspace, workspace_size=size), 0)
call("cuCtxSynchronize")
wanted = evaluate(*arrays)
assert_close(download(y, arrays[0]), wanted[0], "float32")
assert_close(download(scores, arrays[4]), wanted[1], "float32")

dy = make_arrays((tokens,), hidden, top_k, experts, seed=1)[0]
like = (arrays[0], arrays[1], arrays[2], arrays[4])
grads = [upload(numpy.full_like(array, 7)) for array in like]
op.backward(BackwardArgs(
    ctypes.sizeof(BackwardArgs), tokens, upload(dy), x, down, up, i, g,
    scores, *grads, 0, hidden + 8, workspace=workspace,
    workspace_size=size), 0)
call("cuCtxSynchronize")
for pointer, array, want in zip(grads, like, evaluate(*arrays, dy)):
    assert_close(download(pointer, array), want, "float32")
"""


# The first of many tokens beside the same alone.
BESIDE_OTHERS = """
tokens, hidden, top_k, experts = 40, 256, 64, 50
arrays = make_arrays((tokens,), hidden, top_k, experts)
dy = make_arrays((tokens,), hidden, top_k, experts, seed=1)[0]
op = _runtime.operation(0, (3, 3, 2, hidden, top_k, experts))

def evaluate_first(count):
    \"\"\"Expert states, scores and both gradients of a token's own.\"\"\"
    x, down, up, i, g = (
        upload(a if a is arrays[1] or a is arrays[2] else a[:count].copy())
        for a in arrays)
    like = (dy, arrays[4], dy, arrays[4])
    y, scores, dx, dg = (upload(numpy.empty_like(a[:count])) for a in like)
    size = op.workspace_size(3, count)
    workspace = allocate(size)
    op.forward(ForwardArgs(
        ctypes.sizeof(ForwardArgs), count, x, down, up, i, g, y, scores,
        workspace=workspace, workspace_size=size), 0)
    op.backward(BackwardArgs(
        ctypes.sizeof(BackwardArgs), count, upload(dy[:count].copy()), x, down,
        up, i, g, scores, dx, None, None, dg, workspace=workspace,
        workspace_size=size), 0)
    call("cuCtxSynchronize")
    return [download(pointer, a[:count])
            for pointer, a in zip((y, scores, dx, dg), like)]

for one, other in zip(evaluate_first(2), evaluate_first(tokens)):
    assert numpy.array_equal(one, other[:2])
"""


def run(program, tmp_path, **environment):
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path,
             "FLASHEXPERT_CACHE_DIR": str(tmp_path),
             "FLASHEXPERT_CACHE_PATH": "", "FLASHEXPERT_JIT": "allow",
             "FLASHEXPERT_LIBCUDA": f"{SIMULATED}/libcuda.so",
             "FLASHEXPERT_LIBNVRTC": f"{SIMULATED}/libnvrtc.so",
             **environment})
    assert done.returncode == 0, done.stderr


def test_both_passes(tmp_path):
    run(SETUP + BOTH_PASSES, tmp_path)


def test_gathered_tokens_are_alone(tmp_path):
    run(SETUP + BESIDE_OTHERS, tmp_path, FLASHEXPERT_FAMILY="gather")
