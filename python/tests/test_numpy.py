# SPDX-License-Identifier: Apache-2.0
"""numpy arrays on the reference, and the checks of arguments."""

import os
import subprocess
import sys

import numpy
import pytest
from reference import NAMES, assert_close, evaluate, make_arrays

import flashexpert_rtc as fex
from flashexpert_rtc import ArgumentError, Status, flash_expert_backward
from flashexpert_rtc import flash_expert_func
from flashexpert_rtc import _numpy

try:
    import ml_dtypes
    DTYPES = ["float32", "float16", ml_dtypes.bfloat16]
except ImportError:
    DTYPES = ["float32", "float16"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
@pytest.mark.parametrize("leading", [(5,), (2, 3), (), (0,), (2, 0)])
def test_both_passes_match_the_formula(dtype, index_dtype, leading):
    arrays = make_arrays(leading, dtype=dtype, index_dtype=index_dtype)
    name = numpy.dtype(dtype).name
    expert_states, scores = _numpy.forward(*arrays)
    wanted = evaluate(*arrays)
    assert expert_states.dtype == numpy.dtype(dtype)
    assert_close(expert_states, wanted[0], name)
    assert_close(scores, wanted[1], "float32")
    dy = numpy.ones_like(arrays[0])
    for saved in (scores, None):
        gradients = flash_expert_backward(dy, *arrays, scores=saved)
        for found, want in zip(gradients, evaluate(*arrays, dy)):
            assert_close(found, want, name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_routing_weights_in_float32(dtype):
    arrays = make_arrays(dtype=dtype, routing_dtype="float32")
    name = numpy.dtype(dtype).name
    assert_close(flash_expert_func(*arrays), evaluate(*arrays)[0], name)
    dg = flash_expert_backward(arrays[0], *arrays)[3]
    assert dg.dtype == numpy.float32
    assert_close(dg, evaluate(*arrays, arrays[0])[3], "float32")


def strided(array):
    """The same values with a gap after each row."""
    wide = numpy.full((*array.shape[:-1], array.shape[-1] + 3), 7,
                      array.dtype)
    wide[..., :-3] = array
    return wide[..., :-3]


@pytest.mark.parametrize("layout", [
    strided, numpy.asfortranarray, lambda a: a[::-1, ::-1],
    lambda a: numpy.broadcast_to(a[:1], a.shape)])
def test_layouts(layout):
    arrays = tuple(layout(array) for array in make_arrays())
    dy = layout(make_arrays(seed=1)[0])
    dense = tuple(numpy.ascontiguousarray(array) for array in arrays)
    assert numpy.array_equal(
        flash_expert_func(*arrays), flash_expert_func(*dense))
    found = flash_expert_backward(dy, *arrays)
    wanted = flash_expert_backward(numpy.ascontiguousarray(dy), *dense)
    for one, other in zip(found, wanted):
        assert numpy.array_equal(one, other)


def test_row_strides_are_not_copied():
    rows, stride = _numpy._rows(strided(make_arrays()[0]))
    assert stride == 27 and not rows.flags.c_contiguous


@pytest.mark.parametrize("needed", range(4))
def test_one_gradient_alone(needed):
    arrays = make_arrays()
    whole = flash_expert_backward(arrays[0], *arrays)
    needs = [n == needed for n in range(4)]
    some = flash_expert_backward(arrays[0], *arrays, needs=needs)
    for n in range(4):
        if n == needed:
            assert numpy.array_equal(some[n], whole[n])
        else:
            assert some[n] is None


def wrong(name, change):
    arrays = list(make_arrays())
    position = NAMES.index(name)
    arrays[position] = change(arrays[position])
    return arrays


@pytest.mark.parametrize("name", [n for n in NAMES if n != "down_weights"])
@pytest.mark.parametrize("change", [
    lambda a: a[..., :-1], lambda a: a[:-1], lambda a: a[None]],
    ids=["columns", "rows", "dimensions"])
def test_shapes_that_differ_are_named(name, change):
    with pytest.raises(ArgumentError) as caught:
        flash_expert_func(*wrong(name, change))
    # Of two that disagree the later is named.
    assert caught.value.argument in {
        "hidden_states": (name, "indices"), "indices": (
            name, "routing_weights")}.get(name, (name,))
    assert caught.value.argument in str(caught.value)
    assert caught.value.status is Status.ERROR_INVALID_ARGUMENT


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float64", "uint8"])
def test_dtypes_that_differ_are_named(name, dtype):
    with pytest.raises(ArgumentError) as caught:
        flash_expert_func(*wrong(name, lambda a: a.astype(dtype)))
    assert caught.value.argument == name
    assert name in str(caught.value) and dtype in str(caught.value)


@pytest.mark.parametrize("dtype, wanted", [
    ("float32", "but hidden_states has float32$"),
    ("float16", "neither float16 as hidden_states nor float32$")])
def test_routing_weights_dtypes_are_told(dtype, wanted):
    arrays = make_arrays(dtype=dtype, routing_dtype="float64")
    with pytest.raises(ArgumentError, match=wanted):
        flash_expert_func(*arrays)
    with pytest.raises(ArgumentError, match="float16, but .* has float32$"):
        flash_expert_func(*make_arrays(routing_dtype="float16"))


def test_indices_past_the_table():
    x, down, up, i, g = make_arrays((2, 3))
    assert fex.check_indices(i, len(down)) is None
    assert fex.check_indices(i[:0], 0) is None
    i[1, 0, 2], i[1, 2, 0] = len(down), len(down) + 5
    with pytest.raises(fex.FlashExpertError) as caught:
        fex.check_indices(i, len(down))
    assert caught.value.status is Status.ERROR_INDEX
    assert f"indices[3, 2] is not below num_experts {len(down)}" in str(
        caught.value)
    empty = numpy.where(i < len(down), i, -1)
    assert numpy.array_equal(flash_expert_func(x, down, up, i, g),
                             flash_expert_func(x, down, up, empty, g))


@pytest.mark.parametrize("name", NAMES[1:])
def test_what_is_no_array_is_named(name):
    with pytest.raises(ArgumentError, match=name):
        flash_expert_func(*wrong(name, lambda a: a.tolist()))


def test_down_weights_need_two_dimensions():
    with pytest.raises(ArgumentError, match="down_weights"):
        flash_expert_func(*wrong("down_weights", lambda a: a[None]))


def test_grad_output_and_scores_are_checked():
    arrays = make_arrays()
    with pytest.raises(ArgumentError, match="grad_output"):
        flash_expert_backward(arrays[0][:, :-1], *arrays)
    with pytest.raises(ArgumentError, match="grad_output"):
        flash_expert_backward(arrays[0].astype("float16"), *arrays)
    with pytest.raises(ArgumentError, match="scores"):
        flash_expert_backward(
            arrays[0], *arrays, scores=numpy.zeros(3, numpy.float32))
    with pytest.raises(ArgumentError, match="scores"):
        flash_expert_backward(
            arrays[0], *arrays, scores=numpy.zeros(arrays[3].shape))


def test_what_the_library_refuses_keeps_its_words():
    x, down, up, i, g = make_arrays(top_k=1)
    wide = numpy.zeros((5, 8193), numpy.int64), numpy.zeros(
        (5, 8193), numpy.float32)
    with pytest.raises(ArgumentError, match="top_k.*8193") as caught:
        flash_expert_func(x, down, up, *wide)
    assert str(caught.value).startswith("FEX_ERROR_INVALID_ARGUMENT")


def test_no_experts_a_token():
    with pytest.raises(ArgumentError, match="top_k is 0"):
        flash_expert_func(*make_arrays((2, 3), top_k=0))


def test_without_torch():
    """The package imports and computes where there is no torch."""
    program = (
        "import sys; sys.modules['torch'] = None; import numpy\n"
        "import flashexpert_rtc as fex\n"
        "one = numpy.ones((1, 1), numpy.float32)\n"
        "index = numpy.zeros((1, 1), numpy.int32)\n"
        "y = fex.triton_flash_expert_func(one, one, one, index, one)\n"
        "assert abs(y[0, 0] - 0.7310586) < 1e-6\n"
        "assert 'FlashExperts' not in fex.__all__\n"
        "assert not hasattr(fex, 'FlashExperts')\n"
        "try:\n    fex.FlashExperts\n"
        "except AttributeError as error:\n"
        "    assert 'needs PyTorch' in str(error), error\n"
        "assert all(hasattr(fex, name) for name in fex.__all__)\n")
    path = os.pathsep.join(entry for entry in sys.path if entry)
    subprocess.run([sys.executable, "-c", program], check=True,
                   env={**os.environ, "PYTHONPATH": path})
