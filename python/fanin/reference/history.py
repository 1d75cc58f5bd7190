"""What a call of `fit` leaves: `History`, epoch by epoch, and `LayerHistory`, step by step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import arguments
from .arguments import Array
from .stats import ActivationStats

if TYPE_CHECKING:
    from .dense import Layer

COLUMNS = (
    "mean", "std", "min", "max", "zero_fraction", "saturated_fraction", "dead_fraction",
    "gradient_norm", "weight_norm", "update_norm", "equal_units",
)  # fmt: skip
MOST_ROWS = 512


class LayerHistory:
    """What the monitored steps of a training left in each layer: a table that stays small.

    `table["std"]` is a column, float64 (rows, layers), and `table.steps`, int64 (rows,), tells
    for each row how many updates the network had done before it.

    mean, std, min, max, zero_fraction, saturated_fraction : of the layer's activations, see
        `ActivationStats`
    dead_fraction : the part of the units that was 0 for every row of the batch
    gradient_norm, update_norm : see `Layer`
    weight_norm : of the weight after the step
    equal_units : 1 where the layer's units all have the same weights after the step, else 0

    What a step did not leave is NaN.

    Besides: `loss`, of the steps up to each row, and what the network saw of the data at the
    beginning, after scaling: `input_mean` and `input_std`, float64 (inputs,), of each column.

    Every `stride`-th step is monitored, counted from the first, and the steps 1, 2, 4, 8, ...
    behind the first.  When the table is full (512 rows), every other of the former is forgotten and
    the stride doubles.
    """

    def __init__(self, first: int, layers: int, stride: int = 1) -> None:
        """Begin at the step `first`; stride is a power of two."""
        self.stride = stride
        self._first, self._layers = first, layers
        self._steps: list[int] = []
        self._rows: list[Array] = []
        self._losses: list[float] = []
        self._sum = self._count = 0.0  # of the losses since the last row, without this epoch's
        self._mark = 0.0, 0.0  # sum and count of this epoch's losses up to the last row
        self.input_mean = self.input_std = np.full(0, math.nan)

    @property
    def first(self) -> int:
        """The step the training began with; 0 for a new network."""
        return self._first

    @property
    def loss(self) -> NDArray[np.float64]:
        """The mean loss of the steps since the row before, that of the row included, (rows,)."""
        return np.array(self._losses, np.float64)

    @property
    def steps(self) -> NDArray[np.int64]:
        """The steps in the table, int64 (rows,)."""
        return np.array(self._steps, np.int64)

    @property
    def layers(self) -> int:
        """The number of layers."""
        return self._layers

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._steps)

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        """Return a column, float64 (rows, layers)."""
        column = COLUMNS.index(arguments.check_choice("column", name, COLUMNS))
        return self._array()[:, :, column]

    @property
    def update_ratio(self) -> NDArray[np.float64]:
        """update_norm / weight_norm, float64 (rows, layers); about 1e-3 is usual."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio: NDArray[np.float64] = self["update_norm"] / self["weight_norm"]
        return ratio

    def _array(self) -> Array:
        return np.array(self._rows).reshape(len(self._rows), self._layers, len(COLUMNS))

    def next_due(self, step: int) -> int:
        """Return the first step to monitor that is not before this one."""
        place = step - self._first
        power = 1 << max(place - 1, 0).bit_length() if place > 0 else 0
        return self._first + min(-(-place // self.stride) * self.stride, power)

    @np.errstate(over="ignore", invalid="ignore")
    def look(self, x: Array) -> None:
        """Keep mean and standard deviation of the columns of some rows."""
        values = x.astype(np.float64)
        self.input_mean, self.input_std = values.mean(axis=0), values.std(axis=0)

    def record(
        self, step: int, layers: "Sequence[Layer]", total: float = math.nan, rows: float = 1
    ) -> None:
        """Add the row of a step that has just been monitored; thin the table when it is full.

        total : the sum of this epoch's losses so far, each times its rows
        rows : of this epoch so far
        """
        self._steps.append(step)
        self._rows.append(np.array([_row(layer) for layer in layers]))
        self._count_losses(total, rows)
        self._losses.append(self._sum / max(self._count, 1))
        self._sum = self._count = 0.0
        if len(self._steps) >= MOST_ROWS:
            self.stride *= 2
            kept = [i for i, step in enumerate(self._steps) if self.next_due(step) == step]
            self._steps = [self._steps[i] for i in kept]
            self._rows = [self._rows[i] for i in kept]
            self._losses = [self._losses[i] for i in kept]

    def end_epoch(self, total: float, rows: float) -> None:
        """Take the sum of a whole epoch's losses; the next `total` counts from 0 again."""
        self._count_losses(total, rows)
        self._mark = 0.0, 0.0

    def _count_losses(self, total: float, rows: float) -> None:
        self._sum += total - self._mark[0]
        self._count += rows - self._mark[1]
        self._mark = total, rows

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        first, stride = self._first, self.stride
        return {
            "first": first,
            "stride": stride,
            "steps": self.steps,
            "rows": self._array(),
            "loss": self.loss,
            "since": np.array([self._sum, self._count, *self._mark]),
            "input_mean": self.input_mean,
            "input_std": self.input_std,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what a checkpoint kept."""
        self._first, self.stride = state["first"], state["stride"]
        self._steps, self._rows = state["steps"].tolist(), list(state["rows"])
        self._losses = state["loss"].tolist()
        self._sum, self._count, *mark = state["since"].tolist()
        self._mark = mark[0], mark[1]
        self.input_mean, self.input_std = state["input_mean"], state["input_std"]


def _row(layer: "Layer") -> list[float]:
    stats, gradient, update = layer.stats, layer.gradient_norm, layer.update_norm
    of_stats = [math.nan] * 7
    if stats is not None:
        dead = int(np.count_nonzero(stats.unit_zeros == stats.rows))
        of_stats = [
            stats.mean, stats.std, stats.min, stats.max, stats.zero_fraction,
            stats.saturated_fraction, dead / len(stats.unit_zeros),
        ]  # fmt: skip
    return [
        *of_stats,
        math.nan if gradient is None else gradient,
        layer.weight_norm,
        math.nan if update is None else update,
        float(_equal_columns(layer.weight)),
    ]


def _equal_columns(weight: Array) -> bool:
    """Return whether two or more columns are all the same; most often two numbers tell."""
    if weight.shape[1] < 2 or weight[-1, 0] != weight[-1, 1]:
        return False
    return bool((weight == weight[:, :1]).all())


@dataclass
class History:
    """What happened in one call of `fit`: one entry per finished epoch.

    Attributes
    ----------
    loss : mean loss of the epoch's steps, weighted by their rows, with the l1 and l2 penalties
    val_loss, val_accuracy, val_r2 : of the validation data after the epoch; empty without
    metrics : for each name given to `fit`, the values of that metric
    optimizer, batch_size : what `fit` was given, the optimizer as text
    learning_rate : of the epoch's last step
    seconds : duration of the epoch with its validation
    stats : per epoch one ActivationStats per layer, of the epoch's last step; empty if not asked
    monitor : LayerHistory of the monitored steps, or None if not asked
    step_loss : loss of the step done last, when a callback's on_step_end is called
    interrupted : Ctrl-C ended the training
    stopped_early : early stopping ended it
    nonfinite_step : how many updates the network had done when a loss was first NaN or infinite;
        None when none was
    nonfinite_layer : the first layer whose outputs were not finite in that step; the last one
        where those of all others were
    best_epoch : index of the epoch with the best monitored value (val_loss, or loss without
        validation data); None when no epoch was finished
    """

    loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    val_r2: list[float] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    learning_rate: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    stats: list[list[ActivationStats]] = field(default_factory=list, repr=False)
    monitor: LayerHistory | None = field(default=None, repr=False)
    step_loss: float = field(default=math.nan, repr=False)
    interrupted: bool = False
    stopped_early: bool = False
    nonfinite_step: int | None = None
    nonfinite_layer: int | None = None
    best_epoch: int | None = None
    optimizer: str = ""
    batch_size: int | None = None

    @property
    def epochs(self) -> int:
        """The number of finished epochs."""
        return len(self.loss)

    def values(self, name: str) -> list[float]:
        """Return the values of "loss", "val_loss", "val_accuracy", "val_r2" or a metric."""
        if name in self.metrics:
            return self.metrics[name]
        names = (*MONITORED, *self.metrics)
        found: list[float] = getattr(self, arguments.check_choice("name", name, names))
        return found

    def plot(self, ax: Any = None) -> Any:
        """Draw the losses of training and validation, with the best epoch; needs matplotlib.

        ax : axes of matplotlib; None makes a new figure

        Returns the axes.  Raises ImportError without matplotlib: pip install "fanin[plot]".
        """
        from .plot import plot_history

        return plot_history(self, ax)

    def _shorten(self, epochs: int) -> None:
        """Forget an epoch that was interrupted while it was written down."""
        for values in (*(getattr(self, name) for name in PER_EPOCH), *self.metrics.values()):
            del values[epochs:]


MONITORED = ("loss", "val_loss", "val_accuracy", "val_r2")
PER_EPOCH = (*MONITORED, "learning_rate", "seconds", "stats")
