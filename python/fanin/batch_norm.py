"""Batch normalisation, compiled: `batch_norm_forward`, `batch_norm_backward`."""

import numpy as np

from . import _core
from .activation import as_rows
from .reference import arguments
from .reference.arguments import Array
from .reference.batch_norm import BatchNormCache, BatchNormGradients


def batch_norm_forward(
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Array, BatchNormCache]:
    """Return y = gamma x_hat + beta and the cache for `batch_norm_backward`.

    Parameters
    ----------
    x : (m, n) float32 or float64; m >= 2 in training
    gamma, beta : (n,), dtype of x; scale and shift
    running_mean, running_var : (n,), dtype of x
        In training they are updated IN PLACE, r = (1 - momentum) r + momentum new, where the
        new variance is the unbiased one, m / (m - 1) times the batch's.  Otherwise x is
        normalised with them.  (PyTorch's convention; Keras and CS231n weigh the old value.)
    training : normalise with the batch's own mean and variance
    momentum : in [0, 1], the weight of the new value
    eps : > 0

    Returns
    -------
    y : (m, n), dtype of x
    cache : BatchNormCache, which refers to gamma: do not change it before the backward call

    Raises
    ------
    TypeError, ValueError
        Not arrays, mixed dtypes, shapes that do not match, fewer than 2 rows in training,
        running statistics that cannot be written.

    Notes
    -----
    Ioffe and Szegedy, "Batch normalization", ICML 2015, Algorithm 1.
    """
    if arguments.on_cuda(x):
        from .cuda import batch_norm as cuda

        return cuda.batch_norm_forward(
            x, gamma, beta, running_mean, running_var,
            training=training, momentum=momentum, eps=eps,
        )  # fmt: skip
    arguments.check_batch_norm_forward(
        x, gamma, beta, running_mean, running_var, training, momentum, eps
    )
    y = np.empty(x.shape, x.dtype)
    x_hat = np.empty(x.shape, x.dtype)
    inv_std = np.empty(x.shape[1], x.dtype)
    _core.batch_norm_forward(
        as_rows(x),
        np.ascontiguousarray(gamma),
        np.ascontiguousarray(beta),
        np.ascontiguousarray(running_mean),  # in training they are contiguous: no copy
        np.ascontiguousarray(running_var),
        y,
        x_hat.reshape(-1),
        inv_std,
        bool(training),
        momentum,
        eps,
    )
    return y, BatchNormCache(x_hat, gamma, inv_std, bool(training))


def batch_norm_backward(dy: Array, cache: BatchNormCache) -> BatchNormGradients:
    """Return the gradients of batch normalisation.

    In training mean and variance depend on x, too:

        dx = gamma inv_std (dy - mean(dy) - x_hat mean(dy x_hat)),    means over the batch.

    At inference they are constants and dx = gamma inv_std dy.

    Parameters
    ----------
    dy : (m, n), dtype of x; gradient with respect to y
    cache : what `batch_norm_forward` returned

    Returns
    -------
    BatchNormGradients(dx, dgamma, dbeta) of shapes (m, n), (n,) and (n,), dtype of x.

    Raises
    ------
    TypeError, ValueError
        dy is not like y, or cache is not a cache.

    Notes
    -----
    Ioffe and Szegedy, "Batch normalization", ICML 2015, equation 6 and what follows it.
    """
    if arguments.on_cuda(dy):
        from .cuda import batch_norm as cuda

        return cuda.batch_norm_backward(dy, cache)
    arguments.check_batch_norm_backward(dy, cache)
    dx = np.empty(dy.shape, dy.dtype)
    dgamma = np.empty(dy.shape[1], dy.dtype)
    dbeta = np.empty(dy.shape[1], dy.dtype)
    _core.batch_norm_backward(
        as_rows(dy),
        cache.x_hat.reshape(-1),
        np.ascontiguousarray(cache.gamma),
        cache.inv_std,
        dx,
        dgamma,
        dbeta,
        cache.training,
    )
    return BatchNormGradients(dx, dgamma, dbeta)
