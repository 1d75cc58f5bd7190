"""What a training step does on CUDA beside its products, against the reference in float64.

`fanin._cuda.host` copies NumPy arrays to the device and back, so that the same tests run on a GPU
and on the emulator.  Inputs are rounded to the dtype under test before the reference sees them;
outputs are NaN before each call; what lies between the rows of a matrix must stay as it is.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from compare import same_bits
from fanin import reference
from fanin.reference.dense import limit_norms, shrink
from fanin.reference.loss import LossForm, sigmoid_loss, softmax, softmax_loss, squared_loss
from fanin.reference.training import gather

cuda = pytest.importorskip("fanin._cuda", reason="fanin was built without FANIN_CUDA")
if not cuda.emulated and cuda.available() is not None:
    pytest.skip(f"no GPU: {cuda.available()}", allow_module_level=True)
host = cuda.host

WIDE = ["float32", "float64"]
ALL = [*WIDE, "float16", "bfloat16"]

# Norm-wise relative errors: what is asked of CUDA for float32 and 16-bit types. Sums are made in
# double or over at most 2^13 elements of float64, each of which costs at most 2^-53 of the sum.
LIMIT = {"float32": 1e-5, "float64": 2.0**-53 * 2**13, "float16": 1e-2, "bfloat16": 1e-2}


def stored(x, dtype):
    """The array that holds x in this dtype: bits where NumPy has none such."""
    if dtype != "bfloat16":
        return np.asarray(x).astype(dtype)
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(np.asarray(x)), 0x7FC0, rounded).astype(np.uint16)


def wide(x):
    """What is stored, in float64."""
    if x.dtype == np.uint16:
        return (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return x.astype(np.float64)


LAYOUTS = ["padded", "shifted"]  # lanes of 16 bytes where n allows; single ones


def place(x, layout):
    """A copy of x: contiguous, or rows of a wider matrix of NaN, from its second column or not."""
    if layout == "contiguous":
        return x.copy()
    m, n = x.shape
    nan = 0x7FC0 if x.dtype == np.uint16 else 255 if x.dtype == np.uint8 else np.nan
    first = layout == "shifted"
    base = np.full((m, n + (-n) % 16 + 16), nan, x.dtype)
    view = base[:, first : first + n]
    view[...] = x
    return view


def poisoned(m, n, dtype, layout="contiguous"):
    return place(stored(np.full((m, n), np.nan), dtype), layout)


def untouched(view):
    """Fail where something between the rows of a placed matrix has been written."""
    if view.base is not None and view.size:
        base = view.base.copy()
        first = (view.ctypes.data - view.base.ctypes.data) // view.itemsize
        base[:, first : first + view.shape[1]] = base[-1, -1]
        same_bits(base, np.full_like(base, base[-1, -1]))
        assert base[-1, -1] == 0x7FC0 or np.isnan(base[-1, -1])


def close(got, expected, dtype, limit=None):
    """Fail unless got is near expected by norm and, to the largest, in each element."""
    got, expected = np.asarray(got), np.asarray(expected, np.float64)
    got = wide(got)
    limit = limit or LIMIT[dtype]
    assert got.shape == expected.shape
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(got[~finite], expected[~finite])
    off, size = np.abs(got[finite] - expected[finite]), np.abs(expected[finite])
    if size.size:
        assert np.isfinite(got[finite]).all()
        assert np.linalg.norm(off) <= limit * np.linalg.norm(size)
        assert off.max() <= 4 * limit * size.max()


# ---- batch norm: tiles of 8 threads by 1, 2 or 4 columns, chunks of 64 rows and more ------------

NORMALISED = [(2, 1), (3, 8), (63, 33), (64, 32), (129, 36), (2049, 9)]


def batch_norm_inputs(m, n, dtype, layout, rng, centre=1.0):
    x = place((centre + 2 * rng.standard_normal((m, n))).astype(dtype), layout)
    vectors = rng.standard_normal((4, n)).astype(dtype)
    vectors[3] = 0.5 + rng.random(n)
    return x, list(vectors)


def batch_norm_forward(x, vectors, training, momentum=0.1, eps=1e-5, in_place=False, keep=True):
    """y, x_hat, inv_std, running mean and variance of the device."""
    x = place(x, "contiguous") if in_place and x.base is None else x
    layout = "contiguous" if x.base is None else "padded"
    y = x if in_place else poisoned(*x.shape, x.dtype.name, layout)
    x_hat = poisoned(*x.shape, x.dtype.name) if keep else None
    inv_std = np.full(x.shape[1], np.nan, x.dtype)
    gamma, beta, mean, var = (v.copy() for v in vectors)
    host.batch_norm_forward(x, gamma, beta, mean, var, y, x_hat, inv_std, training, momentum, eps)
    untouched(y)
    return y, x_hat, inv_std, mean, var


def expected_batch_norm(x, vectors, training, momentum=0.1, eps=1e-5):
    gamma, beta, mean, var = (wide(v) for v in vectors)
    y, cache = reference.batch_norm_forward(
        wide(x), gamma, beta, mean, var, training=training, momentum=momentum, eps=eps
    )
    return y, cache.x_hat, cache.inv_std, mean, var


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("m", "n"), NORMALISED)
def test_batch_norm_forward(m, n, layout, dtype, rng):
    x, vectors = batch_norm_inputs(m, n, dtype, layout, rng)
    got = batch_norm_forward(x, vectors, True, momentum=0.3, eps=1e-3)
    for a, b in zip(got, expected_batch_norm(x, vectors, True, 0.3, 1e-3), strict=True):
        close(a, b, dtype)
    got = batch_norm_forward(x, vectors, False)
    for a, b in zip(got, expected_batch_norm(x, vectors, False), strict=True):
        close(a, b, dtype)


@pytest.mark.parametrize("dtype", WIDE)
def test_batch_norm_in_place(dtype, rng):
    x, vectors = batch_norm_inputs(70, 12, dtype, "padded", rng)
    expected = expected_batch_norm(x, vectors, True)
    y, x_hat, *_ = batch_norm_forward(x, vectors, True, in_place=True, keep=False)
    assert y is x
    assert x_hat is None
    close(y, expected[0], dtype)


def test_batch_norm_of_no_row_and_of_one(rng):
    for m in (0, 1):
        x, vectors = batch_norm_inputs(m, 5, "float32", "contiguous", rng)
        for a, b in zip(
            batch_norm_forward(x, vectors, False), expected_batch_norm(x, vectors, False),
            strict=True,
        ):  # fmt: skip
            close(a, b, "float32")


def test_batch_norm_far_from_zero(rng):
    """A mean a thousand times the spread: x itself is off by 2^-24 * 1000 of the spread."""
    x, vectors = batch_norm_inputs(300, 8, "float32", "contiguous", rng, centre=2000.0)
    got = batch_norm_forward(x, vectors, True)
    expected = expected_batch_norm(x, vectors, True)
    for a, b in zip(got[:2], expected[:2], strict=True):
        close(a, b, "float32", limit=2e-24 + 2.0**-24 * 1000)
    for a, b in zip(got[2:], expected[2:], strict=True):
        close(a, b, "float32")


def test_batch_norm_of_what_is_no_number(rng):
    """A column with NaN or infinity is lost, as in the reference, and no other."""
    x, vectors = batch_norm_inputs(130, 6, "float32", "contiguous", rng)
    x[0, 1], x[77, 2], x[0, 4] = np.nan, np.inf, -np.inf
    got = batch_norm_forward(x, vectors, True)
    expected = expected_batch_norm(x, vectors, True)
    for a, b in zip(got, expected, strict=True):
        close(a, b, "float32")


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("m", "n"), [(1, 1), *NORMALISED])
def test_batch_norm_backward(m, n, layout, training, dtype, rng):
    x_hat = place(rng.standard_normal((m, n)).astype(dtype), layout)
    dy = place(rng.standard_normal((m, n)).astype(dtype), layout)
    gamma, inv_std = rng.standard_normal((2, n)).astype(dtype)
    cache = reference.batch_norm.BatchNormCache(wide(x_hat), wide(gamma), wide(inv_std), training)
    expected = reference.batch_norm_backward(wide(dy), cache)
    dgamma, dbeta = np.full((2, n), np.nan, dtype)
    dx = poisoned(m, n, dtype, layout)
    for out in (dx, dy):  # the last in place
        host.batch_norm_backward(dy, x_hat, gamma, inv_std, out, dgamma, dbeta, training)
        untouched(out)
        # the three terms of dx may cancel, as they do for few rows
        size = np.linalg.norm(wide(gamma * inv_std) * (np.abs(wide(x_hat)) + 1))
        assert np.linalg.norm(wide(out) - expected.dx) <= 4 * LIMIT[dtype] * size
        terms = np.sqrt(m) + np.linalg.norm(wide(x_hat), axis=0)
        assert (np.abs(wide(dgamma) - expected.dgamma) <= LIMIT[dtype] * terms).all()
        assert (np.abs(wide(dbeta) - expected.dbeta) <= LIMIT[dtype] * terms).all()


# ---- losses: 4, 32 or 256 threads a row; one block or many ---------------------------------------

PLAIN = LossForm()
FORMED = LossForm(value=0.5, gradient=3.0, clip=0.01)
ROWS = [(1, 1), (1, 10), (5, 2), (600, 10), (3, 16), (70, 17), (3, 32), (7, 33), (9, 100),
        (2, 2048), (3, 2052), (2, 4099)]  # fmt: skip


def run_loss(function, z, target, dtype, divisor, *, sample_weight=None, class_weight=None,
             smoothing=0.0, form=PLAIN, dz=None):  # fmt: skip
    weights = [None if w is None else stored(w, dtype) for w in (sample_weight, class_weight)]
    labels = target if target.dtype == np.int64 else None
    return function(
        z, labels, target if labels is None else None, *weights, smoothing, divisor,
        form.numbers(), dz,
    )  # fmt: skip


def check_loss(got, dz, expected, expected_dz, dtype):
    # losses are sums in float or double even of 16-bit logits, whose exponential is good to 2^-20
    limit = {"float64": 1e-12}.get(dtype, 1e-5)
    assert math.isnan(got) == math.isnan(expected)
    assert math.isnan(got) or abs(got - expected) <= limit * abs(expected) or got == expected
    close(dz, expected_dz, dtype)


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("m", "n"), ROWS)
def test_softmax_cross_entropy(m, n, layout, dtype, rng):
    z = place(stored(3 * rng.standard_normal((m, n)), dtype), layout)
    labels = rng.integers(0, n, m)
    s = wide(stored(0.1 + rng.random(m), dtype))
    c = wide(stored(0.1 + rng.random(n), dtype))
    q = rng.random((m, n))
    q = place(stored(q / q.sum(axis=1, keepdims=True), dtype), layout)
    for weighted, of_labels, form in [
        (False, True, PLAIN), (True, True, FORMED), (False, False, PLAIN), (True, False, FORMED)
    ]:  # fmt: skip
        sw, cw, smoothing = (s, c, 0.1) if weighted else (None, None, 0.0)
        divisor = float((s * c[labels]).sum() if of_labels else s.sum()) if weighted else float(m)
        target = labels if of_labels else q
        expected = softmax_loss(wide(z), labels if of_labels else wide(q), sw, cw, smoothing, form)
        if n == 1:  # costs nothing but what the form says; the gradient is 0
            expected = (expected[0], np.zeros_like(expected[1]))
        dz = poisoned(m, n, dtype, layout)
        options = {"sample_weight": sw, "class_weight": cw, "smoothing": smoothing, "form": form}
        got = run_loss(host.softmax_cross_entropy, z, target, dtype, divisor, dz=dz, **options)
        if n > 1:
            check_loss(got, dz, *expected, dtype)
        untouched(dz)
        alone = run_loss(host.softmax_cross_entropy, z, target, dtype, divisor, **options)
        assert alone == got
        in_place = z.copy()
        again = run_loss(
            host.softmax_cross_entropy, in_place, target, dtype, divisor, dz=in_place, **options
        )
        if layout != "shifted":  # where lanes are as wide
            assert again == got
            same_bits(in_place, np.ascontiguousarray(dz))
    assert labels.dtype == np.int64


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("n", [10, 40, 2100])
def test_softmax_of_what_is_no_number(n, dtype, rng):
    z = rng.standard_normal((6, n))
    z[1, 3], z[2, 0], z[3, 5], z[5] = np.nan, np.inf, -np.inf, -np.inf
    z = stored(z, dtype)
    labels = np.array([0, 1, 2, 3, 4, 0])
    with np.errstate(invalid="ignore"):
        expected = softmax_loss(wide(z), labels, None, None, 0.0)
        p = softmax(wide(z))
    dz = poisoned(6, n, dtype)
    got = run_loss(host.softmax_cross_entropy, z, labels, dtype, 6.0, dz=dz)
    assert math.isnan(got)
    close(dz, expected[1], dtype)
    out = poisoned(6, n, dtype)
    host.softmax(z, out)
    close(out, p, dtype)
    # a logit of -inf costs nothing where it is not wanted, and everything where it is
    got = run_loss(host.softmax_cross_entropy, z[3:5], labels[3:5], dtype, 2.0, dz=dz[3:5].copy())
    check_loss(got, dz[3:5], *softmax_loss(wide(z[3:5]), labels[3:5], None, None, 0.0)[:1],
               expected[1][3:5], dtype)  # fmt: skip
    wanted = np.array([5, 4])
    assert run_loss(host.softmax_cross_entropy, z[3:5], wanted, dtype, 2.0) == math.inf


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("m", "n"), [*ROWS, (200, 33)])
def test_softmax(m, n, layout, dtype, rng):
    z = place(stored(5 * rng.standard_normal((m, n)), dtype), layout)
    p = poisoned(m, n, dtype, layout)
    expected = softmax(wide(z))
    host.softmax(z, p)
    untouched(p)
    close(p, expected, dtype)
    host.softmax(z, z)
    same_bits(np.ascontiguousarray(z), np.ascontiguousarray(p))


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("m", "n"), ROWS)
def test_losses_of_elements(m, n, layout, dtype, rng):
    z = place(stored(3 * rng.standard_normal((m, n)), dtype), layout)
    t = place(stored(rng.random((m, n)), dtype), layout)
    s = wide(stored(0.1 + rng.random(m), dtype))
    for sw, smoothing, form in [(None, 0.0, PLAIN), (s, 0.2, FORMED)]:
        divisor = float((m if sw is None else sw.sum()) * n)
        dz = poisoned(m, n, dtype, layout)
        got = run_loss(
            host.sigmoid_cross_entropy, z, t, dtype, divisor, sample_weight=sw,
            smoothing=smoothing, form=form, dz=dz,
        )  # fmt: skip
        check_loss(got, dz, *sigmoid_loss(wide(z), wide(t), sw, smoothing, form), dtype)
        untouched(dz)
        dz = z.copy()
        got = run_loss(
            host.mean_squared_error, dz, t, dtype, divisor, sample_weight=sw, form=form, dz=dz
        )
        check_loss(got, dz, *squared_loss(wide(z), wide(t), sw, form), dtype)


def test_sigmoid_of_what_is_no_number():
    """NaN stays NaN, clipped or not; what is right costs nothing, however sure."""
    z = np.array([[np.inf, -np.inf, 200.0, -200.0]], np.float32)
    t = np.array([[1.0, 0.0, 1.0, 0.0]], np.float32)
    dz = poisoned(1, 4, "float32")
    got = run_loss(host.sigmoid_cross_entropy, z[:, 2:], t[:, 2:], "float32", 2.0, dz=dz[:, 2:])
    assert got == 0
    np.testing.assert_array_equal(dz[:, 2:], 0)
    got = run_loss(host.sigmoid_cross_entropy, z, 1 - t, "float32", 4.0, form=FORMED)
    assert got == pytest.approx(-0.5 * math.log(0.01), rel=1e-5)
    z[0, 0] = np.nan
    for form in (PLAIN, FORMED):
        got = run_loss(host.sigmoid_cross_entropy, z, t, "float32", 4.0, form=form, dz=dz)
        assert math.isnan(got)
        assert np.isnan(dz[0, 0])
        assert np.isfinite(dz[0, 1:]).all()


# ---- optimizers ----------------------------------------------------------------------------------

COUNTS = [1, 3, 4, 5, 1023, 40001]  # the last: more than one turn of the emulator's blocks
RULES = {
    "sgd": reference.SGD(0.01),
    "momentum": reference.SGD(0.01, momentum=0.9),
    "nesterov": reference.SGD(0.01, momentum=0.9, nesterov=True),
    "rmsprop": reference.RMSprop(0.01, alpha=0.95),
    "adam": reference.Adam(0.01),
    "eps_hat": reference.Adam(0.01, eps=1e-3, eps_hat=True),
    "adamw": reference.AdamW(0.01, weight_decay=0.1),
}


def numbers_of(rule, lr, steps_done):
    """As cpp/net/optimizer.hpp has them: lr, correction, step_size, decay; the constants."""
    constants = {"eps": getattr(rule, "eps", 0.0), "clip_value": rule.clip_value or math.inf}
    if isinstance(rule, reference.SGD):
        terms = steps_done + (2 if rule.nesterov else 1)
        size = lr * sum(rule.momentum**i for i in range(terms))
        return (lr, 1.0, size, 0.0), {**constants, "beta1": rule.momentum}
    if isinstance(rule, reference.RMSprop):
        return (lr, 1.0, lr, 0.0), {**constants, "beta2": rule.alpha}
    beta1, beta2 = rule.betas
    root = math.sqrt(1 - beta2 ** (steps_done + 1))
    constants |= {"beta1": beta1, "beta2": beta2}
    decay = lr * getattr(rule, "weight_decay", 0.0)
    first = lr / (1 - beta1 ** (steps_done + 1))
    if rule.eps_hat:
        return (first * root, 1.0, lr * root, decay), constants
    return (first, 1 / root, lr, decay), constants


class Device:
    """An optimizer's vectors and steps on the device; `shift` elements from aligned memory."""

    def __init__(self, rule, p, shift=0):
        self.rule, self.steps = rule, 0
        self.p = self.vector(p, shift)
        names = {"momentum": "first", "mean": "first", "square": "second"}
        self.state = {"first": None, "second": None}
        for name in rule.moments:
            self.state[names[name]] = self.vector(np.zeros_like(p), shift)

    @staticmethod
    def vector(x, shift):
        base = np.full(x.size + shift + 16, np.nan, x.dtype)
        start = shift + (-base.ctypes.data // x.itemsize) % (16 // x.itemsize)
        base[start : start + x.size] = x
        return base[start : start + x.size]

    def update(self, g, *, mask=None, norm=None, rates=False, squares=False, **more):
        (lr, correction, step_size, decay), constants = numbers_of(
            self.rule, self.rule.lr, self.steps
        )
        now = {"lr": lr, "correction": correction, "step_size": step_size, "decay": decay}
        table = None
        if rates:  # the numbers in the update itself are not to be looked at
            table = np.full((5, 4), np.nan)
            table[self.steps + 1] = lr, correction, step_size, decay
            now = dict.fromkeys(now, math.nan)
        name = type(self.rule).__name__.lower().replace("adamw", "adam")
        self.steps += 1
        return host.update(
            name, self.p, g, self.state["first"], self.state["second"],
            {**now, **constants, **more}, mask, getattr(self.rule, "nesterov", False), norm, table,
            self.steps, squares,
        )  # fmt: skip


def fresh(rule, **changes):
    """The same rule without a state, with other settings."""
    return type(rule)(**{**rule._settings(), **changes})


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", RULES)
def test_updates(name, count, dtype, rng):
    """Three steps from parameters as small as a step, so that p shows the step's own error."""
    rule = fresh(RULES[name], clip_value=1.5)
    p = (1e-2 * rng.standard_normal(count)).astype(dtype)
    mask = rng.random(count) < 0.5
    shifted, table = Device(rule, p, shift=1), Device(rule, p)
    device, expected = Device(rule, p), wide(p)
    expected_rule = fresh(rule)
    for step in range(3):
        g = rng.standard_normal(count).astype(dtype)
        options = {"mask": mask} if name == "adamw" and step < 2 else {}
        device.update(Device.vector(g, 0), **options)
        shifted.update(Device.vector(g, 1), **options)
        table.update(g, rates=True, **options)
        more = {"decay_mask": mask} if options else {}
        expected_rule.update(expected, wide(g), **more)
    # three steps, each of some ten roundings, of terms that may cancel
    limit = 2.0**-24 * 64 if dtype == "float32" else 2.0**-53 * 64
    assert np.abs(wide(device.p) - expected).max() <= limit * 0.1
    for moment, key in (("momentum", "first"), ("mean", "first"), ("square", "second")):
        if moment in expected_rule.state:
            got = wide(device.state[key])
            assert np.abs(got - expected_rule.state[moment]).max() <= limit * 5
    for other in (shifted, table):
        same_bits(other.p, device.p)
        for key, state in device.state.items():
            if state is not None:
                same_bits(other.state[key], state)


@pytest.mark.parametrize("name", RULES)
def test_updates_write_nothing_else(name, rng):
    device = Device(RULES[name], rng.standard_normal(37).astype(np.float32), shift=2)
    g = rng.standard_normal(37).astype(np.float32)
    before = g.copy()
    device.update(g)
    same_bits(g, before)
    for vector in (device.p, *device.state.values()):
        if vector is not None:
            base = vector.base
            assert np.isfinite(vector).all()
            assert np.isnan(base).sum() == base.size - 37


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_clip_norm(name, dtype, rng):
    """The norm is the device's own; the update scales where it is larger, and only there."""
    g = rng.standard_normal(9000).astype(dtype)
    p = np.zeros(9000, dtype)
    for clip_value, clip_norm in [(None, 1.0), (0.5, 1.0), (None, 1e6)]:
        rule = fresh(RULES[name], clip_norm=clip_norm, clip_value=clip_value)
        norm = host.norm(g, clip_value or math.inf)
        device, expected = Device(rule, p), wide(p)
        device.update(g, norm=norm, clip_norm=clip_norm)
        rule.update(expected, wide(g))
        limit = 2.0**-20 if dtype == "float32" else 2.0**-49  # some ten roundings
        assert np.abs(wide(device.p) - expected).max() <= limit * np.abs(expected).max()
        if clip_norm > norm:
            plain = Device(rule, p)
            plain.update(g)
            same_bits(plain.p, device.p)
        scaled = Device(rule, p)
        scale = min(1.0, clip_norm / norm)
        scaled.update(g, gradient_scale=scale)
        same_bits(scaled.p, device.p)


def test_clipping_what_is_no_number():
    g = np.array([1.0, np.nan, np.inf, -np.inf, -9.0], np.float32)
    device = Device(reference.SGD(1.0, clip_value=2.0), np.zeros(5, np.float32))
    device.update(g)
    np.testing.assert_array_equal(device.p, [-1, np.nan, -2, 2, 2])
    device = Device(reference.SGD(1.0), np.zeros(5, np.float32))
    device.update(g, norm=math.inf, clip_norm=1.0)
    np.testing.assert_array_equal(device.p, [0, np.nan, np.nan, np.nan, 0])
    device = Device(reference.SGD(1.0), np.zeros(5, np.float32))
    device.update(g, norm=math.nan, clip_norm=1.0)
    assert np.isnan(device.p).all()


@pytest.mark.parametrize("dtype", WIDE)
def test_moments_are_never_denormal(dtype):
    tiny = np.finfo(dtype).tiny
    g = np.array([0.5, -0.5, 2.0, 0.0], dtype) * tiny
    sgd = Device(reference.SGD(0.1, momentum=0.5), np.ones(4, dtype))
    sgd.update(g)
    same_bits(sgd.state["first"], np.array([0, 0, 2, 0], dtype) * tiny)
    adam = Device(RULES["adam"], np.ones(4, dtype))
    adam.update(g)
    same_bits(adam.state["first"], np.zeros(4, dtype))
    same_bits(adam.state["second"], np.zeros(4, dtype))


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("name", ["sgd", "momentum", "rmsprop", "adamw"])
@pytest.mark.parametrize("count", [1, 17, 33333])
def test_squares(name, count, dtype, rng):
    """Of gradients as they are given, and of what was added; sums of 2^16 terms in double."""
    p = rng.standard_normal(count).astype(dtype)
    g = rng.standard_normal(count).astype(dtype)
    plain = Device(fresh(RULES[name], clip_value=0.1), p)
    watched = Device(plain.rule, p)
    plain.update(g)
    gradient, change = watched.update(g, squares=True)
    same_bits(watched.p, plain.p)
    assert gradient.shape == change.shape == (16,)
    assert gradient.dtype == np.float64
    assert gradient.sum() == pytest.approx(np.square(wide(g)).sum(), rel=2.0**-36)
    added = np.square(wide(watched.p - p)).sum()
    assert wide(change).sum() == pytest.approx(
        added, rel=2.0 ** (-20 if dtype == "float32" else -36)
    )


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("count", [0, 1, 5, 8191, 8192, 8193, 30000])
def test_norm(count, dtype, rng):
    g = Device.vector(rng.standard_normal(count).astype(dtype), 0)
    shifted = Device.vector(g, 1)
    for clip_value in (math.inf, 0.5):
        limit = g.dtype.type(clip_value)
        expected = float(np.linalg.norm(np.clip(g, -limit, limit).astype(np.float64)))
        # 30000 squares in double
        assert host.norm(g, clip_value) == pytest.approx(expected, rel=2.0**-38)
        assert host.norm(shifted, clip_value) == pytest.approx(expected, rel=2.0**-38)


def test_norm_of_large_small_and_no_numbers():
    for size in (1e30, 1e-30):
        g = np.full(10000, size, np.float32)
        assert host.norm(g, math.inf) == pytest.approx(100 * float(g[0]), rel=1e-12)
    g = np.ones(9000, np.float32)
    g[8500] = np.inf
    assert host.norm(g, math.inf) == math.inf
    assert host.norm(g, 1.0) == pytest.approx(math.sqrt(9000))
    g[3] = np.nan
    assert math.isnan(host.norm(g, 1.0))


# ---- regularisers --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("k", "n"), [(1, 1), (70, 10), (3, 16), (9, 17), (4, 1024), (2, 1025), (3, 2500)]
)
def test_regularise(k, n, layout, dtype, rng):
    w = rng.standard_normal((k, n))
    w[rng.random((k, n)) < 0.1] = 0
    w = place(w.astype(dtype), layout)
    l1, l2 = 0.3, 0.7
    for slope in (l1, 0.0):
        dw = place(rng.standard_normal((k, n)).astype(dtype), layout)
        expected = wide(dw) + l2 * wide(w) + slope * np.sign(wide(w))
        pieces = -(-n // 1024)
        penalties = np.full((k, pieces), np.nan)
        host.regularise(w, dw, l1, l2, slope, penalties)
        untouched(dw)
        close(dw, expected, dtype)
        padded = np.zeros((k, pieces * 1024))
        padded[:, :n] = w
        padded = padded.reshape(k, pieces, 1024)
        terms = l2 / 2 * np.square(padded).sum(axis=2) + l1 * np.abs(padded).sum(axis=2)
        close(penalties, terms, dtype)
    w[0, 0] = np.nan
    host.regularise(w, dw, l1, l2, l1, penalties)
    assert np.isnan(dw[0, 0])
    assert np.isnan(penalties[0, 0])
    assert np.isnan(penalties).sum() == 1


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("count", [1, 5, 4099])
def test_shrink(name, count, dtype, rng):
    rule, l1 = fresh(RULES[name]), 0.5
    device = Device(rule, (0.02 * rng.standard_normal(count)).astype(dtype))
    device.update(rng.standard_normal(count).astype(dtype))
    p = device.p.copy()
    expected = wide(p)
    rule.steps = 1
    if device.state["second"] is not None:
        rule.state = {"square": wide(device.state["second"])}
    shrink(expected, l1 * rule.step_size(rule.lr))
    (_, correction, step_size, _), constants = numbers_of(rule, rule.lr, 0)
    eps = constants["eps"]
    host.shrink(device.p, device.state["second"], l1, step_size, correction, eps, None, 0)
    # the threshold's own error counts where it nearly cancels |p|
    off = np.abs(wide(device.p) - expected)
    assert off.max() <= 2.0 ** (-21 if dtype == "float32" else -50) * np.abs(wide(p)).max()
    assert ((device.p == 0) == (expected == 0)).mean() > 0.999
    table = np.full((3, 4), np.nan)
    table[2, 1:3] = correction, step_size
    host.shrink(p, device.state["second"], l1, math.nan, math.nan, eps, table, 2)
    same_bits(p, device.p)


def test_shrink_keeps_what_is_no_number():
    p = np.array([np.nan, 0.5, -0.5, 2.0, -2.0, -0.0], np.float32)
    host.shrink(p, None, 1.0, 1.0, 1.0, 0.0, None, 0)
    np.testing.assert_array_equal(p, [np.nan, 0, 0, 1, -1, 0])


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("k", "n"), [(1, 1), (33, 7), (64, 32), (100, 36), (31, 65)])
def test_limit_norms(k, n, layout, dtype, rng):
    w = rng.standard_normal((k, n)) * rng.random(n)
    w[:, n // 2] *= 1e-3
    w = place(w.astype(dtype), layout)
    before, expected = w.copy(), wide(w)
    max_norm = float(np.median(np.linalg.norm(expected, axis=0)))
    limit_norms(expected, max_norm)
    host.limit_norms(w, max_norm)
    untouched(w)
    close(w, expected, dtype)
    kept = np.linalg.norm(wide(before), axis=0) < max_norm * (1 - 1e-6)
    same_bits(np.ascontiguousarray(w[:, kept]), np.ascontiguousarray(before[:, kept]))


# ---- data ----------------------------------------------------------------------------------------


def source(m, k, kind, layout, rng):
    x = rng.standard_normal((m, k)) * 100
    x = np.abs(x).astype(np.uint8) if kind == "uint8" else x.astype(kind)
    if layout == "transposed":
        return np.asfortranarray(x)
    if layout == "reversed":
        return x[::-1, ::-1]
    return place(x, layout)


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("layout", [*LAYOUTS, "transposed", "reversed"])
@pytest.mark.parametrize(("m", "k"), [(1, 1), (9, 33), (3, 1032)])
def test_gather(m, k, layout, kind, dtype, rng):
    """The bits that NumPy gets: nothing is fused, and 16-bit types are rounded once."""
    x = source(m, k, kind, layout, rng)
    rows = rng.integers(0, m, 2 * m + 3)
    computed = np.dtype(np.float64 if "float64" in (dtype, kind) else np.float32)
    shift, factor = (rng.standard_normal((2, k)) * 3).astype(computed)
    narrow = np.dtype(np.float64 if dtype == "float64" else np.float32)
    for scaled, first in itertools.product((True, False), (None, 2)):
        count = rows.size if first is None else rows.size - 3
        start = first or 0
        out = poisoned(
            count, k, dtype, "contiguous" if layout in ("transposed", "reversed") else layout
        )
        vectors = (None, None) if scaled else (shift, factor)
        host.gather(x, rows, 1 / 255, *vectors, out, first)
        chosen = rows[start : start + count]
        if scaled:
            expected = gather(x, chosen, narrow, 1 / 255)
        else:
            expected = (x[chosen].astype(computed) - shift) * factor
        untouched(out)
        same_bits(np.ascontiguousarray(out), stored(expected.astype(narrow), dtype))


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("bins", [1, 7, 50, 9000])
def test_histogram(bins, dtype, rng):
    a = stored(rng.standard_normal((70, 33)) * 2, dtype)
    values = wide(a)
    for edges in (np.linspace(-3, 3, bins + 1), np.sort(rng.uniform(-3, 3, bins + 1))):
        edges[bins // 2] = values[0, 0]  # an element on an edge
        edges.sort()
        counts = np.full(bins, 5, np.int64)
        host.histogram(a, edges, counts)
        same_bits(counts, 5 + np.histogram(values, edges)[0])
        counts[:] = 0
        host.histogram(a.T[::-1], edges, counts)
        same_bits(counts, np.histogram(values, edges)[0])


def test_histogram_of_what_is_no_number():
    a = np.array([[np.nan, np.inf, -np.inf, 0.0, 1.0, 2.0, 2.5, -1.0]], np.float32)
    counts = np.zeros(2, np.int64)
    host.histogram(a, np.array([0.0, 1.0, 2.0]), counts)
    same_bits(counts, np.array([1, 2]))


FUNCTIONS = {
    0: math.exp, 1: lambda x: math.log(abs(x)), 2: math.tanh, 3: lambda x: 1 / (1 + math.exp(-x)),
    4: math.erf, 5: lambda x: math.log1p(math.exp(x)), 6: lambda x: math.erfc(-x / 2**0.5) / 2,
}  # fmt: skip


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("which", FUNCTIONS)
def test_function(which, dtype, rng):
    """To 16 ulp where the argument is below 6: normal_cdf's own argument costs x^2 / 2 of them."""
    x = rng.uniform(-6, 6, 3000).astype(dtype)
    x = np.abs(x) if which == 1 else x
    out = np.full(x.size, np.nan, dtype)
    host.function(which, x, out)
    expected = np.array([FUNCTIONS[which](v) for v in x.astype(np.float64)])
    # log near 1 and softplus far below 0 are small; the longhand's own error counts for float64
    off = np.abs(wide(out) - expected)
    bound = 40 * np.finfo(dtype).eps * np.maximum(np.abs(expected), 1e-9)
    assert (off <= bound + (1e-15 if dtype == "float64" else 0)).all()
    host.function(which, np.array([np.nan], dtype), out[:1])
    assert np.isnan(out[0])


def test_the_same_bits_twice(rng):
    z = rng.standard_normal((300, 100)).astype(np.float32)
    labels = rng.integers(0, 100, 300)
    runs = []
    for _ in range(2):
        dz = poisoned(300, 100, "float32")
        value = run_loss(host.softmax_cross_entropy, z, labels, "float32", 300.0, dz=dz)
        norm = host.norm(dz.ravel(), math.inf)
        runs.append((np.array([value, norm]), dz))
    for a, b in zip(*runs, strict=True):
        same_bits(a, b)
