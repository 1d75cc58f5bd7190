"""Folding batch norm into weights: the same outputs, within a bound that is computed alongside."""

from __future__ import annotations

import numpy as np
import pytest

import fanin
from compare import apart, same_bits, unit, within
from fanin import reference

PLACES = ["before", "after", ["after", "before", "after"], ["before", "after", "before"],
          [False, "after", "after"], ["after", False, "before"]]  # fmt: skip
SIZES = [8, 20, 15, 12, 4]
ACTIVATIONS = ["tanh", "gelu", "relu"]
STEEPEST = 1.13  # of their slopes, gelu's


def trained(package, batch_norm, dtype, **options):
    """A network whose statistics, gamma and beta are far from a new one's, and inputs."""
    net = package.MLP(SIZES, activation=ACTIVATIONS, batch_norm=batch_norm, dtype=dtype, **options)
    rng = np.random.default_rng(0)
    x = (5 + 3 * rng.standard_normal((200, 8))).astype(dtype)
    y = rng.integers(0, 4, 200)
    optimizer = package.Adam(0.01)
    for _ in range(60):
        net.train_step(x, y, optimizer)
    for layer in net.layers:
        for name in ("bias", "gamma", "beta"):
            if getattr(layer, name) is not None:
                vector = getattr(layer, name)
                vector += 0.3 * rng.standard_normal(vector.shape)
    return net, x


def distance(net, x):
    """How far the outputs z of both networks can be apart, by counting roundings of size u.

    Let h be what an activation f returns, c and d the line of a batch norm behind it, C, mean and
    beta those of one before the next f, and w' = c w C the folded weights.  A sum of k products is
    off by k u of the sum of their sizes, in either network; the weights and biases folded are off
    by u, batch norm's four operations and 1 / sqrt by at most 6 u of |C| (|z| + |mean|) + |beta|.
    So z' of both differ by (2 k + 20) u S, where S has the sizes of all that is added up, and by
    what f's arguments differed, e @ |w'|; f has a slope of at most 1.13 and is off by 16 u |f|.
    """
    u = unit(net.dtype)
    h, error = x.astype(np.float64), np.zeros(x.shape)
    scale, shift, size = np.ones(x.shape[1]), np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for layer in net.layers:
        w = layer.weight.astype(np.float64)
        z = (h * scale + shift) @ w + (0 if layer.bias is None else layer.bias)
        own, added = np.ones(layer.fan_out), size @ np.abs(w)
        added += 0 if layer.bias is None else np.abs(layer.bias)
        line = np.ones(layer.fan_out), np.zeros(layer.fan_out), np.zeros(layer.fan_out)
        if layer.batch_norm:
            c = layer.gamma / np.sqrt(layer.running_var.astype(np.float64) + 1e-5)
            line = (c, layer.beta - layer.running_mean * c,
                    np.abs(layer.running_mean * c) + np.abs(layer.beta))  # fmt: skip
        if layer.batch_norm == "before":
            own, z = line[0], z * line[0] + line[1]
            added = added * np.abs(own) + line[2]
        folded = np.abs(scale[:, None] * w * own)
        error = error @ folded + (2 * layer.fan_in + 20) * u * (np.abs(h) @ folded + added)
        if layer is net.layers[-1]:
            return error
        h = reference.activation_forward(z, layer.activation)
        error = STEEPEST * error + 16 * u * np.abs(h)
        neutral = np.ones(layer.fan_out), *np.zeros((2, layer.fan_out))
        scale, shift, size = line if layer.batch_norm == "after" else neutral
    raise AssertionError("a network ends with a layer")


@pytest.mark.parametrize("batch_norm", PLACES, ids=str)
def test_same_outputs(batch_norm, package, dtype):
    net, x = trained(package, batch_norm, dtype)
    folded = net.folded()
    bound = distance(net, x)
    z = net.forward(x)
    within(folded.forward(x), z, bound)
    # that is the worst case, by which float64 tells rounding from another formula
    assert bound.max() < 1e6 * unit(dtype) * np.abs(z).max()
    # signs being random it is far less; test_gradients.test_float32 counts as follows
    typical = 16 * len(net.layers) * (max(SIZES) ** 0.5 + 8) * unit(dtype)
    assert apart(folded.forward(x), z) < typical
    same_bits(folded.predict(x), net.predict(x))


@pytest.mark.parametrize("batch_norm", PLACES, ids=str)
def test_by_instruction_set(batch_norm, isa):
    net, x = trained(fanin, batch_norm, "float32")
    within(net.folded().forward(x), net.forward(x), distance(net, x))


def test_what_a_folded_network_is(package):
    """Of the same kind, plain, apart in memory; it saves, trains on, and folds to itself."""
    net, x = trained(package, ["after", "before", False], "float64", dropout=0.2, input_dropout=0.1,
                     l1=1e-3, l2=1e-3, max_norm=2.0, l1_step="proximal", seed=5)  # fmt: skip
    net.input_scale = 0.5
    before = net.parameters.copy(), net.running_mean.copy()
    folded = net.folded()
    assert type(folded) is package.MLP
    assert not folded.batch_norm
    assert folded.running_mean.size == 0
    assert folded.input_scale == 0.5
    assert (folded.sizes, folded.seed, folded.step) == (net.sizes, 5, net.step)
    assert folded.input_dropout == 0
    for layer, own in zip(folded.layers, net.layers, strict=True):
        assert layer.activation == own.activation
        assert layer.bias is not None
        assert not (layer.batch_norm or layer.dropout or layer.l1 or layer.l2 or layer.max_norm)
    same_bits(net.parameters, before[0])
    same_bits(net.running_mean, before[1])
    again = folded.folded()
    same_bits(again.parameters, folded.parameters)
    loss = folded.evaluate(x, np.zeros(200, int))["loss"]
    penalty = sum(layer.penalty() for layer in net.layers)
    z = net.evaluate(x, np.zeros(200, int))["loss"] - penalty
    assert loss == pytest.approx(z, rel=1e-9)  # far more than float64 outputs are apart
    folded.train_step(x, np.zeros(200, int), package.Adam())


def test_by_hand(package):
    """relu(2 x - 1), normalised to (h - 3) 5 / 2 + 7, times -1, minus 4, through gamma 3 and so on:
    all numbers are exact in binary."""
    net = package.MLP([1, 1, 1, 1], batch_norm=["after", "before"], output="identity",
                      dtype="float64")  # fmt: skip
    first, second, last = net.layers
    first.weight, first.bias, first.gamma, first.beta = 2, -1, 5, 7
    second.weight, second.gamma, second.beta = -1, 3, 11
    last.weight, last.bias = 1, 0
    net.running_mean = [3, -4]
    net.running_var = [4 - 1e-5, 0.25 - 1e-5]
    folded = net.folded()
    u = unit("float64")
    # c = 5 / 2, d = 7 - 3 c = -1/2; w' = c * -1 * 6, b' = 11 + (-d - -4) * 6
    within(folded.parameters, [2, -1, -15, 38, 1, 0], 8 * u * np.array([2, 1, 15, 40, 1, 1]))
    x = np.array([[0.0], [2.0]])
    within(folded.forward(x), [[38.0], [0.0]], 64 * u * 60)  # relu(38 - 15 relu(2 x - 1))
    within(net.forward(x), [[38.0], [0.0]], 64 * u * 60)


def test_bfloat16():
    """Folded weights are rounded to bfloat16 anew: to its 2^-8, not to that of float32."""
    nets = [
        trained(fanin, "after", "float32", precision=precision) for precision in (None, "bfloat16")
    ]
    for net, x in nets:
        folded = net.folded()
        assert folded.precision == net.precision
        z = net.forward(x)
        # two networks of four products, each of which rounds two factors by 2^-9
        off = 2 * 4 * 2 * 2.0**-9 if net.precision else 1e-5
        assert np.abs(folded.forward(x) - z).max() < off * np.abs(z).max()
