"""A training step of scikit-learn: `partial_fit` of one batch. It has no dropout.

Its Adam adds eps before the bias correction, so only the first loss can be compared: the weights
are put in place after a first call whose learning rate is too small to move anything.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor

from . import start
from .steps import Network


class Step:
    """See `fanin.bench.Step`."""

    def __init__(self, on: Network, dropout: float, threads: int, dtype: str = "float32"):
        self.on, self.dtype = on, dtype
        self.batches, self.next = start.batches(on, dtype), 0
        self.model = self._started(start.LEARNING_RATE)

    def _started(self, learning_rate: float) -> Any:
        kind = MLPRegressor if self.on.output == "identity" else MLPClassifier
        model = kind(
            hidden_layer_sizes=self.on.sizes[1:-1],
            activation=self.on.activation,
            alpha=0.0,
            batch_size=self.on.batch,
            learning_rate_init=learning_rate,
            random_state=0,
        )
        x, y = self.batches[0]
        if kind is MLPClassifier:
            model.partial_fit(x, y, classes=np.arange(self.on.sizes[-1]))
        else:
            model.partial_fit(x, y)
        return model

    def step(self) -> None:
        """One step."""
        self.model.partial_fit(*self.batches[self.next])
        self.next = (self.next + 1) % len(self.batches)

    def losses(self, count: int) -> list[float]:
        """The first loss; `count` is not looked at."""
        model = self._started(1e-30)
        layers = start.weights(self.on, self.dtype)
        for to_w, to_b, (w, b) in zip(model.coefs_, model.intercepts_, layers, strict=True):
            to_w[...], to_b[...] = w, b
        model.partial_fit(*self.batches[0])
        half = 2 if self.on.output == "identity" else 1  # its squared error carries 1/2
        return [float(model.loss_) * half]

    def run(self, count: int) -> None:
        """Takes so many steps."""
        for _ in range(count):
            self.step()
