"""Files of networks: NumPy's .npz, the settings as JSON inside, no pickle.

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
FORMAT_VERSION = 1

Network = TypeVar("Network")


def write(path: str | os.PathLike[str], config: dict[str, Any], vectors: dict[str, Array]) -> None:
    """Write a network's settings and vectors; an old file stays until the new one is whole."""
    target = os.fspath(path)
    if not isinstance(target, str):
        raise TypeError(f"path: expected str or os.PathLike[str], got {path!r}")
    config = {"format": FORMAT, "format_version": FORMAT_VERSION, **config}
    temporary = f"{target}.{os.getpid()}-{threading.get_ident()}.tmp"
    try:
        with open(temporary, "xb") as file:
            np.savez(file, config=np.array(json.dumps(config)), **vectors)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


def read(
    path: str | os.PathLike[str],
    names: Sequence[str],
    build: Callable[[dict[str, Any], dict[str, Array]], Network],
) -> Network:
    """Return build(config, vectors) of a file; whatever is wrong with it is a ValueError."""
    with open(path, "rb") as file:
        try:
            return build(*_parts(file, names))
        except Exception as error:  # whatever a broken file makes zip, JSON and NumPy raise
            reason = str(error) or type(error).__name__
            raise ValueError(
                f"{os.fspath(path)}: expected a network saved by MLP.save: {reason}"
            ) from error


def _parts(file: Any, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Array]]:
    archive = np.load(file, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError("it holds one array, not an archive")
    with archive:
        missing = {"config", *names} - set(archive.files)
        if missing:
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
        config = json.loads(str(archive["config"]))
        if not isinstance(config, dict) or config.pop("format", None) != FORMAT:
            raise ValueError("its config is not that of a network")
        version = config.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise ValueError(f"format_version is {version!r}, this release reads {FORMAT_VERSION}")
        return config, {name: archive[name] for name in names}
