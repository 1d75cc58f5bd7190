"""activation_stats against NumPy in float64 and np.histogram."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

import fanin
from cases import LAYOUTS, STATS, lay_out, params
from compare import same_bits, unit, within
from fanin import reference

# Outside of these an activation counts as saturated (docs/numerics.md).
SATURATED = {
    "tanh": (-0.98, 0.98),
    "sigmoid": (0.01, 0.99),
    "elu": (-0.98, math.inf),
    "selu": (-0.98 * 1.0507009873554805 * 1.6732632423543772, math.inf),
}


def summing(shape: tuple[int, ...]) -> float:
    """Relative error of a float64 sum over rows, then columns, in any order; 8 for the rest."""
    return (sum(shape) + 8) * unit("float64")


def check(a: np.ndarray, stats: fanin.ActivationStats, activation: str | None = None) -> None:
    """Every field of `stats` against NumPy's float64.

    Means and deviations are summed as differences from one of the column's own values, in a's
    dtype over 64 rows at most, then in float64: each difference and sum rounds by u times at most
    64 spreads, so a mean is off by 66 u spread, the variance by 2 spread times that, and std by
    that over 2 std. Values far from zero cost nothing but the sum of block means in float64.
    """
    wide = a.astype(np.float64)
    spread = float(np.ptp(wide, axis=0).max())
    sum_error = 66 * unit(a.dtype) * spread + summing(a.shape) * float(np.abs(wide).max())
    within(stats.mean, wide.mean(), sum_error)
    within(stats.unit_mean, wide.mean(axis=0), sum_error)
    std = float(wide.std())
    all_spread = float(np.ptp(wide))
    within(stats.std, std, sum_error * all_spread / std if std > 0 else sum_error)
    assert stats.min == wide.min()
    assert stats.max == wide.max()
    assert stats.rows == len(a)
    same_bits(stats.unit_zeros, (a == 0).sum(axis=0, dtype=np.int64))
    assert stats.zero_fraction == np.count_nonzero(a == 0) / a.size
    low, high = SATURATED.get(activation or "tanh", (-math.inf, math.inf))
    dtype = a.dtype.type
    outside = np.count_nonzero((a < dtype(low)) | (a > dtype(high)))
    assert stats.saturated_fraction == outside / a.size


@pytest.mark.parametrize("case", params(STATS, "check"))
def test_cases(case, dtype, isa, rng):
    a = rng.standard_normal((case.m, case.n)).astype(dtype)
    a[rng.random(a.shape) < 0.3] = 0
    stats = fanin.activation_stats(a, bins=case.bins, activation=case.activation)
    check(a, stats, case.activation)
    if case.bins:
        counts, edges = np.histogram(a.astype(np.float64), bins=case.bins)
        same_bits(stats.histogram, counts)
        same_bits(stats.edges, edges)
    else:
        assert stats.histogram is None
        assert stats.edges is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, dtype, isa, rng):
    a = rng.standard_normal((70, 19)).astype(dtype)
    stats = fanin.activation_stats(lay_out(a, layout))
    check(a, stats)
    same_bits(stats.histogram, np.histogram(a.astype(np.float64), bins=50)[0])


@pytest.mark.parametrize("shape", [(64, 16), (65, 33), (300, 700), (1, 1), (1, 500), (500, 1)])
def test_same_bits_everywhere(shape, dtype, fma_isas, threads, rng):
    """The order of the sums is fixed: equal on every set with fma and for any threads."""
    a = rng.standard_normal(shape).astype(dtype)
    fanin.set_num_threads(1)
    expected = dataclasses.asdict(fanin.activation_stats(a))
    fanin.set_num_threads(threads)
    for isa in fma_isas:
        fanin.set_isa(isa)
        for name, value in dataclasses.asdict(fanin.activation_stats(a)).items():
            same_bits(np.asarray(value), np.asarray(expected[name]))


@pytest.mark.parametrize("columns", [(1, 4), (1, 8), (4, 1), (8, 1), (0, 17)])
def test_zeros_of_either_sign(columns, dtype, fma_isas):
    """Which zero comes first depends on the width of a vector: of both it is the positive one."""
    a = np.ones((70, 20), dtype)
    a[0, columns[0]], a[65, columns[1]] = -0.0, 0.0
    for isa in fma_isas:
        fanin.set_isa(isa)
        same_bits(np.asarray(fanin.activation_stats(a).min), np.asarray(0.0))
        same_bits(np.asarray(fanin.activation_stats(-a).max), np.asarray(0.0))


@pytest.mark.parametrize("row", [0, 63, 64, 129])
def test_nan_in_one_column(row, dtype, isa, rng):
    """Its neighbours keep their bits, also in the last part of a vector."""
    a = rng.standard_normal((130, 19)).astype(dtype)
    a[:, 5] = 3.0
    a[10, 6], a[20, 6] = np.inf, -np.inf
    before = fanin.activation_stats(a)
    assert (before.min, before.max) == (-np.inf, np.inf)
    for column in (0, 7, 18):
        one = a.copy()
        one[row, column] = np.nan
        stats = fanin.activation_stats(one)
        assert math.isnan(stats.min)
        assert math.isnan(stats.max)
        assert math.isnan(stats.unit_mean[column])
        others = np.arange(19) != column
        same_bits(stats.unit_mean[others], before.unit_mean[others])
        same_bits(stats.unit_zeros, before.unit_zeros)


@pytest.mark.parametrize("offset", [1e6, -3e4])
def test_far_from_zero(offset, package, dtype, rng):
    """Mean 1e6, spread 1: sum a^2 / n - mean^2 would have no digit left, even in float64 only 4."""
    a = (offset + rng.standard_normal((1000, 7))).astype(dtype)
    wide = a.astype(np.longdouble)
    stats = package.activation_stats(a)
    naive = np.mean(a * a) - np.mean(a) ** 2
    if dtype == "float32":
        assert abs(naive - wide.var()) > 0.1 * wide.var()
    bound = 66 * unit(dtype) * float(np.ptp(wide)) + summing(a.shape) * abs(offset)
    within(stats.mean, wide.mean(), bound)
    within(stats.std, wide.std(), bound * float(np.ptp(wide) / wide.std()))


@pytest.mark.parametrize("exponent", [-400, -140, -100, -60, 60, 100, 126, 400])
def test_of_any_size(exponent, isa, dtype, rng):
    """float32 whose squares leave its range, or that are denormal; what float64 can square."""
    if abs(exponent) > 149:
        dtype = "float64"
    a = np.ldexp(rng.uniform(-1, 1, (200, 9)), exponent).astype(dtype)
    wide = a.astype(np.longdouble)
    stats = fanin.activation_stats(a, bins=0)
    spread = float(np.ptp(wide))
    # as in `check`, but for denormals, whose own rounding is one of the smallest number
    bound = 66 * unit(dtype) * spread + 4 * float(np.finfo(dtype).smallest_subnormal)
    within(stats.mean, wide.mean(), bound)
    within(stats.unit_mean, wide.mean(axis=0), bound)
    within(stats.std, wide.std(), 4 * bound)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e30, 1e6 / 3])
def test_constant(value, package, dtype):
    """Nothing is spread: std is 0, or what rounding the mean in float64 leaves."""
    a = np.full((130, 5), value, dtype)
    stats = package.activation_stats(a, bins=0)
    number = float(a[0, 0])
    within(stats.mean, number, summing(a.shape) * abs(number))
    within(stats.std, 0, summing(a.shape) * abs(number))
    within(stats.unit_mean, np.full(5, number), summing(a.shape) * abs(number))
    assert (stats.min, stats.max) == (number, number)


def test_dead_units(package, dtype):
    a = np.ones((9, 6), dtype)
    a[:, [1, 4]] = 0
    a[:8, 2] = -0.0
    stats = package.activation_stats(a)
    same_bits(stats.dead_units, np.array([1, 4]))
    same_bits(stats.unit_zeros, np.array([0, 9, 8, 0, 9, 0]))
    assert stats.zero_fraction == 26 / 54


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(bad, package, dtype, rng):
    """NaN makes mean, std, min and max NaN; counts go on, the histogram has the finite ones."""
    a = rng.standard_normal((100, 20)).astype(dtype)
    a[0, 0] = a[70, 3] = bad
    stats = package.activation_stats(a, bins=10)
    with np.errstate(invalid="ignore"):
        within(stats.mean, a.mean(dtype=float), 1e-6)
        within(stats.min, a.min(), 0)
        within(stats.max, a.max(), 0)
        assert math.isnan(stats.std)
    assert np.array_equal(np.isfinite(stats.unit_mean), np.isfinite(a).all(axis=0))
    counts, edges = np.histogram(a[np.isfinite(a)].astype(np.float64), bins=10)
    same_bits(stats.histogram, counts)
    same_bits(stats.edges, edges)
    assert stats.histogram.sum() == a.size - 2


def test_nothing_finite(package, dtype):
    a = np.full((3, 4), np.nan, dtype)
    stats = package.activation_stats(a, bins=5)
    assert math.isnan(stats.mean)
    same_bits(stats.histogram, np.zeros(5, np.int64))
    assert (stats.zero_fraction, stats.saturated_fraction) == (0, 0)


@pytest.mark.parametrize("range_", [None, (-1, 1), (0.25, 0.5), (-100, -50), (0.5, 0.5)])
@pytest.mark.parametrize("bins", [1, 2, 7, 50, 1000])
def test_histogram(bins, range_, package, dtype, rng):
    """np.histogram, on values that sit on edges as well."""
    a = np.concatenate([rng.standard_normal(500), np.linspace(-1, 1, 201), [0.25, 0.5, 1.0]])
    a = a.astype(dtype).reshape(64, 11)
    stats = package.activation_stats(a, bins=bins, range=range_)
    counts, edges = np.histogram(a.astype(np.float64), bins=bins, range=range_)
    same_bits(stats.histogram, counts)
    same_bits(stats.edges, edges)


def test_histogram_of_one_value(package, dtype):
    a = np.full((4, 4), 0.7, dtype)
    stats = package.activation_stats(a, bins=4)
    counts, edges = np.histogram(a.astype(np.float64), bins=4)
    same_bits(stats.histogram, counts)
    same_bits(stats.edges, edges)


@pytest.mark.parametrize("values", [(1.0, 1.0 - 2.0**-53), (1e30, 1e30), (5e-324, 0.0)], ids=str)
def test_histogram_of_neighbours(values, package):
    """np.histogram refuses a range too narrow for its bins; saturated layers have just that."""
    a = np.array(values * 8).reshape(4, 4)
    stats = package.activation_stats(a, bins=50)
    assert stats.histogram.sum() == a.size
    assert (np.diff(stats.edges) > 0).all()
    assert stats.edges[0] <= a.min()
    assert a.max() <= stats.edges[-1]


def test_vector(package, dtype, rng):
    """(m,) is one unit."""
    a = rng.standard_normal(33).astype(dtype)
    stats = package.activation_stats(a)
    assert stats.unit_mean.shape == (1,)
    check(a.reshape(-1, 1), stats)


def test_types(package):
    stats = package.activation_stats(np.ones((2, 3), np.float32))
    for name in ("mean", "std", "min", "max", "zero_fraction", "saturated_fraction"):
        assert type(getattr(stats, name)) is float, name
    assert stats.unit_mean.dtype == np.float64
    assert stats.unit_zeros.dtype == stats.histogram.dtype == stats.dead_units.dtype == np.int64
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.mean = 0.0


def test_reference_and_compiled_are_one_class():
    assert fanin.ActivationStats is reference.ActivationStats
