#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times a forward pass beside two matrix products of the same sizes.

The products are tokens by experts of the hidden states with the down weights,
and tokens by hidden size of a full matrix with the up weights: what a dense
pass has to multiply, by cuBLAS, without sorting, gating or picking. Both are
replayed CUDA graphs, take turns, and memory larger than the L2 cache is
written before each; medians over the rounds count. Times are in microseconds.
With FLASHEXPERT_FAMILY=dense the pass is dense, else of the family chosen.

    python3 bench/gemms.py 4096,4096,128 1024,102400,2048
"""

import argparse
import os
import statistics
import sys
from typing import Callable, Dict, List, Tuple

import torch

from compare import DTYPES, Stand, load_ours

ROUNDS_MIN = 3


def capture(run: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """A graph of `run`, which is warmed up first."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


def measure(forward: Callable[..., torch.Tensor], shape: Tuple[int, int, int],
            options: argparse.Namespace, stand: Stand) -> Dict[str, float]:
    """Medians of both for (tokens, experts, top_k), in milliseconds."""
    tokens, experts, top_k = shape
    hidden, dtype = options.hidden, DTYPES[options.dtype]

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*size, device="cuda", dtype=dtype)

    x = draw(tokens, hidden)
    down = draw(experts, hidden) / hidden ** 0.5
    up = draw(experts, hidden)
    indices = torch.randint(experts, (tokens, top_k), device="cuda",
                            dtype=torch.int32)
    routing = torch.rand(tokens, top_k, device="cuda").to(dtype)
    full = draw(tokens, experts)
    scores, states = torch.empty_like(full), torch.empty_like(x)

    def products() -> None:
        torch.mm(x, down.t(), out=scores)
        torch.mm(full, up, out=states)

    runs = {"gemms": products,
            "forward": lambda: forward(x, down, up, indices, routing)}
    with torch.no_grad():
        graphs = {name: capture(run) for name, run in runs.items()}
        times: Dict[str, List[float]] = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, graph in graphs.items():
                times[name].append(stand.time(graph.replay)[0])
    return {name: statistics.median(taken) for name, taken in times.items()}


def shape_of(text: str) -> Tuple[int, int, int]:
    try:
        tokens, experts, top_k = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not TOKENS,EXPERTS,TOP_K") from None
    return tokens, experts, top_k


def rounds_of(text: str) -> int:
    if not text.isdigit() or int(text) < ROUNDS_MIN:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number from {ROUNDS_MIN} on")
    return int(text)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="+", type=shape_of,
                        metavar="TOKENS,EXPERTS,TOP_K")
    parser.add_argument("--hidden", type=int, default=1024,
                        help="hidden size (default %(default)s)")
    parser.add_argument("--dtype", choices=("bf16", "f16"), default="bf16",
                        help="of all (default %(default)s)")
    parser.add_argument("--rounds", type=rounds_of, default=25,
                        help="to take medians of (default %(default)s)")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("gemms: no CUDA device", file=sys.stderr)
        return 77
    forward = load_ours()
    torch.manual_seed(1)
    stand = Stand(torch.device("cuda"))
    print(f"{torch.cuda.get_device_name()}, hidden size {options.hidden}, "
          f"{options.dtype}, family "
          f"{os.environ.get('FLASHEXPERT_FAMILY', 'as chosen')}")
    print(f"{'tokens, experts, top_k':>24} {'two GEMMs':>10} {'forward':>8} "
          "part of their rate")
    for shape in options.shapes:
        found = measure(forward, shape, options, stand)
        gemms, ours = found["gemms"], found["forward"]
        print(f"{', '.join(map(str, shape)):>24} {1e3 * gemms:>10.1f} "
              f"{1e3 * ours:>8.1f} {gemms / ours:>18.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
