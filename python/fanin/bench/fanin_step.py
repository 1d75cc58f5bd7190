"""A training step of fanin: `MLP.train_step`, one call."""

from __future__ import annotations

import numpy as np

import fanin
from rivals import start


class Step:
    def __init__(self, case, dropout: float, threads: int, dtype: str = "float32"):
        fanin.set_num_threads(threads)
        self.net = fanin.MLP(
            list(case.sizes),
            activation=case.activation,
            output=case.output,
            dropout=dropout,
            dtype=dtype,
            seed=0,
        )
        self.net.parameters[:] = np.concatenate(
            [p.ravel() for layer in start.weights(case, dtype) for p in layer]
        )
        self.optimizer = fanin.Adam(start.LEARNING_RATE, betas=start.BETAS, eps=start.EPS)
        self.batches, self.next = start.batches(case, dtype), 0

    def step(self) -> float:
        x, y = self.batches[self.next]
        self.next = (self.next + 1) % len(self.batches)
        return self.net.train_step(x, y, self.optimizer)

    def losses(self, count: int) -> list[float]:
        return [self.step() for _ in range(count)]

    def run(self, count: int) -> None:
        for _ in range(count):
            self.step()
