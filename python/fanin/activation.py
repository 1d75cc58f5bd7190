"""Activations and their derivatives, compiled: `activation_forward`, `activation_backward`."""

import numpy as np

from . import _core
from .dropout import NO_DROPOUT
from .reference import arguments
from .reference.arguments import ACTIVATIONS, Array

# Their numbers in cpp/core/ops.hpp.
KINDS = {name: number for number, name in enumerate(ACTIVATIONS)}


def activation_forward(z: Array, kind: str) -> Array:
    """Return a = f(z), element by element.

    Parameters
    ----------
    z : any shape, float32 or float64; one whose rows are not contiguous is copied first
    kind : identity, relu, leaky_relu (0.01), elu, selu, tanh, sigmoid, gelu, gelu_tanh, silu or
        softplus; formulas and sources in `fanin.reference.activation`

    Returns
    -------
    A new array of z's shape and dtype.  NaN stays NaN.

    Raises
    ------
    TypeError, ValueError
        Not a float array, or an unknown kind.

    Notes
    -----
    Error bounds in ulp: cpp/kernels/math.hpp, tested over the whole range; the same bits on every
    CPU with fma.
    """
    if arguments.on_cuda(z):
        from .cuda import activation as cuda

        result: Array = cuda.activation_forward(z, kind)
        return result
    arguments.check_activation_forward(z, kind)
    rows = as_rows(z)
    a = np.empty_like(rows)
    _core.activation_forward(rows, a, KINDS[kind], NO_DROPOUT, None)
    return a.reshape(z.shape)


def activation_backward(da: Array, a_or_z: Array, kind: str) -> Array:
    """Return dz = da f'(z), element by element.

    Parameters
    ----------
    da : any shape, float32 or float64; gradient with respect to a
    a_or_z : shape and dtype of da
        The input z for gelu, gelu_tanh and silu, the output a for all others.
    kind : name of the activation, see `activation_forward`

    Returns
    -------
    A new array of da's shape and dtype.  At z = 0 the derivative of relu is 0, of leaky_relu
    0.01, of elu 1.

    Raises
    ------
    TypeError, ValueError
        Not float arrays of one shape and dtype, or an unknown kind.

    Notes
    -----
    Formulas and sources: `fanin.reference.activation`.
    """
    if arguments.on_cuda(da):
        from .cuda import activation as cuda

        result: Array = cuda.activation_backward(da, a_or_z, kind)
        return result
    arguments.check_activation_backward(da, a_or_z, kind)
    rows = as_rows(da)
    dz = np.empty_like(rows)
    _core.activation_backward(rows, as_rows(a_or_z), dz, None, KINDS[kind], NO_DROPOUT, None)
    return dz.reshape(da.shape)


def as_rows(x: Array) -> Array:
    """Return x as a matrix with contiguous rows, (1, n) for a vector; a copy only if needed."""
    if x.ndim == 2:
        return x if x.strides[1] == x.itemsize or x.shape[1] <= 1 else np.ascontiguousarray(x)
    columns = x.shape[-1] if x.ndim > 2 else x.size
    return np.ascontiguousarray(x).reshape(x.size // max(columns, 1) if x.ndim > 2 else 1, columns)
