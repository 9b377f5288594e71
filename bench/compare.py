#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times this library beside other ways to evaluate single-neuron experts.

In one process, on one device, with the same inputs, interleaved: each round
times every contender once, and the median over the rounds counts. Memory
larger than the L2 cache is written before each timed call. Forward runs
without gradients; backward is timed alone, by torch.autograd.grad for all four
gradients on the graph of a forward that is not timed.

Errors are relative, in the 2-norm, against float64 evaluated from the same
rounded inputs, for sampled tokens and experts; of the gradients, the worst.
Peak memory is above that of the inputs; of backward, with what forward saved.
"""

import argparse
import csv
import datetime
import importlib
import itertools
import json
import pathlib
import platform
import shutil
import signal
import statistics
import sys
import tempfile
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F

HERE = pathlib.Path(__file__).resolve().parent
PASSES = ("forward", "backward")
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
WRONG = 0.25  # a relative error from which a result is not one
SAMPLES = 8  # tokens and experts whose results are checked
COLUMNS = ("dtype", "hidden", "top_k", "experts", "tokens", "pass",
           "contender", "ms", "ratio", "peak_mib", "error", "rounds", "note")


class Shape(NamedTuple):
    dtype: str
    hidden: int
    top_k: int
    experts: int
    tokens: int

    def __str__(self) -> str:
        return (f"{self.dtype} H{self.hidden} K{self.top_k} E{self.experts} "
                f"T{self.tokens}")


# tokens, experts, top_k of the table in bench/RESULTS.md.
TABLE = ((1024, 102400, 512), (1024, 102400, 1024), (1024, 102400, 2048),
         (1024, 102400, 4096), (2048, 102400, 512), (4096, 102400, 512),
         (8192, 102400, 512), (16384, 102400, 512), (4096, 16384, 64),
         (1024, 1024, 32), (1024, 65536, 32), (64, 16384, 64), (1, 16384, 64))


class Repair(NamedTuple):
    """One exact substitution in a temporary copy of a peer's file."""

    name: str
    path: str
    find: str
    replace: str


class Peer(NamedTuple):
    """A kernel in somebody else's checkout."""

    package: str
    module: str
    function: str
    order: Tuple[int, ...]  # which of (x, down, up, indices, gates) goes where
    repairs: Tuple[Repair, ...]


PEERS = {
    "flashmoe": Peer(
        "flash_moe", "flash_moe.ops.triton.flash_expert",
        "triton_flash_expert_func", (0, 1, 2, 3, 4), (
            Repair("no dtypes of cuda.tile, which need not be installed",
                   "ops/utils.py", "ct.float", "torch.float"),
            Repair("no dtypes of cuda.tile, bfloat16 likewise",
                   "ops/utils.py", "ct.bfloat16", "torch.bfloat16"),
            Repair("backward: a stray fourth argument of an atomic",
                   "ops/triton/flash_expert.py",
                   "dwu.to(x.dtype), s, sem", "dwu.to(x.dtype), sem"),
            Repair("backward: two-dimensional masks of 1-D atomics",
                   "ops/triton/flash_expert.py",
                   "mask=offs_n[None, :] <", "mask=offs_n <"))),
    # What it calls up is down here.
    "omnimoe": Peer(
        "omni_moe", "omni_moe.ops.triton.omni_expert",
        "triton_omni_expert_func", (0, 1, 2, 4, 3), ()),
}


class TimeLimit(BaseException):
    """Not an Exception, so that a compiler under way does not catch it."""


class Contender:
    def __init__(self, name: str, function: Callable[..., torch.Tensor]):
        self.name = name
        self.function = function
        self.gone: Dict[str, str] = {}  # pass: why it is measured no more

    def reason(self, what: str) -> Optional[str]:
        return self.gone.get(what)


# ---- the contenders ---------------------------------------------------------

def evaluate(x, down, up, indices, gates):
    """Experts by gathering whole rows; the plain way in PyTorch."""
    scores = torch.matmul(F.embedding(indices, down), x.unsqueeze(-1))
    weights = F.silu(scores.squeeze(-1)) * gates
    return torch.matmul(weights.unsqueeze(1),
                        F.embedding(indices, up)).squeeze(1)


def in_chunks(function: Callable[..., torch.Tensor],
              limit: int) -> Callable[..., torch.Tensor]:
    """Evaluates so many tokens at once that one gather fits in limit bytes."""
    def call(x, down, up, indices, gates):
        row = indices.shape[1] * x.shape[1] * x.element_size()
        count = max(1, limit // row)
        if count >= x.shape[0]:
            return function(x, down, up, indices, gates)
        return torch.cat([
            function(x[n:n + count], down, up, indices[n:n + count],
                     gates[n:n + count])
            for n in range(0, x.shape[0], count)])
    return call


def load_peer(name: str, checkout: str, scratch: pathlib.Path,
              report: Dict[str, Any]) -> Callable[..., torch.Tensor]:
    """Imports a peer from a copy of its checkout, repaired."""
    peer = PEERS[name]
    source = pathlib.Path(checkout) / peer.package
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is no directory")
    copy = scratch / name / peer.package
    shutil.copytree(source, copy)
    for repair in peer.repairs:
        path = copy / repair.path
        text = path.read_text() if path.exists() else ""
        found = text.count(repair.find)
        if found:
            path.write_text(text.replace(repair.find, repair.replace))
        report["repairs"].append({
            "contender": name, "repair": repair.name, "file": repair.path,
            "places": found})
    sys.path.insert(0, str(copy.parent))
    function = getattr(importlib.import_module(peer.module), peer.function)
    return lambda *arguments: function(
        *(arguments[position] for position in peer.order))


def load_ours() -> Callable[..., torch.Tensor]:
    try:
        package = importlib.import_module("flashexpert_rtc")
    except ImportError:
        sys.path.insert(0, str(HERE.parent / "python"))
        package = importlib.import_module("flashexpert_rtc")
    package.info(0 if torch.cuda.is_available() else None)
    return package.flash_expert_func


def load_contenders(options: argparse.Namespace, scratch: pathlib.Path,
                    gather_limit: int,
                    report: Dict[str, Any]) -> List[Contender]:
    """Every contender asked for; those that cannot run are reported."""
    loaders = {
        "flashexpert": load_ours,
        "eager": lambda: in_chunks(evaluate, gather_limit),
        "compile": lambda: in_chunks(torch.compile(evaluate), gather_limit),
        "flashmoe": lambda: load_peer(
            "flashmoe", options.flash_moe, scratch, report),
        "omnimoe": lambda: load_peer(
            "omnimoe", options.omni_moe, scratch, report),
    }
    given = {"flashmoe": options.flash_moe, "omnimoe": options.omni_moe}
    contenders = []
    for name in options.contenders.split(","):
        if name not in loaders:
            raise SystemExit(f"compare: {name} is none of {list(loaders)}")
        if given.get(name, "") is None:
            report["absent"][name] = "no checkout given"
            continue
        try:
            contenders.append(Contender(name, loaders[name]()))
        except Exception as failure:
            report["absent"][name] = sentence(failure)
    return contenders


# ---- inputs and what they must give -----------------------------------------

class Inputs:
    """Random experts for every token, and sampled results in float64."""

    def __init__(self, shape: Shape, device: torch.device):
        generator = torch.Generator(device).manual_seed(1)
        dtype = DTYPES[shape.dtype]

        def normal(*sizes: int, scale: float = 1.0) -> torch.Tensor:
            values = torch.randn(sizes, generator=generator, device=device,
                                 dtype=torch.float32)
            return values.mul_(scale).to(dtype)

        scale = shape.hidden ** -0.5
        x = normal(shape.tokens, shape.hidden)
        down = normal(shape.experts, shape.hidden, scale=scale)
        up = normal(shape.experts, shape.hidden, scale=scale)
        gates = normal(shape.tokens, shape.top_k)
        self.indices = torch.randint(
            shape.experts, (shape.tokens, shape.top_k), generator=generator,
            device=device)
        self.leaves = [t.requires_grad_() for t in (x, down, up, gates)]
        self.grad_output = normal(shape.tokens, shape.hidden)
        self.tokens = torch.arange(
            0, shape.tokens, max(1, shape.tokens // SAMPLES),
            device=device)[:SAMPLES]
        self.experts = self.indices[self.tokens, 0].unique()
        self.expected = self._expect()

    def arguments(self) -> Tuple[torch.Tensor, ...]:
        x, down, up, gates = self.leaves
        return x, down, up, self.indices, gates

    @torch.no_grad()
    def _expect(self) -> Dict[str, List[torch.Tensor]]:
        x, down, up, gates = self.leaves
        y, dx, dg = [], [], []
        for t in self.tokens.tolist():
            xt, dy = x[t].double(), self.grad_output[t].double()
            d, u = (w[self.indices[t]].double() for w in (down, up))
            g, s = gates[t].double(), d @ xt
            along = u @ dy
            y.append((F.silu(s) * g) @ u)
            dg.append(F.silu(s) * along)
            dx.append((along * g * silu_slope(s)) @ d)
        ddown, dup = [], []
        for e in self.experts.tolist():
            t, k = (self.indices == e).nonzero(as_tuple=True)
            xt, dy = x[t].double(), self.grad_output[t].double()
            g, s = gates[t, k].double(), xt @ down[e].double()
            along = dy @ up[e].double()
            ddown.append((along * g * silu_slope(s)) @ xt)
            dup.append((F.silu(s) * g) @ dy)
        stacked = [torch.stack(rows) for rows in (y, dx, ddown, dup, dg)]
        return {"forward": stacked[:1], "backward": stacked[1:]}

    @torch.no_grad()
    def error(self, what: str, results: Tuple[torch.Tensor, ...]) -> float:
        rows = ((self.tokens,) if what == "forward" else
                (self.tokens, self.experts, self.experts, self.tokens))
        errors = [
            float((result[row].double() - exact).norm() / exact.norm())
            for result, row, exact in zip(results, rows, self.expected[what])]
        return max(e if e == e else float("inf") for e in errors)


def silu_slope(s: torch.Tensor) -> torch.Tensor:
    sigmoid = torch.sigmoid(s)
    return sigmoid * (1 + s * (1 - sigmoid))


# ---- measuring --------------------------------------------------------------

class Stand:
    """The device: times a call after its caches were flushed."""

    def __init__(self, device: torch.device):
        self.device = device
        self.cuda = device.type == "cuda"
        size = 1 << 20
        if self.cuda:
            properties = torch.cuda.get_device_properties(device)
            size = max(4 * getattr(properties, "L2_cache_size", 0), 256 << 20)
        self.flushed = torch.empty(size, dtype=torch.uint8, device=device)

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def time(self, call: Callable[[], Any]) -> Tuple[float, Any]:
        """Milliseconds of the call, and what it returned."""
        self.flushed.zero_()
        if not self.cuda:
            start = time.perf_counter()
            result = call()
            return 1e3 * (time.perf_counter() - start), result
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in "12")
        begin.record()
        result = call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end), result

    def run(self, contender: Contender, what: str,
            inputs: Inputs) -> Tuple[float, Tuple[torch.Tensor, ...]]:
        arguments = inputs.arguments()
        if what == "forward":
            with torch.no_grad():
                ms, y = self.time(lambda: contender.function(*arguments))
            return ms, (y,)
        y = contender.function(*arguments)
        return self.time(lambda: torch.autograd.grad(
            y, inputs.leaves, inputs.grad_output))

    def peak(self, contender: Contender, what: str,
             inputs: Inputs) -> Optional[float]:
        """MiB that a pass allocates beyond what is there before it."""
        if not self.cuda:
            self.run(contender, what, inputs)
            return None
        self.synchronize()
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        self.run(contender, what, inputs)
        self.synchronize()
        return (torch.cuda.max_memory_allocated(self.device) - before) / 2**20


class limit:
    """Raises TimeLimit in the block after so many seconds."""

    def __init__(self, seconds: float):
        self.seconds = max(seconds, 0.01)

    def __enter__(self) -> None:
        def expire(number: int, frame: Any) -> None:
            raise TimeLimit(f"not done within {self.seconds:.0f} s")
        signal.signal(signal.SIGALRM, expire)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)

    def __exit__(self, *exception: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)


def sentence(failure: BaseException) -> str:
    lines = str(failure).strip().splitlines() or [""]
    return f"{type(failure).__name__}: {lines[0]}"[:200]


def first_calls(stand: Stand, contender: Contender, what: str,
                inputs: Inputs, seconds: float, row: Dict[str, Any]) -> float:
    """Compiles, tunes and checks; returns the seconds one call takes, or 0
    where the contender cannot run, with the reason in the row."""
    if contender.reason(what):
        row["note"] = "skipped: " + contender.reason(what)
        return 0
    try:
        with limit(seconds):
            results = stand.run(contender, what, inputs)[1]
            row["error"] = inputs.error(what, results)
            del results
            row["peak_mib"] = stand.peak(contender, what, inputs)
            start = time.perf_counter()
            stand.run(contender, what, inputs)
            stand.synchronize()
            return time.perf_counter() - start
    except TimeLimit as late:
        row["note"] = f"skipped: {late}"
        contender.gone[what] = f"an earlier shape was {late}"
    except Exception as failure:
        row["note"] = "failed: " + sentence(failure)
    return 0


def measure_pass(stand: Stand, contenders: List[Contender], what: str,
                 shape: Shape, inputs: Inputs, options: argparse.Namespace,
                 seconds: float, end: float) -> List[Dict[str, Any]]:
    """One row a contender. The seconds are for the rounds; what is compiled
    and tuned before them is limited by the end of the run."""
    rows, running, cost = [], [], 0.0
    for contender in contenders:
        row = dict.fromkeys(COLUMNS)
        row.update(shape._asdict(), contender=contender.name, rounds=0,
                   note="", **{"pass": what})
        rows.append(row)
        took = first_calls(
            stand, contender, what, inputs,
            min(options.compile_limit, end - time.monotonic()), row)
        if took:
            running.append((contender, row, []))
            cost += took
    rounds = max(3, min(options.rounds, int(seconds / cost) if cost else 0))
    for _ in range(rounds):
        for contender, row, times in running:
            if row["note"]:
                continue
            try:
                times.append(stand.run(contender, what, inputs)[0])
            except Exception as failure:
                row["note"] = "failed: " + sentence(failure)
    for contender, row, times in running:
        if times:
            row["ms"], row["rounds"] = statistics.median(times), len(times)
        if row["error"] is not None and not row["error"] < WRONG:
            row["note"] += " the result is wrong"
    ours = next((row["ms"] for row in rows
                 if row["contender"] == "flashexpert"), None)
    for row in rows:
        if ours and row["ms"]:
            row["ratio"] = row["ms"] / ours
    return rows


# ---- reporting --------------------------------------------------------------

def describe_place(device: torch.device) -> Dict[str, str]:
    place = {"date": datetime.datetime.now().astimezone().isoformat("T",
                                                                  "seconds"),
             "python": platform.python_version(), "torch": torch.__version__,
             "device": platform.processor() or "cpu"}
    if device.type == "cuda":
        place["device"] = torch.cuda.get_device_name(device)
        place["cuda"] = str(torch.version.cuda)
    for name in ("triton", "flashexpert_rtc"):
        try:
            place[name] = importlib.import_module(name).__version__
        except Exception as failure:
            place[name] = sentence(failure)
    return place


def number(value: Optional[float], form: str) -> str:
    return "-" if value is None else format(value, form)


def print_rows(rows: List[Dict[str, Any]]) -> None:
    for row in rows:
        shape = Shape(*(row[name] for name in Shape._fields))
        print(f"{str(shape):32} {row['pass']:9}{row['contender']:12}"
              f"{number(row['ms'], '10.4f'):>10}"
              f"{number(row['ratio'], '.2f'):>8}"
              f"{number(row['peak_mib'], '.0f'):>9}"
              f"{number(row['error'], '.1e'):>9}  {row['note']}".rstrip(),
              flush=True)


def write(report: Dict[str, Any], folder: pathlib.Path) -> None:
    with open(folder / "compare.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(report["rows"])
    (folder / "compare.json").write_text(json.dumps(report, indent=1) + "\n")


def draw(report: Dict[str, Any], what: str, path: pathlib.Path) -> None:
    """Bars of the time relative to this library's, on a log scale."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in report["rows"]
            if row["pass"] == what and row["ratio"]]
    shapes = list(dict.fromkeys(
        tuple(row[name] for name in Shape._fields) for row in rows))
    names = list(dict.fromkeys(row["contender"] for row in rows))
    if not rows:
        return
    width = 0.8 / len(names)
    figure, axes = pyplot.subplots(figsize=(3 + len(shapes), 5))
    for place, name in enumerate(names):
        bars = {tuple(row[field] for field in Shape._fields): row["ratio"]
                for row in rows if row["contender"] == name}
        axes.bar([n + place * width for n, shape in enumerate(shapes)
                  if shape in bars],
                 [bars[shape] for shape in shapes if shape in bars],
                 width, label=name)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_ylabel("time / flashexpert's")
    axes.set_title(f"{what}, {report['place']['device']}, "
                   f"{report['place']['date'][:10]}")
    axes.set_xticks([n + 0.4 - width / 2 for n in range(len(shapes))],
                    ["{4} x {2}\nof {3}\n{0} H{1}".format(*shape)
                     for shape in shapes], fontsize=7)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def parse_shapes(texts: Optional[List[str]]) -> List[Shape]:
    """'dtype=bf16 tokens=1,4096': lists give every combination."""
    if not texts:
        return [Shape("bf16", 1024, top_k, experts, tokens)
                for tokens, experts, top_k in TABLE]
    shapes = []
    for text in texts:
        fields = {"dtype": ["bf16"], "hidden": ["1024"], "top_k": ["64"],
                  "experts": ["16384"], "tokens": ["4096"]}
        for word in text.split():
            name, _, values = word.partition("=")
            if name not in fields or not values:
                raise SystemExit(f"compare: --shapes: {word!r} is not "
                                 f"{'|'.join(fields)}=VALUE[,VALUE...]")
            fields[name] = values.split(",")
        for dtype, *sizes in itertools.product(*fields.values()):
            if dtype not in DTYPES:
                raise SystemExit(f"compare: dtype {dtype} is none of "
                                 f"{', '.join(DTYPES)}")
            shapes.append(Shape(dtype, *map(int, sizes)))
    return shapes


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--flash-moe", metavar="DIR",
                        help="a checkout of FlashMoE")
    parser.add_argument("--omni-moe", metavar="DIR",
                        help="a checkout of OmniMoE")
    parser.add_argument("--contenders",
                        default="flashexpert,eager,flashmoe,omnimoe,compile")
    parser.add_argument("--shapes", action="append", metavar="TEXT",
                        help="such as 'tokens=1,4096 experts=16384 top_k=64';"
                        " may be repeated")
    parser.add_argument("--passes", default=",".join(PASSES))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--budget", type=float, default=240, metavar="SECONDS",
                        help="for the whole run")
    parser.add_argument("--compile-limit", type=float, default=30,
                        metavar="SECONDS", help="for the first calls of one "
                        "contender on one shape; one that takes longer is "
                        "given up")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=pathlib.Path, default=".",
                        metavar="DIR", help="where compare.csv, compare.json "
                        "and the charts go")
    return parser.parse_args()


def measure(options: argparse.Namespace, stand: Stand,
            contenders: List[Contender], report: Dict[str, Any],
            end: float) -> None:
    """Every shape and pass until the time is used up."""
    passes = options.passes.split(",")
    shapes = parse_shapes(options.shapes)
    turns = [(shape, what) for shape in shapes for what in passes]
    inputs = None
    for place, (shape, what) in enumerate(turns):
        left = end - time.monotonic()
        if left < 3:
            report["not_measured"].append(f"{shape} {what}: out of time")
            continue
        try:
            if place == 0 or turns[place - 1][0] != shape:
                inputs = None  # its memory first
                inputs = Inputs(shape, stand.device)
            rows = measure_pass(stand, contenders, what, shape, inputs,
                                options, left / (len(turns) - place) / 2, end)
        except Exception as failure:
            report["not_measured"].append(
                f"{shape} {what}: {sentence(failure)}")
            continue
        print_rows(rows)
        report["rows"] += rows
        write(report, options.output)


def main() -> int:
    end = time.monotonic()
    options = parse_options()
    end += options.budget
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("compare: no CUDA device", file=sys.stderr)
        return 77
    options.output.mkdir(parents=True, exist_ok=True)
    stand = Stand(device)
    gather_limit = 1 << 30
    if stand.cuda:  # two gathers, their gradients, and as much to spare
        gather_limit = torch.cuda.mem_get_info(device)[0] // 8
    report: Dict[str, Any] = {"method": __doc__, "repairs": [], "absent": {},
                              "not_measured": [], "rows": []}
    with tempfile.TemporaryDirectory() as scratch:
        contenders = load_contenders(
            options, pathlib.Path(scratch), gather_limit, report)
        report["place"] = describe_place(device)
        print(", ".join(f"{k} {v}" for k, v in report["place"].items()))
        for repair in report["repairs"]:
            print("repair of {contender}, {file}: {repair}: ".format(**repair)
                  + (f"{repair['places']} places" if repair["places"]
                     else "TEXT NOT FOUND"))
        for name, reason in report["absent"].items():
            print(f"absent: {name}: {reason}")
        print(f"{'shape':32} {'pass':9}{'contender':12}{'ms':>10}{'ratio':>8}"
              f"{'peak MiB':>9}{'error':>9}")
        measure(options, stand, contenders, report, end)
    write(report, options.output)
    for line in report["not_measured"]:
        print("not measured:", line)
    try:
        for what in PASSES:
            draw(report, what, options.output / f"compare_{what}.png")
    except ImportError as failure:
        print("no charts:", sentence(failure))
    return 0 if report["rows"] else 1


if __name__ == "__main__":
    sys.exit(main())
