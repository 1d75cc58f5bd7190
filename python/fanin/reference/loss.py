"""Losses and their gradients with respect to the network's output, as means over the batch.

    softmax_cross_entropy   classes that exclude each other; z are logits
    sigmoid_cross_entropy   yes-or-no outputs; z are logits
    mean_squared_error      numbers

Softmax and cross entropy are one function because their gradient together is just p - q, and
because only together they are stable (J. Bridle 1990; C. Bishop, "Pattern recognition and
machine learning", section 4.3.4).  Divisors are sums of weights: PyTorch's conventions.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from . import arguments
from .activation import sigmoid
from .arguments import Array

ClassWeight = ArrayLike | Mapping[int, float]

# A loss of one's own: f(z, y) -> (loss, dz), the mean over a batch and its gradient like z.
Loss = Callable[[Array, Any], tuple[float, Array]]


class LossForm(NamedTuple):
    """How a network states the loss of its output.

    value, gradient : factors, > 0, on the mean over the batch and on dz
    clip : in the value of a cross entropy each probability of the label is clipped to
        [clip, 1 - clip], 0 <= clip < 1/2; 0 means no clipping

    softmax: a row's loss is kept within [-log(1 - clip), -log(clip)], also where targets are
    probabilities, smoothed, or weighted by class.  sigmoid: an element costs
    -t log p - (1 - t) log(1 - p) with p = sigmoid(z) rounded and clipped.  NaN stays NaN.  dz knows
    no clipping, nor do squared errors.
    """

    value: float = 1.0
    gradient: float = 1.0
    clip: float = 0.0

    def ends(self) -> tuple[float, float]:
        """Return the least and the most that a row of a softmax costs."""
        if self.clip == 0:
            return -math.inf, math.inf
        return -math.log1p(-self.clip), -math.log(self.clip)

    def numbers(self) -> tuple[float, float, float, float, float]:
        """Return all of it, as compiled code takes it."""
        return self.value, self.gradient, self.clip, *self.ends()


PLAIN = LossForm()


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
    z : (m, n) logits, float32 or float64, not empty
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
    arguments.check_loss_input("z", z, (2,))
    m, n = z.shape
    labels = arguments.check_class_targets("labels", labels, m, n, z.dtype)
    sample_weight = arguments.check_sample_weight("sample_weight", sample_weight, m, z.dtype)
    class_weight = arguments.check_class_weight("class_weight", class_weight, n, z.dtype)
    arguments.check_fraction("label_smoothing", label_smoothing)
    return softmax_loss(z, labels, sample_weight, class_weight, label_smoothing)


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
    """
    arguments.check_loss_input("z", z, (1, 2))
    targets = arguments.check_binary_targets("targets", targets, z)
    sample_weight = arguments.check_sample_weight("sample_weight", sample_weight, len(z), z.dtype)
    arguments.check_fraction("label_smoothing", label_smoothing)
    return sigmoid_loss(z, targets, sample_weight, label_smoothing)


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
    """
    arguments.check_loss_input("y", y, (1, 2))
    arguments.check_like("targets", targets, y, "y")
    sample_weight = arguments.check_sample_weight("sample_weight", sample_weight, len(y), y.dtype)
    return squared_loss(y, targets, sample_weight)


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def softmax(z: Array) -> Array:
    """Return exp(z) / sum of exp(z) over each row; the largest exponent is 0."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    p: Array = e / e.sum(axis=1, keepdims=True)
    return p


def own_loss(function: Loss, z: Array, y: Array) -> tuple[float, Array]:
    """Return what a loss of one's own says of z (m, n) and the rows of y: loss, dz of z's dtype."""
    result = function(z, y)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TypeError(f"loss: expected f(z, y) -> (loss, dz), got {arguments.describe(result)}")
    value, dz = np.asarray(result[0]), np.asarray(result[1])
    if value.ndim != 0 or value.dtype.kind not in "fiub":
        raise TypeError(
            f"loss: expected a number as the loss, got {arguments.describe(value)}; "
            "it is the mean over the batch"
        )
    if dz.dtype.kind not in "fiub":
        raise TypeError(f"loss: expected real numbers as dz, got {arguments.describe(dz)}")
    if dz.shape != z.shape:
        raise ValueError(f"loss: expected dz of shape {z.shape} like z, got {dz.shape}")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return float(value), np.ascontiguousarray(dz, z.dtype)


# ---- the arithmetic, without checks ----------------------------------------------------------


@np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")
def softmax_loss(
    z: Array,
    labels: Array,
    sample_weight: Array | None,
    class_weight: Array | None,
    label_smoothing: float,
    form: LossForm = PLAIN,
) -> tuple[float, Array]:
    """Return what `softmax_cross_entropy` does, of checked arguments and in this form."""
    m, n = z.shape
    s = np.ones(m, z.dtype) if sample_weight is None else sample_weight
    c = np.ones(n, z.dtype) if class_weight is None else class_weight
    shifted = z - z.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    if labels.ndim == 1:
        q = np.zeros_like(z)
        q[np.arange(m), labels] = 1
        divisor = (s * c[labels]).sum(dtype=np.float64)
    else:
        q = labels
        divisor = s.sum(dtype=np.float64)
    cq = c * ((1 - label_smoothing) * q + label_smoothing / n)
    # 0 log 0 is 0: a logit of -inf costs nothing where it is not wanted
    rows = np.clip(-np.where(cq > 0, cq * log_p, 0).sum(axis=1), *form.ends())
    dz = s[:, None] * (np.exp(log_p) * cq.sum(axis=1, keepdims=True) - cq)
    return form.value * _weighted_mean(rows, s, divisor), _divide(dz, divisor / form.gradient)


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def sigmoid_loss(
    z: Array,
    targets: Array,
    sample_weight: Array | None,
    label_smoothing: float,
    form: LossForm = PLAIN,
) -> tuple[float, Array]:
    """Return what `sigmoid_cross_entropy` does, likewise."""
    t = targets * (1 - label_smoothing) + label_smoothing / 2
    p = sigmoid(z)
    if form.clip == 0:
        elements = np.maximum(z, 0) - z * t + np.log1p(np.exp(-np.abs(z)))
    else:
        clipped = np.clip(p, z.dtype.type(form.clip), 1 - z.dtype.type(form.clip))
        elements = -(t * np.log(clipped) + (1 - t) * np.log(1 - clipped))
    return _mean_over_elements(elements, p - t, sample_weight, form)


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def squared_loss(
    y: Array, targets: Array, sample_weight: Array | None, form: LossForm = PLAIN
) -> tuple[float, Array]:
    """Return what `mean_squared_error` does, likewise."""
    error = y - targets
    return _mean_over_elements(error * error, 2 * error, sample_weight, form)


def _mean_over_elements(
    elements: Array, d: Array, sample_weight: Array | None, form: LossForm
) -> tuple[float, Array]:
    """Average over columns, then over rows with their weights."""
    m = elements.shape[0]
    s = np.ones(m, elements.dtype) if sample_weight is None else sample_weight
    divisor = s.sum(dtype=np.float64)
    rows = elements.reshape(m, -1).mean(axis=1, dtype=np.float64)
    d = (s * d.T).T
    value = form.value * _weighted_mean(rows, s, divisor)
    return value, _divide(d, divisor * (elements.size // m) / form.gradient)


def _weighted_mean(rows: Array, s: Array, divisor: float) -> float:
    return float(np.dot(s.astype(np.float64), rows) / divisor) if divisor > 0 else 0.0


def _divide(d: Array, divisor: float) -> Array:
    return d / d.dtype.type(divisor) if divisor > 0 else np.zeros_like(d)
