"""The single operations of JAX: jitted, arrays on the device beforehand, results waited for."""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

FORWARD = {
    "identity": lambda z: z + 0,
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "gelu": lambda z: jax.nn.gelu(z, approximate=False),
    "gelu_tanh": lambda z: jax.nn.gelu(z, approximate=True),
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
}


def _run(function, *arrays):
    """The jitted function on arrays put on the device; None in float64, off by default."""
    if arrays and arrays[0].dtype == "float64":
        return None
    jitted, arrays = jax.jit(function), jax.device_put(arrays)
    return lambda: jax.block_until_ready(jitted(*arrays))


def gemm(case, x, w):
    return _run(jnp.matmul, x, w)


def activation_forward(case, z):
    return _run(FORWARD[case.kind], z)


def dropout_mask(case):
    key = jax.random.key(0)
    draw = jax.jit(lambda key: jax.random.bernoulli(key, 1 - case.dropout, (case.m, case.n)))
    return lambda: jax.block_until_ready(draw(key))


def dense_forward(case, x, w, b):
    if case.stats:
        return None

    def forward(x, w, b, key):
        a = FORWARD[case.activation](x @ w + b)
        if case.dropout:
            kept = jax.random.bernoulli(key, 1 - case.dropout, a.shape)
            a = jnp.where(kept, a, 0) / (1 - case.dropout)
        return a

    key = jax.random.key(0)
    return _run(lambda x, w, b: forward(x, w, b, key), x, w, b)


def dense_backward(case, da, x, w, a, mask):
    def backward(da, x, w, a, mask):
        dz = da * ((a > 0) if case.activation == "relu" else 1 - a * a) * mask
        return dz @ w.T, x.T @ dz, dz.sum(0)

    return _run(backward, da, x, w, a, mask if mask is not None else a.dtype.type(1))


def batch_norm_forward(case, x, gamma, beta, mean, var):
    def forward(x, gamma, beta, mean, var):
        if case.training:
            mu, v = x.mean(0), x.var(0)
            mean = 0.9 * mean + 0.1 * mu
            var = 0.9 * var + 0.1 * v * case.m / (case.m - 1)
        else:
            mu, v = mean, var
        return (x - mu) * (gamma / jnp.sqrt(v + 1e-5)) + beta, mean, var

    run = _run(forward, x, gamma, beta, mean, var)
    return run and (lambda: run()[0])


def softmax_cross_entropy(case, z, labels):
    def loss(z, labels):
        picked = jnp.take_along_axis(z, labels[:, None], axis=1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(z, axis=1) - picked)

    return _run(jax.value_and_grad(loss), z, labels)


def sigmoid_cross_entropy(case, z, targets):
    def loss(z, t):
        return jnp.mean(jnp.maximum(z, 0) - z * t + jnp.log1p(jnp.exp(-jnp.abs(z))))

    return _run(jax.value_and_grad(loss), z, targets)


def mean_squared_error(case, y, targets):
    return _run(jax.value_and_grad(lambda y, t: jnp.mean((y - t) ** 2)), y, targets)


def optimizer(case, p, g):
    if case.name not in ("Adam", "AdamW") or p.dtype == "float64":
        return None
    options = dict(case.arguments)
    decay = 1 - options["lr"] * options.get("weight_decay", 0.0)

    def update(p, m, v, steps, g):
        steps = steps + 1
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        rate = options["lr"] / (1 - 0.9**steps)
        root = jnp.sqrt(1 - 0.999**steps)
        return p * decay - rate * m / (jnp.sqrt(v) / root + 1e-8), m, v, steps

    jitted = jax.jit(update, donate_argnums=(0, 1, 2, 3))
    g = jax.device_put(g)
    state = (jax.device_put(p), jnp.zeros_like(g), jnp.zeros_like(g), jnp.zeros((), g.dtype))

    def run():
        nonlocal state
        state = jitted(*state, g)
        return state[0].block_until_ready()

    return run
