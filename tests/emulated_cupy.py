"""What fanin's networks use of CuPy, over NumPy: `sys.modules["cupy"]` where CUDA is emulated.

As strict as CuPy: nothing becomes a NumPy array unless by `get`, and no NumPy array mixes with one
of these.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np


class ndarray:
    """An array "on the device": in the emulated build its memory is the host's."""

    def __init__(self, values: Any) -> None:
        self._values = np.asarray(values)

    __array_priority__ = 100

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return ndarray(getattr(ufunc, method)(*map(_plain, inputs), **options))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        a = self._values
        return {
            "shape": a.shape,
            "typestr": a.dtype.str,
            "data": (a.ctypes.data, not a.flags.writeable),
            "strides": None if a.flags.c_contiguous else a.strides,
            "stream": 1,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, **options: Any) -> Any:
        import device_arrays

        return device_arrays.asarray(self._values).__dlpack__(**options)

    def get(self) -> Any:
        return self._values.copy()

    def __getitem__(self, key: Any) -> ndarray:
        return ndarray(self._values[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._values[key] = _plain(value)

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Any:
        return (ndarray(row) for row in self._values)

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "ndim", "size", "dtype", "nbytes", "tobytes", "item"):
            return getattr(self._values, name)
        if name not in ("reshape", "copy", "astype", "sum", "all", "any", "argmax", "max", "min"):
            raise AttributeError(name)
        method = getattr(self._values, name)
        return lambda *args, **options: ndarray(method(*args, **options))

    @property
    def flags(self) -> Any:
        return _Flags(self._values.flags.c_contiguous)

    def __float__(self) -> float:
        return float(self._values)

    def __bool__(self) -> bool:
        return bool(self._values)


class _Flags:
    def __init__(self, c_contiguous: bool) -> None:
        self.c_contiguous = c_contiguous


def _plain(value: Any) -> Any:
    if isinstance(value, ndarray):
        return value._values
    if isinstance(value, np.ndarray) and value.ndim > 0:
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return value


def _operator(name: str) -> Any:
    def apply(self: ndarray, other: Any) -> ndarray:
        return ndarray(getattr(operator, name)(self._values, _plain(other)))

    return apply


for _name in ("add", "sub", "mul", "truediv", "pow", "lt", "le", "gt", "ge", "eq", "ne"):
    setattr(ndarray, f"__{_name}__", _operator(_name))
ndarray.__radd__ = ndarray.__add__  # type: ignore[attr-defined]
ndarray.__rmul__ = ndarray.__mul__  # type: ignore[attr-defined]


def _made(name: str) -> Any:
    def make(*args: Any, **options: Any) -> ndarray:
        return ndarray(getattr(np, name)(*args, **options))

    return make


zeros, ones = _made("zeros"), _made("ones")


def empty(shape: Any, dtype: Any) -> ndarray:
    found = np.empty(shape, dtype)
    found.view(np.uint8)[...] = 0xFF  # NaN in every floating type
    return ndarray(found)


def asarray(x: Any, dtype: Any = None) -> ndarray:
    if isinstance(x, ndarray):
        return x if dtype in (None, x.dtype) else x.astype(dtype)
    return ndarray(np.array(x, dtype))  # a copy, onto the device


def ascontiguousarray(x: Any, dtype: Any = None) -> ndarray:
    return ndarray(np.ascontiguousarray(_plain(x), dtype))


def from_dlpack(x: Any) -> ndarray:
    """Of an array of tests/device_arrays.py: a copy, which is all that is needed here."""
    import device_arrays

    return ndarray(device_arrays.asnumpy(x))
