"""Times the training steps, each contestant in a process of its own, in alternating slices.

The parent starts one worker per contestant, has each check its answer, then gives each in turn a
slice of time, so that only one works at a time and a change of the machine's speed meets all. The
figure is the median of the slices. A worker is bound to as many cores as there are threads, which
no library can get round, and beside its own library it loads NumPy and fanin alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import median
from types import TracebackType
from typing import Any, Self

from .. import _core, runtime
from . import Unavailable
from .steps import network

CRIPPLING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # either can halve NumPy's speed
PAUSE = 0.15  # lets the last one's threads fall asleep: OpenBLAS's look for work for 0.11 s
PATIENCE = 60.0  # seconds a race may spend on slices that are done again
CHECKED_STEPS = 4
# Four Adam steps in float32 against the float64 losses. A loss is a mean over the batch, good to a
# few ulps (1e-7); Adam divides a gradient by its own size, so weights whose gradient is rounding
# may move by the learning rate either way. 2e-3 leaves room for that and shows any slip.
LOSS_TOLERANCE = 2e-3


class Failed(RuntimeError):
    """A contestant whose answer is wrong, or whose process ended."""


@dataclass
class Result:
    """One contestant at one step: seconds per step in each slice, none where it cannot run."""

    step: str
    contestant: str
    threads: int
    flops: int
    slices: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def seconds(self) -> float:
        """Seconds per step: the median of the slices."""
        return median(self.slices)

    @property
    def gflops(self) -> float:
        """Operations of the products alone, in 10^9 per second."""
        return self.flops / self.seconds / 1e9


class Process:
    """A contestant in a process of its own, asked by lines of JSON; use it in a `with`.

    Parameters
    ----------
    contestant : name, for messages
    command : what Python runs; answers as `worker.serve` does
    threads : as many cores it is bound to
    environment : variables it is to have whatever this process has
    """

    def __init__(
        self,
        contestant: str,
        command: Sequence[str],
        threads: int,
        environment: Mapping[str, str] | None = None,
    ):
        self.contestant, self.threads = contestant, threads
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 closed in __exit__
        clean = {name: value for name, value in os.environ.items() if name not in CRIPPLING}
        cores = os.sched_getaffinity(0)
        if threads < len(cores):  # inherited, so that it holds before any library counts cores
            os.sched_setaffinity(0, sorted(cores)[:threads])
        try:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                env=clean | dict(environment or {}),
                text=True,
                bufsize=1,
                start_new_session=True,  # Ctrl-C is the parent's; what it starts ends with it
            )
        finally:
            os.sched_setaffinity(0, cores)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self.process.stdin and self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        if kind is None:  # it ends by itself; otherwise it may be amid a long step
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        if self.process.returncode is None:  # not waited for, so the number is still its own
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.errors.close()

    def ask(self, do: str, **order: Any) -> dict[str, Any]:
        """The answer to an order; raises `Unavailable` or `Failed` where there is none."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps({"do": do, **order}) + "\n")
            reply = self.process.stdout.readline()
        except BrokenPipeError:
            reply = ""
        if not reply:
            self.process.wait()
            self.errors.seek(0)
            said = self.errors.read()[-2000:].strip()
            raise Failed(f"{self.contestant} stopped, exit code {self.process.returncode}:\n{said}")
        answer: dict[str, Any] = json.loads(reply)
        if "unavailable" in answer:
            raise Unavailable(answer["unavailable"])
        return answer


class Worker(Process):
    """A contestant at one step, a name of `steps.STEPS` or another network's `spec`."""

    def __init__(
        self,
        contestant: str,
        step: str,
        threads: int,
        environment: Mapping[str, str] | None = None,
    ):
        command = ["-m", "fanin.bench.worker", contestant, step, str(threads)]
        super().__init__(contestant, command, threads, environment)


def machine(threads: int) -> dict[str, Any]:
    """fanin's build, NumPy's BLAS and the machine's peaks, as a worker finds them."""
    with Worker("fanin", "rl", threads) as worker:
        return worker.ask("machine")


@cache
def true_losses(step: str) -> tuple[float, ...]:
    """The losses of the first steps without dropout, by NumPy in float64."""
    with Worker("numpy", step, len(os.sched_getaffinity(0))) as worker:
        return tuple(worker.ask("losses", count=CHECKED_STEPS, dtype="float64")["losses"])


def check(worker: Worker, step: str) -> None:
    """Fails unless the worker's losses are the expected ones; some give only their first."""
    answer = worker.ask("losses", count=CHECKED_STEPS)
    losses, tolerance = answer["losses"], answer.get("tolerance", LOSS_TOLERANCE)
    if not losses:
        raise Failed(f"{worker.contestant}: no loss to check")
    for i, (got, want) in enumerate(zip(losses, true_losses(step), strict=False)):
        if not abs(got - want) <= tolerance * abs(want):
            raise Failed(
                f"{worker.contestant}: loss of step {i} of {network(step).name} is {got}, expected "
                f"{want} within {tolerance:g} of itself; it does not do the same work"
            )


def check_step(contestant: str, step: str, threads: int) -> None:
    """Checks one contestant's answer without timing it."""
    with Worker(contestant, step, threads) as worker:
        check(worker, step)


best_rate: dict[int, float] = {}


def undisturbed(threads: int) -> bool:
    """Whether so many threads reach what they reached at best in this process.

    A host may put two cores of a virtual machine on one of its own for a minute, which no count of
    used time shows: two threads then take as long as one.
    """
    rate = _core.fma_peak(runtime.isa(), "float32", threads, 0.01)
    best_rate[threads] = max(rate, best_rate.get(threads, 0.0))
    return rate > 0.85 * best_rate[threads]


def take_turns(
    racing: Sequence[tuple[Process, list[float]]],
    slices: int,
    seconds: float,
    turn: Callable[[str], None] = lambda contestant: None,
    again: bool = True,
) -> None:
    """Gives each in turn a slice of so many seconds, and its list the seconds of one repetition.

    A slice during which the machine was disturbed is done again, unless `again` is false.
    """
    patience = PATIENCE if again else 0.0
    for _ in range(slices):
        for process, found in racing:
            turn(process.contestant)
            while True:
                begin = time.perf_counter()
                time.sleep(PAUSE)
                quiet = undisturbed(process.threads)
                taken = process.ask("slice", seconds=seconds)["seconds"]
                if patience <= 0:
                    break
                time.sleep(PAUSE)
                if quiet and undisturbed(process.threads):
                    break
                patience -= time.perf_counter() - begin
            found.append(taken)


@dataclass(frozen=True)
class Entry:
    """Who takes part, at which step, on how many threads, with which variables set."""

    contestant: str  # of `CONTESTANTS`, or "module.name" of one that lies elsewhere
    step: str  # of `steps.STEPS`, or a network's `spec`
    threads: int
    environment: Mapping[str, str] = field(default_factory=dict)


def compete(
    entries: Sequence[Entry],
    slices: int,
    seconds: float,
    turn: Callable[[str], None] = lambda contestant: None,
) -> list[Result]:
    """Checks all, then times all in turn; the results come in the order of the entries.

    Parameters
    ----------
    entries : who takes part
    slices : how many each is given
    seconds : length of a slice
    turn : called with a contestant's name before its check and each of its slices
    """
    results = [Result(e.step, e.contestant, e.threads, network(e.step).step_flops) for e in entries]
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(e.contestant, e.step, e.threads, e.environment))
            for e in entries
        ]
        racing = []
        for worker, result in zip(workers, results, strict=True):
            turn(result.contestant)
            try:
                check(worker, result.step)
            except Unavailable as error:
                result.note = f"left out: {error}"
            else:
                racing.append((worker, result.slices))
                if result.contestant == "sklearn" and network(result.step).dropout:
                    result.note = "has no dropout"
        take_turns(racing, slices, seconds, turn)
    return results


def race(
    step: str,
    contestants: Sequence[str],
    threads: int,
    slices: int,
    seconds: float,
    turn: Callable[[str], None] = lambda contestant: None,
) -> list[Result]:
    """`compete` at one step, all on so many threads."""
    return compete([Entry(name, step, threads) for name in contestants], slices, seconds, turn)
