# SPDX-License-Identifier: Apache-2.0
"""Single-neuron experts on NVIDIA GPUs, over libflashexpert_rtc.

With torch: flash_expert_func and FlashExperts, differentiable, on CUDA and, by
a slow reference, on CPU tensors. Without torch, flash_expert_func takes numpy
arrays.
"""

from ._deploy import JitMonitor, PrewarmCounts, info, prepare, prewarm
from ._errors import ArgumentError, FlashExpertError, LibraryError, Status
from ._numpy import flash_expert_backward
from ._version import VERSION as __version__

try:
    import torch as _has_torch
except ImportError:
    _has_torch = None

if _has_torch is None:
    from ._numpy import flash_expert_func
else:
    from ._modules import FlashExperts
    from ._torch import flash_expert_func

# The name under which FlashMoE has it.
triton_flash_expert_func = flash_expert_func

__all__ = [
    "ArgumentError", "FlashExpertError", "JitMonitor", "LibraryError",
    "PrewarmCounts", "Status", "flash_expert_backward", "flash_expert_func",
    "info", "prepare", "prewarm", "triton_flash_expert_func",
] + ([] if _has_torch is None else ["FlashExperts"])
