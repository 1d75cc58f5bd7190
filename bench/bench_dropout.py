"""Dropout masks: fanin's is a function of (seed, step, layer, element), the rivals' of a state."""

from __future__ import annotations

import numpy as np
import pytest

import rivals
from cases import DROPOUT, params


@pytest.mark.parametrize("case", params(DROPOUT, "bench"))
def test_dropout_mask(contest, case, contestant, threads):
    run = rivals.ops(contestant).dropout_mask(case)
    size = case.m * case.n

    def check(mask):
        kept = np.asarray(mask).mean()  # within five standard deviations
        assert abs(kept - (1 - case.dropout)) < 5 * np.sqrt(case.dropout / size)

    what = f"dropout mask {case}"
    contest.time(contestant, what, "float32", threads, run, check, moved=size)
