"""Random numbers of (seed, step, layer, place), compiled; `fanin.reference.random` says which."""

import numpy as np
from numpy.typing import NDArray

from . import _core
from .reference import random
from .reference.arguments import Key


def random_words(count: int, key: Key, stream: int, start: int = 0) -> NDArray[np.uint64]:
    """Return the 64-bit words number start ... start + count - 1 of a stream, (count,) uint64."""
    words: NDArray[np.uint64] = _core.random_words(*key, stream, count, start)
    return words


def permutation(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of `count` rows in an epoch: that of a random word for each row."""
    return random.order_of(random_words(count, (seed, epoch, 0), random.STREAM_SHUFFLE))


class Stream(random.Stream):
    """The random numbers of one layer's initial weights, the same as the reference's."""

    _words = staticmethod(random_words)
