"""Activations against the reference, and the functions inside them against exact values in ulp."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import mpmath
import numpy as np
import pytest

import fanin
from cases import ACTIVATION, ACTIVATIONS, LAYOUTS, NEEDS_INPUT, lay_out, params
from compare import same_bits, unit, within
from fanin import _core, reference

# Largest errors in ulp, as cpp/kernels/math.hpp and docs/numerics.md state them (test_codebase.py
# compares): with fma float32, float64; baseline float32, float64.
STATED = {
    "exp": (1.0, 1.0, 1.0, 1.0),
    "log": (0.9, 1.0, 0.9, 1.0),
    "tanh": (2.5, 2.6, 2.5, 2.6),
    "sigmoid": (2.5, 2.5, 2.5, 2.5),
    "softplus": (1.7, 1.7, 1.7, 1.7),
    "erf": (1.2, 1.4, 1.4, 1.6),
    "normal_cdf": (4.6, 4.8, 4.7, 5.0),
}
FUNCTIONS = sorted(STATED)


# What the oracle of oracle.c may be off by, in ulp of the narrow type: test_against_mpmath.
ORACLE = {"float32": 2.0**-18, "float64": 2.0**-8}


def bound(name: str, dtype: str, isa: str) -> float:
    """The stated bound, with what the oracle may be off by."""
    place = 2 * (isa == "baseline") + (dtype == "float64")
    return STATED[name][place] + ORACLE[dtype]


def some_numbers(dtype: str, count: int) -> np.ndarray:
    """Bit patterns evenly over all of them: every exponent, both signs, denormals, NaN."""
    bits = {"float32": 32, "float64": 64}[dtype]
    step = 2**bits // count | 1
    return (np.arange(count, dtype=np.uint64) * np.uint64(step)).astype(f"u{bits // 8}").view(dtype)


def where_it_matters(dtype: str, count: int, rng) -> np.ndarray:
    """Numbers of about 1, and up to where exp overflows and tails end, of both signs."""
    parts = [rng.uniform(-limit, limit, count // 5) for limit in (0.5, 1.5, 10, 40, 110)]
    parts.append(rng.uniform(-750, 750, count // 10))
    joints = (math.log(2) / 2, math.sqrt(0.5), math.sqrt(2), 1.0, 1.4142135, 4.0, 6.0, 9.01, 18.7)
    parts += [j * (1 + rng.uniform(-1e-3, 1e-3, count // 50)) for j in joints]
    x = np.concatenate(parts).astype(dtype)
    return np.concatenate([x, -x])


def check_ulps(name, x, isa, oracle) -> float:
    x = np.ascontiguousarray(x)
    exact = oracle.exact(name, x)
    worst, place = oracle.ulps(exact, _core.function(name, x))
    assert worst <= bound(name, x.dtype.name, isa), f"{name}({x[place]!r}): {worst} ulp"
    return worst


@pytest.mark.parametrize("name", FUNCTIONS)
def test_ulps(name, dtype, isa, rng, oracle):
    """A sample of all bit patterns, and a dense one where something happens."""
    worst = check_ulps(name, where_it_matters(dtype, 100_000, rng), isa, oracle)
    check_ulps(name, some_numbers(dtype, 200_000), isa, oracle)
    assert worst > 0.45  # nothing is better than correctly rounded: the sample reaches the bound


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_ulps_of_every_float(name, oracle):
    """All 2^32 of them, on every set; sets with fma give the same bits."""
    count = 2**21
    bits = np.arange(count, dtype=np.uint32)
    before = fanin.isa()

    def exact(start):
        x = (bits + np.uint32(start)).view(np.float32)
        return x, oracle.exact(name, x)

    def check(isa, x, truth, fused):
        """The set's results, when others have to be equal to them."""
        fanin.set_isa(isa)
        y = _core.function(name, x)
        if isa != "baseline" and fused is not None:
            if not np.array_equal(y.view(np.uint32), fused.view(np.uint32)):
                same_bits(y, fused)  # the bits of a NaN may differ
            return fused
        worst, place = oracle.ulps(truth, y)
        assert worst <= bound(name, "float32", isa), f"{isa}: {name}({x[place]!r}): {worst} ulp"
        return None if isa == "baseline" else y

    try:
        with ThreadPoolExecutor(1) as pool:  # the exact values one part ahead, on the other core
            ahead = pool.submit(exact, 0)
            for start in range(0, 2**32, count):
                x, truth = ahead.result()
                if start + count < 2**32:
                    ahead = pool.submit(exact, start + count)
                fused = None
                for isa in fanin.available_isas():
                    fused = check(isa, x, truth, fused)
    finally:
        fanin.set_isa(before)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_ulps_of_many_doubles(name, isa, oracle):
    rng = np.random.default_rng(99)
    worst = 0.0
    for _ in range(5):
        worst = max(worst, check_ulps(name, where_it_matters("float64", 400_000, rng), isa, oracle))
    check_ulps(name, some_numbers("float64", 2_000_003), isa, oracle)
    assert worst > 0.45


EXACT = {
    "exp": mpmath.exp,
    "log": mpmath.log,
    "tanh": mpmath.tanh,
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "erf": mpmath.erf,
    "softplus": lambda x: (
        mpmath.log1p(mpmath.exp(x)) if x < 0 else x + mpmath.log1p(mpmath.exp(-x))
    ),
    "normal_cdf": lambda x: mpmath.erfc(-x / mpmath.sqrt(2)) / 2,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_against_mpmath(name, dtype, oracle, rng):
    """A third opinion, on the oracle: 300 numbers in 60 digits, as far as the narrow type goes."""
    x = where_it_matters(dtype, 5000, rng)
    x = rng.choice(np.abs(x) if name == "log" else x, 300, replace=False)
    info = np.finfo(dtype)
    compared = 0
    with mpmath.workdps(60):
        for value, wide in zip(x, oracle.exact(name, x), strict=True):
            exact = EXACT[name](mpmath.mpf(float(value)))
            if abs(exact) > float(info.max):
                continue
            ulp = max(abs(exact) * unit(dtype), mpmath.mpf(float(info.smallest_subnormal)))
            assert abs(mpmath.mpf(str(wide)) - exact) <= ORACLE[dtype] * ulp, value
            compared += 1
    assert compared > 150


SPECIAL = {
    # name: f(-inf), f(-0), f(+0), f(+inf)
    "exp": (0.0, 1.0, 1.0, math.inf),
    "log": (math.nan, -math.inf, -math.inf, math.inf),
    "tanh": (-1.0, -0.0, 0.0, 1.0),
    "sigmoid": (0.0, 0.5, 0.5, 1.0),
    "erf": (-1.0, -0.0, 0.0, 1.0),
    "softplus": (0.0, math.log(2), math.log(2), math.inf),
    "normal_cdf": (0.0, 0.5, 0.5, 1.0),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_values(name, dtype, isa):
    """+-0, +-inf and NaN, in every lane of a vector."""
    arguments = np.array([-math.inf, -0.0, 0.0, math.inf, math.nan], dtype)
    expected = np.array([*SPECIAL[name], math.nan], dtype)
    for shift in range(17):
        x = np.full(33, 0.5, dtype)
        x[shift : shift + 5] = arguments
        same_bits(_core.function(name, x)[shift : shift + 5], expected)


@pytest.mark.parametrize("name", ["tanh", "erf"])
def test_odd_functions(name, dtype, isa, rng):
    """f(-x) is -f(x) to the bit, and denormals keep their sign and about their size."""
    x = np.concatenate([where_it_matters(dtype, 10_000, rng), some_numbers(dtype, 10_000)])
    x = x[~np.isnan(x)]
    same_bits(_core.function(name, -x), -_core.function(name, x))
    tiny = np.float64(np.finfo(dtype).smallest_subnormal) * np.arange(1, 100)
    got = _core.function(name, tiny.astype(dtype)).astype(np.float64)
    slope = {"tanh": 1.0, "erf": 2 / math.sqrt(math.pi)}[name]
    within(got, slope * tiny, 1.01 * np.finfo(dtype).smallest_subnormal)


def test_ends(dtype, isa):
    """Where results stop being finite or nonzero they do so at the right number."""
    info = np.finfo(dtype)
    largest = math.log(float(info.max)) if dtype == "float64" else 88.72283
    x = np.array([largest * (1 - 1e-6), largest * (1 + 1e-6)], dtype)
    got = _core.function("exp", x)
    assert np.isfinite(got[0])
    assert got[1] == math.inf
    smallest = math.log(float(info.smallest_subnormal))
    x = np.array([smallest * (1 - 1e-3), smallest * 1.01], dtype)
    got = _core.function("exp", x)
    assert got[0] > 0
    assert got[1] == 0


@pytest.mark.parametrize("name", ["exp", "tanh", "sigmoid", "erf", "log", "softplus", "normal_cdf"])
def test_functions_on_every_set(name, dtype, fma_isas, threads, rng):
    """Equal bits on every set with fma, for any number of threads."""
    x = np.concatenate([where_it_matters(dtype, 20_000, rng), some_numbers(dtype, 30_000)])
    fanin.set_isa(fma_isas[0])
    expected = _core.function(name, x)
    for isa in fma_isas:
        fanin.set_isa(isa)
        same_bits(_core.function(name, x), expected)


# ---- activations -----------------------------------------------------------------------------

# What an activation is off by, in u of its size: a function (below 2 ulp, so 4 u at most) and a
# few roundings; elu and selu subtract 1 near 0 without loss.
FORWARD = 8
# Derivatives of a, or of z, times da: their terms are at most about 1 in size.
BACKWARD = 16


def exact_forward(z, kind):
    """By the reference in float64."""
    return reference.activation_forward(z.astype(np.float64), kind)


@pytest.mark.parametrize("case", params(ACTIVATION, "check"))
def test_cases(case, dtype, isa, rng):
    z = (3 * rng.standard_normal((case.m, case.n))).astype(dtype)
    check_activation(case.kind, z, rng)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_many_values(kind, dtype, isa, rng):
    """A dense sample; gelu_tanh's and the tails' relative error grows with the exponent's size."""
    check_activation(kind, where_it_matters(dtype, 20_000, rng).reshape(2, -1), rng)


def check_activation(kind, z, rng):
    u, dtype = unit(z.dtype), z.dtype
    a = fanin.activation_forward(z, kind)
    expected = exact_forward(z, kind)
    # softplus, sigmoid, silu and the gelus have tails e^-t whose argument, of size t, is rounded:
    # t u of themselves. Below the smallest normal number the functions are off by some denormals,
    # which are then multiplied by z.
    tail = np.minimum(np.abs(z.astype(float)), 110) ** (3 if "gelu" in kind else 1)
    tiny = 8 * float(np.finfo(dtype).smallest_subnormal) * np.maximum(np.abs(z.astype(float)), 1)
    relative = FORWARD * u * (1 + (0 if kind in ("tanh", "elu", "selu") else tail / 4))
    if dtype == np.float64:
        relative = 3 * relative  # the reference rounds as well
    within(a, expected, relative * np.abs(expected) + tiny)
    assert a.dtype == dtype

    da = rng.standard_normal(z.shape).astype(dtype)
    saved = z if kind in NEEDS_INPUT else a
    dz = fanin.activation_backward(da, saved, kind)
    wanted = reference.activation_backward(da.astype(np.float64), saved.astype(np.float64), kind)
    within(dz, wanted, BACKWARD * u * np.abs(da) * 2)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_special_arguments(kind, dtype, isa):
    """What the reference gives at 0, infinity and NaN, forward and backward, whatever the sign of
    a zero."""
    info = np.finfo(dtype)
    z = np.array([0.0, -0.0, math.inf, -math.inf, math.nan, info.max, -info.max, info.tiny,
                  -info.tiny, *(s * info.smallest_subnormal for s in (1, -1))], dtype)  # fmt: skip
    a = fanin.activation_forward(z, kind)
    with np.errstate(over="ignore"):
        expected = exact_forward(z, kind).astype(dtype)  # selu of the largest number is infinite
    tiny = 2 * float(info.smallest_subnormal)
    within(a, expected, FORWARD * unit(dtype) * np.abs(expected.astype(float)) + tiny)
    saved = z if kind in NEEDS_INPUT else a
    dz = fanin.activation_backward(np.ones_like(z), saved, kind)
    wanted = reference.activation_backward(np.ones(z.size), saved.astype(np.float64), kind)
    within(np.delete(dz, 4), np.delete(wanted, 4), BACKWARD * unit(dtype) * 2)
    if kind != "identity" and np.isnan(wanted[4]):
        assert np.isnan(dz[4])


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_nan(kind, package, dtype):
    """NaN goes through forward, and from da through backward; its neighbours do not notice."""
    z = np.linspace(-2, 2, 40).astype(dtype)
    clean = package.activation_forward(z, kind)
    z[7] = np.nan
    a = package.activation_forward(z, kind)
    assert np.isnan(a[7])
    same_bits(np.delete(a, 7), np.delete(clean, 7))
    da = np.ones_like(z)
    da[9] = np.nan
    dz = package.activation_backward(da, np.linspace(-0.9, 0.9, 40).astype(dtype), kind)
    assert np.isnan(dz[9])
    assert np.isfinite(np.delete(dz, 9)).all()


DERIVATIVE_AT_ZERO = {
    "identity": 1, "relu": 0, "leaky_relu": 0.01, "elu": 1, "tanh": 1, "sigmoid": 0.25,
    "selu": 1.0507009873554805 * 1.6732632423543772, "gelu": 0.5, "gelu_tanh": 0.5, "silu": 0.5,
    "softplus": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_derivative_at_zero(kind, package, dtype):
    for zero in (0.0, -0.0):
        z = np.array([zero], dtype)
        saved = z if kind in NEEDS_INPUT else package.activation_forward(z, kind)
        dz = package.activation_backward(np.ones(1, dtype), saved, kind)
        within(dz, [DERIVATIVE_AT_ZERO[kind]], 4 * unit(dtype))


def test_values_by_hand(package):
    """One value of each, from the formulas at the top of reference/activation.py."""
    z = np.array([-1.0, 2.0])
    e = math.exp(-1)
    cdf = [0.5 * (1 + math.erf(v / math.sqrt(2))) for v in z]
    logistic = [1 / (1 + math.exp(-v)) for v in z]
    scale, alpha = 1.0507009873554805, 1.6732632423543772
    inner = [math.sqrt(2 / math.pi) * (v + 0.044715 * v**3) for v in z]
    expected = {
        "identity": z, "relu": [0, 2], "leaky_relu": [-0.01, 2], "elu": [e - 1, 2],
        "selu": [scale * alpha * (e - 1), 2 * scale], "tanh": np.tanh(z), "sigmoid": logistic,
        "gelu": z * cdf, "gelu_tanh": 0.5 * z * (1 + np.tanh(inner)), "silu": z * logistic,
        "softplus": [math.log(1 + e), math.log(1 + math.exp(2))],
    }  # fmt: skip
    assert set(expected) == set(ACTIVATIONS)
    for kind, values in expected.items():
        within(package.activation_forward(z, kind), values, 8 * unit("float64") * 2)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["tanh", "gelu"])
def test_layouts(layout, kind, isa, rng):
    z, da = rng.standard_normal((2, 9, 33)).astype(np.float32)
    same_bits(fanin.activation_forward(lay_out(z, layout), kind), fanin.activation_forward(z, kind))
    got = fanin.activation_backward(lay_out(da, layout), lay_out(z, layout), kind)
    same_bits(got, fanin.activation_backward(da, z, kind))


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4), (2, 3, 4, 5), (3, 0, 2)], ids=str)
def test_any_dimensions(shape, package, dtype, rng):
    z = np.asarray(rng.standard_normal(shape)).astype(dtype)
    flat = np.ascontiguousarray(z).reshape(1, -1)
    expected = package.activation_forward(flat, "tanh").reshape(shape)
    got = package.activation_forward(z, "tanh")
    same_bits(np.asarray(got), expected)
    back = package.activation_backward(z, z, "silu")
    same_bits(np.asarray(back), package.activation_backward(flat, flat, "silu").reshape(shape))
    turned = z.T
    same_bits(np.asarray(package.activation_forward(turned, "tanh")), expected.T)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_same_bits_everywhere(kind, dtype, fma_isas, threads, rng):
    z, da = (4 * rng.standard_normal((2, 130, 300))).astype(dtype)
    fanin.set_isa(fma_isas[0])
    a, dz = fanin.activation_forward(z, kind), fanin.activation_backward(da, z, kind)
    for isa in fma_isas:
        fanin.set_isa(isa)
        same_bits(fanin.activation_forward(z, kind), a)
        same_bits(fanin.activation_backward(da, z, kind), dz)
