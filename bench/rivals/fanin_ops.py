"""The single operations of fanin."""

from __future__ import annotations

import fanin

KEY = (0, 0, 0)


def gemm(case, x, w):
    out = fanin.matmul(x, w)
    return lambda: fanin.matmul(x, w, out=out)


def activation_forward(case, z):
    return lambda: fanin.activation_forward(z, case.kind)


def activation_backward(case, da, saved):
    return lambda: fanin.activation_backward(da, saved, case.kind)


def dropout_mask(case):
    return lambda: fanin.dropout_mask((case.m, case.n), case.dropout, KEY)


def stats(case, a):
    def run():
        s = fanin.activation_stats(a, bins=case.bins, activation=case.activation)
        shares = s.zero_fraction, s.saturated_fraction
        return s.mean, s.std, s.min, s.max, *shares, s.unit_mean, s.histogram

    return run


def dense_forward(case, x, w, b):
    options = {"activation": case.activation, "dropout": case.dropout, "stats": case.stats}
    return lambda: fanin.dense_forward(x, w, b, key=KEY, **options)[0]


def dense_backward(case, da, x, w, a, mask):
    b = w[0] * 0
    options = {"activation": case.activation, "dropout": case.dropout}
    cache = fanin.dense_forward(x, w, b, key=KEY, **options)[1]
    return lambda: fanin.dense_backward(da, cache)


def batch_norm_forward(case, x, gamma, beta, mean, var):
    state = (x, gamma, beta, mean, var)
    return lambda: fanin.batch_norm_forward(*state, training=case.training)[0]


def batch_norm_backward(case, dy, x, gamma, mean, var):
    state = (x, gamma, gamma, mean.copy(), var.copy())
    cache = fanin.batch_norm_forward(*state, training=case.training)[1]
    return lambda: fanin.batch_norm_backward(dy, cache)


def softmax_cross_entropy(case, z, labels):
    return lambda: fanin.softmax_cross_entropy(z, labels)


def sigmoid_cross_entropy(case, z, targets):
    return lambda: fanin.sigmoid_cross_entropy(z, targets)


def mean_squared_error(case, y, targets):
    return lambda: fanin.mean_squared_error(y, targets)


def optimizer(case, p, g):
    rule = case.make(fanin)

    def run():
        rule.update(p, g)
        return p

    return run
