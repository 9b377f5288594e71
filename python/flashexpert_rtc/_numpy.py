# SPDX-License-Identifier: Apache-2.0
"""The operation on numpy arrays, by the library's reference on the CPU."""

from __future__ import annotations

import ctypes
from ctypes import byref
from typing import Optional, Sequence, Tuple

import numpy

from . import _arguments
from ._errors import ArgumentError
from ._library import check, library
from ._runtime import describe
from ._structures import DTYPE, INDEX_TYPE, BackwardArgs, ForwardArgs, OpDesc

# Of hidden_states, down_weights, up_weights, routing_weights.
Gradients = Tuple[Optional[numpy.ndarray], ...]


def _rows(array: numpy.ndarray) -> Tuple[numpy.ndarray, int]:
    """The array as dense or strided rows, and the stride; else a copy."""
    if array.flags.c_contiguous:
        return array, 0
    rows = array.reshape(-1, array.shape[-1]) if array.ndim != 2 else array
    step, width = rows.strides[0], rows.shape[1] * rows.itemsize
    dense = rows.shape[1] <= 1 or rows.strides[1] == rows.itemsize
    whole = step >= width and step % rows.itemsize == 0
    if dense and whole and rows.shape[0] > 1:
        return rows, step // rows.itemsize
    return numpy.ascontiguousarray(rows), 0


def _check(*arrays: numpy.ndarray) -> Tuple[_arguments.Shape, OpDesc]:
    for name, array in zip(_arguments.NAMES, arrays):
        if not isinstance(array, numpy.ndarray):
            raise ArgumentError(
                f"{name} is a {type(array).__name__}, not an array", name)
    shape = _arguments.shape_of(*arrays)
    _arguments.check_dtypes(*arrays)
    hidden_states, _, _, indices, routing_weights = arrays
    return shape, describe((
        DTYPE[hidden_states.dtype.name], DTYPE[routing_weights.dtype.name],
        INDEX_TYPE[indices.dtype.name], *shape[1:]))


def _set(args: ctypes.Structure, name: str,
         array: Optional[numpy.ndarray]) -> Optional[numpy.ndarray]:
    """Points an argument at an array; the caller keeps what is returned."""
    if array is None:
        return None
    rows, stride = _rows(array)
    setattr(args, name, rows.ctypes.data)
    setattr(args, name + "_stride", stride)
    return rows


def forward(
    hidden_states: numpy.ndarray,
    down_weights: numpy.ndarray,
    up_weights: numpy.ndarray,
    indices: numpy.ndarray,
    routing_weights: numpy.ndarray,
) -> Tuple[numpy.ndarray, numpy.ndarray]:
    """expert_states, and the scores, (..., top_k) in float32."""
    arrays = (hidden_states, down_weights, up_weights, indices,
              routing_weights)
    shape, desc = _check(*arrays)
    expert_states = numpy.empty(hidden_states.shape, hidden_states.dtype)
    scores = numpy.empty(indices.shape, numpy.float32)
    args = ForwardArgs(size=ctypes.sizeof(ForwardArgs),
                       num_tokens=shape.num_tokens)
    names = _arguments.NAMES + ("expert_states", "scores")
    kept = [_set(args, name, array)
            for name, array in zip(names, arrays + (expert_states, scores))]
    check(library().fex_reference_forward(byref(desc), byref(args)))
    del kept
    return expert_states, scores


def flash_expert_func(
    hidden_states: numpy.ndarray,
    down_weights: numpy.ndarray,
    up_weights: numpy.ndarray,
    indices: numpy.ndarray,
    routing_weights: numpy.ndarray,
) -> numpy.ndarray:
    """Evaluates single-neuron experts on numpy arrays, on the CPU.

    hidden_states    (..., hidden_size)  float16, float32, or ml_dtypes'
                     bfloat16
    down_weights     (num_experts, hidden_size)  of the same dtype
    up_weights       (num_experts, hidden_size)  of the same dtype
    indices          (..., top_k)  int32 or int64; what is negative, or not
                     below num_experts, is an empty slot
    routing_weights  (..., top_k)  of hidden_states' dtype or float32

    Returns expert_states, shaped and typed as hidden_states:
    sum over k of routing_weights[k] * silu(x . down[indices[k]])
    * up[indices[k]], summed in double and rounded once.
    """
    return forward(hidden_states, down_weights, up_weights, indices,
                   routing_weights)[0]


def flash_expert_backward(
    grad_output: numpy.ndarray,
    hidden_states: numpy.ndarray,
    down_weights: numpy.ndarray,
    up_weights: numpy.ndarray,
    indices: numpy.ndarray,
    routing_weights: numpy.ndarray,
    scores: Optional[numpy.ndarray] = None,
    needs: Sequence[bool] = (True, True, True, True),
) -> Gradients:
    """The gradients of flash_expert_func on numpy arrays, on the CPU.

    grad_output  (..., hidden_size)  of hidden_states' dtype
    scores       (..., top_k)  float32: x . down[indices[k]], 0 in an empty
                 slot; None: computed again
    needs        which of the four gradients are wanted

    The other arguments are as in flash_expert_func. Returns the gradients of
    hidden_states, down_weights, up_weights and routing_weights, each shaped
    and typed as what it is of, None where it is not wanted.
    """
    arrays = (hidden_states, down_weights, up_weights, indices,
              routing_weights)
    shape, desc = _check(*arrays)
    _arguments.check_grad_output(grad_output, hidden_states)
    if scores is not None:
        _arguments.check_scores(scores, indices)
    wanted = (hidden_states, down_weights, up_weights, routing_weights)
    gradients = tuple(
        numpy.empty(array.shape, array.dtype) if need else None
        for array, need in zip(wanted, needs))
    if not any(needs):
        return gradients
    names = ("grad_output",) + _arguments.NAMES + ("scores",) + tuple(
        "grad_" + name for name in _arguments.NAMES if name != "indices")
    args = BackwardArgs(size=ctypes.sizeof(BackwardArgs),
                        num_tokens=shape.num_tokens)
    kept = [_set(args, name, array) for name, array in zip(
        names, (grad_output,) + arrays + (scores,) + gradients)]
    check(library().fex_reference_backward(byref(desc), byref(args)))
    del kept
    return gradients
