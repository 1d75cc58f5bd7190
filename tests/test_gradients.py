"""The gradient check: two-sided differences in float64, tensor by tensor.

For f with third derivatives of about 1 the difference (f(p + h) - f(p - h)) / 2h is off by h^2 / 6
and by u |f| / h from rounding: 1e-10 and 1e-11 at h = 2e-5. Per tensor the relative error
||g - g'|| / (||g|| + ||g'||) has to be at most 1e-7. A gradient that is zero (a weight that cannot
matter) has no relative error: where both norms together are below 1e-8 per root of the number of
elements they count as equal.
"""

from __future__ import annotations

import numpy as np
import pytest

import fanin
from cases import ACTIVATIONS, DENSE, LOSS, NETWORK, BatchNorm, params
from compare import apart, unit
from fanin import reference
from test_loss import inputs as loss_inputs

H = 2e-5
LIMIT = 1e-7


def differences(f, p: np.ndarray) -> np.ndarray:
    """The gradient of the number f() with respect to p, which f reads, by two-sided differences."""
    g = np.empty(p.shape)
    for i in np.ndindex(p.shape):
        before = p[i]
        p[i] = before + H
        above = f()
        p[i] = before - H
        below = f()
        p[i] = before
        g[i] = (above - below) / (2 * H)
    return g


def check(f, p: np.ndarray, got: np.ndarray, name: str) -> None:
    """Fail unless `got` is the gradient of f with respect to p."""
    expected = differences(f, p)
    error = apart(got, expected, floor=1e-8 * np.sqrt(p.size))
    assert error <= LIMIT, f"{name}: relative error {error:.2g}"


def away_from_kinks(z: np.ndarray) -> np.ndarray:
    """Values at least 1e-3 from 0, where relu and its like have no derivative."""
    return np.where(np.abs(z) < 1e-3, np.copysign(1e-3, z), z)


# ---- the functional API ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activation(kind, isa, rng):
    z = away_from_kinks(3 * rng.standard_normal((5, 7)))
    weight = rng.standard_normal(z.shape)
    a = fanin.activation_forward(z, kind)
    saved = z if kind in ("gelu", "gelu_tanh", "silu") else a
    got = fanin.activation_backward(weight, saved, kind)
    check(lambda: (weight * fanin.activation_forward(z, kind)).sum(), z, got, kind)


@pytest.mark.parametrize("case", params(DENSE, "grad"))
def test_dense(case, isa, rng):
    """x, w and b through activation and dropout; the mask is a function of the key."""
    x, w = rng.standard_normal((case.m, case.k)), rng.standard_normal((case.k, case.n))
    b = rng.standard_normal(case.n) if case.bias else None
    weight = rng.standard_normal((case.m, case.n))
    options = {"activation": case.activation, "dropout": case.dropout, "key": (1, 2, 3)}
    a, cache = fanin.dense_forward(x, w, b, stats=case.stats, **options)
    got = fanin.dense_backward(weight, cache)

    def loss():
        return (weight * fanin.dense_forward(x, w, b, **options)[0]).sum()

    # no pre-activation is so near 0 that a step of H times |x| crosses a kink
    assert np.abs(fanin.dense_forward(x, w, b)[0]).min() > 10 * H
    for name, p in (("dx", x), ("dw", w), ("db", b)):
        if p is not None:
            check(loss, p, getattr(got, name), f"{case} {name}")
    assert a.shape == weight.shape


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(training, isa, rng):
    case = BatchNorm(12, 7, training)
    x, gamma, beta, weight = (
        rng.standard_normal(s) for s in ((case.m, case.n), case.n, case.n, (case.m, case.n))
    )
    mean, var = rng.standard_normal(case.n), 0.5 + rng.random(case.n)

    def forward():
        return fanin.batch_norm_forward(x, gamma, beta, mean.copy(), var.copy(), training=training)

    got = fanin.batch_norm_backward(weight, forward()[1])
    for name, p in (("dx", x), ("dgamma", gamma), ("dbeta", beta)):
        check(lambda: (weight * forward()[0]).sum(), p, getattr(got, name), name)


@pytest.mark.parametrize("case", params(LOSS, "grad"))
def test_loss(case, isa, rng):
    z, targets, options = loss_inputs(case, "float64", rng)
    loss = getattr(fanin, case.function)
    check(lambda: loss(z, targets, **options)[0], z, loss(z, targets, **options)[1], str(case))


# ---- networks --------------------------------------------------------------------------------


def network_and_data(case, package, dtype="float64", seed=0):
    """A network with biases off 0, a batch drawn by `seed`, and the loss's options."""
    net = case.make(package, dtype)
    rng = np.random.default_rng(5)
    for layer in net.layers:
        for name in ("bias", "gamma", "beta"):
            vector = getattr(layer, name)
            if vector is not None:
                vector += 0.3 * rng.standard_normal(vector.shape)
    x, y = case.data(dtype, seed)
    options = {}
    if case.sample_weight:
        options["sample_weight"] = rng.random(case.batch)
        if case.output == "softmax":
            options["class_weight"] = 0.5 + rng.random(case.sizes[-1])
    if case.label_smoothing:
        options["label_smoothing"] = case.label_smoothing
    return net, x, y, options


def tensors(net):
    """name, parameters and gradients of each tensor, as views."""
    for i, layer in enumerate(net.layers):
        for name in ("weight", "bias", "gamma", "beta"):
            if getattr(layer, name) is not None:
                yield f"{name} {i}", getattr(layer, name), getattr(layer, "d" + name)


def seed_without_kinks(case) -> int:
    """A batch where no step of H moves an activation of relu's kind across 0."""
    for seed in range(50):
        net, x, _, _ = network_and_data(case, reference, seed=seed)
        if all(np.abs(z).min() > 20 * H for z in pre_activations(net, x)):
            return seed
    raise AssertionError(f"{case}: every batch of 50 has a pre-activation near 0")


def pre_activations(net, x):
    """What each hidden layer's activation gets, by the reference."""
    a = dropped(x, net.input_dropout, (net.seed, net.step, 65535))
    for i, layer in enumerate(net.layers[:-1]):
        z = a @ layer.weight
        z = normalised(z, layer) if layer.batch_norm == "before" else z + layer.bias
        yield z
        a = reference.activation_forward(z, layer.activation)
        a = normalised(a, layer) if layer.batch_norm == "after" else a
        a = dropped(a, layer.dropout, (net.seed, net.step, i))


def normalised(z, layer):
    statistics = np.zeros_like(layer.gamma), np.ones_like(layer.gamma)
    return reference.batch_norm_forward(z, layer.gamma, layer.beta, *statistics, training=True)[0]


def dropped(a, dropout, key):
    eye = np.eye(a.shape[1])
    return reference.dense_forward(a, eye, dropout=dropout, key=key)[0]


@pytest.mark.parametrize("case", params(NETWORK, "grad"))
@pytest.mark.parametrize("which", ["best", "reference"])
def test_network(case, which):
    """Every tensor of every kind of network: masks hold, batch norm moves, penalties count."""
    package = fanin if which == "best" else reference
    net, x, y, options = network_and_data(case, package, seed=seed_without_kinks(case))
    if case.l1:
        for layer in net.layers:
            layer.weight = away_from_kinks(layer.weight)

    def loss():
        # the running statistics move at every call, but nothing here depends on them
        return net.loss_and_gradients(x, y, **options)[0]

    loss()
    kept = {name: gradient.copy() for name, _, gradient in tensors(net)}
    some = np.random.default_rng(0)
    for name, p, _ in tensors(net):
        if p.size <= 600:
            check(loss, p, kept[name], f"{case} {name}")
        else:  # a large tensor by its slope along a few directions
            check_along(loss, p, kept[name], some, f"{case} {name}")


def check_along(f, p, gradient, rng, name):
    found, expected = [], []
    for _ in range(10):
        direction = rng.standard_normal(p.shape) / np.sqrt(p.size)
        before = p.copy()
        values = []
        for sign in (1, -1):
            p[...] = before + sign * H * direction
            values.append(f())
        p[...] = before
        found.append((gradient * direction).sum())
        expected.append((values[0] - values[1]) / (2 * H))
    assert apart(np.array(found), np.array(expected)) <= LIMIT, name


ON_EVERY_SET = ("everything-tanh", "weighted", "batch-norm-after-gelu-0.3", "batch-norm-mixed")
SMOOTH = [c for c in NETWORK if "grad" in c.uses and str(c) in ON_EVERY_SET]


@pytest.mark.parametrize("case", SMOOTH, ids=str)
def test_network_on_every_set(case, isa):
    net, x, y, options = network_and_data(case, fanin)
    net.loss_and_gradients(x, y, **options)
    kept = {name: gradient.copy() for name, _, gradient in tensors(net)}
    for name, p, _ in tensors(net):
        check(lambda: net.loss_and_gradients(x, y, **options)[0], p, kept[name], name)


@pytest.mark.parametrize("batch_norm", [True, "after", ["after", "before"]], ids=str)
def test_own_loss(batch_norm, package, rng):
    """forward, a loss of one's own, backward: parameters and dx."""
    net = package.MLP([5, 7, 6, 4], activation=["tanh", "gelu"], dropout=[0.3, 0.0],
                      input_dropout=0.2, batch_norm=batch_norm, l1=1e-3, l2=1e-2, output="identity",
                      dtype="float64")  # fmt: skip
    x = rng.standard_normal((9, 5))
    for layer in net.layers:
        layer.weight = away_from_kinks(layer.weight)

    def penalty():
        return sum(1e-3 * np.abs(la.weight).sum() + 5e-3 * np.square(la.weight).sum()
                   for la in net.layers)  # fmt: skip

    def loss():
        return np.sin(net.forward(x, training=True)).sum() + penalty()

    dx = net.backward(np.cos(net.forward(x, training=True)))
    kept = {name: gradient.copy() for name, _, gradient in tensors(net)}
    for name, p, _ in tensors(net):
        check(loss, p, kept[name], name)
    check(loss, x, dx, "dx")


# ---- float32 against the float64 reference ---------------------------------------------------


@pytest.mark.parametrize("case", params(NETWORK, "check"))
def test_float32(case, isa):
    """Loss and gradients of float32 networks against the reference in float64, tensor by tensor.

    Forward and backward each take the `depth` layers through a product of k terms (gamma_k, in
    the mean more like sqrt(k) u), an activation (8 u) and batch norm (80 u, stretching what comes
    in by at most a few); errors of layers add up. Relative to the tensor's norm 16 depth
    (max k^1/2 + 8) u leaves a factor of a few; batch norm has another 8 of its own.
    """
    net, x, y, options = network_and_data(case, fanin, "float32")
    wide, wide_x, wide_y, _ = network_and_data(case, reference)
    wide.parameters = net.parameters
    wide_x[...] = x
    if wide_y.dtype.kind == "f":
        wide_y[...] = y
    loss, _ = net.loss_and_gradients(x, y, **options)
    expected, _ = wide.loss_and_gradients(wide_x, wide_y, **options)
    bound = 16 * len(net.layers) * (max(case.sizes) ** 0.5 + 8) * unit("float32")
    bound *= 8 if case.batch_norm else 1
    assert abs(loss - expected) <= bound * max(abs(expected), 1)
    for (name, _, got), (_, _, wanted) in zip(tensors(net), tensors(wide), strict=True):
        error = apart(got, wanted, floor=1e-6 * np.sqrt(got.size))
        assert error <= bound, f"{name}: {error:.2g} > {bound:.2g}"


@pytest.mark.parametrize("case", params(NETWORK, "check"))
def test_float64(case, isa):
    """The same in float64, where both round: 1e-12 is some thousand roundings."""
    net, x, y, options = network_and_data(case, fanin)
    twin, _, _, _ = network_and_data(case, reference)
    loss, _ = net.loss_and_gradients(x, y, **options)
    expected, _ = twin.loss_and_gradients(x, y, **options)
    assert abs(loss - expected) <= 1e-12 * max(abs(expected), 1)
    for (name, _, got), (_, _, wanted) in zip(tensors(net), tensors(twin), strict=True):
        assert apart(got, wanted, floor=1e-12) <= 1e-12, name
