"""A small array library on a CUDA device, a stand-in for CuPy, PyTorch or JAX.

Its memory is of `fanin._cuda`, on a GPU or emulated; what it does besides (views with any strides,
DLPack with and without a version) is done here, by the protocol and without fanin.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

CUDA = 2
CODES = {"i": 0, "u": 1, "f": 2, "b": 6}


class Tensor(ctypes.Structure):
    """DLTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Managed(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = (("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", Deleter))


class Versioned(ctypes.Structure):
    """DLManagedTensorVersioned."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    )


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)

given_away: dict[int, Any] = {}  # by address: what others hold through DLPack
streams_seen: list[int | None] = []  # that consumers named


@Deleter
def _delete(address: int) -> None:
    del given_away[address]


class DeviceArray:
    """A view of memory on the device. dtype is a NumPy dtype's name, or "bfloat16"."""

    legacy = False  # True: of before DLPack 1.0
    device = 0

    def __init__(
        self, memory: Any, dtype: str, shape: tuple[int, ...], strides: tuple[int, ...],
        start: int = 0, *, read_only: bool = False,
    ) -> None:  # fmt: skip
        self.memory, self.dtype, self.start = memory, dtype, start
        self.shape, self.strides = tuple(shape), tuple(strides)
        self.read_only = read_only

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def __getitem__(self, keys: Any) -> DeviceArray:
        """A view by slices, one per axis."""
        keys = keys if isinstance(keys, tuple) else (keys,)
        keys += (slice(None),) * (self.ndim - len(keys))
        start, shape, strides = self.start, [], []
        for key, n, stride in zip(keys, self.shape, self.strides, strict=True):
            chosen = range(n)[key]
            start += chosen.start * stride
            shape.append(len(chosen))
            strides.append(stride * chosen.step)
        return DeviceArray(self.memory, self.dtype, tuple(shape), tuple(strides), start)

    @property
    def T(self) -> DeviceArray:
        return DeviceArray(
            self.memory, self.dtype, self.shape[::-1], self.strides[::-1], self.start
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.device

    def __dlpack__(self, *, stream: int | None = None, **options: Any) -> Any:
        if self.legacy and options:
            raise TypeError("__dlpack__() got an unexpected keyword argument 'max_version'")
        streams_seen.append(stream)
        name = b"dltensor_versioned" if options.get("max_version") else b"dltensor"
        form: Any = Versioned() if options.get("max_version") else Managed()
        shape = (ctypes.c_int64 * max(self.ndim, 1))(*self.shape)
        strides = (ctypes.c_int64 * max(self.ndim, 1))(*self.strides)
        code, bits = 4, 16
        if self.dtype != "bfloat16":
            dtype = np.dtype(self.dtype)
            code, bits = CODES[dtype.kind], 8 * dtype.itemsize
        # half by the pointer, half by the offset: both are to be looked at
        here = self.start * bits // 8
        form.tensor = Tensor(
            self.memory.ptr + here - 16, CUDA, self.device, self.ndim, code, bits, 1, shape,
            strides, 16,
        )  # fmt: skip
        form.deleter = _delete
        if isinstance(form, Versioned):
            form.major, form.flags = 1, int(self.read_only)
        address = ctypes.addressof(form)
        given_away[address] = (form, shape, strides, name, self.memory)
        return _new_capsule(address, name, None)


class LegacyArray(DeviceArray):
    """Of a library that knows no version of DLPack."""

    legacy = True


class OwnStreams(DeviceArray):
    """Of a library that waits for no stream of others, as JAX's where its client knows none."""

    error: type[BaseException] = RuntimeError

    def __dlpack__(self, *, stream: int | None = None, **options: Any) -> Any:
        if stream is not None:
            streams_seen.append(stream)
            raise self.error("streams of others are not implemented")
        return super().__dlpack__(stream=stream, **options)


class LegacyOwnStreams(OwnStreams):
    """The same, of before DLPack 1.0."""

    legacy = True


def _module() -> Any:
    from fanin import _cuda

    return _cuda


def asarray(x: Any, dtype: str | None = None) -> DeviceArray:
    """A NumPy array, copied to the device; uint16 may be the bits of bfloat16."""
    x = np.ascontiguousarray(x)
    dtype = dtype or x.dtype.name
    cuda = _module()
    stream = cuda.own_stream(0)
    memory = cuda.empty(list(x.shape), dtype, 0, stream)
    cuda.upload(x, memory, stream)
    cuda.synchronize(stream)
    return _over(memory)


def asnumpy(x: DeviceArray) -> Any:
    """A copy on the host; bfloat16 as its bits in uint16."""
    cuda = _module()
    stream = cuda.own_stream(0)
    whole = np.empty(x.memory.size, "uint16" if x.dtype == "bfloat16" else x.dtype)
    cuda.download(x.memory, whole.reshape(x.memory.shape), stream)
    bytes_apart = tuple(stride * whole.itemsize for stride in x.strides)
    return np.lib.stride_tricks.as_strided(whole[x.start :], x.shape, bytes_apart).copy()


def from_dlpack(x: Any) -> DeviceArray:
    """What fanin gives, as an array of this library."""
    cuda = _module()
    assert x.__dlpack_device__() == (CUDA, 0)
    memory = cuda.from_dlpack(x, "x", cuda.own_stream(0))
    return _over(memory)


def _over(memory: Any) -> DeviceArray:
    return DeviceArray(memory, memory.dtype, memory.shape, memory.strides)
