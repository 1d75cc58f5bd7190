"""The dense layer forward and backward: one call of fanin, several of the rivals."""

from __future__ import annotations

import numpy as np
import pytest

import rivals
from cases import DENSE, params
from fanin import reference

BOUND = {"float32": 1e-5, "float64": 1e-13}  # of the largest entry; sums of up to 784 products
KEY = (0, 0, 0)


def layer(case, dtype, rng):
    """x, w, b whose products sum exactly in float32: all agree on which side of relu they are."""
    x = (rng.integers(-8, 9, (case.m, case.k)) / 8).astype(dtype)
    w = (rng.integers(-8, 9, (case.k, case.n)) / 64).astype(dtype)
    b = (rng.integers(-8, 9, case.n) / 8).astype(dtype)
    da = rng.standard_normal((case.m, case.n)).astype(dtype)
    return x, w, b, da


@pytest.mark.parametrize("case", params(DENSE, "bench"))
def test_dense_forward(contest, case, contestant, dtype, threads, rng, agrees):
    x, w, b, _ = layer(case, dtype, rng)
    run = rivals.ops(contestant).dense_forward(case, x, w, b)
    exact = [array.astype("f8") for array in (x, w, b)]
    a = reference.dense_forward(*exact, activation=case.activation)[0]
    close = agrees(a, bound=BOUND[dtype])

    def check(got):
        if not case.dropout:
            return close(got)
        kept = np.asarray(got) != 0  # every contestant draws its own mask: look at what it kept
        rate = kept[a != 0].mean()
        assert abs(rate - (1 - case.dropout)) < 5 * np.sqrt(case.dropout / (a != 0).sum())
        # fanin's rate is a multiple of 1/65536, hence the second term
        assert np.abs(np.asarray(got) * (1 - case.dropout) - a)[kept].max() <= (
            (BOUND[dtype] + 2e-5) * np.abs(a).max()
        )
        return None

    what = f"dense forward {case}"
    contest.time(contestant, what, dtype, threads, run, check, flops=case.forward_flops)


@pytest.mark.parametrize("case", params(DENSE, "bench"))
def test_dense_backward(contest, case, contestant, dtype, threads, rng, agrees):
    if case.stats:
        pytest.skip("statistics belong to the forward pass")
    x, w, b, da = layer(case, dtype, rng)
    b *= 0  # the fanin contestant makes its own cache, without knowing b
    exact = [array.astype("f8") for array in (x, w, b)]
    options = {"activation": case.activation, "dropout": case.dropout}
    _, cache = reference.dense_forward(*exact, key=KEY, **options)
    gradients = tuple(reference.dense_backward(da.astype("f8"), cache))
    a = reference.dense_forward(x, w, b, activation=case.activation)[0]
    mask = None
    if case.dropout:  # the same mask for all, scaled
        kept = reference.dropout_mask((case.m, case.n), case.dropout, KEY)
        mask = (kept / (1 - np.round(case.dropout * 65536) / 65536)).astype(dtype)
    run = rivals.ops(contestant).dense_backward(case, da, x, w, a, mask)
    check = agrees(*gradients, bound=BOUND[dtype])
    what = f"dense backward {case}"
    contest.time(contestant, what, dtype, threads, run, check, flops=case.backward_flops)
