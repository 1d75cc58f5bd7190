"""Optimizers, compiled: `SGD`, `RMSprop`, `Adam`, `AdamW`.

Settings, formulas, sources and state are those of `fanin.reference.optimizer`; only the update of
the vectors is compiled.  It gives the same bits for any number of threads and any CPU with fma.
"""

from typing import Any

from numpy.typing import NDArray

from . import _core
from .reference import optimizer as reference
from .reference.arguments import Array
from .reference.optimizer import Optimizer

# Numbers of the rules in cpp/net/optimizer.hpp.
_SGD, _RMSPROP, _ADAM = range(3)
Rule = tuple[int, float, float, float, float, bool]


class _Compiled(Optimizer):
    """Changes the vectors by the compiled rule."""

    def _rule(self) -> Rule:
        """Return (rule, momentum or beta1, alpha or beta2, eps, weight_decay, nesterov)."""
        raise NotImplementedError

    def _moments(self) -> tuple[Array | None, Array | None]:
        """Return what holds the mean of gradients, and of their squares."""
        return self.state.get("mean"), self.state.get("square")

    def _change(self, p: Array, g: Array, lr: float, decay_mask: NDArray[Any] | None) -> None:
        first, second = self._moments()
        _core.optimizer_update(self._rule(), lr, self.steps, p, g, first, second, decay_mask)


class SGD(_Compiled, reference.SGD):
    __doc__ = reference.SGD.__doc__

    def _rule(self) -> Rule:
        return _SGD, self.momentum, 0.0, 0.0, 0.0, self.nesterov

    def _moments(self) -> tuple[Array | None, Array | None]:
        return self.state.get("momentum"), None


class RMSprop(_Compiled, reference.RMSprop):
    __doc__ = reference.RMSprop.__doc__

    def _rule(self) -> Rule:
        return _RMSPROP, 0.0, self.alpha, self.eps, 0.0, False


class Adam(_Compiled, reference.Adam):
    __doc__ = reference.Adam.__doc__

    def _rule(self) -> Rule:
        return _ADAM, *self.betas, self.eps, 0.0, False


class AdamW(_Compiled, reference.AdamW):
    __doc__ = reference.AdamW.__doc__

    def _rule(self) -> Rule:
        return _ADAM, *self.betas, self.eps, self.weight_decay, False
