"""What `fit(monitor=True)` costs: ten tanh layers of 500 units, and two short trainings.

    python bench/monitoring.py [--rounds 4] [--threads 2]

Trainings of 512 steps with and without monitoring take turns on the same random rows; the median
epoch counts.  Short ones, of 300 steps of a network for MNIST's images and 12,000 of a small one,
of which at least 32 are monitored, are compared in pairs, as a whole.  The figures of
docs/diagnosis.md.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

import fanin

BATCH, STEPS, EPOCHS, WIDTH, DEPTH = 256, 128, 4, 500, 10
SHORT = {  # name: sizes, batch, rows, epochs, pairs a round
    "300 steps of 784-512-256-10": ([784, 512, 256, 10], 128, 12800, 3, 4),
    "12,000 steps of 16-64-64-4": ([16, 64, 64, 4], 32, 12800, 30, 10),
}


def seconds(x: np.ndarray, y: np.ndarray, monitor: bool) -> list[float]:
    """Seconds of each epoch of a training."""
    net = fanin.MLP([WIDTH] * (DEPTH + 1), activation="tanh", output="identity")
    history = net.fit(
        x, y, epochs=EPOCHS, batch_size=BATCH, optimizer=fanin.SGD(1e-3), monitor=monitor,
        progress=False,
    )  # fmt: skip
    return history.seconds


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
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((BATCH * STEPS, WIDTH), np.float32) for _ in range(2))
    taken: dict[bool, list[float]] = {False: [], True: []}
    for i in range(options.rounds):
        for monitor in (i % 2 == 0, i % 2 == 1):
            taken[monitor] += seconds(x, y, monitor)
    without, with_ = (1e3 * statistics.median(taken[m]) / STEPS for m in (False, True))
    print(f"a step without monitoring {without:.2f} ms, with it {with_:.2f} ms: "
          f"{100 * (with_ / without - 1):+.1f} %")  # fmt: skip
    for name, (*sizes, pairs) in SHORT.items():
        ratios = short(*sizes, pairs * options.rounds)
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        print(f"{name}: {100 * (middle - 1):+.1f} % (the middle half of the pairs "
              f"{100 * (low - 1):+.1f} to {100 * (high - 1):+.1f} %)")  # fmt: skip


if __name__ == "__main__":
    main()
