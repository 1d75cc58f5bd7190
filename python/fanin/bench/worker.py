"""The process one contestant runs in: `python -m fanin.bench.worker CONTESTANT STEP THREADS`.

It answers lines of JSON on stdin until that closes, each with one line on stdout; what a library
prints goes to stderr. Who starts it (`race.Worker`) cleans its environment and binds it to cores.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from typing import Any

from . import Step, Unavailable, step
from .steps import Network, network


class Contestant:
    """One contestant at one network; its library is imported with the first order."""

    def __init__(self, name: str, on: Network, threads: int):
        self.name, self.on, self.threads = name, on, threads
        self.timed: Step | None = None
        self.seconds = math.inf  # of a step, when last timed

    def losses(self, count: int, dtype: str = "float32") -> dict[str, Any]:
        """The losses of the first steps, without dropout."""
        return {"losses": step(self.name)(self.on, 0.0, self.threads, dtype).losses(count)}

    def slice(self, seconds: float) -> dict[str, Any]:
        """The seconds of a step, over about so many seconds of steps."""
        if self.timed is None:
            self.timed = step(self.name)(self.on, self.on.dropout, self.threads)
            self.timed.run(2)  # compiles, allocates, wakes the threads
            self.spend(min(0.05, seconds))
        self.spend(0.1 * seconds)
        return {"seconds": self.spend(seconds)}

    def spend(self, seconds: float) -> float:
        """Takes steps for about so long; the seconds of one.

        The last estimate says how many; a single step that had to wait for another program must
        not make it one alone, so it is asked again until the time is used.
        """
        assert self.timed is not None
        taken, spent = 0, 0.0
        begin = time.perf_counter()
        while spent < 0.9 * seconds:
            count = max(1, int((seconds - spent) / self.seconds))
            self.timed.run(count)
            taken += count
            spent = time.perf_counter() - begin
            self.seconds = spent / taken
        return self.seconds

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


def main() -> None:
    """Answers orders until stdin closes."""
    name, on, threads = sys.argv[1:]
    contestant = Contestant(name, network(on), int(threads))
    with os.fdopen(os.dup(1), "w", buffering=1) as replies:
        os.dup2(2, 1)
        for line in sys.stdin:
            order = json.loads(line)
            try:
                answer = getattr(contestant, order.pop("do"))(**order)
            except Unavailable as error:
                answer = {"unavailable": str(error)}
            print(json.dumps(answer), file=replies)


if __name__ == "__main__":
    main()
