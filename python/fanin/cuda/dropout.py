"""Dropout masks on a CUDA device; see `fanin.dropout_mask`."""

from typing import Any

from ..dropout import dropout_arguments
from ..reference import arguments
from ..reference.arguments import Key
from .array import Call


def dropout_mask(
    shape: int | tuple[int, ...], dropout: float, key: Key | None, *, like: Any
) -> Any:
    """Return the mask of a layer on a device, the bits of `fanin.dropout_mask`.

    Parameters
    ----------
    shape : (m, n), or n or (n,) for one row
    dropout : probability of dropping, in [0, 1)
    key : (seed, step, layer); may be None when dropout is 0
    like : an array whose library and device the mask gets

    Returns
    -------
    bool array (m, n), or (n,) for one row: True where an element is kept.

    Raises
    ------
    TypeError, ValueError
        A dropout outside [0, 1), a broken shape or key, `like` not on a device.
    """
    sizes = arguments.check_dropout_mask(shape, dropout, key)
    call = Call("like", like)
    mask = call.empty(sizes, "bool")
    call.compiled.dropout_mask(dropout_arguments(dropout, key), mask.array, call.stream)
    return call.give(mask)
