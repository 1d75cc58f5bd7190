"""Optimizers, compiled: `SGD`, `RMSprop`, `Adam`, `AdamW`.

Settings, formulas, sources and state are those of `fanin.reference.optimizer`; only clipping and
the update of the vectors are compiled.  They give the same bits for any number of threads and any
CPU with fma.
"""

from typing import Any

from numpy.typing import NDArray

from . import _core
from .reference import arguments
from .reference import optimizer as reference
from .reference.arguments import Array
from .reference.optimizer import Optimizer


class _Compiled(Optimizer):
    """Changes the vectors by the compiled rule of this number, in cpp/net/optimizer.hpp."""

    number: int

    def prepare(self, parameters: Array, gradients: Array) -> None:
        if arguments.on_cuda(parameters):
            from .cuda import optimizer as cuda

            cuda.prepare(self, parameters, gradients)
        else:
            super().prepare(parameters, gradients)

    def _clipped(self, g: Array) -> Array:
        return g  # the rule does it as it reads

    def _change(self, p: Array, g: Array, lr: float, decay_mask: NDArray[Any] | None) -> None:
        if arguments.on_cuda(p):
            from .cuda import optimizer as cuda

            cuda.change(self, p, g, lr, decay_mask)
        else:
            _core.optimizer_update(self, lr, self.steps, p, g, decay_mask)


class SGD(_Compiled, reference.SGD):
    __doc__ = reference.SGD.__doc__
    number = 0


class RMSprop(_Compiled, reference.RMSprop):
    __doc__ = reference.RMSprop.__doc__
    number = 1


class Adam(_Compiled, reference.Adam):
    __doc__ = reference.Adam.__doc__
    number = 2


class AdamW(_Compiled, reference.AdamW):
    __doc__ = reference.AdamW.__doc__
    number = 3

    def _check_decay_mask(self, decay_mask: Any, parameters: Array) -> None:
        if arguments.on_cuda(parameters):
            from .cuda import optimizer as cuda

            cuda.check_decay_mask(decay_mask, parameters)
        else:
            super()._check_decay_mask(decay_mask, parameters)


def is_compiled(optimizer: Any) -> bool:
    """Whether it changes vectors by a compiled rule; a subclass may do more than that."""
    return isinstance(optimizer, _Compiled)


# Whose updates compiled code may do by itself; a subclass may have changed them.
COMPILED = frozenset({SGD, RMSprop, Adam, AdamW})
