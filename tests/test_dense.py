"""The dense layer: products bit for bit as in oracle.c, the rest against the single operations."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import fanin
from cases import ACTIVATIONS, DENSE, LAYOUTS, NEEDS_INPUT, Dense, lay_out, params, sum_bound
from compare import same_bits, unit, within
from fanin import reference
from test_gemm import frames, fused

KEY = (2**40 + 7, 3, 1)


def inputs(case: Dense, dtype: str, rng):
    """x, w and b (or None) of a case; z is about one in size."""
    x = rng.standard_normal((case.m, case.k))
    w = rng.standard_normal((case.k, case.n)) / max(case.k, 1) ** 0.5
    b = rng.standard_normal(case.n).astype(dtype) if case.bias else None
    return lay_out(x.astype(dtype), case.x_layout), lay_out(w.astype(dtype), case.w_layout), b


def quantised(dropout: float) -> float:
    """The scale of kept elements: the reciprocal of the probability in 65536ths."""
    return 65536 / (65536 - min(max(round(dropout * 65536), 1), 65535)) if dropout else 1.0


def column_sums(dz: np.ndarray) -> np.ndarray:
    """The sum over rows in the canonical order: chains over 64 rows, added in order."""
    total = np.zeros(dz.shape[1], dz.dtype)
    for start in range(0, len(dz), 64):
        block = np.zeros_like(total)
        for row in dz[start : start + 64]:
            block = block + row
        total = block if start == 0 else total + block
    return total


def run(case, x, w, b, package=fanin):
    return package.dense_forward(
        x, w, b, activation=case.activation, dropout=case.dropout, key=KEY, stats=case.stats
    )


@pytest.mark.parametrize("case", params(DENSE, "check"))
def test_cases(case, dtype, isa, rng, oracle):
    """One call is the product, the bias, the activation, the mask, and the statistics."""
    x, w, b = inputs(case, dtype, rng)
    if case.stats and 0 in (case.m, case.n):
        pytest.fail("a case with statistics of nothing")
    z = oracle.matmul(x, w, fused=fused(isa))
    z = z if b is None else z + b
    h = fanin.activation_forward(z, case.activation)
    expected = h
    if case.dropout:
        kept = fanin.dropout_mask(h.shape, case.dropout, KEY)
        expected = np.where(kept, h * h.dtype.type(quantised(case.dropout)), h.dtype.type(0))
    a, cache = run(case, x, w, b)
    same_bits(a, expected)
    if case.stats:
        check_stats(cache.stats, fanin.activation_stats(h, activation=case.activation, bins=0))
    else:
        assert cache.stats is None

    # backward: dx and dw are products of dz, which is what dw is where x is the unit matrix
    da = rng.standard_normal(a.shape).astype(dtype)
    dx, dw, db = fanin.dense_backward(da, cache)
    dz = dz_of(cache, da)
    same_bits(dx, oracle.matmul(dz, w.T, fused=fused(isa)))
    same_bits(dw, oracle.matmul(x.T, dz, fused=fused(isa)))
    if b is None:
        assert db is None
    else:
        same_bits(db, column_sums(dz))
    if case.dropout:
        assert (dz[~kept] == 0).all()


def dz_of(cache, da):
    """dz by a second backward call, of a layer whose dx is dz: weights that are the unit matrix."""
    twin = copy.copy(cache)
    twin.w, twin.x = np.eye(da.shape[1], dtype=da.dtype), np.zeros_like(da)
    dz = fanin.dense_backward(da, twin).dx
    if cache.dropout == 0:
        saved = cache.z if cache.a is None else cache.a
        same_bits(dz + 0, fanin.activation_backward(da, saved, cache.activation) + 0)
    return dz


def check_stats(got, expected):
    for name in ("mean", "std", "min", "max", "zero_fraction", "saturated_fraction", "rows"):
        assert getattr(got, name) == getattr(expected, name), name
    same_bits(got.unit_mean, expected.unit_mean)
    same_bits(got.unit_zeros, expected.unit_zeros)


def rounding(case: Dense, dtype: str, w, dz) -> dict[str, np.ndarray]:
    """What rounding may do to a, dx, dw and db of the case.

    z is off by gamma_k sum |x||w| <= 4 gamma_k and its own sum with b, the activations by 8 u at
    most (test_activation.py), times the slope <= 1.1 and the scale; dz by the same relative to da
    times a curvature <= 1, and the products by gamma of their terms.
    """
    u, scale = unit(dtype), quantised(case.dropout)
    z = (sum_bound(case.k + 2, dtype) * 8 * case.k**0.5 + 8 * u) * 2 * scale
    size = np.abs(dz).max(initial=0) + scale
    columns = np.abs(w).sum(axis=1).max(initial=1)
    return {
        "a": z,
        "dx": (z + sum_bound(case.n + 8, dtype)) * size * columns * 4,
        "dw": (z + sum_bound(case.m + 8, dtype)) * size * case.m * 16,
        "db": (z + sum_bound(case.m + 8, dtype)) * size * case.m * 4,
    }


@pytest.mark.parametrize("case", [c for c in DENSE if "check" in c.uses and not c.slow], ids=str)
def test_reference(case, dtype, rng):
    """Against the reference in float64."""
    x, w, b = inputs(case, dtype, rng)
    a, cache = run(case, x, w, b)
    da = rng.standard_normal(a.shape).astype(dtype)
    gradients = fanin.dense_backward(da, cache)
    wide = [None if v is None else v.astype(np.float64) for v in (x, w, b)]
    expected, wide_cache = run(case, *wide, reference)
    wanted = reference.dense_backward(da.astype(np.float64), wide_cache)
    # float64's own rounding in the reference counts twice
    bounds = rounding(case, dtype, w, da)
    within(a, expected, 2 * bounds["a"])
    kink = case.activation in ("relu", "leaky_relu", "elu", "selu")
    if kink and dtype == "float32":  # an activation that rounds across 0 has another slope
        assert (np.sign(a) == np.sign(expected)).all()
    for name, got in gradients._asdict().items():
        if got is None:
            assert getattr(wanted, name) is None
        else:
            within(got, getattr(wanted, name), 2 * bounds[name])


@pytest.mark.parametrize("rows", [1, 15, 17, 33, 70])
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_statistics_are_of_what_was_not_yet_dropped(kind, rows, package, dtype, rng):
    """With and without dropout, with and without a histogram: the same numbers, and the same a."""
    x = rng.standard_normal((rows, 20)).astype(dtype)
    w = rng.standard_normal((20, 33)).astype(dtype)
    h, plain = package.dense_forward(x, w, activation=kind, stats=7)
    expected = package.activation_stats(h, bins=7, activation=kind)
    a, _ = package.dense_forward(x, w, activation=kind, dropout=0.4, key=KEY)
    dropped, with_stats = package.dense_forward(
        x, w, activation=kind, dropout=0.4, key=KEY, stats=True
    )
    both, with_bins = package.dense_forward(x, w, activation=kind, dropout=0.4, key=KEY, stats=7)
    same_bits(dropped, a)
    same_bits(both, a)
    for cache in (plain, with_stats, with_bins):
        check_stats(cache.stats, expected)
    assert with_stats.stats.histogram is None
    same_bits(with_bins.stats.histogram, expected.histogram)
    same_bits(with_bins.stats.edges, expected.edges)
    da = rng.standard_normal(a.shape).astype(dtype)
    for name in ("dx", "dw"):
        gradients = [getattr(package.dense_backward(da, c), name) for c in (with_stats, with_bins)]
        same_bits(*gradients)


SPLIT = [(256, 300, 400), (1000, 9, 70), (5, 1500, 300), (1, 700, 1)]


@pytest.mark.parametrize("size", SPLIT, ids=str)
@pytest.mark.parametrize("kind", ["tanh", "gelu"])
def test_same_bits_everywhere(size, kind, dtype, fma_isas, threads, rng):
    case = Dense(*size, kind, 0.3, stats=True)
    x, w, b = inputs(case, dtype, rng)
    da = rng.standard_normal((case.m, case.n)).astype(dtype)

    def computed():
        a, cache = run(case, x, w, b)
        stats = cache.stats
        return [a, *fanin.dense_backward(da, cache), stats.unit_mean, np.array(stats.std)]

    fanin.set_num_threads(1)
    expected = computed()
    fanin.set_num_threads(threads)
    for isa in fma_isas:
        fanin.set_isa(isa)
        for got, wanted in zip(computed(), expected, strict=True):
            same_bits(got, wanted)


def test_rows_do_not_depend_on_the_batch(isa, dtype, rng):
    """Row i of the output, dropout included, is the same whatever comes after it."""
    case = Dense(130, 40, 50, "gelu", 0.3)
    x, w, b = inputs(case, dtype, rng)
    whole, _ = run(case, x, w, b)
    for rows in (1, 2, 7, 64, 65):
        part, _ = run(case, x[:rows], w, b)
        same_bits(part, whole[:rows])
    alone = [fanin.dense_forward(x[i : i + 1], w, b, activation="gelu")[0] for i in range(130)]
    same_bits(np.concatenate(alone), fanin.dense_forward(x, w, b, activation="gelu")[0])


@pytest.mark.parametrize("kind", ["relu", "silu"])
@pytest.mark.parametrize("stats", [False, True, 5])
def test_out(kind, stats, dtype, isa, rng):
    """`out` is what is returned and kept, in every layout allowed; nothing beside it is written."""
    case = Dense(19, 30, 21, kind, 0.4)
    x, w, b = inputs(case, dtype, rng)
    options = {"activation": kind, "dropout": 0.4, "key": KEY, "stats": stats}
    expected, plain = fanin.dense_forward(x, w, b, **options)
    da = rng.standard_normal(expected.shape).astype(dtype)
    wanted = fanin.dense_backward(da, plain)
    for frame, out, name in frames(expected.shape, dtype):
        frame[...] = 7
        a, cache = fanin.dense_forward(x, w, b, out=out, **options)
        assert a is out, name
        same_bits(np.ascontiguousarray(out), expected)
        for got, gradient in zip(fanin.dense_backward(da, cache), wanted, strict=True):
            same_bits(got, gradient)
        out[...] = 7
        assert (frame == 7).all(), name


@pytest.mark.parametrize("stats", [False, True])
@pytest.mark.parametrize("m", [1, 7, 8, 9, 15, 16, 17, 63, 64, 65])
def test_masks_of_any_number_of_rows(m, stats, isa, rng):
    """Masks are made 16 rows at a time; each is that of `dropout_mask`, and so is what it drops."""
    x, w, b = inputs(Dense(m, 8, 21, "tanh"), "float32", rng)
    h, _ = fanin.dense_forward(x, w, b, activation="tanh")
    a, _ = fanin.dense_forward(x, w, b, activation="tanh", dropout=0.5, key=KEY, stats=stats)
    same_bits(a, np.where(fanin.dropout_mask(a.shape, 0.5, KEY), h * np.float32(2), np.float32(0)))


def test_statistics_with_nan(isa, dtype, rng):
    """NaN in one unit: its mean, the overall figures, and no other unit."""
    x, w, b = inputs(Dense(70, 8, 21, "tanh"), dtype, rng)
    _, whole = fanin.dense_forward(x, w, b, activation="tanh", stats=True)
    w[3, 20] = np.nan
    a, cache = fanin.dense_forward(x, w, b, activation="tanh", stats=True)
    assert np.isnan(a[:, 20]).all()
    assert np.isnan([cache.stats.min, cache.stats.max, cache.stats.mean, cache.stats.std]).all()
    same_bits(cache.stats.unit_mean[:20], whole.stats.unit_mean[:20])


def test_arrays_that_take_the_long_way(dtype, rng, tmp_path):
    """Memory maps, and strides of axes with one element, which mean nothing."""
    case = Dense(9, 8, 21, "relu", 0.4)
    arrays = inputs(case, dtype, rng)
    options = {"activation": "relu", "dropout": 0.4, "key": KEY, "stats": True}
    expected, _ = fanin.dense_forward(*arrays, **options)
    mapped = []
    for i, array in enumerate((*arrays, expected)):
        mapped.append(np.memmap(tmp_path / str(i), dtype, "w+", shape=array.shape))
        mapped[-1][...] = array
    x, w, b, out = mapped
    a, cache = fanin.dense_forward(x, w, b, out=out, **options)
    assert a is out
    assert cache.a is out
    same_bits(np.asarray(out), expected)

    row, _ = fanin.dense_forward(arrays[0][:1], *arrays[1:])
    odd = np.zeros(1, [("x", dtype, (8,)), ("byte", "u1")])["x"]
    odd[...] = arrays[0][:1]
    assert odd.strides[0] % odd.itemsize
    same_bits(fanin.dense_forward(odd, *arrays[1:])[0], row)
    same_bits(fanin.matmul(odd, arrays[1]), fanin.matmul(arrays[0][:1], arrays[1]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_da(layout, package, dtype, rng):
    case = Dense(19, 30, 21, "tanh", 0.4)
    x, w, b = inputs(case, dtype, rng)
    a, cache = run(case, x, w, b, package)
    da = rng.standard_normal(a.shape).astype(dtype)
    expected = package.dense_backward(da, cache)
    for got, wanted in zip(
        package.dense_backward(lay_out(da, layout), cache), expected, strict=True
    ):
        # NumPy sums a matrix of another layout in another order: gamma of its 30 terms, doubled
        bound = 0 if package is fanin else 2 * sum_bound(30, dtype) * 30 * 4
        within(got, wanted, bound)


def test_bias_of_any_stride(package, dtype, rng):
    case = Dense(9, 8, 21)
    x, w, b = inputs(case, dtype, rng)
    expected, _ = run(case, x, w, b, package)
    for other in (np.repeat(b, 3)[::3], b[::-1].copy()[::-1]):
        same_bits(run(case, x, w, other, package)[0], expected)
    flat, _ = run(case, x, w, np.broadcast_to(b[:1], (21,)), package)
    same_bits(flat[:, 0], expected[:, 0])


def test_dx_only_when_needed(package, rng):
    case = Dense(5, 6, 7)
    a, cache = run(case, *inputs(case, "float64", rng), package)
    full = package.dense_backward(a, cache)
    part = package.dense_backward(a, cache, need_dx=False)
    assert part.dx is None
    same_bits(part.dw, full.dw)
    same_bits(part.db, full.db)


def test_cache(package, rng):
    """It holds the arrays themselves and what the layer did."""
    x, w, b = inputs(Dense(4, 3, 2), "float64", rng)
    for kind in ACTIVATIONS:
        a, cache = package.dense_forward(x, w, b, activation=kind, dropout=0.5, key=KEY)
        assert cache.x is x
        assert cache.w is w
        assert (cache.activation, cache.dropout, cache.key) == (kind, 0.5, KEY)
        assert cache.has_bias is True
        if kind in NEEDS_INPUT:
            assert cache.a is None
            within(cache.z, x @ w + b, 8 * unit("float64") * 10)
        else:
            assert cache.a is a
            assert cache.z is None


def test_dropout_keeps_the_mean(package, rng):
    """The scale belongs to the quantised rate: over all masks the expectation is exact."""
    x, w = np.ones((2000, 1)), np.ones((1, 500))
    for dropout in (0.1, 1 / 3, 0.5, 0.9):
        a, _ = package.dense_forward(x, w, dropout=dropout, key=(1, 2, 3))
        keep = 1 / quantised(dropout)
        assert set(np.unique(a)) == {0.0, quantised(dropout)}
        # 5 standard deviations of a mean of a million
        assert abs(a.mean() - 1) < 5 * np.sqrt((1 - keep) / keep / a.size)


def test_no_dropout_drops_nothing(package, rng):
    x, w, b = inputs(Dense(9, 8, 7), "float64", rng)
    expected, _ = package.dense_forward(x, w, b)
    a, _ = package.dense_forward(x, w, b, dropout=0.0, key=KEY)
    same_bits(a, expected)


def test_minus_zero_and_nan_under_dropout(isa, dtype):
    """Dropped elements are +0, kept ones what they were: NaN and infinity stay in their places."""
    x = np.array([[np.nan, -1.0, np.inf, 0.0]], dtype).T.repeat(16, axis=0)
    w = np.ones((1, 40), dtype)
    a, cache = fanin.dense_forward(x, w, dropout=0.5, key=KEY)
    kept = fanin.dropout_mask(a.shape, 0.5, KEY)
    same_bits(a, np.where(kept, np.broadcast_to(x, a.shape) * dtype_two(dtype), 0).astype(dtype))
    assert not np.signbit(a[~kept]).any()
    dx, _, _ = fanin.dense_backward(np.where(kept, 1, np.nan).astype(dtype), cache)
    assert np.isfinite(dx).all()


def dtype_two(dtype):
    return np.dtype(dtype).type(2)


@pytest.mark.parametrize("size", [(0, 3, 4), (3, 0, 4), (3, 4, 0)], ids=str)
def test_nothing(size, package, dtype):
    m, k, n = size
    x, w, b = np.zeros((m, k), dtype), np.zeros((k, n), dtype), np.ones(n, dtype)
    a, cache = package.dense_forward(x, w, b, activation="tanh", dropout=0.5, key=KEY)
    assert a.shape == (m, n)
    gradients = package.dense_backward(np.ones_like(a), cache)
    assert [g.shape for g in gradients] == [(m, k), (k, n), (n,)]
    assert not gradients.dx.any()
    assert not gradients.dw.any()
