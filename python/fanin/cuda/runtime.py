"""The device: whether one can be used, and how."""

import importlib
from types import ModuleType
from typing import Any

from ..reference import arguments

WITHOUT = "fanin was built without CUDA: pip install . -C cmake.define.FANIN_CUDA=ON"

PRECISIONS = (None, "tfloat32", "bfloat16")  # their numbers in cpp/bind/bind_cuda_ops.cpp

_loaded: ModuleType | None = None
_precision: str | None = None


def compiled() -> ModuleType:
    """Return the compiled module; ImportError says why there is none."""
    global _loaded
    if _loaded is None:
        try:
            module = importlib.import_module("fanin._cuda")
        except ModuleNotFoundError as error:
            if error.name != "fanin._cuda":
                raise
            raise ImportError(WITHOUT, name="fanin._cuda") from error
        module.look_for_cublas_in(_cublas_folders())
        _loaded = module
    return _loaded


def _cublas_folders() -> list[str]:
    """Return where the wheels nvidia-cublas and nvidia-cublas-cu12 have their library."""
    from importlib.util import find_spec  # here, where the device is: importing fanin needs neither
    from pathlib import Path

    found = find_spec("nvidia")
    places = [] if found is None else list(found.submodule_search_locations or ())
    folders = [Path(place) / part for place in places for part in ("cu13/lib", "cublas/lib")]
    return [str(folder) for folder in folders if folder.is_dir()]


def available() -> tuple[bool, str]:
    """Return whether fanin can compute on a CUDA device here, and why not, or on what.

    Never raises.  cuBLAS is looked for when the first product is made, not here.

    Returns
    -------
    (True, "NVIDIA H200 (sm_90), driver for CUDA 13.0"), or (False, why): built without CUDA, no
    driver, a driver too old, no GPU, or one that this build has no code for.  A build with
    FANIN_CUDA=EMULATED computes on the CPU, for tests, and says so.
    """
    try:
        module = compiled()
        reason: str | None = module.available()
        if reason is not None:
            return False, reason
        device = module.properties(0)
    except (ImportError, RuntimeError) as error:
        return False, str(error)
    if module.emulated:
        return True, "emulated on the CPU: right, and slow; arrays of real devices are not for it"
    return True, f"{device['name']} ({device['architecture']}), driver for CUDA {device['driver']}"


def properties(device: int = 0) -> dict[str, Any]:
    """Return what a device is.

    Parameters
    ----------
    device : its number, from 0

    Returns
    -------
    dict with name, architecture ("sm_90"), multiprocessors, memory, free_memory, shared_memory (of
    one block) and l2_cache in bytes, and driver and runtime, the versions of CUDA.

    Raises
    ------
    RuntimeError, ValueError, ImportError
        Nothing can be used, with the reason; or there is no device of this number.
    """
    module = compiled()
    reason = module.available()
    if reason is not None:
        raise RuntimeError(reason)
    found: dict[str, Any] = module.properties(arguments.check_integer("device", device, 0))
    return found


def architectures() -> list[str]:
    """Return what the kernels were compiled for, such as ["80-real", "90-real", "90-virtual"].

    Numbers are compute capabilities; "virtual" is PTX, which newer devices translate.  Empty when
    fanin was built without CUDA.
    """
    try:
        return str(compiled().architectures).split()
    except ImportError:
        return []


def cublas() -> tuple[str, int]:
    """Return path and version of the cuBLASLt that products are made with; loads it.

    Raises
    ------
    ImportError
        Built without CUDA, or there is no cuBLAS that the driver can run; the message says where it
        was looked for.
    """
    path, version = compiled().cublas()
    return str(path), int(version)


def set_precision(precision: str | None) -> None:
    """Let products of float32 arrays round their inputs from now on; sums stay float32.

    Parameters
    ----------
    precision : None, "tfloat32" or "bfloat16"
        None rounds nothing.  TensorFloat-32 keeps 11 bits of 24, bfloat16 8; both use tensor
        cores.  Networks have a precision of their own and do not look at this one.

    Raises
    ------
    ValueError, ImportError
        None of the three; built without CUDA.
    """
    global _precision
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected None, 'tfloat32' or 'bfloat16', got {precision!r}")
    compiled().set_precision(PRECISIONS.index(precision))
    _precision = precision


def get_precision() -> str | None:
    """Return what `set_precision` has set: None, "tfloat32" or "bfloat16"."""
    return _precision
