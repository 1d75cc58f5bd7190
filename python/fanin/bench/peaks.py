"""What this machine can do at most, measured: fused multiply-adds and memory bandwidth.

    python -m fanin.bench.peaks

Both come from loops compiled into fanin (`_core.fma_peak`, `_core.memory_peak`): chains of
independent multiply-adds in registers, and a pass over arrays larger than every cache. A figure is
the best of three, measured once per process.
"""

from __future__ import annotations

from functools import cache

from .. import _core, runtime

SECONDS = 0.15


def fma(dtype: str, threads: int, isa: str | None = None) -> float:
    """GFLOP/s of multiply-adds, of the instruction set in use or of the one named."""
    return _fma(dtype, threads, isa or runtime.isa())


@cache
def _fma(dtype: str, threads: int, isa: str) -> float:
    return max(_core.fma_peak(isa, dtype, threads, SECONDS) for _ in range(3))


@cache
def memory(threads: int) -> float:
    """GB/s read and written."""
    return max(_core.memory_peak(threads, SECONDS) for _ in range(3))


def main() -> None:
    """Prints the peaks of every instruction set, on one thread and on all."""
    most = runtime.build_info()["max_threads"]
    for threads in sorted({1, most}):
        for isa in runtime.available_isas():
            for dtype in ("float32", "float64"):
                print(f"{isa:9} {dtype} {threads} threads {fma(dtype, threads, isa):8.1f} GFLOP/s")
        print(f"memory            {threads} threads {memory(threads):8.1f} GB/s")


if __name__ == "__main__":
    main()
