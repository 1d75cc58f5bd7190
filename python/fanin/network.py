"""The network users meet, `MLP`, and `load`: the reference's network on compiled arithmetic.

Settings, checks, layers, the training loop, files and copies are inherited from
`fanin.reference.network`; here a step runs in one call of compiled code, which lets other Python
threads run meanwhile.
"""

import math
import os
import threading
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from . import _core
from .activation import KINDS, as_rows
from .dense import Layer
from .loss import sigmoid_loss, softmax_loss, squared_loss
from .optimizer import COMPILED, Adam, is_compiled
from .random import Stream, permutation
from .reference import arguments, network, training
from .reference.arguments import FLOAT32, Array
from .reference.dense import Norms
from .reference.dropout import dropout_threshold
from .reference.loss import ClassWeight, Loss
from .reference.optimizer import Optimizer
from .reference.stats import ActivationStats
from .stats import stats_of

_OUTPUTS = {"identity": 0, "sigmoid": 1, "softmax": 2}  # as in cpp/net/network.hpp
_BATCH_NORMS = {False: 0, "before": 1, "after": 2}
_DIRECT = (np.dtype(np.uint8), np.dtype(np.float32), np.dtype(np.float64))
STEPS_AT_ONCE = 1024  # learning rates are asked for so many steps ahead
_BYTES_AT_ONCE = 1 << 23  # of rows of other dtypes, converted by NumPy


class MLP(network.MLP):
    __doc__ = network.MLP.__doc__

    _default_optimizer = Adam
    _stream = Stream
    _layer = Layer

    # Whether compiled code knows what limits and proximal steps changed in a monitored step.
    _norms_of_all: bool = False

    def _build(self, *, device: Any = None, **settings: Any) -> None:
        if device is not None:
            arguments.check_choice("device", device, ("cpu", "cuda"))
        if device == "cuda" and self.device == "cpu":
            from .cuda import network as cuda  # imported where it is wanted

            if type(self) is not MLP:
                raise TypeError(
                    f"device: expected 'cpu' for {type(self).__name__}; derive it from "
                    "fanin.cuda.MLP instead of fanin.MLP"
                )
            self.__class__ = cuda.MLP
            self._build(device=device, **settings)
        else:
            super()._build(device=device, **settings)

    def _layer_arguments(self) -> list[tuple[int, int, int, int, int, float, float, float]]:
        return [
            (
                layer.fan_in,
                layer.fan_out,
                KINDS[layer.activation],
                dropout_threshold(layer.dropout),
                _BATCH_NORMS[layer.batch_norm],
                layer.l1,
                layer.l2,
                math.inf if layer.max_norm is None else layer.max_norm,
            )
            for layer in self.layers
        ]

    def _bind(self) -> None:
        make = _core.NetworkFloat32 if self.dtype is FLOAT32 else _core.NetworkFloat64
        self._compiled: Any = make(
            self._layer_arguments(),
            _OUTPUTS[self.output],
            self.seed,
            self.precision == "bfloat16",
            dropout_threshold(self.input_dropout),
            self.l1_step == "proximal",
            self._loss_form.numbers(),
            self._parameters,
            self._gradients,
            self._running_mean,
            self._running_var,
        )
        self._bind_stats()

    def _bind_stats(self) -> None:
        """Let layers ask the compiled network for their statistics."""
        self._all_rows = np.arange(0)
        self._last: list[_LastStep] = []
        for i, layer in enumerate(self.layers):
            last = _LastStep(self._compiled, self._lock, i)
            layer.keep_stats(last.stats)
            layer.keep_norms(last.norms)
            self._last.append(last)

    def forward(self, x: Any, training: bool = False) -> Array:
        if not training:
            with self._lock:
                z = self._compiled.infer(x)
            if z is not None:
                return z
        return super().forward(x, training)

    forward.__doc__ = network.MLP.forward.__doc__

    def _forward(self, x: Array, training: bool, stats: bool | int = False) -> Array:
        z = np.empty((len(x), self.sizes[-1]), self.dtype)
        self._compiled.forward(x, training, _bins(stats), self.step, z)
        return z

    def _backward(self, dout: Array, need_dx: bool) -> Array | None:
        dx = np.empty((len(dout), self.sizes[0]), self.dtype) if need_dx else None
        self._compiled.backward(as_rows(dout), dx)
        return dx

    def _loss_and_gradients(
        self,
        x: Array,
        y: Array,
        sample_weight: Array | None,
        class_weight: Array | None,
        label_smoothing: float,
        stats: bool | int = False,
    ) -> float:
        loss: float = self._compiled.loss_and_gradients(
            x, *_targets(y, sample_weight, class_weight), label_smoothing, _bins(stats), self.step
        )
        return loss

    def train_step(
        self,
        x: Any,
        y: Any,
        optimizer: Optimizer,
        *,
        sample_weight: Any = None,
        class_weight: ClassWeight | None = None,
        label_smoothing: float = 0.0,
        loss: Loss | None = None,
        monitor: bool = False,
    ) -> float:
        if (
            sample_weight is None
            and class_weight is None
            and label_smoothing == 0.0
            and loss is None
            and type(optimizer) in COMPILED
            and type(monitor) is bool
        ):
            with self._lock:
                value = self._compiled.train_step(x, y, optimizer, self, monitor)
                if value is not None:
                    self._pending = None
                    return value
        return super().train_step(
            x, y, optimizer, sample_weight=sample_weight, class_weight=class_weight,
            label_smoothing=label_smoothing, loss=loss, monitor=monitor,
        )  # fmt: skip

    train_step.__doc__ = network.MLP.train_step.__doc__

    def _set_penalties(self, l1: float, l2: float) -> None:
        with self._lock:
            self._compiled.set_penalties(l1, l2)  # refuses what is below 0
            super()._set_penalties(l1, l2)

    def _constrain(self, optimizer: Any, lr: float) -> None:
        if is_compiled(optimizer):
            self._compiled.constrain(optimizer, lr)
        elif any(map(self._shrinks, self.layers)):
            super()._constrain(optimizer, lr)
        else:
            self._compiled.constrain(None, lr)

    def _train_rows(
        self,
        x: Array,
        y: Array,
        sample_weight: Array | None,
        rows: NDArray[np.int64] | None,
        batch_size: int,
        optimizer: Optimizer,
        *,
        class_weight: Array | None,
        label_smoothing: float,
        scale: training.Scaling,
        stats: bool | int,
        loss: Loss | None = None,
        total: float = 0.0,
        penalties: Array | None = None,
    ) -> tuple[float, int]:
        if type(optimizer) not in COMPILED or loss is not None:  # one's own: step by step in Python
            return super()._train_rows(
                x, y, sample_weight, rows, batch_size, optimizer, class_weight=class_weight,
                label_smoothing=label_smoothing, scale=scale, stats=stats, loss=loss, total=total,
                penalties=penalties,
            )  # fmt: skip
        whole = rows is not None  # else x is the batch itself
        if rows is None:
            rows = self._rows(slice(0, len(x)))
        count = len(rows)
        # A compiled step knows its optimizer's change only, not that of limits and proximal steps.
        if stats is not False and self._constrains() and not self._norms_of_all:
            before_last = (count - 1) // batch_size * batch_size
            if before_last == 0:
                return super()._train_rows(
                    x, y, sample_weight, rows, batch_size, optimizer, class_weight=class_weight,
                    label_smoothing=label_smoothing, scale=scale, stats=stats, total=total,
                    penalties=penalties,
                )  # fmt: skip
            rows, count, stats = rows[:before_last], before_last, False
        limit = STEPS_AT_ONCE * batch_size
        direct = _is_direct(x)
        if not direct:
            row_bytes = x.shape[1] * self.dtype.itemsize
            limit = min(limit, max(_BYTES_AT_ONCE // row_bytes // batch_size, 1) * batch_size)
        chosen = rows[:limit]
        if not direct:
            x, y = training.gather(x, chosen, self.dtype, scale), y[chosen]
            sample_weight = None if sample_weight is None else sample_weight[chosen]
            scale, chosen = None, np.arange(len(chosen))

        self._prepare(optimizer)
        steps = -(-len(chosen) // batch_size)
        if callable(optimizer.lr):
            lr = np.array([optimizer.learning_rate(optimizer.steps + i) for i in range(steps)])
        else:
            lr = np.full(steps, float(optimizer.lr))
        numbers = _as_compiled(scale, x.dtype, self.dtype)
        given, *wanted = self._data(x, y, sample_weight, batch_size, whole and direct)
        before = self.step
        try:
            done, total = self._compiled.train(
                given,
                *numbers,
                chosen,
                batch_size,
                *wanted,
                None if class_weight is None else np.ascontiguousarray(class_weight),
                label_smoothing,
                total,
                lr,
                optimizer.steps,
                self.step,
                _bins(stats if len(chosen) == count else False),
                training.SLICE_SECONDS,
                threading.current_thread() is threading.main_thread(),
                optimizer,
                self,
                None if penalties is None else penalties[:steps].ravel(),
            )
        finally:  # also after Ctrl-C
            if penalties is not None and self.step > before:
                self._set_penalties(*map(float, penalties[self.step - before - 1]))
        return total, done

    def _data(
        self,
        x: Array,
        y: Array,
        sample_weight: Array | None,
        batch_size: int,
        whole: bool,
    ) -> tuple[Array | None, Array | None, Array | None, Array | None]:
        """Hook: return (x, labels, targets, sample_weight) as the compiled network takes them.

        whole : they are a data set, which the next call may be given again
        """
        return (x, *_targets(y, sample_weight, None)[:3])

    def _keep_norms(self, layer: int, norms: Norms) -> None:
        last = self._last[layer]
        last.look()
        last.last_norms = norms

    def _nonfinite_layer(self) -> int:
        return self._compiled.nonfinite_layer()

    def _gather(self, x: Array, rows: slice) -> Array:
        if self.standardizer is None or not _is_direct(x):
            return super()._gather(x, rows)
        wide = np.result_type(x.dtype, self.dtype)
        chosen = self._rows(slice(rows.start, min(rows.stop, len(x))))
        batch = np.empty((len(chosen), x.shape[1]), self.dtype)
        _core.gather(x, chosen, *self.standardizer.shift_and_factor(wide), batch)
        return batch

    def _rows(self, rows: slice) -> NDArray[np.int64]:
        """Return the numbers of these rows."""
        if len(self._all_rows) < rows.stop:
            self._all_rows = np.arange(rows.stop)
        return self._all_rows[rows]

    def _order(self, count: int) -> NDArray[np.int64]:
        return permutation(count, self.seed, self.epoch)

    def _output_loss(self, z: Array, y: Array, sample_weight: Array | None) -> float:
        if self.output == "softmax":
            return softmax_loss(z, y, sample_weight, None, 0.0, self._loss_form)[0]
        if self.output == "sigmoid":
            return sigmoid_loss(z, y, sample_weight, 0.0, self._loss_form)[0]
        return squared_loss(z, y, sample_weight, self._loss_form)[0]

    def _probabilities(self, z: Array) -> Array:
        p = np.empty_like(z)
        if self.output == "softmax":
            _core.softmax(z, p)
        else:
            _core.activation_forward(z, p, KINDS["sigmoid"], (0, 0, 0, 0), None)
        return p


def load(path: str | os.PathLike[str], *, device: Literal["cpu", "cuda"] = "cpu") -> MLP:
    """Return the network saved in a file by `MLP.save`, on whatever device it was.

    Parameters
    ----------
    path : of the file, an .npz without pickle
    device : as for `MLP`; precision="tfloat32" becomes None on the CPU

    Returns
    -------
    MLP of the saved dtype, with its parameters, running statistics and settings.

    Raises
    ------
    FileNotFoundError (OSError)
        The file cannot be opened.
    ValueError
        It is not such a file, is damaged, or was written by a later release; names the path.
    RuntimeError, ImportError
        device="cuda" and there is none, or no CuPy; says why.
    """
    arguments.check_choice("device", device, ("cpu", "cuda"))
    if device == "cuda":
        from .cuda import network as cuda

        return cuda.MLP._load(path)
    return MLP._load(path)


class _LastStep:
    """A layer's statistics of the last monitored step, made of what it left when asked for."""

    def __init__(self, compiled: Any, lock: threading.RLock, layer: int) -> None:
        self.compiled, self.lock, self.layer = compiled, lock, layer
        self.monitored = 0  # after how many monitored steps they were made
        self.last_stats: ActivationStats | None = None
        self.last_norms: Norms | None = None

    def stats(self) -> ActivationStats | None:
        self.look()
        return self.last_stats

    def norms(self) -> Norms | None:
        self.look()
        return self.last_norms

    def look(self) -> None:
        with self.lock:
            if self.monitored != self.compiled.monitored:
                found = self.compiled.stats(self.layer)
                self.last_stats = None if found is None else stats_of(*found)
                self.last_norms = self.compiled.norms(self.layer)
                self.monitored = self.compiled.monitored


def _bins(stats: bool | int) -> int:
    """Return the bins of a histogram as compiled code takes them; -1 for no statistics at all."""
    return -1 if stats is False else 0 if stats is True else stats


Targets = tuple[Array | None, Array | None, Array | None, Array | None]


def _targets(y: Array, sample_weight: Array | None, class_weight: Array | None) -> Targets:
    """Return (labels, targets, sample_weight, class_weight), as the compiled network takes them."""
    labels = np.ascontiguousarray(y) if y.ndim == 1 else None
    targets = as_rows(y) if y.ndim == 2 else None
    weight = None if sample_weight is None else np.ascontiguousarray(sample_weight)
    return labels, targets, weight, class_weight


def _is_direct(x: Array) -> bool:
    """Whether compiled code reads such rows as they are."""
    if not isinstance(x, np.ndarray):
        return arguments.on_cuda(x)  # such as networks on a GPU are given
    whole = x.flags.aligned and all(stride % x.itemsize == 0 for stride in x.strides)
    return whole and x.dtype in _DIRECT and x.dtype.isnative


def _as_compiled(
    scale: training.Scaling, source: np.dtype[Any], dtype: np.dtype[Any]
) -> tuple[float, Array | None, Array | None]:
    """Return a factor for all columns, and a shift and a factor for each, or None twice."""
    if scale is None or isinstance(scale, float):
        return 1.0 if scale is None else scale, None, None
    return 1.0, *scale.shift_and_factor(np.result_type(source, dtype))
