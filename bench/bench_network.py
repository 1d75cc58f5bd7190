"""The five training steps (forward, loss, backward, Adam) in float32, against every rival.

Each contestant runs in a process of its own and they take turns, as in `python -m fanin bench`; the
table at the end has the medians. pytest-benchmark's own has fanin alone, timed in this process.
"""

from __future__ import annotations

import pytest

from fanin.bench import CONTESTANTS, Unavailable, installed, peaks, race, report, step
from fanin.bench.steps import STEPS

SLICES, SECONDS = 9, 0.3


@pytest.mark.parametrize("contestant", CONTESTANTS)
@pytest.mark.parametrize("on", STEPS, ids=str)
def test_answer(on, contestant):
    """Without dropout, every contestant's first losses are those of float64 NumPy."""
    if not installed(contestant):
        pytest.skip(f"{contestant} is not installed")
    try:
        race.check_step(contestant, on.name, 1)
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("on", STEPS, ids=str)
def test_step(benchmark, on, threads, note):
    timed = step("fanin")(on, on.dropout, threads)
    benchmark.group = f"step {threads}T"
    rounds = 3 if on.step_flops > 1e10 else 9
    benchmark.pedantic(
        timed.run, (max(1, int(1e8 / on.step_flops)),), rounds=rounds, warmup_rounds=1
    )
    if benchmark.disabled:
        return
    wanted = [name for name in CONTESTANTS if installed(name)]
    results = race.race(on.name, wanted, threads, SLICES, SECONDS)
    for line in report.table(results, peaks.fma("float32", threads)):
        note(line)
    benchmark.extra_info["alternating"] = {r.contestant: r.seconds for r in results if r.slices}
