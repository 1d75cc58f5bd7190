"""Does the cost fall?  The first question to a network that does not learn.

With dropout each step sees another network, so its cost jumps even where all is well.  The advice
of many lecture notes is to switch dropout off, see that the cost falls, and switch it on again.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

from ..network import MLP
from ..reference import arguments, plot
from ..reference.optimizer import Optimizer


@dataclass(frozen=True, eq=False)
class CostCurve:
    """The cost of the whole batch before the first step and after each one.

    Attributes
    ----------
    cost : list of steps + 1 numbers, the l1 and l2 penalties included
    rises : the steps, from 1, after which the cost was higher than before, infinite or NaN
    """

    cost: list[float]
    rises: list[int]

    @property
    def fell(self) -> bool:
        """Whether it rose after no step and is lower at the end than at the beginning."""
        return not self.rises and self.cost[-1] < self.cost[0]

    def __str__(self) -> str:
        """Return one sentence: from where to where, and where it rose most."""
        course = f"from {self.cost[0]:.6g} to {self.cost[-1]:.6g} in {len(self.cost) - 1} steps"
        if self.fell:
            return f"the cost fell after every step, {course}"
        if not self.rises:
            return f"the cost did not change, {course}: are all gradients 0?"
        jumps = {step: self.cost[step] - self.cost[step - 1] for step in self.rises}
        worst = max(jumps, key=lambda step: math.inf if math.isnan(jumps[step]) else jumps[step])
        return (
            f"the cost rose after {len(self.rises)} of {len(self.cost) - 1} steps, "
            f"first after step {self.rises[0]}, most after step {worst}, "
            f"from {self.cost[worst - 1]:.6g} to {self.cost[worst]:.6g}"
        )

    def plot(self, ax: Any = None) -> Any:
        """Draw the cost by step, with a mark wherever it rose.

        Parameters
        ----------
        ax : where to draw; a new figure when None

        Returns
        -------
        The axes.

        Raises
        ------
        ImportError
            matplotlib is not installed.
        """
        if ax is None:
            ax = plot.new_axes(size=(6, 4))[0, 0]
        ax.plot(range(len(self.cost)), self.cost, color=plot.COLOURS[0])
        if self.rises:
            ax.plot(self.rises, [self.cost[step] for step in self.rises], "o", markersize=3,
                    color=plot.COLOURS[1], label="rose")  # fmt: skip
            ax.legend(frameon=False)
        ax.set(xlabel="step", ylabel="cost, dropout off")
        return ax


def check_cost_falls(
    net: MLP,
    x: Any,
    y: Any,
    *,
    optimizer: Optimizer | None = None,
    steps: int = 50,
    sample_weight: Any = None,
    class_weight: Any = None,
    label_smoothing: float = 0.0,
) -> CostCurve:
    """Train a copy of the network, dropout off, on the whole batch; return how its cost went.

    Parameters
    ----------
    net : stays as it is, its optimizer's moments too
    x, y, sample_weight, class_weight, label_smoothing : see `MLP.fit`; each step uses all rows
    optimizer : such as SGD(0.1); a copy of it is used.  Adam(1e-3) when None.
    steps : how many

    Returns
    -------
    CostCurve; its `fell` is the verdict, printing it says where the cost rose.

    Raises
    ------
    TypeError, ValueError
        As `MLP.fit`.

    Notes
    -----
    Gradient descent on the whole batch lowers the cost in every step if the learning rate is small
    enough (below 2 / lambda_max of the Hessian); momentum and Adam may overshoot now and then.
    Where the cost has reached its minimum, rounding makes it rise and fall.
    """
    steps = arguments.check_integer("steps", steps, 1)
    history = without_dropout(net).fit(
        x, y, epochs=steps + 1, batch_size=max(len(x), 1), optimizer=copy.deepcopy(optimizer),
        progress=False, monitor=False, shuffle=False, sample_weight=sample_weight,
        class_weight=class_weight, label_smoothing=label_smoothing,
    )  # fmt: skip
    cost = history.loss  # of each epoch's one step, before its update
    return CostCurve(cost, [i for i in range(1, len(cost)) if not cost[i] <= cost[i - 1]])


def without_dropout(net: MLP) -> MLP:
    """Return a copy of the network, with all its settings, whose layers drop nothing."""
    state = net.__getstate__()
    state["config"] |= {name: 0.0 for name in state["config"] if "dropout" in name}
    twin = type(net).__new__(type(net))
    twin.__setstate__(state)
    return twin
