"""Schedules: the learning rate as a function of the number of updates done, for `Adam(lr=...)`.

With t = step, the updates done before (0, 1, ...), and n = steps:

    Step            lr factor^floor(t / n)
    Exponential     lr factor^(t / n)
    Cosine          end + (lr - end) (1 + cos(pi t / n)) / 2     for t < n, then end
                    I. Loshchilov, F. Hutter, "SGDR", ICLR 2017, equation 5, without restarts
    WarmUp          after(0) (t + 1) / (n + 1)                   for t < n, then after(t - n)
                    P. Goyal et al., "Accurate, large minibatch SGD", 2017, section 2.2
    OneCycle        up to lr in the first part of n steps, then down to almost 0
                    L. Smith, N. Topin, "Super-convergence", 2018; with cosines, as fastai
    ReduceOnPlateau lr, times factor whenever a value has not improved for some epochs

All count steps; `steps_per_epoch` turns epochs into them.  They can be pickled, and
`schedule(t)` is a number for any t >= 0.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from . import arguments
from .callbacks import Callback
from .early_stopping import check_monitor, sign_of
from .history import MONITORED, History

if TYPE_CHECKING:
    from .network import MLP


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Return how many steps `fit` does in an epoch: rows / batch_size, rounded up.

    With batch norm it is one less where the last batch would have a single row.

    rows : of the training data, >= 1; batch_size : >= 1

    Raises TypeError or ValueError for anything but such integers.
    """
    rows = arguments.check_integer("rows", rows, 1)
    return -(-rows // arguments.check_integer("batch_size", batch_size, 1))


class Schedule:
    """Base of the schedules without state: they are what their settings are."""

    def __call__(self, step: int) -> float:
        """Return the learning rate of the update after `step` updates."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        """Return whether both are the same schedule."""
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        """Return what equal schedules share."""
        return hash(repr(self))

    def __repr__(self) -> str:
        """Return the call that makes this schedule."""
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({settings})"


class Step(Schedule):
    """The learning rate falls by a factor, again and again: lr factor^(number of falls).

    Parameters
    ----------
    lr : >= 0, at the beginning
    steps : an integer n >= 1, to fall after every n steps; or a sequence of integers >= 1, the
        steps after which to fall
    factor : in (0, 1]

    Raises
    ------
    TypeError, ValueError
        A setting out of range.
    """

    def __init__(self, lr: float, steps: int | Sequence[int], factor: float = 0.1) -> None:
        """Check and keep the settings."""
        self.lr = arguments.check_nonnegative("lr", lr)
        self.steps: int | tuple[int, ...]
        if isinstance(steps, Iterable):
            self.steps = tuple(arguments.check_integer("steps", n, 1) for n in steps)
        else:
            self.steps = arguments.check_integer("steps", steps, 1)
        self.factor = _check_factor(factor)

    def __call__(self, step: int) -> float:
        """Return the learning rate of the update after `step` updates."""
        if isinstance(self.steps, tuple):
            falls = sum(step >= n for n in self.steps)
        else:
            falls = step // self.steps
        return self.lr * self.factor**falls


class Exponential(Schedule):
    """The learning rate falls steadily, by `factor` in each `steps` steps: lr factor^(t / steps).

    Parameters
    ----------
    lr : >= 0, at the beginning
    steps : an integer >= 1
    factor : in (0, 1]

    Raises
    ------
    TypeError, ValueError
        A setting out of range.
    """

    def __init__(self, lr: float, steps: int, factor: float) -> None:
        """Check and keep the settings."""
        self.lr = arguments.check_nonnegative("lr", lr)
        self.steps = arguments.check_integer("steps", steps, 1)
        self.factor = _check_factor(factor)

    def __call__(self, step: int) -> float:
        """Return the learning rate of the update after `step` updates."""
        return self.lr * self.factor ** (step / self.steps)


class Cosine(Schedule):
    """Half a wave of a cosine, from `lr` to `end` in `steps` steps; `end` afterwards.

    Parameters
    ----------
    lr : >= 0, at the beginning
    steps : an integer >= 1, usually all steps of the training
    end : >= 0

    Raises
    ------
    TypeError, ValueError
        A setting out of range.
    """

    def __init__(self, lr: float, steps: int, end: float = 0.0) -> None:
        """Check and keep the settings."""
        self.lr = arguments.check_nonnegative("lr", lr)
        self.steps = arguments.check_integer("steps", steps, 1)
        self.end = arguments.check_nonnegative("end", end)

    def __call__(self, step: int) -> float:
        """Return the learning rate of the update after `step` updates."""
        return _along_cosine(self.lr, self.end, step / self.steps)


class WarmUp(Schedule):
    """A straight way up to the first learning rate of another schedule, which then begins.

    Parameters
    ----------
    after : a learning rate >= 0, or a schedule, whose step 0 is the step `steps` of this one
    steps : an integer >= 1; the learning rate begins at 1 / (steps + 1) of the full one

    Raises
    ------
    TypeError, ValueError
        A setting out of range.
    """

    def __init__(self, after: float | Callable[[int], float], steps: int) -> None:
        """Check and keep the settings."""
        self.after = after if callable(after) else arguments.check_nonnegative("after", after)
        self.steps = arguments.check_integer("steps", steps, 1)

    def __call__(self, step: int) -> float:
        """Return the learning rate of the update after `step` updates."""
        later = max(step - self.steps, 0)
        full = self.after(later) if callable(self.after) else self.after
        return full * min((step + 1) / (self.steps + 1), 1.0)


class OneCycle(Schedule):
    """Up and down again in one training, half a wave of a cosine each way.

    The learning rate goes from lr / start to lr in the first `rise` of the steps, then down to
    lr / start / end, where it stays.  The defaults are those of PyTorch's OneCycleLR.

    Parameters
    ----------
    lr : >= 0, the highest
    steps : an integer >= 1, all steps of the training
    rise : in (0, 1), the part of the steps that leads up
    start, end : numbers >= 1

    Raises
    ------
    TypeError, ValueError
        A setting out of range.
    """

    def __init__(
        self,
        lr: float,
        steps: int,
        rise: float = 0.3,
        start: float = 25.0,
        end: float = 1e4,
    ) -> None:
        """Check and keep the settings."""
        self.lr = arguments.check_nonnegative("lr", lr)
        self.steps = arguments.check_integer("steps", steps, 1)
        self.rise = arguments.check_below_one("rise", rise)
        if self.rise <= 0:
            raise ValueError(f"rise: expected a number in (0, 1), got {rise}")
        self.start = _check_divisor("start", start)
        self.end = _check_divisor("end", end)

    def __call__(self, step: int) -> float:
        """Return the learning rate of the update after `step` updates."""
        top = self.rise * self.steps
        first = self.lr / self.start
        if step < top:
            return _along_cosine(first, self.lr, step / top)
        return _along_cosine(self.lr, first / self.end, (step - top) / (self.steps - top))


class ReduceOnPlateau(Callback):
    """A learning rate that is multiplied by `factor` when a value has stopped getting better.

    It is a schedule and a callback in one.  As `Adam(lr=ReduceOnPlateau(1e-3))`, also inside of a
    WarmUp, `fit` calls it after each epoch; it need not be among the callbacks.

    Parameters
    ----------
    lr : >= 0, at the beginning; `learning_rate` is the present one
    monitor : the value to watch, as in `EarlyStopping`
    factor : in (0, 1)
    patience : epochs without improvement that are borne; the one after them reduces, and the
        count begins again.  An integer >= 0
    min_delta : >= 0, what does not count as an improvement
    min_lr : >= 0, the lowest learning rate
    mode : "min" or "max" is better; "auto" knows it of all but metrics of your own

    Raises
    ------
    TypeError, ValueError
        A setting out of range; a value that `fit` does not have.
    """

    def __init__(
        self,
        lr: float,
        *,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 0.0,
        min_lr: float = 0.0,
        mode: Literal["auto", "min", "max"] = "auto",
    ) -> None:
        """Check and keep the settings."""
        self.lr = arguments.check_nonnegative("lr", lr)
        check_monitor(monitor, mode)
        self.monitor, self.mode = monitor, mode
        self.factor = _check_factor(factor)
        self.patience = arguments.check_integer("patience", patience, 0)
        self.min_delta = arguments.check_nonnegative("min_delta", min_delta)
        self.min_lr = arguments.check_nonnegative("min_lr", min_lr)
        self.learning_rate = self.lr
        self._best = math.inf
        self._waited = 0

    def __call__(self, step: int) -> float:
        """Return the present learning rate, whatever the step."""
        return self.learning_rate

    def sign(self, known: Sequence[str]) -> float:
        """Return 1 where less is better, -1 where more is; refuse what is not among the known."""
        return sign_of("ReduceOnPlateau", self.monitor, self.mode, known)

    def on_epoch_end(self, net: "MLP", history: History) -> None:
        """Look at the epoch's value, and reduce the learning rate when patience is over."""
        known = (*(name for name in MONITORED if history.values(name)), *history.metrics)
        value = self.sign(known) * history.values(self.monitor)[-1]
        if value < self._best - self.min_delta:
            self._best, self._waited = value, 0
            return
        self._waited += 1
        if self._waited > self.patience:
            self.learning_rate = max(self.learning_rate * self.factor, self.min_lr)
            self._waited = 0

    def reset(self) -> None:
        """Begin again at `lr`."""
        self.learning_rate, self._best, self._waited = self.lr, math.inf, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the present learning rate, the best value and the epochs since."""
        return {"learning_rate": self.learning_rate, "best": self._best, "waited": self._waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` returned."""
        self.learning_rate = state["learning_rate"]
        self._best, self._waited = state["best"], state["waited"]

    def __repr__(self) -> str:
        """Return the call that makes this schedule."""
        names = ("monitor", "factor", "patience", "min_delta", "min_lr", "mode")
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"ReduceOnPlateau({self.lr!r}, {settings})"


def callback_in(lr: Any) -> Callback | None:
    """Return the schedule that wants to be called after each epoch, if there is one in lr."""
    while isinstance(lr, WarmUp):
        lr = lr.after
    return lr if isinstance(lr, Callback) else None


def _check_factor(factor: Any) -> float:
    number = arguments.check_fraction("factor", factor)
    if number == 0:
        raise ValueError("factor: expected a number in (0, 1], got 0")
    return number


def _check_divisor(name: str, value: Any) -> float:
    number = arguments.check_positive(name, value)
    if number < 1:
        raise ValueError(f"{name}: expected a number >= 1, got {value}")
    return number


def _along_cosine(start: float, end: float, part: float) -> float:
    """Return the value after this part of half a wave from start to end."""
    part = min(part, 1.0)
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2
