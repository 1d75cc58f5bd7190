"""Optimizers against their formulas, written out in float64: PyTorch's conventions."""

from __future__ import annotations

import copy
import math
import pickle

import cloudpickle
import numpy as np
import pytest
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer

import fanin
from cases import OPTIMIZER, params
from compare import same_bits, unit, within
from fanin import _core, reference
from fanin.reference import dense
from fanin.reference.optimizer import norm_in_pieces

STEPS = 5


def longhand(name: str, options: dict, p, gradients, decayed=True) -> list[np.ndarray]:
    """The parameters after each update, by the formulas of PyTorch's documentation."""
    p = p.astype(np.float64)
    m, v, found = np.zeros_like(p), np.zeros_like(p), []
    for t, g in enumerate(gradients, start=1):
        g = g.astype(np.float64)
        if "clip_value" in options:
            g = g.clip(-options["clip_value"], options["clip_value"])
        if "clip_norm" in options:
            g = g * min(1.0, options["clip_norm"] / max(np.linalg.norm(g), 1e-300))
        lr = options["lr"](t - 1) if callable(options["lr"]) else options["lr"]
        if name == "SGD":
            momentum = options.get("momentum", 0.0)
            m = momentum * m + g
            p = p - lr * (g + momentum * m if options.get("nesterov") else m)
        elif name == "RMSprop":
            alpha = options.get("alpha", 0.99)
            v = alpha * v + (1 - alpha) * g**2
            p = p - lr * g / (np.sqrt(v) + options.get("eps", 1e-8))
        else:
            b1, b2 = options.get("betas", (0.9, 0.999))
            if name == "AdamW":
                p = p - lr * options.get("weight_decay", 0.01) * p * decayed
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * g**2
            c1, c2, eps = 1 - b1**t, 1 - b2**t, options.get("eps", 1e-8)
            if options.get("eps_hat"):
                p = p - lr * np.sqrt(c2) / c1 * m / (np.sqrt(v) + eps)
            else:
                p = p - lr * (m / c1) / (np.sqrt(v / c2) + eps)
        found.append(p)
    return found


def check(package, name, options, size, dtype, rng, **update):
    """Some updates, each within its bound of the formula's.

    An update is a dozen roundings of terms no larger than `step`, the largest change of any
    parameter (gradients are at least 0.1 in size, so that a sum of opposite ones is no smaller
    than its terms by more than the factor in `step`), and one of p. Errors of the moments stay in
    them: 16 u step per update, added up, twice over.
    """
    p = rng.standard_normal(size).astype(dtype)
    gradients = [
        (rng.choice([-1, 1], size) * rng.uniform(0.1, 1, size)).astype(dtype) for _ in range(STEPS)
    ]
    decayed = update.get("decay_mask", True)
    expected = longhand(name, options, p, gradients, decayed)
    optimizer = getattr(package, name)(**options)
    lr = max(options["lr"](t) if callable(options["lr"]) else options["lr"] for t in range(STEPS))
    step = lr * (30 if name == "SGD" else 10)
    for t, g in enumerate(gradients):
        before = g.copy()
        assert optimizer.update(p, g, **update) is None
        same_bits(g, before)
        bound = (t + 1) * unit(dtype) * (2 * np.abs(expected[t]) + 2 + 32 * step)
        within(p, expected[t], bound)
        assert optimizer.steps == t + 1
    assert not size or np.abs(expected[-1] - expected[0]).max() > 100 * np.max(bound)


@pytest.mark.parametrize("case", params(OPTIMIZER, "check"))
def test_cases(case, dtype, isa, rng):
    check(fanin, case.name, dict(case.arguments), case.size, dtype, rng)


@pytest.mark.parametrize("case", [c.values[0] for c in params(OPTIMIZER, "check")
                                  if c.values[0].size in (0, 17)], ids=str)  # fmt: skip
def test_reference(case, dtype, rng):
    check(reference, case.name, dict(case.arguments), case.size, dtype, rng)


OTHER_SETTINGS = [
    ("RMSprop", {"lr": 0.01, "alpha": 0.9, "eps": 1e-3}),
    ("Adam", {"lr": 0.01, "betas": (0.5, 0.9), "eps": 1e-2}),
    ("Adam", {"lr": 0.01, "betas": (0.0, 0.0)}),
    ("Adam", {"lr": 0.01, "eps": 1e-2, "eps_hat": True}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.3, "betas": (0.8, 0.99)}),
    ("AdamW", {"lr": 0.01, "eps": 1e-2, "eps_hat": True, "clip_norm": 0.5}),
    ("SGD", {"lr": 0.1, "momentum": 0.5, "nesterov": True}),
]


@pytest.mark.parametrize(("name", "options"), OTHER_SETTINGS, ids=str)
def test_settings(name, options, package, dtype, rng):
    check(package, name, options, 100, dtype, rng)


def test_decay_mask(package, dtype, isa, rng):
    """What the mask leaves out follows Adam, the rest AdamW."""
    for size in (1, 7, 16, 33, 1000):
        mask = rng.random(size) < 0.5
        options = {"lr": 0.01, "weight_decay": 0.5}
        check(package, "AdamW", options, size, dtype, rng, decay_mask=mask)


def test_decay_mask_of_all_and_none(package, dtype, rng):
    p, g = rng.standard_normal((2, 40)).astype(dtype)

    def updated(make, **options):
        parameters = p.copy()
        make.update(parameters, g, **options)
        return parameters

    all_of_it = updated(package.AdamW(0.1))
    same_bits(updated(package.AdamW(0.1), decay_mask=np.ones(40, bool)), all_of_it)
    same_bits(
        updated(package.AdamW(0.1), decay_mask=np.zeros(40, bool)), updated(package.Adam(0.1))
    )
    same_bits(updated(package.AdamW(0.1, weight_decay=0.0)), updated(package.Adam(0.1)))


def test_scikit_learns_adam(package, dtype, isa, rng):
    """Its eps is added before the correction: 100 updates, each within the bound of `check`."""
    p = rng.standard_normal(1000).astype(dtype)
    expected = p.astype(np.float64)
    theirs = AdamOptimizer([expected], learning_rate_init=0.01, epsilon=1e-3)
    ours = package.Adam(0.01, eps=1e-3, eps_hat=True)
    pytorchs, q = package.Adam(0.01, eps=1e-3), p.copy()
    for t in range(100):
        g = (rng.choice([-1, 1], 1000) * rng.uniform(0.1, 1, 1000)).astype(dtype)
        theirs.update_params([expected], [g.astype(np.float64)])
        ours.update(p, g)
        pytorchs.update(q, g)
        within(p, expected, (t + 1) * unit(dtype) * (2 * np.abs(expected) + 2 + 32 * 0.1))
    # the other eps is 1 / 32 of theirs at first: up to a quarter of a step of 0.01 between them
    assert np.abs(q - expected).max() > 1e-3


def test_eps_hat_set_later(rng):
    """Read at each update; on gradients this small the two differ by most of a step."""
    p, g = np.zeros(20), np.full(20, 1e-8)
    optimizer = fanin.Adam(1.0)
    optimizer.update(p, g)
    # m / c1 = sqrt(v / c2) = eps; a dozen roundings of parts of 1
    within(p, np.full(20, -0.5), 12 * unit("float64"))
    optimizer.reset()
    optimizer.eps_hat = True
    q = np.zeros(20)
    optimizer.update(q, g)
    root = math.sqrt(1 - 0.999)  # sqrt(c2), and sqrt(v) = root eps
    within(q, np.full(20, -root / (root + 1)), 12 * unit("float64"))


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_of_one(nesterov, package, dtype, rng):
    """No sum that fades: set as an attribute, as the constructor refuses it."""
    p = rng.standard_normal(100).astype(dtype)
    gradients = (0.1 + rng.random((STEPS, 100))).astype(dtype)
    options = {"lr": 0.1, "momentum": 1.0, "nesterov": nesterov}
    expected = longhand("SGD", options, p, gradients)
    optimizer = package.SGD(0.1, momentum=0.9, nesterov=nesterov)
    optimizer.momentum = 1.0
    for t, g in enumerate(gradients):
        optimizer.update(p, g)
        # t + 1 sums of at most t + 2 gradients below 1.1, three roundings each
        within(p, expected[t], 3 * (t + 1) * unit(dtype) * (np.abs(expected[t]) + 0.1 * 1.1 * 7))
    steps = STEPS + nesterov
    within(optimizer.step_size(0.1), 0.1 * steps, 2 * unit("float64") * 0.1 * steps)


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam", "AdamW"])
def test_learning_rate_of_the_step(name, package, rng):
    """A function of the number of updates done before: 0, 1, ..."""
    seen = []

    def schedule(step):
        seen.append(step)
        return 0.1 / (step + 1)

    check(package, name, {"lr": schedule}, 5, "float64", rng)
    assert {0, 1, 2, 3, 4} <= set(seen) <= set(range(STEPS + 1))


@pytest.mark.parametrize("lr", [math.nan, -1.0, "0.1"])
def test_learning_rate_that_is_none(lr, package):
    """What the function returns is checked before anything is written."""
    p = np.ones(3)
    optimizer = package.Adam(lambda step: lr)
    with pytest.raises((TypeError, ValueError), match=r"lr\(0\)"):
        optimizer.update(p, np.ones(3))
    same_bits(p, np.ones(3))
    assert optimizer.steps == 0


@pytest.mark.parametrize("case", [c.values[0] for c in params(OPTIMIZER, "check")
                                  if c.values[0].size == 1000], ids=str)  # fmt: skip
def test_same_bits_everywhere(case, dtype, fma_isas, threads, rng):
    """Equal on every set with fma and for any threads; 100,003 elements are several parts."""
    start = rng.standard_normal(100_003).astype(dtype)
    gradients = rng.standard_normal((3, start.size)).astype(dtype)

    def updated():
        p, optimizer = start.copy(), case.make(fanin)
        for g in gradients:
            optimizer.update(p, g)
        return p

    fanin.set_num_threads(1)
    expected = updated()
    fanin.set_num_threads(threads)
    for isa in fma_isas:
        fanin.set_isa(isa)
        same_bits(updated(), expected)


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam"])
def test_denormal_moments_become_zero(name, package, dtype):
    """A moment below the smallest normal number is set to 0: it would only be slow."""
    tiny = float(np.finfo(dtype).tiny)
    options = {"momentum": 0.9} if name == "SGD" else {}
    optimizer = getattr(package, name)(lr=0.1, **options)
    p = np.zeros(3, dtype)
    # moments of SGD: g; of the others (1 - beta) g, and g^2 (1 - beta), which underflows for both
    optimizer.update(p, np.array([0.5 * tiny, 0.0, 1.0], dtype))
    for moment in optimizer.state.values():
        assert moment[0] == 0
        assert moment[1] == 0
        assert moment[2] > 0
    for _ in range(3000):
        optimizer.update(p, np.zeros(3, dtype))
        for moment in optimizer.state.values():
            assert (moment[2] == 0) or abs(moment[2]) >= tiny
    assert np.isfinite(p).all()


def test_zero_gradients(package, dtype):
    """0 / (sqrt(0) + eps) is 0, not NaN."""
    for name in ("SGD", "RMSprop", "Adam"):
        p = np.ones(20, dtype)
        getattr(package, name)(lr=0.1).update(p, np.zeros(20, dtype))
        same_bits(p, np.ones(20, dtype))


def test_huge_gradients(package):
    """A square that overflows makes the step 0 at worst, never NaN."""
    for name in ("RMSprop", "Adam"):
        p = np.ones(20, np.float32)
        getattr(package, name)(lr=0.1).update(p, np.full(20, 1e30, np.float32))
        assert np.isfinite(p).all()


def test_nan_gradients_show(package, dtype):
    for name in ("SGD", "RMSprop", "Adam", "AdamW"):
        p, g = np.ones(20, dtype), np.ones(20, dtype)
        g[3] = np.nan
        getattr(package, name)(lr=0.1).update(p, g)
        assert np.isnan(p[3])
        assert np.isfinite(np.delete(p, 3)).all()


def test_state(package, dtype, rng):
    optimizer = package.Adam()
    assert optimizer.state == {}
    p, g = rng.standard_normal((2, 10)).astype(dtype)
    optimizer.update(p, g)
    assert set(optimizer.state) == set(package.Adam.moments)
    for moment in optimizer.state.values():
        assert moment.shape == (10,)
        assert moment.dtype == dtype
    with pytest.raises(ValueError, match="parameters"):
        optimizer.update(np.zeros(11, dtype), np.zeros(11, dtype))
    other = "float64" if dtype == "float32" else "float32"
    with pytest.raises(ValueError, match="parameters"):
        optimizer.update(np.zeros(10, other), np.zeros(10, other))
    assert optimizer.steps == 1
    optimizer.reset()
    assert (optimizer.steps, optimizer.state) == (0, {})
    optimizer.update(np.zeros(11, dtype), np.zeros(11, dtype))


@pytest.mark.parametrize("through", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam", "AdamW"])
def test_copies_go_on_alike(name, through, package, rng):
    p, g = rng.standard_normal((2, 30))
    options = {"momentum": 0.9} if name == "SGD" else {}
    optimizer = getattr(package, name)(lr=0.1, **options)
    optimizer.update(p, g)
    twin, q = through(optimizer), p.copy()
    optimizer.update(p, g)
    twin.update(q, g)
    same_bits(q, p)
    for moment in optimizer.state:
        assert not np.shares_memory(twin.state[moment], optimizer.state[moment])
    optimizer.update(p, g)
    assert twin.steps == 2
    assert not np.array_equal(p, q)


def test_schedules_travel(package):
    """Plain pickle cannot take a lambda, cloudpickle can, inside of an optimizer as well."""
    optimizer = package.Adam(lambda step: 0.5)
    assert pickle.loads(cloudpickle.dumps(optimizer)).lr(3) == 0.5


def test_repr_makes_it_again(package):
    for optimizer in (
        package.SGD(0.1, momentum=0.9, nesterov=True),
        package.RMSprop(0.2, alpha=0.8),
        package.Adam(0.3, betas=(0.8, 0.9)),
        package.Adam(0.3, eps_hat=True),
        package.AdamW(0.4, weight_decay=0.2),
        package.RMSprop(0.5, clip_norm=1, clip_value=0.5),
    ):
        again = eval(repr(optimizer), vars(package))
        assert type(again) is type(optimizer)
        assert repr(again) == repr(optimizer)
        assert ("clip" in repr(optimizer)) == (optimizer.clip_norm is not None)


# ---- clipping --------------------------------------------------------------------------------


def clipped(package, g, **limits) -> np.ndarray:
    """What the rule sees of g: SGD's step of size 1 from 0, which rounds nothing."""
    p, before = np.zeros_like(g), g.copy()
    package.SGD(1.0, **limits).update(p, g)
    same_bits(g, before)
    return 0 - p


@pytest.mark.parametrize("count", [0, 1, 15, 17, 8191, 8193, 100_001])
def test_norm(count, dtype, fma_isas, rng):
    """In double, the same bits on every instruction set and number of threads."""
    x = (rng.standard_normal(count) * 10.0 ** rng.integers(-20, 18, count)).astype(dtype)
    exact = math.sqrt(math.fsum(float(v) * float(v) for v in x))
    before, found = fanin.get_num_threads(), set()
    for isa in fma_isas:
        fanin.set_isa(isa)
        for threads in (1, 2, 3):
            fanin.set_num_threads(threads)
            found.add(_core.norm(x))
    fanin.set_num_threads(before)
    (norm,) = found
    # a square is rounded, added to a lane of 8192 / 16, 16 lanes and 13 pieces are added: each with
    # u of a sum that only grows; the root halves that and is rounded itself, here and above
    assert abs(norm - exact) <= ((1 + 512 + 4 + 13) / 2 + 2) * unit("float64") * exact
    assert norm == norm_in_pieces(x)
    assert abs(dense.norm(x) - exact) <= (count / 2 + 2) * unit("float64") * exact


def test_norm_of_what_is_not_finite(dtype, isa):
    x = np.ones(100, dtype)
    x[70] = math.inf
    assert _core.norm(x) == dense.norm(x) == math.inf
    x[71] = math.nan
    assert math.isnan(_core.norm(x)) and math.isnan(dense.norm(x))


def test_clip_norm(package, dtype, isa):
    """The direction stays, the norm is the limit: a scale and a product are rounded."""
    g = np.array([3, -4], dtype)
    within(clipped(package, g, clip_norm=1.0), [0.6, -0.8], 2 * unit(dtype))
    within(clipped(package, g, clip_norm=4.99), g * np.float64(0.998), 8 * unit(dtype))
    for enough in (5.0, 5.01, 1e300):
        same_bits(clipped(package, g, clip_norm=enough), g)


def test_clip_value(package, dtype, isa):
    """Entry by entry, and before the norm."""
    g = np.array([3, -4, 0.5, -0.25, 0], dtype)
    expected = np.array([2, -2, 0.5, -0.25, 0], dtype)
    same_bits(clipped(package, g, clip_value=2.0), expected)
    same_bits(clipped(package, g, clip_value=1e300), g)
    both = clipped(package, g, clip_value=2.0, clip_norm=1.0)
    within(both, expected / np.linalg.norm(expected.astype(float)), 3 * unit(dtype))


NORM_SIZES = (1, 15, 16, 17, 100, 8191, 8192, 8193, 16 * 8192 + 3, 40 * 8192)


@pytest.mark.parametrize("size", NORM_SIZES)
def test_clipped_bits(size, dtype, isa, threads, rng):
    """On any set, the one without fma too, for any threads, and in NumPy."""
    g = (rng.standard_normal(size) * 10.0 ** rng.integers(-20, 15, size)).astype(dtype)
    for limits in ({"clip_norm": 1.0}, {"clip_norm": 1.0, "clip_value": 3.0}):
        same_bits(clipped(fanin, g, **limits), clipped(reference, g, **limits))


def test_norm_is_accurate(package, dtype, rng):
    """Sums of so few terms per lane are off by less than the rounding of the scale."""
    g = rng.standard_normal(100_003).astype(dtype)
    norm = math.sqrt(math.fsum(float(x) ** 2 for x in g))
    bound = 4 * unit(dtype) * np.abs(g) / norm + 800 * unit("float64") * np.abs(g) / norm
    within(clipped(package, g, clip_norm=1.0), g.astype(float) / norm, bound)


def test_clipping_of_huge_and_tiny_gradients(package):
    """Squares of float32 neither overflow nor vanish in double."""
    for size in (1e30, 1e-30):
        g = np.full(4, size, np.float32)
        expected = np.full(4, size / 4)
        within(clipped(package, g, clip_norm=size / 2), expected, 4 * unit("float32") * size)


def test_limits_that_nothing_reaches(package, dtype, rng):
    """The bits of no limit."""
    p, g = rng.standard_normal((2, 1000)).astype(dtype)
    for name in ("SGD", "RMSprop", "Adam", "AdamW"):
        found = []
        for limits in ({}, {"clip_norm": 1e3}, {"clip_value": 1e3}):
            q, optimizer = p.copy(), getattr(package, name)(lr=0.1, **limits)
            for _ in range(3):
                optimizer.update(q, g)
            found.append(q)
        same_bits(found[1], found[0])
        same_bits(found[2], found[0])


def test_clipping_zero_gradients(package, dtype):
    for limits in ({"clip_norm": 1.0}, {"clip_value": 1.0}, {"clip_norm": 1e-30}):
        assert not clipped(package, np.zeros(20, dtype), **limits).any()


def test_clipping_what_is_no_number(package, dtype, isa):
    """It shows: a NaN stays, and makes a norm NaN; an infinite norm leaves 0, and NaN for inf."""
    g = np.ones(37, dtype)
    g[5], g[36] = np.nan, -np.inf
    kept = clipped(package, g, clip_value=0.5)
    assert np.isnan(kept[5])
    assert kept[36] == -0.5
    assert (np.delete(kept, [5, 36]) == 0.5).all()
    assert np.isnan(clipped(package, g, clip_norm=1.0)).all()
    assert np.isnan(clipped(package, g, clip_norm=1.0, clip_value=0.5)).all()
    g[5] = 1
    found = clipped(package, g, clip_norm=1.0)
    assert np.isnan(found[36])
    assert not found[:36].any()
    finite = clipped(package, g, clip_norm=1.0, clip_value=1.0)  # the limit comes first
    within(finite, np.copysign(37**-0.5, g), 4 * unit(dtype))


def test_limits_travel(package, rng):
    p, g = rng.standard_normal((2, 30))
    optimizer = package.Adam(0.1, clip_norm=0.5, clip_value=0.3)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert (twin.clip_norm, twin.clip_value) == (0.5, 0.3)
        one, other = p.copy(), p.copy()
        optimizer.reset()
        optimizer.update(one, g)
        twin.update(other, g)
        same_bits(other, one)


@pytest.mark.parametrize("limit", ["clip_norm", "clip_value"])
def test_limits_set_later(limit, rng):
    """They are read at each update; what is no limit is refused before anything is written."""
    p, g = rng.standard_normal((2, 30))
    before, optimizer = p.copy(), fanin.SGD(1.0)
    for wrong in (0.0, -1.0, math.nan, "1"):
        setattr(optimizer, limit, wrong)
        with pytest.raises(ValueError, match=limit if wrong != "1" else "settings"):
            optimizer.update(p, g)
    same_bits(p, before)
    setattr(optimizer, limit, 0.1)
    optimizer.update(p, g)
    same_bits(p, before - clipped(fanin, g, **{limit: 0.1}))
