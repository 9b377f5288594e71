# SPDX-License-Identifier: Apache-2.0
"""A small language model whose feed-forward layer is a mixture of experts.

Shared by train.py and decode.py. The router is plain PyTorch: two half queries
score two small sets of keys, and an expert is a pair of keys (product keys, as
in PEER, arXiv:2407.04153).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

import flashexpert_rtc as fex


class Router(nn.Module):
    """Chooses top_k of keys * keys experts for each token."""

    def __init__(self, hidden_size: int, keys: int, top_k: int):
        super().__init__()
        self.keys, self.top_k = keys, top_k
        self.query = nn.Linear(hidden_size, 2 * keys, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.query(x).unflatten(-1, (2, self.keys))
        best, keys = scores.topk(self.top_k, dim=-1)
        sums = best[..., 0, :, None] + best[..., 1, None, :]
        pairs = keys[..., 0, :, None] * self.keys + keys[..., 1, None, :]
        top, place = sums.flatten(-2).topk(self.top_k, dim=-1)
        return pairs.flatten(-2).gather(-1, place), top.softmax(-1).to(x.dtype)


def reference(x: Tensor, down: Tensor, up: Tensor, indices: Tensor,
              gates: Tensor) -> Tensor:
    """What flash_expert_func computes, in plain PyTorch."""
    scores = torch.einsum("th,tkh->tk", x, down[indices])
    weights = (functional.silu(scores.float()) * gates).to(x.dtype)
    return torch.einsum("tk,tkh->th", weights, up[indices])


class Model(nn.Module):
    """Token and position of a window, mixed, then experts, then logits."""

    def __init__(self, vocabulary: int, hidden_size: int, window: int,
                 keys: int, top_k: int, function=fex.flash_expert_func):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, hidden_size)
        self.mix = nn.Linear(window * hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)
        self.router = Router(hidden_size, keys, top_k)
        self.experts = fex.FlashExperts(keys * keys, hidden_size)
        self.head = nn.Linear(hidden_size, vocabulary)
        self.function = function

    def forward(self, windows: Tensor) -> Tensor:
        """Logits of the token after each window (batch, window)."""
        x = self.mix(self.embed(windows).flatten(-2))
        h = self.norm(x)
        indices, gates = self.router(h)
        h = self.function(h, self.experts.down_embed.weight,
                          self.experts.up_embed.weight, indices, gates)
        return self.head(x + h).float()


def make_text(length: int, vocabulary: int, seed: int = 0) -> Tensor:
    """Text-like tokens: each depends on the two before it, and on chance."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randint(vocabulary, (vocabulary, vocabulary, 4),
                          generator=generator)
    choice = torch.multinomial(torch.tensor([0.7, 0.2, 0.07, 0.03]), length,
                               replacement=True, generator=generator).tolist()
    text, rows = [0, 1], table.tolist()
    for c in choice:
        text.append(rows[text[-2]][text[-1]][c])
    return torch.tensor(text)
