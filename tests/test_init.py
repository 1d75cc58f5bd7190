"""Initial weights: variances of the rules, the seed, callables."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fanin
from compare import same_bits
from fanin import reference
from fanin.reference.random import Stream

SIZES = [300, 200, 100, 10]

# name -> variance of a weight
RULES = {
    "zeros": lambda k, n: 0.0,
    "normal": lambda k, n: 0.01**2,
    "xavier": lambda k, n: 1 / k,
    "xavier_normal": lambda k, n: 1 / k,
    "xavier_uniform": lambda k, n: 1 / k,
    "lecun": lambda k, n: 1 / k,
    "lecun_normal": lambda k, n: 1 / k,
    "lecun_uniform": lambda k, n: 1 / k,
    "glorot": lambda k, n: 2 / (k + n),
    "glorot_normal": lambda k, n: 2 / (k + n),
    "glorot_uniform": lambda k, n: 2 / (k + n),
    "he": lambda k, n: 2 / k,
    "he_normal": lambda k, n: 2 / k,
    "he_uniform": lambda k, n: 2 / k,
}


def check_sample(w: np.ndarray, variance: float, distribution: str) -> None:
    """Mean and variance within 5 standard errors, and the shape's fourth moment within 10 %."""
    w = w.astype(np.float64)
    fourth = 3.0 if distribution == "normal" else 1.8  # E w^4 / var^2
    assert abs(w.mean()) <= 5 * math.sqrt(variance / w.size)
    assert abs(np.square(w).mean() - variance) <= 5 * variance * math.sqrt((fourth - 1) / w.size)
    if variance:
        assert abs((w**4).mean() / variance**2 / fourth - 1) < 0.1
    if distribution == "uniform":
        assert np.abs(w).max() <= math.sqrt(3 * variance)


@pytest.mark.parametrize("name", RULES)
def test_rules(name, package):
    net = package.MLP(SIZES, init=name, dtype="float64")
    for layer in net.layers[:2]:
        distribution = "uniform" if name.endswith("uniform") else "normal"
        check_sample(layer.weight, RULES[name](layer.fan_in, layer.fan_out), distribution)


AUTO = {
    **dict.fromkeys(("relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu"), "he_normal"),
    "selu": "lecun_normal",
    **dict.fromkeys(("identity", "tanh", "sigmoid", "softplus"), "glorot_uniform"),
}


@pytest.mark.parametrize("activation", AUTO)
def test_auto(activation, package):
    """By activation; the output layer is always glorot_uniform."""
    net = package.MLP(SIZES, activation=activation)
    rules = [AUTO[activation]] * 2 + ["glorot_uniform"]
    named = package.MLP(SIZES, activation=activation, init=rules)
    same_bits(net.parameters, named.parameters)
    assert len(
        set(map(tuple, (net.parameters[:4], package.MLP(SIZES, init="zeros").parameters[:4])))
    )


def test_factories(package):
    """Names are short for the functions of `init`, which take settings."""
    for name in ("he_normal", "glorot_uniform", "lecun_uniform", "xavier_normal", "zeros"):
        by_call = package.MLP(SIZES, init=getattr(package.init, name)())
        same_bits(by_call.parameters, package.MLP(SIZES, init=name).parameters)
    check_sample(package.MLP(SIZES, init=package.init.normal(2.0)).layers[0].weight, 4.0, "normal")
    w = package.MLP(SIZES, init=package.init.uniform(0.3)).layers[0].weight
    check_sample(w, 0.03 * (1 + 1e-6), "uniform")


def test_one_per_layer(package):
    net = package.MLP(SIZES, init=["zeros", "he", package.init.uniform(5.0)])
    assert not net.layers[0].weight.any()
    check_sample(net.layers[1].weight, 2 / 200, "normal")
    assert np.abs(net.layers[2].weight).max() > 4.5


@pytest.mark.parametrize("batch_norm", [False, True, "after"])
def test_the_rest(batch_norm, package):
    """Biases and beta are 0, gamma and the running variance 1."""
    net = package.MLP(SIZES, batch_norm=batch_norm)
    for layer in net.layers:
        for name, value in (("bias", 0), ("beta", 0), ("gamma", 1), ("running_mean", 0),
                            ("running_var", 1)):  # fmt: skip
            vector = getattr(layer, name)
            if vector is not None:
                same_bits(vector, np.full(layer.fan_out, value, np.float32))
        assert (layer.bias is None) == (layer.batch_norm == "before")
        assert (layer.gamma is None) == (not layer.batch_norm)


def test_seed(package):
    """The seed decides, on all its 64 bits; layers of one shape get different weights."""
    nets = [package.MLP([9, 9, 9], seed=seed) for seed in (0, 0, 1, 2**63, 2**64 - 1)]
    same_bits(nets[0].parameters, nets[1].parameters)
    assert len({net.parameters.tobytes() for net in nets}) == 4
    net = package.MLP([9, 9, 9, 9], init="he", seed=0)
    assert not np.array_equal(net.layers[0].weight, net.layers[1].weight)


def test_seed_of_the_system(package):
    first, second = package.MLP([9, 9], seed=None), package.MLP([9, 9], seed=None)
    assert first.seed != second.seed
    same_bits(package.MLP([9, 9], seed=first.seed).parameters, first.parameters)


@pytest.mark.parametrize("name", [*RULES, "auto"])
def test_compiled_and_reference_draw_the_same(name, dtype, isa):
    ours = fanin.MLP(SIZES, init=name, dtype=dtype, seed=2**40 + 1)
    same_bits(
        ours.parameters, reference.MLP(SIZES, init=name, dtype=dtype, seed=2**40 + 1).parameters
    )


def test_float32_is_float64_rounded(package):
    wide = package.MLP(SIZES, dtype="float64").parameters
    same_bits(package.MLP(SIZES, dtype="float32").parameters, wide.astype(np.float32))


def test_callable(package):
    """A user's own: called as init(fan_in, fan_out, rng), drawing from the seed's stream."""
    seen = []

    def own(fan_in, fan_out, rng):
        seen.append((fan_in, fan_out))
        return rng.normal((fan_in, fan_out)) + rng.uniform((fan_in, fan_out))

    net = package.MLP([5, 4, 3], init=own, dtype="float64", seed=6)
    assert seen == [(5, 4), (4, 3)]
    for i, layer in enumerate(net.layers):
        shape = layer.fan_in, layer.fan_out
        stream = Stream(6, i)
        same_bits(layer.weight, stream.normal(shape) + stream.uniform(shape))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (np.zeros((4, 5)), "shape"),
        (np.full((5, 4), np.nan), "finite"),
        (np.zeros((5, 4), complex), "real"),
        (None, "real"),
    ],
    ids=["shape", "nan", "complex", "none"],
)
def test_callable_that_returns_nonsense(result, message, package):
    with pytest.raises(ValueError, match=rf"init: .*{message}"):
        package.MLP([5, 4], init=lambda fan_in, fan_out, rng: result)
