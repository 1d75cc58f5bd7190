"""Dropout: in training each element is dropped with probability `dropout`, the others scaled up.

    a_out = a * scale where kept, 0 where dropped        scale = 1 / (probability of keeping)

N. Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
JMLR 15 (2014), in the "inverted" form that leaves nothing to do at test time.  `dropout` is the
probability of DROPPING; CS231n's p and Coursera's keep_prob are 1 - dropout.

A mask is never stored: it is a function of the key (seed, step, layer) and the place.  Each
element owns 16 random bits and is dropped when they are below threshold = dropout * 65536, so
the probability is a multiple of 1/65536 and the scale belongs to that multiple exactly.
"""

import numpy as np
from numpy.typing import NDArray

from . import arguments, random
from .arguments import Key


def dropout_threshold(dropout: float) -> int:
    """Return how many of the 65536 16-bit values are dropped: 0, or from 1 to 65535."""
    if dropout == 0:
        return 0
    return min(max(round(float(dropout) * 65536), 1), 65535)


def dropout_scale(dropout: float) -> float:
    """Return the factor of a kept element, 1 / (1 - threshold / 65536)."""
    return 65536 / (65536 - dropout_threshold(dropout))


def dropout_mask(
    shape: int | tuple[int, ...], dropout: float, key: Key | None
) -> NDArray[np.bool_]:
    """Return the mask of a layer: True where an element is kept.

    Parameters
    ----------
    shape : (m, n), or n or (n,) for one row
    dropout : probability of dropping, in [0, 1)
    key : (seed, step, layer), 0 <= seed < 2**64, 0 <= step < 2**44, 0 <= layer < 2**16
        The same key gives the same mask, on every machine.  Row r does not depend on m.
        May be None when dropout is 0.

    Returns
    -------
    bool array (m, n), or (n,) for one row.

    Raises
    ------
    TypeError, ValueError
        A dropout outside [0, 1), a broken shape or key, dropout > 0 without a key.

    Notes
    -----
    Eight rows of one column share a Philox block, at c0 = column, c1 = row // 8.  With
    i = row % 8 the element's bits are the lower half of word i for i < 4, and the upper half of
    word i - 4 for the others.
    """
    sizes = arguments.check_dropout_mask(shape, dropout, key)
    rows, columns = sizes if len(sizes) == 2 else (1, sizes[0])
    if dropout == 0 or key is None:
        return np.ones(sizes, dtype=bool)
    groups = np.arange((rows + 7) // 8, dtype=np.uint32)[:, None]
    words = random.random_blocks(
        np.arange(columns, dtype=np.uint32), groups, key, random.STREAM_DROPOUT
    )  # (groups, columns, 4)
    values = np.concatenate([words & np.uint32(0xFFFF), words >> np.uint32(16)], axis=-1)
    values = np.moveaxis(values, -1, 1).reshape(8 * len(groups), columns)[:rows]
    return (values >= dropout_threshold(dropout)).reshape(sizes)
