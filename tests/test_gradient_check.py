"""check_gradients and check_gradient: healthy networks pass, one wrong entry is found and named.

What is right is decided at 1e-7 for a tensor and 1e-5 for an entry, which are the limits of the
lecture; `fanin.reference.gradient_check` derives why differences in float64 reach them.
"""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits

import fanin
from cases import ACTIVATIONS, DTYPES
from compare import hash_of
from fanin import reference
from fanin.reference import gradient_check

OUTPUTS = ("softmax", "sigmoid", "identity")


def data(net, rows=12, seed=0):
    """A batch that fits the network's output."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, net.sizes[0]))
    if net.output == "softmax":
        return x, rng.integers(0, net.sizes[-1], rows)
    y = rng.random((rows, net.sizes[-1]))
    return x, y if net.output == "sigmoid" else 3 * y


def state(net):
    """Everything of a network that a check could have changed."""
    arrays = net.parameters, net.gradients, net.running_mean, net.running_var
    return hash_of(*arrays), net._config(), [layer.stats for layer in net.layers]


def flat_place(net, layer, name, index):
    """Where an entry of a tensor lies in net.parameters."""
    view = getattr(net.layers[layer], name)
    start = (view.ctypes.data - net.parameters.ctypes.data) // view.itemsize
    return start + int(np.ravel_multi_index(index, view.shape))


# ---- healthy networks ------------------------------------------------------------------------


def matrix():
    """Every activation with every output: a quarter of the settings, the others when slow."""
    norms = (False, True, [True, "after"], "after")
    settings = list(itertools.product(norms, (0.0, 0.3), (0.0, 1e-2), DTYPES))
    for activation, output in itertools.product(ACTIVATIONS, OUTPUTS):
        place = ACTIVATIONS.index(activation) + OUTPUTS.index(output)
        for some in range(4):
            marks = () if some == place % 4 else pytest.mark.slow
            # in each quarter there is each kind of batch norm, and dropout, penalties and dtype are
            # on and off
            chosen = [s for i, s in enumerate(settings) if (i ^ i >> 2) & 3 == some]
            yield pytest.param(activation, output, chosen, marks=marks)


@pytest.mark.parametrize(("activation", "output", "settings"), [*matrix()])
def test_healthy(activation, output, settings):
    for batch_norm, dropout, penalty, dtype in settings:
        net = fanin.MLP([3, 4, 3, 2], activation=activation, output=output, dropout=dropout,
                        input_dropout=dropout / 2, batch_norm=batch_norm, l1=penalty, l2=penalty,
                        dtype=dtype)  # fmt: skip
        report = fanin.check_gradients(net, *data(net))
        assert report.ok, report
        assert sum(t.checked + t.left_out for t in report.tensors) == net.n_parameters
        assert sum(t.left_out for t in report.tensors) == 0, report


DIGITS = load_digits(return_X_y=True)
CANCER = load_breast_cancer(return_X_y=True)
DIABETES = load_diabetes(return_X_y=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("batch_norm", ["after", ["after", "before"], [False, "after"]], ids=str)
def test_healthy_with_batch_norm_anywhere(batch_norm, activation, dtype):
    """Also with dropped inputs, max_norm, and an l1 that is no part of the gradients."""
    for dropout in (True, False):
        net = fanin.MLP([6, 5, 4, 3], activation=activation, batch_norm=batch_norm, dropout=0.3,
                        input_dropout=0.4, l1=0.1, l1_step="proximal", l2=0.01, max_norm=1.0,
                        dtype=dtype)  # fmt: skip
        report = fanin.check_gradients(net, *data(net), dropout=dropout)
        assert report.ok, report
        assert ("mask held" in str(report)) == dropout


REAL = {
    "digits": (DIGITS, {"sizes": [64, 128, 64, 10], "dropout": 0.2}),
    "digits, deep": (DIGITS, {"sizes": [64, *[30] * 10, 10], "activation": "tanh", "l2": 1e-3}),
    "digits, bfloat16": (DIGITS, {"sizes": [64, 96, 10], "precision": "bfloat16"}),
    "cancer, not scaled": (CANCER, {"sizes": [30, 32, 1], "output": "sigmoid"}),
    "cancer, batch norm": (CANCER, {"sizes": [30, 32, 1], "output": "sigmoid", "batch_norm": True}),
    "diabetes": (DIABETES, {"sizes": [10, 32, 16, 1], "output": "identity", "l1": 1e-3}),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", REAL)
def test_healthy_on_real_data(which, dtype):
    (x, y), options = REAL[which]
    if dtype == "float64":
        options = {name: value for name, value in options.items() if name != "precision"}
    net = fanin.MLP(dtype=dtype, **options)
    assert fanin.check_gradients(net, x[:32], y[:32], sample=40).ok
    net.fit(x, y, epochs=2)
    report = fanin.check_gradients(net, x[:32], y[:32], sample=40)
    assert report.ok, report


def test_every_option_of_the_loss(package, rng):
    net = package.MLP([4, 6, 3], activation="gelu", dropout=0.2, l2=0.1)
    x, y = data(net)
    report = fanin.check_gradients(
        net, x, y, sample_weight=rng.random(12), class_weight={1: 3.0}, label_smoothing=0.1
    )
    assert report.ok, report
    probabilities = rng.dirichlet(np.ones(3), 12).astype(np.float32)
    assert fanin.check_gradients(net, x, probabilities).ok


def test_places_of_tensors(package):
    """The parts of the flat vectors that a check goes through are the layers' arrays."""
    net = package.MLP([4, 6, 5, 3], batch_norm=[True, "after"])
    net.parameters = np.arange(net.n_parameters)
    found = list(gradient_check._tensors(net))
    assert [(i, name) for i, name, _, _ in found] == [
        (0, "weight"), (0, "gamma"), (0, "beta"),
        (1, "weight"), (1, "bias"), (1, "gamma"), (1, "beta"), (2, "weight"), (2, "bias"),
    ]  # fmt: skip
    for i, name, part, shape in found:
        assert (net.parameters[part].reshape(shape) == getattr(net.layers[i], name)).all()


def test_same_in_both_packages():
    assert fanin.check_gradients is reference.check_gradients
    assert fanin.check_gradient is reference.check_gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dropout", [True, False])
def test_nothing_changes(package, dtype, dropout):
    net = package.MLP([4, 6, 5, 3], batch_norm=True, dropout=0.3, l1=1e-3, dtype=dtype)
    x, y = data(net)
    net.fit(x, y, epochs=2)
    before = state(net)
    report = fanin.check_gradients(net, x, y, dropout=dropout)
    assert state(net) == before
    assert str(report) == str(fanin.check_gradients(net, x, y, dropout=dropout))
    with pytest.raises(ValueError, match="class numbers"):
        fanin.check_gradients(net, x, y + 5)
    assert state(net) == before


def test_mask_is_held_or_off():
    """With dropout the loss is that of one mask; without, of all units."""
    net = fanin.MLP([4, 50, 3], dropout=0.5, dtype="float64")
    x, y = data(net)
    on, off = (fanin.check_gradients(net, x, y, dropout=dropout) for dropout in (True, False))
    plain = fanin.MLP([4, 50, 3], dtype="float64")
    assert on.loss == net.loss_and_gradients(x, y)[0]
    assert off.loss == plain.loss_and_gradients(x, y)[0]
    assert on.loss != off.loss
    assert on.ok and off.ok


# ---- a planted bug ---------------------------------------------------------------------------


def with_bug(kind, place, change, dtype=None):
    """A class of networks whose gradients are wrong in one entry (only in this dtype)."""

    class Buggy(kind):
        def _loss_and_gradients(self, *args, **options):
            loss = super()._loss_and_gradients(*args, **options)
            if dtype is None or self.dtype == dtype:
                self.gradients[place] = change(self.gradients[place])
            return loss

    return Buggy


CHANGES = {
    "factor": lambda g: 2 * g,
    "sign": lambda g: -g,
    "1 %": lambda g: 1.01 * g,
    "lost": lambda g: 0 * g,
    "NaN": lambda g: g * math.nan,
}
SETTINGS = {"activation": "tanh", "l2": 1e-2, "dropout": 0.2}
PLACES = [
    ("weight", False, (2, 3)),
    ("bias", False, (3,)),
    ("weight", True, (2, 3)),
    ("gamma", True, (1,)),
    ("beta", True, (4,)),
]


def the_wrong_one(report):
    """The only tensor that is not right."""
    wrong = [tensor for tensor in report.tensors if tensor.verdict != "right"]
    assert len(wrong) == 1, report
    assert not report.ok
    return wrong[0]


def check_with_bug(package, change, name, batch_norm, index, dtype, only=None):
    """The report's only tensor that is not right: that of layer 1 with this entry changed."""
    options = {"batch_norm": batch_norm, "dtype": dtype, **SETTINGS}
    place = flat_place(package.MLP([4, 6, 5, 3], **options), 1, name, index)
    net = with_bug(package.MLP, place, CHANGES[change], only)([4, 6, 5, 3], **options)
    report = fanin.check_gradients(net, *data(net))
    tensor = the_wrong_one(report)
    assert (tensor.layer, tensor.name) == (1, name)
    assert f"layer 1 {name}{list(index)}: " in str(report)
    return tensor


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("name", "batch_norm", "index"), PLACES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_planted_bug(change, name, batch_norm, index, dtype):
    tensor = check_with_bug(fanin, change, name, batch_norm, index, dtype)
    assert tensor.verdict == "wrong"
    assert tensor.worst[0].place == index
    assert not tensor.worst[1].error > 1e-5  # it alone


@pytest.mark.parametrize("change", ["factor", "sign", "1 %", "NaN"])
@pytest.mark.parametrize(("name", "batch_norm", "index"), PLACES)
def test_bug_of_float32_alone(change, name, batch_norm, index):
    """The float64 twin is right; the network's own gradient is farther off than rounding goes."""
    tensor = check_with_bug(fanin, change, name, batch_norm, index, "float32", only=np.float32)
    assert tensor.verdict == "wrong when rounded"
    assert tensor.rounded.place == index


@pytest.mark.parametrize(("name", "batch_norm", "index"), PLACES)
def test_planted_bug_in_the_reference(name, batch_norm, index):
    tensor = check_with_bug(reference, "1 %", name, batch_norm, index, "float64")
    assert (tensor.verdict, tensor.worst[0].place) == ("wrong", index)
    tensor = check_with_bug(reference, "1 %", name, batch_norm, index, "float32", only=np.float32)
    assert (tensor.verdict, tensor.rounded.place) == ("wrong when rounded", index)


def test_wrong_sign_in_bfloat16():
    net = fanin.MLP([20, 30, 3], precision="bfloat16")
    x, y = data(net)
    place = int(np.abs(net.loss_and_gradients(x, y)[1]).argmax())
    net = with_bug(fanin.MLP, place, CHANGES["sign"], np.float32)([20, 30, 3], precision="bfloat16")
    assert the_wrong_one(fanin.check_gradients(net, x, y)).verdict == "wrong when rounded"


@pytest.mark.parametrize("dtype", DTYPES)
def test_patched_network(dtype):
    """An instance's own method counts, not that of its class."""
    net = fanin.MLP([4, 6, 3], activation="tanh", dtype=dtype)
    x, y = data(net)
    right = net.loss_and_gradients

    def wrong(x, y, **options):
        loss, gradients = right(x, y, **options)
        gradients = gradients.copy()
        gradients[7] *= 1.5
        return loss, gradients

    net.loss_and_gradients = wrong
    tensor = the_wrong_one(fanin.check_gradients(net, x, y))
    worst = tensor.rounded if dtype == "float32" else tensor.worst[0]
    assert (tensor.name, worst.place) == ("weight", (1, 1))


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("change", ["sign", "1 %"])
def test_bug_outside_the_sample(activation, change):
    """Fifty of 38,400 weights are checked; the direction and its halves find the one."""
    sizes, options = [64, 600, 10], {"activation": activation, "dtype": "float64"}
    x, y = DIGITS[0][:32] / 16, DIGITS[1][:32]
    _, gradients = fanin.MLP(sizes, **options).loss_and_gradients(x, y)
    rms = math.sqrt(np.mean(np.square(gradients[: 64 * 600])))
    place = int(np.argmin(np.abs(gradients[: 64 * 600] - rms)))  # one like most others
    report = fanin.check_gradients(
        with_bug(fanin.MLP, place, CHANGES[change])(sizes, **options), x, y
    )
    tensor = the_wrong_one(report)
    assert tensor.checked == 51
    assert tensor.along > 1e-7
    assert tensor.worst[0].place == np.unravel_index(place, (64, 600))
    assert "along" in str(report)


def test_sample():
    net = fanin.MLP([64, 70, 10])
    assert net.n_parameters > gradient_check.ALL_UP_TO
    x, y = DIGITS[0][:16] / 16, DIGITS[1][:16]
    report = fanin.check_gradients(net, x, y)
    assert [t.checked for t in report.tensors] == [50, 50, 50, 10]
    assert "50 entries of a tensor" in str(report)
    other = fanin.check_gradients(net, x, y, seed=1)
    assert [t.worst for t in other.tensors] != [t.worst for t in report.tensors]
    everything = fanin.check_gradients(net, x, y, sample=net.n_parameters)
    assert [t.checked for t in everything.tensors] == [4480, 70, 700, 10]
    assert everything.ok, everything


# ---- kinks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "selu", "elu"])
@pytest.mark.parametrize("z", [3e-6, -3e-6, 1e-9, 0.0])
def test_kink(activation, z, monkeypatch):
    """Every unit has its z near 0 in one row; steps find their way around, whatever z is."""
    net = fanin.MLP([3, 4, 2], activation=activation, dtype="float64")
    x, y = data(net)
    x[0] = 0
    net.layers[0].bias = z
    report = fanin.check_gradients(net, x, y)
    assert report.ok, report
    assert report.tensors[1].checked == 4
    # without looking for kinks it is an error: a row of twelve has the wrong slope, or for elu the
    # wrong curvature, as far as the step of 6e-6 reaches
    monkeypatch.setattr(gradient_check, "KINKED", ())
    blind = fanin.check_gradients(net, x, y, eps=gradient_check.STEP)
    assert blind.tensors[1].verdict == ("look again" if activation == "elu" else "wrong"), blind


def test_left_out():
    """With all weights 0 every z is 0, and a weight's step lifts some rows and lowers others."""
    net = fanin.MLP([3, 4, 2])
    net.parameters = np.zeros(net.n_parameters)
    report = fanin.check_gradients(net, *data(net))
    first = report.tensors[0]
    assert (first.checked, first.left_out, first.verdict) == (0, 12, "not checked")
    assert report.ok
    assert "layer 0 weight: every entry lies at a kink" in str(report)
    net.layers[0].weight = np.where(np.arange(4) < 3, 0.1, 0)
    first = fanin.check_gradients(net, *data(net)).tensors[0]
    assert (first.checked, first.left_out, first.verdict) == (9, 3, "right")


@pytest.mark.parametrize("w", [0.0, 1e-7, -1e-9, 1e-12])
def test_kink_of_l1(w):
    """|w| has none of its own at 0, where both sides' slopes cancel and 0 is what is returned."""
    net = fanin.MLP([3, 4, 2], activation="tanh", l1=0.5, dtype="float64")
    net.layers[0].weight[1, 2] = w
    report = fanin.check_gradients(net, *data(net))
    assert report.ok, report
    assert report.tensors[0].left_out == 0


# ---- functions of one's own --------------------------------------------------------------------


def test_function_of_any_shape(rng):
    for shape in ((), (1,), (7,), (3, 4), (2, 3, 4)):
        x = np.array(rng.standard_normal(shape))
        report = fanin.check_gradient(lambda x: (np.sin(x).sum(), np.cos(x)), x)
        assert report.ok, report
        assert report.tensors[0].shape == shape
        assert fanin.check_gradient(lambda x: np.sin(x).sum(), x, np.cos).ok
        assert fanin.check_gradient(lambda x: np.sin(x).sum(), x, np.cos(x)).ok


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_function_of_any_scale(size, rng):
    x = size * rng.standard_normal((3, 4))
    report = fanin.check_gradient(
        lambda x: (np.tanh(x / size).sum(), (1 - np.tanh(x / size) ** 2) / size), x
    )
    assert report.ok, report


def test_strides_and_copies(rng):
    """x may have any strides, is not changed, and f may do to its argument what it likes."""
    x = rng.standard_normal((8, 6))[::2, ::-2].T
    before = x.copy()

    def f(x):
        value = np.square(x).sum(), 2 * x
        x[...] = 0
        return value

    with pytest.raises(ValueError, match="gradient"):
        fanin.check_gradient(lambda x: (0.0, x[:2]), x)
    report = fanin.check_gradient(lambda x: (f(x.copy())[0], 2 * x), x)
    assert report.ok, report
    assert (x == before).all()


def focal(z, y):
    """A loss of one's own: mean of (1 - p)^2 (-log p) of the right class; Lin et al., ICCV 2017."""
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    rows = np.arange(len(y))
    right = p[rows, y]
    loss = -np.mean((1 - right) ** 2 * np.log(right))
    slope = (2 * (1 - right) * np.log(right) * right - (1 - right) ** 2) / len(y)
    return loss, slope[:, None] * (np.eye(z.shape[1])[y] - p)


def test_loss_of_ones_own(rng):
    z, y = rng.standard_normal((6, 4)), rng.integers(0, 4, 6)
    assert fanin.check_gradient(lambda z: focal(z, y), z).ok

    def wrong(z):
        loss, dz = focal(z, y)
        dz[4, 2] *= -1
        return loss, dz

    report = fanin.check_gradient(wrong, z)
    assert the_wrong_one(report).worst[0].place == (4, 2)
    assert "x[4, 2]: analytic" in str(report)
    assert "wrong of float64 with shape (6, 4)" in str(report)


@pytest.mark.parametrize("dtype", DTYPES)
def test_loss_of_ones_own_in_a_network(dtype, package):
    net = package.MLP([4, 6, 3], batch_norm=True, dropout=0.2, l2=0.1, dtype=dtype)
    x, y = data(net)
    report = fanin.check_gradients(net, x, y, loss=focal)
    assert report.ok, report

    def wrong(z, y):
        loss, dz = focal(z, y)
        return loss, dz * (np.arange(3) != 1)

    report = fanin.check_gradients(net, x, y, loss=wrong)
    assert {tensor.verdict for tensor in report.tensors} == {"wrong"}
    with pytest.raises(TypeError, match="loss: expected a function"):
        fanin.check_gradients(net, x, y, loss="focal")


@pytest.mark.parametrize(("factor", "verdict"), [
    (1 + 1e-8, "right"), (1 + 1e-5, "look again"), (1 + 1e-4, "look again"), (1.01, "wrong"),
    (-1, "wrong"), (0, "wrong"), (math.nan, "wrong"), (math.inf, "wrong"),
])  # fmt: skip
def test_verdict(factor, verdict, rng):
    """A factor c makes an error of (c - 1) / (c + 1)."""
    x = rng.standard_normal(20)
    report = fanin.check_gradient(lambda x: (np.sin(x).sum(), factor * np.cos(x)), x)
    assert report.tensors[0].verdict == verdict
    if 1 < factor < 1.001:
        # the differences' own error is some 1e-10
        assert report.error == pytest.approx((factor - 1) / (factor + 1), abs=1e-9)


def test_one_small_entry(rng):
    """An entry of 1e-4 in a tensor of norm 4 hides from ||a - n||, and not from its own error."""
    scale = np.ones(20)
    scale[13] = 1e-4
    x = rng.standard_normal(20)
    wrong = np.where(scale < 1, 1.0005, 1)
    report = fanin.check_gradient(
        lambda x: ((scale * np.sin(x)).sum(), wrong * scale * np.cos(x)), x
    )
    tensor = report.tensors[0]
    assert tensor.error <= 1e-7
    assert (tensor.verdict, tensor.worst[0].place) == ("look again", (13,))


def test_zero_gradient(rng):
    """Nothing but rounding is left: the floor makes 0 against 1e-11 right."""
    x = rng.standard_normal(9)
    flat = fanin.check_gradient(lambda x: (np.sum(x) - np.sum(x) + 5.0, 0 * x), x)
    assert flat.ok and flat.error == 0
    around = fanin.check_gradient(
        lambda x: (np.sin(x).sum() ** 2 + (1 - np.sin(x).sum() ** 2), 0 * x), x
    )
    assert around.ok, around
    slight = fanin.check_gradient(lambda x: (5 + 1e-3 * x[0], 0 * x), x)
    assert slight.tensors[0].verdict == "wrong"


def test_noise_is_measured(rng):
    """A value with noise of 1e-9 in it: seen within a factor of 3, as eight numbers show it."""
    x = rng.standard_normal(9)

    def f(x):
        return float(np.sin(x).sum() + 1e-9 * rng.standard_normal())

    report = fanin.check_gradient(f, x, np.cos)
    assert 3e-10 < report.noise < 3e-9
    assert report.ok, report


def test_second_opinion(rng):
    """What bends on a scale of 1/300 is off by 1e-6 at the first step, and right in the end."""
    x = rng.standard_normal(6)

    def f(x):
        return np.sin(300 * x).sum(), 300 * np.cos(300 * x)

    assert fanin.check_gradient(f, x).ok
    h = gradient_check.STEP * math.sqrt(np.mean(np.square(x)))
    assert fanin.check_gradient(f, x, eps=h).tensors[0].verdict == "look again"


def test_kinks_of_a_function(rng):
    x = rng.standard_normal(8)
    x[3], x[5] = 1e-7, 0.0

    def f(x):
        return np.abs(x).sum(), np.sign(x)

    assert not fanin.check_gradient(lambda x: (np.maximum(x, 0).sum(), (x > 0) * 1.0), x).ok
    report = fanin.check_gradient(
        lambda x: (np.maximum(x, 0).sum(), (x > 0) * 1.0), x, kinks=lambda x: x > 0
    )
    assert report.ok, report
    report = fanin.check_gradient(f, x, kinks=np.sign)  # 0 is a sign of its own: both sides differ
    assert (report.tensors[0].left_out, report.ok) == (1, True)


# ---- bad input ---------------------------------------------------------------------------------


NET = fanin.MLP([3, 4, 2])
REGRESSION = fanin.MLP([3, 4, 2], output="identity")
X, Y = data(NET)
HOLED = np.where(np.arange(36).reshape(12, 3) == 7, np.nan, X)
NETWORKS = {
    "net: expected an MLP, got function": lambda check: check(focal, X, Y),
    "x: expected shape (rows, 3)": lambda check: check(NET, X[:, :2], Y),
    "y: expected 12 rows": lambda check: check(NET, X, Y[:3]),
    "nan in row 2, column 1": lambda check: check(NET, HOLED, Y),
    "too large for float32": lambda check: check(REGRESSION, X, X[:, :2] * 1e300),
    "eps: expected a number > 0": lambda check: check(NET, X, Y, eps=0),
    "sample: expected an integer >= 1": lambda check: check(NET, X, Y, sample=0),
    "seed: expected an integer >= 0": lambda check: check(NET, X, Y, seed=-1),
    "dropout: expected True or False": lambda check: check(NET, X, Y, dropout=0.5),
}
FUNCTIONS = {
    "f: expected a function": lambda check: check(3, X),
    "f: expected (value, gradient)": lambda check: check(np.sum, X),
    "f: expected one real number": lambda check: check(np.sin, X, X),
    "f: expected a finite value at x, got nan": lambda check: check(np.sum, HOLED, X),
    "gradient: expected shape (12, 3) to match x": lambda check: check(np.sum, X, X[:2]),
    "gradient: expected float64": lambda check: check(np.sum, X, X.astype(np.float32)),
    "x: expected an array of float64": lambda check: check(np.sum, X.astype(np.float32), X),
    "x: expected at least one row": lambda check: check(np.sum, X[:0], X),
    "kinks: expected a function": lambda check: check(np.sum, X, X, kinks=3),
}


@pytest.mark.parametrize("message", NETWORKS)
def test_refusal(message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        NETWORKS[message](fanin.check_gradients)


@pytest.mark.parametrize("message", FUNCTIONS)
def test_refusal_of_a_function(message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        FUNCTIONS[message](fanin.check_gradient)


def test_diverged_network():
    net = fanin.MLP([3, 4, 2], output="identity", dtype="float64")
    net.parameters = np.full(net.n_parameters, 1e200)
    before = state(net)
    with pytest.raises(ValueError, match="net: expected a finite loss for this x and y, got inf"):
        fanin.check_gradients(net, *data(net))
    assert state(net) == before
