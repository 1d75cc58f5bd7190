"""A network's vectors: all its outputs depend on besides its settings, changed as a whole."""

import collections
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from .arguments import Array

VECTORS = ("parameters", "running_mean", "running_var")


def vectors_by_name(owner: Any) -> dict[str, Array]:
    """Return the vectors of a network, or of whatever else has attributes of their names."""
    return {name: getattr(owner, name) for name in VECTORS}


def assign(targets: Iterable[Array], values: Iterable[Array]) -> None:
    """Copy arrays into arrays of the same shape and dtype, one after the other.

    Ctrl-C finds all of them copied or none: Python hears it between two bytecodes, and a single
    one does all of this.
    """
    collections.deque(map(np.ndarray.__setitem__, targets, itertools.repeat(...), values), maxlen=0)
