"""Products: every timed size and orientation, and plain GEMM on each instruction set."""

from __future__ import annotations

import numpy as np
import pytest

import fanin
import rivals
from cases import GEMM, lay_out, params, sum_bound


def operands(case, dtype, rng):
    x = lay_out(rng.standard_normal((case.m, case.k)), case.x_layout).astype(dtype)
    w = lay_out(rng.standard_normal((case.k, case.n)), case.w_layout).astype(dtype)
    return x, w


def right(case, x, w, dtype):
    """A check of every element against the sum of |x||w| times Higham's bound."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    exact, room = x @ w, sum_bound(case.k + 2, dtype) * (np.abs(x) @ np.abs(w))

    def check(got):
        assert (np.abs(np.asarray(got) - exact) <= room).all()

    return check


@pytest.mark.parametrize("case", params(GEMM, "bench"))
def test_gemm(contest, case, contestant, dtype, threads, rng):
    x, w = operands(case, dtype, rng)
    run = rivals.ops(contestant).gemm(case, x, w)
    check = right(case, x, w, dtype)
    contest.time(contestant, f"gemm {case}", dtype, threads, run, check, flops=case.flops)


@pytest.mark.parametrize("isa", fanin.available_isas())
@pytest.mark.parametrize("case", params(GEMM, "bench"))
def test_gemm_isa(contest, case, isa, dtype, rng):
    before = fanin.isa()
    fanin.set_isa(isa)
    try:
        x, w = operands(case, dtype, rng)
        run = rivals.ops("fanin").gemm(case, x, w)
        check = right(case, x, w, dtype)
        what = f"gemm by instruction set {case}"
        contest.time(isa, what, dtype, 1, run, check, flops=case.flops, isa=isa)
    finally:
        fanin.set_isa(before)
