# SPDX-License-Identifier: Apache-2.0
"""The C header's structures, enumerations and functions for ctypes.

Everything here is data. A test compiles the header and compares sizes,
offsets and values.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char, c_char_p, c_double, c_int, c_int64
from ctypes import c_size_t, c_uint, c_uint64, c_void_p

DTYPE = {"float16": 1, "bfloat16": 2, "float32": 3}
INDEX_TYPE = {"int32": 1, "int64": 2}
PASS = {"forward": 1, "backward": 2, "both": 3}
DEVICE_NONE = -2
PREWARM_CHECK = 1
PREWARM_REFRESH = 2

JitFunction = ctypes.CFUNCTYPE(None, c_void_p, c_char_p)


class ContextOptions(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("device", c_int),
        ("jit", c_int),
        ("cache_dir", c_char_p),
        ("cache_path", c_char_p),
        ("kernel_dir", c_char_p),
        ("log", c_void_p),
        ("log_user", c_void_p),
    ]


class ContextInfo(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("device", c_int),
        ("device_name", c_char * 128),
        ("architecture", c_char * 16),
        ("multiprocessors", c_int),
        ("l2_bytes", c_int64),
        ("driver_version", c_int),
        ("driver_library", c_char * 512),
        ("compiler_version", c_int),
        ("compiler_library", c_char * 512),
        ("cache_dir", c_char * 512),
        ("cache_path", c_char * 1024),
        ("kernel_digest", c_char * 33),
    ]


class ContextStats(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("memory_hits", c_uint64),
        ("cache_hits", c_uint64),
        ("cache_misses", c_uint64),
        ("compiles", c_uint64),
        ("compile_seconds", c_double),
        ("damaged", c_uint64),
    ]


class OpDesc(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("dtype", c_int),
        ("routing_dtype", c_int),
        ("weight_grad_dtype", c_int),
        ("index_type", c_int),
        ("hidden_size", c_int64),
        ("top_k", c_int64),
        ("num_experts", c_int64),
        ("flags", c_uint),
    ]


class ForwardArgs(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("num_tokens", c_int64),
        ("hidden_states", c_void_p),
        ("down_weights", c_void_p),
        ("up_weights", c_void_p),
        ("indices", c_void_p),
        ("routing_weights", c_void_p),
        ("expert_states", c_void_p),
        ("scores", c_void_p),
        ("hidden_states_stride", c_int64),
        ("down_weights_stride", c_int64),
        ("up_weights_stride", c_int64),
        ("indices_stride", c_int64),
        ("routing_weights_stride", c_int64),
        ("expert_states_stride", c_int64),
        ("scores_stride", c_int64),
        ("workspace", c_void_p),
        ("workspace_size", c_size_t),
    ]


class BackwardArgs(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("num_tokens", c_int64),
        ("grad_output", c_void_p),
        ("hidden_states", c_void_p),
        ("down_weights", c_void_p),
        ("up_weights", c_void_p),
        ("indices", c_void_p),
        ("routing_weights", c_void_p),
        ("scores", c_void_p),
        ("grad_hidden_states", c_void_p),
        ("grad_down_weights", c_void_p),
        ("grad_up_weights", c_void_p),
        ("grad_routing_weights", c_void_p),
        ("grad_output_stride", c_int64),
        ("hidden_states_stride", c_int64),
        ("down_weights_stride", c_int64),
        ("up_weights_stride", c_int64),
        ("indices_stride", c_int64),
        ("routing_weights_stride", c_int64),
        ("scores_stride", c_int64),
        ("grad_hidden_states_stride", c_int64),
        ("grad_down_weights_stride", c_int64),
        ("grad_up_weights_stride", c_int64),
        ("grad_routing_weights_stride", c_int64),
        ("accumulate", c_uint),
        ("workspace", c_void_p),
        ("workspace_size", c_size_t),
    ]


class PrewarmCounts(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("requested", c_uint64),
        ("hit", c_uint64),
        ("compiled", c_uint64),
        ("missing", c_uint64),
        ("failed", c_uint64),
    ]


# ctypes class -> the C type's name, for the test of layouts.
STRUCTURES = {
    ContextOptions: "fex_context_options",
    ContextInfo: "fex_context_info",
    ContextStats: "fex_context_stats",
    OpDesc: "fex_op_desc",
    ForwardArgs: "fex_forward_args",
    BackwardArgs: "fex_backward_args",
    PrewarmCounts: "fex_prewarm_counts",
}

_OUT = POINTER(c_void_p)

# Functions: name -> result, arguments. Those with c_int return fex_status.
FUNCTIONS = {
    "fex_version": (c_char_p, []),
    "fex_last_error": (c_char_p, []),
    "fex_context_create": (c_int, [POINTER(ContextOptions), _OUT]),
    "fex_context_get_info": (c_int, [c_void_p, POINTER(ContextInfo)]),
    "fex_context_get_stats": (c_int, [c_void_p, POINTER(ContextStats)]),
    "fex_jit_monitor": (c_int, [c_void_p, c_void_p, c_void_p]),
    "fex_op_create": (c_int, [c_void_p, POINTER(OpDesc), _OUT]),
    "fex_op_workspace_size": (
        c_int, [c_void_p, c_int, c_int64, POINTER(c_size_t)]),
    "fex_op_prepare": (c_int, [c_void_p, c_int, c_int64]),
    "fex_forward": (c_int, [c_void_p, POINTER(ForwardArgs), c_void_p]),
    "fex_backward": (c_int, [c_void_p, POINTER(BackwardArgs), c_void_p]),
    "fex_reference_forward": (
        c_int, [POINTER(OpDesc), POINTER(ForwardArgs)]),
    "fex_reference_backward": (
        c_int, [POINTER(OpDesc), POINTER(BackwardArgs)]),
    "fex_prewarm": (
        c_int, [c_void_p, POINTER(OpDesc), c_int, c_int64, c_char_p, c_uint,
                c_void_p, c_void_p, POINTER(PrewarmCounts)]),
}
