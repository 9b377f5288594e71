# SPDX-License-Identifier: Apache-2.0
"""Single-neuron experts on NVIDIA GPUs, over libflashexpert_rtc.

With torch: flash_expert_func and FlashExperts, differentiable, on CUDA and, by
a slow reference, on CPU tensors. With and without it flash_expert_func and
flash_expert_backward take numpy arrays.
"""

from importlib.util import find_spec as _find_spec
from typing import TYPE_CHECKING

from ._arguments import check_indices
from ._deploy import JitMonitor, PrewarmCounts, info, prepare, prewarm
from ._errors import ArgumentError, FlashExpertError, LibraryError, Status
from ._numpy import Gradients, flash_expert_backward
from ._version import VERSION as __version__

if TYPE_CHECKING or _find_spec("torch") is not None:
    from ._modules import FlashExperts
    from ._torch import flash_expert_func
else:
    from ._numpy import flash_expert_func

    def __getattr__(name: str) -> object:
        why = (": it needs PyTorch, which is not installed"
               if name == "FlashExperts" else "")
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}{why}")

# The name under which FlashMoE has it.
triton_flash_expert_func = flash_expert_func

__all__ = [
    "ArgumentError", "FlashExpertError", "Gradients", "JitMonitor",
    "LibraryError", "PrewarmCounts", "Status", "check_indices",
    "flash_expert_backward", "flash_expert_func", "info", "prepare", "prewarm",
    "triton_flash_expert_func",
]
if "FlashExperts" in globals():
    __all__ += ["FlashExperts"]
