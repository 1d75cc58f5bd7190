"""What others on the machine cost: a busy process on the second core, and NumPy between our calls.

    python bench/neighbours.py [busy] [interleaved] [--json FILE]

busy: default threads against one thread, with the second core idle and with a process on it that
never rests; steps and products. interleaved: training steps and `numpy.matmul` in turn in one
process, against the sum of both alone; NumPy's threads look for work for 0.1 s after each product.
Its last row has a large product of fanin's in place of the step: tasks that wait for nothing, so
what it takes is what the scheduler leaves us.
Contestants take turns, each in a process of its own; figures are medians. An asterisk: above the
limit.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np

import fanin
import operations
import script
from fanin.bench import fanin_step, race, worker
from fanin.bench.steps import STEPS, network

IDLE, BUSY, INTERLEAVED = 1.05, 1.40, 1.5
PRODUCTS = ((32, 64, 64), (64, 256, 256), (256, 500, 500), (1024, 1024, 1024))
PRODUCT = (256, 500, 500)  # between the steps
LARGE = "fanin.matmul"  # in place of a step
LARGE_PRODUCT = (2048, 1024, 2048)


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """A process that never rests, on the last core that is ours."""
    core = max(os.sched_getaffinity(0))
    program = f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        time.sleep(0.2)
        try:
            yield
        finally:
            process.kill()


def busy(figures: script.Figures, given: Any) -> None:
    """One thread is bound to the first core, so that the busy process never shares it."""
    figures.say(
        f"\ndefault threads against one (limits: idle {IDLE}, busy {BUSY})\n"
        "case                    one us  default us   ratio   busy: one us  default us   ratio"
    )
    cases: list[tuple[str, Callable[[int], race.Process], dict[str, Any]]] = [
        (on.name, lambda threads, on=on: race.Worker("fanin", on.name, threads), {}) for on in STEPS
    ]
    for m, k, n in PRODUCTS:
        case = {"m": m, "k": k, "n": n, "layout": "plain", "dtype": "float32"}
        cases.append((f"product {m},{k},{n}", product_process, case))
    for name, start, case in cases:
        with start(1) as one_process, start(given.threads) as default_process:
            one: Any = one_process
            default: Any = default_process
            if case:
                one, default = (
                    operations.Operation(process, "product") for process in (one, default)
                )
                for process in (one, default):
                    process.ask("prepare", **case)
            found = {}
            for state in ("idle", "busy"):
                script.progress(f"{name}, second core {state}")
                with busy_core() if state == "busy" else contextlib.nullcontext():
                    pair: list[list[float]] = [[], []]
                    turns = list(zip((one, default), pair, strict=True))
                    race.take_turns(turns, given.slices, given.seconds, again=state == "idle")
                found[state] = [median(slices) for slices in pair]
        line = f"{name:22}"
        for state, limit in (("idle", IDLE), ("busy", BUSY)):
            alone, together = found[state]
            over = "*" if together > limit * alone else " "
            line += f"{alone * 1e6:10.1f}{together * 1e6:12.1f}{together / alone:8.2f}{over}    "
        figures.add(line.rstrip(), kind="busy", case=name, **found)


def product_process(threads: int) -> race.Process:
    return script.own(operations.__file__, "fanin", threads)


def product(matmul: Callable[..., Any], m: int, k: int, n: int) -> Callable[[int], None]:
    """A function that multiplies two float32 matrices so many times."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((m, k), "f4"), rng.standard_normal((k, n), "f4")
    out = np.empty((m, n), "f4")

    def run(count: int) -> None:
        for _ in range(count):
            matmul(x, w, out=out)

    return run


class Interleaved:
    """A training step or LARGE, a product of NumPy's, and both in turn, in this process."""

    def __init__(self, step: str, threads: int):
        self.threads = threads
        if step == LARGE:
            fanin.set_num_threads(threads)
            self.step = product(fanin.matmul, *LARGE_PRODUCT)
        else:
            self.step = fanin_step.Step(network(step), network(step).dropout, threads).run
        self.product = product(np.matmul, *PRODUCT)
        self.timed = {
            "step": worker.Repeated(self.step),
            "product": worker.Repeated(self.product),
            "both": worker.Repeated(self.both),
        }

    def both(self, count: int) -> None:
        """So many pairs of a step and a product."""
        for _ in range(count):
            self.step(1)
            self.product(1)

    def times(self, slices: int, seconds: float) -> dict[str, float]:
        """The median seconds of each, in turn, NumPy's threads asleep when one begins."""
        found: dict[str, list[float]] = {name: [] for name in self.timed}
        for _ in range(slices):
            for name, timed in self.timed.items():
                for _ in range(20):
                    time.sleep(race.PAUSE)
                    quiet = race.undisturbed(self.threads)
                    taken = timed.slice(seconds)["seconds"]
                    time.sleep(race.PAUSE)
                    if quiet and race.undisturbed(self.threads):
                        break
                found[name].append(taken)
        return {name: median(one) for name, one in found.items()}


def interleaved(figures: script.Figures, given: Any) -> None:
    """Each step with the same product."""
    figures.say(
        f"\nsteps and numpy.matmul {PRODUCT} in turn (limit {INTERLEAVED})\n"
        "step             step us  product us     both us   ratio to the sum"
    )
    for name in [*(on.name for on in STEPS), LARGE]:
        script.progress(f"interleaved {name}")
        with script.own(__file__, name, given.threads) as process:
            found = process.ask("times", slices=given.slices, seconds=given.seconds)
        alone = found["step"], found["product"]
        ratio = found["both"] / sum(alone)
        cells = "".join(f"{one * 1e6:12.1f}" for one in (*alone, found["both"]))
        figures.add(
            f"{name:12}{cells}{ratio:9.2f}{' *' if ratio > INTERLEAVED else ''}",
            kind="interleaved", step=name, times=found,
        )  # fmt: skip


PARTS = {"busy": busy, "interleaved": interleaved}


def main() -> None:
    """The parts asked for, or all."""
    if sys.argv[1:2] == ["worker"]:
        worker.serve(Interleaved(sys.argv[2], int(sys.argv[3])))
        return
    parser = script.options(__doc__ or "", slices=7, seconds=0.2)
    script.run(parser, PARTS)


if __name__ == "__main__":
    main()
