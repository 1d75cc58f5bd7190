"""What rules of initial weights do to the signal of a deep network, before any training.

Rows of N(0, 1) go forward through `depth` layers a = f(x @ w), then a gradient of norm 1 goes back.
With weights too small the activations fall to 0 layer by layer, with weights too large those of a
tanh sit at -1 and 1; a variance of about 1 / fan_in keeps their spread.

The experiment of many lecture notes, after X. Glorot, Y. Bengio, AISTATS 2010, and K. He et al.,
ICCV 2015.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import init
from ..dense import dense_backward, dense_forward
from ..network import MLP
from ..random import Stream
from ..reference import arguments, plot, training
from ..reference.arguments import Array
from ..reference.init import Init
from ..reference.stats import ActivationStats
from ..stats import activation_stats

RULES: dict[str, Init] = {
    "N(0, 0.01^2)": init.normal(0.01),
    "N(0, 1)": init.normal(1.0),
    "Xavier": init.xavier_normal(),
    "Glorot": init.glorot_uniform(),
    "He": init.he_normal(),
}
_BOUNDED = {"tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}  # the range of these histograms


@dataclass(frozen=True, eq=False)
class Signals:
    """What one rule does, layer by layer; the first entry is the first layer's.

    Attributes
    ----------
    rule : its name
    stats : list of ActivationStats, each with a histogram: over the activation's range where it is
        bounded, else from the layer's smallest to its largest element
    da_norm : float64 (depth,), norm of the gradient with respect to the layer's activations; the
        last one is 1
    gradient_norm : float64 (depth,), norm of the gradient with respect to the layer's weights
    """

    rule: str
    stats: list[ActivationStats]
    da_norm: NDArray[np.float64]
    gradient_norm: NDArray[np.float64]

    @property
    def mean(self) -> NDArray[np.float64]:
        """The mean of each layer's activations."""
        return np.array([stats.mean for stats in self.stats])

    @property
    def std(self) -> NDArray[np.float64]:
        """The standard deviation of each layer's activations."""
        return np.array([stats.std for stats in self.stats])

    @property
    def saturated_fraction(self) -> NDArray[np.float64]:
        """The part of each layer's activations that is saturated: for tanh beyond |0.98|."""
        return np.array([stats.saturated_fraction for stats in self.stats])


@dataclass(frozen=True, eq=False)
class InitialisationStudy:
    """The signals of several rules in one network; `study["Xavier"]` is that rule's.

    Attributes
    ----------
    activation : of the layers
    what : sizes, rows, dtype and seed in words
    signals : list of Signals, one per rule
    """

    activation: str
    what: str
    signals: list[Signals]

    def __getitem__(self, rule: str) -> Signals:
        """Return the signals of the rule of this name."""
        known = [one.rule for one in self.signals]
        return self.signals[known.index(arguments.check_choice("rule", rule, known))]

    def table(self) -> str:
        """Return the figures as text, one block each: a line per layer, a column per rule."""
        parts = (
            ("mean of the activations", "mean", "{:.1e}"),
            ("standard deviation of the activations", "std", "{:.2e}"),
            ("saturated activations", "saturated_fraction", "{:.1%}"),
            ("norm of the gradient, of the activations", "da_norm", "{:.2e}"),
            ("norm of the gradient, of the weights", "gradient_norm", "{:.2e}"),
        )
        lines = [f"{self.activation}, {self.what}"]
        wide = max(12, *(len(one.rule) + 2 for one in self.signals))
        for title, name, form in parts:
            columns = [getattr(one, name) for one in self.signals]
            if name == "saturated_fraction" and not np.any(columns):
                continue  # this activation has no saturation
            lines += ["", title, "layer" + "".join(f"{one.rule:>{wide}}" for one in self.signals)]
            for i, row in enumerate(zip(*columns, strict=True), 1):
                lines.append(f"{i:5}" + "".join(f"{form.format(value):>{wide}}" for value in row))
        return "\n".join(lines)

    def plot(self, axes: Any = None) -> Array:
        """Draw a row per rule: the layers' histograms, then mean, spread and gradient by layer.

        Parameters
        ----------
        axes : (rules, depth + 3) of them; a new figure when None

        Returns
        -------
        The axes, an array (rules, depth + 3).

        Raises
        ------
        ImportError
            matplotlib is not installed.
        ValueError
            Another number of axes.
        """
        depth = len(self.signals[0].stats)
        shape = len(self.signals), depth + 3
        if axes is None:
            size = 0.85 * depth + 6.5, 1.25 * shape[0] + 0.8
            axes = plot.new_axes(*shape, size=size, width_ratios=[1] * depth + [2] * 3)
            axes[0, 0].figure.suptitle(f"{self.activation}, {self.what}", fontsize=10)
        grid = np.array(plot.as_axes("axes", axes, shape[0] * shape[1]), object).reshape(shape)
        layers = np.arange(1, depth + 1)
        limits = _BOUNDED.get(self.activation)
        for i, (row, one) in enumerate(zip(grid, self.signals, strict=True)):
            colour = plot.COLOURS[i % len(plot.COLOURS)]
            for layer, ax, stats in zip(layers, row, one.stats, strict=False):
                plot.draw_histogram(ax, stats, colour)
                _mark_ends(ax, stats, labels=limits is None or i == shape[0] - 1)
                if i == 0:
                    ax.set_title(f"layer {layer}", fontsize=8)
            row[0].set_ylabel(one.rule, fontsize=9)
            mean, std, da = row[depth:]
            mean.plot(layers, one.mean, marker="o", markersize=3, color=colour)
            mean.set_xticks([1, depth])
            if limits is not None:
                mean.set_ylim(limits)
            else:
                mean.axhline(0, color="0.7", linewidth=0.8, zorder=0)
            mean.yaxis.get_offset_text().set_fontsize(7)
            for ax, values in ((std, one.std), (da, one.da_norm)):
                plot.draw_norms(ax, layers, values, color=colour)
                ax.set_xticks([1, depth])
            for ax in (mean, std, da):
                ax.tick_params(labelsize=7)
        titles = "mean", "standard deviation", "norm of gradient"
        for ax, title in zip(grid[0, depth:], titles, strict=True):
            ax.set_title(title, fontsize=9)
        _share_limits(grid[:, depth + 1])
        _share_limits(grid[:, depth + 2])
        return grid


def initialisation(
    rules: Mapping[str, str | Init] | Iterable[str] | None = None,
    *,
    activation: str = "tanh",
    depth: int = 10,
    width: int = 500,
    rows: int = 1000,
    x: Any = None,
    bins: int = 50,
    dtype: DTypeLike = "float32",
    seed: int = 0,
) -> InitialisationStudy:
    """Send a batch forward and a gradient back through a deep network, once for each rule.

    Parameters
    ----------
    rules : names of `fanin.init`, or a mapping of names of your own to such names or
        initialisers; None for `RULES`: N(0, 0.01^2), N(0, 1), Xavier, Glorot (uniform), He
    activation : of all layers
    depth, width : number of layers, units in each
    rows : of the batch, N(0, 1), `width` columns
    x : (m, k), a batch of your own instead; the first layer then has k inputs
    bins : of the histograms
    dtype : "float32" or "float64"
    seed : of weights, batch and gradient, 0 <= seed < 2**64

    Returns
    -------
    InitialisationStudy

    Raises
    ------
    TypeError, ValueError
        A setting of the wrong type or out of range, an unknown rule.

    Notes
    -----
    The weights are those of MLP(..., init=rule, seed=seed); batch and gradient are the `Stream`s
    (seed, depth) and (seed, depth + 1), so a seed gives the same figures everywhere.  The gradient
    with respect to the last activations is N(0, 1), scaled to norm 1.
    """
    depth = arguments.check_integer("depth", depth, 1, arguments.LAYER_LIMIT - 2)
    width = arguments.check_integer("width", width, 1)
    rows = arguments.check_integer("rows", rows, 1)
    bins = arguments.check_integer("bins", bins, 1)
    activation = arguments.check_activation("activation", activation)
    named = _named(rules)
    real = arguments.check_float_dtype(dtype)
    seed = arguments.check_integer("seed", seed, 0, arguments.SEED_LIMIT)
    if x is None:
        batch = Stream(seed, depth).normal((rows, width)).astype(real)
        where = f"{rows} rows of N(0, 1)"
    else:
        batch = training.as_array("x", x)
        if batch.ndim != 2 or not batch.size:
            raise ValueError(f"x: expected shape (rows, columns), got {batch.shape}")
        training.check_finite("x", batch, real)
        batch = training.cast(batch, real)
        where = f"{len(batch)} rows of {batch.shape[1]} columns"
    sizes = [batch.shape[1], *[width] * depth]
    top = Stream(seed, depth + 1).normal((len(batch), width))
    da = (top / np.linalg.norm(top)).astype(real)
    signals = [
        _signals(name, rule, sizes, activation, batch, da, bins, seed)
        for name, rule in named.items()
    ]
    what = f"{depth} layers of {width} units, {where}, {real}, seed {seed}"
    return InitialisationStudy(activation, what, signals)


def _named(rules: Any) -> dict[str, str | Init]:
    """Return the rules by name."""
    if rules is None:
        return dict(RULES)
    if isinstance(rules, str):
        rules = [rules]
    if not isinstance(rules, Mapping):
        rules = {str(rule): rule for rule in rules}
    if not rules:
        raise ValueError("rules: expected at least one, got none")
    return dict(rules)


@np.errstate(over="ignore", invalid="ignore")  # a signal that explodes is a result
def _signals(
    name: str,
    rule: str | Init,
    sizes: list[int],
    activation: str,
    x: Array,
    da: Array,
    bins: int,
    seed: int,
) -> Signals:
    net = MLP(sizes, init=rule, output="identity", dtype=x.dtype, seed=seed)
    limits = _BOUNDED.get(activation)
    a, caches, stats = x, [], []
    for layer in net.layers:
        a, cache = dense_forward(a, layer.weight, activation=activation)
        caches.append(cache)
        stats.append(activation_stats(a, bins=bins, range=limits, activation=activation))
    da_norm, gradient_norm = [], []
    for i in reversed(range(len(caches))):
        da_norm.append(_norm(da))
        dx, dw, _ = dense_backward(da, caches[i], need_dx=i > 0)
        gradient_norm.append(_norm(dw))
        da = da if dx is None else dx
    return Signals(name, stats, np.array(da_norm[::-1]), np.array(gradient_norm[::-1]))


def _norm(values: Array) -> float:
    return float(np.linalg.norm(values.astype(np.float64)))


def _mark_ends(ax: Any, stats: ActivationStats, labels: bool) -> None:
    """Ticks at the two ends of a histogram."""
    assert stats.edges is not None
    ends = stats.edges[[0, -1]]
    ax.set_xticks(ends, [f"{end:.2g}" if labels else "" for end in ends], fontsize=6)


def _share_limits(column: Array) -> None:
    """Give the logarithmic panels one above the other the same range, with some room."""
    low = min(ax.get_ylim()[0] for ax in column) / 3
    high = max(ax.get_ylim()[1] for ax in column) * 3
    for ax in column:
        ax.set_ylim(low, high)
