# SPDX-License-Identifier: Apache-2.0
"""Trains the model of model.py twice, with this library's layer and with plain
PyTorch, from the same weights on the same text, and compares.

    python3 train.py                          # on a GPU, some hundred steps
    python3 train.py --device cpu --steps 3 --hidden 32 --keys 8 --top-k 8
"""

from __future__ import annotations

import argparse
import copy
import time

import torch
from model import Model, make_text, reference
from torch.nn import functional


def train(model: Model, text: torch.Tensor, args) -> tuple[list, float]:
    """The loss of each step, and the seconds of all but the first ten."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(1)
    offsets = torch.arange(args.window + 1)
    losses, start = [], time.perf_counter()
    for step in range(args.steps):
        if step == min(10, args.steps - 1):
            if args.device != "cpu":
                torch.cuda.synchronize()
            start = time.perf_counter()
        first = torch.randint(len(text) - args.window, (args.batch, 1),
                              generator=generator)
        rows = text[(first + offsets).to(text.device)]
        loss = functional.cross_entropy(model(rows[:, :-1]), rows[:, -1])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    losses = torch.stack(losses).tolist()  # waits for the device
    return losses, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for name, value in (("steps", 300), ("batch", 4096), ("hidden", 512),
                        ("keys", 128), ("top-k", 32), ("vocabulary", 256),
                        ("window", 4), ("every", 50)):
        parser.add_argument("--" + name, type=int, default=value)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    dtype = torch.float32 if args.device == "cpu" else torch.bfloat16

    torch.manual_seed(0)
    ours = Model(args.vocabulary, args.hidden, args.window, args.keys,
                 args.top_k).to(args.device, dtype)
    plain = copy.deepcopy(ours)
    plain.function = reference
    text = make_text(1 << 16, args.vocabulary).to(args.device)

    losses, seconds = train(ours, text, args)
    wanted, plain_seconds = train(plain, text, args)
    print(f"{'step':>6} {'this library':>13} {'PyTorch':>9}")
    for step in sorted({*range(0, args.steps, args.every), args.steps - 1}):
        print(f"{step:6} {losses[step]:13.4f} {wanted[step]:9.4f}")
    apart = max(abs(a - b) for a, b in zip(losses, wanted))
    print(f"largest difference of losses {apart:.4f}")
    print(f"{seconds:.2f} s against {plain_seconds:.2f} s: "
          f"{plain_seconds / seconds:.2f} times as fast")


if __name__ == "__main__":
    main()
