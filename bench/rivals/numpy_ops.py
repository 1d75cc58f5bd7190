"""The single operations in plain NumPy, written with `out=` where a careful user would."""

from __future__ import annotations

import numpy as np

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
GELU_TANH = np.sqrt(2 / np.pi)


def gemm(case, x, w):
    out = np.empty((case.m, case.n), x.dtype)
    return lambda: np.matmul(x, w, out=out)


# Activations: f(z), and f'(z) from what the forward pass keeps ---------------------------------


def _erf(z):
    from scipy.special import erf  # NumPy has none

    return erf(z)


def _sigmoid(z):
    s = np.negative(z)
    np.exp(s, out=s)
    s += 1
    return np.reciprocal(s, out=s)


def _normal_cdf(z):
    c = _erf(z * np.sqrt(0.5).astype(z.dtype))
    c += 1
    c *= 0.5
    return c


def _gelu_inner(z):
    return np.tanh(z.dtype.type(GELU_TANH) * (z + z.dtype.type(0.044715) * z * z * z))


FORWARD = {
    "identity": lambda z: z.copy(),
    "relu": lambda z: np.maximum(z, 0),
    "leaky_relu": lambda z: np.maximum(z, z.dtype.type(0.01) * z),
    "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    "selu": lambda z: (
        z.dtype.type(SELU_SCALE)
        * np.where(z > 0, z, z.dtype.type(SELU_ALPHA) * np.expm1(np.minimum(z, 0)))
    ),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "gelu": lambda z: z * _normal_cdf(z),
    "gelu_tanh": lambda z: z.dtype.type(0.5) * z * (1 + _gelu_inner(z)),
    "silu": lambda z: z * _sigmoid(z),
    "softplus": lambda z: np.logaddexp(z, z.dtype.type(0)),
}


def _gelu_slope(z):
    density = np.exp(z.dtype.type(-0.5) * z * z) * z.dtype.type(1 / np.sqrt(2 * np.pi))
    return _normal_cdf(z) + z * density


def _gelu_tanh_slope(z):
    t = _gelu_inner(z)
    inner = z.dtype.type(GELU_TANH) * (1 + z.dtype.type(3 * 0.044715) * z * z)
    return z.dtype.type(0.5) * (1 + t + z * (1 - t * t) * inner)


def _silu_slope(z):
    s = _sigmoid(z)
    return s * (1 + z * (1 - s))


SLOPE = {  # of a, or of z for gelu, gelu_tanh, silu
    "identity": lambda a: 1,
    "relu": lambda a: a > 0,
    "leaky_relu": lambda a: np.where(a > 0, a.dtype.type(1), a.dtype.type(0.01)),
    "elu": lambda a: np.where(a > 0, 1, a + 1),
    "selu": lambda a: np.where(
        a > 0, a.dtype.type(SELU_SCALE), a + a.dtype.type(SELU_SCALE * SELU_ALPHA)
    ),
    "tanh": lambda a: 1 - a * a,
    "sigmoid": lambda a: a * (1 - a),
    "gelu": _gelu_slope,
    "gelu_tanh": _gelu_tanh_slope,
    "silu": _silu_slope,
    "softplus": lambda a: -np.expm1(-a),
}


def activation_forward(case, z):
    f = FORWARD[case.kind]
    return lambda: f(z)


def activation_backward(case, da, saved):
    slope = SLOPE[case.kind]
    return lambda: da * slope(saved)


# Dropout, statistics ---------------------------------------------------------------------------


def dropout_mask(case):
    rng = np.random.default_rng(0)
    shape = (case.m, case.n)
    return lambda: rng.random(shape, dtype=np.float32) >= case.dropout


def stats(case, a):
    def run():
        low, high = a.min(), a.max()
        zeros = (a == 0).sum(axis=0)
        unit_mean = a.mean(axis=0)
        saturated = (np.abs(a) > 0.98).mean()
        counts = np.histogram(a, case.bins)[0] if case.bins else None
        return a.mean(), a.std(), low, high, zeros.sum() / a.size, saturated, unit_mean, counts

    return run


# Layers ----------------------------------------------------------------------------------------


def dense_forward(case, x, w, b):
    rng = np.random.default_rng(0)
    f = FORWARD[case.activation]

    def run():
        z = x @ w
        z += b
        a = np.maximum(z, 0, out=z) if case.activation == "relu" else f(z)
        if case.stats:
            a.mean(), a.std(), a.min(), a.max(), (a == 0).mean(), (np.abs(a) > 0.98).mean()
            a.mean(axis=0), (a == 0).sum(axis=0)
        if case.dropout:
            mask = rng.random(a.shape, dtype=np.float32) >= case.dropout
            a *= mask
            a *= 1 / (1 - case.dropout)
        return a

    return run


def dense_backward(case, da, x, w, a, mask):
    slope = SLOPE[case.activation]

    def run():
        dz = da * slope(a)
        if mask is not None:
            dz *= mask
        return dz @ w.T, x.T @ dz, dz.sum(axis=0)

    return run


def batch_norm_forward(case, x, gamma, beta, mean, var):
    eps = 1e-5

    def run():
        if case.training:
            mu = x.mean(axis=0)
            y = x - mu
            variance = np.square(y).mean(axis=0)
            mean[...] = 0.9 * mean + 0.1 * mu
            var[...] = 0.9 * var + 0.1 * variance * (case.m / (case.m - 1))
        else:
            y = x - mean
            variance = var
        y *= gamma / np.sqrt(variance + x.dtype.type(eps))
        y += beta
        return y

    return run


def batch_norm_backward(case, dy, x, gamma, mean, var):
    mu = x.mean(axis=0) if case.training else mean
    variance = x.var(axis=0) if case.training else var
    scale = 1 / np.sqrt(variance + x.dtype.type(1e-5))
    x_hat = (x - mu) * scale  # what the forward pass keeps

    def run():
        dbeta = dy.sum(axis=0)
        dgamma = (dy * x_hat).sum(axis=0)
        if not case.training:
            return dy * (gamma * scale), dgamma, dbeta
        dx = x_hat * (dgamma / -case.m)
        dx += dy
        dx -= dbeta / case.m
        dx *= gamma * scale
        return dx, dgamma, dbeta

    return run


# Losses and their first gradient ---------------------------------------------------------------


def softmax_cross_entropy(case, z, labels):
    rows = np.arange(case.m)

    def run():
        d = z - z.max(axis=1, keepdims=True)
        picked = d[rows, labels]
        np.exp(d, out=d)
        total = d.sum(axis=1, keepdims=True)
        loss = (np.log(total[:, 0]) - picked).mean()
        d /= total
        d[rows, labels] -= 1
        d *= 1 / case.m
        return loss, d

    return run


def sigmoid_cross_entropy(case, z, targets):
    def run():
        e = np.exp(-np.abs(z))
        loss = (np.maximum(z, 0) - z * targets + np.log1p(e)).mean()
        d = np.where(z >= 0, 1, e)
        d /= 1 + e
        d -= targets
        d *= 1 / z.size
        return loss, d

    return run


def mean_squared_error(case, y, targets):
    def run():
        d = y - targets
        loss = np.square(d).mean()
        d *= 2 / y.size
        return loss, d

    return run


# Optimizers, in place on flat vectors ----------------------------------------------------------


def optimizer(case, p, g):
    options = dict(case.arguments)
    lr = options["lr"]
    m, v, s = np.zeros_like(p), np.zeros_like(p), np.empty_like(p)
    steps = 0

    def sgd():
        momentum = options.get("momentum", 0.0)
        if not momentum:
            np.multiply(g, lr, out=s)
        else:
            np.multiply(m, momentum, out=m)
            np.add(m, g, out=m)
            if options.get("nesterov"):
                np.multiply(m, momentum, out=s)
                np.add(s, g, out=s)
                np.multiply(s, lr, out=s)
            else:
                np.multiply(m, lr, out=s)
        np.subtract(p, s, out=p)
        return p

    def square(beta):
        np.multiply(v, beta, out=v)
        np.multiply(g, g, out=s)
        np.multiply(s, 1 - beta, out=s)
        np.add(v, s, out=v)

    def rmsprop():
        square(0.99)
        np.sqrt(v, out=s)
        np.add(s, 1e-8, out=s)
        np.divide(g, s, out=s)
        np.multiply(s, lr, out=s)
        np.subtract(p, s, out=p)
        return p

    def adam():
        nonlocal steps
        steps += 1
        if case.name == "AdamW":
            np.multiply(p, 1 - lr * options["weight_decay"], out=p)
        np.multiply(m, 0.9, out=m)
        np.multiply(g, 0.1, out=s)
        np.add(m, s, out=m)
        square(0.999)
        np.sqrt(v, out=s)
        np.multiply(s, 1 / np.sqrt(1 - 0.999**steps), out=s)
        np.add(s, 1e-8, out=s)
        np.divide(m, s, out=s)
        np.multiply(s, lr / (1 - 0.9**steps), out=s)
        np.subtract(p, s, out=p)
        return p

    return {"SGD": sgd, "RMSprop": rmsprop}.get(case.name, adam)
