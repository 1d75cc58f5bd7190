"""Who is compared at single operations: one `<name>_ops.py` each.

All have the same functions; each takes a case and its data and returns a function of no arguments
that does the operation once and returns its results. An operation a rival does not have is simply
absent. Training steps are in `fanin.bench`.
"""

from __future__ import annotations

import importlib
from types import ModuleType

OPS = ("fanin", "numpy", "jax", "torch")  # scikit-learn has no single operations


def ops(name: str) -> ModuleType:
    """The single operations of a contestant."""
    return importlib.import_module(f"rivals.{name}_ops")
