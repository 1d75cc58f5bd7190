"""The matrix product on a CUDA device; see `fanin.matmul`."""

from typing import Any

from .array import Call


def matmul(x: Any, w: Any, *, out: Any = None) -> Any:
    """Return x @ w of arrays on a device, by cuBLASLt.

    Parameters
    ----------
    x : (m, k) float32, float64, bfloat16 or float16, any strides
    w : (k, n), dtype of x, any strides
    out : (m, n), dtype of x, optional
        Where to write; its rows or its columns are contiguous, and it shares no memory with x or w.

    Returns
    -------
    (m, n), dtype of x, of x's library: `out` when given.  Zeros when k is 0.  16-bit products are
    summed in float32.

    Raises
    ------
    TypeError, ValueError, MemoryError, ImportError
        As on the host; the device has no room; cuBLAS is missing.
    """
    call = Call("x", x)
    left = call.array("x", x, 2)
    right = call.array("w", w, 2, dtypes=(left.dtype,), why="to match x")
    check_inner(left, right)
    shape = left.shape[0], right.shape[1]
    if out is None:
        result = call.empty(shape, left.dtype)
        call.compiled.gemm(left, right, result.array, call.stream)
        return call.give(result)
    target = checked_out(call, out, shape, left, {"x": left, "w": right})
    call.compiled.gemm(left, right, target, call.stream)
    call.finish()
    return out


def check_inner(x: Any, w: Any) -> None:
    """Refuse matrices that do not go together."""
    if w.shape[0] != x.shape[1]:
        raise ValueError(
            f"w: expected shape ({x.shape[1]}, n) to match x of shape {x.shape}, got {w.shape}"
        )


def checked_out(
    call: Call, out: Any, shape: tuple[int, ...], x: Any, inputs: dict[str, Any]
) -> Any:
    """Return `out` as compiled code takes it; refuse one that cannot be written safely."""
    target = call.array("out", out, 2, dtypes=(x.dtype,), shape=shape, why="to hold the result")
    call.writeable("out", out, target)
    for name, array in inputs.items():
        if not call.compiled.apart(target, array):
            raise ValueError(f"out: expected memory apart from {name}, but they overlap")
    return target
