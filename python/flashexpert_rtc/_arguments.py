# SPDX-License-Identifier: Apache-2.0
"""What the arguments of one call must be, for arrays of either kind."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

from ._errors import ArgumentError, FlashExpertError, Status
from ._structures import DTYPE, INDEX_TYPE

NAMES = ("hidden_states", "down_weights", "up_weights", "indices",
         "routing_weights")


class Shape(NamedTuple):
    """The sizes of a call; leading dimensions are folded into num_tokens."""

    num_tokens: int
    hidden_size: int
    top_k: int
    num_experts: int


def dtype_name(dtype: Any) -> str:
    """'bfloat16' for torch.bfloat16, numpy dtypes, numpy's scalar types and
    names such as 'bf16'."""
    name = (dtype.__name__ if isinstance(dtype, type)
            else str(dtype).rpartition(".")[2])
    return {"f16": "float16", "bf16": "bfloat16", "f32": "float32",
            "i32": "int32", "i64": "int64"}.get(name, name)


def code_of(table: dict, dtype: Any, argument: str) -> int:
    """The C value of a dtype, or an error that names the argument."""
    name = dtype_name(dtype)
    if name not in table:
        raise ArgumentError(
            f"{argument} has dtype {name}, not one of {', '.join(table)}",
            argument)
    return table[name]


def shape_of(hidden_states: Any, down_weights: Any, up_weights: Any,
             indices: Any, routing_weights: Any) -> Shape:
    """Checks the shapes of arrays, which have .shape, and folds them."""
    x, down, i = hidden_states.shape, down_weights.shape, indices.shape
    if len(down) != 2:
        raise _shape_error("down_weights", down, "(num_experts, hidden_size)")
    if len(x) < 1 or x[-1] != down[1]:
        raise _shape_error("hidden_states", x, f"(..., {down[1]})")
    if up_weights.shape != down:
        raise _shape_error("up_weights", up_weights.shape, _show(down))
    if len(i) < 1 or i[:-1] != x[:-1]:
        raise _shape_error("indices", i, _show(x[:-1], "top_k"))
    if routing_weights.shape != i:
        raise _shape_error("routing_weights", routing_weights.shape, _show(i))
    num_tokens = 1
    for size in x[:-1]:
        num_tokens *= size
    return Shape(num_tokens, down[1], i[-1], down[0])


def check_dtypes(hidden_states: Any, down_weights: Any, up_weights: Any,
                 indices: Any, routing_weights: Any) -> None:
    """Checks the dtypes of arrays, which have .dtype."""
    dtype = hidden_states.dtype
    code_of(DTYPE, dtype, "hidden_states")
    for name, array in (("down_weights", down_weights),
                        ("up_weights", up_weights)):
        if array.dtype != dtype:
            raise ArgumentError(
                f"{name} has dtype {dtype_name(array.dtype)}, but "
                f"hidden_states has {dtype_name(dtype)}", name)
    wanted, found = dtype_name(dtype), dtype_name(routing_weights.dtype)
    if found not in (wanted, "float32"):
        raise ArgumentError(
            f"routing_weights has dtype {found}, " + (
                "but hidden_states has float32" if wanted == "float32" else
                f"neither {wanted} as hidden_states nor float32"),
            "routing_weights")
    code_of(INDEX_TYPE, indices.dtype, "indices")


def check_indices(indices: Any, num_experts: int) -> None:
    """Raises FlashExpertError with Status.ERROR_INDEX if an index is not below
    num_experts, and names the first.

    flash_expert_func takes such an index for an empty slot, as it does a
    negative one. This is for finding bugs: it waits for tensors on a GPU.
    indices are (..., top_k), a tensor or a numpy array.
    """
    flat = indices.reshape(-1)
    if len(flat) == 0 or int(flat.max()) < num_experts:
        return
    first = next(place for place, expert in enumerate(flat.tolist())
                 if expert >= num_experts)
    token, slot = divmod(first, indices.shape[-1])
    raise FlashExpertError(
        Status.ERROR_INDEX,
        f"indices[{token}, {slot}] is not below num_experts {num_experts}")


def check_grad_output(grad_output: Any, hidden_states: Any) -> None:
    """A gradient is shaped and typed as the output, hidden_states' like."""
    if grad_output.shape != hidden_states.shape:
        raise _shape_error("grad_output", grad_output.shape,
                           _show(hidden_states.shape))
    if grad_output.dtype != hidden_states.dtype:
        raise ArgumentError(
            f"grad_output has dtype {dtype_name(grad_output.dtype)}, but "
            f"hidden_states has {dtype_name(hidden_states.dtype)}",
            "grad_output")


def check_scores(scores: Any, indices: Any) -> None:
    """Scores are shaped as the indices, in float32."""
    if scores.shape != indices.shape:
        raise _shape_error("scores", scores.shape, _show(indices.shape))
    if dtype_name(scores.dtype) != "float32":
        raise ArgumentError(
            f"scores has dtype {dtype_name(scores.dtype)}, not float32",
            "scores")


def _show(shape: Any, last: Optional[str] = None) -> str:
    sizes = [str(size) for size in shape] + ([last] if last else [])
    return "(" + ", ".join(sizes) + ("," if len(sizes) == 1 else "") + ")"


def _shape_error(name: str, found: Any, wanted: str) -> ArgumentError:
    return ArgumentError(
        f"{name} has shape {_show(found)}, expected {wanted}", name)
