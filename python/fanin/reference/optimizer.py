"""Optimizers: how gradients g change parameters p, both flat vectors.

    SGD       v = momentum v + g;  p -= lr v         D. Rumelhart et al. 1986; Nesterov's form:
                                                     I. Sutskever et al., ICML 2013
    RMSprop   s = alpha s + (1 - alpha) g^2;  p -= lr g / (sqrt(s) + eps)
                                                     T. Tieleman, G. Hinton, Coursera 2012
    Adam      moments m, v of g, corrected for their start at 0
                                                     D. Kingma, J. Ba, ICLR 2015, Algorithm 1;
                                                     eps_hat: end of section 2
    AdamW     Adam after p -= lr weight_decay p      I. Loshchilov, F. Hutter, ICLR 2019

Formulas and defaults are PyTorch's: momentum is a sum, not an average, and eps stands outside
of the square root.  Adam's eps is added to the corrected root; scikit-learn and Keras add theirs
before the correction, as eps_hat=True does.

Clipping gives the rule another g, both settings of every optimizer:

    clip_value   g = min(max(g, -clip_value), clip_value), entry by entry; then
    clip_norm    g *= clip_norm / ||g|| where ||g|| > clip_norm, the Euclidean norm of all of g
                                                     R. Pascanu, T. Mikolov, Y. Bengio, ICML 2013

Keras calls the latter global_clipnorm; PyTorch's clip_grad_norm_ adds 1e-6 to the norm.  What is no
number is not hidden, as in PyTorch: NaN stays NaN; a norm of NaN makes all of g NaN; an infinite
norm makes g 0 where it is finite and NaN elsewhere.  A norm is infinite as well where squares
overflow, which takes float64 gradients beyond 1e154.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import aligned, arguments
from .arguments import Array

LearningRate = float | Callable[[int], float]

_NORM_PIECE = 8192  # elements of a gradient whose squares are summed at a time


class Optimizer:
    """What all optimizers share: the learning rate, the count of updates, the moments.

    `lr` is a number, or a function of the number of updates done before (0, 1, ...).  `steps` is
    that number.  `state` maps the name of each moment to a flat array; it is created by the first
    update and belongs to vectors of that size and dtype.  `clip_value` and `clip_norm` are numbers
    > 0 that limit each entry of the gradients, then the norm of all of them (of a network: l1 and
    l2 included); None sets no limit.  The formulas are in this module's docstring.
    """

    moments: tuple[str, ...] = ()

    def __init__(
        self,
        lr: LearningRate,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        """Keep the learning rate and the limits."""
        self.lr = lr if callable(lr) else arguments.check_nonnegative("lr", lr)
        self.clip_norm = arguments.check_limit("clip_norm", clip_norm)
        self.clip_value = arguments.check_limit("clip_value", clip_value)
        self.steps = 0
        self.state: dict[str, Array] = {}

    def learning_rate(self, step: int | None = None) -> float:
        """Return the learning rate of the update after `step` updates; None means the next one."""
        if not callable(self.lr):
            return self.lr
        step = self.steps if step is None else step
        return arguments.check_nonnegative(f"lr({step})", self.lr(step))

    def update(self, parameters: Array, gradients: Array) -> None:
        """Change `parameters` in place.

        Parameters
        ----------
        parameters : (n,) float32 or float64, contiguous and writeable
        gradients : (n,), dtype of parameters, contiguous; left as they are

        Raises
        ------
        TypeError, ValueError
            Not such arrays, or another size or dtype than the first update's.
        """
        self.prepare(parameters, gradients)
        self._change(parameters, self._clipped(gradients), self.learning_rate(), None)
        self.steps += 1

    def prepare(self, parameters: Array, gradients: Array) -> None:
        """Check the vectors and create the moments, as the first update does."""
        arguments.check_update(parameters, gradients)
        if not self.state:
            count, dtype = parameters.size, parameters.dtype
            self.state = {name: aligned.zeros(count, dtype) for name in self.moments}
        for moment in self.state.values():
            if moment.shape != parameters.shape or moment.dtype != parameters.dtype:
                raise ValueError(
                    f"parameters: expected {moment.size} of {moment.dtype} as in the first update, "
                    f"got {parameters.size} of {parameters.dtype}; "
                    "use one optimizer per network, or reset()"
                )

    def reset(self) -> None:
        """Forget the moments and the count of updates."""
        self.steps = 0
        self.state = {}

    @np.errstate(over="ignore", under="ignore", invalid="ignore")
    def _clipped(self, g: Array) -> Array:
        """Return what the rule is to see of g, which stays as it is."""
        number = g.dtype.type
        if self.clip_value is not None:
            limit = number(self.clip_value)
            g = np.clip(g, -limit, limit)
        if self.clip_norm is not None:
            norm = norm_in_pieces(g)
            if not norm <= self.clip_norm:
                g = g * number(self.clip_norm / norm)
        return g

    def _change(self, p: Array, g: Array, lr: float, decay_mask: NDArray[np.bool_] | None) -> None:
        """Apply one update; p changes in the last statement, so an interrupt cannot halve it."""
        raise NotImplementedError

    def step_size(self, lr: float) -> float | Array:
        """Return by what the last update, of this learning rate, multiplied a steady gradient.

        A number, or one for each parameter (n,).  The proximal step behind an update takes its
        penalty times this: both move a parameter that rests at the minimum equally far, in opposite
        directions.  J. Yun, A. Lozano, E. Yang, "Adaptive proximal gradient methods for structured
        neural networks", NeurIPS 2021, Algorithm 1; SGD's momentum is a sum, not a mean.
        """
        raise NotImplementedError

    def _settings(self) -> dict[str, Any]:
        hidden = ("steps", "state", "moments")
        return {name: value for name, value in vars(self).items() if name not in hidden}

    def __repr__(self) -> str:
        """Return the call that makes this optimizer."""
        settings = ", ".join(
            f"{name}={value!r}" for name, value in self._settings().items() if value is not None
        )
        return f"{type(self).__name__}({settings})"


def norm_in_pieces(g: Array) -> float:
    """Return the Euclidean norm in the order of docs/numerics.md, the compiled one's bits."""
    pieces = -(-g.size // _NORM_PIECE)
    squares = np.zeros(pieces * _NORM_PIECE)
    squares[: g.size] = g
    squares *= squares
    sums = np.zeros(-(-pieces // 16) * 16)
    sums[:pieces] = _sum_in_lanes(squares.reshape(pieces, _NORM_PIECE // 16, 16))
    return math.sqrt(_sum_in_lanes(sums.reshape(1, -1, 16))[0])


def _sum_in_lanes(x: Array) -> Array:
    """Return the sums of x (m, n, 16): down the lanes, then over them as a tree."""
    lanes = x.sum(axis=1)
    for half in (8, 4, 2, 1):
        lanes = lanes[:, :half] + lanes[:, half:]
    total: Array = lanes[:, 0]
    return total


def _without_denormals(moment: Array) -> Array:
    """Set what is smaller than the smallest normal number to 0: denormals are slow."""
    moment[np.abs(moment) < np.finfo(moment.dtype).tiny] = 0
    return moment


class SGD(Optimizer):
    """Gradient descent: v = momentum v + g, p -= lr v; Nesterov: p -= lr (g + momentum v).

    Parameters
    ----------
    lr : learning rate, a number >= 0 or a function of the step
    momentum : in [0, 1); 0 needs no memory
    nesterov : look ahead; needs momentum > 0
    clip_norm : > 0, the largest norm of a whole gradient, or None; see `Optimizer`
    clip_value : > 0, the largest size of an entry of it, or None; applied first

    Raises
    ------
    TypeError, ValueError
        A setting out of range.
    """

    def __init__(
        self,
        lr: LearningRate,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(lr, clip_norm=clip_norm, clip_value=clip_value)
        self.momentum = arguments.check_below_one("momentum", momentum)
        self.nesterov = arguments.check_bool("nesterov", nesterov)
        if nesterov and not momentum:
            raise ValueError("nesterov: expected momentum > 0 with nesterov=True, got 0.0")
        self.moments = ("momentum",) if momentum else ()

    @np.errstate(over="ignore", under="ignore", invalid="ignore")
    def _change(self, p: Array, g: Array, lr: float, decay_mask: NDArray[np.bool_] | None) -> None:
        if not self.momentum:
            p -= lr * g
            return
        v = _without_denormals(self.momentum * self.state["momentum"] + g)
        self.state["momentum"][...] = v
        p -= lr * (g + self.momentum * v) if self.nesterov else lr * v

    def step_size(self, lr: float) -> float | Array:
        """Return lr (1 + momentum + momentum^2 + ...); see `Optimizer.step_size`."""
        terms = self.steps + (1 if self.nesterov else 0)
        if self.momentum == 1:
            return lr * terms
        return lr * (1 - self.momentum**terms) / (1 - self.momentum)


class RMSprop(Optimizer):
    """Gradients over their recent size: s = alpha s + (1 - alpha) g^2, p -= lr g / (sqrt(s) + eps).

    Parameters
    ----------
    lr : learning rate, a number >= 0 or a function of the step
    alpha : in [0, 1), the weight of the old s
    eps : > 0
    clip_norm : > 0, the largest norm of a whole gradient, or None; see `Optimizer`
    clip_value : > 0, the largest size of an entry of it, or None; applied first

    Raises
    ------
    TypeError, ValueError
        A setting out of range.
    """

    moments = ("square",)

    def __init__(
        self,
        lr: LearningRate = 1e-2,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(lr, clip_norm=clip_norm, clip_value=clip_value)
        self.alpha = arguments.check_below_one("alpha", alpha)
        self.eps = arguments.check_positive("eps", eps)

    @np.errstate(over="ignore", under="ignore", invalid="ignore")
    def _change(self, p: Array, g: Array, lr: float, decay_mask: NDArray[np.bool_] | None) -> None:
        s = _without_denormals(self.alpha * self.state["square"] + (1 - self.alpha) * (g * g))
        self.state["square"][...] = s
        p -= lr * g / (np.sqrt(s) + self.eps)

    def step_size(self, lr: float) -> float | Array:
        """Return lr / (sqrt(s) + eps), (n,).  See `Optimizer.step_size`."""
        step: Array = lr / (np.sqrt(self.state["square"]) + self.eps)
        return step


class Adam(Optimizer):
    """Adaptive moments: p -= lr / c1 m / (sqrt(v) / sqrt(c2) + eps).

    m and v are running means of g and g^2 with weights beta1 and beta2; c = 1 - beta^t after t
    updates corrects for their start at 0.  With eps_hat the correction comes last, as in
    scikit-learn and Keras: p -= lr sqrt(c2) / c1 m / (sqrt(v) + eps).

    Parameters
    ----------
    lr : learning rate, a number >= 0 or a function of the step
    betas : (beta1, beta2), each in [0, 1)
    eps : > 0
    eps_hat : whether eps is added to the uncorrected root of v
    clip_norm : > 0, the largest norm of a whole gradient, or None; see `Optimizer`
    clip_value : > 0, the largest size of an entry of it, or None; applied first

    Raises
    ------
    TypeError, ValueError
        A setting out of range.
    """

    moments = ("mean", "square")

    def __init__(
        self,
        lr: LearningRate = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        eps_hat: bool = False,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(lr, clip_norm=clip_norm, clip_value=clip_value)
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise TypeError(f"betas: expected two numbers in [0, 1), got {betas!r}")
        self.betas = (
            arguments.check_below_one("betas[0]", betas[0]),
            arguments.check_below_one("betas[1]", betas[1]),
        )
        self.eps = arguments.check_positive("eps", eps)
        self.eps_hat = arguments.check_bool("eps_hat", eps_hat)

    @np.errstate(over="ignore", under="ignore", invalid="ignore")
    def _change(self, p: Array, g: Array, lr: float, decay_mask: NDArray[np.bool_] | None) -> None:
        p -= self._step(g, lr)

    def _step(self, g: Array, lr: float) -> Array:
        beta1, beta2 = self.betas
        t = self.steps + 1
        m = _without_denormals(beta1 * self.state["mean"] + (1 - beta1) * g)
        v = _without_denormals(beta2 * self.state["square"] + (1 - beta2) * (g * g))
        self.state["mean"][...] = m
        self.state["square"][...] = v
        c1, root_c2 = 1 - beta1**t, math.sqrt(1 - beta2**t)
        step: Array
        if self.eps_hat:
            step = lr * root_c2 / c1 * m / (np.sqrt(v) + self.eps)
        else:
            step = lr / c1 * m / (np.sqrt(v) / root_c2 + self.eps)
        return step

    def step_size(self, lr: float) -> float | Array:
        """Return lr / (sqrt(v) / sqrt(c2) + eps), (n,).  See `Optimizer.step_size`."""
        root, root_c2 = np.sqrt(self.state["square"]), math.sqrt(1 - self.betas[1] ** self.steps)
        step: Array
        if self.eps_hat:
            step = lr * root_c2 / (root + self.eps)
        else:
            step = lr / (root / root_c2 + self.eps)
        return step


class AdamW(Adam):
    """Adam with decoupled weight decay: p -= lr weight_decay p first.  This is not l2.

    Parameters
    ----------
    lr : learning rate, a number >= 0 or a function of the step
    betas : (beta1, beta2), each in [0, 1)
    eps : > 0
    eps_hat : whether eps is added to the uncorrected root of v; see `Adam`
    weight_decay : >= 0
    clip_norm : > 0, the largest norm of a whole gradient, or None; see `Optimizer`
    clip_value : > 0, the largest size of an entry of it, or None; applied first

    Raises
    ------
    TypeError, ValueError
        A setting out of range.
    """

    def __init__(
        self,
        lr: LearningRate = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        eps_hat: bool = False,
        weight_decay: float = 0.01,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(
            lr, betas=betas, eps=eps, eps_hat=eps_hat, clip_norm=clip_norm, clip_value=clip_value
        )
        self.weight_decay = arguments.check_nonnegative("weight_decay", weight_decay)

    def update(
        self,
        parameters: Array,
        gradients: Array,
        *,
        decay_mask: NDArray[np.bool_] | None = None,
    ) -> None:
        """Change `parameters` in place.

        Parameters
        ----------
        parameters : (n,) float32 or float64, contiguous and writeable
        gradients : (n,), dtype of parameters, contiguous; left as they are
        decay_mask : bool (n,), True where a parameter decays; None means everywhere

        Raises
        ------
        TypeError, ValueError
            Not such arrays, or another size or dtype than the first update's.
        """
        self.prepare(parameters, gradients)
        if decay_mask is not None:
            self._check_decay_mask(decay_mask, parameters)
        self._change(parameters, self._clipped(gradients), self.learning_rate(), decay_mask)
        self.steps += 1

    def _check_decay_mask(self, decay_mask: Any, parameters: Array) -> None:
        arguments.check_decay_mask(decay_mask, parameters)

    @np.errstate(over="ignore", under="ignore", invalid="ignore")
    def _change(self, p: Array, g: Array, lr: float, decay_mask: NDArray[np.bool_] | None) -> None:
        decayed = p * (1 - lr * self.weight_decay)
        if decay_mask is not None:
            decayed = np.where(decay_mask, decayed, p)
        np.subtract(decayed, self._step(g, lr), out=p)
