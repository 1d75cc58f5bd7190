"""Statistics of activations on a CUDA device; see `fanin.activation_stats`."""

import math
from typing import Any

import numpy as np

from ..reference import arguments
from ..reference.stats import ActivationStats, histogram_range, saturation_bounds
from ..stats import Histogram, stats_of
from .array import Call


def activation_stats(
    a: Any,
    *,
    bins: int = 50,
    range: tuple[float, float] | None = None,
    activation: str | None = None,
) -> ActivationStats:
    """Return the statistics of an array on a device, as numbers on the host: this waits for it."""
    arguments.check_stats_settings(bins, range, activation)
    call = Call("a", a)
    array = call.array("a", a, 1 if getattr(a, "ndim", 2) == 1 else 2)
    arguments.check_rows("a", array)
    if array.ndim == 1:
        array = call.contiguous("a", array).reshape([array.size, 1])
    rows = call.rows(array, "a")
    numbers = call.compiled.stats(rows, *saturation_bounds(activation), call.stream)
    return stats_of(numbers, rows.shape[0], histogram_of(call, rows, bins, range, numbers))


def histogram_of(
    call: Call, a: Any, bins: int, range: tuple[float, float] | None, numbers: tuple[Any, ...]
) -> Histogram:
    """Return counts and edges of the finite elements of a, or None twice for no bins."""
    if bins == 0:
        return None, None
    if range is None:
        low, high = numbers[2], numbers[3]
        if not (math.isfinite(low) and math.isfinite(high)):  # rare: let NumPy look for them
            host = call.download(a, "a")
            finite = host[np.isfinite(host)]
            low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        range = histogram_range(low, high, bins)
    edges = np.histogram_bin_edges(np.empty(0), bins, range)
    counts = np.zeros(bins, np.int64)
    call.compiled.histogram(a, edges, counts, call.stream)
    return counts, edges
