"""What stands below a training step on this machine: its matrix products alone.

    python bench/floors.py [steps] [avx2] [estimators] [--threads N] [--json FILE]

The products of a step, x @ w, x.T @ dz and dz @ w.T of every layer (the first needs no dx), one
after the other as `numpy.matmul` and `fanin.matmul` do them into arrays that are there already,
beside the whole step of fanin and that of the best rival. Where even the faster of the two takes
more of the rival's time than a limit allows, no step with products like these can keep it here.
steps: the five, against JAX (`rl` against NumPy). avx2: both held to AVX2, against NumPy.
estimators: a step inside `fit` against scikit-learn's. Contestants take turns, each in a process of
its own; figures are medians.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

import operations
import script
from fanin.bench import worker
from fanin.bench.steps import STEPS, Network, network

MNIST = Network("mnist", (784, 512, 256, 10), 200)
TABLES = (  # as bench/estimators.py fits them: one layer of 100 units, 200 rows
    Network("digits", (64, 100, 10), 200),
    Network("letter", (16, 100, 26), 200),
    Network("magic", (10, 100, 1), 200, output="sigmoid"),
    Network("adult", (105, 100, 1), 200, output="sigmoid"),
    Network("cal_housing", (8, 100, 1), 200, output="identity"),
)
BATCHES = 64  # of an epoch; `fit` is timed by epochs


def products(who: str, on: Network, dtype: str) -> operations.Made:
    """All products of a step, the answers of each checked."""
    pairs = []
    for layer, (k, n) in enumerate(itertools.pairwise(on.sizes)):
        pairs += [operations.product(who, on.batch, k, n, "plain", dtype),
                  operations.product(who, k, on.batch, n, "dw", dtype)]  # fmt: skip
        if layer > 0:
            pairs.append(operations.product(who, on.batch, n, k, "dx", dtype))

    def run() -> None:
        for once, _ in pairs:
            once()

    def check() -> None:
        for _, right in pairs:
            right()

    return run, check


class Fit:
    """A step inside `fit` of an estimator, fanin's or scikit-learn's."""

    def __init__(self, who: str, on: Network, dtype: str, threads: int):
        if who == "fanin":
            import fanin
            import fanin.sklearn as library

            fanin.set_num_threads(threads)
        else:
            from sklearn import neural_network as library
        self.kind = library.MLPRegressor if on.output == "identity" else library.MLPClassifier
        self.on = on
        drawn = [on.data(dtype, seed) for seed in range(BATCHES)]
        self.x, y = (np.concatenate(rows) for rows in zip(*drawn, strict=True))
        self.y = y.ravel() if on.output == "identity" else y.ravel().astype(int)

    def fit(self, epochs: int) -> Any:
        """The estimator after so many epochs; what `fit` does before the first step counts."""
        made = self.kind(
            hidden_layer_sizes=self.on.sizes[1:-1],
            batch_size=self.on.batch,
            max_iter=epochs,
            n_iter_no_change=epochs + 1,
            random_state=0,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that so few epochs do not converge
            return made.fit(self.x, self.y)


class Floor:
    """One contestant: the products by one library, a library's whole step, or that inside `fit`."""

    def __init__(self, who: str, threads: int):
        self.who, self.threads = who, threads
        self.timed: worker.Repeated | None = None
        self.steps = 1  # of a repetition

    def prepare(self, step: str, dtype: str) -> dict[str, str]:
        """Makes a case; what is wrong with its answers, if anything."""
        on = network(step)
        library, _, what = self.who.partition(" ")
        if what == "products":
            if library == "fanin":
                import fanin

                fanin.set_num_threads(self.threads)
            once, check = products(library, on, dtype)
            try:
                check()
            except AssertionError as error:
                return {"wrong": f"{self.who} of {on}: wrong answer {error}"}

            def run(count: int) -> None:
                for _ in range(count):
                    once()

        elif what == "fit":
            run = Fit(library, on, dtype, self.threads).fit
        else:
            run = worker.step(library)(on, on.dropout, self.threads, dtype).run
        self.timed = worker.Repeated(run)
        self.steps = BATCHES if what == "fit" else 1
        return {}

    def slice(self, seconds: float) -> dict[str, float]:
        """Seconds of one step."""
        assert self.timed is not None
        return {"seconds": self.timed.slice(seconds)["seconds"] / self.steps}


@dataclass(frozen=True)
class Case:
    """A step, the rival whose time a limit is a part of, and the limit."""

    on: Network
    limit: float
    rival: str
    dtype: str = "float32"
    what: str = ""  # "fit" for a step inside `fit`


Environment = Mapping[str, Mapping[str, str]]  # variables of each library's process


def part(
    name: str, cases: list[Case], environment: Environment = MappingProxyType({})
) -> Callable[[script.Figures, Any], None]:
    """The cases of one part."""

    def run(figures: script.Figures, given: Any) -> None:
        figures.say(
            f"\n{name}, {given.threads} threads, us; the last three: parts of the rival's time\n"
            "step         dtype    products: numpy     fanin   fanin's step   rival's step"
            "   products  fanin  limit"
        )
        for case in cases:
            script.progress(f"{name} {case.on} {case.dtype}")
            contest(figures, given, name, case, environment)

    return run


def contest(
    figures: script.Figures, given: Any, name: str, case: Case,
    environment: Environment,
) -> None:  # fmt: skip
    """Both products, fanin's step and the rival's."""
    after = f" {case.what}".rstrip()
    names = ("numpy products", "fanin products", "fanin" + after, case.rival + after)
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                script.own(__file__, who, given.threads, **environment.get(who.split()[0], {}))
            )
            for who in names
        ]
        times = operations.contest(
            processes, given.slices, given.seconds, step=case.on.spec, dtype=case.dtype
        )
    numpy, fanin, ours, rival = times
    parts = min(numpy, fanin) / rival, ours / rival
    figures.add(
        f"{case.on.name:12} {case.dtype}{numpy * 1e6:16.1f}{fanin * 1e6:10.1f}{ours * 1e6:15.1f}"
        f"{rival * 1e6:10.1f} {case.rival:8}{parts[0]:7.2f}{parts[1]:7.2f}{case.limit:7.2f}",
        kind="floor", part=name, step=case.on.name, dtype=case.dtype, rival=case.rival,
        limit=case.limit, numpy_products=numpy, fanin_products=fanin, fanin=ours, rival_step=rival,
    )  # fmt: skip


LIMITS = {"tanh10": 0.74, "mnist": 0.53, "rl": 0.12, "tab": 0.31, "big": 0.67}  # of JAX
PARTS = {
    "steps": part(
        "steps",
        [Case(on, LIMITS[on.name], "numpy" if on.name == "rl" else "jax") for on in STEPS],
    ),
    "avx2": part(
        "avx2",
        [Case(on, 0.75 if on.name == "big" else 0.55, "numpy") for on in STEPS],
        {"fanin": {"FANIN_ISA": "avx2"}, "numpy": {"OPENBLAS_CORETYPE": "Haswell"}},
    ),
    "estimators": part(
        "estimators",
        [Case(MNIST, 0.30, "sklearn", dtype, "fit") for dtype in ("float32", "float64")]
        + [Case(on, 0.15, "sklearn", "float64", "fit") for on in TABLES],
    ),
}


def main() -> None:
    """The parts asked for, or all."""
    if sys.argv[1:2] == ["worker"]:
        worker.serve(Floor(sys.argv[2], int(sys.argv[3])))
        return
    script.run(script.options(__doc__ or "", slices=7, seconds=0.2), PARTS)


if __name__ == "__main__":
    main()
