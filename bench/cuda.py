"""fanin on a GPU beside PyTorch: whole training steps, bare products, one-pass epilogues.

    python bench/cuda.py [steps products epilogue] [--json FILE]

Answers are checked before anything is timed: losses of the first steps without dropout against
NumPy's in float64, products and epilogues against float64 results. Contestants then take turns; a
figure is the median of the time between two CUDA events around many steps, all that lies between
the launches included. Data lie on the device. PyTorch takes its steps eagerly and compiled with
mode="reduce-overhead", which replays CUDA graphs, both with the fused Adam; in bfloat16 it runs
under autocast, so that weights are float32 there as well. Both see the same rows in the same order.

Without a GPU it says why and there is nothing else to do. Needs CuPy; PyTorch where it is to be
compared with.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import importlib.util
import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import fanin
import fanin.cuda
import script
from fanin.bench import race, start
from fanin.bench.steps import STEPS, Network

# NVIDIA's bindings, which CuPy and PyTorch may load, are a package of this file's name.
sys.path.remove(str(Path(__file__).parent))

NARROW = Network("narrow", (64, 64, 64, 64, 64), 65536)
BY_NAME = {on.name: on for on in (*STEPS, NARROW)}


@dataclass(frozen=True)
class Race:
    """A network, the precision of its products, how many steps a slice has, what is aimed at."""

    name: str
    steps: int
    precision: str | None = None
    batch: int | None = None
    of_best: float | None = None  # of PyTorch's better time, at most
    of_eager: float | None = None
    of_products: float | None = None  # of the rate of bare products, at least

    @property
    def network(self) -> Network:
        on = BY_NAME[self.name]
        return on if self.batch is None else replace(on, batch=self.batch)

    @property
    def title(self) -> str:
        return f"{self.name} {self.network.batch} {self.precision or 'float32'}"


RACES = (
    Race("tanh10", 256),
    Race("mnist", 1024, of_best=0.5, of_eager=0.15),
    Race("tab", 1024, of_best=0.5, of_eager=0.15),
    Race("rl", 4096, of_best=0.5, of_eager=0.15),
    Race("big", 64),
    Race("big", 16, "bfloat16", 8192, of_best=0.95, of_products=0.8),
    Race("narrow", 64, of_best=0.3),
    Race("narrow", 64, "bfloat16", of_best=0.3),
)

# How far a loss may be off. float32: as in fanin.bench. bfloat16: operands are rounded by 2^-9 on
# average; a logit, a sum of their products, is off by about 2^-8 of its size, which the mean over
# the batch reduces; Adam's first steps follow the signs of gradients, of which those near 0 differ.
TOLERANCES = {None: race.LOSS_TOLERANCE, "bfloat16": 2e-2}


def seconds(body: Callable[[], None]) -> float:
    """What `body` takes on the device, from one event of the current stream to another."""
    import cupy

    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    begin.record()
    body()
    end.record()
    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(begin, end)) / 1e3


def take_turns(bodies: dict[str, Callable[[], None]], slices: int) -> dict[str, float]:
    """The median seconds of each, all in turn, after one run of each that is not counted."""
    found: dict[str, list[float]] = {name: [] for name in bodies}
    for turn in range(slices + 1):
        for name, body in bodies.items():
            taken = seconds(body)
            if turn > 0:
                found[name].append(taken)
    return {name: median(times) for name, times in found.items()}


# ---- training steps


class FaninSteps:
    """`MLP(..., device="cuda")`; many steps are one epoch of `fit`."""

    def __init__(self, on: Network, dropout: float, precision: str | None):
        self.on = on
        self.net = fanin.MLP(
            list(on.sizes), activation=on.activation, output=on.output, dropout=dropout,
            precision=precision, device="cuda",
        )  # fmt: skip
        self.net.parameters = np.concatenate([p.ravel() for wb in start.weights(on) for p in wb])
        self.optimizer = fanin.Adam(start.LEARNING_RATE, betas=start.BETAS, eps=start.EPS)

    def loss(self, x: Any, y: Any) -> float:
        return float(self.net.train_step(x, y, self.optimizer))

    def run(self, x: Any, y: Any) -> None:
        self.net.fit(
            x, y, epochs=1, batch_size=self.on.batch, optimizer=self.optimizer, shuffle=False,
            monitor=False, progress=False,
        )  # fmt: skip


class TorchSteps:
    """`nn.Sequential`, autograd, the fused Adam; with loss and network compiled where wanted."""

    def __init__(self, on: Network, dropout: float, precision: str | None, compiled: bool):
        import torch

        self.torch, self.on, self.compiled = torch, on, compiled
        layers: list[Any] = []
        for w, b in start.weights(on):
            linear = torch.nn.Linear(*w.shape, device="cuda")
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(w.T.copy()))
                linear.bias.copy_(torch.from_numpy(b))
            layers.append(linear)
            layers.append(torch.nn.ReLU() if on.activation == "relu" else torch.nn.Tanh())
            if dropout:
                layers.append(torch.nn.Dropout(dropout))
        while not isinstance(layers[-1], torch.nn.Linear):  # nothing after the output layer
            layers.pop()
        net = torch.nn.Sequential(*layers)
        of_output = torch.nn.MSELoss() if on.output == "identity" else torch.nn.CrossEntropyLoss()

        def loss_of(x: Any, y: Any) -> Any:
            with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
                return of_output(net(x), y)

        self.loss_of = torch.compile(loss_of, mode="reduce-overhead") if compiled else loss_of
        self.optimizer = torch.optim.Adam(
            net.parameters(), start.LEARNING_RATE, start.BETAS, start.EPS, fused=True
        )

    def step(self, x: Any, y: Any) -> Any:
        if self.compiled:
            self.torch.compiler.cudagraph_mark_step_begin()
        self.optimizer.zero_grad()
        loss = self.loss_of(x, y)
        loss.backward()
        self.optimizer.step()
        return loss

    def loss(self, x: Any, y: Any) -> float:
        return float(self.step(self.torch.as_tensor(x), self.torch.as_tensor(y)))

    def run(self, x: Any, y: Any) -> None:
        x, y = self.torch.as_tensor(x), self.torch.as_tensor(y)
        for rows in range(0, len(x), self.on.batch):
            self.step(x[rows : rows + self.on.batch], y[rows : rows + self.on.batch])


def contestants() -> dict[str, Callable[..., Any]]:
    """Who takes part, made by (network, dropout, precision)."""
    made: dict[str, Callable[..., Any]] = {"fanin": FaninSteps}
    if importlib.util.find_spec("torch") is None:
        script.progress("PyTorch is not installed: fanin alone")
        return made
    for name, compiled in (("torch", False), ("torch-compiled", True)):
        made[name] = lambda on, dropout, precision, compiled=compiled: TorchSteps(
            on, dropout, precision, compiled
        )
    return made


def check_steps(name: str, make: Callable[..., Any], one: Race) -> None:
    """Ends the program unless the first losses are the expected ones; a large batch is cut."""
    import cupy

    on = replace(one.network, batch=min(one.network.batch, 512))
    steps = make(on, 0.0, one.precision)
    for i, ((x, y), want) in enumerate(
        zip(start.batches(on), race.true_losses(on.spec), strict=False)
    ):
        got = steps.loss(cupy.asarray(x), cupy.asarray(y))
        if not abs(got - want) <= TOLERANCES[one.precision] * abs(want):
            sys.exit(f"{one.title}: {name}: loss of step {i} is {got}, expected {want}")


def time_steps(given: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Every race, a line each."""
    import cupy

    makers = contestants()
    print("\nSteps, microseconds; the first ratio is of PyTorch's better time, the second of eager")
    for one in RACES:
        on = one.network
        script.progress(one.title)
        bodies = {}
        batches = start.batches(on)
        repeated = itertools.islice(itertools.cycle(batches), one.steps)
        x, y = (cupy.asarray(np.concatenate(part)) for part in zip(*repeated, strict=True))
        for name, make in makers.items():
            check_steps(name, make, one)
            steps = make(on, on.dropout, one.precision)
            bodies[name] = functools.partial(steps.run, x, y)
        times = {name: t / one.steps for name, t in take_turns(bodies, given.slices).items()}
        rate = on.step_flops / times["fanin"]
        line = f"{one.title:22}" + "".join(f" {n} {t * 1e6:9.2f}" for n, t in times.items())
        line += f"   {rate / 1e12:6.1f} TFLOP/s"
        row: dict[str, Any] = {"part": "steps", "step": one.title, "sizes": on.sizes,
                               "seconds": times, "flops": on.step_flops}  # fmt: skip
        if len(times) > 1:
            best = min(t for name, t in times.items() if name != "fanin")
            row["of_best"], row["of_eager"] = times["fanin"] / best, times["fanin"] / times["torch"]
            line += f"   {script.against(row['of_best'], one.of_best)}"
            line += f"   {script.against(row['of_eager'], one.of_eager)}"
        if one.of_products is not None:
            bare = rate_of_products(on, given.slices)
            row["of_products"] = rate / bare
            missed = " *" if rate / bare < one.of_products else ""
            line += f"   {rate / bare:.2f} of the products' {bare / 1e12:.0f} TFLOP/s"
            line += f", at least {one.of_products:.2f}{missed}"
        print(line, flush=True)
        rows.append(row)
        del steps, x, y, bodies
        cupy.get_default_memory_pool().free_all_blocks()


# ---- bare products


def bfloat16(x: Any) -> Any:
    """A copy of a CuPy array in bfloat16, PyTorch's: CuPy has none of its own."""
    import torch

    return torch.as_tensor(x).to(torch.bfloat16)


def rate_of_products(on: Network, slices: int) -> float:
    """FLOP/s of the products of a step in bfloat16 alone, each as often as there is time for."""
    import cupy
    import torch

    total = 0.0
    for layer, (k, n) in enumerate(itertools.pairwise(on.sizes)):
        draw = cupy.random.default_rng(layer).standard_normal
        h, w, dz = (
            bfloat16(draw(shape, dtype="float32"))
            for shape in ((on.batch, k), (k, n), (on.batch, n))
        )
        products = [(h, w), (h.T, dz)] + ([(dz, w.T)] if layer > 0 else [])
        for left, right in products:
            out = torch.empty(left.shape[0], right.shape[1], dtype=torch.bfloat16, device="cuda")

            def body(left: Any = left, right: Any = right, out: Any = out) -> None:
                for _ in range(10):
                    fanin.matmul(left, right, out=out)

            total += take_turns({"fanin": body}, slices)["fanin"] / 10
    return on.step_flops / total


def time_products(given: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Square products of each type, ours and PyTorch's."""
    import cupy
    import torch

    print("\nProducts of n x n matrices, TFLOP/s")
    for dtype, n in (("float32", 4096), ("float64", 4096), ("bfloat16", 8192), ("float16", 8192)):
        script.progress(f"product {dtype} {n}")
        draw = cupy.random.default_rng(0).standard_normal
        kind = getattr(torch, dtype)
        x, w = (torch.as_tensor(draw((n, n), dtype="float32")).to(kind) for _ in range(2))
        out = torch.full((n, n), torch.nan, dtype=kind, device="cuda")
        fanin.matmul(x, w, out=out)
        want = x[:64].double() @ w.double()
        off = float((out[:64].double() - want).norm() / want.norm())
        # The result is rounded to its type; sums of n terms in float32 add sqrt(n) 2^-24.
        limit = {"float32": 1e-5, "float64": 1e-13, "bfloat16": 1e-2, "float16": 1e-3}[dtype]
        if not off < limit:
            sys.exit(f"product {dtype}: relative error {off}, expected below {limit}")

        def ours(x: Any = x, w: Any = w, out: Any = out) -> None:
            for _ in range(10):
                fanin.matmul(x, w, out=out)

        def theirs(x: Any = x, w: Any = w, out: Any = out) -> None:
            for _ in range(10):
                torch.matmul(x, w, out=out)

        times = take_turns({"fanin": ours, "torch": theirs}, given.slices)
        rates = {name: 20 * n**3 / taken for name, taken in times.items()}
        print(f"{dtype:9}{n:6}" + "".join(f"  {m} {r / 1e12:7.1f}" for m, r in rates.items()))
        rows.append({"part": "products", "dtype": dtype, "n": n, "flops_per_second": rates})


# ---- the one-pass epilogue


def time_epilogue(given: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Activation and dropout in one pass, against a copy of the same bytes."""
    import cupy

    from fanin.cuda.activation import number_of
    from fanin.cuda.array import Call

    print("\nf and dropout in one pass, bytes read and written per second; and of a copy's")
    m, n, threshold = 16384, 4096, 32768
    source = cupy.random.default_rng(0).standard_normal((m, n), dtype="float32")
    out, copied = cupy.full((m, n), cupy.nan, "float32"), cupy.empty((m, n), "float32")
    call = Call("z", source)
    z, a = call.array("z", source, 2), call.array("z", out, 2)
    mask = call.empty((m * n // 16,), "int16")
    kept = fanin.cuda.dropout_mask((64, n), 0.5, (1, 2, 3), like=source)

    def copy() -> None:
        for _ in range(10):
            cupy.cuda.runtime.memcpyAsync(
                copied.data.ptr,
                source.data.ptr,
                source.nbytes,
                3,
                cupy.cuda.get_current_stream().ptr,
            )

    for kind in ("relu", "tanh", "gelu"):

        def epilogue(kind: str = kind) -> None:
            for _ in range(10):
                call.compiled.activation_forward(
                    z, a, number_of(kind), (threshold, 1, 2, 3), mask.array, call.stream
                )

        epilogue()
        want = 2 * fanin.reference.activation_forward(source[:64].get().astype("float64"), kind)
        want *= cupy.asarray(kept).get()
        off = np.linalg.norm(out[:64].get() - want) / np.linalg.norm(want)
        if not off < 1e-5:  # a few roundings of 2^-24 each
            sys.exit(f"epilogue {kind}: relative error {off}, expected below 1e-5")
        times = take_turns({"copy": copy, "epilogue": epilogue}, given.slices)
        moved = {"copy": 20 * source.nbytes, "epilogue": 20 * source.nbytes + 10 * m * n // 8}
        rates = {name: moved[name] / taken for name, taken in times.items()}
        share = rates["epilogue"] / rates["copy"]
        print(
            f"{kind:9} {rates['epilogue'] / 1e12:6.2f} TB/s of {rates['copy'] / 1e12:.2f}: "
            f"{share:.2f}, at least 0.85{' *' if share < 0.85 else ''}"
        )
        rows.append({"part": "epilogue", "kind": kind, "bytes_per_second": rates})


PARTS = {"steps": time_steps, "products": time_products, "epilogue": time_epilogue}


def main() -> None:
    """Reads the options, says what the machine is, and runs the parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (all)")
    parser.add_argument("--slices", type=int, default=9, help="turns of each (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    given = parser.parse_args()
    parts = script.chosen(parser, given.parts, PARTS)
    there, reason = fanin.cuda.available()
    if there and fanin.cuda.architectures() == ["emulated"]:
        there, reason = False, "this build has no code for GPUs (FANIN_CUDA=EMULATED)"
    if there and importlib.util.find_spec("cupy") is None:
        there, reason = False, "CuPy is not installed (pip install 'fanin[cuda]')"
    if not there:
        print(f"bench/cuda.py: nothing to measure: {reason}")
        return
    device = fanin.cuda.properties()
    date = datetime.date.today().isoformat()
    versions = {"fanin": fanin.__version__}
    if importlib.util.find_spec("torch") is not None:
        import torch

        versions["torch"] = torch.__version__
    found = {"date": date, "device": device, "versions": versions, "slices": given.slices}
    print(
        f"{device['name']} ({device['architecture']}), CUDA driver {device['driver']}, {date}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
    )
    rows: list[dict[str, Any]] = []
    for part in parts:
        if part == "products" and "torch" not in versions:
            print("\nProducts: left out, PyTorch is not installed")
            continue
        PARTS[part](given, rows)
    if given.json:
        Path(given.json).write_text(json.dumps(found | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
