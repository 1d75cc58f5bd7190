"""Callbacks: what is called while `fit` trains.

A plain function f(net, history) is called after each epoch.  A `Callback` may have more to say:

    on_fit_begin                    once, before the first epoch
        on_epoch_begin              before the first step of an epoch
            on_step_end             after a step
        on_epoch_end                after an epoch, its validation and its entry in the history
    on_fit_end                      once, also after Ctrl-C

Only the methods a class defines are called.  True from on_step_end or on_epoch_end ends the
training, after all callbacks have been asked.  What a callback raises ends it, too: the network
keeps the steps it has done.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from . import arguments

if TYPE_CHECKING:
    from .history import History
    from .network import MLP


class Callback:
    """Base of callbacks; each method is called as f(net, history).

    Attributes
    ----------
    every : on_step_end is called when the network's step is a multiple of this number.  Between
        two calls compiled code trains without returning to Python.

    `fit(checkpoint=...)` keeps what `state_dict` returns, names to numbers, strings, lists of them
    or arrays, and gives it to `load_state_dict` after on_fit_begin when a run is resumed.
    """

    every: int = 1

    def on_fit_begin(self, net: "MLP", history: "History") -> None:
        """Do something before the first epoch; the history is that of a resumed run, or empty."""

    def on_epoch_begin(self, net: "MLP", history: "History") -> None:
        """Do something before the steps of an epoch."""

    def on_step_end(self, net: "MLP", history: "History") -> Any:
        """Do something after a step, whose loss is history.step_loss; True ends the training."""

    def on_epoch_end(self, net: "MLP", history: "History") -> Any:
        """Do something after an epoch and its validation; True ends the training."""

    def on_fit_end(self, net: "MLP", history: "History") -> None:
        """Do something when the training has ended."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint is to keep of this callback."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` returned when the checkpoint was written."""


Callbacks: TypeAlias = Iterable[Callback | Callable[["MLP", "History"], Any]]


class EpochFunction(Callback):
    """A plain function f(net, history) as a callback."""

    def __init__(self, function: Callable[["MLP", "History"], Any]) -> None:
        """Keep the function."""
        self._function = function

    def on_epoch_end(self, net: "MLP", history: "History") -> Any:
        """Call it."""
        return self._function(net, history)


def check_callbacks(callbacks: Any) -> list[Callback]:
    """Return the callbacks as a list of Callback objects."""
    found = list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
    for callback in found:
        if isinstance(callback, type) and issubclass(callback, Callback):
            raise TypeError(
                f"callbacks: expected an object, got the class {callback.__name__}; "
                f"make one with {callback.__name__}()"
            )
        if not isinstance(callback, Callback) and not callable(callback):
            raise TypeError(
                "callbacks: expected callables f(net, history) or Callback objects, "
                f"got {arguments.describe(callback)}"
            )
        if isinstance(callback, Callback):
            arguments.check_integer("callbacks: every", callback.every, 1)
    return [c if isinstance(c, Callback) else EpochFunction(c) for c in found]


def defining(callbacks: Sequence[Callback], name: str) -> list[Callback]:
    """Return the callbacks that have a method of this name of their own."""
    inherited = getattr(Callback, name)
    return [c for c in callbacks if getattr(getattr(c, name), "__func__", None) is not inherited]


def says_stop(answer: Any) -> bool:
    """Return whether this is True; anything else a callback returns means nothing."""
    return isinstance(answer, bool | np.bool_) and bool(answer)
