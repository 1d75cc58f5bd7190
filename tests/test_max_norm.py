"""max_norm: no unit's weights grow longer than the limit, in any way of updating."""

from __future__ import annotations

import numpy as np
import pytest

import fanin
from compare import same_bits, unit, within

ROWS = 40


def data(inputs=30, classes=4, dtype="float32"):
    rng = np.random.default_rng(0)
    return rng.standard_normal((ROWS, inputs)).astype(dtype), rng.integers(0, classes, ROWS)


def norms(layer):
    return np.sqrt(np.square(layer.weight.astype(np.longdouble)).sum(axis=0)).astype(float)


def limit_once(net, package):
    """An update that changes nothing but for the limits."""
    net.gradients[:] = 0
    net.update(package.SGD(0.0))


@pytest.mark.parametrize("sizes", [[1, 1], [3, 5], [64, 64], [65, 17, 3], [200, 130, 129]], ids=str)
def test_columns(sizes, package, dtype, rng):
    """Long ones come down to the limit, to rounding; short ones keep their bits."""
    net = package.MLP(sizes, max_norm=2.0, dtype=dtype)
    before = rng.standard_normal(net.n_parameters).astype(dtype) * 0.4
    net.parameters = before
    free = package.MLP(sizes, dtype=dtype)
    free.parameters = before
    limit_once(net, package)
    some = 0
    for layer, old in zip(net.layers, free.layers, strict=True):
        length = norms(old)
        long = length > 2.0 * (1 + 4 * unit(dtype))
        some += long.sum()
        same_bits(layer.weight[:, ~long], old.weight[:, ~long])
        same_bits(layer.bias, old.bias)
        # the norm is right to float64, the factor and each product are rounded once
        factor = np.where(long, 2.0 / length, 1.0)
        within(layer.weight, old.weight * factor, 4 * unit(dtype) * np.abs(old.weight))
        assert (norms(layer) <= 2.0 * (1 + 4 * unit(dtype))).all()
    assert some or sizes in ([1, 1], [3, 5])


def test_by_hand(package):
    """(3, 4) has length 5 and becomes (1.5, 2); (0.6, 0.8) stays."""
    net = package.MLP([2, 2], output="identity", max_norm=2.5, dtype="float64")
    net.layers[0].weight = [[3, 0.6], [4, 0.8]]
    net.layers[0].bias = 100
    limit_once(net, package)
    same_bits(net.layers[0].weight, np.array([[1.5, 0.6], [2.0, 0.8]]))
    assert (net.layers[0].bias == 100).all()


def test_each_layer_has_its_own(package):
    net = package.MLP([6, 50, 40, 3], max_norm=[0.5, None, 1.0], dtype="float64")
    free = net.layers[1].weight.copy()
    limit_once(net, package)
    same_bits(net.layers[1].weight, free)
    for layer, most in ((net.layers[0], 0.5), (net.layers[2], 1.0)):
        within(norms(layer).max(), most, 4 * unit("float64"))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_squares_beyond_float32(scale, package):
    """Squares are summed in float64: 1e-60 and 1e60 are neither 0 nor infinite."""
    net = package.MLP([3, 2], max_norm=scale)
    net.layers[0].weight = np.float32(scale) * np.array([[3, 0.1], [0, 0.1], [4, 0.1]])
    limit_once(net, package)
    within(norms(net.layers[0])[0] / scale, 1.0, 4 * unit("float32"))
    same_bits(net.layers[0].weight[:, 1], np.full(3, np.float32(scale) * 0.1, np.float32))


def test_what_is_no_number(package):
    """It shows: a column with NaN stays as it is; one with infinity becomes 0 and NaN."""
    net = package.MLP([2, 3], max_norm=1.0, dtype="float64")
    net.layers[0].weight = [[np.nan, np.inf, 3], [9, 9, 4]]
    limit_once(net, package)
    w = net.layers[0].weight
    assert np.isnan(w[0, 0])
    assert w[1, 0] == 9
    assert np.isnan(w[0, 1])
    assert w[1, 1] == 0
    within(w[:, 2], [0.6, 0.8], 4 * unit("float64"))


@pytest.mark.parametrize("optimizer", ["SGD", "RMSprop", "Adam", "AdamW"])
def test_every_way_obeys(optimizer, package):
    """train_step, fit and one's own loop; every norm of every step."""
    x, y = data()
    for how in ("step", "fit", "own"):
        net = package.MLP([30, 25, 4], max_norm=0.9)
        rule = getattr(package, optimizer)(0.05)
        for _ in range(5):
            if how == "step":
                net.train_step(x, y, rule)
            elif how == "fit":
                net.fit(x, y, epochs=1, batch_size=10, optimizer=rule, progress=False)
            else:
                net.loss_and_gradients(x, y)
                net.update(rule)
            for layer in net.layers:
                assert norms(layer).max() < 0.9 * (1 + 4 * unit("float32"))
        assert max(norms(layer).max() for layer in net.layers) > 0.9 * (1 - 4 * unit("float32"))


def test_an_optimizer_of_ones_own(package):
    """Anything with update(parameters, gradients); so does one of the reference."""

    class Jump:
        def update(self, parameters, gradients):
            parameters += 10 * np.sign(gradients)

    x, y = data()
    for rule in (Jump(), fanin.reference.SGD(100.0)):
        net = package.MLP([30, 25, 4], max_norm=0.9)
        net.train_step(x, y, rule)
        for layer in net.layers:
            assert norms(layer).max() < 0.9 * (1 + 4 * unit("float32"))


def test_a_limit_that_is_not_reached(package):
    x, y = data()
    nets = []
    for limit in (None, 1e6):
        net = package.MLP([30, 25, 4], max_norm=limit)
        for _ in range(5):
            net.train_step(x, y, package.Adam(0.01))
        nets.append(net)
    same_bits(nets[0].parameters, nets[1].parameters)


def test_same_bits_everywhere(fma_isas, threads):
    """Enough columns and rows for several tasks."""
    x, y = data(300, 200)
    found = []
    for isa in fma_isas:
        fanin.set_isa(isa)
        for count in (1, threads):
            fanin.set_num_threads(count)
            net = fanin.MLP([300, 700, 200], max_norm=[0.7, 0.9])
            rule = fanin.Adam(0.01)
            for _ in range(3):
                net.train_step(x, y, rule)
            found.append(net.parameters.copy())
    for other in found[1:]:
        same_bits(other, found[0])
