"""The five training steps (forward, loss, backward, Adam) in float32, against every rival.

Every contestant runs in a process of its own and they take turns (alternate.py); the table at the
end has the medians. pytest-benchmark's own table holds fanin alone, timed in this process.
"""

from __future__ import annotations

import pytest

import alternate
import peaks
import rivals
from cases import STEPS, params

SLICES, SECONDS = 9, 0.3


@pytest.mark.parametrize("contestant", rivals.STEPS)
@pytest.mark.parametrize("case", params(STEPS, "bench"))
def test_answer(case, contestant):
    """Without dropout, every contestant's first losses are those of float64 NumPy."""
    pytest.importorskip(rivals.NEEDS[contestant][0])
    alternate.check_step(contestant, case.name, 1)


@pytest.mark.parametrize("case", params(STEPS, "bench"))
def test_step(benchmark, case, threads, note):
    step = rivals.step("fanin").Step(case, case.dropout, threads)
    benchmark.group = f"step {threads}T"
    rounds = 3 if case.step_flops > 1e10 else 9
    benchmark.pedantic(
        step.run, (max(1, int(1e8 / case.step_flops)),), rounds=rounds, warmup_rounds=1
    )
    if benchmark.disabled:
        return
    wanted = [name for name in rivals.STEPS if rivals.installed(name)]
    results = alternate.race(case.name, wanted, threads, SLICES, SECONDS)
    for line in alternate.table(results, peaks.fma("float32", threads)):
        note(line)
    benchmark.extra_info["alternating"] = {r.contestant: r.seconds for r in results}
