"""Dropout masks, compiled: `dropout_mask`."""

import numpy as np
from numpy.typing import NDArray

from . import _core
from .reference import arguments
from .reference.arguments import Key
from .reference.dropout import dropout_threshold

NO_DROPOUT = (0, 0, 0, 0)  # threshold, seed, step, layer


def dropout_mask(
    shape: int | tuple[int, ...], dropout: float, key: Key | None
) -> NDArray[np.bool_]:
    """Return the mask of a layer: True where an element is kept.

    Parameters
    ----------
    shape : (m, n), or n or (n,) for one row
    dropout : probability of dropping, in [0, 1); rounded to a multiple of 1/65536.
        CS231n's p and Coursera's keep_prob are 1 - dropout.
    key : (seed, step, layer), 0 <= seed < 2**64, 0 <= step < 2**44, 0 <= layer < 2**16
        The same key gives the same mask on every machine, with any number of threads, and in
        the reference.  Row r does not depend on m.  May be None when dropout is 0.

    Returns
    -------
    bool array (m, n), or (n,) for one row.

    Raises
    ------
    TypeError, ValueError
        A dropout outside [0, 1), a broken shape or key, dropout > 0 without a key.

    Notes
    -----
    Srivastava et al., JMLR 15 (2014); bits of Philox4x32-10, Salmon et al., SC 2011.
    """
    sizes = arguments.check_dropout_mask(shape, dropout, key)
    rows, columns = sizes if len(sizes) == 2 else (1, sizes[0])
    mask: NDArray[np.bool_] = _core.dropout_mask(rows, columns, dropout_arguments(dropout, key))
    return mask.reshape(sizes)


def dropout_arguments(dropout: float, key: Key | None) -> tuple[int, int, int, int]:
    """Return (threshold, seed, step, layer), as the compiled functions take them."""
    if dropout == 0 or key is None:
        return NO_DROPOUT
    seed, step, layer = key
    return dropout_threshold(dropout), int(seed), int(step), int(layer)


def mask_room(shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """Return room for the mask of an (m, n) matrix: mask_size of cpp/core/ops.hpp."""
    rows, columns = shape
    return np.empty((rows + 31) // 32 * 32 * ((columns + 15) // 16), np.uint16)
