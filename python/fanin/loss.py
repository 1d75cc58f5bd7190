"""Losses and their gradients, compiled; means over the batch, PyTorch's conventions."""

import math
from collections.abc import Callable

import numpy as np

from . import _core
from .activation import as_rows
from .reference import arguments
from .reference.arguments import Array
from .reference.loss import PLAIN, ClassWeight, LossForm


def softmax_cross_entropy(
    z: Array,
    labels: Array,
    *,
    sample_weight: Array | None = None,
    class_weight: ClassWeight | None = None,
    label_smoothing: float = 0.0,
) -> tuple[float, Array]:
    """Return the cross entropy of softmax(z) and the labels, and its gradient.

    With p = softmax(z), q the one-hot labels or the given probabilities, smoothed to
    q = (1 - eps) q + eps / n (C. Szegedy et al., CVPR 2016, section 7), sample weights s,
    class weights c and D = sum_i s_i c_{label i} (sum_i s_i for probabilities):

        loss = -sum_i s_i sum_k c_k q_ik log p_ik / D
        dz_ik = s_i (p_ik sum_j c_j q_ij - c_k q_ik) / D

    Parameters
    ----------
    z : (m, n) logits, float32 or float64, not empty; copied first when its rows are not contiguous
    labels : (m,) integers from 0 to n - 1, or (m, n) probabilities of z's dtype, whose rows
        have sum 1
    sample_weight : (m,) real numbers >= 0, not all 0, optional
    class_weight : n numbers >= 0, not all 0, or a dict {class: weight} where a missing class
        has weight 1, optional
    label_smoothing : eps in [0, 1]

    Returns
    -------
    loss : float; 0 when D is 0 (every row's weight or class weight is 0), as is the gradient
    dz : (m, n), dtype of z

    Raises
    ------
    TypeError, ValueError
        Not arrays, shapes that do not match, a label or weight out of range (with its row).
    """
    if arguments.on_cuda(z):
        from .cuda import loss as cuda

        return cuda.softmax_cross_entropy(
            z, labels, sample_weight=sample_weight, class_weight=class_weight,
            label_smoothing=label_smoothing,
        )  # fmt: skip
    arguments.check_loss_input("z", z, (2,))
    m, n = z.shape
    labels = arguments.check_class_targets("labels", labels, m, n, z.dtype)
    sample_weight = arguments.check_sample_weight("sample_weight", sample_weight, m, z.dtype)
    class_weights = arguments.check_class_weight("class_weight", class_weight, n, z.dtype)
    smoothing = arguments.check_fraction("label_smoothing", label_smoothing)
    return softmax_loss(z, labels, sample_weight, class_weights, smoothing)


def sigmoid_cross_entropy(
    z: Array,
    targets: Array,
    *,
    sample_weight: Array | None = None,
    label_smoothing: float = 0.0,
) -> tuple[float, Array]:
    """Return the binary cross entropy of sigmoid(z) and the targets, and its gradient.

    With p = sigmoid(z) and t = targets (1 - eps) + eps / 2, each element loses

        -t log p - (1 - t) log(1 - p) = max(z, 0) - z t + log(1 + exp(-|z|)),    dz = p - t;

    the loss is the mean over rows and columns, weighted over rows when there are weights.

    Parameters
    ----------
    z : (m, n) or (m,) logits, float32 or float64, not empty
    targets : shape of z, values in [0, 1]; dtype of z, or any integer or bool
    sample_weight : (m,) real numbers >= 0, not all 0, optional
    label_smoothing : eps in [0, 1]

    Returns
    -------
    loss : float
    dz : shape and dtype of z

    Raises
    ------
    TypeError, ValueError
        Not arrays, shapes that do not match, a target or weight out of range (with its row).

    Notes
    -----
    C. Bishop, "Pattern recognition and machine learning" (2006), section 4.3.4.
    """
    if arguments.on_cuda(z):
        from .cuda import loss as cuda

        return cuda.sigmoid_cross_entropy(
            z, targets, sample_weight=sample_weight, label_smoothing=label_smoothing
        )
    arguments.check_loss_input("z", z, (1, 2))
    targets = arguments.check_binary_targets("targets", targets, z)
    sample_weight = arguments.check_sample_weight("sample_weight", sample_weight, len(z), z.dtype)
    smoothing = arguments.check_fraction("label_smoothing", label_smoothing)
    return sigmoid_loss(z, targets, sample_weight, smoothing)


def mean_squared_error(
    y: Array, targets: Array, *, sample_weight: Array | None = None
) -> tuple[float, Array]:
    """Return the mean of (y - targets)^2 over rows and columns, and its gradient.

    Without weights dy = 2 (y - targets) / (m n).  There is no factor 1/2: PyTorch's MSELoss.

    Parameters
    ----------
    y : (m, n) or (m,), float32 or float64, not empty
    targets : shape and dtype of y
    sample_weight : (m,) real numbers >= 0, not all 0, optional; the mean over rows is weighted

    Returns
    -------
    loss : float
    dy : shape and dtype of y

    Raises
    ------
    TypeError, ValueError
        Not arrays, mixed dtypes, shapes that do not match, a weight out of range.

    Notes
    -----
    C. Bishop, "Pattern recognition and machine learning" (2006), section 1.2.5.
    """
    if arguments.on_cuda(y):
        from .cuda import loss as cuda

        return cuda.mean_squared_error(y, targets, sample_weight=sample_weight)
    arguments.check_loss_input("y", y, (1, 2))
    arguments.check_like("targets", targets, y, "y")
    sample_weight = arguments.check_sample_weight("sample_weight", sample_weight, len(y), y.dtype)
    return squared_loss(y, targets, sample_weight)


# ---- of checked arguments ------------------------------------------------------------------------


def softmax_loss(
    z: Array,
    labels: Array,
    sample_weight: Array | None,
    class_weight: Array | None,
    label_smoothing: float,
    form: LossForm = PLAIN,
) -> tuple[float, Array]:
    """Return what `softmax_cross_entropy` does, of checked arguments and in this form."""
    if labels.ndim == 1 and class_weight is not None:
        weights = class_weight[labels].astype(np.float64)
        divisor = float((weights if sample_weight is None else weights * sample_weight).sum())
    else:
        divisor = _total(sample_weight, len(z))
    dz = np.empty(z.shape, z.dtype)
    loss = _core.softmax_cross_entropy(
        as_rows(z),
        np.ascontiguousarray(labels) if labels.ndim == 1 else None,
        as_rows(labels) if labels.ndim == 2 else None,
        _vector(sample_weight),
        _vector(class_weight),
        label_smoothing,
        divisor or math.inf,  # of no weight: loss and gradient are 0
        form.numbers(),
        dz,
    )
    return loss, dz


def sigmoid_loss(
    z: Array,
    targets: Array,
    sample_weight: Array | None,
    label_smoothing: float,
    form: LossForm = PLAIN,
) -> tuple[float, Array]:
    """Return what `sigmoid_cross_entropy` does, likewise."""
    function = _core.sigmoid_cross_entropy
    return _elementwise(function, z, targets, sample_weight, label_smoothing, form)


def squared_loss(
    y: Array, targets: Array, sample_weight: Array | None, form: LossForm = PLAIN
) -> tuple[float, Array]:
    """Return what `mean_squared_error` does, likewise."""
    return _elementwise(_core.mean_squared_error, y, targets, sample_weight, 0.0, form)


def _elementwise(
    function: Callable[..., float],
    z: Array,
    targets: Array,
    sample_weight: Array | None,
    label_smoothing: float,
    form: LossForm,
) -> tuple[float, Array]:
    rows = _columns(z)
    dz = np.empty(rows.shape, z.dtype)
    divisor = _total(sample_weight, rows.shape[0]) * rows.shape[1] or math.inf
    weight = _vector(sample_weight)
    loss = function(
        rows, None, _columns(targets), weight, None, label_smoothing, divisor, form.numbers(), dz
    )
    return loss, dz.reshape(z.shape)


def _columns(z: Array) -> Array:
    """Return z as a matrix with contiguous rows; a vector is one column."""
    return as_rows(z) if z.ndim == 2 else np.ascontiguousarray(z).reshape(-1, 1)


def _vector(x: Array | None) -> Array | None:
    return None if x is None else np.ascontiguousarray(x)


def _total(weight: Array | None, rows: int) -> float:
    return float(rows) if weight is None else float(weight.sum(dtype=np.float64))
