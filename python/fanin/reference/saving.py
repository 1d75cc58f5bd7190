"""Files of networks and of their training: NumPy's .npz, settings as JSON inside, no pickle.

A file is written beside its place and then moved there, so there is always a whole one.
"""

import contextlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from .arguments import Array

FORMAT = "fanin"
CHECKPOINT = "fanin checkpoint"
FORMAT_VERSION = 1

Network = TypeVar("Network")


def write(
    path: str | os.PathLike[str],
    config: dict[str, Any],
    vectors: dict[str, Array],
    kind: str = FORMAT,
) -> None:
    """Write settings and vectors; an old file stays until the new one is whole."""
    config = {"format": kind, "format_version": FORMAT_VERSION, **config}
    text = np.array(json.dumps(config))
    replace(path, lambda file: np.savez(file, config=text, **vectors))  # type: ignore[arg-type]


def replace(path: str | os.PathLike[str], fill: Callable[[Any], Any]) -> None:
    """Let `fill` write a new file beside the path, then move it there."""
    target = as_path("path", path)
    temporary = f"{target}.{os.getpid()}-{threading.get_ident()}.tmp"
    try:
        with open(temporary, "xb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


def as_path(name: str, path: Any) -> str:
    """Return the name of a file as a string."""
    target = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(target, str):
        raise TypeError(f"{name}: expected str or os.PathLike[str], got {path!r}")
    return target


def read(
    path: str | os.PathLike[str],
    names: Sequence[str],
    build: Callable[[dict[str, Any], dict[str, Array]], Network],
) -> Network:
    """Return build(config, vectors) of a file; whatever is wrong with it is a ValueError."""
    with open(path, "rb") as file:
        try:
            return build(*parts(file, names))
        except Exception as error:  # whatever a broken file makes zip, JSON and NumPy raise
            reason = str(error) or type(error).__name__
            raise ValueError(
                f"{os.fspath(path)}: expected a network saved by MLP.save: {reason}"
            ) from error


def parts(
    file: Any, names: Sequence[str] | None, kind: str = FORMAT
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return settings and vectors of an open file; names: the vectors it must have, None: all."""
    import zipfile  # as np.load does

    if not zipfile.is_zipfile(file):
        raise ValueError("it is no whole archive")
    file.seek(0)
    with np.load(file, allow_pickle=False) as archive:
        if "config" not in archive.files:
            raise ValueError("it has no config")
        config = json.loads(str(archive["config"]))
        found = config.pop("format", None) if isinstance(config, dict) else None
        if found != kind:
            known = {FORMAT: "a network saved by MLP.save", CHECKPOINT: "a checkpoint of fit"}
            raise ValueError(f"it is {known.get(str(found), 'something else')}")
        version = config.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise ValueError(f"format_version is {version!r}, this release reads {FORMAT_VERSION}")
        missing = set(names or ()) - set(archive.files)
        if missing:
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
        if names is None:
            names = [name for name in archive.files if name != "config"]
        return config, {name: archive[name] for name in names}
