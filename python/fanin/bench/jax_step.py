"""A training step in JAX: one jitted function, parameters and moments donated.

Batches are put on the device beforehand. Threefry draws the masks, its default. `run` waits once,
after the last step.
"""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

from rivals import start


def make_step(case, dropout: float):
    def loss_of(params, x, y, key):
        for w, b in params[:-1]:
            x = x @ w + b
            x = jax.nn.relu(x) if case.activation == "relu" else jnp.tanh(x)
            if dropout:
                key, now = jax.random.split(key)
                x = jnp.where(jax.random.bernoulli(now, 1 - dropout, x.shape), x, 0) / (1 - dropout)
        w, b = params[-1]
        z = x @ w + b
        if case.output == "identity":
            return jnp.mean((z - y) ** 2)
        picked = jnp.take_along_axis(z, y[:, None], axis=1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(z, axis=1) - picked)

    beta1, beta2 = start.BETAS

    def step(params, m, v, steps, key, x, y):
        key, now = jax.random.split(key)
        loss, grads = jax.value_and_grad(loss_of)(params, x, y, now)
        steps = steps + 1
        m = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, m, grads)
        v = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, v, grads)
        rate = start.LEARNING_RATE / (1 - beta1**steps)
        root = jnp.sqrt(1 - beta2**steps)
        params = jax.tree.map(
            lambda p, m, v: p - rate * m / (jnp.sqrt(v) / root + start.EPS), params, m, v
        )
        return params, m, v, steps, key, loss

    return jax.jit(step, donate_argnums=(0, 1, 2, 3, 4))


class Step:
    def __init__(self, case, dropout: float, threads: int, dtype: str = "float32"):
        params = jax.device_put(start.weights(case, dtype))
        zeros = [jax.tree.map(jnp.zeros_like, params) for _ in range(2)]
        self.state = (params, *zeros, jnp.zeros((), dtype), jax.random.key(0))
        self.batches, self.next = jax.device_put(start.batches(case, dtype)), 0
        self.jitted = make_step(case, dropout)

    def step(self):
        x, y = self.batches[self.next]
        self.next = (self.next + 1) % len(self.batches)
        *self.state, loss = self.jitted(*self.state, x, y)
        return loss

    def losses(self, count: int) -> list[float]:
        return [float(self.step()) for _ in range(count)]

    def run(self, count: int) -> None:
        for _ in range(count):
            loss = self.step()
        loss.block_until_ready()
