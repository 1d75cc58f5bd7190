"""Averaged weights: a running mean of the parameters along the way, often better than any of them.

With p_t the parameters after step t, D the decay and a_0 = 0, the mean corrected for its start is

    a_t = D a_{t-1} + (1 - D) p_t        average = a_t / (1 - D^t)

B. Polyak, A. Juditsky, "Acceleration of stochastic approximation by averaging", 1992, for the
mean; D. Kingma, J. Ba, "Adam", ICLR 2015, section 3, for the correction.  What is kept is the
average itself:

    average += (p_t - average) (1 - D) / (1 - D^t)
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from . import arguments
from .arguments import Array
from .callbacks import Callback
from .vectors import VECTORS, vectors_by_name

if TYPE_CHECKING:
    from .history import History
    from .network import MLP

_PIECE = 1 << 15  # elements at a time, so that they stay in the cache for all three operations


class AveragedWeights(Callback):
    """A callback that keeps the exponential moving average (EMA) of a network's weights.

    `fit` trains the network as without it, to the same bits.  With swap=True the network that is
    validated after each epoch, and kept as the best one, is the averaged one; when training ends
    (not after Ctrl-C) the network has the averaged weights: those of the best epoch where early
    stopping restores them, else the last ones.  With swap=False `fit` leaves all that alone, and
    `swap(net)` is yours to call.

    Parameters
    ----------
    decay : in [0, 1), the weight of the old average in each step
    every : steps between two samples of the weights, each with the decay of so many steps,
        decay ** every.  None: a hundredth of 1 / (1 - decay), the steps the average looks back,
        at least 1; 10 for 0.999.  1 is the textbook's average
    swap : see above

    Attributes
    ----------
    parameters, running_mean, running_var : flat arrays, the average; None before the first sample
    samples : how many there were

    Raises
    ------
    TypeError, ValueError
        A setting out of range.

    Notes
    -----
    Running statistics of batch norm are averaged like parameters.  The average begins anew with
    each call of `fit`.
    """

    parameters: Array | None
    running_mean: Array | None
    running_var: Array | None

    def __init__(
        self, decay: float = 0.999, *, every: int | None = None, swap: bool = True
    ) -> None:
        """Check and keep the settings."""
        self.decay = arguments.check_below_one("decay", decay)
        if every is None:
            every = max(int(0.01 / (1 - self.decay) + 1e-6), 1)  # the quotient may be 9.999...
        self.every = arguments.check_integer("every", every, 1)
        self.swaps = arguments.check_bool("swap", swap)
        self.reset()

    def reset(self) -> None:
        """Forget the average."""
        self.samples = 0
        self.parameters = self.running_mean = self.running_var = None

    def on_fit_begin(self, net: "MLP", history: "History") -> None:
        """Begin anew."""
        self.reset()

    def on_step_end(self, net: "MLP", history: "History") -> None:
        """Add the network's weights to the average."""
        decay = self.decay**self.every
        weight = (1 - decay) / (1 - decay ** (self.samples + 1))
        for name, values in vectors_by_name(net).items():
            if self.samples == 0:
                setattr(self, name, values.copy())
            else:
                _move(getattr(self, name), values, values.dtype.type(weight))
        self.samples += 1

    def swap(self, net: "MLP") -> None:
        """Exchange the network's weights and the average; a second call undoes it.

        Raises ValueError for a network of another size; does nothing before the first sample.
        """
        if self.samples == 0:
            return
        self._check_size(net)
        net._exchange(vectors_by_name(self))

    def network(self, net: "MLP") -> "MLP":
        """Return a copy of the network with the averaged weights, or its own before any sample.

        Raises ValueError for a network of another size.
        """
        self._check_size(net)
        return net._from_parts(net._config(), vectors_by_name(self if self.samples else net))

    def _check_size(self, net: "MLP") -> None:
        if self.parameters is not None and net.parameters.shape != self.parameters.shape:
            raise ValueError(
                f"net: expected {self.parameters.size} parameters, as the averaged network has, "
                f"got one of {net.parameters.size}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the average and its number of samples."""
        return {"samples": self.samples, **(vectors_by_name(self) if self.samples else {})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` returned."""
        for name in VECTORS:
            setattr(self, name, state.get(name))
        self.samples = state["samples"]

    def __repr__(self) -> str:
        """Return the call that makes this callback."""
        return f"AveragedWeights({self.decay!r}, every={self.every}, swap={self.swaps})"


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def _move(average: Array, values: Array, weight: Any) -> None:
    """Move the average by this part of the way to the values."""
    way = np.empty(min(_PIECE, len(values)), values.dtype)
    for start in range(0, len(values), _PIECE):
        piece = average[start : start + _PIECE]
        part = way[: len(piece)]
        np.subtract(values[start : start + _PIECE], piece, out=part)
        part *= weight
        piece += part
