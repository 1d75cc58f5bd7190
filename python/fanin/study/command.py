"""`python -m fanin study NAME`: the table on the screen, the figure in a file."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from ..demo import Unusable
from ..reference import plot
from .boundary import boundaries
from .chain import linear_chain
from .contours import cost_contours
from .init import initialisation


def run(options: argparse.Namespace) -> None:
    """Runs a study as its command line says."""
    try:
        os.makedirs(options.out, exist_ok=True)
    except OSError as error:
        raise Unusable(f"--out: {options.out} is no folder to write to: {error.strerror}") from None
    studies: dict[str, Callable[[], Any]]
    if options.study == "init":
        settings = {name: getattr(options, name) for name in ("depth", "width", "rows", "seed")}
        wanted = [options.activation] if options.activation else ["tanh", "relu"]
        studies = {
            f"init_{one}": partial(initialisation, activation=one, **settings) for one in wanted
        }
    elif options.study == "chain":
        settings = {name: getattr(options, name) for name in ("depth", "width", "seed")}
        studies = {"chain": partial(linear_chain, **settings)}
    elif options.study == "contours":
        studies = {"contours": partial(cost_contours, seed=options.seed)}
    else:
        studies = {"boundaries": partial(boundaries, seed=options.seed)}
    missing = None
    for name, study in studies.items():
        try:
            result = study()
        except ValueError as error:
            raise Unusable(str(error)) from None
        print(result.table(), flush=True)
        path = os.path.join(options.out, f"{name}.png")
        try:
            plot.save(result.plot(), path)
            print(f"\nfigure: {path}\n", flush=True)
        except ImportError as error:
            missing = error
            print()
        except OSError as error:
            raise Unusable(f"--out: {path} cannot be written: {error.strerror}") from None
    if missing is not None:
        raise Unusable(str(missing))
