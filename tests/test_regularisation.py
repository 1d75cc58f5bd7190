"""Regularised logistic regression is MLP([n, k]): the coefficients of scikit-learn's."""

from __future__ import annotations

import math
from itertools import combinations_with_replacement

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression

import fanin
from fanin import reference


def problem(name: str):
    """Standardised breast cancer (2 classes, one sigmoid), centred digits (10, softmax)."""
    if name == "breast cancer":
        x, y = load_breast_cancer(return_X_y=True)
        return (x - x.mean(axis=0)) / x.std(axis=0), y, 1, "sigmoid"
    x, y = load_digits(return_X_y=True)
    return x / 16 - (x / 16).mean(axis=0), y, 10, "softmax"


def trained(package, x, y, outputs, output, l2, steps):
    """Nesterov's gradient descent on the whole batch, for a cost with curvature l2 ... `most`."""
    net = package.MLP([x.shape[1], outputs], output=output, init="zeros", l2=l2, dtype="float64")
    columns = np.column_stack([x, np.ones(len(x))])
    # the Hessian of the loss of a row is at most 1/4 (sigmoid) or 1/2 (softmax) times x x.T
    most = np.linalg.norm(columns, 2) ** 2 / len(x) / (4 if outputs == 1 else 2) + l2
    ratio = math.sqrt(l2 / most)
    optimizer = package.SGD(1 / most, momentum=(1 - ratio) / (1 + ratio), nesterov=True)
    for _ in range(steps):
        net.train_step(x, y, optimizer)
    return net


def gradient_norm(net, x, y, weight, bias):
    """The norm of the gradient of `net`'s cost at these parameters."""
    net.layers[0].weight, net.layers[0].bias = weight, bias
    gradients = net.loss_and_gradients(x, y)[1].copy()
    # rounding: each entry is a mean of n products of |x| <= max and |p - y| <= 1
    rounding = len(x) * 2.0**-53 * np.abs(x).max() * math.sqrt(gradients.size)
    return float(np.linalg.norm(gradients)) + rounding


def least_curvature(x, p, l2):
    """The smallest eigenvalue of the Hessian at probabilities p (n, k), without the one that is 0.

    Rows of [x, 1] times diag(p) - p p.T (softmax) or p (1 - p) (sigmoid), and l2 for weights.  A
    constant added to all intercepts of a softmax changes nothing: an eigenvalue 0, left out.
    """
    columns = np.column_stack([x, np.ones(len(x))])
    size, k = columns.shape[1], p.shape[1]
    hessian = np.zeros((k, size, k, size))
    for i, j in combinations_with_replacement(range(k), 2):
        s = p[:, i] * ((i == j) - p[:, j])  # of one sigmoid p (1 - p)
        block = columns.T @ (s[:, None] * columns) / len(x)
        hessian[i, :, j, :] = hessian[j, :, i, :] = block
    penalty = np.tile(np.append(np.full(size - 1, l2), 0), k)
    eigenvalues = np.linalg.eigvalsh(hessian.reshape(k * size, k * size) + np.diag(penalty))
    return eigenvalues[0] if k == 1 else eigenvalues[1]


CASES = [
    (fanin, "breast cancer", 1.0, 4000),
    (fanin, "breast cancer", 0.01, 1000),
    (fanin, "digits", 1.0, 4000),
    (fanin, "digits", 0.01, 1000),
    (reference, "breast cancer", 0.01, 1000),
]


@pytest.mark.parametrize(("package", "name", "strength", "steps"), CASES,
                         ids=lambda value: getattr(value, "__name__", str(value)))  # fmt: skip
def test_logistic_regression(package, name, strength, steps):
    """l2 = 1 / (C n); scikit-learn minimises C sum of losses + ||w||^2 / 2, intercepts free.

    The difference d of two parameter vectors satisfies mean Hessian d = g1 - g2, so
    ||d|| <= (||g1|| + ||g2||) / mu with mu the least curvature between them.  Where no logit
    differs by more than delta, no p_i p_j differs by a factor of more than exp(4 delta), and the
    Hessian is a sum of those with weights >= 0: mu is at least exp(-4 delta) of that at one end.
    """
    x, y, outputs, output = problem(name)
    l2 = 1 / (strength * len(x))
    net = trained(package, x, y, outputs, output, l2, steps)
    theirs = LogisticRegression(C=strength, solver="newton-cg", tol=1e-12, max_iter=1000).fit(x, y)

    layer = net.layers[0]
    w1, b1 = layer.weight.copy(), layer.bias.copy()
    w2, b2 = theirs.coef_.T, theirs.intercept_
    if output == "softmax":  # of all equal solutions, the one whose intercepts have the sum 0
        b1, b2 = b1 - b1.mean(), b2 - b2.mean()
    delta = np.abs(x @ (w1 - w2) + b1 - b2).max()
    mu = least_curvature(x, net.predict_proba(x), l2)
    norms = gradient_norm(net, x, y, w1, b1), gradient_norm(net, x, y, w2, b2)
    bound = sum(norms) / (mu * math.exp(-4 * delta))
    distance = math.hypot(np.linalg.norm(w1 - w2), np.linalg.norm(b1 - b2))
    assert distance <= bound
    assert bound <= 1e-6 * np.linalg.norm(w2)  # which is to say six digits
