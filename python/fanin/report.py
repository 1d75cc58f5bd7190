"""The page about a training, `report`: the reference's, which also names the compiled module."""

import os

from .network import MLP
from .reference.finding import Diagnosis
from .reference.history import History
from .reference.report import environment, write
from .reference.report import report as described
from .runtime import build_info, get_num_threads, isa


def report(
    path: str | os.PathLike[str],
    history: History,
    net: MLP | None = None,
    *,
    diagnosis: Diagnosis | None = None,
    title: str = "Training",
) -> None:
    info = build_info()
    known = {
        "fanin": str(info["version"]),
        "instruction set": isa(),
        "threads": str(get_num_threads()),
        "compiler": str(info["compiler"]),
        **environment(),
    }
    write(path, history, net, diagnosis, title, known)


report.__doc__ = described.__doc__
