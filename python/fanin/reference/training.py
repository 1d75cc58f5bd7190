"""The training loop around a network's steps: data checks, epochs, validation, when to stop.

`fit` asks the network for four things only: the order of the rows of an epoch (`_order`), steps
over some of them (`_train_rows`), outputs (`_outputs`) and its vectors.  It is the same for the
network of this folder and for the compiled one.
"""

import math
import re
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from . import arguments, checkpoint
from .arguments import Array
from .averaged_weights import AveragedWeights
from .callbacks import Callback, Callbacks, EpochFunction, check_callbacks, defining, says_stop
from .checkpoint import Checkpoint
from .early_stopping import BestEpoch, EarlyStopping
from .history import PER_EPOCH, History, LayerHistory
from .loss import PLAIN, ClassWeight, Loss, LossForm, sigmoid_loss, softmax_loss, squared_loss
from .optimizer import Optimizer
from .progress import Progress
from .schedule import ReduceOnPlateau, callback_in
from .sparse import SparseRows

if TYPE_CHECKING:
    from .network import MLP
    from .standardizer import Standardizer

# What rows are multiplied with, or what standardises them, on their way into a network.
Scaling: TypeAlias = "float | Standardizer | None"

SLICE_SECONDS = 0.05  # a network returns from _train_rows after about so long, for Ctrl-C
MONITOR_BINS = 50
ELEMENTS_LOOKED_AT = 1 << 17  # of x, for the inputs' mean and spread: some 0.5 ms
ROWS_AT_ONCE = 4096

Generator: TypeAlias = "np.random.Generator"  # NumPy loads it when it is first used
Augment: TypeAlias = Callable[[Array, Generator], Array]
Rows = tuple[Array, Array, Array | None, Array | None]  # x, y, weights, which of them
# f(y, prediction), or (f, "predict_proba") to be given probabilities
Metric = Callable[[Any, Array], Any] | tuple[Callable[[Any, Array], Any], str]


# ---- data ------------------------------------------------------------------------------------


def as_array(name: str, x: Any) -> Array:
    """Return an array of real numbers; lists and data frames are converted."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected no masked array; fill it with {name}.filled(value)")
    if hasattr(x, "toarray"):
        raise TypeError(f"{name}: expected a dense array, got {type(x).__name__}; use .toarray()")
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name}: expected an array of real numbers: {error}") from None
    if array.dtype.kind in "OUS" and name == "y":
        raise TypeError(
            f"y: expected real numbers, got {arguments.describe(array)}; "
            "np.unique(y, return_inverse=True)[1] numbers your classes"
        )
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"{name}: expected real numbers, got {arguments.describe(array)}; "
            f"convert it with np.asarray({name}, dtype=np.float32)"
        )
    return array


def as_rows(name: str, x: Any, width: int, sparse: bool = False) -> Array:
    """Return a 2-D array of real numbers with this many columns.

    sparse : leave a SciPy sparse array so, as SparseRows; else it is made dense
    """
    if isinstance(x, SparseRows):
        pass
    elif hasattr(x, "tocsr") and x.ndim == 2 and x.dtype.kind in "fiub":
        x = SparseRows(x) if sparse else x.toarray()
    elif type(x) is not np.ndarray or x.dtype.kind not in "fiub":
        x = as_array(name, x)
    if x.ndim != 2 or x.shape[1] != width:
        hint = f"; one row is {name}.reshape(1, -1)" if x.ndim == 1 else ""
        raise ValueError(
            f"{name}: expected shape (rows, {width}) for a network with {width} inputs, "
            f"got {x.shape}{hint}"
        )
    array: Array = x
    return array


def as_targets(output: str, y: Any, rows: int, outputs: int, dtype: np.dtype[Any]) -> Array:
    """Return y as the loss of this output wants it.

    softmax: labels (rows,) int64, or probabilities (rows, outputs).  sigmoid and identity:
    (rows, outputs); one output may be given as (rows,).  Floats become `dtype`.
    """
    y = as_array("y", y)
    if y.ndim == 0 or len(y) != rows:
        raise ValueError(f"y: expected {rows} rows to match x, got shape {y.shape}")
    if output == "softmax":
        if y.dtype.kind == "f" and y.dtype != dtype and y.ndim == 2:
            y = y.astype(dtype)
        return arguments.check_class_targets("y", y, rows, outputs, dtype)
    if y.ndim == 1 and outputs == 1:
        y = y.reshape(rows, 1)
    arguments.check_shape("y", y, (rows, outputs), "(one column per output)")
    if output == "sigmoid":
        arguments.check_unit_range("y", y)
    return cast(y, dtype)


def as_sample_weight(weight: Any, rows: int, dtype: np.dtype[Any]) -> Array | None:
    """Return weights (rows,) or None."""
    if weight is None:
        return None
    weight = as_array("sample_weight", weight)
    return arguments.check_sample_weight("sample_weight", weight, rows, dtype)


def as_own_targets(y: Any, rows: int) -> Array:
    """Return y as a loss of one's own is to see it: an array of any dtype and shape, row by row."""
    found = np.asarray(y)
    if found.ndim == 0 or len(found) != rows:
        raise ValueError(f"y: expected {rows} rows to match x, got shape {found.shape}")
    return found


def check_own_loss(loss: Any, sample_weight: Any, class_weight: Any, label_smoothing: Any) -> None:
    """Refuse what is no function, and options that a loss of one's own does not see."""
    if not callable(loss):
        raise TypeError(f"loss: expected a function f(z, y), got {arguments.describe(loss)}")
    given = {
        "sample_weight": sample_weight is not None,
        "class_weight": class_weight is not None,
        "label_smoothing": label_smoothing != 0,
    }
    for name, found in given.items():
        if found:
            raise ValueError(
                f"{name}: expected none with a loss of your own, which does not see it; "
                "put what it needs into y"
            )


def as_loss_options(
    output: str, class_weight: Any, label_smoothing: Any, outputs: int, dtype: np.dtype[Any]
) -> tuple[Array | None, float]:
    """Return class weights and smoothing; refuse them where the loss has none."""
    if class_weight is not None and output != "softmax":
        raise ValueError(f"class_weight: expected None for output={output!r}; use sample_weight")
    smoothing = arguments.check_fraction("label_smoothing", label_smoothing)
    if smoothing and output == "identity":
        raise ValueError("label_smoothing: expected 0 for output='identity', which has no labels")
    return arguments.check_class_weight("class_weight", class_weight, outputs, dtype), smoothing


def cast(x: Array, dtype: np.dtype[Any]) -> Array:
    """Return x in this dtype and aligned; x itself when it is so already."""
    if x.dtype is dtype and getattr(x.flags, "aligned", True):  # a GPU's arrays all are
        return x
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return x.astype(dtype)


def gather(x: Array, rows: Array | slice, dtype: np.dtype[Any], scale: Scaling) -> Array:
    """Return these rows of x in this dtype, scaled: the batch a network sees."""
    if scale is not None and not isinstance(scale, float):
        return scale.apply(x[rows], dtype)
    batch = np.ascontiguousarray(cast(x[rows], dtype))
    if scale is None:
        return batch
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scaled: Array = batch * dtype.type(scale)
    return scaled


def some_rows(x: Array, dtype: np.dtype[Any], scale: Scaling) -> Array:
    """Return rows evenly spread over x as a network sees them, few enough to look at at once."""
    every = min(-(-x.size // ELEMENTS_LOOKED_AT), max(len(x) // 32, 1))
    return gather(x, slice(None, None, every), dtype, scale)


def check_finite(name: str, x: Array, dtype: np.dtype[Any], scale: Scaling = None) -> None:
    """Refuse NaN and infinity, and what becomes infinite in `dtype`; say where."""
    if x.dtype.kind != "f" and (scale is None or _largest_factor(scale) < 1e18):
        return
    if isinstance(x, SparseRows) and (scale is None or isinstance(scale, float)):
        stored = gather(x.values, slice(None), dtype, scale)
        if np.isfinite(stored).all():
            return  # as all the zeros are
    for start in range(0, len(x), ROWS_AT_ONCE):
        finite = np.isfinite(gather(x, slice(start, start + ROWS_AT_ONCE), dtype, scale))
        if not finite.all():
            where = tuple(int(i) for i in np.argwhere(~finite)[0])
            value = x[(start + where[0], *where[1:])]
            column = f", column {where[1]}" if x.ndim == 2 else ""
            limit = f" (too large for {dtype})" if np.isfinite(value) else ""
            raise ValueError(
                f"{name}: expected finite numbers, got {value}{limit} "
                f"in row {start + where[0]}{column}"
            )


def _largest_factor(scale: "float | Standardizer") -> float:
    if isinstance(scale, float):
        return abs(scale)
    return float(scale.shift_and_factor(arguments.FLOAT64)[1].max())


def output_loss(
    output: str,
    z: Array,
    y: Array,
    sample_weight: Array | None,
    class_weight: Array | None = None,
    label_smoothing: float = 0.0,
    form: LossForm = PLAIN,
) -> tuple[float, Array]:
    """Return the loss that belongs to this output, and its gradient."""
    if output == "softmax":
        return softmax_loss(z, y, sample_weight, class_weight, label_smoothing, form)
    if output == "sigmoid":
        return sigmoid_loss(z, y, sample_weight, label_smoothing, form)
    return squared_loss(z, y, sample_weight, form)


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def score(output: str, z: Array, y: Array, sample_weight: Array | None) -> dict[str, float]:
    """Return {"accuracy": ...} of a classifier or {"r2": ...} of a regression.

    accuracy: the weighted fraction of right rows (softmax) or of right elements (sigmoid).
    r2: 1 - squared error / squared distance from the mean, averaged over outputs; an output
    with constant targets counts 1 when they are met exactly and 0 otherwise.
    """
    weight = None if sample_weight is None else sample_weight.astype(np.float64)
    if output == "softmax":
        labels = y if y.ndim == 1 else y.argmax(axis=1)
        return {"accuracy": float(np.average(z.argmax(axis=1) == labels, weights=weight))}
    if output == "sigmoid":
        right = ((z > 0) == (y >= 0.5)).mean(axis=1)
        return {"accuracy": float(np.average(right, weights=weight))}
    t = y.astype(np.float64)
    mean = np.average(t, axis=0, weights=weight)
    error = np.average((z - t) ** 2, axis=0, weights=weight)
    spread = np.average((t - mean) ** 2, axis=0, weights=weight)
    constant = spread == 0
    ratio = error / np.where(constant, 1, spread)
    return {"r2": float(np.where(constant, error == 0, 1 - ratio).mean())}


# ---- validation ------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeldOut:
    """Validation data: y as given, and as the network's own loss and score want it, or None."""

    x: Array
    y: Array | None
    given: Array
    weight: Array | None


def as_held_out(
    net: "MLP",
    data: Any,
    scale: Scaling,
    loss: Loss | None,
    targets: "Standardizer | None" = None,
) -> HeldOut | None:
    """Return checked validation data, or None."""
    if data is None:
        return None
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        raise TypeError(
            f"validation: expected (x, y) or (x, y, sample_weight), got {arguments.describe(data)}"
        )
    try:
        x = as_rows("x", data[0], net.sizes[0], sparse=True)
        arguments.check_rows("x", x)
        check_finite("x", x, net.dtype, scale)
        given = data[2] if len(data) == 3 else None
        if loss is not None:
            check_own_loss(loss, given, None, 0)
            own = as_own_targets(data[1], len(x))
            return HeldOut(x, targets_or_none(net, own), own, None)
        y = as_targets(net.output, data[1], len(x), net.sizes[-1], target_dtype(net))
        if net.output == "identity":
            check_finite("y", as_array("y", data[1]).reshape(y.shape), net.dtype, targets)
        weight = as_sample_weight(given, len(x), net.dtype)
    except (TypeError, ValueError) as error:
        raise type(error)(f"validation: {error}") from None
    return HeldOut(x, y, np.asarray(data[1]), weight)


def targets_or_none(net: "MLP", y: Array) -> Array | None:
    """Return y as the network's own loss wants it, None where it is something else."""
    try:
        return as_targets(net.output, y, len(y), net.sizes[-1], net.dtype)
    except (TypeError, ValueError):
        return None


def check_metrics(metrics: Any, validated: bool) -> dict[str, tuple[Callable[..., Any], bool]]:
    """Return for each name the function, and whether it is given probabilities."""
    if not isinstance(metrics, Mapping):
        raise TypeError(
            f"metrics: expected a dict of names and functions, got {arguments.describe(metrics)}"
        )
    if metrics and not validated:
        raise ValueError(
            "metrics: expected validation data to evaluate them on, got none; "
            "give validation=(x, y)"
        )
    found = {}
    for name, metric in metrics.items():
        if not isinstance(name, str) or name in PER_EPOCH or "/" in name:
            raise ValueError(
                f"metrics: expected names other than {', '.join(PER_EPOCH)}, without '/', "
                f"got {name!r}"
            )
        pair = metric if isinstance(metric, tuple) else (metric, "predict")
        if len(pair) != 2 or not callable(pair[0]) or pair[1] not in ("predict", "predict_proba"):
            raise TypeError(
                f"metrics: {name}: expected f(y, prediction) or (f, 'predict_proba'), "
                f"got {arguments.describe(metric)}"
            )
        found[name] = pair[0], pair[1] == "predict_proba"
    return found


def validate(
    net: "MLP",
    data: HeldOut,
    loss: Loss | None,
    metrics: Mapping[str, tuple[Callable[..., Any], bool]],
) -> dict[str, float]:
    """Return val_loss, val_accuracy or val_r2, and the metrics."""
    z = net._outputs(data.x)
    found = {f"val_{k}": v for k, v in net._scores(z, data, loss).items()}
    for name, (function, wants_probabilities) in metrics.items():
        prediction = net._probabilities(z) if wants_probabilities else net._predictions(z)
        if prediction.ndim == 2 and prediction.shape[1] == 1:
            prediction = prediction[:, 0]
        value = np.asarray(function(data.given, prediction))
        if value.ndim != 0 or value.dtype.kind not in "fiub":
            raise TypeError(f"metrics: {name}: expected a number, got {arguments.describe(value)}")
        found[name] = float(value)
    return found


# ---- the loop --------------------------------------------------------------------------------


def fit(
    net: "MLP",
    x: Any,
    y: Any,
    *,
    validation: Any,
    epochs: int,
    batch_size: int,
    optimizer: Optimizer,
    input_scale: float | None,
    early_stopping: int | EarlyStopping | None,
    callbacks: Callbacks,
    progress: Literal["auto"] | bool,
    monitor: bool,
    shuffle: bool,
    augment: Augment | None,
    sample_weight: Any,
    class_weight: ClassWeight | None,
    label_smoothing: float,
    loss: Loss | None,
    metrics: Mapping[str, Metric],
    checkpoint: Any,
    stop_on_nan: bool,
) -> History:
    """Train `net`; this is what `MLP.fit` does, where the arguments are described."""
    training = _Training(
        net, x, y, validation=validation, epochs=epochs, batch_size=batch_size,
        optimizer=optimizer, input_scale=input_scale, early_stopping=early_stopping,
        callbacks=callbacks, progress=progress, monitor=monitor, shuffle=shuffle,
        sample_weight=sample_weight, class_weight=class_weight, label_smoothing=label_smoothing,
        loss=loss, metrics=metrics, file=checkpoint, stop_on_nan=stop_on_nan, augment=augment,
    )  # fmt: skip
    return training.run()


class _Training:
    """One call of `fit`: its checked arguments, and where its loop has got to."""

    def __init__(
        self, net: "MLP", x: Any, y: Any, *, validation: Any, epochs: Any, batch_size: Any,
        optimizer: Any, input_scale: Any, early_stopping: Any, callbacks: Any, progress: Any,
        monitor: Any, shuffle: Any, sample_weight: Any, class_weight: Any, label_smoothing: Any,
        loss: Any, metrics: Any, file: Any, stop_on_nan: Any, augment: Any,
    ) -> None:  # fmt: skip
        """Check everything; the network is left as it is."""
        dtype, outputs = net.dtype, net.sizes[-1]
        self.net, self.optimizer, self.loss = net, optimizer, loss
        self.epochs = arguments.check_integer("epochs", epochs, 1)
        self.batch_size = arguments.check_integer("batch_size", batch_size, 1)
        scale = _scaling(net, input_scale)
        self.shuffle = arguments.check_bool("shuffle", shuffle)
        self.stop_on_nan = arguments.check_bool("stop_on_nan", stop_on_nan)
        monitor = arguments.check_bool("monitor", monitor)
        self.file = checkpoint.check_checkpoint(file)

        self.x = as_rows("x", x, net.sizes[0], sparse=True)
        rows = len(self.x)
        arguments.check_rows("x", self.x)
        self.weight: Array | None = None
        self.options: tuple[Array | None, float] = None, 0.0
        if loss is not None:
            check_own_loss(loss, sample_weight, class_weight, label_smoothing)
            check_no_target_standardizer(net)
            self.y = as_own_targets(y, rows)
        else:
            self.y = as_targets(net.output, y, rows, outputs, target_dtype(net))
            self.weight = as_sample_weight(sample_weight, rows, dtype)
            self.options = as_loss_options(
                net.output, class_weight, label_smoothing, outputs, dtype
            )
        self.used = _rows_per_epoch(net, rows, self.batch_size)
        self.standardizer = _fitted(scale, self.x)
        self.targets = _fitted(net.target_standardizer, self.y)
        self.scale = self.standardizer or scale
        check_finite("x", self.x, dtype, self.scale)
        if net.output == "identity" and loss is None:
            check_finite("y", as_array("y", y).reshape(self.y.shape), dtype, self.targets)
        self.held_out = as_held_out(net, validation, self.scale, loss, self.targets)
        if self.targets is not None:
            self.y = self.targets.apply(self.y, dtype)
        self.augment: Augment | None = augment
        if augment is not None:
            check_augment(augment, self.x)

        self.metrics = check_metrics(metrics, self.held_out is not None)
        known = _known_values(net, self.held_out, self.metrics)
        self.best = BestEpoch(early_stopping, known)
        self.callbacks = check_callbacks(callbacks)
        plateau = callback_in(getattr(optimizer, "lr", None))
        if plateau is not None and plateau not in self.callbacks:
            self.callbacks.insert(0, plateau)
        for callback in self.callbacks:
            if isinstance(callback, ReduceOnPlateau):
                callback.sign(known)
        self.step_callbacks = defining(self.callbacks, "on_step_end")
        self.average = _average_among(self.callbacks)
        net._prepare(optimizer)
        self.bar = Progress(progress, self.epochs, self.used)

        self.history = History(
            metrics={name: [] for name in self.metrics},
            optimizer=re.sub(" at 0x[0-9a-fA-F]+", "", repr(optimizer)),  # of a function
            batch_size=self.batch_size,
        )
        if monitor:
            stride = monitor_stride(net, min(self.batch_size, rows), self.steps * self.epochs)
            self.history.monitor = LayerHistory(net.step, len(net.layers), stride)
            self.history.monitor.look(some_rows(self.x, dtype, self.scale))
        self.done, self.total = 0, 0.0  # rows of this epoch, and the sum of their losses
        self.mark = 0, 0.0  # likewise when on_step_end was last called
        self.finished = 0  # epochs that the history has the whole of
        self.ended = False
        self.settings: checkpoint.State = {}
        self.saved: checkpoint.State | None = None
        if self.file is not None:
            self._open(self.file, early_stopping, class_weight)

    @property
    def steps(self) -> int:
        """The steps of an epoch."""
        return -(-self.used // self.batch_size)

    def run(self) -> History:
        """Train, and return the history."""
        net, history = self.net, self.history
        if isinstance(self.scale, float):
            net.input_scale = self.scale
        net.standardizer, net.target_standardizer = self.standardizer, self.targets
        try:
            self._begin()
            while not self.ended and history.epochs < self.epochs:
                began = time.perf_counter()
                self._steps_of_epoch()
                if not self.ended:
                    self._end_epoch(began)
            if not self.best.restore(net) and self.average is not None:
                self.average.swap(net)
        except KeyboardInterrupt:
            history.interrupted = True
            history._shorten(self.finished)
            warnings.warn(
                f"fit: interrupted after {history.epochs} of {self.epochs} epochs; "
                "the network keeps what it learned",
                UserWarning,
                stacklevel=4,
            )
        finally:
            self.bar.close()
        self._call("on_fit_end")
        return history

    def _call(self, name: str) -> bool:
        """Call a method of all callbacks that have it; return whether one wants to stop."""
        found = defining(self.callbacks, name)
        answers = [says_stop(getattr(c, name)(self.net, self.history)) for c in found]
        return any(answers)

    def _begin(self) -> None:
        saved = self.saved
        if saved is not None:
            checkpoint.load_history(self.history, saved["history"])
            checkpoint.load_network(self.net, saved["network"])
            checkpoint.load_optimizer(self.optimizer, saved["optimizer"])
            self.best.load_state_dict(saved["best"])
            self.done, self.total = saved["rows_done"], saved["total"]
            self.mark = saved["mark"]["rows"], saved["mark"]["total"]
            self.ended = saved["ended"]
            self.finished = self.history.epochs
        self._call("on_fit_begin")
        if saved is not None:
            for i, state in saved["callbacks"].items():
                self.callbacks[int(i)].load_state_dict(state)
        self.bar.begin(self.finished * self.used + self.done)

    def _steps_of_epoch(self) -> None:
        """Do the steps of an epoch, or those that a resumed one has left."""
        net, history = self.net, self.history
        if self.done == 0:
            self._call("on_epoch_begin")
        else:
            net.epoch -= 1  # it was counted when the epoch was begun
        order = net._order(len(self.x)) if self.shuffle else np.arange(len(self.x))
        net.epoch += 1
        while self.done < self.used and not self.ended:
            end, due = self._next_stop()
            stats: bool | int = due is not None
            if history.monitor is not None and end == self.used:
                stats = MONITOR_BINS
            some: Rows = self.x, self.y, self.weight, order[self.done : end]
            if self.augment is not None:
                if end - self.done > self.batch_size:
                    end, stats, due = self.done + self.batch_size, False, None
                rng = batch_generator(net.seed, net.epoch - 1, self.done // self.batch_size)
                some = _augmented_batch(self.augment, rng, *some[:3], order[self.done : end])
            total, rows = net._train_rows(
                *some, self.batch_size,
                self.optimizer, class_weight=self.options[0], label_smoothing=self.options[1],
                scale=self.scale, stats=stats, loss=self.loss, total=self.total,
            )  # fmt: skip
            self.total, self.done = total, self.done + rows
            self.bar.advance(rows)
            if history.nonfinite_step is None and not math.isfinite(total):
                history.nonfinite_step = net.step - 1
                history.nonfinite_layer = net._nonfinite_layer()
                self._note_nan()
            if self.done == end and due is not None and history.monitor is not None:
                history.monitor.record(due, net.layers, self.total, self.done)
            self._end_step()

    def _next_stop(self) -> tuple[int, int | None]:
        """Return up to which row of the epoch to train at once, and the step monitored there."""
        step, due = self.net.step, None
        stop = step + -(-(self.used - self.done) // self.batch_size)
        intervals = [callback.every for callback in self.step_callbacks]
        if self.file is not None and self.file.every_steps is not None:
            intervals.append(self.file.every_steps)
        for every in intervals:
            stop = min(stop, step - step % every + every)
        if self.history.monitor is not None:
            due = self.history.monitor.next_due(step)
            stop = min(stop, due + 1)
        end = min(self.done + (stop - step) * self.batch_size, self.used)
        return end, due if due == stop - 1 else None

    def _note_nan(self) -> None:
        if self.stop_on_nan:
            self.ended = True
            warnings.warn(
                f"fit: stopped, since the loss of step {self.history.nonfinite_step} was not "
                "finite; a lower learning rate or clip_norm may help",
                UserWarning,
                stacklevel=6,
            )

    def _end_step(self) -> None:
        """Call whoever wants to be called after the step just done; write a checkpoint."""
        step, history = self.net.step, self.history
        called = [c for c in self.step_callbacks if step % c.every == 0]
        if called:
            rows, total = self.done - self.mark[0], self.total - self.mark[1]
            history.step_loss, self.mark = total / max(rows, 1), (self.done, self.total)
            answers = [says_stop(c.on_step_end(self.net, history)) for c in called]
            self.ended = self.ended or any(answers)
        # behind an epoch's last step its statistics are in the layers alone: it is written later
        if self.ended or (self.done < self.used and self._writes_at(step)):
            self._save()

    def _writes_at(self, step: int) -> bool:
        every = self.file.every_steps if self.file is not None else None
        return every is not None and step % every == 0

    def _end_epoch(self, began: float) -> None:
        """Validate, write the history, ask who wants to stop."""
        net, history = self.net, self.history
        looked_at = net if self.average is None else self.average.network(net)
        values = {"loss": self.total / self.used, "learning_rate": self._learning_rate()}
        if self.held_out is not None:
            values |= validate(looked_at, self.held_out, self.loss, self.metrics)
        for name, value in values.items():
            column = history.metrics if name in self.metrics else vars(history)
            column[name].append(value)
        if history.monitor is not None:
            stats = [layer.stats for layer in net.layers if layer.stats is not None]
            history.stats.append(stats)
            history.monitor.end_epoch(self.total, self.done)
        history.seconds.append(time.perf_counter() - began)
        self.finished += 1
        self.best.look(history, looked_at)
        self.bar.epoch(history)
        self.done, self.total, self.mark = 0, 0.0, (0, 0.0)
        if self._call("on_epoch_end"):
            self.ended = True
        elif self.best.says_stop(history):
            history.stopped_early = self.ended = True
        last = self.ended or history.epochs >= self.epochs
        due = self.file is not None and history.epochs % self.file.every_epochs == 0
        if last or due or self._writes_at(net.step):
            self._save()

    def _learning_rate(self) -> float:
        """Return that of the last step."""
        if not isinstance(self.optimizer, Optimizer):
            return math.nan
        return self.optimizer.learning_rate(max(self.optimizer.steps - 1, 0))

    # ---- the checkpoint ----------------------------------------------------------------------

    def _open(self, file: Checkpoint, early_stopping: Any, class_weight: Any) -> None:
        """Read the run in the file, if there is one, and see that it is this one."""
        net = self.net
        checkpoint.check_optimizer_state(self.optimizer)
        held_out = self.held_out
        data = {
            "x": self.x,
            "y": self.y,
            "sample_weight": self.weight,
            "validation x": None if held_out is None else held_out.x,
            "validation y": None if held_out is None else held_out.given,
        }
        own = [c for c in self.callbacks if not isinstance(c, EpochFunction)]
        settings = {
            "batch_size": self.batch_size,
            "optimizer": self.optimizer,
            "input_scale": self.scale if isinstance(self.scale, float) else None,
            "standardizer": self.standardizer and self.standardizer.to_config(),
            "target_standardizer": self.targets and self.targets.to_config(),
            "augment": self.augment,
            "early_stopping": early_stopping,
            "callbacks": own,
            "monitor": self.history.monitor is not None,
            "shuffle": self.shuffle,
            "class_weight": self.options[0],
            "label_smoothing": self.options[1],
            "loss": self.loss,
            "metrics": {name: metric[0] for name, metric in self.metrics.items()},
        }
        self.settings = checkpoint.settings_of(net, data, settings)
        begun = [checkpoint.beginning_of(net), *net._begun]
        self.saved = checkpoint.read(file)
        if self.saved is not None:
            checkpoint.check_same_run(file, self.saved, begun, self.settings)
        net._begun = [begun[0] if self.saved is None else self.saved["begun"]]

    def _save(self) -> None:
        if self.file is None:
            return
        states = {str(i): c.state_dict() for i, c in enumerate(self.callbacks)}
        state = {
            "settings": self.settings,
            "begun": self.net._begun[0],
            "network": checkpoint.state_of_network(self.net),
            "optimizer": checkpoint.state_of_optimizer(self.optimizer),
            "best": self.best.state_dict(),
            "history": checkpoint.state_of_history(self.history),
            "callbacks": {i: state for i, state in states.items() if state},
            "rows_done": self.done,
            "total": self.total,
            "mark": {"rows": self.mark[0], "total": self.mark[1]},
            "ended": self.ended,
        }
        checkpoint.write(self.file, state)


def _known_values(net: "MLP", held_out: HeldOut | None, metrics: Mapping[str, Any]) -> list[str]:
    """Return the names of the values that the history will have of each epoch."""
    known = ["loss"]
    if held_out is not None:
        known.append("val_loss")
        if held_out.y is not None:
            known.append("val_r2" if net.output == "identity" else "val_accuracy")
    return [*known, *metrics]


def _average_among(callbacks: list[Callback]) -> AveragedWeights | None:
    """Return the average that is to take the network's place where it is looked at."""
    found = [c for c in callbacks if isinstance(c, AveragedWeights) and c.swaps]
    if len(found) > 1:
        raise ValueError(
            f"callbacks: expected one AveragedWeights with swap=True, got {len(found)}; "
            "give the others swap=False"
        )
    return found[0] if found else None


def monitor_stride(net: "MLP", rows: int, steps: int) -> int:
    """Return every how manyth step to monitor, a power of two.

    So rarely that to look at the layers costs at most 2 % of the training, from a guess at both;
    but 32 times in any case, as a short training of a small network is over in no time.
    """
    weights = net.n_parameters
    step = max(1e-5, 6.0 * rows * weights / 4e11)  # seconds, on two fast cores
    look = 2e-5 + 1e-5 * len(net.layers) + 0.8e-9 * weights
    cheap = 1 << math.ceil(math.log2(max(look / (0.02 * step), 1)))
    return min(cheap, 1 << max(steps // 32, 1).bit_length() - 1)


def _scaling(net: "MLP", input_scale: float | None) -> Scaling:
    """Return how rows are scaled, as the network says, or `fit`."""
    if net.standardizer is None:
        return net.input_scale if input_scale is None else check_scale(input_scale)
    if input_scale is not None:
        raise ValueError(
            f"input_scale: expected None, as the network has a standardizer, got {input_scale!r}"
        )
    return net.standardizer


def _fitted(given: Scaling, x: Array) -> "Standardizer | None":
    """Return a standardizer's statistics of x, in a new one; one that has some stays as it is."""
    if given is None or isinstance(given, float):
        return None
    return given if given.rows else given.copy().fit(x)


def check_no_target_standardizer(net: "MLP") -> None:
    """Refuse a loss of one's own where it would have to know standardised targets."""
    if net.target_standardizer is not None:
        raise ValueError(
            "loss: expected None, as the network has a target_standardizer; "
            "give a loss of your own targets that suit it"
        )


def target_dtype(net: "MLP") -> np.dtype[Any]:
    """Return the dtype of targets before they are standardised."""
    return net.dtype if net.target_standardizer is None else arguments.FLOAT64


def check_scale(scale: Any) -> float:
    """Return a finite number other than 0 as a float."""
    number = arguments.check_real("input_scale", scale, "a finite number other than 0")
    if number == 0:
        raise ValueError("input_scale: expected a finite number other than 0, got 0")
    return number


def check_augment(augment: Any, x: Array) -> None:
    """Refuse what is no function, and what it refuses: it is tried on one row."""
    if not callable(augment) or isinstance(augment, type):
        raise TypeError(
            "augment: expected a function f(x, rng) such as augment.Shift(2, shape=(28, 28)), "
            f"got {arguments.describe(augment)}"
        )
    try:
        _augmented(augment, batch_generator(0, 0, 0), x[:1].copy())
    except (TypeError, ValueError) as error:
        raise type(error)(f"augment: {error}") from error


def batch_generator(seed: int, epoch: int, batch: int) -> Generator:
    """Return the generator that `augment` gets for a batch."""
    return np.random.Generator(np.random.PCG64([seed, epoch, batch]))


def _augmented(augment: Augment, rng: Generator, batch: Array) -> Array:
    changed = as_array("x", augment(batch, rng))
    arguments.check_shape("x", changed, batch.shape, "from augment, as it was given")
    return changed


def _augmented_batch(
    augment: Augment,
    rng: Generator,
    x: Array,
    y: Array,
    weight: Array | None,
    rows: Array,
) -> Rows:
    """Return these rows, changed, with targets and weights, and None: all of them, in order."""
    batch = _augmented(augment, rng, x[rows])
    return batch, y[rows], None if weight is None else weight[rows], None


def check_optimizer(optimizer: Any) -> None:
    """Refuse what cannot update parameters."""
    if not isinstance(optimizer, Optimizer) and (
        isinstance(optimizer, type) or not callable(getattr(optimizer, "update", None))
    ):
        raise TypeError(f"optimizer: expected an optimizer such as Adam(1e-3), got {optimizer!r}")


def _rows_per_epoch(net: "MLP", rows: int, batch_size: int) -> int:
    """Return how many rows an epoch uses: batch norm cannot train on a last batch of one row."""
    if not net.batch_norm:
        return rows
    if min(rows, batch_size) < 2:
        name = "batch_size" if rows > 1 else "x"
        raise ValueError(f"{name}: batch_norm needs at least 2 rows in a batch, got 1")
    return rows - 1 if rows % batch_size == 1 else rows
