"""A training step in plain NumPy, as a careful user writes it.

All parameters are one flat vector, so Adam is a dozen calls whatever the depth; every large array
is allocated once and written with `out=`; masks are drawn in the network's own type.
"""

from __future__ import annotations

import numpy as np

from . import start
from .steps import Array, Network


class Step:
    """See `fanin.bench.Step`."""

    def __init__(self, on: Network, dropout: float, threads: int, dtype: str = "float32"):
        self.on, self.dropout = on, dropout
        self.batches, self.next = start.batches(on, dtype), 0
        layers = start.weights(on, dtype)
        self.parameters = np.concatenate([p.ravel() for layer in layers for p in layer])
        self.gradients = np.empty_like(self.parameters)
        self.w, self.b = self._views(self.parameters, layers)
        self.dw, self.db = self._views(self.gradients, layers)
        self.m = np.zeros_like(self.parameters)
        self.v = np.zeros_like(self.parameters)
        self.scratch = np.empty_like(self.parameters)
        self.steps = 0
        shapes = [(on.batch, n) for n in on.sizes[1:]]
        self.a = [np.empty(shape, dtype) for shape in shapes]
        self.da = [np.empty(shape, dtype) for shape in shapes]
        self.mask = [np.empty(shape, dtype) for shape in shapes[:-1]]
        self.rows = np.arange(on.batch)
        self.rng = np.random.default_rng(0)

    @staticmethod
    def _views(flat: Array, layers: list[tuple[Array, Array]]) -> tuple[list[Array], list[Array]]:
        ws, bs, at = [], [], 0
        for w, b in layers:
            ws.append(flat[at : at + w.size].reshape(w.shape))
            bs.append(flat[at + w.size : at + w.size + b.size])
            at += w.size + b.size
        return ws, bs

    def _forward(self, x: Array) -> Array:
        last = len(self.w) - 1
        for i, (w, b, a) in enumerate(zip(self.w, self.b, self.a, strict=True)):
            np.matmul(x, w, out=a)
            a += b
            if i == last:
                break
            if self.on.activation == "relu":
                np.maximum(a, 0, out=a)
            else:
                np.tanh(a, out=a)
            if self.dropout:
                mask = self.mask[i]
                self.rng.random(dtype=mask.dtype, out=mask)
                np.greater_equal(mask, self.dropout, out=mask)
                mask *= 1 / (1 - self.dropout)
                a *= mask
            x = a
        return self.a[-1]

    def _loss(self, z: Array, y: Array) -> float:
        """The loss; z becomes its gradient."""
        if self.on.output == "identity":
            z -= y
            loss = float(np.square(z).mean())
            z *= 2 / z.size
            return loss
        z -= z.max(axis=1, keepdims=True)
        picked = z[self.rows, y]
        np.exp(z, out=z)
        total = z.sum(axis=1, keepdims=True)
        loss = float((np.log(total[:, 0]) - picked).mean())
        z /= total
        z[self.rows, y] -= 1
        z *= 1 / len(z)
        return loss

    def _backward(self, x: Array, dz: Array) -> None:
        for i in range(len(self.w) - 1, -1, -1):
            below = self.a[i - 1] if i else x
            np.matmul(below.T, dz, out=self.dw[i])
            np.sum(dz, axis=0, out=self.db[i])
            if not i:
                break
            da = np.matmul(dz, self.w[i].T, out=self.da[i - 1])
            if self.on.activation == "relu":
                if self.dropout:
                    da *= self.mask[i - 1]
                da *= below > 0
            else:
                below *= below  # the networks with tanh have no dropout
                np.subtract(1, below, out=below)
                da *= below
            dz = da

    def _update(self) -> None:
        self.steps += 1
        beta1, beta2 = start.BETAS
        g, m, v, s = self.gradients, self.m, self.v, self.scratch
        m *= beta1
        np.multiply(g, 1 - beta1, out=s)
        m += s
        v *= beta2
        np.multiply(g, g, out=s)
        s *= 1 - beta2
        v += s
        np.sqrt(v, out=s)
        s *= 1 / np.sqrt(1 - beta2**self.steps)
        s += start.EPS
        np.divide(m, s, out=s)
        s *= start.LEARNING_RATE / (1 - beta1**self.steps)
        self.parameters -= s

    def step(self) -> float:
        """The loss of one step."""
        x, y = self.batches[self.next]
        self.next = (self.next + 1) % len(self.batches)
        z = self._forward(x)
        loss = self._loss(z, y)
        self._backward(x, z)
        self._update()
        return loss

    def losses(self, count: int) -> list[float]:
        """The losses of the next steps."""
        return [self.step() for _ in range(count)]

    def run(self, count: int) -> None:
        """Takes so many steps."""
        for _ in range(count):
            self.step()
