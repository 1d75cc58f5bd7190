"""The single operations of PyTorch, eager, without autograd unless the operation is a gradient."""

from __future__ import annotations

import torch
from torch.nn import functional as F

FORWARD = {
    "identity": torch.clone,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    "silu": F.silu,
    "softplus": F.softplus,
}


def _tensors(*arrays):
    return tuple(torch.from_numpy(array) for array in arrays)


def gemm(case, x, w):
    x, w = _tensors(x, w)
    out = x @ w
    return lambda: torch.matmul(x, w, out=out)


def activation_forward(case, z):
    (z,) = _tensors(z)
    f = FORWARD[case.kind]
    return lambda: f(z)


def dropout_mask(case):
    shape = (case.m, case.n)
    return lambda: torch.rand(shape) >= case.dropout


def dense_forward(case, x, w, b):
    x, w, b = _tensors(x, w, b)
    f = FORWARD[case.activation]

    def run():
        a = f(torch.addmm(b, x, w))
        return F.dropout(a, case.dropout) if case.dropout else a

    return None if case.stats else run


def dense_backward(case, da, x, w, a, mask):
    da, x, w, a = _tensors(da, x, w, a)
    mask = None if mask is None else torch.from_numpy(mask)

    def run():
        dz = da * (a > 0) if case.activation == "relu" else torch.ops.aten.tanh_backward(da, a)
        if mask is not None:
            dz *= mask
        return dz @ w.T, x.T @ dz, dz.sum(0)

    return run


def batch_norm_forward(case, x, gamma, beta, mean, var):
    x, gamma, beta, mean, var = _tensors(x, gamma, beta, mean, var)
    return lambda: F.batch_norm(x, mean, var, gamma, beta, case.training, 0.1, 1e-5)


def _loss(function, z, targets):
    z, targets = _tensors(z, targets)
    z.requires_grad_()

    def run():
        loss = function(z, targets)
        return loss.detach(), torch.autograd.grad(loss, z)[0]

    return run


def softmax_cross_entropy(case, z, labels):
    return _loss(F.cross_entropy, z, labels)


def sigmoid_cross_entropy(case, z, targets):
    return _loss(F.binary_cross_entropy_with_logits, z, targets)


def mean_squared_error(case, y, targets):
    return _loss(F.mse_loss, y, targets)


def optimizer(case, p, g):
    p, g = _tensors(p, g)
    p.requires_grad_()
    p.grad = g
    options = dict(case.arguments)
    if case.name != "RMSprop":  # the fastest of its kinds, where there is one
        options["fused"] = True
    rule = getattr(torch.optim, case.name)([p], **options)

    def run():
        rule.step()
        return p.detach()

    return run
