"""Statistics of activations, compiled: `activation_stats`."""

import math
from typing import Any

import numpy as np

from . import _core
from .activation import as_rows
from .reference import arguments
from .reference.arguments import Array
from .reference.stats import ActivationStats, histogram_range, saturation_bounds


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

    Notes
    -----
    The variance is joined from blocks of 64 rows, each shifted by its first row (Chan, Golub and
    LeVeque, The American Statistician 37, 1983): no difference of large squares.
    """
    if arguments.on_cuda(a):
        from .cuda import stats as cuda

        return cuda.activation_stats(a, bins=bins, range=range, activation=activation)
    arguments.check_activation_stats(a, bins, range, activation)
    rows = as_rows(a) if a.ndim == 2 else np.ascontiguousarray(a).reshape(-1, 1)
    numbers = _core.stats(rows, *saturation_bounds(activation))
    return stats_of(numbers, rows.shape[0], histogram_of(rows, bins, range, numbers))


Histogram = tuple[Array, Array] | tuple[None, None]


def histogram_of(
    a: Array, bins: int, range: tuple[float, float] | None, numbers: tuple[Any, ...]
) -> Histogram:
    """Return counts and edges of the finite elements of a, or None twice for no bins."""
    if bins == 0:
        return None, None
    if range is None:
        low, high = numbers[2], numbers[3]
        if not (math.isfinite(low) and math.isfinite(high)):  # rare: let NumPy look for them
            finite = a[np.isfinite(a)]
            low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        range = histogram_range(low, high, bins)
    edges = np.histogram_bin_edges(np.empty(0), bins, range)
    counts = np.zeros(bins, np.int64)
    _core.histogram(a, edges, counts)
    return counts, edges


def stats_of(numbers: tuple[Any, ...], rows: int, histogram: Histogram) -> ActivationStats:
    """Return what the compiled functions count, as an ActivationStats."""
    mean, std, low, high, zeros, saturated, unit_mean, unit_zeros = numbers
    size = rows * len(unit_mean)
    return ActivationStats(
        mean=mean,
        std=std,
        min=low,
        max=high,
        zero_fraction=zeros / size,
        saturated_fraction=saturated / size,
        histogram=histogram[0],
        edges=histogram[1],
        unit_mean=unit_mean,
        unit_zeros=unit_zeros,
        rows=rows,
    )
