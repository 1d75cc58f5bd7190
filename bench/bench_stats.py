"""Activation statistics, with and without a histogram, against NumPy's several passes."""

from __future__ import annotations

import numpy as np
import pytest

import rivals
from cases import STATS, params

BOUND = {"float32": 2e-6, "float64": 1e-14}


@pytest.mark.parametrize("contestant", ["fanin", "numpy"])
@pytest.mark.parametrize("case", params(STATS, "bench"))
def test_stats(contest, case, contestant, dtype, threads, rng):
    a = np.tanh(rng.standard_normal((case.m, case.n))).astype(dtype)
    run = rivals.ops(contestant).stats(case, a)
    exact = rivals.ops("numpy").stats(case, a.astype("f8"))()

    def check(got):
        for have, want in zip(got[:7], exact[:7], strict=True):
            assert np.abs(have - want).max() <= BOUND[dtype]
        if case.bins:  # an element on an edge may fall to either side in float32
            assert np.abs(got[7] - exact[7]).sum() <= 10

    what = f"stats {case}"
    contest.time(contestant, what, dtype, threads, run, check, moved=a.nbytes)
