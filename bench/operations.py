"""Single operations against NumPy: products, one dense layer, and `forward` of one row.

    python bench/operations.py [products] [layer] [forward] [--threads N] [--json FILE]

products: `fanin.matmul` at sizes from 32 to 2048 rows, plain and with either operand transposed as
backprop has them (dw: x is a transposed array, dx: w is), in both dtypes. layer: product, bias,
tanh, statistics and dropout 0.5 in one `fanin.dense_forward`, against plain `fanin.matmul` and
NumPy's passes. forward: a 4-64-64-2 network on one row. Answers are checked, then contestants take
turns, each in a process of its own, but for the layer and its product: these share their arrays, as
a product also depends on where its pages lie. Figures are medians. An asterisk: above the limit.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

import script
from fanin.bench import race, worker

SHAPES = (
    (32, 64, 64),
    (64, 256, 256),
    (128, 784, 512),
    (256, 500, 500),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
)
LAYER = (256, 500, 500)
DROPOUT = 0.5
SIZES = (4, 64, 64, 2)
LIMITS = {"products": 1.05, "layer": 0.40, "forward": 0.40}  # of NumPy's time
Made = tuple[
    Callable[[], Any], Callable[[], None]
]  # does it once; asserts that the answer is right


def product(who: str, m: int, k: int, n: int, layout: str, dtype: str) -> Made:
    """x @ w into one array; the check is Higham's bound on a sum of k products."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    if layout == "dw":
        x = np.asfortranarray(x)
    if layout == "dx":
        w = np.asfortranarray(w)
    return product_of(who, x, w, np.empty((m, n), dtype))


def product_of(who: str, x: Any, w: Any, out: Any) -> Made:
    """The same for arrays that are there."""
    k, dtype = len(w), x.dtype
    if who == "fanin":
        import fanin

        multiply: Any = fanin.matmul
    else:
        multiply = np.matmul

    def check() -> None:
        multiply(x, w, out=out)
        rows = np.unique(np.linspace(0, len(x) - 1, 64).astype(int))
        exact = x[rows].astype("f8") @ w.astype("f8")
        room = (k + 2) * np.finfo(dtype).eps * (abs(x[rows]).astype("f8") @ abs(w).astype("f8"))
        assert (abs(out[rows] - exact) <= room).all()

    return lambda: multiply(x, w, out=out), check


@functools.cache
def layer_arrays(dtype: str) -> tuple[Any, Any, Any, Any]:
    """x, w, b and the array for the outputs, the same ones at every call."""
    m, k, n = LAYER
    rng = np.random.default_rng(0)
    x = rng.standard_normal((m, k)).astype(dtype)
    w = (rng.standard_normal((k, n)) * np.sqrt(2 / (k + n))).astype(dtype)
    b = (rng.standard_normal(n) * 0.1).astype(dtype)
    return x, w, b, np.empty((m, n), dtype)


def layer_product(who: str, dtype: str) -> Made:
    """The product of the layer alone."""
    x, w, _, out = layer_arrays(dtype)
    return product_of(who, x, w, out)


def layer(who: str, dtype: str) -> Made:
    """tanh(x @ w + b), its statistics, dropout."""
    x, w, b, out = layer_arrays(dtype)
    run: Callable[[], tuple[float, ...]]
    if who == "fanin":
        import fanin

        def run() -> tuple[float, ...]:
            _, cache = fanin.dense_forward(
                x, w, b, activation="tanh", dropout=DROPOUT, key=(0, 0, 0), stats=True, out=out
            )
            s = cache.stats
            assert s is not None
            return s.mean, s.std, s.min, s.max, s.zero_fraction, s.saturated_fraction
    else:
        run = numpy_layer(x, w, b, out)

    def check() -> None:
        got = run()
        a = np.tanh(x.astype("f8") @ w + b)
        want = a.mean(), a.std(), a.min(), a.max(), (a == 0).mean(), (abs(a) > 0.98).mean()
        assert np.allclose(got, want, rtol=1e-4, atol=1e-5), (got, want)
        kept = out != 0
        assert abs(kept.mean() - (1 - DROPOUT)) < 5 * np.sqrt(0.25 / kept.size)
        assert abs(out * (1 - DROPOUT) - a)[kept].max() < 1e-4

    return run, check


def numpy_layer(x: Any, w: Any, b: Any, out: Any) -> Callable[[], tuple[float, ...]]:
    """The layer in NumPy, every array allocated once. The mask stays for a backward pass."""
    scratch, mask = np.empty_like(out), np.empty_like(out)
    flags = np.empty(out.shape, bool)
    rng = np.random.default_rng(0)

    def run() -> tuple[float, ...]:
        np.matmul(x, w, out=out)
        np.add(out, b, out=out)
        np.tanh(out, out=out)
        mean = out.mean(axis=0).mean()  # of each unit, then of all
        np.subtract(out, mean, out=scratch)
        flat = scratch.reshape(-1)
        std = np.sqrt(np.dot(flat, flat) / flat.size)
        low, high = out.min(), out.max()
        np.equal(out, 0, out=flags)
        zeros = np.count_nonzero(flags, axis=0).sum()
        np.abs(out, out=scratch)
        np.greater(scratch, 0.98, out=flags)
        saturated = np.count_nonzero(flags)
        rng.random(dtype=mask.dtype, out=mask)
        np.greater_equal(mask, DROPOUT, out=mask)
        np.multiply(mask, 1 / (1 - DROPOUT), out=mask)
        np.multiply(out, mask, out=out)
        return mean, std, low, high, zeros / out.size, saturated / out.size

    return run


def forward(who: str, dtype: str) -> Made:
    """The outputs of a tanh network for one row, as an agent asks for them."""
    import fanin

    net = fanin.MLP(list(SIZES), activation="tanh", output="identity", dtype=dtype, seed=0)
    x = np.random.default_rng(0).standard_normal((1, SIZES[0])).astype(dtype)
    (w1, b1), (w2, b2), (w3, b3) = [(layer.weight, layer.bias) for layer in net.layers]

    def by_hand() -> Any:
        h = np.dot(x, w1)
        h += b1
        np.tanh(h, out=h)
        h = np.dot(h, w2)
        h += b2
        np.tanh(h, out=h)
        h = np.dot(h, w3)
        h += b3
        return h

    run = by_hand if who == "numpy" else lambda: net.forward(x)

    def check() -> None:
        assert np.allclose(run(), by_hand(), rtol=1e-5, atol=1e-6)

    return run, check


KINDS: dict[str, Callable[..., Made]] = {
    "product": product,
    "layer_product": layer_product,
    "layer": layer,
    "forward": forward,
}


class Operations:
    """One contestant in its process: prepares a case of each kind, then times them."""

    def __init__(self, who: str, threads: int):
        self.who = who
        self.timed: dict[str, worker.Repeated] = {}
        if who != "numpy":
            import fanin

            fanin.set_num_threads(threads)

    def prepare(self, kind: str, **case: Any) -> dict[str, str]:
        """Makes and checks a case; what is wrong with the answer, if anything."""
        once, check = KINDS[kind](self.who, **case)
        try:
            check()
        except AssertionError as error:
            return {"wrong": f"{self.who}: {kind} {case}: wrong answer {error}"}

        def run(count: int) -> None:
            for _ in range(count):
                once()

        self.timed[kind] = worker.Repeated(run)
        return {}

    def slice(self, kind: str, seconds: float) -> dict[str, float]:
        """Seconds of one operation of this kind."""
        return self.timed[kind].slice(seconds)


@dataclass(frozen=True)
class Operation:
    """One kind of operation in a process that may have prepared several."""

    process: race.Process
    kind: str

    @property
    def contestant(self) -> str:
        """The name of its process."""
        return self.process.contestant

    @property
    def threads(self) -> int:
        """Those of its process."""
        return self.process.threads

    def ask(self, command: str, **options: Any) -> dict[str, Any]:
        """Asks the process about this kind."""
        return self.process.ask(command, kind=self.kind, **options)


def contest(contestants: Sequence[Any], slices: int, seconds: float, **case: Any) -> list[float]:
    """The median seconds of each, a process or a kind of operation in one; answers are right."""
    for contestant in contestants:
        wrong = contestant.ask("prepare", **case).get("wrong")
        if wrong:
            raise race.Failed(wrong)
    found: list[list[float]] = [[] for _ in contestants]
    race.take_turns(list(zip(contestants, found, strict=True)), slices, seconds)
    return [median(one) for one in found]


def products(figures: script.Figures, given: Any) -> None:
    """Every shape, layout and dtype."""
    limit = LIMITS["products"]
    for dtype in given.dtypes:
        peak = figures.peaks[f"fma_{dtype}_gflops"]
        with contextlib.ExitStack() as stack:
            pair = [
                stack.enter_context(script.own(__file__, who, given.threads))
                for who in ("fanin", "numpy")
            ]
            figures.say(
                f"\n{dtype}, {given.threads} threads, FMA peak {peak:.0f} GFLOP/s\n"
                "(m, k, n)           layout     fanin us  of peak    numpy us  of peak   ratio"
            )
            for m, k, n in SHAPES:
                for layout in ("plain", "dw", "dx"):
                    script.progress(f"product {m} {k} {n} {layout} {dtype}")
                    case = {"m": m, "k": k, "n": n, "layout": layout, "dtype": dtype}
                    sides = [Operation(process, "product") for process in pair]
                    ours, numpy = contest(sides, given.slices, given.seconds, **case)
                    ratio = ours / numpy
                    shares = [2e-9 * m * k * n / one / peak for one in (ours, numpy)]
                    figures.add(
                        f"{m:5},{k:5},{n:5}  {layout:6}"
                        f"  {ours * 1e6:11.1f}{shares[0]:9.0%}{numpy * 1e6:12.1f}{shares[1]:9.0%}"
                        f"{ratio:8.2f}{' *' if ratio > limit else ''}",
                        kind="product",
                        **case,
                        fanin=ours,
                        numpy=numpy,
                        share_of_peak=shares[0],
                        numpy_share_of_peak=shares[1],
                    )


def layers(figures: script.Figures, given: Any) -> None:
    """The whole layer, the product alone, NumPy's passes."""
    for dtype in given.dtypes:
        with contextlib.ExitStack() as stack:
            ours_process, numpy_process = [
                stack.enter_context(script.own(__file__, who, given.threads))
                for who in ("fanin", "numpy")
            ]
            script.progress(f"layer {dtype}")
            sides = [
                Operation(ours_process, "layer"),
                Operation(ours_process, "layer_product"),
                Operation(numpy_process, "layer"),
            ]
            ours, plain, numpy = contest(sides, given.slices, given.seconds, dtype=dtype)
        figures.add(
            f"\nlayer {LAYER} {dtype}, {given.threads} threads: fanin {ours * 1e6:.1f} us, "
            f"fanin.matmul alone {plain * 1e6:.1f}, NumPy {numpy * 1e6:.1f}\n"
            f"  / NumPy   {script.against(ours / numpy, LIMITS['layer'])}\n"
            f"  / matmul  {script.against(ours / plain, 1.12)}",
            kind="layer",
            dtype=dtype,
            fanin=ours,
            matmul=plain,
            numpy=numpy,
        )


def forwards(figures: script.Figures, given: Any) -> None:
    """One row through a small network."""
    for dtype in given.dtypes:
        with contextlib.ExitStack() as stack:
            pair = [
                stack.enter_context(script.own(__file__, who, given.threads))
                for who in ("fanin", "numpy")
            ]
            script.progress(f"forward {dtype}")
            sides = [Operation(process, "forward") for process in pair]
            found = contest(sides, given.slices, given.seconds, dtype=dtype)
        ours, numpy = found
        figures.add(
            f"\nforward {'-'.join(map(str, SIZES))}, one row, {dtype}: "
            f"fanin {ours * 1e6:.2f} us (at most 2), NumPy {numpy * 1e6:.2f}\n"
            f"  / NumPy   {script.against(ours / numpy, LIMITS['forward'])}",
            kind="forward",
            dtype=dtype,
            fanin=ours,
            numpy=numpy,
        )


PARTS = {"products": products, "layer": layers, "forward": forwards}


def main() -> None:
    """The parts asked for, or all."""
    if sys.argv[1:2] == ["worker"]:
        worker.serve(Operations(sys.argv[2], int(sys.argv[3])))
        return
    parser = script.options(__doc__ or "", slices=9, seconds=0.1)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    script.run(parser, PARTS)


if __name__ == "__main__":
    main()
