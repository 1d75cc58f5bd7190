"""Activations forward and backward."""

from __future__ import annotations

import pytest

import rivals
from cases import ACTIVATION, NEEDS_INPUT, params
from fanin import reference

BOUND = {"float32": 2e-6, "float64": 4e-15}  # of the largest result: a few ulps


@pytest.mark.parametrize("case", params(ACTIVATION, "bench"))
def test_activation_forward(contest, case, contestant, dtype, threads, rng, agrees):
    if contestant == "numpy" and case.kind == "gelu":
        pytest.importorskip("scipy")
    z = rng.standard_normal((case.m, case.n)).astype(dtype)
    run = rivals.ops(contestant).activation_forward(case, z)
    check = agrees(reference.activation_forward(z.astype("f8"), case.kind), bound=BOUND[dtype])
    what = f"activation forward {case}"
    contest.time(contestant, what, dtype, threads, run, check, moved=2 * z.nbytes)


@pytest.mark.parametrize("contestant", ["fanin", "numpy"])
@pytest.mark.parametrize("case", params(ACTIVATION, "bench"))
def test_activation_backward(contest, case, contestant, dtype, threads, rng, agrees):
    if contestant == "numpy" and case.kind == "gelu":
        pytest.importorskip("scipy")
    z, da = rng.standard_normal((2, case.m, case.n)).astype(dtype)
    saved = z if case.kind in NEEDS_INPUT else reference.activation_forward(z, case.kind)
    run = rivals.ops(contestant).activation_backward(case, da, saved)
    dz = reference.activation_backward(da.astype("f8"), saved.astype("f8"), case.kind)
    check = agrees(dz, bound=BOUND[dtype])
    what = f"activation backward {case}"
    contest.time(contestant, what, dtype, threads, run, check, moved=3 * z.nbytes)
