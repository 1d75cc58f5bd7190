"""Sparse rows: what `fit` and `predict` do with SciPy's sparse arrays and matrices."""

from typing import Any

import numpy as np

from .arguments import Array


class SparseRows:
    """The rows of a SciPy sparse array, made dense where they are taken, a batch at a time.

    x : a sparse array or matrix of any format, (rows, columns); kept as CSR, float32 and float64
        as they are
    """

    def __init__(self, x: Any) -> None:
        """Keep x as CSR."""
        self._csr = x.tocsr()
        self.shape: tuple[int, ...] = self._csr.shape
        self.dtype: np.dtype[Any] = self._csr.dtype
        self.ndim = 2
        self.size = self.shape[0] * self.shape[1]

    @property
    def values(self) -> Array:
        """The elements that are stored, (n,)."""
        values: Array = self._csr.data
        return values

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Array:
        """Return these rows, or elements, dense."""
        found = self._csr[rows]
        dense: Array = found.toarray() if hasattr(found, "toarray") else found
        return dense
