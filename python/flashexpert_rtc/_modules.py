# SPDX-License-Identifier: Apache-2.0
"""The layer: two tables of experts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ._torch import flash_expert_func


class FlashExperts(nn.Module):
    """Single-neuron experts with tables of their own; routing is the caller's.

    The state_dict has down_embed.weight and up_embed.weight, both
    (num_experts, hidden_size), as checkpoints of FlashMoE have.
    """

    def __init__(self, num_experts: int, hidden_size: int, *,
                 device: Any = None, dtype: Any = None):
        super().__init__()
        self.num_experts = num_experts
        self.hidden_size = hidden_size
        self.down_embed = nn.Embedding(
            num_experts, hidden_size, device=device, dtype=dtype)
        self.up_embed = nn.Embedding(
            num_experts, hidden_size, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws rows so that scores of unit-variance input have variance 1."""
        with torch.no_grad():
            for table in (self.down_embed, self.up_embed):
                table.weight.normal_(0.0, self.hidden_size ** -0.5)

    def forward(self, hidden_states: Tensor, indices: Tensor,
                routing_weights: Tensor) -> Tensor:
        return flash_expert_func(
            hidden_states, self.down_embed.weight, self.up_embed.weight,
            indices, routing_weights)

    def extra_repr(self) -> str:
        return (f"num_experts={self.num_experts}, "
                f"hidden_size={self.hidden_size}")
