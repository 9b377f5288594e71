# SPDX-License-Identifier: Apache-2.0
"""Contexts, one a device, and operations, one a specialisation.

Both live as long as the process: the driver may be gone by the time a
destructor would run. A child of fork() starts with none, for a context is
unusable there.
"""

from __future__ import annotations

import ctypes
import os
import threading
from ctypes import byref
from typing import Dict, Tuple

from ._library import check, library
from ._structures import BackwardArgs, ContextOptions, ForwardArgs, OpDesc
from ._structures import PASS

# dtype, routing dtype, index type as C values; hidden_size, top_k, num_experts
OpKey = Tuple[int, int, int, int, int, int]


class Operation:
    """A fex_op, bound to a device."""

    __slots__ = ("handle", "_library")

    def __init__(self, handle: ctypes.c_void_p):
        self.handle = handle
        self._library = library()

    def workspace_size(self, passes: int, num_tokens: int) -> int:
        size = ctypes.c_size_t()
        check(self._library.fex_op_workspace_size(
            self.handle, passes, num_tokens, byref(size)))
        return size.value

    def forward(self, args: ForwardArgs, stream: int) -> None:
        check(self._library.fex_forward(self.handle, byref(args), stream))

    def backward(self, args: BackwardArgs, stream: int) -> None:
        check(self._library.fex_backward(self.handle, byref(args), stream))

    def prepare(self, passes: str, num_tokens: int) -> None:
        check(self._library.fex_op_prepare(
            self.handle, PASS[passes], num_tokens))


class _Caches:
    """Readers take no lock: a dict's get is atomic, entries never change."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.contexts: Dict[int, ctypes.c_void_p] = {}
        self.operations: Dict[Tuple[int, OpKey], Operation] = {}


_caches = _Caches()


def _forget_in_child() -> None:
    global _caches
    _caches = _Caches()


os.register_at_fork(after_in_child=_forget_in_child)


def describe(key: OpKey) -> OpDesc:
    """The C description of a specialisation."""
    dtype, routing_dtype, index_type, hidden_size, top_k, num_experts = key
    return OpDesc(
        size=ctypes.sizeof(OpDesc), dtype=dtype, routing_dtype=routing_dtype,
        index_type=index_type, hidden_size=hidden_size, top_k=top_k,
        num_experts=num_experts)


def context(device: int) -> ctypes.c_void_p:
    """The context of a CUDA ordinal or DEVICE_NONE, made on first use."""
    found = _caches.contexts.get(device)
    if found is not None:
        return found
    with _caches.lock:
        if device not in _caches.contexts:
            handle = ctypes.c_void_p()
            options = ContextOptions(
                size=ctypes.sizeof(ContextOptions), device=device)
            check(library().fex_context_create(
                byref(options), byref(handle)))
            _caches.contexts[device] = handle
        return _caches.contexts[device]


def operation(device: int, key: OpKey) -> Operation:
    """The operation of a specialisation on a device, made on first use."""
    found = _caches.operations.get((device, key))
    if found is not None:
        return found
    owner = context(device)
    with _caches.lock:
        if (device, key) not in _caches.operations:
            handle = ctypes.c_void_p()
            check(library().fex_op_create(
                owner, byref(describe(key)), byref(handle)))
            _caches.operations[device, key] = Operation(handle)
        return _caches.operations[device, key]
