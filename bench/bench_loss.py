"""Losses with their first gradient."""

from __future__ import annotations

import pytest

import rivals
from cases import LOSS, params
from fanin import reference

BOUND = {"float32": 5e-6, "float64": 1e-13}


@pytest.mark.parametrize("case", params(LOSS, "bench"))
def test_loss(contest, case, contestant, dtype, threads, rng, agrees):
    z = rng.standard_normal((case.m, case.n)).astype(dtype)
    if case.targets == "labels":
        targets = rng.integers(0, case.n, case.m)
        exact = targets
    else:
        targets = rng.uniform(0, 1, z.shape).astype(dtype)
        exact = targets.astype("f8")
    expected = getattr(reference, case.function)(z.astype("f8"), exact)
    run = getattr(rivals.ops(contestant), case.function)(case, z, targets)
    check = agrees(*expected, bound=BOUND[dtype])
    what = f"loss {case}"
    contest.time(contestant, what, dtype, threads, run, check, moved=2 * z.nbytes)
