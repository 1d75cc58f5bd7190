"""Figures of a training: the learning curve, the layers' activations, their gradients.

Each function draws on the axes it is given, or on a new figure of pyplot, and returns the axes:
they can be drawn on further, saved by `axes.figure.savefig(path)`, or shown by `pyplot.show()`.
Nothing is shown, no setting of matplotlib is changed, no screen is needed.

matplotlib is imported when something is drawn: pip install "fanin[plot]".
"""

import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from . import arguments
from .arguments import Array
from .history import History
from .stats import ActivationStats

COLOURS = ("#30638e", "#d1495b", "#6a994e", "#b8860b", "#7b5ea7", "#4d4d4d")


def new_axes(
    rows: int = 1, columns: int = 1, *, size: tuple[float, float], **options: Any
) -> Array:
    """Return the axes (rows, columns) of a new figure of pyplot, `size` in inches."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            'figures need matplotlib, which is not installed: pip install "fanin[plot]"'
        ) from error
    grid: Array = pyplot.subplots(
        rows, columns, figsize=size, layout="constrained", squeeze=False, **options
    )[1]
    for ax in grid.flat:
        plain(ax)
    return grid


def plain(ax: Any) -> None:
    """Take away what a curve does not need: the lines above and on the right."""
    ax.spines[["top", "right"]].set_visible(False)


def save(axes: Any, path: str) -> None:
    """Write the figure of these axes, one or an array, as a small PNG; close it in pyplot."""
    with open(path, "wb") as file:
        file.write(as_png(axes))


def as_png(axes: Any) -> bytes:
    """Return the figure of these axes as a small PNG; close it in pyplot."""
    from matplotlib import pyplot
    from PIL import Image  # comes with matplotlib

    figure = np.asarray(axes, dtype=object).flat[0].figure
    picture, small = io.BytesIO(), io.BytesIO()
    figure.savefig(picture, dpi=100)
    pyplot.close(figure)
    with Image.open(picture) as image:
        image.convert("RGB").quantize(64).save(small, "png", optimize=True)
    return small.getvalue()


def as_axes(name: str, axes: Any, count: int) -> list[Any]:
    """Return `count` axes from one of them, a sequence or an array."""
    found = list(np.asarray(axes, dtype=object).flat)
    if len(found) != count or not all(hasattr(ax, "plot") for ax in found):
        raise ValueError(f"{name}: expected {count} axes, got {arguments.describe(axes)}")
    return found


def _check_history(history: Any) -> None:
    if not isinstance(history, History):
        raise TypeError(f"history: expected what fit returned, got {arguments.describe(history)}")


# ---- the learning curve ----------------------------------------------------------------------


def plot_history(history: History, ax: Any = None, *, metric: str = "loss") -> Any:
    """Draw the curves of training and validation on one axis, and mark the best epoch.

    Parameters
    ----------
    history : what `fit` returned
    ax : where to draw; a new figure when None
    metric : "loss", or another of which the history has values, such as "accuracy": those of
        history.<metric> and history.val_<metric>, or of a metric of `fit`, where they are there

    Returns
    -------
    The axes.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    TypeError, ValueError
        Not a History, no finished epoch, or no such metric in the history.
    """
    _check_history(history)
    of_validation = history.metrics.get(metric) or getattr(history, f"val_{metric}", None)
    found = {"training": getattr(history, metric, None), "validation": of_validation}
    curves = {label: list(values) for label, values in found.items() if values}
    if not curves:
        why = f"{metric!r} in none of its lists" if history.epochs else "no finished epoch"
        raise ValueError(f"history: expected values of {metric!r} after some epochs, got {why}")
    if ax is None:
        ax = new_axes(size=(6, 4))[0, 0]
    colours = dict(zip(found, COLOURS, strict=False))
    for label, values in curves.items():
        ax.plot(np.arange(1, len(values) + 1), values, color=colours[label], label=label)
    best, last = history.best_epoch, list(curves)[-1]
    if best is not None and best < len(curves[last]):
        value = curves[last][best]
        ax.axvline(best + 1, color="0.7", linewidth=0.8, zorder=0)
        ax.plot([best + 1], [value], "o", color=colours[last],
                label=f"best epoch, {best + 1}: {value:.4g}")  # fmt: skip
    ax.set(xlabel="epoch", ylabel=metric)
    ax.legend(frameon=False)
    return ax


# ---- what the layers do ----------------------------------------------------------------------


def plot_activations(source: Any, axes: Any = None) -> Array:
    """Draw the histogram of each layer's activations, with their mean and standard deviation.

    Parameters
    ----------
    source : a network after `fit(monitor=True)`, a History (its last epoch), or ActivationStats,
        one or a sequence
    axes : as many as there are layers; a new figure when None

    Returns
    -------
    Array of the axes, (layers,).

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError
        No statistics, statistics without histogram (`train_step(monitor=True)` makes none), or
        another number of axes.

    Notes
    -----
    Layers are numbered as in `net.layers`.  The figure is that of X. Glorot and Y. Bengio,
    AISTATS 2010, who watched these histograms during training.
    """
    layers = stats_of(source)
    if axes is None:
        columns = min(len(layers), 5)
        rows = -(-len(layers) // columns)
        grid = new_axes(rows, columns, size=(2.2 * columns, 2.0 * rows + 0.4)).reshape(-1)
        for spare in grid[len(layers) :]:
            spare.remove()
        axes = grid[: len(layers)]
    found = as_axes("axes", axes, len(layers))
    for i, (ax, stats) in enumerate(zip(found, layers, strict=True)):
        draw_histogram(ax, stats, COLOURS[0])
        ax.set_title(f"layer {i}\nmean {stats.mean:.2g}, std {stats.std:.2g}", fontsize=9)
    return np.array(found, dtype=object)


def stats_of(source: Any) -> list[ActivationStats]:
    """Return the statistics, with histograms, of a network, a History or a sequence of them."""
    if isinstance(source, ActivationStats):
        found: list[Any] = [source]
    elif hasattr(source, "layers"):
        found = [layer.stats for layer in source.layers]
    elif hasattr(source, "best_epoch"):
        found = list(source.stats[-1]) if source.stats else [None]
    else:
        found = list(source) if isinstance(source, Iterable) else [source]
    if not found or any(stats is None for stats in found):
        raise ValueError(
            "source: expected statistics of every layer, got none; fit(monitor=True) leaves them"
        )
    for stats in found:
        if not isinstance(stats, ActivationStats):
            raise TypeError(
                "source: expected a network, a History or ActivationStats, "
                f"got {arguments.describe(stats)}"
            )
        if stats.histogram is None:
            raise ValueError(
                "source: expected statistics with a histogram, got some without; fit(monitor=True) "
                "makes them, train_step(monitor=True) does not"
            )
    return found


def draw_histogram(ax: Any, stats: ActivationStats, colour: str) -> None:
    """Draw the part of the elements in each bin; nothing where no element is finite.

    Where relu has made many zeros, their bar is cut off and their part written beside it.
    """
    assert stats.histogram is not None and stats.edges is not None
    bars = stats.histogram / max(stats.histogram.sum(), 1)
    ax.stairs(bars, stats.edges, fill=True, color=colour)
    second = np.sort(bars)[-2:][0]
    if stats.zero_fraction > 0.2 and 0 < 4 * second < bars.max():
        ax.set_ylim(0, 1.6 * second)
        ax.annotate(f"{stats.zero_fraction:.0%} are 0", (0.95, 0.85), xycoords="axes fraction",
                    ha="right", fontsize=7, color=colour)  # fmt: skip
    ax.set_yticks([])
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(labelsize=8)


def plot_gradients(source: Any, ax: Any = None, *, label: str | None = None) -> Any:
    """Draw the norm of each layer's gradient, the weights', on a logarithmic axis.

    Parameters
    ----------
    source : a network after `train_step(monitor=True)` or `fit(monitor=True)`, a History (its last
        monitored step), or numbers >= 0, one per layer
    ax : where to draw; a new figure when None
    label : of the curve, for a legend

    Returns
    -------
    The axes.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    TypeError, ValueError
        No monitored step, or not such numbers.

    Notes
    -----
    Layers are numbered as in `net.layers`.  A norm that is 0, infinite or NaN has no point; its
    layer's place stays empty.
    """
    norms: Any = source
    if hasattr(source, "layers"):
        norms = [layer.gradient_norm for layer in source.layers]
    elif hasattr(source, "best_epoch"):
        norms = source.monitor["gradient_norm"][-1] if source.monitor else [None]
    if any(norm is None for norm in np.asarray(norms, dtype=object).flat):
        raise ValueError(
            "source: expected the gradient norms of a monitored step, got none; "
            "train_step(monitor=True) and fit(monitor=True) leave them"
        )
    values = np.asarray(norms, dtype=np.float64)
    if values.ndim != 1 or not values.size or (values < 0).any():
        raise ValueError(
            f"source: expected numbers >= 0, one per layer, got {arguments.describe(source)}"
        )
    if ax is None:
        ax = new_axes(size=(6, 4))[0, 0]
    draw_norms(ax, np.arange(len(values)), values, label=label)
    ax.set(xlabel="layer", ylabel="norm of the weights' gradient")
    if label is not None:
        ax.legend(frameon=False)
    return ax


def plot_layers(history: History, axes: Any = None) -> Array:
    """Draw how each layer fared over the steps of a training: five curves per layer.

    Parameters
    ----------
    history : what `fit(monitor=True)` returned
    axes : five of them; a new figure when None

    Returns
    -------
    Array of the axes, (5,): standard deviation of the activations, norm of the weights' gradient,
    norm of the update over that of the weights, part of the units that are dead, part of the
    activations that are saturated; the first three on logarithmic axes.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    TypeError, ValueError
        Not a History, one without monitored steps, or another number of axes.
    """
    _check_history(history)
    monitor = history.monitor
    if monitor is None or not len(monitor):
        raise ValueError("history: expected monitored steps, got none; fit(monitor=True) has them")
    if axes is None:
        grid = new_axes(2, 3, size=(9, 5)).reshape(-1)
        grid[-1].remove()
        axes = grid[:-1]
    found = as_axes("axes", axes, len(LAYER_CURVES))
    from matplotlib import colormaps

    # the ends of the map are too pale and too dark to tell
    colours = colormaps["viridis"](np.linspace(0.0, 0.9, monitor.layers))
    for ax, (name, title) in zip(found, LAYER_CURVES.items(), strict=True):
        values = monitor.update_ratio if name == "update_ratio" else monitor[name]
        fraction = name.endswith("fraction")
        shown = np.where(np.isfinite(values) & (fraction | (values > 0)), values, math.nan)
        for layer, colour in enumerate(colours):
            ax.plot(monitor.steps, shown[:, layer], color=colour, linewidth=1, label=f"{layer}")
        if len(monitor) > 1:
            margin = 0.03 * (monitor.steps[-1] - monitor.steps[0])
            ax.set_xlim(monitor.steps[0] - margin, monitor.steps[-1] + margin)
        if fraction:
            ax.set_ylim(-0.03, 1.03)
        elif np.isfinite(shown).any():
            ax.set_yscale("log")
        if name == "update_ratio":
            ax.axhline(1e-3, color="0.6", linewidth=0.8, linestyle="--", zorder=0)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("step", fontsize=8)
        ax.tick_params(labelsize=8)
    columns = 1 if monitor.layers <= 6 else 2
    found[-1].legend(title="layer", fontsize=7, title_fontsize=8, frameon=False, ncols=columns,
                     loc="upper left", bbox_to_anchor=(1.02, 1))  # fmt: skip
    return np.array(found, dtype=object)


LAYER_CURVES = {
    "std": "std of the activations",
    "gradient_norm": "norm of the gradient",
    "update_ratio": "update / weight (1e-3 is usual)",
    "dead_fraction": "dead units",
    "saturated_fraction": "saturated activations",
}


def draw_norms(ax: Any, layers: Array, values: Array, **options: Any) -> None:
    """Draw positive numbers against layers on a logarithmic axis; others leave a gap."""
    shown = np.where(np.isfinite(values) & (values > 0), values, math.nan)
    ax.plot(layers, shown, marker="o", markersize=3, **options)
    ax.set_yscale("log")
    ax.minorticks_off()
    ax.set_xticks(_some(layers))


def _some(layers: Array) -> Sequence[int]:
    """Return the layers that get a tick: all, or about ten of them."""
    every = 1 + len(layers) // 11
    return [int(layer) for layer in layers[::every]]
