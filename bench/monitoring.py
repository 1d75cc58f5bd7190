"""What `fit(monitor=True)` costs: ten tanh layers of 500 units, batches of 256 rows.

    python bench/monitoring.py [--rounds 4]

Trainings of 512 steps with and without monitoring take turns on the same random rows; the median
epoch counts.  The figure of docs/diagnosis.md.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np

import fanin

BATCH, STEPS, EPOCHS, WIDTH, DEPTH = 256, 128, 4, 500, 10


def seconds(x: np.ndarray, y: np.ndarray, monitor: bool) -> list[float]:
    """Seconds of each epoch of a training."""
    net = fanin.MLP([WIDTH] * (DEPTH + 1), activation="tanh", output="identity")
    history = net.fit(
        x, y, epochs=EPOCHS, batch_size=BATCH, optimizer=fanin.SGD(1e-3), monitor=monitor,
        progress=False,
    )  # fmt: skip
    return history.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    rounds = parser.parse_args().rounds
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((BATCH * STEPS, WIDTH), np.float32) for _ in range(2))
    taken: dict[bool, list[float]] = {False: [], True: []}
    for i in range(rounds):
        for monitor in (i % 2 == 0, i % 2 == 1):
            taken[monitor] += seconds(x, y, monitor)
    without, with_ = (1e3 * statistics.median(taken[m]) / STEPS for m in (False, True))
    print(f"a step without monitoring {without:.2f} ms, with it {with_:.2f} ms: "
          f"{100 * (with_ / without - 1):+.1f} %")  # fmt: skip


if __name__ == "__main__":
    main()
