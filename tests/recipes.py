"""What is computed and hashed for data/hashes.json; see data/make.py, test_reproducible.py.

The data come from integer arithmetic alone, so that no library's generator is part of the promise.
"""

from __future__ import annotations

import math

import numpy as np

import fanin
from compare import hash_of

LIMITS = {"clip_norm": 1.2, "clip_value": 0.01}  # reached by some norms and a tenth of the entries


def numbers(*shape: int, seed: int = 1) -> np.ndarray:
    """float64 multiples of 2^-32 in [-1, 1), from the middle bits of a linear congruence."""
    count = math.prod(shape)
    states = np.empty(count, np.uint64)
    state = (seed * 2862933555777941757 + 3037000493) % 2**64
    for i in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        states[i] = state
    return ((states >> np.uint64(31)).astype(np.float64) / 2**32 - 1).reshape(shape)


def network(dtype: str, **options) -> fanin.MLP:
    """A network with everything switched on."""
    settings = {
        "activation": ["relu", "tanh", "gelu"],
        "dropout": [0.2, 0.5, 0.1],
        "batch_norm": True,
        "l1": 1e-5,
        "l2": 1e-4,
        "seed": 2024,
    }
    return fanin.MLP([37, 530, 65, 33, 10], dtype=dtype, **{**settings, **options})


def batches(dtype: str):
    """300 rows, of which a step takes 100."""
    x, labels = numbers(300, 37).astype(dtype), (np.arange(300) * 7919) % 10
    return [(x[i : i + 100], labels[i : i + 100]) for i in (0, 100, 200)]


def hundred_steps(dtype: str, optimizer=None, **options):
    """Weights and running statistics after a hundred steps."""
    net, data = network(dtype, **options), batches(dtype)
    optimizer = optimizer or fanin.Adam(1e-3)

    def run() -> str:
        for i in range(100):
            net.train_step(*data[i % 3], optimizer)
        return hash_of(net.parameters, net.running_mean, net.running_var)

    return run


def fit():
    """Weights after three epochs of fit on shuffled bytes, scaled while they are gathered."""
    net = network("float32")
    x = ((numbers(500, 37, seed=3) + 1) * 128).astype(np.uint8)
    weight = (numbers(500, seed=4) + 1.5).astype(np.float32)
    rates = [0.01 / (1 + step) for step in range(100)]

    def run() -> str:
        net.fit(
            x, (np.arange(500) * 7919) % 10, epochs=3, batch_size=64, input_scale=1 / 255,
            optimizer=fanin.AdamW(rates.__getitem__), progress=False, label_smoothing=0.1,
            sample_weight=weight,
        )  # fmt: skip
        return hash_of(net.parameters, net.running_mean, net.running_var)

    return run


def products(dtype: str) -> str:
    """A product whose k crosses blocks."""
    return hash_of(fanin.matmul(numbers(37, 1100).astype(dtype), numbers(1100, 41).astype(dtype)))


def activations(dtype: str) -> str:
    """Every activation and its derivative."""
    z = (numbers(30, 33) * 12).astype(dtype)
    found = []
    for kind in fanin.reference.arguments.ACTIVATIONS:
        a = fanin.activation_forward(z, kind)
        saved = z if kind in ("gelu", "gelu_tanh", "silu") else a
        found += [a, fanin.activation_backward(z, saved, kind)]
    return hash_of(*found)


def losses(dtype: str) -> str:
    """The three losses and their gradients."""
    z, t = (numbers(70, 13) * 9).astype(dtype), np.abs(numbers(70, 13, seed=2)).astype(dtype)
    found = []
    for loss, d in (
        fanin.softmax_cross_entropy(z, np.arange(70) % 13, label_smoothing=0.1),
        fanin.sigmoid_cross_entropy(z, t),
        fanin.mean_squared_error(z, t),
    ):
        found += [np.array(loss), d]
    return hash_of(*found)


def masks() -> str:
    """Two dropout masks."""
    key = (2**63 + 1, 2**40, 9)
    return hash_of(*(fanin.dropout_mask((70, 90), rate, key) for rate in (0.1, 0.5)))


def weights(init: str) -> str:
    """Initial weights."""
    return hash_of(fanin.MLP([30, 40, 7], init=init, dtype="float64", seed=2**60).parameters)


AFTER = {"batch_norm": ["after", "before", "after"], "input_dropout": 0.1}
SPARSE = {"l1_step": "proximal", "l1": 1e-3, "max_norm": [0.8, None, 1.0, 0.9]}

# name -> a function that prepares everything and returns the function that computes the hash
RECIPES = {
    "masks": lambda: masks,
    "weights, normal": lambda: lambda: weights("he_normal"),
    "weights, uniform": lambda: lambda: weights("glorot_uniform"),
    "products, float32": lambda: lambda: products("float32"),
    "products, float64": lambda: lambda: products("float64"),
    "activations, float32": lambda: lambda: activations("float32"),
    "activations, float64": lambda: lambda: activations("float64"),
    "losses, float32": lambda: lambda: losses("float32"),
    "losses, float64": lambda: lambda: losses("float64"),
    "steps, float32": lambda: hundred_steps("float32"),
    "steps, float64": lambda: hundred_steps("float64"),
    "steps, no batch norm": lambda: hundred_steps("float32", batch_norm=False),
    "steps, SGD": lambda: hundred_steps("float32", fanin.SGD(0.01, momentum=0.9, nesterov=True)),
    "steps, RMSprop": lambda: hundred_steps("float32", fanin.RMSprop(1e-3)),
    "steps, clipped": lambda: hundred_steps("float32", fanin.AdamW(1e-3, **LIMITS)),
    "steps, clipped, float64": lambda: hundred_steps("float64", fanin.SGD(0.1, **LIMITS)),
    "steps, batch norm after": lambda: hundred_steps("float32", **AFTER),
    "steps, batch norm after, float64": lambda: hundred_steps("float64", **AFTER),
    "steps, limited": lambda: hundred_steps("float32", **SPARSE, batch_norm=False),
    "steps, limited, SGD": lambda: hundred_steps(
        "float64", fanin.SGD(0.1, momentum=0.9), **SPARSE, **AFTER
    ),
    "fit": fit,
}


def result(name: str) -> str:
    """The hash of a recipe on the set and threads in use."""
    return RECIPES[name]()()
