"""Activations a = f(z), element by element, and their derivatives.

    identity    z
    relu        max(z, 0)                                   Nair & Hinton 2010
    leaky_relu  z if z > 0 else 0.01 z                      Maas, Hannun & Ng 2013
    elu         z if z > 0 else exp(z) - 1                  Clevert, Unterthiner & Hochreiter 2016
    selu        lambda (z if z > 0 else alpha (exp(z) - 1)) Klambauer et al. 2017
    tanh        tanh(z)
    sigmoid     1 / (1 + exp(-z))
    gelu        z Phi(z), Phi the normal distribution       Hendrycks & Gimpel 2016
    gelu_tanh   z sigmoid(2 u), u = sqrt(2/pi) (z + 0.044715 z^3)   (the same paper)
    silu        z sigmoid(z)                                Elfwing, Uchibe & Doya 2018
    softplus    log(1 + exp(z))                             Dugas et al. 2001

All but gelu, gelu_tanh and silu can be differentiated from their output a alone, so a layer
keeps a and forgets z.  Every form below is stable for large |z|; NaN stays NaN.
"""

import math
from collections.abc import Callable

import numpy as np

from . import arguments
from .arguments import Array

LEAK = 0.01
SELU_SCALE = 1.0507009873554805
SELU_ALPHA = 1.6732632423543772
GELU_CUBIC = 0.044715

_erfc = np.frompyfunc(math.erfc, 1, 1)  # exact, in float64; slow, but NumPy has none


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def activation_forward(z: Array, kind: str) -> Array:
    """Return a = f(z).

    Parameters
    ----------
    z : any shape, float32 or float64
    kind : name of the activation, see the top of this file

    Returns
    -------
    A new array of z's shape and dtype.

    Raises
    ------
    TypeError, ValueError
        Not a float array, or an unknown kind.
    """
    arguments.check_activation_forward(z, kind)
    return FORWARD[kind](z).astype(z.dtype)


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def activation_backward(da: Array, a_or_z: Array, kind: str) -> Array:
    """Return dz = da f'(z).

    Parameters
    ----------
    da : any shape, float32 or float64; gradient with respect to a
    a_or_z : shape and dtype of da
        The input z for gelu, gelu_tanh and silu, the output a for all others.
    kind : name of the activation

    Returns
    -------
    A new array of da's shape and dtype.  At z = 0 the derivative of relu is 0, of leaky_relu
    0.01, of elu 1.

    Raises
    ------
    TypeError, ValueError
        Not float arrays of one shape and dtype, or an unknown kind.
    """
    arguments.check_activation_backward(da, a_or_z, kind)
    return (da * DERIVATIVE[kind](a_or_z)).astype(da.dtype, copy=False)


def sigmoid(z: Array) -> Array:
    """Return 1 / (1 + exp(-z)); the exponent is never positive, so nothing overflows."""
    e = np.exp(-np.abs(z))
    a: Array = np.where(z < 0, e, 1) / (1 + e)
    return a


def _relu(z: Array) -> Array:
    return np.maximum(z, 0)


def _relu_derivative(a: Array) -> Array:
    return np.where(np.isnan(a), a, a > 0)


def _leaky_relu(z: Array) -> Array:
    return np.where(z > 0, z, LEAK * z)


def _leaky_relu_derivative(a: Array) -> Array:
    return np.where(np.isnan(a), a, np.where(a > 0, 1, LEAK))


def _elu(z: Array) -> Array:
    return np.where(z > 0, z, np.expm1(np.minimum(z, 0)))


def _elu_derivative(a: Array) -> Array:
    return np.where(a > 0, 1, a + 1)


def _selu(z: Array) -> Array:
    return SELU_SCALE * np.where(z > 0, z, SELU_ALPHA * np.expm1(np.minimum(z, 0)))


def _selu_derivative(a: Array) -> Array:
    return np.where(a > 0, SELU_SCALE, a + SELU_SCALE * SELU_ALPHA)


def _tanh_derivative(a: Array) -> Array:
    slope: Array = (1 - a) * (1 + a)
    return slope


def _sigmoid_derivative(a: Array) -> Array:
    slope: Array = a * (1 - a)
    return slope


def _softplus(z: Array) -> Array:
    return np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))


def _softplus_derivative(a: Array) -> Array:
    return -np.expm1(-a)


# In the three that follow z is bounded where the result is already 0 or z, because an infinite
# z times 0 would be NaN.


def _silu(z: Array) -> Array:
    z = np.maximum(z, -1000)
    return z * sigmoid(z)


def _silu_derivative(z: Array) -> Array:
    z = np.clip(z, -1000, 1000)
    slope: Array = sigmoid(z) * (1 + z * sigmoid(-z))
    return slope


def normal_cdf(z: Array) -> Array:
    """Return Phi(z) = erfc(-z / sqrt(2)) / 2 in float64; erfc keeps the small left tail exact."""
    return 0.5 * np.asarray(_erfc(z.astype(np.float64) / -math.sqrt(2.0)), dtype=np.float64)


def _gelu(z: Array) -> Array:
    return np.maximum(z, -1000) * normal_cdf(z)


def _gelu_derivative(z: Array) -> Array:
    z = np.clip(z.astype(np.float64), -1000, 1000)
    density = np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return normal_cdf(z) + z * density


def _gelu_tanh(z: Array) -> Array:
    z = np.maximum(z, -1000)
    return z * sigmoid(2 * math.sqrt(2 / math.pi) * (z + GELU_CUBIC * z * z * z))


def _gelu_tanh_derivative(z: Array) -> Array:
    z = np.clip(z, -1000, 1000)
    u = 2 * math.sqrt(2 / math.pi) * (z + GELU_CUBIC * z * z * z)
    du = 2 * math.sqrt(2 / math.pi) * (1 + 3 * GELU_CUBIC * z * z)
    return sigmoid(u) * (1 + z * sigmoid(-u) * du)


FORWARD: dict[str, Callable[[Array], Array]] = {
    "identity": lambda z: z,
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "selu": _selu,
    "tanh": np.tanh,
    "sigmoid": sigmoid,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
    "softplus": _softplus,
}
DERIVATIVE: dict[str, Callable[[Array], Array]] = {  # of a, or of z for the last-named three
    "identity": np.ones_like,
    "relu": _relu_derivative,
    "leaky_relu": _leaky_relu_derivative,
    "elu": _elu_derivative,
    "selu": _selu_derivative,
    "tanh": _tanh_derivative,
    "sigmoid": _sigmoid_derivative,
    "softplus": _softplus_derivative,
    "gelu": _gelu_derivative,
    "gelu_tanh": _gelu_tanh_derivative,
    "silu": _silu_derivative,
}
