"""Initial weights: how large, so that signals and gradients neither die out nor explode.

A sum of fan_in terms has fan_in times the variance of one, so weights get a variance of about
1 / fan_in.  Which "about" has a name:

    lecun, xavier   1 / fan_in               Y. LeCun et al., "Efficient BackProp", 1998; many
                                             lecture notes call this rule Xavier
    glorot          2 / (fan_in + fan_out)   X. Glorot, Y. Bengio, AISTATS 2010
    he              2 / fan_in               K. He et al., ICCV 2015, for relu

An initialiser is a callable init(fan_in, fan_out, rng) -> array (fan_in, fan_out); rng is a
`random.Stream` with rng.uniform(shape) in (0, 1) and rng.normal(shape).  Write your own, or name
one of these.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import arguments
from .random import Stream

Init = Callable[[int, int, Stream], NDArray[np.float64]]


@dataclass(frozen=True)
class Initializer:
    """Weights of one distribution ("normal", "uniform") whose size one rule sets.

    `rule` is "std" or "limit" with a fixed `value`, or the name of a variance rule.
    """

    distribution: str
    rule: str
    value: float = 0.0

    def __call__(self, fan_in: int, fan_out: int, rng: Stream) -> NDArray[np.float64]:
        """Return weights (fan_in, fan_out), float64."""
        shape = fan_in, fan_out
        if self.distribution == "normal":
            return self._std(fan_in, fan_out) * rng.normal(shape)
        limit = self.value
        if self.rule != "limit":
            limit = math.sqrt(3.0) * self._std(fan_in, fan_out)  # variance limit^2 / 3
        return limit * (2.0 * rng.uniform(shape) - 1.0)

    def _std(self, fan_in: int, fan_out: int) -> float:
        if self.rule == "glorot":
            return math.sqrt(2.0 / (fan_in + fan_out))
        if self.rule == "he":
            return math.sqrt(2.0 / fan_in)
        if self.rule == "lecun":
            return math.sqrt(1.0 / fan_in)
        return self.value


def zeros() -> Init:
    """Return an initialiser, init(fan_in, fan_out, rng) -> float64 (fan_in, fan_out): all 0.

    A layer's units then stay equal for ever: a lesson, not a choice.  (D. Rumelhart, G. Hinton,
    R. Williams, 1986, break this symmetry by small random weights.)  Raises nothing.
    """
    return Initializer("normal", "std", 0.0)


def normal(std: float = 0.01) -> Init:
    """Return an initialiser, init(fan_in, fan_out, rng) -> float64 (fan_in, fan_out): N(0, std^2).

    std : a number >= 0; TypeError or ValueError when it is not

    Fixed, whatever the fan_in; 0.01 is that of A. Krizhevsky et al., NIPS 2012, section 5.
    """
    return Initializer("normal", "std", arguments.check_nonnegative("std", std))


def uniform(limit: float) -> Init:
    """Return an initialiser, init(fan_in, fan_out, rng) -> float64 (fan_in, fan_out).

    Uniform in (-limit, limit): standard deviation limit / sqrt(3) (Y. LeCun et al., 1998).

    limit : a number >= 0; TypeError or ValueError when it is not
    """
    return Initializer("uniform", "limit", arguments.check_nonnegative("limit", limit))


def lecun_normal() -> Init:
    """Return an initialiser, init(fan_in, fan_out, rng) -> float64 (fan_in, fan_out).

    Normal with variance 1 / fan_in.
    Y. LeCun et al., "Efficient BackProp", 1998, section 4.6.  Raises nothing.
    """
    return Initializer("normal", "lecun")


def lecun_uniform() -> Init:
    """Return an initialiser, init(fan_in, fan_out, rng) -> float64 (fan_in, fan_out).

    Uniform with variance 1 / fan_in.
    Y. LeCun et al., "Efficient BackProp", 1998, section 4.6.  Raises nothing.
    """
    return Initializer("uniform", "lecun")


def xavier_normal() -> Init:
    """Return an initialiser, init(fan_in, fan_out, rng) -> float64 (fan_in, fan_out).

    Normal with variance 1 / fan_in.
    Many lecture notes call this rule Xavier (LeCun et al. 1998); Xavier Glorot's paper has
    another one: `glorot_normal`, which PyTorch calls xavier_normal.  Raises nothing.
    """
    return Initializer("normal", "lecun")


def xavier_uniform() -> Init:
    """Return an initialiser, init(fan_in, fan_out, rng) -> float64 (fan_in, fan_out).

    Uniform with variance 1 / fan_in.
    Many lecture notes call this rule Xavier (LeCun et al. 1998); Xavier Glorot's paper has
    another one: `glorot_uniform`, which PyTorch calls xavier_uniform.  Raises nothing.
    """
    return Initializer("uniform", "lecun")


def glorot_normal() -> Init:
    """Return an initialiser, init(fan_in, fan_out, rng) -> float64 (fan_in, fan_out).

    Normal with variance 2 / (fan_in + fan_out).
    X. Glorot, Y. Bengio, AISTATS 2010, equation 12.  Raises nothing.
    """
    return Initializer("normal", "glorot")


def glorot_uniform() -> Init:
    """Return an initialiser, init(fan_in, fan_out, rng) -> float64 (fan_in, fan_out).

    Uniform with variance 2 / (fan_in + fan_out).
    X. Glorot, Y. Bengio, AISTATS 2010, equation 16.  Raises nothing.
    """
    return Initializer("uniform", "glorot")


def he_normal() -> Init:
    """Return an initialiser, init(fan_in, fan_out, rng) -> float64 (fan_in, fan_out).

    Normal with variance 2 / fan_in.
    K. He et al., ICCV 2015, equation 10.  Raises nothing.
    """
    return Initializer("normal", "he")


def he_uniform() -> Init:
    """Return an initialiser, init(fan_in, fan_out, rng) -> float64 (fan_in, fan_out).

    Uniform with variance 2 / fan_in.
    K. He et al., ICCV 2015, equation 10.  Raises nothing.
    """
    return Initializer("uniform", "he")


NAMES: dict[str, Callable[[], Init]] = {
    "zeros": zeros,
    "normal": normal,
    "xavier": xavier_normal,
    "xavier_normal": xavier_normal,
    "xavier_uniform": xavier_uniform,
    "lecun": lecun_normal,
    "lecun_normal": lecun_normal,
    "lecun_uniform": lecun_uniform,
    "glorot": glorot_normal,
    "glorot_normal": glorot_normal,
    "glorot_uniform": glorot_uniform,
    "he": he_normal,
    "he_normal": he_normal,
    "he_uniform": he_uniform,
}
_AUTO = dict.fromkeys(("relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu"), he_normal)
_AUTO["selu"] = lecun_normal


def resolve(init: Any, activation: str) -> Init:
    """Return the initialiser of this name; "auto" goes by the layer's activation.

    auto: he_normal for relu, leaky_relu, elu, gelu, gelu_tanh and silu; lecun_normal for selu;
    glorot_uniform for all others, among them the output layer.
    """
    if init in NAMES.values() or init is uniform:
        raise TypeError(f"init: expected the result of init.{init.__name__}(...), got the function")
    if not isinstance(init, str) and callable(init):
        own: Init = init
        return own
    name = arguments.check_choice("init", init, ("auto", *NAMES))
    return (_AUTO.get(activation, glorot_uniform) if name == "auto" else NAMES[name])()


def draw(init: Init, fan_in: int, fan_out: int, rng: Stream) -> NDArray[np.float64]:
    """Return init(fan_in, fan_out, rng) after checking what a user's callable returned."""
    weight: Any = np.asarray(init(fan_in, fan_out, rng))
    if weight.dtype.kind not in "fiu" or weight.shape != (fan_in, fan_out):
        raise ValueError(
            f"init: expected a callable that returns real numbers of shape ({fan_in}, {fan_out}), "
            f"got {arguments.describe(weight)}"
        )
    weight = weight.astype(np.float64)
    if not np.isfinite(weight).all():
        raise ValueError("init: expected finite weights, got NaN or infinity")
    checked: NDArray[np.float64] = weight
    return checked
