"""fanin on a CUDA device: whether there is one; other libraries' arrays through all functions.

Arrays are of tests/device_arrays.py, which speaks DLPack as CuPy, PyTorch and JAX do.  What
computes runs where the compiled module was built: on a GPU, or with FANIN_CUDA=EMULATED on the CPU.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest

import device_arrays
import fanin
from cases import ACTIVATIONS, NEEDS_INPUT
from device_arrays import DeviceArray, LegacyArray, LegacyOwnStreams, OwnStreams, asarray, asnumpy
from fanin import reference
from fanin.cuda import runtime
from oracle import c_compiler

AVAILABLE, REASON = fanin.cuda.available()
EMULATED = AVAILABLE and REASON.startswith("emulated")
built = pytest.mark.skipif(not fanin.cuda.architectures(), reason=REASON)
on_device = pytest.mark.skipif(not AVAILABLE, reason=REASON)
emulated = pytest.mark.skipif(not EMULATED, reason="not a build with FANIN_CUDA=EMULATED")

# Norm-wise relative errors. What is asked of CUDA, but for float64: sums of at most 2^10 terms,
# each of which may be off by 2^-53 of the sum.
LIMIT = {"float32": 1e-5, "float64": 2.0**-43, "bfloat16": 1e-2, "float16": 1e-2, "tfloat32": 1e-3}
DTYPES = ["float32", "float64", "bfloat16", "float16"]
WIDE = ["float32", "float64"]


def stored(x: Any, dtype: str) -> Any:
    """x in this dtype: the bits where NumPy has no such dtype."""
    if dtype != "bfloat16":
        return np.asarray(x).astype(dtype)
    rounded = reference.gemm.round_to_bfloat16(np.asarray(x, np.float32))
    return (rounded.view(np.uint32) >> 16).astype(np.uint16)


def wide(x: Any) -> Any:
    """What is stored, in float64."""
    if x.dtype == np.uint16:
        return (x.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return x.astype(np.float64)


def pair(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> tuple[Any, Any]:
    """Random numbers on the device, and the same in float64."""
    x = stored(rng.standard_normal(shape), dtype)
    return asarray(x, dtype), wide(x)


def host(x: DeviceArray) -> Any:
    return wide(asnumpy(x))


def near(found: Any, wanted: Any, dtype: str) -> None:
    assert found.shape == wanted.shape
    error = np.linalg.norm(found - wanted)
    assert error <= LIMIT[dtype] * np.linalg.norm(wanted), error / np.linalg.norm(wanted)


@pytest.fixture
def rng(request):
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


@pytest.fixture(autouse=True)
def nothing_is_kept():
    """What was handed out through DLPack has been given back."""
    yield
    assert device_arrays.given_away == {}


# ---- without a device --------------------------------------------------------------------------


class Elsewhere:
    """An array on a CUDA device, as far as can be told without touching it."""

    shape, ndim, size, dtype = (4, 3), 2, 12, "float32"

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, **options):
        raise BufferError("not to be touched")


def test_available():
    assert isinstance(AVAILABLE, bool)
    assert len(REASON) > 5
    if AVAILABLE:
        assert fanin.build_info()["cuda_architectures"]
        assert fanin.cuda.properties()["multiprocessors"] >= 1
        with pytest.raises(ValueError, match=r"device: expected .* got 99"):
            fanin.cuda.properties(99)


@pytest.fixture
def without_module(monkeypatch):
    monkeypatch.setattr(runtime, "_loaded", None)
    monkeypatch.setitem(sys.modules, "fanin._cuda", None)


def test_built_without_cuda(without_module):
    """available() says how to build it; what needs it says the same; nothing else cares."""
    assert fanin.cuda.available() == (False, runtime.WITHOUT)
    assert "FANIN_CUDA=ON" in runtime.WITHOUT
    assert fanin.build_info()["cuda_architectures"] == []
    for call in (fanin.cuda.properties, fanin.cuda.cublas,
                 lambda: fanin.cuda.set_precision("tfloat32"),
                 lambda: fanin.matmul(Elsewhere(), Elsewhere())):  # fmt: skip
        with pytest.raises(ImportError, match="FANIN_CUDA=ON"):
            call()
    assert fanin.cuda.get_precision() is None
    x = np.eye(3, dtype=np.float32)
    np.testing.assert_array_equal(fanin.matmul(x, x), x)


def run(program: str, *arguments: str, **environment: str) -> str:
    """What a program prints, in a process of its own."""
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@emulated
def test_no_gpu():
    """A build with CUDA on a machine without: import works, available() says why."""
    text = run("import fanin; print(fanin.cuda.available())", FANIN_EMULATED_DEVICES="0")
    assert text == "(False, 'no NVIDIA driver is installed')\n"


def test_precision():
    for wrong in ("float32", "TF32", 1):
        with pytest.raises(ValueError, match=r"precision: expected None, 'tfloat32' or 'bfloat16'"):
            fanin.cuda.set_precision(wrong)


X = np.ones((4, 3), np.float32)
MIXED = {
    "matmul": lambda a: fanin.matmul(X.T, a),
    "matmul out": lambda a: fanin.matmul(X, X.T, out=a),
    "dense_forward": lambda a: fanin.dense_forward(X.T, a),
    "dense_backward": lambda a: fanin.dense_backward(a[0] if isinstance(a, tuple) else a,
                                                     fanin.dense_forward(X, X.T)[1]),
    "activation_backward": lambda a: fanin.activation_backward(X, a, "tanh"),
    "batch_norm_forward": lambda a: fanin.batch_norm_forward(X, a, a, a, a, training=True),
    "labels": lambda a: fanin.softmax_cross_entropy(X, a),
    "targets": lambda a: fanin.mean_squared_error(X, a),
    "sample_weight": lambda a: fanin.mean_squared_error(X, X, sample_weight=a),
    "gradients": lambda a: fanin.SGD(0.1).update(X.reshape(-1), a),
}  # fmt: skip
del MIXED["dense_backward"]  # da alone decides where it computes


@pytest.mark.parametrize("what", MIXED)
def test_device_among_host_arrays(what):
    with pytest.raises(TypeError, match=r"^\w+: expected .* on a CUDA device"):
        MIXED[what](Elsewhere())


def test_reference_is_for_the_host():
    with pytest.raises(TypeError, match=r"^x: expected .* on a CUDA device"):
        reference.matmul(Elsewhere(), X)


# ---- arrays in and out -------------------------------------------------------------------------


@on_device
@pytest.mark.parametrize("kind", [DeviceArray, LegacyArray])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dlpack(kind, dtype, rng):
    """Both forms of the protocol, in and out, without a copy, and nothing is kept."""
    from fanin import _cuda

    device_arrays.streams_seen.clear()
    there, _ = pair(rng, (5, 7), dtype)
    there = kind(there.memory, there.dtype, there.shape, there.strides)
    stream = _cuda.own_stream(0)
    array = _cuda.from_dlpack(there, "x", stream)
    assert device_arrays.streams_seen == [stream]
    assert (array.ptr, array.shape, array.strides) == (there.memory.ptr, (5, 7), (7, 1))
    assert array.dtype == dtype
    for options in ({}, {"max_version": (1, 0)}):
        capsule = array.__dlpack__(stream=stream, **options)
        name = "dltensor_versioned" if options else "dltensor"
        assert f'"{name}"' in repr(capsule)
        del capsule  # taken by nobody
    back = device_arrays.from_dlpack(array)
    assert back.memory.ptr == array.ptr
    del array
    assert len(device_arrays.given_away) == 1
    assert asnumpy(back).tobytes() == asnumpy(there).tobytes()
    del back


@on_device
def test_dlpack_refuses():
    from fanin import _cuda

    class Bad(DeviceArray):
        def __dlpack__(self, **options):
            return "no capsule"

    class Complex(DeviceArray):
        def __dlpack__(self, **options):
            device_arrays.CODES["c"] = 5
            return super().__dlpack__(**options)

    there = asarray(X)
    with pytest.raises(ValueError, match="x: expected a capsule of DLPack"):
        _cuda.from_dlpack(Bad(there.memory, "float32", (4, 3), (3, 1)), "x", 1)
    with pytest.raises(ValueError, match="x: expected real numbers"):
        _cuda.from_dlpack(Complex(there.memory, "complex64", (2, 3), (3, 1)), "x", 1)
    with pytest.raises(BufferError, match="without a copy"):
        there.memory.__dlpack__(copy=True)


def seen_as(kind, x):
    return kind(x.memory, x.dtype, x.shape, x.strides)


@on_device
@pytest.mark.parametrize("kind", [OwnStreams, LegacyOwnStreams])
@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, ValueError, TypeError])
def test_libraries_that_take_no_stream(kind, error, rng, monkeypatch):
    """They are asked once more without; our stream then waits for the legacy default stream."""
    from fanin import _cuda

    monkeypatch.setattr(kind, "error", error)
    (x, x64), (w, w64) = pair(rng, (4, 3), "float32"), pair(rng, (3, 2), "float32")
    stream = _cuda.own_stream(0)
    if EMULATED:
        _cuda.take_waits()
    device_arrays.streams_seen.clear()
    array = _cuda.from_dlpack(seen_as(kind, x), "x", stream)
    assert set(device_arrays.streams_seen[:-1]) == {stream}
    assert device_arrays.streams_seen[-1] is None
    assert array.ptr == x.memory.ptr
    if EMULATED:
        assert _cuda.take_waits() == [(stream, 1)]
        del array
        _cuda.from_dlpack(x, "x", stream)
        assert _cuda.take_waits() == []
    array = None
    near(host(fanin.matmul(seen_as(kind, x), seen_as(kind, w))), x64 @ w64, "float32")


@on_device
@pytest.mark.parametrize("error", [BufferError, MemoryError, KeyboardInterrupt])
def test_arrays_that_cannot_be_handed_on(error, rng, monkeypatch):
    """What has nothing to do with streams is not asked for twice."""
    from fanin import _cuda

    monkeypatch.setattr(OwnStreams, "error", error)
    x, _ = pair(rng, (4, 3), "float32")
    device_arrays.streams_seen.clear()
    with pytest.raises(error, match="streams of others"):
        _cuda.from_dlpack(seen_as(OwnStreams, x), "x", _cuda.own_stream(0))
    assert len(device_arrays.streams_seen) == 1


@on_device
def test_results_are_the_librarys(rng):
    x, _ = pair(rng, (4, 3), "float32")
    w, _ = pair(rng, (3, 2), "float32")
    a, cache = fanin.dense_forward(x, w, activation="gelu", dropout=0.5, key=(1, 2, 3))
    for array in (a, cache.z, cache.mask):
        assert type(array) is DeviceArray
    dx, dw, db = fanin.dense_backward(a, cache)
    assert (type(dx), type(dw), db) == (DeviceArray, DeviceArray, None)


@on_device
def test_refused_arrays(rng):
    """Another device, a host array, a wrong dtype or shape, read-only or overlapping outputs."""
    x, _ = pair(rng, (4, 3), "float32")
    w, _ = pair(rng, (3, 2), "float32")
    out, _ = pair(rng, (4, 2), "float32")

    class Second(DeviceArray):
        device = 1

    class Grad(DeviceArray):
        def __dlpack__(self, **options):
            raise BufferError("Can't export tensors that require gradient")

    def view(kind, a, **options):
        return kind(a.memory, a.dtype, a.shape, a.strides, **options)

    refusals = [
        (TypeError, r"w: expected an array on CUDA device 0 like x, got float32 .* on the host",
         (x, np.ones((3, 2), np.float32)), {}),
        (ValueError, r"w: .* device 0 like x, got one on device 1", (x, view(Second, w)), {}),
        (TypeError, r"w: its library does not hand it on: Can't export", (x, view(Grad, w)), {}),
        (ValueError, r"w: expected a 2-D array of float32 to match x, got float64",
         (x, asarray(np.ones((3, 2)))), {}),
        (TypeError, r"x: expected a 2-D array of float32, float64, bfloat16 or float16, got int64",
         (asarray(np.ones((4, 3), np.int64)), w), {}),
        (ValueError, r"x: expected a 2-D array .*, got 1-D with shape \(12,\)",
         (asarray(np.ones(12, np.float32)), w), {}),
        (ValueError, r"w: expected shape \(3, n\) to match x of shape \(4, 3\), got \(4, 3\)",
         (x, x), {}),
        (ValueError, r"out: expected shape \(4, 2\) to hold the result, got \(3, 2\)",
         (x, w), {"out": w}),
        (ValueError, r"out: expected a writeable array", (x, w),
         {"out": view(DeviceArray, out, read_only=True)}),
        (ValueError, r"out: expected memory apart from x, but they overlap", (x, w),
         {"out": x[:, :2]}),
        (ValueError, r"out: expected contiguous rows or columns", (x, w[:, :1]),
         {"out": asarray(np.ones((8, 4), np.float32))[::2, ::4].T.T[:, :1][::1]}),
    ]  # fmt: skip
    del refusals[-1]  # one column is contiguous whichever way it lies
    for error, message, arrays, options in refusals:
        with pytest.raises(error, match=message):
            fanin.matmul(*arrays, **options)


@on_device
def test_immutable_library(rng, monkeypatch):
    """JAX's arrays do not change: what would update one in place refuses by name."""
    p, _ = pair(rng, (5,), "float32")
    g, _ = pair(rng, (5,), "float32")
    from fanin.cuda import array

    monkeypatch.setattr(array.library_of("p", p), "immutable", True)
    with pytest.raises(ValueError, match="parameters: expected a writeable array"):
        fanin.SGD(0.1).update(p, g)


@pytest.fixture
def held(monkeypatch):
    """How many arrays are held through DLPack, each time that the host waits for the device."""
    from fanin import _cuda

    counts: list[int] = []
    synchronize = _cuda.synchronize

    def wait(stream: int) -> None:
        counts.append(len(device_arrays.given_away))
        synchronize(stream)

    monkeypatch.setattr(_cuda, "synchronize", wait)
    return counts


@on_device
def test_libraries_that_tell_no_stream(rng, monkeypatch, held):
    """They reuse what nobody holds, and read what they are given: the work must be done by then."""
    x, w = pair(rng, (4, 3), "float32")[0], pair(rng, (3, 2), "float32")[0]
    before = len(device_arrays.given_away)
    from_dlpack, waits_when_given = device_arrays.from_dlpack, []

    def give(array: Any) -> Any:
        waits_when_given.append(len(held))
        return from_dlpack(array)

    monkeypatch.setattr(device_arrays, "from_dlpack", give)
    held.clear()
    fanin.matmul(x, w)
    assert held == [before + 2]
    assert waits_when_given == [1]
    assert len(device_arrays.given_away) == before


@on_device
@pytest.mark.parametrize("streams", [(1, 1), (1, 2)])
def test_arrays_of_two_streams(streams, rng, monkeypatch, held):
    """Work is queued on the first array's stream; the other's library waits only for its own."""
    from fanin import _cuda
    from fanin.cuda import array

    class First(DeviceArray):
        pass

    class Second(DeviceArray):
        pass

    class Queued(array.Library):
        own_stream = False

        def __init__(self, stream: int) -> None:
            super().__init__(device_arrays)
            self.number = stream

        def stream(self, device: int) -> int:
            return self.number

    for kind, stream in zip((First, Second), streams, strict=True):
        monkeypatch.setitem(array._libraries, kind, Queued(stream))
    (x, x64), (w, w64) = pair(rng, (4, 3), "float32"), pair(rng, (3, 2), "float32")
    x = First(x.memory, x.dtype, x.shape, x.strides)
    w = Second(w.memory, w.dtype, w.shape, w.strides)
    held.clear()
    product = fanin.matmul(x, w)
    assert len(held) == (streams[0] != streams[1])
    _cuda.synchronize(streams[0])
    near(host(product), x64 @ w64, "float32")


# ---- products ----------------------------------------------------------------------------------

SHAPES = [(1, 1, 1), (3, 5, 7), (16, 16, 16), (33, 17, 65), (2, 130, 1), (1, 64, 31), (64, 1, 9)]


@on_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matmul(dtype, shape, rng):
    m, k, n = shape
    (x, x64), (w, w64) = pair(rng, (m, k), dtype), pair(rng, (k, n), dtype)
    near(host(fanin.matmul(x, w)), x64 @ w64, dtype)
    (xt, xt64), (wt, wt64) = pair(rng, (k, m), dtype), pair(rng, (n, k), dtype)
    near(host(fanin.matmul(xt.T, wt.T)), xt64.T @ wt64.T, dtype)
    out = asarray(stored(np.full((n, m), np.nan), dtype), dtype)
    assert fanin.matmul(x, wt.T, out=out.T).memory is out.memory
    near(host(out), (x64 @ wt64.T).T, dtype)


STEPS = [slice(None), slice(1, None), slice(None, None, 2), slice(None, None, -1)]


@on_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", STEPS, ids=str)
@pytest.mark.parametrize("cols", STEPS, ids=str)
def test_strides_of_products(dtype, rows, cols, rng):
    """Slices, every other row, columns from behind: as they are or by a copy."""
    (x, x64), (w, w64) = pair(rng, (13, 21), dtype), pair(rng, (13, 21), dtype)
    left, right = x[rows, cols], w[rows, cols].T
    near(host(fanin.matmul(left, right)), x64[rows, cols] @ w64[rows, cols].T, dtype)
    near(host(fanin.matmul(right, left)), w64[rows, cols].T @ x64[rows, cols], dtype)
    whole = asarray(stored(np.full((left.shape[0], 40), np.nan), dtype), dtype)
    fanin.matmul(left, right, out=whole[:, 3 : 3 + right.shape[1]])
    found = host(whole)
    near(found[:, 3 : 3 + right.shape[1]], x64[rows, cols] @ w64[rows, cols].T, dtype)
    assert np.isnan(found[:, :3]).all()
    assert np.isnan(found[:, 3 + right.shape[1] :]).all()


@on_device
@pytest.mark.parametrize("dtype", DTYPES)
def test_empty_products(dtype):
    for m, k, n in [(0, 3, 2), (3, 0, 2), (3, 2, 0), (0, 0, 0)]:
        x = asarray(np.ones((m, k), np.uint16 if dtype == "bfloat16" else dtype), dtype)
        w = asarray(np.ones((k, n), np.uint16 if dtype == "bfloat16" else dtype), dtype)
        assert np.array_equal(host(fanin.matmul(x, w)), np.zeros((m, n)))


@on_device
@pytest.mark.parametrize("precision", ["tfloat32", "bfloat16"])
def test_precision_of_products(precision, rng):
    """float32 products of rounded inputs: right to that, and really rounded."""
    (x, x64), (w, w64) = pair(rng, (40, 300), "float32"), pair(rng, (300, 24), "float32")
    exact = host(fanin.matmul(x, w))
    try:
        fanin.cuda.set_precision(precision)
        assert fanin.cuda.get_precision() == precision
        rounded = host(fanin.matmul(x, w))
    finally:
        fanin.cuda.set_precision(None)
    near(rounded, x64 @ w64, precision)
    near(exact, x64 @ w64, "float32")
    # errors of 2^-12 and 2^-9 at most per factor: far above float32's
    assert np.linalg.norm(rounded - x64 @ w64) > 1e-5 * np.linalg.norm(x64 @ w64)
    if precision == "bfloat16":  # to float32, as bfloat16 inputs are
        left = reference.gemm.round_to_bfloat16(asnumpy(x)).astype(np.float64)
        right = reference.gemm.round_to_bfloat16(asnumpy(w)).astype(np.float64)
        near(rounded, left @ right, "float32")


@emulated
def test_algorithms_for_aligned_matrices_alone(monkeypatch, rng):
    """Where cuBLAS knows no algorithm for a matrix that lies oddly, it is copied."""
    monkeypatch.setenv("FANIN_EMULATED_CUBLAS", "aligned")
    (x, x64), (w, w64) = pair(rng, (11, 29), "float16"), pair(rng, (29, 19), "float16")
    near(host(fanin.matmul(x[:, 1:], w[1:])), x64[:, 1:] @ w64[1:], "float16")


@emulated
def test_cublas_is_missing(monkeypatch, rng):
    """ImportError says so, and all else goes on."""
    x, x64 = pair(rng, (3, 3), "float32")
    monkeypatch.setenv("FANIN_EMULATED_CUBLAS", "missing")
    with pytest.raises(ImportError, match="cuBLAS is missing"):
        fanin.cuda.cublas()
    with pytest.raises(ImportError, match="cuBLAS is missing"):
        fanin.matmul(x, x)
    near(host(fanin.activation_forward(x, "relu")), np.maximum(x64, 0), "float32")
    monkeypatch.delenv("FANIN_EMULATED_CUBLAS")
    near(host(fanin.matmul(x, x)), x64 @ x64, "float32")


@pytest.fixture(scope="module")
def cublas_folders(tmp_path_factory):
    """By version of CUDA: a folder with a library of that name and version, and no more in it."""
    names = ["MatmulDescCreate", "MatmulDescDestroy", "MatmulDescSetAttribute", "Create", "Matmul",
             "MatrixLayoutCreate", "MatrixLayoutDestroy", "MatmulPreferenceCreate",
             "MatmulPreferenceDestroy", "MatmulPreferenceSetAttribute", "MatmulAlgoGetHeuristic",
             "GetStatusString"]  # fmt: skip
    folders = {}
    for version in (12, 13):
        folders[version] = folder = tmp_path_factory.mktemp(f"cuda{version}")
        source, name = folder / "cublas.c", f"libcublasLt.so.{version}"
        source.write_text(
            "".join(f"int cublasLt{name}(void) {{ return 15; }}\n" for name in names)
            + f"unsigned long cublasLtGetVersion(void) {{ return {version}0000; }}\n"
        )
        command = [c_compiler(), "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name]
        subprocess.run([*command, source], check=True)
    return folders


CUBLAS = """
import ctypes, sys
from fanin import _cuda
loaded, driver, folders = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
if loaded:
    ctypes.CDLL(loaded)
try:
    print(_cuda.load_cublas(driver, folders)[1])
except ImportError as error:
    print(error)
"""


@built
@pytest.mark.parametrize(
    ("loaded", "driver", "there", "found"),
    [
        (None, 13000, (12, 13), "120000"),  # the first folder has one that will do
        (None, 13000, (13, 12), "130000"),
        (None, 12040, (13, 12), "120000"),
        (None, 12090, (12,), "120000"),
        (None, 0, (13,), "130000"),
        (12, 13020, (13,), "120000"),  # what PyTorch has loaded
        (13, 12040, (12,), "120000"),
        (None, 12040, (13,), "the NVIDIA driver runs CUDA 12.4 and nothing newer, so not {13}/lib"),
        (None, 12040, (13,), "pip install nvidia-cublas-cu12"),
        (None, 13000, (), "the NVIDIA driver runs CUDA 13.0 and nothing newer, tried"),
        (None, 11080, (12,), "and fanin knows none so old: update the driver"),
    ],
)
def test_cublas_that_the_driver_runs(loaded, driver, there, found, cublas_folders, tmp_path):
    """None of a newer major version; the error says what the driver runs and what was there."""
    folders = [str(cublas_folders[version]) for version in there] or [str(tmp_path)]
    first = str(cublas_folders[loaded] / f"libcublasLt.so.{loaded}") if loaded else ""
    text = run(CUBLAS, first, str(driver), *folders)
    where = {str(version): folder for version, folder in cublas_folders.items()}
    assert re.sub(r"\{(\d+)\}", lambda m: str(where[m[1]]), found) in text


@emulated
def test_out_of_memory():
    """A MemoryError, and the next call that has room works."""
    program = """
import numpy as np, fanin, device_arrays
x = device_arrays.asarray(np.ones((512, 512), np.float32))
for activation in ("tanh", "gelu"):
    try:
        for _ in range(60):
            kept = fanin.dense_forward(x, x, activation=activation), locals().get("kept")
    except MemoryError as error:
        print("out of memory" in str(error))
    kept = None
    print(float(device_arrays.asnumpy(fanin.matmul(x, x))[0, 0]))
"""
    text = run(program, FANIN_EMULATED_MEMORY=str(64 << 20))
    assert text == "True\n512.0\n" * 2


# ---- the operations ----------------------------------------------------------------------------


@on_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dense(activation, dtype, rng):
    """Forward and backward, with dropout and statistics, as the reference in float64."""
    x, x64 = pair(rng, (37, 19), dtype)
    w = stored(rng.standard_normal((19, 33)) / np.sqrt(19), dtype)  # few z where f is flat
    w, w64 = asarray(w, dtype), wide(w)
    (b, b64), (da, da64) = pair(rng, (33,), dtype), pair(rng, (37, 33), dtype)
    options: dict[str, Any] = {"activation": activation, "dropout": 0.3, "key": (7, 8, 9)}
    a, cache = fanin.dense_forward(x, w, b, **options, stats=True)
    a64, cache64 = reference.dense_forward(x64, w64, b64, **options, stats=True)
    near(host(a), a64, dtype)
    for found, wanted in zip(fanin.dense_backward(da, cache),
                             reference.dense_backward(da64, cache64), strict=True):  # fmt: skip
        if dtype in WIDE or activation not in ("relu", "leaky_relu", "selu", "elu"):
            near(host(found), wanted, dtype)  # 16 bits move a z across the kink now and then
    assert cache.stats.unit_zeros.shape == (33,)
    assert abs(cache.stats.mean - cache64.stats.mean) <= LIMIT[dtype] * cache64.stats.std
    assert abs(cache.stats.std - cache64.stats.std) <= 2 * LIMIT[dtype] * cache64.stats.std


@on_device
def test_dense_histogram(rng):
    """Of the activations before dropout, which then are dropped as without a histogram."""
    (x, x64), (w, w64) = pair(rng, (50, 9), "float64"), pair(rng, (9, 20), "float64")
    a, cache = fanin.dense_forward(x, w, activation="tanh", dropout=0.5, key=(1, 2, 3), stats=8)
    plain, _ = fanin.dense_forward(x, w, activation="tanh", dropout=0.5, key=(1, 2, 3))
    assert asnumpy(a).tobytes() == asnumpy(plain).tobytes()
    assert cache.stats.histogram.sum() == 1000
    _, cache64 = reference.dense_forward(x64, w64, activation="tanh", stats=8)
    assert np.abs(cache.stats.histogram - cache64.stats.histogram).sum() <= 4  # at edges


@on_device
def test_broadcast_gradient(rng):
    """One element for all, as PyTorch's sum hands down."""
    (x, x64), (w, w64) = pair(rng, (33, 17), "float64"), pair(rng, (17, 9), "float64")
    _, cache = fanin.dense_forward(x, w, activation="gelu")
    _, cache64 = reference.dense_forward(x64, w64, activation="gelu")
    da = DeviceArray(asarray(np.ones(1)).memory, "float64", (33, 9), (0, 0))
    dx, dw, _ = fanin.dense_backward(da, cache)
    dx64, dw64, _ = reference.dense_backward(np.ones((33, 9)), cache64)
    near(host(dx), dx64, "float64")
    near(host(dw), dw64, "float64")


@on_device
def test_dense_out(rng):
    (x, x64), (w, w64) = pair(rng, (6, 5), "float32"), pair(rng, (5, 4), "float32")
    out, _ = pair(rng, (6, 8), "float32")
    a, cache = fanin.dense_forward(x, w, activation="tanh", out=out[:, 2:6])
    assert cache.a is a
    near(host(out)[:, 2:6], np.tanh(x64 @ w64), "float32")
    with pytest.raises(ValueError, match="out: expected contiguous rows"):
        fanin.dense_forward(x, w, out=asarray(np.ones((4, 6), np.float32)).T)
    with pytest.raises(ValueError, match="key: expected"):
        fanin.dense_forward(x, w, dropout=0.5)
    with pytest.raises(TypeError, match="cache: expected"):
        fanin.dense_backward(x, None)


@on_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 5), (0, 3)], ids=str)
def test_activation(dtype, shape, rng):
    for kind in ACTIVATIONS:
        (z, z64), (da, da64) = pair(rng, shape, dtype), pair(rng, shape, dtype)
        near(host(fanin.activation_forward(z, kind)), reference.activation_forward(z64, kind),
             dtype)  # fmt: skip
        saved, saved64 = z, z64
        if kind not in NEEDS_INPUT:
            saved = stored(reference.activation_forward(z64, kind), dtype)
            saved, saved64 = asarray(saved, dtype), wide(saved)
        dz = reference.activation_backward(da64, saved64, kind)
        near(host(fanin.activation_backward(da, saved, kind)), dz, dtype)
    z, z64 = pair(rng, (6, 8), dtype)
    near(host(fanin.activation_forward(z.T, "tanh")), np.tanh(z64.T), dtype)
    near(host(fanin.activation_forward(z[:, ::2], "tanh")), np.tanh(z64[:, ::2]), dtype)
    vector, vector64 = pair(rng, (9,), dtype)
    near(host(fanin.activation_forward(vector[::-2], "tanh")), np.tanh(vector64[::-2]), dtype)


@on_device
@pytest.mark.parametrize("shape", [5, (17,), (1, 1), (8, 16), (37, 53), (0, 4)], ids=str)
def test_dropout_mask(shape):
    """The CPU's bits."""
    for dropout in (0.0, 0.25, 0.999):
        key = (2**64 - 1, 2**44 - 1, 2**16 - 1)
        mask = fanin.cuda.dropout_mask(shape, dropout, key, like=asarray(X))
        wanted = reference.dropout_mask(shape, dropout, key)
        assert asnumpy(mask).dtype == np.bool_
        assert np.array_equal(asnumpy(mask), wanted)
    with pytest.raises(TypeError, match=r"like: expected .* on a CUDA device"):
        fanin.cuda.dropout_mask(5, 0.5, (1, 2, 3), like=X)


@on_device
@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(dtype, training, rng):
    given = [pair(rng, shape, dtype) for shape in [(40, 11)] + [(11,)] * 4]
    given[4] = asarray(np.abs(asnumpy(given[4][0]))), np.abs(given[4][1])
    y, cache = fanin.batch_norm_forward(*(x for x, _ in given), training=training)
    running = [x.copy() for _, x in given]
    y64, cache64 = reference.batch_norm_forward(*running, training=training)
    near(host(y), y64, dtype)
    for (vector, _), wanted in zip(given[3:], running[3:], strict=True):
        near(host(vector), wanted, dtype)
    dy, dy64 = pair(rng, (40, 11), dtype)
    gradients64 = reference.batch_norm_backward(dy64, cache64)
    for found, wanted in zip(fanin.batch_norm_backward(dy, cache), gradients64, strict=True):
        near(host(found), wanted, dtype)


@on_device
def test_batch_norm_refuses(rng):
    x, _ = pair(rng, (4, 3), "float32")
    v = [pair(rng, (3,), "float32")[0] for _ in range(4)]
    frozen = DeviceArray(v[2].memory, "float32", (3,), (1,), read_only=True)
    refusals = [
        ("x: expected a 2-D array of float32 or float64, got bfloat16",
         (pair(rng, (4, 3), "bfloat16")[0], *v)),
        ("gamma: expected shape", (x, pair(rng, (4,), "float32")[0], *v[1:])),
        ("running_mean: expected a writeable", (x, *v[:2], frozen, v[3])),
        ("running_mean: expected memory apart from beta", (x, v[0], v[1], v[1], v[3])),
        ("x: batch normalisation needs at least 2 rows", (x[:1], *v)),
    ]  # fmt: skip
    for message, arrays in refusals:
        with pytest.raises((TypeError, ValueError), match=message):
            fanin.batch_norm_forward(*arrays, training=True)


@on_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("labels", ["int64", "int32", "uint8", "probabilities"])
def test_softmax_cross_entropy(dtype, labels, rng):
    z, z64 = pair(rng, (29, 7), dtype)
    if labels == "probabilities":
        q = rng.random((29, 7))
        q = stored(q / q.sum(axis=1, keepdims=True), dtype)
        y, y64 = asarray(q, dtype), wide(q)
        y64 = y64 / y64.sum(axis=1, keepdims=True) if dtype in WIDE else y64
        near(wide(q), y64, dtype)
    else:
        numbers = rng.integers(0, 7, 29)
        y, y64 = asarray(numbers.astype(labels)), numbers
    weights = stored(rng.random(29), dtype)
    for options, options64 in (
        ({}, {}),
        ({"label_smoothing": 0.1}, {"label_smoothing": 0.1}),
        ({"sample_weight": asarray(weights, dtype), "class_weight": {2: 0.5, 3: 2.0}},
         {"sample_weight": wide(weights), "class_weight": {2: 0.5, 3: 2.0}}),
    ):  # fmt: skip
        if labels == "probabilities" and dtype not in WIDE:
            continue  # their rows have no sum of 1 to the reference's 1e-3
        loss, dz = fanin.softmax_cross_entropy(z, y, **options)
        loss64, dz64 = reference.softmax_cross_entropy(z64, y64, **options64)
        assert (loss.shape, loss.dtype) == ((), "float64")
        near(asnumpy(loss), np.array(loss64), dtype)
        near(host(dz), dz64, dtype)


@on_device
def test_labels_that_are_no_class(rng):
    """Every other one of a vector; a label out of range has loss and gradient 0, and counts."""
    z, z64 = pair(rng, (33, 9), "float64")
    y = np.arange(33) % 9
    loss, dz = fanin.softmax_cross_entropy(z, asarray(np.repeat(y, 2))[::2])
    loss64, dz64 = reference.softmax_cross_entropy(z64, y)
    near(asnumpy(loss), np.array(loss64), "float64")
    near(host(dz), dz64, "float64")
    y[[5, 7]] = 77, -1
    loss, dz = fanin.softmax_cross_entropy(z, asarray(y))
    rest = np.delete(np.arange(33), [5, 7])
    loss64, dz64 = reference.softmax_cross_entropy(z64[rest], y[rest])
    near(asnumpy(loss), np.array(loss64 * 31 / 33), "float64")
    near(host(dz)[rest], dz64 * 31 / 33, "float64")
    assert not host(dz)[[5, 7]].any()


@on_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(23,), (23, 1), (23, 6)], ids=str)
def test_elementwise_losses(dtype, shape, rng):
    z, z64 = pair(rng, shape, dtype)
    t = stored(rng.random(shape), dtype)
    weights = stored(rng.random(23), dtype)
    for options, options64 in (
        ({}, {}),
        ({"sample_weight": asarray(weights, dtype)}, {"sample_weight": wide(weights)}),
    ):
        for name in ("sigmoid_cross_entropy", "mean_squared_error"):
            loss, dz = getattr(fanin, name)(z, asarray(t, dtype), **options)
            loss64, dz64 = getattr(reference, name)(z64, wide(t), **options64)
            near(asnumpy(loss), np.array(loss64), dtype)
            near(host(dz), dz64, dtype)


@on_device
def test_losses_refuse(rng):
    z, _ = pair(rng, (5, 3), "float32")
    weight = asarray(np.array([1, 1, -1, 1, 1], np.float32))
    good = asarray(np.zeros(5, np.int64))
    refusals = [
        ("labels: expected shape \\(5,\\), one class number per row, got \\(4,\\)",
         (z, asarray(np.zeros(4, np.int64))), {}),
        ("labels: expected .* on CUDA device 0 like z", (z, np.zeros(5, np.int64)), {}),
        ("sample_weight: expected finite weights >= 0, got -1.0 at index 2", (z, good),
         {"sample_weight": weight}),
        ("label_smoothing: expected a number in \\[0, 1\\]", (z, good), {"label_smoothing": 2.0}),
        ("labels: expected class numbers from 0 to 2, got 9 in row 1",
         (z, asarray(np.array([0, 9, 0, 0, 0]))), {"class_weight": [1, 2, 3]}),
        ("z: expected at least one row", (z[:0], good[:0]), {}),
    ]  # fmt: skip
    for message, arrays, options in refusals:
        with pytest.raises((TypeError, ValueError), match=message):
            fanin.softmax_cross_entropy(*arrays, **options)


@on_device
@pytest.mark.parametrize("dtype", DTYPES)
def test_activation_stats(dtype, rng):
    a, a64 = pair(rng, (70, 9), dtype)
    found = fanin.activation_stats(a[:, ::2], bins=6, range=(-1.0, 1.5))
    wanted = reference.activation_stats(a64[:, ::2], bins=6, range=(-1.0, 1.5))
    assert np.array_equal(found.histogram, wanted.histogram)
    assert np.array_equal(found.unit_zeros, wanted.unit_zeros)
    assert (found.min, found.max, found.rows) == (wanted.min, wanted.max, wanted.rows)
    # moments of types of two bytes are float32's
    near(found.unit_mean, wanted.unit_mean, "float64" if dtype == "float64" else "float32")
    assert abs(found.std - wanted.std) <= 1e-5 * wanted.std
    one, one64 = pair(rng, (30,), dtype)
    assert fanin.activation_stats(one).max == one64.max()
    broken = wide(stored(np.array([[1.0, np.nan], [np.inf, 3.0]]), dtype))
    there = asarray(stored(broken, dtype), dtype)
    assert fanin.activation_stats(there, bins=2).histogram.tolist() == [1, 1]


OPTIMIZERS = {
    "SGD": {"lr": 0.1},
    "momentum": {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    "RMSprop": {"lr": 0.01},
    "Adam": {"lr": 0.01, "clip_norm": 0.5},
    "AdamW": {"lr": 0.01, "weight_decay": 0.1, "clip_value": 0.2},
}


@on_device
@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name, dtype, rng):
    """Three updates as the reference's in float64; the state is on the device."""
    kind = "SGD" if name == "momentum" else name
    ours = getattr(fanin, kind)(**OPTIMIZERS[name])
    theirs = getattr(reference, kind)(**OPTIMIZERS[name])
    p, p64 = pair(rng, (1000,), dtype)
    mask = rng.random(1000) < 0.5
    for _ in range(3):
        g, g64 = pair(rng, (1000,), dtype)
        if kind == "AdamW":
            ours.update(p, g, decay_mask=asarray(np.repeat(mask, 3))[::3])
            theirs.update(p64, g64, decay_mask=mask)
        else:
            ours.update(p, g)
            theirs.update(p64, g64)
    near(host(p), p64, dtype)
    for moment, wanted in theirs.state.items():
        assert type(ours.state[moment]) is DeviceArray
        near(host(ours.state[moment]), wanted, dtype)
    assert ours.steps == 3
    ours.state = {}


@on_device
def test_optimizers_refuse(rng):
    p, _ = pair(rng, (6,), "float32")
    g, _ = pair(rng, (6,), "float32")
    half, _ = pair(rng, (6,), "bfloat16")
    refusals = [
        ("parameters: expected a 1-D array of float32 or float64, got bfloat16", (half, half)),
        ("gradients: expected shape \\(6,\\) to match parameters, got \\(5,\\)", (p, g[:5])),
        ("gradients: expected memory apart from parameters", (p, p)),
        ("gradients: expected an array on CUDA device 0", (p, np.ones(6, np.float32))),
        ("parameters: expected a contiguous array", (p[::2], g[::2])),
    ]
    for message, arrays in refusals:
        with pytest.raises((TypeError, ValueError), match=message):
            fanin.Adam().update(*arrays)
    adamw = fanin.AdamW()
    with pytest.raises(TypeError, match="decay_mask: expected an array on CUDA device 0"):
        adamw.update(p, g, decay_mask=np.ones(6, bool))
    adamw.update(p, g)
    with pytest.raises(ValueError, match="parameters: expected 6 of float32 as in the first"):
        adamw.update(p[:5], g[:5])
    used = fanin.SGD(0.1, momentum=0.5)
    used.update(np.ones(6, np.float32), np.ones(6, np.float32))
    with pytest.raises(TypeError, match=r"optimizer's state: .* on the host"):
        used.update(p, g)
    adamw.state = {}
