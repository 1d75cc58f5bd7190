"""Decision boundaries in the plane, with and without regularisation.

A network with many more units than the data need bends its boundary around single noisy points; a
penalty on the weights or dropout keeps it smooth, and the dev set says which of them was right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..network import MLP
from ..optimizer import Adam
from ..random import Stream
from ..reference import arguments, plot, training
from ..reference.arguments import Array

# The three of the lecture: settings of MLP by name.
SETTINGS: dict[str, dict[str, Any]] = {
    "no regularisation": {},
    "L2": {"l2": 0.005},
    "dropout": {"dropout": 0.5},
}


def decision_boundary(
    net: Any, x: Any, y: Any, ax: Any = None, *, resolution: int = 200, margin: float = 0.1
) -> Any:
    """Draw what a classifier of two inputs says of every point of the plane, and the data on it.

    Parameters
    ----------
    net : an MLP with two inputs and output "softmax" or "sigmoid"; or anything with predict and,
        for two classes, predict_proba
    x, y : (m, 2) and labels (m,): the points
    ax : where to draw; a new figure when None
    resolution : points of the grid in each direction
    margin : around the data, as a part of their range

    Returns
    -------
    The axes.  Two classes: the probability of the second as colour, and the line where it is 1/2.
    More: a colour for each class.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    TypeError, ValueError
        Not such arrays or settings, a network for numbers (output="identity").
    """
    resolution = arguments.check_integer("resolution", resolution, 2)
    margin = arguments.check_nonnegative("margin", margin)
    if getattr(net, "output", "") == "identity":
        raise ValueError("net: expected output='softmax' or 'sigmoid', got 'identity'")
    x = training.as_rows("x", x, 2)
    arguments.check_rows("x", x)
    training.check_finite("x", x, np.dtype(np.float64))
    labels = training.as_array("y", y)
    arguments.check_shape("y", labels, (len(x),), "(one label per row of x)")
    low, high = x.min(axis=0).astype(float), x.max(axis=0).astype(float)
    room = margin * np.where(high > low, high - low, 1.0)
    sides = [np.linspace(a, b, resolution) for a, b in zip(low - room, high + room, strict=True)]
    grid = np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 2)
    if ax is None:
        ax = plot.new_axes(size=(5, 4))[0, 0]
    two = _two_classes(net, grid)
    if two is not None:
        colours = [plot.COLOURS[0], plot.COLOURS[1]]
        p = two.reshape(resolution, resolution)
        ax.imshow(p, cmap="RdBu_r", vmin=0, vmax=1, alpha=0.45, origin="lower", aspect="auto",
                  extent=(*sides[0][[0, -1]], *sides[1][[0, -1]]))  # fmt: skip
        if p.min() < 0.5 < p.max():
            ax.contour(*sides, p, levels=[0.5], colors="black", linewidths=1)
        classes = np.array([0, 1])
    else:
        said = np.asarray(net.predict(grid)).reshape(resolution, resolution)
        classes = np.union1d(labels, said)
        colours = [plot.COLOURS[i % len(plot.COLOURS)] for i in range(len(classes))]
        place = np.searchsorted(classes, said)
        ax.contourf(*sides, place, levels=np.arange(len(classes) + 1) - 0.5, colors=colours,
                    alpha=0.35)  # fmt: skip
    for label, colour in zip(classes, colours, strict=True):
        ax.scatter(*x[labels == label].T, s=12, color=colour, edgecolors="white", linewidths=0.4,
                   label=str(label))  # fmt: skip
    ax.set(xlim=sides[0][[0, -1]], ylim=sides[1][[0, -1]])
    return ax


def _two_classes(net: Any, grid: Array) -> Array | None:
    """Return the probability of the second of two classes; None for more, or without."""
    if not hasattr(net, "predict_proba"):
        return None
    p = np.asarray(net.predict_proba(grid), dtype=np.float64)
    if p.ndim == 2 and p.shape[1] in (1, 2):
        second: Array = p[:, -1]
        return second
    return None


def two_moons(
    rows: int, *, noise: float = 0.3, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return two interleaved half circles of radius 1 with noise, a common test of classifiers.

    Parameters
    ----------
    rows : how many; the first half is class 0
    noise : standard deviation added to both coordinates
    seed : of the `Stream` (seed, 0) that draws place and noise

    Returns
    -------
    x : float64 (rows, 2)
    y : int64 (rows,), 0 or 1

    Raises TypeError or ValueError for settings out of range.
    """
    rows = arguments.check_integer("rows", rows, 2)
    noise = arguments.check_nonnegative("noise", noise)
    rng = Stream(arguments.check_integer("seed", seed, 0, arguments.SEED_LIMIT), 0)
    angle = np.pi * rng.uniform(rows)
    y = (np.arange(rows) >= rows // 2).astype(np.int64)
    x = np.column_stack([np.cos(angle), np.sin(angle)])
    x[y == 1] = [1.0, 0.5] - x[y == 1]
    return x + noise * rng.normal((rows, 2)), y


@dataclass(frozen=True, eq=False)
class Boundaries:
    """Networks trained on the same points.

    Attributes
    ----------
    x, y : the training points, (m, 2) and (m,)
    networks : by name
    train_accuracy, dev_accuracy : by name, without dropout
    """

    x: Array
    y: Array
    networks: dict[str, MLP]
    train_accuracy: dict[str, float]
    dev_accuracy: dict[str, float]

    def table(self) -> str:
        """Return a line per network as text."""
        wide = max(20, *(len(name) + 2 for name in self.networks))
        lines = [f"{'':{wide}}train   dev"]
        for name in self.networks:
            train, dev = self.train_accuracy[name], self.dev_accuracy[name]
            lines.append(f"{name:{wide}}{train:5.1%} {dev:5.1%}")
        return "\n".join(lines)

    def plot(self, axes: Any = None) -> Array:
        """Draw the boundary of each network over the training points.

        Parameters
        ----------
        axes : one per network; a new figure when None

        Returns
        -------
        Array of the axes.

        Raises
        ------
        ImportError
            matplotlib is not installed.
        ValueError
            Another number of axes.
        """
        count = len(self.networks)
        if axes is None:
            axes = plot.new_axes(1, count, size=(4 * count, 3.4), sharey=True)
        panels = plot.as_axes("axes", axes, count)
        for ax, (name, net) in zip(panels, self.networks.items(), strict=True):
            decision_boundary(net, self.x, self.y, ax)
            ax.set_title(
                f"{name}\ntrain {self.train_accuracy[name]:.1%}, dev {self.dev_accuracy[name]:.1%}",
                fontsize=10,
            )
        return np.array(panels, dtype=object)


def boundaries(
    x: Any = None,
    y: Any = None,
    validation: tuple[Any, Any] | None = None,
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    hidden: tuple[int, ...] = (100, 100),
    epochs: int = 1500,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
    seed: int = 0,
) -> Boundaries:
    """Train the same network with several regularisations on a problem in the plane.

    Parameters
    ----------
    x, y, validation : (m, 2), labels (m,), and (x, y) of the dev set; None for all three: 200 and
        2000 points of `two_moons`
    settings : arguments of MLP by name; None for `SETTINGS`: none, l2=0.005, dropout=0.5
    hidden : units of the hidden layers, relu
    epochs, batch_size, learning_rate : of Adam
    seed : of points, weights and dropout

    Returns
    -------
    Boundaries

    Raises
    ------
    TypeError, ValueError
        x, y or validation without the others, and as `MLP` and `MLP.fit`.
    """
    given = [one is not None for one in (x, y, validation)]
    if any(given) != all(given):
        raise TypeError("validation: expected x, y and validation together, or none of them")
    if validation is None:
        x, y = two_moons(200, seed=seed)
        validation = two_moons(2000, seed=seed + 1)
    x = training.as_rows("x", x, 2)
    y = training.as_array("y", y)
    classes = int(max(np.max(y, initial=0), np.max(validation[1], initial=0))) + 1
    networks, train, dev = {}, {}, {}
    for name, options in (SETTINGS if settings is None else settings).items():
        net = MLP([2, *hidden, max(classes, 2)], seed=seed, **options)
        net.fit(
            x, y, epochs=epochs, batch_size=batch_size, optimizer=Adam(learning_rate),
            progress=False, monitor=False,
        )  # fmt: skip
        networks[name] = net
        train[name] = net.evaluate(x, y)["accuracy"]
        dev[name] = net.evaluate(*validation)["accuracy"]
    return Boundaries(x, y, networks, train, dev)
