"""Optimizers' updates of flat vectors on a CUDA device; see `fanin.Adam` and its neighbours.

The moments are arrays of the library of the first update's parameters.
"""

from typing import Any

import numpy as np

from ..reference.optimizer import Optimizer
from .array import Call

DTYPES = ("float32", "float64")  # a small step would be lost in 16 bits


def prepare(optimizer: Optimizer, parameters: Any, gradients: Any) -> None:
    """Check the vectors and create the moments, as the first update does."""
    call = Call("parameters", parameters)
    p = call.array("parameters", parameters, 1, dtypes=DTYPES)
    g = call.like("gradients", gradients, p, "parameters")
    call.writeable("parameters", parameters, p)
    for name, array in (("parameters", p), ("gradients", g)):
        if not array.contiguous:
            raise ValueError(f"{name}: expected a contiguous array, got strides {array.strides}")
    if not call.compiled.apart(p, g):
        raise ValueError("gradients: expected memory apart from parameters, but they overlap")
    if not optimizer.state:
        zeros = np.zeros(p.size, p.dtype)
        made = {}
        for name in optimizer.moments:
            room = call.empty((p.size,), p.dtype)
            call.compiled.upload(zeros, room.array, call.stream)
            made[name] = call.give(room)
        optimizer.state = made
    for moment in optimizer.state.values():
        found = call.array("the optimizer's state", moment, 1, dtypes=DTYPES)
        if found.shape != p.shape or found.dtype != p.dtype:
            raise ValueError(
                f"parameters: expected {found.size} of {found.dtype} as in the first update, "
                f"got {p.size} of {p.dtype}; use one optimizer per network, or reset()"
            )


def check_decay_mask(decay_mask: Any, parameters: Any) -> None:
    """Refuse a mask that is not one bool per parameter on their device."""
    call = Call("parameters", parameters)
    count = call.array("parameters", parameters, 1).size
    call.vector("decay_mask", decay_mask, count, "bool", "to match parameters")


def change(optimizer: Any, parameters: Any, gradients: Any, lr: float, decay_mask: Any) -> None:
    """Apply one update to prepared vectors."""
    call = Call("parameters", parameters)
    moments = {
        name: call.array("the optimizer's state", moment, 1)
        for name, moment in optimizer.state.items()
    }
    mask = None
    if decay_mask is not None:
        mask = call.array("decay_mask", decay_mask, 1, dtypes=("bool",))
        mask = call.contiguous("decay_mask", mask)
    call.compiled.optimizer_update(
        optimizer,
        lr,
        optimizer.steps,
        call.array("parameters", parameters, 1),
        call.array("gradients", gradients, 1),
        moments.get("momentum", moments.get("mean")),
        moments.get("square"),
        mask,
        call.stream,
    )
    call.finish()
