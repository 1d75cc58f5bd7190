"""The process one contestant runs in: `python -m fanin.bench.worker CONTESTANT STEP THREADS`.

STEP is a name, or a network's `spec`.

It answers lines of JSON on stdin until that closes, each with one line on stdout; what a library
prints goes to stderr. Who starts it (`race.Worker`) cleans its environment and binds it to cores.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from . import Unavailable, step
from .steps import Network, network


class Repeated:
    """Work that is timed by doing it again and again; `run(count)` does it so often."""

    def __init__(self, run: Callable[[int], None]):
        self.run = run
        self.seconds = math.inf  # of one, when last timed

    def slice(self, seconds: float) -> dict[str, float]:
        """The seconds of one, over about so many seconds."""
        if self.seconds == math.inf:
            self.run(2)  # compiles, allocates, wakes the threads
            self.spend(min(0.05, seconds))
        self.spend(0.1 * seconds)
        return {"seconds": self.spend(seconds)}

    def spend(self, seconds: float) -> float:
        """Works for about so long; the seconds of one.

        The last estimate says how many; a single one that had to wait for another program must
        not make it one alone, so it is asked again until the time is used.
        """
        done, spent = 0, 0.0
        begin = time.perf_counter()
        while spent < 0.9 * seconds:
            count = max(1, int((seconds - spent) / self.seconds))
            self.run(count)
            done += count
            spent = time.perf_counter() - begin
            self.seconds = spent / done
        return self.seconds


class Contestant:
    """One contestant at one network; its library is imported with the first order."""

    def __init__(self, name: str, on: Network, threads: int):
        self.name, self.on, self.threads = name, on, threads
        self.timed: Repeated | None = None

    def losses(self, count: int, dtype: str = "float32") -> dict[str, Any]:
        """The losses of the first steps, without dropout, and the contestant's own tolerance."""
        made = step(self.name)(self.on, 0.0, self.threads, dtype)
        tolerance = getattr(made, "tolerance", None)
        room = {} if tolerance is None else {"tolerance": tolerance}
        return {"losses": made.losses(count), **room}

    def slice(self, seconds: float) -> dict[str, Any]:
        """The seconds of a step, over about so many seconds of steps."""
        if self.timed is None:
            self.timed = Repeated(step(self.name)(self.on, self.on.dropout, self.threads).run)
        return self.timed.slice(seconds)

    def breakdown(self, seconds: float) -> dict[str, Any]:
        """fanin: seconds per step, and of all threads by what they did, over that many seconds."""
        from .. import _core

        self.slice(seconds)
        _core.step_breakdown(True)
        begin, taken = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            assert self.timed is not None
            self.timed.run(1)
            taken += 1
        step = (time.perf_counter() - begin) / taken
        return {
            "seconds": step,
            "threads": {work: s / taken for work, s in _core.step_breakdown(False).items()},
        }

    def machine(self) -> dict[str, Any]:
        """What this process could reach and what it computes with."""
        from .. import runtime
        from . import peaks

        runtime.set_num_threads(self.threads)
        return {
            "fanin": runtime.build_info(),
            "blas": blas(),
            "peaks": {
                "isa": runtime.isa(),
                "fma_float32_gflops": peaks.fma("float32", self.threads),
                "fma_float64_gflops": peaks.fma("float64", self.threads),
                "memory_gbs": peaks.memory(self.threads),
            },
        }


def blas() -> list[dict[str, Any]]:
    """What NumPy multiplies with: as threadpoolctl sees it, or without that as it was built."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        import numpy as np

        config: Any = np.show_config(mode="dicts")
        built = config["Build Dependencies"]["blas"]
        return [{"name": built.get("name"), "version": built.get("version")}]
    return [
        {
            "name": pool["internal_api"],
            "version": pool["version"],
            "architecture": pool.get("architecture"),
            "threads": pool["num_threads"],
        }
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    ]


def serve(contestant: Any) -> None:
    """Answers orders by the methods of `contestant` until stdin closes."""
    with os.fdopen(os.dup(1), "w", buffering=1) as replies:
        os.dup2(2, 1)
        for line in sys.stdin:
            order = json.loads(line)
            try:
                answer = getattr(contestant, order.pop("do"))(**order)
            except Unavailable as error:
                answer = {"unavailable": str(error)}
            print(json.dumps(answer), file=replies)


def main() -> None:
    """Serves as the contestant of the command line."""
    name, on, threads = sys.argv[1:]
    serve(Contestant(name, network(on), int(threads)))


if __name__ == "__main__":
    main()
