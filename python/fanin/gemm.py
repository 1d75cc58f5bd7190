"""The matrix product, compiled: `matmul`."""

import numpy as np

from . import _core
from .reference import arguments
from .reference.arguments import Array


def matmul(x: Array, w: Array, *, out: Array | None = None) -> Array:
    """Return x @ w, bit for bit the same for any number of threads and any CPU with fma.

    An element is a chain of fused multiply-adds over k in blocks of 512, whose sums are added in
    order (docs/numerics.md), so it does not depend on how many rows or columns come along.

    Parameters
    ----------
    x : (m, k) float32 or float64, any strides: x.T costs no copy
    w : (k, n), dtype of x, any strides
    out : (m, n), dtype of x, optional
        Where to write; its rows or its columns are contiguous, and it shares no memory with
        x or w.

    Returns
    -------
    (m, n), dtype of x: `out` when given.  Zeros when k is 0.

    Raises
    ------
    TypeError, ValueError
        Not arrays, mixed dtypes, shapes that do not match, an `out` that cannot be written.

    Notes
    -----
    Order of summation and tiles after K. Goto and R. van de Geijn, "Anatomy of high-performance
    matrix multiplication", ACM TOMS 34 (2008).
    """
    product: Array | None = _core.matmul(x, w, out)  # what needs no explanation
    if product is not None:
        return product
    if arguments.on_cuda(x):
        from .cuda import gemm as cuda

        product = cuda.matmul(x, w, out=out)
        return product
    arguments.check_matmul(x, w, out)
    if out is None:
        out = np.empty((x.shape[0], w.shape[1]), x.dtype)
    _core.gemm(x, w, out)
    return out
