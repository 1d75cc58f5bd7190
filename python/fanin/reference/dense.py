"""The dense layer, forward and backward.

    z = x @ w + b        a = f(z)        a_out = dropout(a)

with x (m, k) a batch, w (k, n) the weights (fan_in, fan_out) and b (n).  A leading d is the
gradient of the loss with respect to what follows:

    dz = dropout'(da) f'(z)        dx = dz @ w.T        dw = x.T @ dz        db = sum of dz's rows

D. Rumelhart, G. Hinton, R. Williams, "Learning representations by back-propagating errors",
Nature 323 (1986).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from . import arguments
from .activation import activation_backward, activation_forward
from .arguments import DERIVATIVE_NEEDS_INPUT, Array, Key
from .batch_norm import BatchNormCache, batch_norm_backward, batch_norm_forward
from .dropout import dropout_mask, dropout_scale
from .gemm import round_to_bfloat16
from .optimizer import norm_in_pieces
from .stats import ActivationStats, activation_stats


@dataclass(slots=True, eq=False)
class DenseCache:
    """What `dense_forward` leaves for `dense_backward`.

    x, w and a are the arrays themselves, not copies: do not change them in between.  Layers
    whose activation is gelu, gelu_tanh or silu keep z, all others keep a (after dropout); the
    one that is not kept is None.  `stats` is None unless it was asked for.
    """

    x: Array
    w: Array
    a: Array | None
    z: Array | None
    activation: str
    dropout: float
    key: Key | None
    stats: ActivationStats | None
    has_bias: bool


class DenseGradients(NamedTuple):
    """Gradients with respect to x (m, k), w (k, n) and b (n); None where there is none."""

    dx: Array | None
    dw: Array
    db: Array | None


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def dense_forward(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    activation: str = "identity",
    dropout: float = 0.0,
    key: Key | None = None,
    stats: bool | int = False,
    out: Array | None = None,
) -> tuple[Array, DenseCache]:
    """Return a = dropout(f(x @ w + b)) and the cache for `dense_backward`.

    Parameters
    ----------
    x : (m, k) float32 or float64, any strides
    w : (k, n), dtype of x
    b : (n,), dtype of x, optional
    activation : name of f, see `activation_forward`
    dropout : probability of dropping, in [0, 1); see `dropout_mask`
    key : (seed, step, layer), needed when dropout > 0
    stats : True for statistics of the activations before dropout, in `cache.stats`; an integer
        for a histogram of so many bins as well
    out : (m, n), dtype of x, optional
        Where to write a; apart from x, w and b.

    Returns
    -------
    a : (m, n), dtype of x; `out` when given
    cache : DenseCache, which refers to x, w and a: do not change them before the backward call

    Raises
    ------
    TypeError, ValueError
        Not arrays, mixed dtypes, shapes that do not match, an unknown activation, a dropout
        outside [0, 1) or without a key, statistics of an empty batch, an unsafe `out`.
    """
    arguments.check_dense_forward(x, w, b, activation, dropout, key, stats, out)
    z = x @ w
    if b is not None:
        z += b
    a = activation_forward(z, activation)
    layer_stats = None
    if stats:
        bins = 0 if stats is True else int(stats)
        layer_stats = activation_stats(a, bins=bins, activation=activation)
    if dropout > 0:
        a = drop(a, dropout, key)
    if out is not None:
        out[...] = a
        a = out
    keeps_z = activation in DERIVATIVE_NEEDS_INPUT
    return a, DenseCache(
        x=x,
        w=w,
        a=None if keeps_z else a,
        z=z if keeps_z else None,
        activation=activation,
        dropout=float(dropout),
        key=key,
        stats=layer_stats,
        has_bias=b is not None,
    )


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def dense_backward(da: Array, cache: DenseCache, *, need_dx: bool = True) -> DenseGradients:
    """Return the gradients of a dense layer.

    Parameters
    ----------
    da : (m, n), dtype of x; gradient with respect to the layer's output a
    cache : what `dense_forward` returned
    need_dx : False leaves dx out (the first layer of a network needs none)

    Returns
    -------
    DenseGradients(dx, dw, db) with the shapes of x, w and b; dx is None unless needed, db is
    None when there was no b.

    Raises
    ------
    TypeError, ValueError
        da is not like a, or cache is not a cache.
    """
    arguments.check_dense_backward(da, cache)
    dz = activation_gradient(da, cache.a, cache.z, cache.activation, cache.dropout, cache.key)
    dx = dz @ cache.w.T if need_dx else None
    db = dz.sum(axis=0, dtype=np.float64).astype(dz.dtype) if cache.has_bias else None
    return DenseGradients(dx, cache.x.T @ dz, db)


def drop(a: Array, dropout: float, key: Key | None) -> Array:
    """Return a * scale where the mask of this key keeps, 0 elsewhere."""
    kept = dropout_mask((a.shape[0], a.shape[1]), dropout, key)
    dropped: Array = np.where(kept, a * a.dtype.type(dropout_scale(dropout)), a.dtype.type(0))
    return dropped


def activation_gradient(
    da: Array, a: Array | None, z: Array | None, activation: str, dropout: float, key: Key | None
) -> Array:
    """Return dz of a = drop(f(z)), from the dropped a, or from z where f' needs it."""
    if dropout > 0:
        da = drop(da, dropout, key)
        if a is not None:  # f' of a kept element is taken at f(z) = a / scale
            a = a / a.dtype.type(dropout_scale(dropout))
    kept = z if a is None else a
    assert kept is not None
    return activation_backward(da, kept, activation)


# ---- the layer of a network, with batch norm and penalties ----------------------------------

Norms = tuple[float, float]  # of a weight's gradient, of what a step adds to it


@np.errstate(over="ignore", invalid="ignore")
def norm(values: Array) -> float:
    """Return the Euclidean norm, summed in float64.

    Not by np.linalg.norm: it would wake OpenBLAS's threads, which then keep a core busy for some
    hundredths of a second, and fanin's own steps wait for it.
    """
    squares = values.astype(np.float64)
    squares *= squares
    return math.sqrt(squares.sum())


class Layer:
    """One layer of a network: views of the network's flat vectors, and its settings.

    Arrays: weight (fan_in, fan_out); bias, unless batch norm stands right behind it; with batch
    norm gamma, beta, running_mean and running_var; each (fan_out,); the gradients dweight, dbias,
    dgamma, dbeta.  None where there is none.  Setting one of them copies the values into the view.

    Settings: fan_in, fan_out, activation, dropout, batch_norm (False, "before" or "after" the
    activation), l1, l2, l1_step, max_norm, precision; fixed.

    Of the last monitored step: `stats`, `gradient_norm` and `update_norm`.  `weight_norm` is that
    of the weight as it is.
    """

    fan_in: int
    fan_out: int
    activation: str
    dropout: float
    batch_norm: str | Literal[False]
    l1: float
    l2: float
    l1_step: str
    max_norm: float | None
    precision: str | None
    weight: Array
    dweight: Array
    bias: Array | None
    dbias: Array | None
    gamma: Array | None
    dgamma: Array | None
    beta: Array | None
    dbeta: Array | None
    running_mean: Array | None
    running_var: Array | None

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        *,
        activation: str,
        dropout: float,
        batch_norm: str | Literal[False],
        l1: float,
        l2: float,
        l1_step: str,
        max_norm: float | None,
        precision: str | None,
        parameters: Array,
        gradients: Array,
        running_mean: Array,
        running_var: Array,
    ) -> None:
        """Divide this layer's part of each flat vector: weight, bias, gamma, beta."""
        fields: dict[str, Any] = dict.fromkeys((*Layer.__annotations__, "_stats", "_norms"))
        fields.update(
            fan_in=fan_in, fan_out=fan_out, activation=activation, dropout=dropout,
            batch_norm=batch_norm, l1=l1, l2=l2, l1_step=l1_step, max_norm=max_norm,
            precision=precision,
        )  # fmt: skip
        weights = fan_in * fan_out
        for prefix, vector in (("", parameters), ("d", gradients)):
            fields[prefix + "weight"] = vector[:weights].reshape(fan_in, fan_out)
            names = vectors_of(batch_norm)
            for name, part in zip(names, vector[weights:].reshape(-1, fan_out), strict=True):
                fields[prefix + name] = part
        if batch_norm:
            fields["gamma"][...] = 1
            fields.update(running_mean=running_mean, running_var=running_var)
        vars(self).update(fields)

    @property
    def stats(self) -> ActivationStats | None:
        """The statistics of the last monitored step, before dropout.

        None before the first one, and after one that was interrupted.
        """
        kept: ActivationStats | Callable[[], ActivationStats | None] | None = vars(self)["_stats"]
        return kept() if callable(kept) else kept

    def keep_stats(self, stats: ActivationStats | Callable[[], ActivationStats | None]) -> None:
        """Let these be `stats`, or what the function returns when they are asked for."""
        vars(self)["_stats"] = stats

    @property
    def gradient_norm(self) -> float | None:
        """The Euclidean norm of dweight in the last monitored step, as the optimizer was given it.

        None before the first such step and after one that was interrupted; `loss_and_gradients`
        and `update` on their own do not monitor.
        """
        return self._norm(0)

    @property
    def update_norm(self) -> float | None:
        """The Euclidean norm of what that step added to the weight, or None likewise."""
        return self._norm(1)

    @property
    @np.errstate(over="ignore", invalid="ignore")
    def weight_norm(self) -> float:
        """The Euclidean norm of the weight."""
        return norm_in_pieces(self.weight.reshape(-1))

    def _norm(self, which: int) -> float | None:
        kept: Norms | Callable[[], Norms | None] | None = vars(self)["_norms"]
        norms = kept() if callable(kept) else kept
        return None if norms is None else norms[which]

    def keep_norms(self, norms: Norms | Callable[[], Norms | None] | None) -> None:
        """Let these be the norms, or what the function returns when they are asked for."""
        vars(self)["_norms"] = norms

    def _set_penalties(self, l1: float, l2: float) -> None:
        vars(self).update(l1=l1, l2=l2)

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles hold: the arrays, and the statistics as they are now."""
        kept = vars(self)["_norms"]
        return vars(self) | {"_stats": self.stats, "_norms": kept() if callable(kept) else kept}

    def __setattr__(self, name: str, value: Any) -> None:
        """Copy into an array, refuse all else."""
        current = vars(self).get(name)
        if isinstance(current, np.ndarray):
            if value is not current:
                current[...] = value
        else:
            raise AttributeError(f"{name}: a layer's settings are fixed when it is made")

    def __repr__(self) -> str:
        """Return sizes and settings."""
        return (
            f"Layer({self.fan_in} -> {self.fan_out}, {self.activation}, "
            f"dropout={self.dropout:g}, batch_norm={self.batch_norm!r})"
        )

    @np.errstate(over="ignore", under="ignore", invalid="ignore")
    def penalty(self) -> float:
        """Return l1 sum |w| + l2 / 2 sum w^2."""
        total = 0.0
        if self.l1:
            total += self.l1 * float(np.abs(self.weight).sum(dtype=np.float64))
        if self.l2:
            total += self.l2 / 2 * float(np.square(self.weight).sum(dtype=np.float64))
        return total


def vectors_of(batch_norm: str | Literal[False]) -> tuple[str, ...]:
    """Return the names of a layer's vectors: a mean would take a bias right before it away."""
    bias = () if batch_norm == "before" else ("bias",)
    return (*bias, "gamma", "beta") if batch_norm else bias


def _as_multiplied(layer: Layer, values: Array) -> Array:
    """Return values as the layer's products see them."""
    return round_to_bfloat16(values) if layer.precision == "bfloat16" else values


class LayerCache(NamedTuple):
    """What `layer_forward` leaves for `layer_backward`.

    In `dense`, with batch norm before the activation, z is what the activation was given, and
    with batch norm after it there is no dropout.
    """

    dense: DenseCache
    batch_norm: BatchNormCache | None


def layer_forward(
    layer: Layer, x: Array, key: Key, training: bool, stats: bool | int
) -> tuple[Array, LayerCache]:
    """Return dropout(f(x @ w + b)), batch norm before or after f; `stats` as in dense_forward.

    Statistics are of f(.), dropout comes last.
    """
    dropout = layer.dropout if training else 0.0
    x, weight = _as_multiplied(layer, x), _as_multiplied(layer, layer.weight)
    if not layer.batch_norm:
        a, cache = dense_forward(
            x, weight, layer.bias,
            activation=layer.activation, dropout=dropout, key=key, stats=stats,
        )  # fmt: skip
        return a, LayerCache(cache, None)
    if layer.batch_norm == "after":
        h, cache = dense_forward(x, weight, layer.bias, activation=layer.activation, stats=stats)
        y, batch_norm = _normalise(layer, h, training)
        return drop(y, dropout, key) if dropout > 0 else y, LayerCache(cache, batch_norm)
    z, cache = dense_forward(x, weight)
    y, batch_norm = _normalise(layer, z, training)
    a = activation_forward(y, layer.activation)
    if stats:
        bins = 0 if stats is True else stats
        cache.stats = activation_stats(a, bins=bins, activation=layer.activation)
    if dropout > 0:
        a = drop(a, dropout, key)
    keeps_z = layer.activation in DERIVATIVE_NEEDS_INPUT
    cache.a, cache.z = (None, y) if keeps_z else (a, None)
    cache.activation, cache.dropout, cache.key = layer.activation, dropout, key
    return a, LayerCache(cache, batch_norm)


def _normalise(layer: Layer, x: Array, training: bool) -> tuple[Array, BatchNormCache]:
    assert layer.gamma is not None and layer.beta is not None
    assert layer.running_mean is not None and layer.running_var is not None
    return batch_norm_forward(
        x, layer.gamma, layer.beta, layer.running_mean, layer.running_var, training=training
    )


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def layer_backward(
    layer: Layer, da: Array, cache: LayerCache, key: Key, need_dx: bool
) -> Array | None:
    """Fill the layer's gradients after a training forward with this key; return dx if needed.

    Penalties are included, but for an l1 whose step is the proximal one.
    """
    dense = cache.dense
    if layer.batch_norm == "after":
        assert cache.batch_norm is not None
        da = drop(da, layer.dropout, key) if layer.dropout > 0 else da
        da, layer.dgamma, layer.dbeta = batch_norm_backward(da, cache.batch_norm)
    dz = activation_gradient(da, dense.a, dense.z, dense.activation, dense.dropout, dense.key)
    if layer.batch_norm == "before":
        assert cache.batch_norm is not None
        dz, layer.dgamma, layer.dbeta = batch_norm_backward(dz, cache.batch_norm)
    else:
        layer.dbias = dz.sum(axis=0, dtype=np.float64)
    dz = _as_multiplied(layer, dz)
    np.matmul(dense.x.T, dz, out=layer.dweight)
    if layer.l1 and layer.l1_step == "subgradient":
        layer.dweight += layer.l1 * np.sign(layer.weight)
    if layer.l2:
        layer.dweight += layer.l2 * layer.weight
    return dz @ dense.w.T if need_dx else None


# ---- what the weights obey after an update -----------------------------------------------------


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def shrink(w: Array, threshold: Array | float) -> None:
    """Do the proximal step of threshold * sum |w|: w = sign(w) max(|w| - threshold, 0), in place.

    It is what minimises (w' - w)^2 / 2 + threshold |w'|.  After a gradient step of the other terms
    with learning rate lr, with threshold lr * l1, it is the iterative shrinkage of I. Daubechies,
    M. Defrise, C. De Mol, "An iterative thresholding algorithm for linear inverse problems with a
    sparsity constraint", Comm. Pure Appl. Math. 57 (2004): weights that are not worth their
    penalty become 0 exactly.
    """
    size = np.abs(w) - threshold
    w[...] = np.where(size <= 0, w.dtype.type(0), np.copysign(size, w))


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def limit_norms(w: Array, max_norm: float) -> None:
    """Scale each column of w (k, n), the weights into one unit, to a norm of at most max_norm.

    In place; to rounding.  N. Srebro, A. Shraibman, "Rank, trace-norm and max-norm", COLT 2005;
    with dropout: N. Srivastava et al., JMLR 15 (2014), section 5.1.
    """
    norms = np.sqrt(np.square(w, dtype=np.float64).sum(axis=0))
    large = norms > max_norm
    w[:, large] *= (max_norm / norms[large]).astype(w.dtype)
