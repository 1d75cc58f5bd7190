"""Times the training steps, each contestant in a process of its own, in alternating slices.

    python bench/alternate.py mnist rl --threads 2 --slices 9

The parent starts one worker per contestant, has each check its answer, then gives each in turn a
slice of time, so that only one works at a time and a change of the machine's speed meets all. The
figure is the median of the slices. A worker imports its own library and nothing else, and is bound
to as many cores as there are threads, which no library can get round.
"""

from __future__ import annotations

import os

for _name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(_name, None)  # either halves NumPy's speed

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

import cases
import rivals

CHECKED_STEPS = 4
# Four Adam steps in float32 against the float64 losses. A loss is a mean over the batch, good to a
# few ulps (1e-7); Adam divides a gradient by its own size, so weights whose gradient is rounding
# may move by the learning rate either way. 2e-3 leaves room for that and shows any slip.
LOSS_TOLERANCE = 2e-3


@dataclass
class Result:
    """One contestant at one step: seconds per step in each slice."""

    step: str
    contestant: str
    threads: int
    flops: int
    slices: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def seconds(self) -> float:
        return median(self.slices)

    @property
    def gflops(self) -> float:
        return self.flops / self.seconds / 1e9


# The worker --------------------------------------------------------------------------------------


def work(contestant: str, step: str, threads: int) -> None:
    """Answers lines of JSON on stdin until it closes. What the library prints goes to stderr."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    case = cases.step(step)
    make = rivals.step(contestant).Step
    timed = None
    per_step = 0.0
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "losses":
            answer = {"losses": make(case, 0.0, threads).losses(order["count"])}
        else:
            if timed is None:
                timed = make(case, case.dropout, threads)
                timed.run(2)  # compiles, allocates, wakes the threads
                per_step = clock(timed, 1)
                per_step = clock(timed, max(1, int(0.05 / per_step)))
            clock(timed, max(1, int(0.1 * order["seconds"] / per_step)))
            per_step = clock(timed, max(1, int(order["seconds"] / per_step)))
            answer = {"seconds": per_step}
        print(json.dumps(answer), file=replies)


def clock(step, count: int) -> float:
    """Seconds per step over `count` steps."""
    begin = time.perf_counter()
    step.run(count)
    return (time.perf_counter() - begin) / count


# The parent --------------------------------------------------------------------------------------


class Worker:
    """A contestant in a process of its own; use it in a `with`."""

    def __init__(self, contestant: str, step: str, threads: int):
        self.contestant = contestant
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 closed in __exit__
        cores = os.sched_getaffinity(0)
        if threads < len(cores):  # inherited, so that it holds before any library counts cores
            os.sched_setaffinity(0, sorted(cores)[:threads])
        try:
            self.process = subprocess.Popen(
                [sys.executable, __file__, "--work", contestant, step, "--threads", str(threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                text=True,
                bufsize=1,
            )
        finally:
            os.sched_setaffinity(0, cores)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()

    def ask(self, **order) -> dict:
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            reply = self.process.stdout.readline()
        except BrokenPipeError:
            reply = ""
        if not reply:
            self.process.wait()
            self.errors.seek(0)
            raise RuntimeError(f"{self.contestant} stopped:\n{self.errors.read()[-2000:]}")
        return json.loads(reply)


def true_losses(step: str) -> list[float]:
    """The losses of the first steps without dropout, in float64."""
    return rivals.step("numpy").Step(cases.step(step), 0.0, 1, "float64").losses(CHECKED_STEPS)


def check(worker: Worker, expected: list[float]) -> None:
    """Fails unless the worker's losses are the expected ones; some give only their first."""
    losses = worker.ask(do="losses", count=CHECKED_STEPS)["losses"]
    for i, (got, want) in enumerate(zip(losses, expected, strict=False)):
        if not abs(got - want) <= LOSS_TOLERANCE * abs(want):
            raise AssertionError(
                f"{worker.contestant}: loss of step {i} is {got}, expected {want} within "
                f"{LOSS_TOLERANCE:g} of itself; it does not do the same work"
            )


def check_step(contestant: str, step: str, threads: int) -> None:
    """Checks one contestant's answer without timing it."""
    with Worker(contestant, step, threads) as worker:
        check(worker, true_losses(step))


def race(step: str, contestants: list[str], threads: int, slices: int, seconds: float):
    """Checks all, then times all in turn; a list of results, in the order given."""
    case = cases.step(step)
    expected = true_losses(step)
    results = [Result(step, name, threads, case.step_flops) for name in contestants]
    workers = [Worker(name, step, threads) for name in contestants]
    try:
        for worker in workers:
            check(worker, expected)
        for _ in range(slices):
            for worker, result in zip(workers, results, strict=True):
                time.sleep(0.02)  # lets the last one's threads fall asleep
                result.slices.append(worker.ask(do="slice", seconds=seconds)["seconds"])
    finally:
        for worker in workers:
            worker.__exit__()
    for result in results:
        if result.contestant == "sklearn" and case.dropout:
            result.note = "has no dropout"
    return results


HEADER = "step    threads  contestant   ms/step  / fanin   GFLOP/s  of peak  fastest..slowest"


def table(results: list[Result], peak: float) -> list[str]:
    """Lines below HEADER: time, how many times fanin's, GFLOP/s, share of the FMA peak, spread."""
    ours = {r.step: r.seconds for r in results if r.contestant == "fanin"}
    lines = []
    for r in results:
        ratio = f"{r.seconds / ours[r.step]:7.2f}" if r.step in ours else "      -"
        lines.append(
            f"{r.step:8}{r.threads:7}  {r.contestant:10}{r.seconds * 1e3:10.4g}{ratio:>9}"
            f"{r.gflops:10.1f}{r.gflops / peak:8.1%}"
            f"   {min(r.slices) * 1e3:.4g}..{max(r.slices) * 1e3:.4g} {r.note}".rstrip()
        )
    return lines


def main() -> None:
    names = [case.name for case in cases.STEPS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("steps", nargs="*", help=f"of {', '.join(names)} (default: all)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--slices", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a slice")
    parser.add_argument("--contestants", nargs="+", choices=rivals.STEPS)
    parser.add_argument("--work", metavar="CONTESTANT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        return work(arguments.work, arguments.steps[0], arguments.threads)

    import peaks

    wanted = arguments.contestants or [name for name in rivals.STEPS if rivals.installed(name)]
    print(rivals.versions())
    peak = peaks.fma("float32", arguments.threads)
    print(f"FMA peak, float32, {arguments.threads} threads: {peak:.0f} GFLOP/s")
    print(HEADER)
    for name in arguments.steps or names:
        results = race(name, wanted, arguments.threads, arguments.slices, arguments.seconds)
        print("\n".join(table(results, peak)), flush=True)
    return None


if __name__ == "__main__":
    main()
