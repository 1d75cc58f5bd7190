"""Activations on a CUDA device; see `fanin.activation_forward`."""

from typing import Any

from ..dropout import NO_DROPOUT
from ..reference import arguments
from .array import Call


def activation_forward(z: Any, kind: str) -> Any:
    """Return f(z) of an array on a device: any shape, contiguous where it has 3 axes or more."""
    arguments.check_choice("kind", kind, arguments.ACTIVATIONS)
    call = Call("z", z)
    array = call.array("z", z, None)
    a = call.empty(array.shape, array.dtype)
    rows = call.rows(array, "z")
    call.compiled.activation_forward(
        rows, a.array.reshape(list(rows.shape)), number_of(kind), NO_DROPOUT, None, call.stream
    )
    return call.give(a)


def activation_backward(da: Any, a_or_z: Any, kind: str) -> Any:
    """Return da f'(z) of arrays on a device, from the output a, or z where f' needs it."""
    arguments.check_choice("kind", kind, arguments.ACTIVATIONS)
    call = Call("da", da)
    array = call.array("da", da, None)
    saved = call.like("a_or_z", a_or_z, array, "da")
    dz = call.empty(array.shape, array.dtype)
    rows = call.rows(array, "da")
    call.compiled.activation_backward(
        rows, call.rows(saved, "a_or_z"), dz.array.reshape(list(rows.shape)), None, number_of(kind),
        NO_DROPOUT, None, call.stream,
    )  # fmt: skip
    return call.give(dz)


def number_of(kind: str) -> int:
    """Return an activation's number in cpp/core/ops.hpp."""
    return arguments.ACTIVATIONS.index(kind)
