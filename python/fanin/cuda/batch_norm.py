"""Batch normalisation on a CUDA device; see `fanin.batch_norm_forward`."""

from typing import Any

from ..reference import arguments
from ..reference.batch_norm import BatchNormCache, BatchNormGradients
from .array import Call

DTYPES = ("float32", "float64")  # running statistics of 16 bits would stand still


def batch_norm_forward(
    x: Any,
    gamma: Any,
    beta: Any,
    running_mean: Any,
    running_var: Any,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Any, BatchNormCache]:
    """Return gamma x_hat + beta of arrays on a device, and the cache for `batch_norm_backward`."""
    arguments.check_fraction("momentum", momentum)
    arguments.check_positive("eps", eps)
    call = Call("x", x)
    array = call.array("x", x, 2, dtypes=DTYPES)
    arguments.check_training_rows(array, training)
    rows, columns = array.shape
    why = f"to match x of shape {array.shape}"
    running = {"running_mean": running_mean, "running_var": running_var}
    given = {"gamma": gamma, "beta": beta, **running}
    vectors = {}
    for name, vector in given.items():
        vectors[name] = call.array(
            name, vector, 1, dtypes=(array.dtype,), shape=(columns,), why=why
        )
        if training and name in running:
            call.writeable(name, vector, vectors[name])
            if not vectors[name].contiguous:
                raise ValueError(f"{name}: expected a contiguous array (it is updated in place)")
    if training:
        for name in running:
            for other, apart in (("x", array), *vectors.items()):
                if other != name and not call.compiled.apart(vectors[name], apart):
                    raise ValueError(
                        f"{name}: expected memory apart from {other}, but they overlap"
                    )
    y = call.empty((rows, columns), array.dtype)
    x_hat = call.empty((rows, columns), array.dtype)
    inv_std = call.empty((columns,), array.dtype)
    call.compiled.batch_norm_forward(
        call.rows(array, "x"),
        *(call.contiguous(name, vector) for name, vector in vectors.items()),
        y.array,
        x_hat.array.reshape([rows * columns]),
        inv_std.array,
        bool(training),
        momentum,
        eps,
        call.stream,
    )
    cache = BatchNormCache(call.give(x_hat), gamma, call.give(inv_std), bool(training))
    return call.give(y), cache


def batch_norm_backward(dy: Any, cache: BatchNormCache) -> BatchNormGradients:
    """Return the gradients of batch normalisation of arrays on a device."""
    if not isinstance(cache, BatchNormCache):
        raise TypeError(
            f"cache: expected the cache of batch_norm_forward, got {arguments.describe(cache)}"
        )
    call = Call("dy", dy)
    x_hat = call.array("cache", cache.x_hat, 2, dtypes=DTYPES)
    array = call.like("dy", dy, x_hat, "the output of batch_norm_forward")
    rows, columns = array.shape
    gamma = call.vector("cache", cache.gamma, columns, array.dtype, "to match dy")
    inv_std = call.vector("cache", cache.inv_std, columns, array.dtype, "to match dy")
    dx = call.empty((rows, columns), array.dtype)
    dgamma = call.empty((columns,), array.dtype)
    dbeta = call.empty((columns,), array.dtype)
    call.compiled.batch_norm_backward(
        call.rows(array, "dy"),
        call.contiguous("cache", x_hat).reshape([rows * columns]),
        gamma,
        inv_std,
        dx.array,
        dgamma.array,
        dbeta.array,
        cache.training,
        call.stream,
    )
    return BatchNormGradients(call.give(dx), call.give(dgamma), call.give(dbeta))
