"""The machine: instruction sets, threads, and how this build was made."""

from typing import Any

from . import _core, cuda
from .reference import arguments


def isa() -> str:
    """Return the name of the instruction set in use, a str such as "avx512".

    The fastest the machine has, unless FANIN_ISA was set before the import, or `set_isa` called.
    """
    return str(_core.isa())


def available_isas() -> list[str]:
    """Return the names of the instruction sets this build and this machine share, slowest first."""
    return list(_core.available_isas())


def set_isa(isa: str) -> None:
    """Use this instruction set from now on.

    Parameters
    ----------
    isa : one of `available_isas()`

    Raises
    ------
    TypeError, ValueError
        Not a name, or not one this build and this machine share.
    """
    _core.set_isa(arguments.check_choice("isa", isa, available_isas()))


def get_num_threads() -> int:
    """Return the most threads an operation uses, an int >= 1."""
    return int(_core.num_threads())


def set_num_threads(n: int) -> None:
    """Let operations use at most n threads.  Results do not depend on it.

    Parameters
    ----------
    n : integer from 1 to 1024

    Raises
    ------
    TypeError, ValueError
        Not such an integer.
    """
    _core.set_num_threads(arguments.check_integer("n", n, 1, 1025))


def build_info() -> dict[str, Any]:
    """Return how this build was made and what it uses.

    Returns
    -------
    dict with version, compiler, flags, sanitizers, isas_built, isas_available, isa, threads,
    max_threads (granted by the machine), thread_limit (what limits them: "cores",
    "CPU affinity", "cgroup quota" or "OMP_NUM_THREADS"), parallel ("pool" or "openmp") and
    cuda_architectures, what the CUDA kernels were built for, none without CUDA.
    """
    max_threads, thread_limit = _core.thread_limit()
    return {
        **_core.build_info(),
        "isas_available": available_isas(),
        "isa": isa(),
        "threads": get_num_threads(),
        "max_threads": max_threads,
        "thread_limit": thread_limit,
        "cuda_architectures": cuda.architectures(),
    }
