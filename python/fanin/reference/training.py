"""The training loop around a network's steps: data checks, epochs, history, early stopping.

`fit` asks the network for four things only: the order of the rows of an epoch (`_order`), steps
over some of them (`_train_rows`), outputs (`_outputs`) and its vectors.  It is the same for the
network of this folder and for the compiled one.
"""

import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from . import arguments
from .arguments import Array
from .loss import ClassWeight, sigmoid_loss, softmax_loss, squared_loss
from .optimizer import Optimizer
from .stats import ActivationStats

if TYPE_CHECKING:
    from .network import MLP
    from .standardizer import Standardizer

# What rows are multiplied with, or what standardises them, on their way into a network.
Scaling: TypeAlias = "float | Standardizer | None"

SLICE_SECONDS = 0.05  # a network returns from _train_rows after about so long, for Ctrl-C
MONITOR_BINS = 50
ROWS_AT_ONCE = 4096

Generator: TypeAlias = "np.random.Generator"  # NumPy loads it when it is first used
Augment: TypeAlias = Callable[[Array, Generator], Array]
Rows = tuple[Array, Array, Array | None, Array | None]  # x, y, weights, which of them
Callback = Callable[["MLP", "History"], Any]


@dataclass
class History:
    """What happened in one call of `fit`: one entry per finished epoch.

    Attributes
    ----------
    loss : mean loss of the epoch's steps, weighted by their rows, with the l1 and l2 penalties
    val_loss, val_accuracy : of the validation data after the epoch; empty without
    learning_rate : of the epoch's last step
    seconds : duration of the epoch with its validation
    stats : per epoch one ActivationStats per layer, of the epoch's last step; empty if not asked
    interrupted : Ctrl-C ended the training
    stopped_early : early stopping ended it
    best_epoch : index of the epoch with the best monitored value (val_loss, or loss without
        validation data); None when no epoch was finished
    """

    loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    stats: list[list[ActivationStats]] = field(default_factory=list, repr=False)
    interrupted: bool = False
    stopped_early: bool = False
    best_epoch: int | None = None

    @property
    def epochs(self) -> int:
        """The number of finished epochs."""
        return len(self.loss)

    def _shorten(self, epochs: int) -> None:
        """Forget an epoch that was interrupted while it was written down."""
        for name in ("loss", "val_loss", "val_accuracy", "learning_rate", "seconds", "stats"):
            del getattr(self, name)[epochs:]


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when `monitor` was not better by more than `min_delta` for `patience` epochs.

    monitor is "val_loss", "val_accuracy" or "loss".  restore_best puts the parameters of the
    best epoch back when training ends by itself (not after Ctrl-C).
    """

    monitor: str = "val_loss"
    patience: int = 10
    min_delta: float = 0.0
    restore_best: bool = True

    def __post_init__(self) -> None:
        """Check the settings."""
        arguments.check_choice("monitor", self.monitor, ("val_loss", "val_accuracy", "loss"))
        arguments.check_integer("patience", self.patience, 1)
        arguments.check_nonnegative("min_delta", self.min_delta)
        arguments.check_bool("restore_best", self.restore_best)


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


def as_rows(name: str, x: Any, width: int) -> Array:
    """Return a 2-D array of real numbers with this many columns."""
    if type(x) is not np.ndarray or x.dtype.kind not in "fiub":
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
    if x.dtype is dtype and x.flags.aligned:
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


def check_finite(name: str, x: Array, dtype: np.dtype[Any], scale: Scaling = None) -> None:
    """Refuse NaN and infinity, and what becomes infinite in `dtype`; say where."""
    if x.dtype.kind != "f" and (scale is None or _largest_factor(scale) < 1e18):
        return
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
) -> tuple[float, Array]:
    """Return the loss that belongs to this output, and its gradient."""
    if output == "softmax":
        return softmax_loss(z, y, sample_weight, class_weight, label_smoothing)
    if output == "sigmoid":
        return sigmoid_loss(z, y, sample_weight, label_smoothing)
    return squared_loss(z, y, sample_weight)


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
    callbacks: Iterable[Callback],
    progress: Literal["auto"] | bool,
    monitor: bool,
    shuffle: bool,
    augment: Augment | None,
    sample_weight: Any,
    class_weight: ClassWeight | None,
    label_smoothing: float,
) -> History:
    """Train `net`; this is what `MLP.fit` does, where the arguments are described."""
    dtype, outputs = net.dtype, net.sizes[-1]
    epochs = arguments.check_integer("epochs", epochs, 1)
    batch_size = arguments.check_integer("batch_size", batch_size, 1)
    scaling = _scaling(net, input_scale)
    callbacks = check_callbacks(callbacks)
    monitor = arguments.check_bool("monitor", monitor)
    shuffle = arguments.check_bool("shuffle", shuffle)
    x = as_rows("x", x, net.sizes[0])
    arguments.check_rows("x", x)
    given, y = y, as_targets(net.output, y, len(x), outputs, target_dtype(net))
    weight = as_sample_weight(sample_weight, len(x), dtype)
    options = as_loss_options(net.output, class_weight, label_smoothing, outputs, dtype)
    used = _rows_per_epoch(net, len(x), batch_size)
    standardizer, targets = _fitted(scaling, x), _fitted(net.target_standardizer, y)
    scaling = standardizer or scaling
    check_finite("x", x, dtype, scaling)
    if net.output == "identity":
        check_finite("y", as_array("y", given).reshape(y.shape), dtype, targets)
    held_out = _as_validation(net, validation, scaling, targets)
    watch = _Watch(early_stopping, held_out is not None, net.output != "identity")
    if isinstance(optimizer, Optimizer):
        optimizer.prepare(net.parameters, net.gradients)
    bar = _Progress(progress, epochs, used)
    if augment is not None:
        check_augment(augment, x)

    if targets is not None:
        net.target_standardizer, y = targets, targets.apply(y, dtype)
    if isinstance(scaling, float):
        net.input_scale = scaling
    net.standardizer = standardizer
    history = History()
    finished = 0
    try:
        for _ in range(epochs):
            began = time.perf_counter()
            order = net._order(len(x)) if shuffle else np.arange(len(x))
            net.epoch += 1
            total, done = 0.0, 0
            while done < used:
                chosen = order[done:used]
                some: Rows = (x, y, weight, chosen)
                if augment is not None:
                    rng = batch_generator(net.seed, net.epoch - 1, done // batch_size)
                    some = _augmented_batch(augment, rng, x, y, weight, chosen[:batch_size])
                at_end = augment is None or done + batch_size >= used
                loss, rows = net._train_rows(
                    *some, batch_size, optimizer,
                    class_weight=options[0], label_smoothing=options[1],
                    scale=scaling, stats=MONITOR_BINS if monitor and at_end else False,
                )  # fmt: skip
                total, done = total + loss, done + rows
                bar.advance(rows)
            metrics = {} if held_out is None else net._evaluate(*held_out)
            _record(history, net, optimizer, total / used, metrics, monitor)
            history.seconds.append(time.perf_counter() - began)
            finished += 1
            watch.look(history, net)
            bar.epoch(history)
            answers = [_says_stop(callback(net, history)) for callback in callbacks]
            if any(answers):
                break
            if watch.patience_is_over(history):
                history.stopped_early = True
                break
        watch.restore(net)
    except KeyboardInterrupt:
        history.interrupted = True
        history._shorten(finished)
        warnings.warn(
            f"fit: interrupted after {history.epochs} of {epochs} epochs; "
            "the network keeps what it learned",
            UserWarning,
            stacklevel=3,
        )
    finally:
        bar.close()
    return history


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


def target_dtype(net: "MLP") -> np.dtype[Any]:
    """Return the dtype of targets before they are standardised."""
    return net.dtype if net.target_standardizer is None else arguments.FLOAT64


def check_scale(scale: Any) -> float:
    """Return a finite number other than 0 as a float."""
    number = arguments.check_real("input_scale", scale, "a finite number other than 0")
    if number == 0:
        raise ValueError("input_scale: expected a finite number other than 0, got 0")
    return number


def check_callbacks(callbacks: Any) -> tuple[Callback, ...]:
    """Return the callbacks as a tuple of callables."""
    found = tuple(callbacks) if isinstance(callbacks, Iterable) else (callbacks,)
    for callback in found:
        if not callable(callback):
            raise TypeError(
                f"callbacks: expected callables f(net, history), got {arguments.describe(callback)}"
            )
    return found


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


def _says_stop(answer: Any) -> bool:
    return isinstance(answer, bool | np.bool_) and bool(answer)


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


def _as_validation(
    net: "MLP", validation: Any, scale: Scaling, targets: "Standardizer | None"
) -> tuple[Array, Array, Array | None] | None:
    if validation is None:
        return None
    if not isinstance(validation, tuple | list) or len(validation) not in (2, 3):
        raise TypeError(
            "validation: expected (x, y) or (x, y, sample_weight), "
            f"got {arguments.describe(validation)}"
        )
    try:
        x = as_rows("x", validation[0], net.sizes[0])
        arguments.check_rows("x", x)
        y = as_targets(net.output, validation[1], len(x), net.sizes[-1], target_dtype(net))
        given = validation[2] if len(validation) == 3 else None
        weight = as_sample_weight(given, len(x), net.dtype)
        check_finite("x", x, net.dtype, scale)
        if net.output == "identity":
            check_finite("y", as_array("y", validation[1]).reshape(y.shape), net.dtype, targets)
    except (TypeError, ValueError) as error:
        raise type(error)(f"validation: {error}") from None
    return x, y, weight


def _record(
    history: History,
    net: "MLP",
    optimizer: Any,
    loss: float,
    metrics: dict[str, float],
    monitor: bool,
) -> None:
    history.loss.append(loss)
    if "loss" in metrics:
        history.val_loss.append(metrics["loss"])
    if "accuracy" in metrics:
        history.val_accuracy.append(metrics["accuracy"])
    rate = math.nan
    if isinstance(optimizer, Optimizer):
        rate = optimizer.learning_rate(max(optimizer.steps - 1, 0))
    history.learning_rate.append(rate)
    if monitor:
        history.stats.append([layer.stats for layer in net.layers if layer.stats is not None])


class _Watch:
    """Knows the best epoch so far, keeps its parameters, and when patience is over."""

    def __init__(self, rule: int | EarlyStopping | None, validated: bool, classifier: bool) -> None:
        if rule is not None and not isinstance(rule, EarlyStopping):
            rule = EarlyStopping(patience=arguments.check_integer("early_stopping", rule, 1))
        self._rule = rule
        self._name = rule.monitor if rule else "val_loss" if validated else "loss"
        if self._name != "loss" and not validated:
            raise ValueError(
                f"early_stopping: expected validation data to monitor {self._name!r}, got none; "
                "give validation=(x, y), or EarlyStopping(monitor='loss')"
            )
        if self._name == "val_accuracy" and not classifier:
            raise ValueError(
                "early_stopping: expected monitor='val_loss' or 'loss' for output='identity', "
                "got 'val_accuracy'"
            )
        self._sign = -1.0 if self._name == "val_accuracy" else 1.0
        self._best = math.inf
        self._kept: tuple[Array, ...] | None = None

    def look(self, history: History, net: "MLP") -> None:
        value = self._sign * getattr(history, self._name)[-1]
        margin = self._rule.min_delta if self._rule else 0.0
        if history.best_epoch is not None and not value < self._best - margin:
            return
        self._best = value if value == value else math.inf  # NaN is the worst
        history.best_epoch = history.epochs - 1
        if self._rule and self._rule.restore_best:
            vectors = net.parameters, net.running_mean, net.running_var
            self._kept = tuple(vector.copy() for vector in vectors)

    def patience_is_over(self, history: History) -> bool:
        if self._rule is None or history.best_epoch is None:
            return False
        return history.epochs - 1 - history.best_epoch >= self._rule.patience

    def restore(self, net: "MLP") -> None:
        if self._kept is not None:
            net.parameters, net.running_mean, net.running_var = self._kept


class _Progress:
    """A bar by tqdm, or one line per epoch when tqdm is not installed, or nothing."""

    def __init__(self, wanted: Any, epochs: int, rows: int) -> None:
        if not isinstance(wanted, bool) and wanted != "auto":
            raise ValueError(f"progress: expected 'auto', True or False, got {wanted!r}")
        self._epochs = epochs
        self._bar: Any = None
        self._lines = False
        terminal = sys.stderr is not None and sys.stderr.isatty()
        if wanted is False or (wanted == "auto" and not terminal):
            return
        try:
            from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]
        except ImportError:
            self._lines = wanted is True
        else:
            self._bar = tqdm(total=epochs * rows, unit="row", unit_scale=True)

    def advance(self, rows: int) -> None:
        if self._bar is not None:
            self._bar.update(rows)

    def epoch(self, history: History) -> None:
        if self._bar is None and not self._lines:
            return
        parts = [f"epoch {history.epochs}/{self._epochs}"]
        for name in ("loss", "val_loss", "val_accuracy"):
            values = getattr(history, name)
            if values:
                parts.append(f"{name} {values[-1]:.4g}")
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(parts), refresh=False)
        else:
            print("  ".join(parts), file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
