"""What every contestant of a training step starts from: the same weights and the same batches."""

from __future__ import annotations

import itertools

import numpy as np

from .steps import Array, Network

LEARNING_RATE = 1e-3
BETAS = (0.9, 0.999)
EPS = 1e-8
BATCHES = 4  # a step takes the next of these, round and round


def weights(network: Network, dtype: str = "float32") -> list[tuple[Array, Array]]:
    """Per layer (w (k, n), b (n)): normal with variance 2 / (k + n), biases zero."""
    rng = np.random.default_rng(1)
    return [
        (
            (rng.standard_normal((k, n)) * np.sqrt(2 / (k + n))).astype(dtype),
            np.zeros(n, dtype),
        )
        for k, n in itertools.pairwise(network.sizes)
    ]


def batches(network: Network, dtype: str = "float32") -> list[tuple[Array, Array]]:
    """Batches (x, y), each contiguous; drawn in float64, so that both types see the same."""
    drawn = [network.data("float64", seed) for seed in range(BATCHES)]
    return [(x.astype(dtype), y.astype(dtype) if y.dtype.kind == "f" else y) for (x, y) in drawn]
