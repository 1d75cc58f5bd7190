"""Training steps of fanin and its rivals, side by side: what `python -m fanin bench` runs.

`steps` has the five networks, `start` the weights and batches all begin with, `<name>_step` one
contestant each, `worker` the process a contestant runs in, `race` the turns they take, `peaks` what
the machine can do at most, and `report` the command. `pytest bench/` runs the same code.

Every `<name>_step` has a class `Step` as below. `import fanin` loads nothing of this.
"""

from __future__ import annotations

import importlib
import importlib.util
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

# contestant -> the module it needs and the distribution that brings it
CONTESTANTS = {
    "fanin": ("fanin", "fanin"),
    "numpy": ("numpy", "numpy"),
    "jax": ("jax", "jax"),
    "torch": ("torch", "torch"),
    "torch-compiled": ("torch", "torch"),
    "sklearn": ("sklearn", "scikit-learn"),
}


class Step(Protocol):
    """One contestant's training step, made by `Step(network, dropout, threads, dtype)`."""

    def losses(self, count: int) -> list[float]:
        """Takes `count` steps and returns the losses; fewer where not all can be compared."""

    def run(self, count: int) -> None:
        """Takes `count` steps and returns when the last is done."""


class Unavailable(RuntimeError):
    """A contestant that is installed but does not work on this machine, and why."""


def installed(name: str) -> bool:
    """Whether the contestant can be imported; nothing is imported to find out."""
    return importlib.util.find_spec(CONTESTANTS[name][0]) is not None


def versions() -> dict[str, str | None]:
    """Distribution -> version, "unknown" where it has none, None where it is missing."""
    found: dict[str, str | None] = {}
    for name, (_, distribution) in CONTESTANTS.items():
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:
            found[distribution] = "unknown" if installed(name) else None
    return found


def versions_line() -> str:
    """The same as one line."""
    return ", ".join(
        f"{name} not installed" if found is None else f"{name} {found}"
        for name, found in versions().items()
    )


def step(name: str) -> Any:
    """The class `Step` of a contestant, or what "module.name" names; imports its library."""
    if "." in name:
        module, _, made = name.rpartition(".")
        return getattr(importlib.import_module(module), made)
    return importlib.import_module(f".{name.replace('-', '_')}_step", __name__).Step
