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
import importlib
import os
import pathlib
import statistics
import sys
from typing import Callable, Dict, List, Tuple

import torch

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16}
FLUSH_BYTES = 256 << 20
ROUNDS_MIN = 3


def load_forward() -> Callable[..., torch.Tensor]:
    """The installed package's function, or else the one beside this."""
    try:
        package = importlib.import_module("flashexpert_rtc")
    except ImportError:
        here = pathlib.Path(__file__).resolve().parent
        sys.path.insert(0, str(here.parent / "python"))
        package = importlib.import_module("flashexpert_rtc")
    return package.flash_expert_func


def capture(run: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """A graph of `run`, which is warmed up first."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


def time_once(graph: torch.cuda.CUDAGraph, flush: torch.Tensor) -> float:
    begin = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    flush.fill_(1)
    begin.record()
    graph.replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1000


def measure(forward: Callable[..., torch.Tensor], shape: Tuple[int, int, int],
            options: argparse.Namespace,
            flush: torch.Tensor) -> Dict[str, float]:
    """Medians of both for (tokens, experts, top_k)."""
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
                times[name].append(time_once(graph, flush))
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
    parser.add_argument("--dtype", choices=DTYPES, default="bf16",
                        help="of all (default %(default)s)")
    parser.add_argument("--rounds", type=rounds_of, default=25,
                        help="to take medians of (default %(default)s)")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("gemms: no CUDA device", file=sys.stderr)
        return 77
    forward = load_forward()
    torch.manual_seed(1)
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    print(f"{torch.cuda.get_device_name()}, hidden size {options.hidden}, "
          f"{options.dtype}, family "
          f"{os.environ.get('FLASHEXPERT_FAMILY', 'as chosen')}")
    print(f"{'tokens, experts, top_k':>24} {'two GEMMs':>10} {'forward':>8} "
          "part of their rate")
    for shape in options.shapes:
        found = measure(forward, shape, options, flush)
        print(f"{', '.join(map(str, shape)):>24} {found['gemms']:>10.1f} "
              f"{found['forward']:>8.1f} "
              f"{found['gemms'] / found['forward']:>18.2f}", flush=True)


    return 0


if __name__ == "__main__":
    sys.exit(main())
