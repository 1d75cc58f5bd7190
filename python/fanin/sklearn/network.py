"""The network of an estimator: `fanin.MLP` with penalties and orders of rows of scikit-learn."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import network
from ..reference.loss import LossForm
from ..reference.training import HeldOut

Array = NDArray[Any]


class Network(network.MLP):
    """A network whose penalties belong to a whole batch, in an order that scikit-learn would take.

    The penalty of a batch is alpha / 2 sum w^2 + l1 sum |w|, divided by its rows, or by the sum of
    their weights.

    Attributes
    ----------
    alpha, l1 : of that penalty
    random_state : numpy.random.RandomState while an estimator fits, or None; shuffles the rows of
        each epoch once more
    sample_weight : (rows,) of the data while an estimator fits, or None
    batch_rows : of a whole batch, for the penalty in the loss of validation data
    """

    alpha: float = 0.0
    l1: float = 0.0
    random_state: np.random.RandomState | None = None
    sample_weight: Array | None = None
    batch_rows: int = 1
    _rows_in_order: NDArray[np.int64] | None = None

    @property
    def _loss_form(self) -> LossForm:  # type: ignore[override]
        outputs, clip = self.sizes[-1], float(np.finfo(self.dtype).eps)
        if self.output == "softmax":
            return LossForm(clip=clip)
        if self.output == "sigmoid":  # the sum over outputs, not their mean
            return LossForm(outputs, outputs, clip)
        return LossForm(0.5, outputs / 2)  # half the mean, and the gradient of half the sum

    def _draw_weights(self, init: Any) -> None:
        """Draw none where there is no init: an estimator sets them."""
        if init is not None:
            super()._draw_weights(init)

    @contextmanager
    def rows_of_a_fit(
        self,
        rows: int,
        batch_rows: int,
        sample_weight: Array | None,
        random_state: np.random.RandomState,
    ) -> Iterator[None]:
        """Let these be the rows of the `fit` in this block; nothing of them is kept behind it."""
        self._rows_in_order, self.batch_rows = np.arange(rows), batch_rows
        self.sample_weight, self.random_state = sample_weight, random_state
        try:
            yield
        finally:
            self._rows_in_order = self.sample_weight = self.random_state = None

    def _order(self, count: int) -> NDArray[np.int64]:
        """Return the last order, shuffled: the draws and the result of sklearn.utils.shuffle."""
        if self.random_state is None or self._rows_in_order is None:  # not an estimator's fit
            return super()._order(count)
        self.random_state.shuffle(self._rows_in_order)
        return self._rows_in_order

    def penalise(self, divisor: float) -> None:
        """Let the penalty be that of a batch of so many rows, or of rows of this total weight."""
        if divisor > 0:
            self._set_penalties(self.l1 / divisor, self.alpha / divisor)
        else:
            self._set_penalties(0.0, 0.0)

    def _train_rows(
        self,
        x: Any,
        y: Array,
        sample_weight: Array | None,
        rows: NDArray[np.int64] | None,
        batch_size: int,
        optimizer: Any,
        *,
        stats: bool | int = False,
        **options: Any,
    ) -> tuple[float, int]:
        if rows is None:  # a step on a batch of its own
            count, weight = len(x), sample_weight
        else:
            some = rows[: network.STEPS_AT_ONCE * batch_size]  # `fit` calls again for the others
            rows, stats = some, stats if len(some) == len(rows) else False
            count = len(rows)
            weight = None if self.sample_weight is None else self.sample_weight[rows]
        penalties = self._penalties_of(count, weight, batch_size)
        return super()._train_rows(
            x, y, sample_weight, rows, batch_size, optimizer,
            stats=stats, penalties=penalties, **options,
        )  # fmt: skip

    def _penalties_of(
        self, count: int, weight: Array | None, batch_size: int
    ) -> NDArray[np.float64]:
        """Return (steps, 2): l1 and l2 in the batches of so many rows of these weights."""
        starts = np.arange(0, count, batch_size)
        if weight is None:
            divisors = np.minimum(count - starts, batch_size).astype(np.float64)
        else:
            divisors = np.add.reduceat(weight, starts, dtype=np.float64)
        divisors[divisors <= 0] = np.inf  # a batch of weight zero
        return np.array([self.l1, self.alpha]) / divisors[:, None]

    def _scores(self, z: Array, data: HeldOut, loss: Any) -> dict[str, float]:
        if self.alpha or self.l1:  # copies have none, but their layers' own
            self.penalise(self.batch_rows)
        return super()._scores(z, data, loss)
