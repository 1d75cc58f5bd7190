"""oracle.c from Python: compiled once per test run by the system's C compiler."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np

FUNCTIONS = ("exp", "log", "tanh", "sigmoid", "erf", "softplus", "normal_cdf")
WIDER = {"float32": np.float64, "float64": np.longdouble}


def c_compiler() -> str:
    """The system's C compiler."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise RuntimeError(
            "the tests compile tests/oracle.c and found none of cc, gcc, clang; "
            "test_minimal.py is the one file that needs no compiler"
        )
    return compiler


def compile_oracle(folder: Path) -> ctypes.CDLL:
    """The shared library of oracle.c, built in `folder`."""
    compiler = c_compiler()
    library = folder / "oracle.so"
    flags = ["-O3", "-ffp-contract=off", "-fno-trapping-math", "-fPIC", "-shared"]
    source = str(Path(__file__).with_name("oracle.c"))
    for tuned in (["-march=native"], []):  # faster where the compiler knows the processor
        command = [compiler, *flags, *tuned, source, "-o", str(library), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return ctypes.CDLL(str(library))
    raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")


class Oracle:
    """The functions of oracle.c on NumPy arrays."""

    def __init__(self, folder: Path) -> None:
        self.library = compile_oracle(folder)
        for name in ("float_mode", "usual_mode", "denormals_off", "round_up"):
            getattr(self.library, name).restype = ctypes.c_uint64
        for name in ("ulps_float32", "ulps_float64"):
            getattr(self.library, name).restype = ctypes.c_double

    def matmul(self, x: np.ndarray, w: np.ndarray, *, fused: bool) -> np.ndarray:
        """x @ w in the canonical order; fused: with fma, else multiply and add."""
        (m, k), n = x.shape, w.shape[1]
        out = np.empty((m, n), x.dtype)
        name = f"product_{x.dtype}_{'fused' if fused else 'plain'}"
        strides = [[ctypes.c_int64(s // a.itemsize) for s in a.strides] for a in (x, w)]
        getattr(self.library, name)(
            *map(ctypes.c_int64, (m, k, n)), address(x), *strides[0], address(w), *strides[1],
            address(out),
        )  # fmt: skip
        return out

    def exact(self, name: str, x: np.ndarray) -> np.ndarray:
        """The function in a wider type, of contiguous float32 or float64 x."""
        out = np.empty(x.shape, WIDER[x.dtype.name])
        getattr(self.library, f"exact_{x.dtype}")(
            FUNCTIONS.index(name), ctypes.c_int64(x.size), address(x), address(out)
        )
        return out

    def ulps(self, exact: np.ndarray, got: np.ndarray) -> tuple[float, int]:
        """The largest error of `got` in its units of the last place, and where it is."""
        assert exact.dtype == WIDER[got.dtype.name]
        assert exact.shape == got.shape
        where = ctypes.c_int64(-1)
        worst = getattr(self.library, f"ulps_{got.dtype}")(
            ctypes.c_int64(got.size), address(exact), address(got), ctypes.byref(where)
        )
        return worst, where.value

    def float_mode(self) -> int:
        """The rounding and denormal mode of this thread."""
        return self.library.float_mode()

    @contextlib.contextmanager
    def mode(self, name: str):
        """This thread's mode set to usual_mode, denormals_off or round_up; yields its word."""
        before = self.float_mode()
        wanted = getattr(self.library, name)()
        self.library.set_float_mode(ctypes.c_uint64(wanted))
        try:
            yield wanted
        finally:
            self.library.set_float_mode(ctypes.c_uint64(before))


def address(x: np.ndarray) -> ctypes.c_void_p:
    """Where the first element is."""
    return ctypes.c_void_p(x.__array_interface__["data"][0])
