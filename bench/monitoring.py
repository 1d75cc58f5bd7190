"""What `fit(monitor=True)` costs: ten tanh layers of 500 units, and two short trainings.

    python bench/monitoring.py [--rounds 4] [--threads 2]

Ten layers: steps without monitoring, with it, and with a histogram, take turns in one training, and
what is kept of a step is timed besides; `fit` monitors every so manyth step, and makes a
histogram once an epoch.  Short trainings, of 300 steps of a network for MNIST's images and 12,000
of a small one, of which at least 32 are monitored, are compared in pairs, as a whole.  The figures
of docs/diagnosis.md.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

import fanin
from fanin.reference.training import MONITOR_BINS, monitor_stride

BATCH, WIDTH, DEPTH = 256, 500, 10
STEPS = 512  # of the training that decides how often to monitor, in epochs of 128
SHORT = {  # name: sizes, batch, rows, epochs, pairs a round
    "300 steps of 784-512-256-10": ([784, 512, 256, 10], 128, 12800, 3, 4),
    "12,000 steps of 16-64-64-4": ([16, 64, 64, 4], 32, 12800, 30, 10),
}


def steps_in_turn(turns: int) -> dict[str, float]:
    """Medians, in seconds: a plain step, what monitoring and a histogram add, what is kept."""
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((BATCH, WIDTH), np.float32) for _ in range(2))
    net = fanin.MLP([WIDTH] * (DEPTH + 1), activation="tanh", output="identity")
    optimizer = fanin.SGD(1e-3)
    kept = fanin.LayerHistory(0, DEPTH)
    found: dict[str, list[float]] = {"plain": [], "monitored": [], "histogram": [], "record": []}
    kinds = [("plain", False), ("monitored", True), ("histogram", MONITOR_BINS)]
    for turn in range(turns + 5):
        taken = {}
        for name, stats in kinds[:: 1 if turn % 2 else -1]:
            start = time.perf_counter()
            net._train_rows(
                x, y, None, None, BATCH, optimizer, stats=stats, class_weight=None,
                label_smoothing=0.0, scale=None,
            )  # fmt: skip
            taken[name] = time.perf_counter() - start
            if name == "monitored":
                start = time.perf_counter()
                kept.record(turn, net.layers)
                taken["record"] = time.perf_counter() - start
        for name in ("monitored", "histogram"):
            taken[name] -= taken["plain"]
        if turn >= 5:
            for name, value in taken.items():
                found[name].append(value)
    every = monitor_stride(net, BATCH, STEPS)
    return {name: statistics.median(v) for name, v in found.items()} | {"every": every}


def short(sizes: list[int], batch: int, rows: int, epochs: int, pairs: int) -> list[float]:
    """With over without monitoring, of each pair of trainings."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, sizes[0]), np.float32)
    y = rng.integers(0, sizes[-1], rows)
    ratios = []
    for i in range(pairs):
        taken = {}
        for monitor in (i % 2 == 0, i % 2 == 1):
            net = fanin.MLP(sizes)
            start = time.perf_counter()
            net.fit(x, y, epochs=epochs, batch_size=batch, monitor=monitor, progress=False)
            taken[monitor] = time.perf_counter() - start
        ratios.append(taken[True] / taken[False])
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=fanin.get_num_threads())
    options = parser.parse_args()
    fanin.set_num_threads(options.threads)
    of = steps_in_turn(40 * options.rounds)
    plain, every = of["plain"], of["every"]
    print(f"a step takes {1e3 * plain:.2f} ms; every {every:.0f}th is monitored, which adds "
          f"{1e3 * of['monitored']:.2f} ms and {1e3 * of['record']:.2f} to keep it; one in 128 has "
          f"a histogram, {1e3 * of['histogram']:.2f} ms")  # fmt: skip
    cost = (of["monitored"] + of["record"]) / every + of["histogram"] / 128
    print(f"on the whole {100 * cost / plain:+.2f} %")
    for name, (*sizes, pairs) in SHORT.items():
        ratios = short(*sizes, pairs * options.rounds)
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        print(f"{name}: {100 * (middle - 1):+.1f} % (the middle half of the pairs "
              f"{100 * (low - 1):+.1f} to {100 * (high - 1):+.1f} %)")  # fmt: skip


if __name__ == "__main__":
    main()
