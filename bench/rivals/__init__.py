"""Who is compared: one `<name>_ops.py` (single operations) and one `<name>_step.py` each.

Every `<name>_ops` has the same functions; each takes a case and its data and returns a function of
no arguments that does the operation once and returns its results. An operation a rival does not
have is simply absent. Every `<name>_step` has `Step(case, dropout, threads)` with `losses(count)`
and `run(count)`; see alternate.py.
"""

from __future__ import annotations

import importlib
import importlib.util
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

# contestant -> the module it needs and the distribution that brings it
NEEDS = {
    "fanin": ("fanin", "fanin"),
    "numpy": ("numpy", "numpy"),
    "jax": ("jax", "jax"),
    "torch": ("torch", "torch"),
    "sklearn": ("sklearn", "scikit-learn"),
}
OPS = ("fanin", "numpy", "jax", "torch")  # scikit-learn has no single operations
STEPS = tuple(NEEDS)


def installed(name: str) -> bool:
    """Whether the contestant can be imported; nothing is imported to find out."""
    return importlib.util.find_spec(NEEDS[name][0]) is not None


def versions() -> str:
    """One line: every contestant and its version, or that it is missing."""
    found = []
    for name, (_, distribution) in NEEDS.items():
        try:
            found.append(f"{name} {version(distribution)}")
        except PackageNotFoundError:
            found.append(f"{name} (no version)" if installed(name) else f"{name} not installed")
    return ", ".join(found)


def ops(name: str) -> ModuleType:
    """The single operations of a contestant."""
    return importlib.import_module(f"rivals.{name}_ops")


def step(name: str) -> ModuleType:
    """The training step of a contestant."""
    return importlib.import_module(f"rivals.{name}_step")
