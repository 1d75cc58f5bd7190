"""Inputs and targets of mean 0 and standard deviation 1: (x - mean) / std.

Gradient descent takes as many steps as the inputs' scales differ (Y. LeCun, L. Bottou, G. Orr,
K.-R. Mueller, "Efficient BackProp", 1998, section 4.3).  It is the standard deviation that is
divided by, not the variance; and it is the training set's, for every row ever shown.
"""

import copy
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from . import arguments
from .arguments import FLOAT32, FLOAT64, Array
from .sparse import SparseRows
from .training import as_array, check_finite

_NUMBERS_AT_ONCE = 1 << 17  # 1 MB of float64: a chunk stays in cache while it is worked on
_MOST_ROWS_AT_ONCE = 4096
_SMALLEST_STD = 1e-30  # its reciprocal still fits float32

Vector = NDArray[np.float64]


class _Moments(NamedTuple):
    """Of some numbers per column; all float64."""

    seen: int
    pivot: Vector  # the first of them, which all are taken relative to
    mean: Vector  # of x - pivot
    squares: Vector  # the sum of (x - pivot - mean)^2


class Standardizer:
    """Subtracts the mean and divides by the standard deviation of the data it was fitted to.

        net = fanin.MLP([30, 64, 2], standardizer=fanin.Standardizer())

    or by hand, `Standardizer().fit(x)` and `transform(x_test)`.

    Parameters
    ----------
    center : subtract the mean
    scale : divide by the standard deviation
    per_feature : one mean and standard deviation for each column; False: one of each for all
        columns together, which is what images want

    Attributes
    ----------
    rows : how many were seen; 0 before fitting
    columns : of the data seen; None before fitting
    mean, std : float64 (columns,), or one number each where per_feature is False; the standard
        deviation is the population's (divided by the number of rows).  None before fitting.

    Raises
    ------
    TypeError
        A setting that is neither True nor False.

    Notes
    -----
    A constant column is not divided (nor one whose std is below the rounding of its numbers).

    The statistics take one pass.  Chunks of c <= 4096 rows are joined by the update of T. Chan,
    G. Golub, R. LeVeque ("Updating formulae and a pairwise algorithm for computing sample
    variances", 1979), relative to the first row, in float64.  With u = 2^-53, n numbers in K
    chunks, and R the largest distance from the first row, mean and std are therefore within

        (c + 8 K) u R  (+ u |mean| for the mean)

    of the exact ones, however the rows come in `partial_fit`, where K counts its calls, too.
    """

    def __init__(
        self, *, center: bool = True, scale: bool = True, per_feature: bool = True
    ) -> None:
        """Check the settings."""
        self.center = arguments.check_bool("center", center)
        self.scale = arguments.check_bool("scale", scale)
        self.per_feature = arguments.check_bool("per_feature", per_feature)
        self.rows = 0
        self.columns: int | None = None
        self._moments: _Moments | None = None

    def __repr__(self) -> str:
        """Return the settings, and what was seen."""
        settings = f"center={self.center}, scale={self.scale}, per_feature={self.per_feature}"
        seen = f"{self.rows} rows of {self.columns}" if self.rows else "not fitted"
        return f"Standardizer({settings}: {seen})"

    @property
    def mean(self) -> Any:
        """The mean of each column, or of all numbers; None before fitting."""
        if self._moments is None:
            return None
        mean = self._moments.pivot + self._moments.mean
        return mean if self.per_feature else mean[0]

    @property
    def std(self) -> Any:
        """The standard deviation of each column, or of all numbers; None before fitting."""
        if self._moments is None:
            return None
        std = np.sqrt(self._moments.squares / self._moments.seen)
        return std if self.per_feature else std[0]

    # ---- fitting -----------------------------------------------------------------------------

    def fit(self, x: Any) -> Self:
        """Forget what was seen, and take the statistics of x.

        x : (n, columns) or (n,), any real dtype, also a memory map or a SciPy sparse array: never
            copied as a whole.

        Returns self.  Raises TypeError or ValueError when x is not numbers, has no row, or has
        NaN or infinity (with row and column); then nothing is changed.
        """
        return self._see(x, 0, None)

    def partial_fit(self, x: Any) -> Self:
        """Add rows to those seen, for data that come in pieces.

        x : as for `fit`, of as many columns as before.

        Returns self.  Raises as `fit`, and ValueError for another number of columns.
        """
        return self._see(x, self.rows, self._moments)

    def _see(self, x: Any, seen: int, moments: _Moments | None) -> Self:
        if hasattr(x, "tocsr"):
            x = SparseRows(x)
        elif not isinstance(x, SparseRows):
            x = _as_columns(as_array("x", x))
        arguments.check_rows("x", x)
        if moments is not None:
            self._check_columns(x)
        at_once = min(max(_NUMBERS_AT_ONCE // x.shape[1], 1), _MOST_ROWS_AT_ONCE)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            for start in range(0, len(x), at_once):
                chunk = x[start : start + at_once].astype(np.float64)
                moments = _joined(moments, chunk if self.per_feature else chunk.reshape(-1, 1))
        assert moments is not None
        if not np.isfinite(moments.squares).all():
            check_finite("x", x, FLOAT64)
            raise ValueError("x: expected numbers whose squares float64 can hold")
        self.rows, self.columns, self._moments = seen + len(x), x.shape[1], moments
        return self

    # ---- using -------------------------------------------------------------------------------

    def transform(self, x: Any) -> Array:
        """Return (x - mean) / std, in the shape of x.

        x : (n, columns) or, for one column, (n,); any real dtype.  float32 stays float32,
        everything else becomes float64.

        Raises RuntimeError before fitting, TypeError or ValueError when x is not numbers or has
        other columns.
        """
        x = as_array("x", x)
        rows = self._check_columns(_as_columns(x))
        return self.apply(rows, FLOAT32 if x.dtype == FLOAT32 else FLOAT64).reshape(x.shape)

    def inverse_transform(self, x: Any) -> Array:
        """Return x * std + mean, which undoes `transform`; shapes, dtypes and errors are its."""
        x = as_array("x", x)
        rows = self._check_columns(_as_columns(x))
        dtype = FLOAT32 if x.dtype == FLOAT32 else FLOAT64
        undone: Array = self.undo(rows).astype(dtype, copy=False).reshape(x.shape)
        return undone

    def apply(self, x: Array, dtype: np.dtype[Any]) -> Array:
        """Return (x - shift) * factor of (m, columns) numbers in this dtype: what a network sees.

        Both are done, and rounded, in the wider of the dtypes of x and of the result, so that
        float64 data far from zero keep their digits in a float32 network.
        """
        wide = np.result_type(x.dtype, dtype)
        shift, factor = self.shift_and_factor(wide)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            standard: Array = ((x.astype(wide) - shift) * factor).astype(dtype, copy=False)
        return np.ascontiguousarray(standard)

    def undo(self, z: Array) -> Vector:
        """Return z * std + mean of (m, columns) standardised numbers, float64."""
        shift, _ = self.shift_and_factor(FLOAT64)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            undone: Vector = z.astype(np.float64) * self._divisor() + shift
        return undone

    def shift_and_factor(self, dtype: np.dtype[Any]) -> tuple[Array, Array]:
        """Return what is subtracted, then multiplied with, (columns,) each in this dtype.

        The factor is 1 / std, computed in float64 and then rounded.
        """
        self.check_fitted("Standardizer")
        shift = np.broadcast_to(self.mean if self.center else 0.0, (self.columns or 0,))
        factor = np.broadcast_to(1.0 / self._divisor(), shift.shape)
        return shift.astype(dtype), factor.astype(dtype)

    def check_fitted(self, name: str) -> None:
        """Refuse to go on without statistics."""
        if self._moments is None:
            raise RuntimeError(
                f"{name}: expected a fitted one; call fit or partial_fit with training data "
                "(a network does it in its own fit)"
            )

    def _divisor(self) -> Vector:
        """Return what is divided by: std, or 1."""
        if not self.scale:
            return np.ones(1)
        std, mean = np.atleast_1d(self.std), np.atleast_1d(self.mean)
        constant = std <= np.maximum(np.finfo(np.float64).eps * np.abs(mean), _SMALLEST_STD)
        return np.where(constant, 1.0, std)

    def _check_columns(self, x: Array) -> Array:
        self.check_fitted("Standardizer")
        if x.shape[1] != self.columns:
            raise ValueError(
                f"x: expected {self.columns} columns, as the data this standardizer was fitted "
                f"to, got shape {x.shape}"
            )
        return x

    # ---- copies, files -----------------------------------------------------------------------

    def copy(self) -> Self:
        """Return another one with these settings and statistics."""
        return copy.copy(self)  # statistics are replaced, never changed

    def to_config(self) -> dict[str, Any]:
        """Return settings and statistics as plain numbers, for JSON; no digit is lost."""
        moments = None
        if self._moments is not None:
            count, *vectors = self._moments
            moments = [count, *(vector.tolist() for vector in vectors)]
        return {
            "center": self.center,
            "scale": self.scale,
            "per_feature": self.per_feature,
            "rows": self.rows,
            "columns": self.columns,
            "moments": moments,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Return the standardizer whose `to_config` this is."""
        settings = dict(config)
        rows, columns, moments = (settings.pop(name) for name in ("rows", "columns", "moments"))
        made = cls(**settings)
        if moments is not None:
            count, *vectors = moments
            made.rows = arguments.check_integer("rows", rows, 1)
            made.columns = arguments.check_integer("columns", columns, 1)
            pivot, mean, squares = (np.array(vector, np.float64) for vector in vectors)
            wanted = (made.columns if made.per_feature else 1,)
            for vector in (pivot, mean, squares):
                arguments.check_shape("moments", vector, wanted, "to match columns")
            count = arguments.check_integer("count", count, 1)
            made._moments = _Moments(count, pivot, mean, squares)
        return made


def check_standardizer(name: str, given: Any, columns: int) -> Standardizer | None:
    """Return a copy, or None; refuse what is none, or was fitted to other columns."""
    if given is None:
        return None
    if isinstance(given, dict):  # of a file
        given = Standardizer.from_config(given)
    if not isinstance(given, Standardizer):
        raise TypeError(f"{name}: expected a Standardizer or None, got {arguments.describe(given)}")
    if given.columns not in (None, columns):
        raise ValueError(
            f"{name}: expected one for {columns} columns, got one fitted to {given.columns}"
        )
    return given.copy()


def _as_columns(x: Array) -> Array:
    if x.ndim == 1:
        return x.reshape(-1, 1)
    if x.ndim != 2:
        raise ValueError(f"x: expected shape (rows, columns) or (rows,), got {x.shape}")
    return x


def _joined(moments: _Moments | None, chunk: Vector) -> _Moments:
    """Return the moments of the numbers seen before and of a chunk (m, columns)."""
    pivot = chunk[0].copy() if moments is None else moments.pivot
    chunk = chunk - pivot
    count, mean = len(chunk), chunk.mean(axis=0)
    chunk -= mean
    squares = np.square(chunk, out=chunk).sum(axis=0)
    if moments is None:
        return _Moments(count, pivot, mean, squares)
    both = moments.seen + count
    delta = mean - moments.mean
    return _Moments(
        both,
        pivot,
        moments.mean + delta * (count / both),
        moments.squares + squares + delta * delta * (moments.seen * (count / both)),
    )
