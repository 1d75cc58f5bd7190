"""The networks whose training steps are timed: forward, loss, backward and Adam, in float32."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Network:
    """The sizes of an MLP, what lies between its products, and the rows of a batch."""

    name: str
    sizes: tuple[int, ...]
    batch: int
    activation: str = "relu"
    output: str = "softmax"
    dropout: float = 0.0

    def data(self, dtype: str = "float32", seed: int = 0) -> tuple[Array, Array]:
        """One batch (x, y): normal inputs, targets that fit the output."""
        rng = np.random.default_rng(seed)
        n_out = self.sizes[-1]
        x = rng.standard_normal((self.batch, self.sizes[0])).astype(dtype)
        if self.output == "softmax":
            return x, rng.integers(0, n_out, self.batch)
        if self.output == "sigmoid":
            return x, rng.integers(0, 2, (self.batch, n_out)).astype(dtype)
        return x, rng.standard_normal((self.batch, n_out)).astype(dtype)

    @property
    def step_flops(self) -> int:
        """Operations in the products of one training step; the first layer needs no dx."""
        layers = [k * n for k, n in itertools.pairwise(self.sizes)]
        return 2 * self.batch * (3 * sum(layers) - layers[0])

    @property
    def spec(self) -> str:
        """The whole network as a line of text, which `network` turns back into it."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        return self.name


STEPS: tuple[Network, ...] = (
    # ten products of 500 by 500; the last one's output goes to the softmax
    Network("tanh10", (500,) * 11, 256, "tanh"),
    Network("mnist", (784, 512, 256, 10), 128, "relu", dropout=0.2),
    Network("rl", (16, 64, 64, 4), 32, "tanh", "identity"),
    Network("tab", (54, 128, 128, 7), 1024, "relu", dropout=0.1),
    Network("big", (1024, 4096, 4096, 1000), 512, "relu", dropout=0.5),
)


def network(name: str) -> Network:
    """One of the five by name, or any by its `spec`."""
    if name.startswith("{"):
        given = json.loads(name)
        return Network(**given | {"sizes": tuple(given["sizes"])})
    known = [one.name for one in STEPS]
    if name not in known:
        raise ValueError(f"name: unknown step {name!r}; known: {', '.join(known)}")
    return STEPS[known.index(name)]
