"""The matrix product, (m, k) times (k, n).

Here it is NumPy's product, whose rounding depends on the BLAS library behind it.  The compiled
product fixes the order of its additions; docs/numerics.md says which one, and a test holds it
to that bit by bit.
"""

import numpy as np

from . import arguments
from .arguments import Array


def round_to_bfloat16(x: Array) -> Array:
    """Return float32 numbers rounded to the nearest bfloat16, ties to even; NaN stays NaN.

    bfloat16 is the upper half of a float32: 8 bits of precision in its range.
    """
    bits = np.ascontiguousarray(x).view(np.uint32)
    with np.errstate(over="ignore"):
        rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    values: Array = (rounded & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(np.isnan(x), x, values)


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def matmul(x: Array, w: Array, *, out: Array | None = None) -> Array:
    """Return x @ w.

    Parameters
    ----------
    x : (m, k) float32 or float64, any strides
    w : (k, n), dtype of x
    out : (m, n), dtype of x, optional
        Where to write; its rows or its columns are contiguous, and it shares no memory with
        x or w.

    Returns
    -------
    (m, n), dtype of x: `out` when given.  Zeros when k is 0.

    Raises
    ------
    TypeError, ValueError
        Not an array, another dtype, shapes that do not match, an unsafe `out`.
    """
    arguments.check_matmul(x, w, out)
    product: Array = np.matmul(x, w, out=out)
    return product
