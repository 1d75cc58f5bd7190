"""The dense layer on a CUDA device; see `fanin.dense_forward`, `fanin.dense_backward`."""

from typing import Any

from ..dense import DenseCache
from ..dropout import NO_DROPOUT, dropout_arguments
from ..reference import arguments
from ..reference.arguments import DERIVATIVE_NEEDS_INPUT, Key
from ..reference.dense import DenseGradients
from ..reference.stats import ActivationStats
from ..stats import stats_of
from .activation import number_of
from .array import Call, Result
from .gemm import check_inner, checked_out
from .stats import histogram_of


def dense_forward(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    activation: str = "identity",
    dropout: float = 0.0,
    key: Key | None = None,
    stats: bool | int = False,
    out: Any = None,
) -> tuple[Any, DenseCache]:
    """Return a = dropout(f(x @ w + b)) of arrays on a device, and the cache for `dense_backward`.

    Statistics are numbers on the host: with them the call waits for the device.
    """
    arguments.check_choice("activation", activation, arguments.ACTIVATIONS)
    arguments.check_dropout(dropout, key)
    bins = 0 if isinstance(stats, bool) else arguments.check_integer("stats", stats, 0)
    call = Call("x", x)
    left = call.array("x", x, 2)
    right = call.array("w", w, 2, dtypes=(left.dtype,), why="to match x")
    check_inner(left, right)
    shape = left.shape[0], right.shape[1]
    bias = None
    if b is not None:
        bias = call.vector("b", b, shape[1], left.dtype, f"to match w of shape {right.shape}")
    if stats:
        arguments.check_rows("x", left)
        arguments.check_rows("w", right)
    if out is None:
        a = call.empty(shape, left.dtype)
    else:
        inputs = {"x": left, "w": right} | ({} if bias is None else {"b": bias})
        a = Result(checked_out(call, out, shape, left, inputs), out)
        if a.array.strides[1] != 1 and shape[1] > 1:
            raise ValueError(f"out: expected contiguous rows, got strides {a.array.strides}")
    keeps_z = activation in DERIVATIVE_NEEDS_INPUT
    z = call.empty(shape, left.dtype) if keeps_z else None
    drop = dropout_arguments(dropout, key)
    mask = call.empty((shape[0] * ((shape[1] + 15) // 16),), "int16") if drop[0] else None

    kind = number_of(activation)
    flat_z = None if z is None else z.array.reshape([z.array.size])
    bits = None if mask is None else mask.array
    layer_stats: ActivationStats | None = None
    first = NO_DROPOUT if bins else drop  # a histogram wants the activations before dropout
    numbers = call.compiled.dense_forward(
        left, right, bias, a.array, flat_z, kind, first, bits, bool(stats), call.stream
    )
    if stats:
        histogram = histogram_of(call, a.array, bins, None, numbers)
        layer_stats = stats_of(numbers, shape[0], histogram)
    if bins and bits is not None:
        call.compiled.activation_forward(
            a.array, a.array, number_of("identity"), drop, bits, call.stream
        )
    given = call.give(a)
    cache = DenseCache(
        x=x,
        w=w,
        a=None if keeps_z else given,
        z=None if z is None else call.give(z),
        activation=activation,
        dropout=float(dropout),
        key=key,
        stats=layer_stats,
        has_bias=b is not None,
        mask=None if mask is None else call.give(mask),
    )
    return given, cache


def dense_backward(da: Any, cache: DenseCache, *, need_dx: bool = True) -> DenseGradients:
    """Return the gradients of a dense layer of arrays on a device."""
    if not isinstance(cache, DenseCache):
        raise TypeError(
            f"cache: expected the cache of dense_forward, got {arguments.describe(cache)}"
        )
    call = Call("da", da)
    saved = call.array("cache", cache.z if cache.a is None else cache.a, 2)
    upper = call.like("da", da, saved, "the output of dense_forward")
    x = call.array("cache", cache.x, 2)
    w = call.array("cache", cache.w, 2)
    mask = None
    if cache.mask is not None:
        mask = call.array("cache", cache.mask, 1, dtypes=("int16",))
    dz = call.empty(saved.shape, saved.dtype)
    db = call.empty((saved.shape[1],), saved.dtype) if cache.has_bias else None
    call.compiled.activation_backward(
        call.rows(upper, "da"),
        call.rows(saved, "cache"),
        dz.array,
        None if db is None else db.array,
        number_of(cache.activation),
        dropout_arguments(cache.dropout, cache.key),
        mask,
        call.stream,
    )
    dw = call.empty(w.shape, saved.dtype)
    call.compiled.gemm(x.T, dz.array, dw.array, call.stream)
    dx = None
    if need_dx:
        dx = call.empty(x.shape, saved.dtype)
        call.compiled.gemm(dz.array, w.T, dx.array, call.stream)
    return DenseGradients(
        None if dx is None else call.give(dx),
        call.give(dw),
        None if db is None else call.give(db),
    )
