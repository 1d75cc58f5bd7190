"""Batch norm forward, in training and inference, and backward."""

from __future__ import annotations

import numpy as np
import pytest

import rivals
from cases import BATCH_NORM, params
from fanin import reference

BOUND = {"float32": 1e-5, "float64": 1e-13}


def layer(case, dtype, rng):
    x = (rng.standard_normal((case.m, case.n)) * 2 + 1).astype(dtype)
    gamma, beta, mean = rng.standard_normal((3, case.n)).astype(dtype)
    var = rng.uniform(0.5, 2, case.n).astype(dtype)
    return x, gamma, beta, mean, var


@pytest.mark.parametrize("case", params(BATCH_NORM, "bench"))
def test_batch_norm_forward(contest, case, contestant, dtype, threads, rng, agrees):
    state = layer(case, dtype, rng)
    exact = [array.astype("f8") for array in state]
    y = reference.batch_norm_forward(*exact, training=case.training)[0]
    run = rivals.ops(contestant).batch_norm_forward(case, *state)
    what, moved = f"batch norm forward {case}", 2 * state[0].nbytes
    check = agrees(y, bound=BOUND[dtype])
    contest.time(contestant, what, dtype, threads, run, check, moved=moved)


@pytest.mark.parametrize("contestant", ["fanin", "numpy"])
@pytest.mark.parametrize("case", params(BATCH_NORM, "bench"))
def test_batch_norm_backward(contest, case, contestant, dtype, threads, rng, agrees):
    x, gamma, beta, mean, var = layer(case, dtype, rng)
    dy = rng.standard_normal(x.shape).astype(dtype)
    exact = [array.astype("f8") for array in (x, gamma, beta, mean, var)]
    _, cache = reference.batch_norm_forward(*exact, training=case.training)
    gradients = tuple(np.asarray(g) for g in reference.batch_norm_backward(dy.astype("f8"), cache))
    run = rivals.ops(contestant).batch_norm_backward(case, dy, x, gamma, mean, var)
    what, moved = f"batch norm backward {case}", 3 * x.nbytes
    check = agrees(*gradients, bound=BOUND[dtype])
    contest.time(contestant, what, dtype, threads, run, check, moved=moved)
