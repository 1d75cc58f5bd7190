"""A training step of fanin: `MLP.train_step`, one call."""

from __future__ import annotations

from typing import Literal

import numpy as np

from .. import network, optimizer, runtime
from . import start
from .steps import Network


class Step:
    """See `fanin.bench.Step`."""

    precision: Literal["bfloat16"] | None = None

    def __init__(self, on: Network, dropout: float, threads: int, dtype: str = "float32"):
        runtime.set_num_threads(threads)
        self.net = network.MLP(
            list(on.sizes),
            activation=on.activation,
            output=on.output,
            dropout=dropout,
            dtype=dtype,
            precision=self.precision,
            seed=0,
        )
        self.net.parameters[:] = np.concatenate(
            [p.ravel() for layer in start.weights(on, dtype) for p in layer]
        )
        self.optimizer = optimizer.Adam(start.LEARNING_RATE, betas=start.BETAS, eps=start.EPS)
        self.batches, self.next = start.batches(on, dtype), 0

    def step(self) -> float:
        """The loss of one step."""
        x, y = self.batches[self.next]
        self.next = (self.next + 1) % len(self.batches)
        return float(self.net.train_step(x, y, self.optimizer))

    def losses(self, count: int) -> list[float]:
        """The losses of the next steps."""
        return [self.step() for _ in range(count)]

    def run(self, count: int) -> None:
        """Takes so many steps."""
        for _ in range(count):
            self.step()
