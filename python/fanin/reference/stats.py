"""Statistics of a layer's activations: is it alive, does its signal keep its size?

After Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural
networks", AISTATS 2010, who watched the mean, the spread and the saturation of every layer.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import arguments
from .activation import SELU_ALPHA, SELU_SCALE
from .arguments import Array

# Saturated means below the first or above the second number, where the derivative is nearly 0.
SATURATION = {
    "tanh": (-0.98, 0.98),
    "sigmoid": (0.01, 0.99),
    "elu": (-0.98, math.inf),
    "selu": (-0.98 * SELU_SCALE * SELU_ALPHA, math.inf),
}


@dataclass(frozen=True, slots=True, eq=False)
class ActivationStats:
    """What one layer put out for one batch, before dropout.

    Attributes
    ----------
    mean, std, min, max : float
        Of all elements; std is the population's (divided by their number).  NaN when one is NaN.
    zero_fraction : float
        The part of the elements that is exactly 0.
    saturated_fraction : float
        The part of the elements beyond the activation's saturation bounds.
    histogram : int64 (bins,) or None
        Counts of the finite elements, as np.histogram.
    edges : float64 (bins + 1,) or None
    unit_mean : float64 (n,)
        The mean of each unit (column).
    unit_zeros : int64 (n,)
        For how many rows each unit was exactly 0.
    rows : int
    """

    mean: float
    std: float
    min: float
    max: float
    zero_fraction: float
    saturated_fraction: float
    histogram: NDArray[np.int64] | None
    edges: NDArray[np.float64] | None
    unit_mean: NDArray[np.float64]
    unit_zeros: NDArray[np.int64]
    rows: int

    @property
    def dead_units(self) -> NDArray[np.int64]:
        """The numbers of the units that were 0 for every row, int64."""
        return np.flatnonzero(self.unit_zeros == self.rows).astype(np.int64, copy=False)


def saturation_bounds(activation: str | None) -> tuple[float, float]:
    """Return (low, high), outside of which an activation counts as saturated; None means tanh."""
    return SATURATION.get(activation or "tanh", (-math.inf, math.inf))


@np.errstate(over="ignore", invalid="ignore")
def activation_stats(
    a: Array,
    *,
    bins: int = 50,
    range: tuple[float, float] | None = None,
    activation: str | None = None,
) -> ActivationStats:
    """Return the statistics of a batch of activations.

    Parameters
    ----------
    a : (m, n) or (m,), float32 or float64, not empty; columns are units
    bins : number of bins of the histogram; 0 for none
    range : (low, high) of the histogram; None means from the smallest to the largest element.
        Elements outside are not counted, as in np.histogram.
    activation : name that sets the saturation bounds; None means those of tanh, |a| > 0.98

    Returns
    -------
    ActivationStats

    Raises
    ------
    TypeError, ValueError
        Not a float array, an empty one, bins < 0, a broken range, an unknown activation.
    """
    arguments.check_activation_stats(a, bins, range, activation)
    columns = a.reshape(-1, 1) if a.ndim == 1 else a
    values = columns.astype(np.float64)
    low, high = (a.dtype.type(bound) for bound in saturation_bounds(activation))
    zeros = (values == 0).sum(axis=0)
    histogram = edges = None
    if bins > 0:
        finite = values[np.isfinite(values)]
        if range is None and finite.size:
            range = histogram_range(finite.min(), finite.max(), bins)
        histogram, edges = np.histogram(finite, bins, range)
    return ActivationStats(
        mean=float(values.mean()),
        std=float(values.std()),
        min=float(values.min()),
        max=float(values.max()),
        zero_fraction=float(zeros.sum() / values.size),
        saturated_fraction=float(((values < low) | (values > high)).mean()),
        histogram=histogram,
        edges=edges,
        unit_mean=values.mean(axis=0),
        unit_zeros=zeros.astype(np.int64),
        rows=values.shape[0],
    )


def histogram_range(low: float, high: float, bins: int) -> tuple[float, float]:
    """Return the ends of a histogram of values from low to high.

    Those are low and high themselves, unless np.histogram could not divide them: too close
    together they are widened (by 0.5, as it does for equal ones, or more where numbers are
    sparser), too far apart for float64 they are moved inwards.
    """
    low, high = max(low, -8e307), min(high, 8e307)
    eps, tiny = np.finfo(np.float64).eps, np.finfo(np.float64).tiny
    finest = 4 * bins * max(eps * max(abs(low), abs(high)), tiny)
    if high - low <= finest:
        margin = max(0.5, finest)
        low, high = low - margin, high + margin
    return float(low), float(high)
