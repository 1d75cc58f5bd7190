"""Arrays of other libraries on a CUDA device: in through DLPack, out as the same library's.

A `Call` belongs to one call of a function: it takes the device, the stream and the library from the
first array, holds all others to that device, and makes the results.
"""

import sys
from typing import Any, NamedTuple

import numpy as np

from ..reference import arguments
from .runtime import compiled

FLOATS = ("float32", "float64", "bfloat16", "float16")


class Library:
    """An array library that hands arrays on by DLPack and tells no stream: JAX and others.

    Work is queued on fanin's own stream, behind what the arrays need, and the call waits for it:
    such a library gives memory of arrays that nobody holds any more to others at once, and may read
    a result without asking when it is there.
    """

    own_stream = True

    def __init__(self, module: Any, *, immutable: bool = False) -> None:
        """Keep the module whose from_dlpack makes arrays."""
        self.module = module
        self.immutable = immutable

    def stream(self, device: int) -> int:
        """Return the stream that the caller's next work goes to."""
        return int(compiled().own_stream(device))

    def empty(self, shape: tuple[int, ...], dtype: str, like: Any) -> Any:
        """Return a new array of the library's on the device of `like`, or None."""
        return None

    def give(self, array: Any) -> Any:
        """Return an array of fanin's as one of the library's."""
        return self.module.from_dlpack(array)


class Torch(Library):
    """PyTorch: its current stream, its memory."""

    own_stream = False

    def stream(self, device: int) -> int:
        return int(self.module.cuda.current_stream(device).cuda_stream)

    def empty(self, shape: tuple[int, ...], dtype: str, like: Any) -> Any:
        return self.module.empty(shape, dtype=getattr(self.module, dtype), device=like.device)


class CuPy(Library):
    """CuPy: its current stream, its memory."""

    own_stream = False

    def stream(self, device: int) -> int:
        with self.module.cuda.Device(device):
            return int(self.module.cuda.get_current_stream().ptr)

    def empty(self, shape: tuple[int, ...], dtype: str, like: Any) -> Any:
        with like.device:  # a bfloat16 comes of one: NumPy has no name for it
            return self.module.empty(shape, like.dtype if dtype == "bfloat16" else dtype)


_libraries: dict[type, Library] = {}


def library_of(name: str, x: Any) -> Library:
    """Return the library of an array, by its type."""
    kind = type(x)
    found = _libraries.get(kind)
    if found is None:
        found = _libraries[kind] = _find_library(name, x)
    return found


def _find_library(name: str, x: Any) -> Library:
    for base in type(x).__mro__:  # a Parameter of PyTorch's is a Tensor
        root = base.__module__.partition(".")[0]
        if root == "torch":
            return Torch(sys.modules["torch"])
        if root == "cupy":
            return CuPy(sys.modules["cupy"])
        if root in ("jax", "jaxlib"):
            return Library(sys.modules["jax"].dlpack, immutable=True)
    module = sys.modules.get(type(x).__module__.partition(".")[0])
    namespace = getattr(x, "__array_namespace__", None)
    for place in (namespace() if callable(namespace) else None, module):
        if hasattr(place, "from_dlpack"):
            return Library(place)
    raise TypeError(
        f"{name}: expected an array of a library with from_dlpack, got {arguments.describe(x)}"
    )


class Result(NamedTuple):
    """A new array: as compiled code takes it, and the library's, where that has made it."""

    array: Any
    theirs: Any


class Call:
    """Where one call computes: the device, stream and library of its first array."""

    def __init__(self, name: str, first: Any) -> None:
        """Refuse a first array that is not on a CUDA device."""
        self.compiled = compiled()
        self.name = name
        self.first = first
        self.library = library_of(name, first)
        self.device = arguments.cuda_device(name, first)
        self.stream = self.library.stream(self.device)
        self.waits = self.library.own_stream

    # ---- arguments ----

    def array(
        self,
        name: str,
        x: Any,
        ndim: int | None,
        *,
        dtypes: tuple[str, ...] = FLOATS,
        shape: tuple[int, ...] | None = None,
        why: str = "",
    ) -> Any:
        """Return `x` as compiled code takes it; refuse another place, dimension, dtype, shape."""
        if not arguments.on_cuda(x):
            raise TypeError(
                f"{name}: expected an array on CUDA device {self.device} like {self.name}, "
                f"got {arguments.describe(x)} on the host; move it there"
            )
        device = arguments.cuda_device(name, x)
        if device != self.device:
            raise ValueError(
                f"{name}: expected an array on CUDA device {self.device} like {self.name}, "
                f"got one on device {device}"
            )
        try:
            array = self.compiled.from_dlpack(x, name, self.stream)
        except (BufferError, RuntimeError) as error:  # such as a tensor that requires grad
            raise TypeError(f"{name}: its library does not hand it on: {error}") from error
        other = library_of(name, x)
        if other is not self.library and other.stream(self.device) != self.stream:
            self.waits = True
        expected = f"{name}: expected {f'a {ndim}-D' if ndim else 'an'} array of {_any_of(dtypes)}"
        if ndim is not None and array.ndim != ndim:
            raise ValueError(f"{expected}, got {array.ndim}-D with shape {array.shape}")
        if array.dtype not in dtypes:
            kind = ValueError if array.dtype in FLOATS else TypeError
            raise kind(f"{expected}{why and f' {why}'}, got {array.dtype}")
        if shape is not None and array.shape != shape:
            raise ValueError(f"{name}: expected shape {shape} {why}, got {array.shape}")
        return array

    def like(self, name: str, x: Any, other: Any, like: str, ndim: int | None = None) -> Any:
        """Return `x`, of the shape and dtype of `other`."""
        return self.array(
            name, x, other.ndim if ndim is None else ndim,
            dtypes=(other.dtype,), shape=other.shape, why=f"to match {like}",
        )  # fmt: skip

    def vector(self, name: str, x: Any, count: int, dtype: str, why: str) -> Any:
        """Return `x` (count,) of this dtype, contiguous."""
        return self.contiguous(
            name, self.array(name, x, 1, dtypes=(dtype,), shape=(count,), why=why)
        )

    def writeable(self, name: str, x: Any, array: Any) -> None:
        """Refuse what must not be written."""
        if library_of(name, x).immutable or array.read_only:
            raise ValueError(f"{name}: expected a writeable array, got a read-only one")

    def contiguous(self, name: str, array: Any) -> Any:
        """Return the array row after row; a copy only if needed."""
        if array.contiguous:
            return array
        if array.ndim > 2:
            raise ValueError(
                f"{name}: expected contiguous memory in {array.ndim}-D, got strides {array.strides}"
            )
        if array.ndim == 1:
            return self._copied(array.as_column()).reshape(list(array.shape))
        return self._copied(array)

    def rows(self, array: Any, name: str) -> Any:
        """Return a matrix with contiguous rows, (1, n) for a vector; a copy only if needed."""
        if array.ndim == 2 and (array.strides[1] == 1 or array.shape[1] <= 1):
            return array
        array = self.contiguous(name, array)
        if array.ndim == 2:
            return array
        columns = array.shape[-1] if array.ndim > 2 else array.size
        rows = array.size // max(columns, 1) if array.ndim > 2 else 1
        return array.reshape([rows, columns])

    def _copied(self, array: Any) -> Any:
        copy = self.empty(array.shape, array.dtype).array
        self.compiled.convert(array, copy, self.stream)
        return copy

    # ---- results ----

    def empty(self, shape: tuple[int, ...], dtype: str) -> Result:
        """Return room for a result."""
        theirs = self.library.empty(tuple(shape), dtype, self.first)
        if theirs is None:
            own = self.compiled.empty(list(shape), dtype, self.device, self.stream)
            return Result(own, None)
        return Result(self.compiled.from_dlpack(theirs, "out", self.stream), theirs)

    def give(self, result: Result) -> Any:
        """Return a result, once all of the call's work is queued."""
        self.finish()
        return self.library.give(result.array) if result.theirs is None else result.theirs

    def finish(self) -> None:
        """Wait for the end, where an array's library does not know the stream that uses it.

        Else its memory could be given to others, or read, while it is in use here.
        """
        if self.waits:
            self.compiled.synchronize(self.stream)

    # ---- to and from the host ----

    def upload(self, x: Any, dtype: str) -> Any:
        """Return a NumPy array of float32 or float64 in this dtype on the device."""
        if dtype == "bfloat16":
            x = bfloat16_bits(np.asarray(x, np.float32))
        else:
            x = np.ascontiguousarray(x, dtype)
        array = self.empty(x.shape, dtype).array
        self.compiled.upload(x, array, self.stream)
        return array

    def download(self, array: Any, name: str) -> Any:
        """Return an array as NumPy's; waits for the device. bfloat16 becomes float32."""
        array = self.contiguous(name, array)
        if array.dtype != "bfloat16":
            host = np.empty(array.shape, array.dtype)
            self.compiled.download(array, host, self.stream)
            return host
        bits = np.empty(array.shape, np.uint16)
        self.compiled.download(array, bits, self.stream)
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def bfloat16_bits(x: Any) -> Any:
    """Return float32 numbers rounded to bfloat16, as uint16."""
    from ..reference.gemm import round_to_bfloat16

    return (round_to_bfloat16(x).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def _any_of(dtypes: tuple[str, ...]) -> str:
    return dtypes[0] if len(dtypes) == 1 else f"{', '.join(dtypes[:-1])} or {dtypes[-1]}"
