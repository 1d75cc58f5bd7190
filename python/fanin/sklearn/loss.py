"""Losses of a regression that scikit-learn's MLP lacks, and its Poisson loss.

Each is a function f(z, y) -> (loss, dz) as `MLP.fit(loss=...)` takes it: the mean over rows of the
sum over outputs, and its gradient.  y (m, outputs) holds the targets; with one column more it holds
the rows' weights besides, and the mean is a weighted one.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..reference.loss import Loss

Array = NDArray[Any]
Elements = Callable[[Array, Array], tuple[Array, Array]]  # (z, y) -> loss and slope of each


def absolute_error(z: Array, y: Array) -> tuple[Array, Array]:
    """|z - y|, whose minimum is the median."""
    error = z - y
    return np.abs(error), np.sign(error)


def log_cosh(z: Array, y: Array) -> tuple[Array, Array]:
    """log cosh(z - y): half the square of small errors, the size of large ones less log 2."""
    error = z - y
    size = np.abs(error)
    return size + np.log1p(np.exp(-2 * size)) - math.log(2), np.tanh(error)


def poisson(z: Array, y: Array) -> tuple[Array, Array]:
    """Half the Poisson deviance of exp(z), y log(y / exp(z)) - y + exp(z), for counts y >= 0."""
    mean = np.exp(z)
    y_log_y = y * np.log(np.where(y > 0, y, 1))
    return y_log_y - y * z - y + mean, mean - y


def huber(delta: float) -> Elements:
    """Half the square of errors up to delta, beyond it delta |z - y| - delta^2 / 2.

    P. Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 35,
    1964.
    """

    def elements(z: Array, y: Array) -> tuple[Array, Array]:
        slope = np.clip(z - y, -delta, delta)
        return slope * (z - y) - slope * slope / 2, slope

    return elements


def as_loss(elements: Elements) -> Loss:
    """Return f(z, y) of the loss of each element."""

    @np.errstate(over="ignore", under="ignore", invalid="ignore")
    def loss(z: Array, y: Array) -> tuple[float, Array]:
        outputs = z.shape[1]
        each, slope = elements(z, y[:, :outputs])
        if y.shape[1] == outputs:
            return float(each.sum(axis=1).mean(dtype=np.float64)), slope / z.dtype.type(len(z))
        weight = y[:, outputs]
        total = weight.sum(dtype=np.float64)
        if total == 0:
            return 0.0, np.zeros_like(z)
        value = float(np.dot(each.sum(axis=1, dtype=np.float64), weight) / total)
        return value, slope * (weight / total)[:, None]

    return loss


def with_weights(y: Array, sample_weight: Array | None) -> Array:
    """Return targets with the rows' weights as a last column."""
    return y if sample_weight is None else np.column_stack([y, sample_weight])
