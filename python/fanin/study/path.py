"""A path over the strength of a penalty: one network per lambda, the best chosen on the dev set.

With lambda too small the network fits the training set and not the dev set (high variance), with
lambda too large neither (high bias); the loss of the dev set is smallest in between.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..network import MLP
from ..optimizer import Adam
from ..reference import arguments, plot
from ..reference.arguments import Array


@dataclass(frozen=True, eq=False)
class RegularisationPath:
    """What came of each lambda, in the order given; arrays are float64 (lambdas,).

    Attributes
    ----------
    lambdas
    train_loss, dev_loss : after training, without dropout and without the penalties
    train_score, dev_score : accuracy, or r2 for output="identity"
    score : "accuracy" or "r2"
    weight_norm : Euclidean norm of all weights (the Frobenius norm, of a network of one layer)
    zero_fraction : the part of the weights that is exactly 0
    chosen : index of the lambda that is best on the dev set; of equal ones the largest
    network : the network of that lambda
    """

    lambdas: NDArray[np.float64]
    train_loss: NDArray[np.float64]
    dev_loss: NDArray[np.float64]
    train_score: NDArray[np.float64]
    dev_score: NDArray[np.float64]
    score: str
    weight_norm: NDArray[np.float64]
    zero_fraction: NDArray[np.float64]
    chosen: int
    network: MLP

    def table(self) -> str:
        """Return a line per lambda as text; a star marks the one chosen."""
        lines = [
            f"{'lambda':>10}{'train loss':>12}{'dev loss':>10}{'train ' + self.score:>16}"
            f"{'dev ' + self.score:>14}{'|weights|':>11}{'zeros':>8}"
        ]
        for i, strength in enumerate(self.lambdas):
            lines.append(
                f"{strength:10.3g}{self.train_loss[i]:12.4f}{self.dev_loss[i]:10.4f}"
                f"{self.train_score[i]:16.4f}{self.dev_score[i]:14.4f}"
                f"{self.weight_norm[i]:11.3f}{self.zero_fraction[i]:8.1%}"
                + (" *" if i == self.chosen else "")
            )
        return "\n".join(lines)

    def plot(self, ax: Any = None) -> Any:
        """Draw the losses of both sets against lambda and mark the one chosen.

        Parameters
        ----------
        ax : where to draw; a new figure when None

        Returns
        -------
        The axes; lambda on a logarithmic axis, with a place for 0 where 0 is among them.

        Raises
        ------
        ImportError
            matplotlib is not installed.
        """
        if ax is None:
            ax = plot.new_axes(size=(6, 4))[0, 0]
        order = np.argsort(self.lambdas, kind="stable")
        for loss, label, colour in zip(
            (self.train_loss, self.dev_loss), ("training", "dev"), plot.COLOURS, strict=False
        ):
            ax.plot(self.lambdas[order], loss[order], "o-", markersize=3, color=colour, label=label)
        best = self.lambdas[self.chosen]
        ax.axvline(best, color="0.7", linewidth=0.8, zorder=0, label=f"chosen, {best:.3g}")
        positive = self.lambdas[self.lambdas > 0]
        if positive.size < self.lambdas.size and positive.size:
            ax.set_xscale("symlog", linthresh=positive.min(), linscale=0.5)
            ax.set_xlim(left=-0.3 * positive.min())
        elif positive.size:
            ax.set_xscale("log")
        ax.set(xlabel="lambda", ylabel="loss without penalty")
        ax.legend(frameon=False)
        return ax


def regularisation_path(
    make_net: Callable[[float], MLP],
    x: Any,
    y: Any,
    validation: tuple[Any, Any],
    lambdas: Sequence[float],
    *,
    warm: bool = False,
    by: str = "loss",
    **fit: Any,
) -> RegularisationPath:
    """Train a network for each lambda and choose by the dev set.

    Parameters
    ----------
    make_net : returns a new network for a lambda, such as
        lambda strength: MLP([64, 32, 10], l2=strength); l1, one layer's penalty, or a dropout
        are as good
    x, y : (m, inputs) and labels or targets, the training set
    validation : (x, y) of the dev set
    lambdas : numbers >= 0
    warm : start each network with the parameters of the one before, in the order given, instead
        of with its own weights
    by : "loss" or "score" (accuracy or r2) of the dev set
    fit : arguments of `MLP.fit`; each network has a copy of the optimizer.  The dev set is its
        validation data where early_stopping is among them.

    Returns
    -------
    RegularisationPath

    Raises
    ------
    TypeError, ValueError
        Not such lambdas, make_net returns no network, and as `MLP.fit`.
    """
    by = arguments.check_choice("by", by, ("loss", "score"))
    warm = arguments.check_bool("warm", warm)
    strengths = [
        arguments.check_nonnegative(f"lambdas[{i}]", strength) for i, strength in enumerate(lambdas)
    ]
    if not strengths:
        raise ValueError("lambdas: expected at least one number, got none")
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        raise TypeError(f"validation: expected (x, y), got {arguments.describe(validation)}")
    optimizer = fit.pop("optimizer", None)
    fit = {"progress": False, "monitor": False} | fit
    if fit.get("early_stopping") is not None:
        fit["validation"] = tuple(validation)
    rows: list[tuple[float, ...]] = []
    best: tuple[float, float] | None = None
    before: Array | None = None
    chosen, network, score = 0, None, ""
    for i, strength in enumerate(strengths):
        net = make_net(strength)
        if not hasattr(net, "fit") or not hasattr(net, "parameters"):
            raise TypeError(
                "make_net: expected a function that returns a network, "
                f"got one that returns {arguments.describe(net)}"
            )
        if warm and before is not None:
            net.parameters = before
        net.fit(x, y, optimizer=Adam() if optimizer is None else copy.deepcopy(optimizer), **fit)
        before = net.parameters
        train, dev = _evaluate(net, x, y), _evaluate(net, *validation)
        score = next(name for name in train if name != "loss")
        weights = np.concatenate([layer.weight.ravel() for layer in net.layers]).astype(float)
        rows.append((
            train["loss"], dev["loss"], train[score], dev[score],
            float(np.linalg.norm(weights)), float((weights == 0).mean()),
        ))  # fmt: skip
        worth = (-dev["loss"] if by == "loss" else dev[score], strength)
        if best is None or worth > best:
            best, chosen, network = worth, i, net
    assert network is not None
    columns = np.array(rows).T
    return RegularisationPath(
        lambdas=np.array(strengths),
        train_loss=columns[0],
        dev_loss=columns[1],
        train_score=columns[2],
        dev_score=columns[3],
        score=score,
        weight_norm=columns[4],
        zero_fraction=columns[5],
        chosen=chosen,
        network=network,
    )


def _evaluate(net: MLP, x: Any, y: Any) -> dict[str, float]:
    """Return loss and score as `evaluate`, the loss without its penalties."""
    found = net.evaluate(x, y)
    return found | {"loss": found["loss"] - sum(layer.penalty() for layer in net.layers)}
