"""Batch normalisation: each column (unit) gets mean 0 and variance 1 over the batch.

    x_hat = (x - mean) / sqrt(var + eps)        y = gamma x_hat + beta

S. Ioffe, C. Szegedy, "Batch normalization: accelerating deep network training by reducing
internal covariate shift", ICML 2015, Algorithm 1; its gradients follow equation 6 and what
comes after it.

Conventions are PyTorch's: `momentum` weighs the NEW value (Keras and CS231n weigh the old one),
and the running variance is the unbiased one, while the batch is normalised with the biased one.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from . import arguments
from .arguments import Array

EPS = 1e-5  # what networks add to a variance


@dataclass(slots=True, eq=False)
class BatchNormCache:
    """What `batch_norm_forward` leaves for `batch_norm_backward`.

    x_hat (m, n), gamma (n,) itself, not a copy, inv_std = 1 / sqrt(var + eps) (n,).
    """

    x_hat: Array
    gamma: Array
    inv_std: Array
    training: bool


class BatchNormGradients(NamedTuple):
    """Gradients with respect to x (m, n), gamma (n,) and beta (n,)."""

    dx: Array
    dgamma: Array
    dbeta: Array


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def batch_norm_forward(
    x: Array,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = EPS,
) -> tuple[Array, BatchNormCache]:
    """Return y = gamma x_hat + beta and the cache for `batch_norm_backward`.

    Parameters
    ----------
    x : (m, n) float32 or float64; m >= 2 in training
    gamma, beta : (n,), dtype of x; scale and shift
    running_mean, running_var : (n,), dtype of x
        In training they are updated IN PLACE, r = (1 - momentum) r + momentum new, where the
        new variance is the unbiased one, m / (m - 1) times the batch's.  Otherwise x is
        normalised with them.
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
    """
    arguments.check_batch_norm_forward(
        x, gamma, beta, running_mean, running_var, training, momentum, eps
    )
    if training:
        m = x.shape[0]
        mean = x.mean(axis=0, dtype=np.float64)
        var = np.square(x - mean).mean(axis=0)
        running_mean[...] = (1 - momentum) * running_mean + momentum * mean
        running_var[...] = (1 - momentum) * running_var + momentum * var * (m / (m - 1))
    else:
        mean, var = running_mean.astype(np.float64), running_var.astype(np.float64)
    inv_std = 1 / np.sqrt(var + eps)
    x_hat = ((x - mean) * inv_std).astype(x.dtype)
    y = gamma * x_hat + beta
    return y, BatchNormCache(x_hat, gamma, inv_std.astype(x.dtype), bool(training))


@np.errstate(over="ignore", under="ignore", invalid="ignore")
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
    """
    arguments.check_batch_norm_backward(dy, cache)
    dtype, m = dy.dtype, dy.shape[0]
    dbeta = dy.sum(axis=0, dtype=np.float64)
    dgamma = (dy * cache.x_hat).sum(axis=0, dtype=np.float64)
    dx_hat = dy - dbeta / m - cache.x_hat * (dgamma / m) if cache.training else dy
    dx = cache.gamma * cache.inv_std * dx_hat
    return BatchNormGradients(dx.astype(dtype), dgamma.astype(dtype), dbeta.astype(dtype))
