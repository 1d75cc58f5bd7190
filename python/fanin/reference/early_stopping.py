"""Early stopping: the epoch that did best on data not trained on, and when to look no further.

L. Prechelt, "Early stopping - but when?", in Neural Networks: Tricks of the Trade,
LNCS 1524, 1998.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from . import arguments
from .arguments import Array
from .history import History
from .vectors import VECTORS, vectors_by_name

if TYPE_CHECKING:
    from .network import MLP

HIGHER_IS_BETTER = ("val_accuracy", "val_r2")


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when `monitor` was not better by more than `min_delta` for `patience` epochs.

    Parameters
    ----------
    monitor : "val_loss", "val_accuracy", "val_r2", "loss", or the name of a metric given to `fit`
    patience : epochs without improvement (or apart, see max_gap) after which training ends, >= 1
    min_delta : >= 0, what does not count as an improvement
    restore_best : put the parameters and running statistics of the best epoch back when training
        ends by itself, also by its last epoch or by a callback (not after Ctrl-C)
    mode : "min" or "max" is better; "auto" knows it of all but metrics of your own
    max_gap : > 0 or None; stop as well when val_loss - loss was above it in `patience` epochs in a
        row: training and validation part
    max_ratio : > 1 or None; likewise for val_loss / loss

    Raises
    ------
    TypeError, ValueError
        A setting out of range.

    Notes
    -----
    history.loss is the mean over the steps of an epoch, with dropout, while the weights still
    changed; val_loss is taken after the epoch, without dropout.  It is below loss at first.
    """

    monitor: str = "val_loss"
    patience: int = 10
    min_delta: float = 0.0
    restore_best: bool = True
    mode: Literal["auto", "min", "max"] = "auto"
    max_gap: float | None = None
    max_ratio: float | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_monitor(self.monitor, self.mode)
        arguments.check_integer("patience", self.patience, 1)
        arguments.check_nonnegative("min_delta", self.min_delta)
        arguments.check_bool("restore_best", self.restore_best)
        arguments.check_limit("max_gap", self.max_gap)
        if (arguments.check_limit("max_ratio", self.max_ratio) or 2.0) <= 1:
            raise ValueError(f"max_ratio: expected a number > 1, got {self.max_ratio}")


def check_monitor(monitor: Any, mode: Any) -> None:
    """Refuse what is not the name of a value, and an unknown mode."""
    if not isinstance(monitor, str):
        raise TypeError(
            "monitor: expected 'val_loss', 'val_accuracy', 'val_r2', 'loss' or the name of a "
            f"metric, got {arguments.describe(monitor)}"
        )
    arguments.check_choice("mode", mode, ("auto", "min", "max"))


def sign_of(name: str, monitor: str, mode: str, known: Sequence[str]) -> float:
    """Return 1 where less is better and -1 where more is, of one of the `known` values.

    known : the values there are, those of metrics of one's own included; `name` is that of the
        argument, for messages
    """
    if monitor not in known and monitor.startswith("val_") and "val_loss" not in known:
        raise ValueError(
            f"{name}: expected validation data to monitor {monitor!r}, got none; "
            "give validation=(x, y), or monitor='loss'"
        )
    arguments.check_choice(name, monitor, known)
    if mode == "auto" and monitor not in ("loss", "val_loss", *HIGHER_IS_BETTER):
        raise ValueError(
            f"{name}: expected mode='min' or 'max' for a metric of your own, {monitor!r}, "
            "got 'auto'"
        )
    if mode == "auto":
        mode = "max" if monitor in HIGHER_IS_BETTER else "min"
    return -1.0 if mode == "max" else 1.0


class BestEpoch:
    """Knows the best epoch so far, keeps its vectors, and when to stop."""

    def __init__(self, rule: int | EarlyStopping | None, known: Sequence[str]) -> None:
        """Take the rule, or patience; known: the names of the values there will be."""
        if rule is not None and not isinstance(rule, EarlyStopping):
            rule = EarlyStopping(patience=arguments.check_integer("early_stopping", rule, 1))
        self._rule = rule
        self._name = rule.monitor if rule else "val_loss" if "val_loss" in known else "loss"
        self._sign = sign_of("early_stopping", self._name, rule.mode if rule else "auto", known)
        if rule and (rule.max_gap or rule.max_ratio) and "val_loss" not in known:
            raise ValueError(
                "early_stopping: expected validation data for max_gap and max_ratio, got none; "
                "give validation=(x, y)"
            )
        self._best = math.inf
        self._kept: dict[str, Array] = {}

    def look(self, history: History, net: "MLP") -> None:
        """Look at the epoch that has just ended."""
        value = self._sign * history.values(self._name)[-1]
        margin = self._rule.min_delta if self._rule else 0.0
        if history.best_epoch is not None and not value < self._best - margin:
            return
        self._best = value if value == value else math.inf  # NaN is the worst
        history.best_epoch = history.epochs - 1
        if self._rule and self._rule.restore_best:
            self._kept = {name: vector.copy() for name, vector in vectors_by_name(net).items()}

    def says_stop(self, history: History) -> bool:
        """Return whether patience is over, or training and validation have parted."""
        rule = self._rule
        if rule is None or history.best_epoch is None:
            return False
        without_improvement = history.epochs - 1 - history.best_epoch
        return without_improvement >= rule.patience or self._have_parted(rule, history)

    def _have_parted(self, rule: EarlyStopping, history: History) -> bool:
        gap = math.inf if rule.max_gap is None else rule.max_gap
        ratio = math.inf if rule.max_ratio is None else rule.max_ratio
        last = list(zip(history.loss, history.val_loss, strict=False))[-rule.patience :]
        return len(last) == rule.patience and all(
            val_loss - loss > gap or (loss > 0 and val_loss / loss > ratio)
            for loss, val_loss in last
        )

    def restore(self, net: "MLP") -> bool:
        """Give the network the vectors of the best epoch; return whether they were kept."""
        net._set_vectors(self._kept)
        return bool(self._kept)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"best": self._best, **self._kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what a checkpoint kept."""
        self._best = state["best"]
        self._kept = {name: state[name] for name in VECTORS if name in state}
