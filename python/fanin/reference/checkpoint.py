"""Checkpoints: a training that can be killed at any moment and goes on as if it had not been.

A file holds all that the next step depends on: parameters, running statistics, the optimizer's
moments and steps, the network's step (of which dropout masks are a function) and epoch (of which
the order of the rows is one), the place in the epoch, the best epoch's weights, what callbacks ask
to keep, and the history.  It is written beside its place and then moved there, so that there is
always a whole one.  Beside the state stands what the run was begun with; a call of `fit` that
differs is refused.
"""

import contextlib
import errno
import glob
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import arguments, saving
from .arguments import Array
from .history import PER_EPOCH, History, LayerHistory
from .optimizer import Optimizer
from .stats import ActivationStats
from .vectors import VECTORS, on_host, vectors_by_name

if TYPE_CHECKING:
    from .network import MLP

ROWS_COMPARED = 4096  # of the data, evenly spread
_FLAGS = ("stopped_early", "nonfinite_step", "nonfinite_layer", "best_epoch")
_SCALARS = ("mean", "std", "min", "max", "zero_fraction", "saturated_fraction", "rows")
_ARRAYS = ("histogram", "edges", "unit_mean", "unit_zeros")

# Names to numbers, strings, lists of them, arrays, or such a dict again.
State = dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often `fit` writes a checkpoint.

    Parameters
    ----------
    path : of the file, taken as given; a run that is found there is resumed
    every_epochs : write after so many epochs, >= 1
    every_steps : write after so many steps as well, >= 1; None: between epochs only

    Raises
    ------
    TypeError, ValueError
        A setting out of range.

    Notes
    -----
    The last state of a training is written in any case.
    """

    path: str | os.PathLike[str]
    every_epochs: int = 1
    every_steps: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        saving.as_path("path", self.path)
        arguments.check_integer("every_epochs", self.every_epochs, 1)
        if self.every_steps is not None:
            arguments.check_integer("every_steps", self.every_steps, 1)


def check_checkpoint(checkpoint: Any) -> Checkpoint | None:
    """Return a Checkpoint, made of a path if need be, or None."""
    if checkpoint is None or isinstance(checkpoint, Checkpoint):
        return checkpoint
    return Checkpoint(saving.as_path("checkpoint", checkpoint))


# ---- what a run was begun with ---------------------------------------------------------------


def beginning_of(net: "MLP") -> State:
    """Return what tells one beginning of a run from another."""
    crc = zlib.crc32(on_host(net.parameters).tobytes())
    return {"step": int(net.step), "epoch": int(net.epoch), "parameters": crc}


def settings_of(net: "MLP", data: dict[str, Array | None], settings: State) -> State:
    """Return what must be the same when a run goes on: network, data, arguments of `fit`."""
    config = net._config()
    on_the_way = "step", "epoch", "input_scale", "standardizer", "target_standardizer"
    for name in on_the_way:  # they change
        del config[name]
    told = {name: _told(value) for name, value in settings.items()}
    seen = {name: _seen(x) for name, x in data.items()}
    found: State = json.loads(json.dumps({**config, **seen, **told}))
    return found


def _seen(x: Array | None) -> list[Any] | None:
    """Return shape, dtype and a checksum of some rows."""
    if x is None:
        return None
    rows = np.ascontiguousarray(x[:: max(len(x) // ROWS_COMPARED, 1)])
    content = repr(rows.tolist()).encode() if rows.dtype.hasobject else rows.tobytes()
    return [list(x.shape), str(x.dtype), zlib.crc32(content)]


def _told(value: Any) -> Any:
    """Return a setting as JSON has it, the same in every process."""
    if isinstance(value, Optimizer):
        return [type(value).__name__, {k: _told(v) for k, v in value._settings().items()}]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(k): _told(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_told(v) for v in value]
    if isinstance(value, np.ndarray):
        return _seen(value)
    if getattr(type(value), "__repr__", None) is object.__repr__:  # it would tell an address
        return type(value).__qualname__
    return getattr(value, "__qualname__", repr(value))


# ---- files -----------------------------------------------------------------------------------


def write(checkpoint: Checkpoint, state: State) -> None:
    """Write the state of a run."""
    plain, arrays = _divide(state)
    saving.write(checkpoint.path, plain, arrays, saving.CHECKPOINT)


def read(checkpoint: Checkpoint) -> State | None:
    """Return the state in a file, or None where there is no file.

    What a killed run left half-written beside it is removed.
    """
    path = os.fspath(checkpoint.path)
    for left in glob.glob(glob.escape(path) + ".*.tmp"):
        with contextlib.suppress(OSError):
            os.remove(left)
    if not os.path.exists(path):
        folder = os.path.dirname(path) or os.curdir
        if not os.path.isdir(folder):  # found out now, not after the first epoch
            raise FileNotFoundError(errno.ENOENT, "checkpoint: no such folder", folder)
        return None
    with open(path, "rb") as file:
        try:
            return _join(*saving.parts(file, None, saving.CHECKPOINT))
        except Exception as error:  # whatever a broken file makes zip, JSON and NumPy raise
            reason = str(error) or type(error).__name__
            raise ValueError(
                f"checkpoint: {path}: expected a checkpoint of fit: {reason}; "
                "give another path, or remove the file"
            ) from error


def check_same_run(
    checkpoint: Checkpoint, state: State, begun: Sequence[State], settings: State
) -> None:
    """Refuse the state of another run; begun: the beginnings this one may have had."""
    path, before = os.fspath(checkpoint.path), state["settings"]
    for name in (*settings, *before):
        if before.get(name) != settings.get(name):
            raise ValueError(
                f"checkpoint: {path}: expected the {name} of the run in this file, "
                f"{_short(before.get(name))}, got {_short(settings.get(name))}; "
                "give another path, or remove the file"
            )
    if state["begun"] not in begun:
        raise ValueError(
            f"checkpoint: {path}: expected the network this run began with, at step "
            f"{state['begun']['step']}, got one with other parameters at step {begun[0]['step']}; "
            "make it as at first, give another path, or remove the file"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _divide(state: State, prefix: str = "") -> tuple[State, dict[str, Array]]:
    """Return what JSON can hold, and the arrays under names like "optimizer/mean"."""
    plain: State = {}
    arrays: dict[str, Array] = {}
    for name, value in state.items():
        if not isinstance(name, str) or "/" in name:
            raise ValueError(f"state_dict: expected names without '/', got {name!r}")
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                raise TypeError(f"state_dict: {prefix}{name}: expected numbers, got objects")
            arrays[prefix + name] = value
        elif isinstance(value, dict):
            plain[name], inner = _divide(value, f"{prefix}{name}/")
            arrays.update(inner)
        else:
            plain[name] = value.item() if isinstance(value, np.generic) else value
    try:
        json.dumps(plain)
    except (TypeError, ValueError) as error:
        raise TypeError(f"state_dict: expected numbers, strings, arrays: {error}") from None
    return plain, arrays


def _join(plain: State, arrays: dict[str, Array]) -> State:
    for path, array in arrays.items():
        place = plain
        *folders, name = path.split("/")
        for folder in folders:
            place = place[folder]
        place[name] = array
    return plain


# ---- state of network, optimizer, history ----------------------------------------------------


def state_of_network(net: "MLP") -> State:
    """Return what steps change in a network."""
    return {"step": int(net.step), "epoch": int(net.epoch), **vectors_by_name(net)}


def load_network(net: "MLP", state: State) -> None:
    """Give a network this state."""
    net._set_vectors({name: state[name] for name in VECTORS})
    net.step, net.epoch = state["step"], state["epoch"]


def check_optimizer_state(optimizer: Any) -> None:
    """Refuse an optimizer whose state is unknown."""
    if not isinstance(optimizer, Optimizer) and not hasattr(optimizer, "load_state_dict"):
        raise TypeError(
            "checkpoint: expected an optimizer such as Adam(1e-3), or one with state_dict() and "
            f"load_state_dict(state), got {type(optimizer).__name__}"
        )


def state_of_optimizer(optimizer: Any) -> State:
    """Return what steps change in an optimizer."""
    if isinstance(optimizer, Optimizer):
        moments = {name: on_host(moment) for name, moment in optimizer.state.items()}
        return {"steps": int(optimizer.steps), **moments}
    state: State = optimizer.state_dict()
    return state


def load_optimizer(optimizer: Any, state: State) -> None:
    """Give an optimizer this state."""
    if isinstance(optimizer, Optimizer):
        optimizer.steps = state["steps"]
        optimizer.state = {name: state[name] for name in optimizer.moments}
    else:
        optimizer.load_state_dict(state)


def state_of_history(history: History) -> State:
    """Return the history as numbers and arrays."""
    values = {name: list(getattr(history, name)) for name in PER_EPOCH if name != "stats"}
    return {
        "values": values,
        "metrics": {name: list(metric) for name, metric in history.metrics.items()},
        "flags": {name: getattr(history, name) for name in _FLAGS},
        "stats": {
            str(i): _packed(layer) for i, layer in enumerate(zip(*history.stats, strict=True))
        },
        "monitor": None if history.monitor is None else history.monitor.state_dict(),
    }


def load_history(history: History, state: State) -> None:
    """Give a history this state."""
    for name, values in (state["values"] | state["flags"]).items():
        setattr(history, name, values)
    history.metrics = state["metrics"]
    layers = [_unpacked(layer) for layer in state["stats"].values()]
    history.stats = [list(epoch) for epoch in zip(*layers, strict=True)]
    if isinstance(history.monitor, LayerHistory) and state["monitor"] is not None:
        history.monitor.load_state_dict(state["monitor"])


def _packed(epochs: Sequence[ActivationStats]) -> State:
    """Return one layer's statistics, an array of each kind for all epochs."""
    scalars = [[getattr(stats, name) for name in _SCALARS] for stats in epochs]
    arrays = {name: np.array([getattr(stats, name) for stats in epochs]) for name in _ARRAYS}
    return {"scalars": np.array(scalars, np.float64), **arrays}


def _unpacked(state: State) -> list[ActivationStats]:
    found = []
    for i, scalars in enumerate(state["scalars"].tolist()):
        numbers = dict(zip(_SCALARS, scalars, strict=True))
        numbers["rows"] = int(numbers["rows"])
        found.append(ActivationStats(**numbers, **{name: state[name][i] for name in _ARRAYS}))
    return found
