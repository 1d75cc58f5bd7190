"""`python -m fanin bench`: races the training steps and says how fast everyone was."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .. import runtime
from ..demo import Unusable
from . import CONTESTANTS, installed, race, versions, versions_line
from .race import Result
from .steps import STEPS, network

HEADER = "step    threads  contestant        ms/step  / fanin   GFLOP/s  of peak  fastest..slowest"


def table(results: Sequence[Result], peak: float) -> list[str]:
    """Lines below HEADER: time, how many times fanin's, GFLOP/s, share of the FMA peak, spread."""
    ours = {r.step: r.seconds for r in results if r.contestant == "fanin"}
    lines = []
    for r in results:
        start = f"{r.step:8}{r.threads:7}  {r.contestant:15}"
        if not r.slices:
            lines.append(f"{start}         -  {r.note}")
            continue
        ratio = f"{r.seconds / ours[r.step]:.2f}" if r.step in ours else "-"
        lines.append(
            f"{start}{r.seconds * 1e3:10.4g}{ratio:>9}{r.gflops:10.1f}{r.gflops / peak:9.1%}"
            f"  {min(r.slices) * 1e3:.4g}..{max(r.slices) * 1e3:.4g} {r.note}".rstrip()
        )
    return lines


def record(results: Sequence[Result], peak: float) -> dict[str, Any]:
    """One step as JSON has it: the network, and per contestant every slice in seconds a step."""
    on = network(results[0].step)
    ours = {r.contestant: r.seconds for r in results if r.slices}.get("fanin")
    contestants = {}
    for r in results:
        entry: dict[str, Any] = {"slices": r.slices, "note": r.note}
        if r.slices:
            entry["seconds"] = r.seconds
            entry["times_fanin"] = r.seconds / ours if ours else None
            entry["gflops"] = r.gflops
            entry["share_of_fma_peak"] = r.gflops / peak
        contestants[r.contestant] = entry
    return {
        "step": on.name,
        "sizes": list(on.sizes),
        "batch": on.batch,
        "activation": on.activation,
        "output": on.output,
        "dropout": on.dropout,
        "flops": on.step_flops,
        "contestants": contestants,
    }


class Progress:
    """A bar by tqdm on a terminal, otherwise one line per finished step; both on stderr."""

    def __init__(self, steps: int, units: int) -> None:
        self._steps, self._units = steps, units  # of a step: its checks and slices
        self._finished = 0
        self._begun = 0
        self._clock = time.perf_counter()
        self._bar: Any = None
        if sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(total=steps * units, unit="slice", leave=False, file=sys.stderr)

    def turn(self, step: str, contestant: str) -> None:
        """Before a check or a slice."""
        if self._bar is not None:
            self._bar.n = self._begun
            self._bar.set_postfix_str(f"{step} {contestant}")
        self._begun += 1

    def finished(self, step: str) -> None:
        """After a step."""
        self._finished += 1
        self._begun = self._finished * self._units  # some contestants may have been left out
        seconds, self._clock = time.perf_counter() - self._clock, time.perf_counter()
        if self._bar is None:
            done = f"step {self._finished}/{self._steps}"
            print(f"{done} {step}: checked and timed in {seconds:.1f} s", file=sys.stderr)

    def write(self, lines: Sequence[str], out: Any) -> None:
        """Prints lines, above the bar where there is one."""
        if self._bar is None:
            print("\n".join(lines), file=out, flush=True)
        else:
            self._bar.write("\n".join(lines), file=out)

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def choose(what: str, given: Sequence[str], known: Sequence[str]) -> list[str]:
    """The given names, each once; `Unusable` for one that is not known."""
    for name in given:
        if name not in known:
            raise Unusable(f"unknown {what} {name!r}; known: {', '.join(known)}")
    return list(dict.fromkeys(given))


def checked(options: argparse.Namespace) -> tuple[list[str], list[str], int]:
    """Steps, contestants and threads to take; `Unusable` says what is wrong with an argument."""
    every = [one.name for one in STEPS]
    steps = choose("step", options.steps or every, every)
    names = choose("contestant", options.contestants or [], list(CONTESTANTS))
    for name in names:
        if not installed(name):
            wanted = CONTESTANTS[name][1]
            raise Unusable(f"contestant {name!r} is not installed: pip install {wanted}")
    names = names or [name for name in CONTESTANTS if installed(name)]
    build = runtime.build_info()
    most = build["max_threads"]
    threads = most if options.threads is None else options.threads
    if not 1 <= threads <= most:
        limit = build["thread_limit"]
        raise Unusable(f"--threads: expected 1 to {most} (limited by: {limit}), got {threads}")
    if options.slices < 1:
        raise Unusable(f"--slices: expected at least 1, got {options.slices}")
    if not 0 < options.seconds < math.inf:
        raise Unusable(f"--seconds: expected a time above 0, got {options.seconds:g}")
    if options.json not in (None, "-"):
        path = Path(options.json)
        if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            raise Unusable(f"--json: {options.json} cannot be written")
    return steps, names, threads


def describe(machine: dict[str, Any], threads: int, unset: Sequence[str]) -> list[str]:
    """What is compared, with which libraries, and what the machine can do at most."""
    build, peaks = machine["fanin"], machine["peaks"]
    blas = "; ".join(
        " ".join(str(one[key]) for key in ("name", "version", "architecture") if one.get(key))
        + (f", {one['threads']} threads" if one.get("threads") else "")
        for one in machine["blas"]
    )
    lines = [
        f"{versions_line()}, Python {platform.python_version()}",
        f"{processor()}; {threads} threads of {build['max_threads']} "
        f"(limited by: {build['thread_limit']}); fanin: {build['isa']}, {build['parallel']}",
        f"NumPy's BLAS: {blas or 'unknown'}",
        f"measured peaks: float32 FMA {peaks['fma_float32_gflops']:.0f} GFLOP/s, "
        f"memory {peaks['memory_gbs']:.0f} GB/s",
    ]
    if unset:
        lines.append(f"unset for the contestants, since they slow NumPy down: {', '.join(unset)}")
    return lines


WORK = ("gather", "forward", "loss", "backward", "weights", "update", "waiting")
BREAKDOWN_HEADER = f"{'step':8}threads" + "".join(f"{name:>10}" for name in (*WORK, "rest", "all"))


def breakdown(step: str, threads: int, seconds: float) -> dict[str, Any]:
    """Seconds of all threads per step, by what they did; they add up to `all`.

    `waiting` is for what another thread has yet to make; `rest` is what is left of the time of the
    step as Python sees it, times the threads: handing work over, waiting at the end, Python.
    """
    with race.Worker("fanin", step, threads) as worker:
        answer = worker.ask("breakdown", seconds=seconds)
    every = answer["seconds"] * threads
    parts = {name: answer["threads"][name] for name in WORK}
    rest = every - sum(parts.values())
    return {"kind": "breakdown", "step": step, "threads": threads, **parts, "rest": rest,
            "all": every}  # fmt: skip


def breakdown_lines(row: dict[str, Any]) -> list[str]:
    """Two lines below BREAKDOWN_HEADER: microseconds, and shares."""
    parts = [row[name] for name in (*WORK, "rest", "all")]
    return [
        f"{row['step']:8}{row['threads']:7}" + "".join(f"{part * 1e6:10.4g}" for part in parts),
        f"{'':15}" + "".join(f"{part / row['all']:10.1%}" for part in parts),
    ]


def setting(machine: dict[str, Any], threads: int, unset: Sequence[str]) -> dict[str, Any]:
    """The same for a file."""
    return {
        "processor": processor(),
        "python": platform.python_version(),
        "versions": versions(),
        **machine,
        "threads": threads,
        "unset": list(unset),
    }


def run(options: argparse.Namespace) -> int:
    """The benchmark, as its command line says; the exit code."""
    steps, names, threads = checked(options)
    out = sys.stderr if options.json == "-" else sys.stdout
    unset = [name for name in race.CRIPPLING if name in os.environ]
    progress = Progress(len(steps), 1 if options.breakdown else len(names) * (1 + options.slices))
    records: list[dict[str, Any]] = []
    try:
        machine = race.machine(threads)
        peak = machine["peaks"]["fma_float32_gflops"]
        header = BREAKDOWN_HEADER if options.breakdown else HEADER
        progress.write([*describe(machine, threads, unset), "", header], out)
        for step in steps:
            if options.breakdown:
                records.append(breakdown(step, threads, 4 * options.seconds))
                progress.finished(step)
                progress.write(breakdown_lines(records[-1]), out)
                continue
            results = race.race(
                step,
                names,
                threads,
                options.slices,
                options.seconds,
                partial(progress.turn, step),
            )
            progress.finished(step)
            progress.write(table(results, peak), out)
            records.append(record(results, peak))
    except race.Failed as error:
        progress.close()
        print(f"fanin bench: {error}", file=sys.stderr)
        return 1
    finally:
        progress.close()
    if options.json:
        everything = {
            **setting(machine, threads, unset),
            "slices": options.slices,
            "seconds": options.seconds,
            "rows" if options.breakdown else "steps": records,
        }
        text = json.dumps(everything, indent=1) + "\n"
        if options.json == "-":
            print(text, end="")
        else:
            try:
                Path(options.json).write_text(text)
            except OSError as error:
                print(f"fanin bench: --json: {error}", file=sys.stderr)
                return 1
    return 0
