"""The dense layer, compiled: `dense_forward`, `dense_backward`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import _core
from .activation import KINDS, as_rows
from .dropout import NO_DROPOUT, dropout_arguments, mask_room
from .reference import arguments
from .reference.arguments import Array, Key
from .reference.dense import DenseCache as ReferenceCache
from .reference.dense import DenseGradients
from .reference.dense import Layer as ReferenceLayer
from .reference.stats import ActivationStats
from .stats import histogram_of, stats_of


@dataclass(slots=True, eq=False)
class DenseCache(ReferenceCache):
    """What `dense_forward` leaves for `dense_backward`.

    x, w and a are the arrays themselves, not copies: do not change them in between.  Layers
    whose activation is gelu, gelu_tanh or silu keep z, all others keep a (after dropout); the
    one that is not kept is None.  `stats` is None unless it was asked for.  `mask` holds the
    dropout mask at one bit per element, or is None.
    """

    mask: NDArray[np.uint16] | None = None


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
    """Return a = dropout(f(x @ w + b)) and the cache for `dense_backward`, in one pass.

    Parameters
    ----------
    x : (m, k) float32 or float64, any strides
    w : (k, n), dtype of x, any strides
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

    Notes
    -----
    Row i of a does not depend on the other rows, nor on threads (docs/numerics.md).
    Rumelhart, Hinton and Williams, Nature 323 (1986); formulas in `fanin.reference.dense`.
    """
    if arguments.on_cuda(x):
        from .cuda import dense as cuda

        return cuda.dense_forward(
            x, w, b, activation=activation, dropout=dropout, key=key, stats=stats, out=out
        )
    arguments.check_dense_options(activation, dropout, key, stats)
    kind, bins = KINDS[activation], 0 if isinstance(stats, bool) else int(stats)
    drop = dropout_arguments(dropout, key)
    # A histogram wants the activations before dropout: make those, count, then drop.
    options = kind, NO_DROPOUT if bins else drop, bool(stats)
    made = _core.dense_forward(x, w, b, out, *options)  # what needs no explanation
    if made is None:
        arguments.check_dense_forward(x, w, b, activation, dropout, key, stats, out)
        bias = None if b is None else np.ascontiguousarray(b)
        made = _core.dense_forward(np.asarray(x), np.asarray(w), bias, None, *options)
        assert made is not None
    a, z, mask, numbers = made
    layer_stats: ActivationStats | None = None
    if numbers is not None:
        histogram = histogram_of(a, bins, None, numbers) if bins else (None, None)
        layer_stats = stats_of(numbers, len(a), histogram)
    if bins and drop[0]:
        mask = mask_room(a.shape)
        _core.activation_forward(a, a, KINDS["identity"], drop, mask)
    if out is not None and a is not out:
        out[...] = a
        a = out
    cache = DenseCache(
        x=x,
        w=w,
        a=a if z is None else None,
        z=z,
        activation=activation,
        dropout=float(dropout),
        key=key,
        stats=layer_stats,
        has_bias=b is not None,
        mask=mask,
    )
    return a, cache


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

    Notes
    -----
    dz = da mask scale f'(z), dx = dz @ w.T, dw = x.T @ dz, db = sum of dz's rows: back-propagation
    (Rumelhart, Hinton and Williams, Nature 323, 1986).
    """
    if arguments.on_cuda(da):
        from .cuda import dense as cuda

        return cuda.dense_backward(da, cache, need_dx=need_dx)
    arguments.check_dense_backward(da, cache)
    saved = cache.z if cache.a is None else cache.a
    assert saved is not None
    dtype = da.dtype
    dz = np.empty(da.shape, dtype)
    db = np.empty(da.shape[1], dtype) if cache.has_bias else None
    drop = dropout_arguments(cache.dropout, cache.key)
    _core.activation_backward(
        as_rows(da), as_rows(saved), dz, db, KINDS[cache.activation], drop, cache.mask
    )
    dw = np.empty(cache.w.shape, dtype)
    _core.gemm(cache.x.T, dz, dw)
    dx = None
    if need_dx:
        dx = np.empty(cache.x.shape, dtype)
        _core.gemm(dz, cache.w.T, dx)
    return DenseGradients(dx, dw, db)


class Layer(ReferenceLayer):
    __doc__ = ReferenceLayer.__doc__

    @property
    def weight_norm(self) -> float:
        return _core.norm(self.weight.reshape(-1))
