"""What the scripts beside this one share: options, the head of what they print, and their file.

A script's own contestants run in processes started by `own`, as the packaged ones do in
`fanin.bench.race.Worker`; those that are whole training steps go to `race.compete` by the name
"script.Class", which `ENVIRONMENT` lets them find.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import fanin
from fanin.bench import race, report

ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parent)}
MOST = fanin.build_info()["max_threads"]


def options(doc: str, slices: int, seconds: float, threads: int = MOST) -> argparse.ArgumentParser:
    """A parser with the options all scripts have; `doc` is the script's docstring."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=threads, help="for each (%(default)s)")
    parser.add_argument("--slices", type=int, default=slices, help="turns of each (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=seconds, help="length of a slice (%(default)s)"
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    return parser


def chosen(parser: argparse.ArgumentParser, given: list[str], known: Iterable[str]) -> list[str]:
    """The parts of a script that were asked for, or all it has."""
    known = list(known)
    for part in given:
        if part not in known:
            parser.error(f"unknown part {part!r}; known: {', '.join(known)}")
    return given or known


def progress(text: str) -> None:
    """A line on stderr: what comes next."""
    print(f"... {text}", file=sys.stderr, flush=True)


def own(script: str, contestant: str, threads: int, **environment: str) -> race.Process:
    """A process that runs `script worker CONTESTANT THREADS`, bound to as many cores."""
    command = [script, "worker", contestant, str(threads)]
    return race.Process(contestant, command, threads, environment)


def machine_seconds() -> tuple[float, float]:
    """Core-seconds used on the whole machine so far, the hypervisor's share included; ours."""
    try:
        ticks = [int(one) for one in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    except OSError:
        return 0.0, 0.0
    user, nice, system, _, _, irq, soft, steal = ticks
    whole = (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return whole, sum(one.ru_utime + one.ru_stime for one in own)


class Figures:
    """What a script found: lines on stdout while it runs, and at its end a file."""

    def __init__(self, given: argparse.Namespace):
        self.path: str | None = given.json
        if self.path and not os.access(Path(self.path).absolute().parent, os.W_OK):
            sys.exit(f"--json: {self.path} cannot be written")
        if not 1 <= given.threads <= MOST:
            sys.exit(f"--threads: expected 1 to {MOST}, got {given.threads}")
        unset = [name for name in race.CRIPPLING if name in os.environ]
        machine = race.machine(given.threads)
        self.peaks: dict[str, float] = machine["peaks"]
        self.found: dict[str, Any] = report.setting(machine, given.threads, unset)
        self.found["command"] = " ".join(
            ["python", *(arg if arg.startswith("-") else Path(arg).name for arg in sys.argv)]
        )
        self.rows: list[dict[str, Any]] = []
        self.begun = time.monotonic(), *machine_seconds()
        for line in report.describe(machine, given.threads, unset):
            self.say(line)

    def say(self, line: str) -> None:
        """One line of the report."""
        print(line, flush=True)

    def add(self, line: str, **row: Any) -> None:
        """One line, and the figures behind it, seconds unless their names say otherwise."""
        self.say(line)
        self.rows.append(row)

    def save(self) -> None:
        """Says how much of the machine others had, and writes the file when one was asked for."""
        now = time.monotonic(), *machine_seconds()
        spent, whole, own = (late - early for late, early in zip(now, self.begun, strict=True))
        others = max(0.0, (whole - own) / (spent * (os.cpu_count() or 1)))
        self.found["taken_by_others"] = others
        self.say(f"\nother programs had {others:.1%} of the machine's time meanwhile")
        if self.path:
            self.found["rows"] = self.rows
            Path(self.path).write_text(json.dumps(self.found, indent=1) + "\n")


def against(ratio: float, limit: float | None) -> str:
    """A ratio beside its limit, with an asterisk where it is above."""
    if limit is None:
        return f"{ratio:6.2f}"
    return f"{ratio:6.2f} of at most {limit:.2f}{' *' if ratio > limit else ''}"


def run(
    parser: argparse.ArgumentParser,
    parts: dict[str, Callable[[Figures, argparse.Namespace], None]],
) -> None:
    """Reads the options and runs the parts asked for, or all; each adds its figures."""
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)} (all)")
    given = parser.parse_args()
    figures = Figures(given)
    for part in chosen(parser, given.parts, parts):
        parts[part](figures, given)
    figures.save()
