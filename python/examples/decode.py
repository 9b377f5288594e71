# SPDX-License-Identifier: Apache-2.0
"""Decodes with the model of model.py one token at a time, eagerly and as the
replay of one CUDA graph, and checks that both say the same.

    python3 decode.py                         # on a GPU
    python3 decode.py --device cpu --tokens 3 --hidden 32 --keys 8 --top-k 8
"""

from __future__ import annotations

import argparse
import time

import torch
from model import Model

import flashexpert_rtc as fex


def decode(step, window: torch.Tensor, tokens: int) -> tuple[list, float]:
    """The most likely token after a window, again and again, and the seconds.
    `step` moves the window on in place."""
    if window.is_cuda:
        torch.cuda.synchronize()
    start, said = time.perf_counter(), []
    for _ in range(tokens):
        step()
        said.append(window[0, -1].clone())
    said = torch.stack(said).tolist()  # waits for the device
    return said, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for name, value in (("tokens", 500), ("hidden", 1024), ("keys", 128),
                        ("top-k", 64), ("vocabulary", 256), ("window", 4)):
        parser.add_argument("--" + name, type=int, default=value)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    dtype = torch.float32 if args.device == "cpu" else torch.bfloat16

    torch.manual_seed(0)
    model = Model(args.vocabulary, args.hidden, args.window, args.keys,
                  args.top_k).to(args.device, dtype).eval()
    first = torch.arange(args.window, device=args.device)[None]
    window = first.clone()

    @torch.no_grad()
    def step() -> None:
        token = model(window).argmax(-1, keepdim=True)
        window.copy_(torch.cat((window[:, 1:], token), 1))

    decode(step, window, 3)
    window.copy_(first)
    eager, seconds = decode(step, window, args.tokens)
    print(f"eager: {args.tokens / seconds:.0f} tokens/s")
    if args.device == "cpu":
        return

    # Kernels are loaded before the capture, which must not do it.
    fex.prepare(hidden_size=args.hidden, top_k=args.top_k,
                num_experts=args.keys ** 2, num_tokens=1, device=0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    window.copy_(first)
    graphed, seconds = decode(graph.replay, window, args.tokens)
    print(f"graph: {args.tokens / seconds:.0f} tokens/s, "
          f"{'the same' if graphed == eager else 'OTHER'} tokens")
    if graphed != eager:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
