"""Optimizers on a flat vector of half a million parameters."""

from __future__ import annotations

import numpy as np
import pytest

import rivals
from cases import OPTIMIZER, params
from fanin import reference

BOUND = {"float32": 1e-6, "float64": 1e-14}
# vectors read and written at least: p and g, p; and the state
MOVED = {"SGD": 3, "RMSprop": 5, "Adam": 7, "AdamW": 7}


@pytest.mark.parametrize("case", params(OPTIMIZER, "bench"))
def test_optimizer(contest, case, contestant, dtype, threads, rng, agrees):
    p, g = rng.standard_normal((2, case.size)).astype(dtype)
    exact, rule = p.astype("f8"), case.make(reference)
    rule.update(exact, g.astype("f8"))
    run = rivals.ops(contestant).optimizer(case, p, np.ascontiguousarray(g))
    vectors = MOVED[case.name] + (2 if dict(case.arguments).get("momentum") else 0)
    what = f"optimizer {case}"
    check = agrees(exact, bound=BOUND[dtype])
    contest.time(contestant, what, dtype, threads, run, check, moved=vectors * p.nbytes)
