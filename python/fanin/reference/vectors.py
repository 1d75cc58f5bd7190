"""A network's vectors: all its outputs depend on besides its settings, changed as a whole."""

import collections
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from .arguments import Array

VECTORS = ("parameters", "running_mean", "running_var")


def on_host(vector: Any) -> Array:
    """Return an array as it is, and a copy of one in a GPU's memory as CuPy has them."""
    found: Array = vector if isinstance(vector, np.ndarray) else vector.get()
    return found


def vectors_by_name(owner: Any) -> dict[str, Array]:
    """Return the vectors of a network, or of whatever else has attributes of their names.

    Those of a network on a GPU are copies.
    """
    return {name: on_host(getattr(owner, name)) for name in VECTORS}


def assign(targets: Iterable[Array], values: Iterable[Array]) -> None:
    """Copy arrays into arrays of the same shape and dtype, one after the other.

    Ctrl-C finds all of them copied or none: Python hears it between two bytecodes, and a single
    one does all of this.
    """
    collections.deque(map(np.ndarray.__setitem__, targets, itertools.repeat(...), values), maxlen=0)
