# SPDX-License-Identifier: Apache-2.0
"""Filling the kernel cache, loading kernels, and watching for compiles."""

from __future__ import annotations

import ctypes
from ctypes import byref
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from . import _arguments, _runtime
from ._errors import ArgumentError, FlashExpertError, Status
from ._library import check, library
from ._structures import DEVICE_NONE, DTYPE, INDEX_TYPE, PASS
from ._structures import PREWARM_CHECK, PREWARM_REFRESH
from ._structures import ContextInfo, ContextStats, JitFunction
from ._structures import PrewarmCounts as _CPrewarmCounts


class PrewarmCounts(NamedTuple):
    """Kernels asked for and what became of them."""

    requested: int
    hit: int
    compiled: int
    missing: int
    failed: int


def _key(hidden_size: int, top_k: int, num_experts: int, dtype: Any,
         routing_dtype: Any, index_dtype: Any) -> _runtime.OpKey:
    return (_arguments.code_of(DTYPE, dtype, "dtype"),
            _arguments.code_of(
                DTYPE, dtype if routing_dtype is None else routing_dtype,
                "routing_dtype"),
            _arguments.code_of(INDEX_TYPE, index_dtype, "index_dtype"),
            hidden_size, top_k, num_experts)


def _pass(passes: str) -> int:
    if passes not in PASS:
        raise ArgumentError(
            f"passes is {passes!r}, not one of {', '.join(PASS)}", "passes")
    return PASS[passes]


def prepare(hidden_size: int, top_k: int, num_experts: int, num_tokens: int,
            *, dtype: Any = "bfloat16", routing_dtype: Any = None,
            index_dtype: Any = "int64", passes: str = "both",
            device: int = 0) -> None:
    """Loads every kernel that calls of up to num_tokens tokens need, compiling
    what the cache lacks; such calls may then be captured in CUDA graphs.

    What a shape and the dtypes mean is said at prewarm.
    """
    _pass(passes)
    _runtime.operation(device, _key(
        hidden_size, top_k, num_experts, dtype, routing_dtype,
        index_dtype)).prepare(passes, num_tokens)


def prewarm(hidden_size: int, top_k: int, num_experts: int, num_tokens: int,
            *, dtype: Any = "bfloat16", routing_dtype: Any = None,
            index_dtype: Any = "int64", passes: str = "both",
            architecture: Optional[str] = None, device: int = 0,
            check_only: bool = False, refresh: bool = False) -> PrewarmCounts:
    """Brings into the cache on disk every kernel that calls of up to num_tokens
    tokens need, so that nothing is compiled when serving.

    Kernels are made for one hidden_size, top_k and num_experts, and for the
    dtypes of the calls to come: dtype, of hidden states and both tables
    (under autocast that which they are cast to); routing_dtype, of the routing
    weights, None meaning dtype; index_dtype. A dtype is torch's, numpy's or a
    name. The command's shapes have other defaults: `index=i64` there is
    index_dtype="int64" here, `routing=f32` is routing_dtype="float32".

    passes is 'forward', 'backward' or 'both'. With an architecture such as
    'sm_90a' no GPU is needed; without one the kernels are the device's.
    refresh compiles again what an older compiler made.

    Raises FlashExpertError if a kernel cannot be had, once the others were
    tried. With check_only nothing is compiled, and what is missing raises it
    with Status.ERROR_JIT_FORBIDDEN and the name of the first missing kernel;
    returning means that all is there.
    """
    context = _runtime.context(DEVICE_NONE if architecture else device)
    desc = _runtime.describe(_key(
        hidden_size, top_k, num_experts, dtype, routing_dtype, index_dtype))
    counts = _CPrewarmCounts(size=ctypes.sizeof(_CPrewarmCounts))
    flags = (PREWARM_CHECK if check_only else 0) | (
        PREWARM_REFRESH if refresh else 0)
    check(library().fex_prewarm(
        context, byref(desc), _pass(passes), num_tokens,
        architecture.encode() if architecture else None, flags, None, None,
        byref(counts)))
    return PrewarmCounts(
        *(getattr(counts, name) for name in PrewarmCounts._fields))


_FIRST: Any = object()


def info(device: Optional[int] = _FIRST) -> Dict[str, Any]:
    """What the context of a device found and counted: versions, libraries, the
    cache, kernels loaded and compiled.

    device is a CUDA ordinal, which raises FlashExpertError where there is no
    such device, or None for the context without one, which prewarm for an
    architecture uses. By default it is 0, or else None where there is no GPU.
    In the result 'device' is the ordinal or None.
    """
    context = _first_context() if device is _FIRST else _runtime.context(
        DEVICE_NONE if device is None else device)
    found: Dict[str, Any] = {"version": library().fex_version().decode()}
    for kind, get in ((ContextInfo, library().fex_context_get_info),
                      (ContextStats, library().fex_context_get_stats)):
        members = kind(size=ctypes.sizeof(kind))
        check(get(context, byref(members)))
        for name, *_ in kind._fields_[1:]:
            value = getattr(members, name)
            found[name] = value.decode() if isinstance(value, bytes) else value
    if found["device"] == DEVICE_NONE:
        found["device"] = None
    return found


def _first_context() -> ctypes.c_void_p:
    try:
        return _runtime.context(0)
    except FlashExpertError as error:
        if error.status not in (Status.ERROR_NO_DRIVER,
                                Status.ERROR_NO_DEVICE):
            raise
    return _runtime.context(DEVICE_NONE)


class JitMonitor:
    """Watches a device for kernels compiled on a serving path.

        with JitMonitor() as monitor:
            serve()
        assert not monitor.kernels

    `function`, if given, is called with each kernel in words, in the thread
    that compiles; it must not call this package. One monitor a device is
    armed at a time.
    """

    def __init__(self, function: Optional[Callable[[str], None]] = None,
                 device: int = 0):
        self.kernels: List[str] = []
        self._function = function
        self._device = device
        self._callback = JitFunction(self._seen)

    def _seen(self, user: Any, kernel: bytes) -> None:
        text = kernel.decode(errors="replace")
        self.kernels.append(text)
        if self._function is not None:
            self._function(text)

    def __enter__(self) -> "JitMonitor":
        check(library().fex_jit_monitor(
            _runtime.context(self._device),
            ctypes.cast(self._callback, ctypes.c_void_p), None))
        return self

    def __exit__(self, *exception: Any) -> None:
        check(library().fex_jit_monitor(
            _runtime.context(self._device), None, None))
