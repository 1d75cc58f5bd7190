"""Batch norm against its formulas in longdouble: PyTorch's conventions for running statistics."""

from __future__ import annotations

import numpy as np
import pytest

import fanin
from cases import BATCH_NORM, BatchNorm, lay_out, params
from compare import same_bits, unit, within


def inputs(case: BatchNorm, dtype: str, rng):
    """x, [gamma, beta, running_mean, running_var], dy."""
    x = lay_out((1 + 2 * rng.standard_normal((case.m, case.n))).astype(dtype), case.layout)
    vectors = rng.standard_normal((4, case.n)).astype(dtype)
    vectors[3] = 0.5 + rng.random(case.n)
    return x, list(vectors), rng.standard_normal((case.m, case.n)).astype(dtype)


def longhand(x, gamma, beta, mean, var, *, training, momentum=0.1, eps=1e-5):
    """y, the new running statistics, x_hat and 1 / sqrt(var + eps), in longdouble."""
    x, gamma, beta, mean, var = (np.asarray(v, np.longdouble) for v in (x, gamma, beta, mean, var))
    running = mean, var
    if training:
        m = len(x)
        mean = x.sum(axis=0) / m
        var = ((x - mean) ** 2).sum(axis=0) / m
        new = mean, var * m / (m - 1)
        running = tuple(
            (1 - momentum) * r + momentum * n for r, n in zip(running, new, strict=True)
        )
    inv_std = 1 / np.sqrt(var + eps)
    x_hat = (x - mean) * inv_std
    return gamma * x_hat + beta, running, x_hat, inv_std


def longhand_backward(dy, x_hat, gamma, inv_std, *, training):
    """Ioffe & Szegedy 2015, the chain rule after equation 6, simplified."""
    dy = dy.astype(np.longdouble)
    dgamma, dbeta = (dy * x_hat).sum(axis=0), dy.sum(axis=0)
    if training:
        dy = dy - dbeta / len(dy) - x_hat * dgamma / len(dy)
    return gamma * inv_std * dy, dgamma, dbeta


def check(package, case, dtype, rng, **options):
    """Forward and backward within bounds.

    Mean and variance come from blocks of 64 rows, so they and x_hat are off by 80 u of the largest
    |x_hat| (64 for the sums, the rest for the steps after them); NumPy's sums of fewer than 200
    rows are no worse than float64's rounding. Sums over m rows add m u of their terms.
    """
    x, vectors, dy = inputs(case, dtype, rng)
    gamma, beta = vectors[:2]
    before = [v.copy() for v in (x, gamma, beta)]
    expected, running, x_hat, inv_std = longhand(x, *vectors, training=case.training, **options)
    y, cache = package.batch_norm_forward(x, *vectors, training=case.training, **options)
    for now, then in zip((x, gamma, beta), before, strict=True):
        same_bits(np.ascontiguousarray(now), np.ascontiguousarray(then))
    u = 80 * unit(dtype)
    largest = float(np.abs(x_hat).max(initial=1))
    within(y, expected, u * (np.abs(gamma) * largest + np.abs(beta)))
    for got, wanted in zip(vectors[2:], running, strict=True):
        within(got, wanted, u * (np.abs(wanted).astype(float) + np.abs(x).max(initial=0)))
    assert y.dtype == dtype

    gradients = package.batch_norm_backward(dy, cache)
    wanted = longhand_backward(dy, x_hat, gamma, inv_std, training=case.training)
    total = (case.m * unit(dtype) + u) * np.abs(dy).sum(axis=0) * largest
    scale = np.abs(gamma * inv_std).astype(float)
    within(gradients.dx, wanted[0], scale * (u * largest**2 * 4 + total * largest / max(case.m, 1)))
    within(gradients.dgamma, wanted[1], total)
    within(gradients.dbeta, wanted[2], total)
    assert {g.dtype.name for g in gradients} == {dtype}


@pytest.mark.parametrize("case", params(BATCH_NORM, "check"))
def test_cases(case, dtype, isa, rng):
    check(fanin, case, dtype, rng)


@pytest.mark.parametrize("case", params(BATCH_NORM, "check"))
def test_reference(case, dtype, rng):
    check(fanin.reference, case, dtype, rng)


@pytest.mark.parametrize("options", [{"momentum": 0.0}, {"momentum": 1.0}, {"eps": 0.1}], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_options(options, training, package, dtype, rng):
    check(package, BatchNorm(12, 9, training), dtype, rng, **options)


def test_by_hand(package):
    """Two rows, 1 and 3: mean 2, biased variance 1, unbiased 2, so y = -+ gamma + beta."""
    x = np.array([[1.0], [3.0]])
    mean, var = np.array([10.0]), np.array([20.0])
    y, _ = package.batch_norm_forward(
        x, np.array([5.0]), np.array([7.0]), mean, var, training=True, momentum=0.1, eps=1e-30
    )
    within(y, [[2.0], [12.0]], 8 * unit("float64") * 12)
    within(mean, [9.2], 4 * unit("float64") * 9.2)  # 0.9 * 10 + 0.1 * 2: momentum weighs the new
    within(var, [18.2], 4 * unit("float64") * 18.2)  # 0.9 * 20 + 0.1 * 2: the unbiased variance


def test_inference_leaves_the_statistics(package, dtype, rng):
    x, vectors, _ = inputs(BatchNorm(6, 5), dtype, rng)
    before = [v.copy() for v in vectors]
    package.batch_norm_forward(x, *vectors, training=False)
    for now, then in zip(vectors, before, strict=True):
        same_bits(now, then)


def test_inference_row_by_row(isa, dtype, rng):
    """A row of the result does not depend on the rows around it."""
    x, vectors, _ = inputs(BatchNorm(200, 37, False), dtype, rng)
    whole, _ = fanin.batch_norm_forward(x, *vectors, training=False)
    for rows in (slice(0, 1), slice(3, 4), slice(60, 70), slice(199, None)):
        part, _ = fanin.batch_norm_forward(x[rows], *vectors, training=False)
        same_bits(part, whole[rows])


@pytest.mark.parametrize("offset", [1e6, -3e4])
def test_far_from_zero(offset, package, dtype, rng):
    """Mean 1e6, spread 1, in float32: the variance must come from differences."""
    x = (offset + rng.standard_normal((300, 4))).astype(dtype)
    one, zero = np.ones(4, dtype), np.zeros(4, dtype)
    y, _ = package.batch_norm_forward(x, one, zero, zero.copy(), one.copy(), training=True)
    expected = longhand(x, one, zero, zero, one, training=True)[0]
    # the mean, rounded to dtype, is off by u |mean|, and by its sum in float64; x - mean is exact
    mean_bound = (unit(dtype) + 300 * unit("float64")) * abs(offset)
    within(y, expected, 2 * mean_bound + 400 * unit(dtype))


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
def test_constant_column(value, package, dtype):
    """Variance 0: nothing is divided by 0, y is beta up to what the rounded mean leaves."""
    x = np.full((70, 3), value, dtype)
    one, zero = np.ones(3, dtype), np.zeros(3, dtype)
    beta = np.array([1, 2, 3], dtype)
    y, cache = package.batch_norm_forward(x, one, beta, zero.copy(), one.copy(), training=True)
    # |x - mean| is at most what the mean of 70 equal numbers is off by, over sqrt(eps)
    bound = 78 * unit("float64") * abs(value) / np.sqrt(1e-5)
    within(y, np.tile(beta, (70, 1)), bound + 4 * unit(dtype) * beta)
    assert np.isfinite(package.batch_norm_backward(np.ones_like(x), cache).dx).all()


def test_gradients_that_vanish(package, rng):
    """dx of a constant dy, and of dy = x_hat, is 0: a shift or stretch of a column is undone."""
    x, vectors, _ = inputs(BatchNorm(50, 6), "float64", rng)
    y, cache = package.batch_norm_forward(x, *vectors, training=True, eps=1e-30)
    bound = 50 * 80 * unit("float64") * 10
    x_hat = (y - vectors[1]) / vectors[0]
    for dy in (np.ones_like(x), x_hat):
        within(package.batch_norm_backward(dy, cache).dx, np.zeros_like(x), bound)


@pytest.mark.parametrize("shape", [(64, 16), (300, 513), (1000, 3)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_same_bits_everywhere(shape, training, dtype, fma_isas, threads, rng):
    case = BatchNorm(*shape, training)
    x, vectors, dy = inputs(case, dtype, rng)

    def computed():
        copies = [v.copy() for v in vectors]
        y, cache = fanin.batch_norm_forward(x, *copies, training=training)
        return [y, *copies[2:], *fanin.batch_norm_backward(dy, cache)]

    fanin.set_num_threads(1)
    expected = computed()
    fanin.set_num_threads(threads)
    for isa in fma_isas:
        fanin.set_isa(isa)
        for got, wanted in zip(computed(), expected, strict=True):
            same_bits(got, wanted)


def test_nan_stays_in_its_column(package, dtype, rng):
    x, vectors, _ = inputs(BatchNorm(20, 5), dtype, rng)
    x[3, 2] = np.nan
    y, _ = package.batch_norm_forward(x, *vectors, training=True)
    same_bits(np.isnan(y).all(axis=0), np.arange(5) == 2)
    same_bits(np.isnan(y).any(axis=0), np.arange(5) == 2)
    same_bits(np.isnan(vectors[2]), np.arange(5) == 2)
