"""Scaled against unscaled inputs: the contours of the cost and the learning rate each bears.

The cost of a linear model with two features, J(w1, w2, b) = mean (x @ w + b - y)^2, is a quadratic
with the Hessian

    H = 2 / m [x, 1].T @ [x, 1]

Gradient descent multiplies the error along each eigenvector of H by 1 - learning_rate * lambda: it
converges for learning rates below 2 / lambda_max, and slowly along lambda_min, about
lambda_max / lambda_min (the condition number) times as slowly.  Features of different scales make
the two eigenvalues different: contours are long ellipses.

(Y. LeCun, L. Bottou, G. Orr, K.-R. Mueller, "Efficient BackProp", 1998, sections 4.3 and 5.1.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..network import MLP
from ..optimizer import SGD
from ..random import Stream
from ..reference import arguments, plot, training
from ..reference.arguments import Array

MARGIN = 0.01  # how far below and above its limit the learning rate is tried
_DRAWN = 0.8  # of the limit: the learning rate of the path in the figure
_DRAWN_STEPS = 30
_MOST_UNEQUAL = 20.0  # a window with equal scales on both axes shows ellipses up to here


@dataclass(frozen=True, eq=False)
class Descent:
    """Gradient descent with one learning rate, by SGD on the whole batch.

    Attributes
    ----------
    learning_rate
    excess : float64 (steps + 1,), the cost over the smallest one, before each step and at the end
    path : float64 (steps + 1, 3), w1, w2 and b there
    """

    learning_rate: float
    excess: NDArray[np.float64]
    path: NDArray[np.float64]

    @property
    def converges(self) -> bool:
        """Whether the cost is lower at the end than at the beginning."""
        return bool(self.excess[-1] < self.excess[0])


@dataclass(frozen=True, eq=False)
class Quadratic:
    """The cost of one of the two inputs, and what gradient descent does on it.

    Attributes
    ----------
    name : "unscaled" or "scaled"
    hessian : float64 (3, 3), in the order w1, w2, b
    minimum : float64 (3,), the best w1, w2, b
    below, above : Descent with 0.99 and 1.01 of `limit`
    drawn : Descent with 0.8 of it, the path of the figure
    """

    name: str
    hessian: NDArray[np.float64]
    minimum: NDArray[np.float64]
    below: Descent
    above: Descent
    drawn: Descent

    @property
    def limit(self) -> float:
        """The largest learning rate that converges, 2 / lambda_max."""
        return float(2 / np.linalg.eigvalsh(self.hessian)[-1])

    @property
    def condition(self) -> float:
        """The condition number of the Hessian, lambda_max / lambda_min."""
        eigenvalues = np.linalg.eigvalsh(self.hessian)
        return float(eigenvalues[-1] / eigenvalues[0])


@dataclass(frozen=True, eq=False)
class CostContours:
    """The two costs: `unscaled` and `scaled`, each a Quadratic."""

    unscaled: Quadratic
    scaled: Quadratic

    def table(self) -> str:
        """Return eigenvalues, limits and what happened below and above them as text."""
        steps = len(self.scaled.below.excess) - 1
        lines = [
            f"cost over the smallest one, after {steps} steps of SGD",
            "inputs      lambda_max  condition  2/lambda_max     start"
            f"  at {1 - MARGIN:g} of it  at {1 + MARGIN:g} of it",
        ]
        for one in (self.unscaled, self.scaled):
            lines.append(
                f"{one.name:10}{2 / one.limit:12.4g}{one.condition:11.4g}{one.limit:14.4g}"
                f"{one.below.excess[0]:10.2e}{one.below.excess[-1]:15.2e}"
                f"{one.above.excess[-1]:15.2e}"
            )
        return "\n".join(lines)

    def plot(self, axes: Any = None) -> Array:
        """Draw both contours with a path of gradient descent, then the costs by step.

        Contours and paths are drawn over w1 and w2, with the b that is best for them.

        Parameters
        ----------
        axes : three; a new figure when None

        Returns
        -------
        Array of the three axes.

        Raises
        ------
        ImportError
            matplotlib is not installed.
        ValueError
            Another number of axes.
        """
        if axes is None:
            axes = plot.new_axes(1, 3, size=(12, 4))
        panels = plot.as_axes("axes", axes, 3)
        both = self.unscaled, self.scaled
        for ax, one, colour in zip(panels, both, plot.COLOURS, strict=False):
            _draw_contours(ax, one, colour)
            for descent, style in ((one.drawn, "-"), (one.above, "--")):
                label = f"{one.name}, {descent.learning_rate:.3g}"
                panels[2].plot(descent.excess, style, color=colour, linewidth=1, label=label)
        start = self.unscaled.drawn.excess[0]
        panels[2].set(yscale="log", xlabel="step", ylabel="cost over the smallest")
        panels[2].set(xlim=(0, min(150, len(self.unscaled.drawn.excess) - 1)),
                      ylim=(1e-10 * start, 1e4 * start))  # fmt: skip
        panels[2].set_title(f"{_DRAWN:g} and {1 + MARGIN:g} of the largest learning rate",
                            fontsize=10)  # fmt: skip
        panels[2].legend(frameon=False, fontsize=8)
        return np.array(panels, dtype=object)


def cost_contours(x: Any = None, y: Any = None, *, steps: int = 500, seed: int = 0) -> CostContours:
    """Compare gradient descent on two features as they are and scaled to mean 0, deviation 1.

    Parameters
    ----------
    x : (m, 2), any real dtype; None for 200 rows of N(0, 1) and N(0, 5^2)
    y : (m,); given with x, else 2 x1 + 0.4 x2 + 1 + N(0, 0.5^2)
    steps : of each descent, from w = 0 and b = 0
    seed : of the rows, where x is None: the `Stream` (seed, 0)

    Returns
    -------
    CostContours

    Raises
    ------
    TypeError, ValueError
        Not such arrays; a constant column, or columns that are multiples of each other.
    """
    steps = arguments.check_integer("steps", steps, 1)
    if (x is None) != (y is None):
        raise TypeError("y: expected x and y together, or neither")
    if x is None:
        seed = arguments.check_integer("seed", seed, 0, arguments.SEED_LIMIT)
        rng = Stream(seed, 0)
        x = rng.normal((200, 2)) * np.array([1.0, 5.0])
        y = x @ np.array([2.0, 0.4]) + 1 + 0.5 * rng.normal(200)
    x = training.as_rows("x", x, 2)
    training.check_finite("x", x, np.dtype(np.float64))
    x = x.astype(np.float64)
    y = training.as_targets("identity", y, len(x), 1, np.dtype(np.float64))
    training.check_finite("y", y, np.dtype(np.float64))
    centred = x - x.mean(axis=0)
    scale = centred.std(axis=0)
    if (scale == 0).any() or np.linalg.matrix_rank(centred / scale) < 2:
        raise ValueError(
            "x: expected two columns that vary and are not multiples of each other, "
            f"got standard deviations {scale[0]:.3g} and {scale[1]:.3g}"
        )
    return CostContours(
        _quadratic("unscaled", x, y, steps), _quadratic("scaled", centred / scale, y, steps)
    )


def _quadratic(name: str, x: Array, y: Array, steps: int) -> Quadratic:
    columns = np.column_stack([x, np.ones(len(x))])
    hessian = 2 / len(x) * columns.T @ columns
    minimum = np.linalg.lstsq(columns, y[:, 0], rcond=None)[0]
    limit = 2 / np.linalg.eigvalsh(hessian)[-1]
    below, above, drawn = (
        _descend(x, y, float(part * limit), hessian, minimum, steps)
        for part in (1 - MARGIN, 1 + MARGIN, _DRAWN)
    )
    return Quadratic(name, hessian, minimum, below, above, drawn)


def _descend(
    x: Array, y: Array, learning_rate: float, hessian: Array, minimum: Array, steps: int
) -> Descent:
    """Train MLP([2, 1]) by full batches; its parameters are w1, w2, b."""
    net = MLP([2, 1], output="identity", init="zeros", dtype="float64")
    optimizer = SGD(learning_rate)
    path = [net.parameters.copy()]
    for _ in range(steps):
        net.train_step(x, y, optimizer)
        path.append(net.parameters.copy())
    error = np.array(path) - minimum
    return Descent(learning_rate, _excess(error, hessian), np.array(path))


def _excess(error: Array, hessian: Array) -> Array:
    """Return J - min J, exact for the quadratic: error.T H error / 2, for each row."""
    excess: Array = 0.5 * np.einsum("ti,ij,tj->t", error, hessian, error)
    return excess


def _draw_contours(ax: Any, one: Quadratic, colour: str) -> None:
    h = one.hessian
    best_b = h[:2, :2] - np.outer(h[:2, 2], h[2, :2]) / h[2, 2]  # with b at its best
    middle, path = one.minimum[:2], one.drawn.path[: _DRAWN_STEPS + 1, :2]
    start = float(_excess(path[:1] - middle, best_b)[0])
    half = 1.3 * np.sqrt(2 * start * np.diag(np.linalg.inv(best_b)))  # of the ellipse of the start
    if half.max() < _MOST_UNEQUAL * half.min():
        half[:] = half.max()
        ax.set_aspect("equal")
    w1, w2 = (np.linspace(m - r, m + r, 101) for m, r in zip(middle, half, strict=True))
    grid = np.stack(np.meshgrid(w1, w2), axis=-1)
    cost = _excess(grid.reshape(-1, 2) - middle, best_b).reshape(101, 101)
    ax.contour(w1, w2, cost, levels=start * np.linspace(0.05, 1.3, 9) ** 2, colors="0.7",
               linewidths=0.8)  # fmt: skip
    ax.plot(*path.T, "o-", color=colour, markersize=3, linewidth=1)
    ax.plot(*middle, "+", color="black", markersize=10)
    ax.set(xlabel="w1", ylabel="w2", xlim=w1[[0, -1]], ylim=w2[[0, -1]])
    ax.set_title(f"{one.name}: condition {one.condition:.3g},\n"
                 f"largest learning rate {one.limit:.3g}", fontsize=10)  # fmt: skip
