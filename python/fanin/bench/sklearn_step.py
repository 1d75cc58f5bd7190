"""A training step of scikit-learn: `partial_fit` of one batch. It has no dropout.

Its Adam adds eps before the bias correction, so only the first loss can be compared: the weights
are put in place after a first call whose learning rate is too small to move anything.
"""

from __future__ import annotations

import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor

from rivals import start


class Step:
    def __init__(self, case, dropout: float, threads: int, dtype: str = "float32"):
        self.case, self.dtype = case, dtype
        self.batches, self.next = start.batches(case, dtype), 0
        self.model = self._started(start.LEARNING_RATE)

    def _started(self, learning_rate: float):
        kind = MLPRegressor if self.case.output == "identity" else MLPClassifier
        model = kind(
            hidden_layer_sizes=self.case.sizes[1:-1],
            activation=self.case.activation,
            alpha=0.0,
            batch_size=self.case.batch,
            learning_rate_init=learning_rate,
            random_state=0,
        )
        x, y = self.batches[0]
        if kind is MLPClassifier:
            model.partial_fit(x, y, classes=np.arange(self.case.sizes[-1]))
        else:
            model.partial_fit(x, y)
        return model

    def step(self) -> None:
        self.model.partial_fit(*self.batches[self.next])
        self.next = (self.next + 1) % len(self.batches)

    def losses(self, count: int) -> list[float]:
        model = self._started(1e-30)
        layers = start.weights(self.case, self.dtype)
        for to_w, to_b, (w, b) in zip(model.coefs_, model.intercepts_, layers, strict=True):
            to_w[...], to_b[...] = w, b
        model.partial_fit(*self.batches[0])
        half = 2 if self.case.output == "identity" else 1  # its squared error carries 1/2
        return [float(model.loss_) * half]

    def run(self, count: int) -> None:
        for _ in range(count):
            self.step()
