# SPDX-License-Identifier: Apache-2.0
"""The custom operators of torch: kernels, fake kernels and the gradient.

Operators are defined through torch.library.Library, which costs an eager call
less than torch.library.custom_op does.
"""

from __future__ import annotations

import ctypes
from ctypes import byref
from typing import Any, List, Optional, Tuple

import torch
from torch import Tensor

from . import _arguments
from ._errors import ArgumentError
from ._library import check, library
from ._runtime import Operation, describe, operation
from ._structures import PASS, BackwardArgs, ForwardArgs

_DTYPE = {torch.float16: 1, torch.bfloat16: 2, torch.float32: 3}
_INDEX_TYPE = {torch.int32: 1, torch.int64: 2}
_FORWARD_SIZE = ctypes.sizeof(ForwardArgs)
_BACKWARD_SIZE = ctypes.sizeof(BackwardArgs)

_definitions = torch.library.Library("flashexpert_rtc", "DEF")
_definitions.define(
    "experts(Tensor hidden_states, Tensor down_weights, Tensor up_weights, "
    "Tensor indices, Tensor routing_weights, bool save_scores) "
    "-> (Tensor, Tensor)", tags=(torch.Tag.pt2_compliant_tag,))
_definitions.define(
    "experts_backward(Tensor grad_output, Tensor hidden_states, "
    "Tensor down_weights, Tensor up_weights, Tensor indices, "
    "Tensor routing_weights, Tensor scores, bool[4] needs) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,))

experts = torch.ops.flashexpert_rtc.experts.default
experts_backward = torch.ops.flashexpert_rtc.experts_backward.default


def _shape(*tensors: Tensor) -> _arguments.Shape:
    """Checks a call's tensors and folds their shapes."""
    device = tensors[0].device
    for name, tensor in zip(_arguments.NAMES, tensors):
        if tensor.device != device:
            raise ArgumentError(
                f"{name} is on {tensor.device}, but hidden_states is on "
                f"{device}", name)
    _arguments.check_dtypes(*tensors)
    return _arguments.shape_of(*tensors)


def _key(shape: _arguments.Shape, hidden_states: Tensor, indices: Tensor,
         routing_weights: Tensor) -> Tuple[int, int, int, int, int, int]:
    return (_DTYPE[hidden_states.dtype], _DTYPE[routing_weights.dtype],
            _INDEX_TYPE[indices.dtype], *shape[1:])


def _rows(tensor: Tensor) -> Tuple[Tensor, int]:
    """The tensor as rows, and the stride between them (0: dense); a copy
    where its memory is not rows of adjacent elements."""
    if tensor.is_contiguous():
        return tensor, 0
    width = tensor.shape[-1]
    rows = tensor if tensor.dim() == 2 else tensor.reshape(-1, width)
    step, inner = rows.stride()
    if step >= width and (inner == 1 or width == 1):
        return rows, step
    return rows.contiguous(), 0


def _workspace(op: Operation, passes: int, num_tokens: int,
               device: torch.device) -> Tuple[Optional[Tensor], int]:
    """Memory of torch's allocator for this call on the current stream: what
    is freed here is only given to later work of the same stream."""
    size = op.workspace_size(passes, num_tokens)
    if size == 0:
        return None, 0
    return torch.empty(size, dtype=torch.uint8, device=device), size


def _experts(hidden_states: Tensor, down_weights: Tensor, up_weights: Tensor,
             indices: Tensor, routing_weights: Tensor,
             save_scores: bool) -> Tuple[Tensor, Tensor]:
    shape = _shape(hidden_states, down_weights, up_weights, indices,
                   routing_weights)
    key = _key(shape, hidden_states, indices, routing_weights)
    device = hidden_states.device
    expert_states, scores = _outputs(hidden_states, indices, save_scores)
    x, x_stride = _rows(hidden_states)
    down, down_stride = _rows(down_weights)
    up, up_stride = _rows(up_weights)
    i, i_stride = _rows(indices)
    g, g_stride = _rows(routing_weights)
    args = ForwardArgs(
        _FORWARD_SIZE, shape.num_tokens, x.data_ptr(), down.data_ptr(),
        up.data_ptr(), i.data_ptr(), g.data_ptr(), expert_states.data_ptr(),
        scores.data_ptr() or None, x_stride, down_stride, up_stride, i_stride,
        g_stride)
    if device.type == "cpu":
        check(library().fex_reference_forward(
            byref(describe(key)), byref(args)))
        return expert_states, scores
    op = operation(device.index, key)
    workspace, size = _workspace(
        op, PASS["forward"], shape.num_tokens, device)
    if workspace is not None:
        args.workspace, args.workspace_size = workspace.data_ptr(), size
    op.forward(args, torch.cuda.current_stream(device).cuda_stream)
    return expert_states, scores


def _experts_backward(
    grad_output: Tensor, hidden_states: Tensor, down_weights: Tensor,
    up_weights: Tensor, indices: Tensor, routing_weights: Tensor,
    scores: Tensor, needs: List[bool],
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = _shape(hidden_states, down_weights, up_weights, indices,
                   routing_weights)
    _arguments.check_grad_output(grad_output, hidden_states)
    key = _key(shape, hidden_states, indices, routing_weights)
    device = hidden_states.device
    gradients = _gradients(hidden_states, down_weights, up_weights,
                           routing_weights, needs)
    if not any(needs):
        return gradients
    dy, dy_stride = _rows(grad_output)
    x, x_stride = _rows(hidden_states)
    down, down_stride = _rows(down_weights)
    up, up_stride = _rows(up_weights)
    i, i_stride = _rows(indices)
    g, g_stride = _rows(routing_weights)
    s, s_stride = _rows(scores)
    pointers = [gradient.data_ptr() if need else None
                for gradient, need in zip(gradients, needs)]
    args = BackwardArgs(
        _BACKWARD_SIZE, shape.num_tokens, dy.data_ptr(), x.data_ptr(),
        down.data_ptr(), up.data_ptr(), i.data_ptr(), g.data_ptr(),
        s.data_ptr() or None, *pointers, dy_stride, x_stride, down_stride,
        up_stride, i_stride, g_stride, s_stride)
    if device.type == "cpu":
        check(library().fex_reference_backward(
            byref(describe(key)), byref(args)))
        return gradients
    op = operation(device.index, key)
    workspace, size = _workspace(
        op, PASS["backward"], shape.num_tokens, device)
    if workspace is not None:
        args.workspace, args.workspace_size = workspace.data_ptr(), size
    op.backward(args, torch.cuda.current_stream(device).cuda_stream)
    return gradients


def _outputs(hidden_states: Tensor, indices: Tensor,
             save_scores: bool) -> Tuple[Tensor, Tensor]:
    device = hidden_states.device
    return (torch.empty(hidden_states.shape, dtype=hidden_states.dtype,
                        device=device),
            torch.empty(indices.shape if save_scores else (0,),
                        dtype=torch.float32, device=device))


def _gradients(hidden_states: Tensor, down_weights: Tensor,
               up_weights: Tensor, routing_weights: Tensor,
               needs: List[bool]) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Dense memory for each gradient, none for one that nobody needs."""
    like = (hidden_states, down_weights, up_weights, routing_weights)
    dx, ddown, dup, dg = (
        torch.empty(t.shape if need else (0,), dtype=t.dtype, device=t.device)
        for t, need in zip(like, needs))
    return dx, ddown, dup, dg


def _experts_fake(hidden_states: Tensor, down_weights: Tensor,
                  up_weights: Tensor, indices: Tensor,
                  routing_weights: Tensor,
                  save_scores: bool) -> Tuple[Tensor, Tensor]:
    _shape(hidden_states, down_weights, up_weights, indices, routing_weights)
    return _outputs(hidden_states, indices, save_scores)


def _experts_backward_fake(
    grad_output: Tensor, hidden_states: Tensor, down_weights: Tensor,
    up_weights: Tensor, indices: Tensor, routing_weights: Tensor,
    scores: Tensor, needs: List[bool],
) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    _arguments.check_grad_output(grad_output, hidden_states)
    return _gradients(hidden_states, down_weights, up_weights,
                      routing_weights, needs)


def _save(ctx: Any, inputs: Tuple[Any, ...],
          output: Tuple[Tensor, Tensor]) -> None:
    scores = output[1]
    ctx.save_for_backward(*inputs[:5], scores)
    ctx.mark_non_differentiable(scores)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_output: Optional[Tensor],
                   grad_scores: Optional[Tensor]) -> Tuple[Any, ...]:
    wanted = [ctx.needs_input_grad[n] for n in (0, 1, 2, 4)]
    if grad_output is None:
        return (None,) * 6
    found = experts_backward(grad_output, *ctx.saved_tensors, wanted)
    dx, ddown, dup, dg = (
        gradient if need else None for gradient, need in zip(found, wanted))
    return dx, ddown, dup, None, dg, None


def _no_second(ctx: Any, *gradients: Any) -> None:
    raise NotImplementedError(
        "flashexpert_rtc: the backward pass cannot be differentiated again")


for _device in ("CPU", "CUDA"):
    _definitions.impl("experts", _experts, _device)
    _definitions.impl("experts_backward", _experts_backward, _device)
torch.library.register_fake(
    "flashexpert_rtc::experts", _experts_fake, lib=_definitions)
torch.library.register_fake(
    "flashexpert_rtc::experts_backward", _experts_backward_fake,
    lib=_definitions)
torch.library.register_autograd(
    "flashexpert_rtc::experts", _differentiate, setup_context=_save,
    lib=_definitions)
torch.library.register_autograd(
    "flashexpert_rtc::experts_backward", _no_second, lib=_definitions)


def flash_expert_func(
    hidden_states: Tensor,
    down_weights: Tensor,
    up_weights: Tensor,
    indices: Tensor,
    routing_weights: Tensor,
) -> Tensor:
    """Evaluates single-neuron experts.

    hidden_states    (..., hidden_size)  float16, bfloat16 or float32
    down_weights     (num_experts, hidden_size)  of the same dtype
    up_weights       (num_experts, hidden_size)  of the same dtype
    indices          (..., top_k)  int32 or int64; what is negative, or not
                     below num_experts, is an empty slot; see check_indices
    routing_weights  (..., top_k)  of hidden_states' dtype or float32

    Returns expert_states, shaped and typed as hidden_states:
    sum over k of routing_weights[k] * silu(x . down[indices[k]])
    * up[indices[k]]. All but indices are differentiable, once.

    Under autocast hidden_states and both tables are cast to autocast's dtype,
    as torch.nn.functional.linear does; routing_weights are left in float32
    and otherwise cast too. The result has autocast's dtype.

    Tensors on a CPU are evaluated by a slow reference.
    """
    if not isinstance(hidden_states, Tensor):
        from . import _numpy
        return _numpy.flash_expert_func(
            hidden_states, down_weights, up_weights, indices, routing_weights)
    kind = hidden_states.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        hidden_states = hidden_states.to(dtype)
        down_weights = down_weights.to(dtype)
        up_weights = up_weights.to(dtype)
        if routing_weights.dtype != torch.float32:
            routing_weights = routing_weights.to(dtype)
    save_scores = torch.is_grad_enabled() and (
        hidden_states.requires_grad or down_weights.requires_grad
        or up_weights.requires_grad or routing_weights.requires_grad)
    return experts(hidden_states, down_weights, up_weights, indices,
                   routing_weights, save_scores)[0]
