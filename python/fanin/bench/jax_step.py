"""A training step in JAX: one jitted function, parameters and moments donated.

Batches are put on the device beforehand. Threefry draws the masks, its default. `run` waits once,
after the last step.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

from . import start
from .steps import Network


def make_step(on: Network, dropout: float) -> Any:
    """The jitted step: parameters, moments, count, key and batch in, the same and the loss out."""

    def loss_of(params: Any, x: Any, y: Any, key: Any) -> Any:
        for w, b in params[:-1]:
            x = x @ w + b
            x = jax.nn.relu(x) if on.activation == "relu" else jnp.tanh(x)
            if dropout:
                key, now = jax.random.split(key)
                x = jnp.where(jax.random.bernoulli(now, 1 - dropout, x.shape), x, 0) / (1 - dropout)
        w, b = params[-1]
        z = x @ w + b
        if on.output == "identity":
            return jnp.mean((z - y) ** 2)
        picked = jnp.take_along_axis(z, y[:, None], axis=1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(z, axis=1) - picked)

    beta1, beta2 = start.BETAS

    def step(params: Any, m: Any, v: Any, steps: Any, key: Any, x: Any, y: Any) -> tuple[Any, ...]:
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
    """See `fanin.bench.Step`."""

    def __init__(self, on: Network, dropout: float, threads: int, dtype: str = "float32"):
        params = jax.device_put(start.weights(on, dtype))
        zeros = [jax.tree.map(jnp.zeros_like, params) for _ in range(2)]
        self.state = (params, *zeros, jnp.zeros((), dtype), jax.random.key(0))
        self.batches, self.next = jax.device_put(start.batches(on, dtype)), 0
        self.jitted = make_step(on, dropout)

    def step(self) -> Any:
        """The loss of one step, on the device."""
        x, y = self.batches[self.next]
        self.next = (self.next + 1) % len(self.batches)
        *self.state, loss = self.jitted(*self.state, x, y)
        return loss

    def losses(self, count: int) -> list[float]:
        """The losses of the next steps."""
        return [float(self.step()) for _ in range(count)]

    def run(self, count: int) -> None:
        """Takes so many steps."""
        for _ in range(count):
            loss = self.step()
        loss.block_until_ready()
