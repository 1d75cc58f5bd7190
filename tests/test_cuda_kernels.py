"""Dense layers, activations, dropout, statistics and random bits of fanin._cuda.

Each function is run as the table has it, on arrays made here, and compared with the reference in
float64 (random bits: with the CPU's). Inputs are rounded to the type under test before the
reference sees them; outputs are NaN, or all bits set, before each call.

`unit` is the largest relative error of one rounding to a type, `wide` that of the type it is
computed in (float for types of two bytes). The elementary functions cost at most 8 units of what
they are computed in (CUDA C++ Programming Guide, mathematical functions: normcdf 5, others less);
those of two-byte types are made of the hardware's exponential and cost at most 1e-6 (math.cuh).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import device_arrays
import fanin
from cases import ACTIVATIONS, DROPOUTS, NEEDS_INPUT
from compare import hash_of, same_bits, within
from fanin import reference
from fanin.reference.dropout import dropout_scale, dropout_threshold
from fanin.reference.gemm import round_to_bfloat16
from fanin.reference.stats import saturation_bounds

_cuda = pytest.importorskip("fanin._cuda", reason="fanin was built without FANIN_CUDA")
if not _cuda.emulated and _cuda.available() is not None:
    pytest.skip(f"no GPU: {_cuda.available()}", allow_module_level=True)

TYPES = ("float32", "float64", "bfloat16", "float16")
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53, "bfloat16": 2.0**-8, "float16": 2.0**-11}
SMALLEST = {"float32": 2.0**-149, "float64": 2.0**-1074, "bfloat16": 2.0**-133, "float16": 2.0**-24}
WIDE = {"float32": 2.0**-24, "float64": 2.0**-53, "bfloat16": 2.0**-24, "float16": 2.0**-24}
FUNCTION = {"float32": 8 * 2.0**-24, "float64": 8 * 2.0**-53, "bfloat16": 1e-6, "float16": 1e-6}
SEED, STEP, LAYER = 2**63 + 12345, 2**33 + 7, 5

# Around the edges of a tile (64 rows by 8, 16 or 32 packs of 2, 4 or 8 columns), of a pack (rows
# that do and do not begin at 16 bytes) and of a word of the mask.
SHAPES = ((1, 1), (3, 16), (8, 15), (63, 31), (64, 32), (65, 64), (129, 33), (40, 136), (70, 520))


@pytest.fixture(params=TYPES)
def dtype(request) -> str:
    return request.param


def rounded(x, dtype: str) -> np.ndarray:
    """x as this type holds it, in float64."""
    if dtype == "bfloat16":
        return round_to_bfloat16(np.asarray(x, np.float32)).astype(np.float64)
    with np.errstate(over="ignore"):
        return np.asarray(x).astype(dtype).astype(np.float64)


def upload(x, dtype: str):
    """An array of the device with these values."""
    x = np.asarray(x)
    array = _cuda.empty(list(x.shape), dtype, 0, 0)
    if dtype == "bfloat16":
        host = (round_to_bfloat16(x.astype(np.float32)).view(np.uint32) >> 16).astype(np.uint16)
    else:
        with np.errstate(over="ignore"):
            host = x.astype(dtype)
    _cuda.upload(np.ascontiguousarray(host), array, 0)
    return array


def download(array) -> np.ndarray:
    """The values; of floats in float64."""
    host = np.empty(array.shape, "uint16" if array.dtype == "bfloat16" else array.dtype)
    _cuda.download(array, host, 0)
    if array.dtype == "bfloat16":
        host = (host.astype(np.uint32) << 16).view(np.float32)
    return host.astype(np.float64) if host.dtype.kind == "f" else host


def poisoned(shape, dtype: str):
    """Room for a result: NaN, or words of a mask with all bits set."""
    return upload(np.full(shape, -1 if dtype == "int16" else np.nan), dtype)


def mask_of(shape, threshold: int) -> np.ndarray:
    """True where the CPU keeps an element."""
    return fanin._core.dropout_mask(*shape, (threshold, SEED, STEP, LAYER))


def unpacked(words: np.ndarray, cols: int) -> np.ndarray:
    words = words.view(np.uint16).reshape(-1, (cols + 15) // 16, 1)
    bits = words >> np.arange(16, dtype=np.uint16) & 1
    return bits.reshape(len(words), -1)[:, :cols].astype(bool)


def mask_words(shape) -> tuple[int, int]:
    return shape[0], (shape[1] + 15) // 16


def empty_mask(shape):
    return poisoned(np.prod(mask_words(shape)), "int16")


def forward_bound(z: np.ndarray, h: np.ndarray, scale: float, dtype: str) -> np.ndarray:
    """How far a may be from scale h, h = f(z), when z is exact.

    One rounding to the type, the function's own error, the rounding of what sigmoid or Phi are
    given (at most |z| |u'(z)| < 12 |z| for gelu_tanh at |z| <= 6, times 4 units), and in types of
    two bytes an absolute error of Phi times |z|.
    """
    relative = UNIT[dtype] + FUNCTION[dtype] + (4 * 12 * np.abs(z) + 4) * WIDE[dtype]
    absolute = FUNCTION[dtype] * np.abs(z) if dtype in ("bfloat16", "float16") else 0
    return scale * (relative * np.abs(h) + absolute) + SMALLEST[dtype]


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES[:6], ids="{0[0]}x{0[1]}".format)
def test_activation_forward(rng, kind, shape, dtype):
    z = rounded(np.clip(rng.standard_normal(shape) * 2, -6, 6), dtype)
    a = poisoned(shape, dtype)
    _cuda.activation_forward(upload(z, dtype), a, ACTIVATIONS.index(kind), (0, 0, 0, 0), None, 0)
    h = reference.activation_forward(z, kind)
    within(download(a), h, forward_bound(z, h, 1, dtype))


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activation_of_extreme_values(kind, dtype):
    """Infinities give limits, NaN gives NaN, forward and backward; nothing overflows."""
    z = rounded([[np.nan, np.inf, -np.inf, 0, -0.0, 1e4, -1e4, 60, -60, 1e-3, -1e-3]], dtype)
    a = poisoned(z.shape, dtype)
    _cuda.activation_forward(upload(z, dtype), a, ACTIVATIONS.index(kind), (0, 0, 0, 0), None, 0)
    h = reference.activation_forward(z, kind)
    got = download(a)
    within(got, rounded(h, dtype), forward_bound(np.clip(z, -6, 6), h, 1, dtype))
    saved = z if kind in NEEDS_INPUT else rounded(h, dtype)
    dz = poisoned(z.shape, dtype)
    da = np.full(z.shape, 0.5)
    _cuda.activation_backward(
        upload(da, dtype), upload(saved, dtype), dz, None, ACTIVATIONS.index(kind), (0, 0, 0, 0),
        None, 0,
    )  # fmt: skip
    expected = reference.activation_backward(da, saved, kind)
    within(download(dz), expected, 2 * UNIT[dtype] * np.abs(expected) + 64 * FUNCTION[dtype])


@pytest.mark.parametrize("kind", ["relu", "tanh", "gelu"])
def test_activation_in_place(rng, kind, dtype):
    z = rounded(rng.standard_normal((66, 40)), dtype)
    apart, same = poisoned(z.shape, dtype), upload(z, dtype)
    key = (dropout_threshold(0.3), SEED, STEP, LAYER)
    for source, target in ((upload(z, dtype), apart), (same, same)):
        mask = empty_mask(z.shape)
        _cuda.activation_forward(source, target, ACTIVATIONS.index(kind), key, mask, 0)
    same_bits(download(same), download(apart))


@pytest.mark.parametrize("dropout", DROPOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids="{0[0]}x{0[1]}".format)
def test_dropout_and_its_mask(rng, shape, dropout, dtype):
    """The mask is the CPU's, bit for bit, behind the last column too; kept elements are scaled."""
    z = rounded(rng.uniform(0.5, 2, shape), dtype)
    threshold = dropout_threshold(dropout)
    a, mask = poisoned(shape, dtype), empty_mask(shape)
    _cuda.activation_forward(
        upload(z, dtype), a, ACTIVATIONS.index("identity"), (threshold, SEED, STEP, LAYER),
        mask if threshold else None, 0,
    )  # fmt: skip
    scale = dropout_scale(dropout)
    if threshold:
        whole = (shape[0], mask_words(shape)[1] * 16)
        same_bits(unpacked(download(mask), whole[1]), mask_of(whole, threshold))
    kept = mask_of(shape, threshold) if threshold else np.ones(shape, bool)
    # scale is rounded, and the product is
    bound = 2 * (UNIT[dtype] + WIDE[dtype]) * scale * z
    within(download(a), np.where(kept, z * scale, 0), np.where(kept, bound, 0))


@pytest.mark.parametrize("dropout", [0.1, 0.5, 1.0])
def test_dropout_mask(dropout):
    for shape in ((1, 1), (9, 33), (64, 16), (17, 300)):
        threshold = min(dropout_threshold(dropout), 65535)
        kept = _cuda.empty(list(shape), "bool", 0, 0)
        _cuda.dropout_mask((threshold, SEED, STEP, LAYER), kept, 0)
        same_bits(download(kept), mask_of(shape, threshold))


@pytest.mark.parametrize("start", [0, 1, 2**33 + 1])
def test_random_words(start):
    for count in (1, 2, 511, 1000):
        words = _cuda.empty([count], "uint64", 0, 0)
        _cuda.random_words(SEED, STEP, LAYER, 2, words, start, 0)
        same_bits(download(words), fanin._core.random_words(SEED, STEP, LAYER, 2, count, start))


def backward(da, saved, kind, dtype, dropout=0.0, mask=None, with_db=True):
    """dz and db of the module."""
    dz, db = poisoned(da.shape, dtype), poisoned(da.shape[1:], dtype)
    _cuda.activation_backward(
        upload(da, dtype), upload(saved, dtype), dz, db if with_db else None,
        ACTIVATIONS.index(kind), (dropout_threshold(dropout), SEED, STEP, LAYER),
        None if mask is None else upload(mask.view(np.int16).ravel(), "int16"), 0,
    )  # fmt: skip
    return download(dz), download(db)


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_activation_backward(rng, kind, dropout, dtype):
    """dz = da mask scale f', and its column sums in the same pass."""
    for shape in SHAPES:
        z = rounded(np.clip(rng.standard_normal(shape) * 2, -6, 6), dtype)
        da = rounded(rng.standard_normal(shape), dtype)
        threshold, scale = dropout_threshold(dropout), dropout_scale(dropout)
        kept = mask_of(shape, threshold) if threshold else np.ones(shape, bool)
        mask = None
        if threshold:
            whole = np.zeros((shape[0], mask_words(shape)[1] * 16), np.uint16)
            whole[:, : shape[1]] = kept
            weights = np.uint16(1) << np.arange(16, dtype=np.uint16)
            mask = (whole.reshape(*mask_words(shape), 16) * weights).sum(axis=2, dtype=np.uint16)
        h = reference.activation_forward(z, kind)
        saved = z if kind in NEEDS_INPUT else rounded(np.where(kept, h * scale, 0), dtype)
        dz, db = backward(da, saved, kind, dtype, dropout, mask)
        output = saved if kind in NEEDS_INPUT else saved / scale
        expected = np.where(kept, reference.activation_backward(da * scale, output, kind), 0)
        # one rounding to the type; derivatives are sums of terms up to 12 |z| (see forward_bound),
        # each of a few roundings and a function; that of a / scale cancels against 1 at most
        slope = (16 + 48 * np.abs(z)) * WIDE[dtype] + 16 * FUNCTION[dtype]
        bound = UNIT[dtype] * np.abs(expected) + slope * np.abs(da) * scale + SMALLEST[dtype]
        within(dz, expected, bound)
        # sums of dz before it is rounded: log2 chains of at most rows / 64 + 24 additions
        terms = shape[0] / 64 + 24
        total = np.abs(expected).sum(axis=0)
        within(
            db, expected.sum(axis=0),
            (terms * WIDE[dtype] + UNIT[dtype]) * total + (slope * np.abs(da) * scale).sum(axis=0)
            + SMALLEST[dtype],
        )  # fmt: skip


@pytest.mark.parametrize("gap", [16, 5])
def test_rows_with_something_between(rng, gap, dtype):
    """Rows of wider matrices: with gaps that keep them at multiples of 16 bytes, and that do not.

    What lies between the rows is not finite, and would be seen in the sums.
    """
    shape = (66, 48)

    def laid_out(x):
        whole = upload(np.pad(x, ((0, 0), (0, gap)), constant_values=np.nan), dtype)
        view = device_arrays.from_dlpack(whole)[:, : shape[1]]
        return _cuda.from_dlpack(view, "x", 0)

    z, da = (rounded(rng.standard_normal(shape), dtype) for _ in range(2))
    outputs = [poisoned(shape, dtype) for _ in range(4)]
    sums = [poisoned(shape[1:], dtype) for _ in range(3)]
    none, kind = (0, 0, 0, 0), ACTIVATIONS.index("silu")
    for i, put in enumerate((lambda x: upload(x, dtype), laid_out)):
        _cuda.activation_forward(put(z), outputs[i], kind, none, None, 0)
        _cuda.activation_backward(put(da), put(z), outputs[i + 2], sums[i], kind, none, None, 0)
    same_bits(download(outputs[1]), download(outputs[0]))
    same_bits(download(outputs[3]), download(outputs[2]))
    same_bits(download(sums[1]), download(sums[0]))
    _cuda.column_sums(laid_out(da), sums[2], 0)
    check_sums(download(sums[2]), da, dtype)


def check_sums(got, x, dtype) -> None:
    """A column is a chain of at most rows / 64 + 64 additions, and a rounding."""
    size = np.abs(x).sum(axis=0)
    bound = ((len(x) / 64 + 64) * WIDE[dtype] + UNIT[dtype]) * size + SMALLEST[dtype]
    within(got, x.sum(axis=0), bound)


@pytest.mark.parametrize("shape", [*SHAPES, (17000, 3)], ids="{0[0]}x{0[1]}".format)
def test_column_sums(rng, shape, dtype):
    x = rounded(rng.standard_normal(shape), dtype)
    sums = poisoned(shape[1:], dtype)
    _cuda.column_sums(upload(x, dtype), sums, 0)
    check_sums(download(sums), x, dtype)
    # and by way of the sums of blocks of rows
    check_sums(backward(x, x, "identity", dtype)[1], x, dtype)


@pytest.mark.parametrize("kind", ["identity", "tanh", "silu"])
def test_dense_backward(rng, kind, dtype):
    """da = dz w^T, then as activation_backward: the bound of the product goes through f'."""
    for m, k, n in ((1, 5, 3), (65, 33, 20), (130, 72, 7)):
        dz = rounded(rng.standard_normal((m, n)), dtype)
        w = rounded(rng.standard_normal((k, n)) / np.sqrt(n), dtype)
        z = rounded(np.clip(rng.standard_normal((m, k)) * 2, -6, 6), dtype)
        saved = z if kind in NEEDS_INPUT else rounded(reference.activation_forward(z, kind), dtype)
        below, db = poisoned((m, k), dtype), poisoned((k,), dtype)
        _cuda.dense_backward(
            upload(dz, dtype), upload(w, dtype), upload(saved, dtype), below, db,
            ACTIVATIONS.index(kind), (0, 0, 0, 0), None, 0,
        )  # fmt: skip
        slope = np.ones_like(saved)
        slope = reference.activation_backward(slope, saved, kind)
        expected = dz @ w.T * slope
        # the product is summed in `wide` and rounded; f' of these is at most 1.1 and as accurate
        # as in test_activation_backward
        size = np.abs(dz) @ np.abs(w).T
        bound = (1.1 * ((n + 1) * WIDE[dtype] + UNIT[dtype]) + 16 * FUNCTION[dtype]) * size
        bound += (16 + 48 * np.abs(z)) * WIDE[dtype] * size + UNIT[dtype] * np.abs(expected)
        bound += SMALLEST[dtype]
        within(download(below), expected, bound)
        sums = (24 + m / 64) * WIDE[dtype] + UNIT[dtype]
        total = np.abs(expected).sum(axis=0)
        within(download(db), expected.sum(axis=0), bound.sum(axis=0) + sums * total)


def dense(x, w, b, kind, dtype, dropout, with_stats, keep_z):
    shape = (x.shape[0], w.shape[1])
    threshold = dropout_threshold(dropout)
    a = poisoned(shape, dtype)
    z = poisoned((shape[0] * shape[1],), dtype) if keep_z else None
    mask = empty_mask(shape) if threshold else None
    stats = _cuda.dense_forward(
        upload(x, dtype), upload(w, dtype), None if b is None else upload(b, dtype), a, z,
        ACTIVATIONS.index(kind), (threshold, SEED, STEP, LAYER), mask, with_stats, 0,
    )  # fmt: skip
    return download(a), None if z is None else download(z).reshape(shape), stats


@pytest.mark.parametrize("kind", ["identity", "relu", "tanh", "gelu", "selu"])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("bias", [False, True], ids=("plain", "bias"))
def test_dense_forward(rng, kind, dropout, bias, dtype):
    """a, the z that is kept and the statistics, of h before dropout."""
    for m, k, n in ((1, 3, 5), (65, 20, 33), (130, 7, 72), (64, 31, 129)):
        x = rounded(rng.standard_normal((m, k)), dtype)
        w = rounded(rng.standard_normal((k, n)) / np.sqrt(k), dtype)
        b = rounded(rng.standard_normal(n), dtype) if bias else None
        a, z, stats = dense(x, w, b, kind, dtype, dropout, True, True)
        exact = x @ w + (0 if b is None else b)
        # the product is summed in `wide` and rounded to the type, then the bias is added
        size = np.abs(x) @ np.abs(w) + (0 if b is None else np.abs(b))
        z_bound = ((k + 2) * WIDE[dtype] + 2 * UNIT[dtype]) * size
        within(z, exact, z_bound)
        h = reference.activation_forward(exact, kind)
        threshold, scale = dropout_threshold(dropout), dropout_scale(dropout)
        kept = mask_of((m, n), threshold) if threshold else np.ones((m, n), bool)
        # no activation is steeper than selu's 1.76
        bound = forward_bound(exact, h, scale, dtype) + scale * 1.76 * z_bound
        bound += 2 * UNIT[dtype] * scale * np.abs(h)
        within(a, np.where(kept, h * scale, 0), np.where(kept, bound, 0))
        mean, std, low, high, _, _, unit_mean, unit_zeros = stats
        off = bound.max()  # a mean is off by no more than its values, and so is the deviation
        within(mean, h.mean(), off)
        within(std, h.std(), off)
        within(low, h.min(), off)
        within(high, h.max(), off)
        within(unit_mean, h.mean(axis=0), off)
        if kind == "relu":
            sure = np.abs(exact) > z_bound
            assert ((h == 0) & sure).sum(axis=0).tolist() <= unit_zeros.tolist()
            assert (unit_zeros <= ((h == 0) | ~sure).sum(axis=0)).all()


def test_dense_forward_without_statistics_is_the_same(rng, dtype):
    x, w, b = (rounded(rng.standard_normal(s), dtype) for s in ((70, 9), (9, 50), (50,)))
    with_all, _, stats = dense(x, w, b, "silu", dtype, 0.5, True, True)
    alone, _, none = dense(x, w, b, "silu", dtype, 0.5, False, False)
    assert stats is not None and none is None
    same_bits(alone, with_all)


STATS_CASES = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "far from zero": lambda rng, shape: 1000 + rng.standard_normal(shape),
    "tiny": lambda rng, shape: 1e-6 * rng.standard_normal(shape),
    "zeros": lambda rng, shape: np.maximum(rng.standard_normal(shape), 0),
    "all zero": lambda rng, shape: np.zeros(shape),
    "constant": lambda rng, shape: np.full(shape, 0.75),
}


@pytest.mark.parametrize("case", STATS_CASES)
@pytest.mark.parametrize("shape", [*SHAPES[:7], (1100, 40)], ids="{0[0]}x{0[1]}".format)
def test_stats(rng, case, shape, dtype):
    a = rounded(STATS_CASES[case](rng, shape), dtype)
    low, high = rounded(saturation_bounds("tanh"), dtype).tolist()
    mean, std, least, most, zeros, saturated, unit_mean, unit_zeros = _cuda.stats(
        upload(a, dtype), low, high, 0
    )
    # sums in double; moments of 64 rows are kept as two numbers of `wide` for the mean, with at
    # least 2 * 24 digits, and one for the spread
    unit = 2.0**-45
    size = np.abs(a).max()
    within(mean, a.mean(), unit * size)
    within(unit_mean, a.mean(axis=0), unit * size)
    within(std, a.std(), 2 * WIDE[dtype] * a.std() + unit * size)
    assert (least, most) == (a.min(), a.max())
    assert zeros == (a == 0).sum()
    assert saturated == ((a < low) | (a > high)).sum()
    assert unit_zeros.tolist() == (a == 0).sum(axis=0).tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_stats_with_something_not_finite(rng, value, dtype):
    a = rounded(rng.standard_normal((130, 20)), dtype)
    a[100, 7] = value
    mean, std, least, most, *_ = _cuda.stats(upload(a, dtype), -1.0, 1.0, 0)
    within([mean, std], [a.mean(), np.nan], 0)
    within([least, most], [a.min(), a.max()], 0)


def results(seed: int) -> str:
    """What some calls give, as a hash: for the next two tests."""
    rng = np.random.default_rng(seed)
    hashes = []
    for dtype in TYPES:
        x, w, b = (rounded(rng.standard_normal(s), dtype) for s in ((150, 9), (9, 70), (70,)))
        a, z, stats = dense(x, w, b, "gelu", dtype, 0.5, True, True)
        dz, db = backward(a, z, "gelu", dtype)
        hashes.append(hash_of(a, z, dz, db, *map(np.asarray, stats)))
    return " ".join(hashes)


def test_same_bits_again():
    assert results(3) == results(3)


emulated = pytest.mark.skipif(
    not _cuda.emulated, reason="a GPU's threads run in no order that can be set"
)


@emulated
@pytest.mark.parametrize("order", ["backward", "random:1", "random:2"])
def test_order_of_threads_does_not_matter(order):
    """With the emulator's threads in another order: what lacks a barrier would differ."""
    program = "import test_cuda_kernels; print(test_cuda_kernels.results(4))"
    here = Path(__file__).parent
    paths = os.pathsep.join([str(Path(fanin.__file__).parents[1]), str(here)])
    environment = {**os.environ, "PYTHONPATH": paths, "FANIN_EMULATED_ORDER": order}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == results(4)


# The first warp writes what the others read, eight times over, with three meetings of the warp's
# lanes in between. The second barrier keeps it from writing before all have read.
BARRIERS = """
#include "cuda_runtime.h"

template <bool both>
void kernel(int* right) {
  __shared__ int number;
  for (int i = 0; i < 8; ++i) {
    if (threadIdx.x < 32) {
      for (int j = 0; j < 3; ++j) {
        __syncwarp();
      }
      number = i;
    }
    __syncthreads();
    __syncwarp();
    right[blockIdx.x * 128 + threadIdx.x] += number == i;
    if (both) {
      __syncthreads();
    }
  }
}

int main() {
  for (auto* run : {kernel<true>, kernel<false>}) {
    int right[256] = {}, sum = 0;
    emulated::launch(run, 2, 128, 0, nullptr, right);
    for (const int n : right) {
      sum += n;
    }
    std::printf("%d ", sum);
  }
}
"""


@emulated
def test_emulator_finds_missing_barriers(tmp_path):
    """In random order alone, where the first warp is far ahead; what has its barriers is right."""
    source, program = tmp_path / "barriers.cpp", tmp_path / "barriers"
    source.write_text(BARRIERS)
    headers = Path(__file__).parents[1] / "cpp" / "cuda" / "emulated"
    compiler = shutil.which("c++") or shutil.which("g++")
    assert compiler, "this test needs a C++ compiler"
    subprocess.run([compiler, "-std=c++20", "-I", headers, source, "-o", program], check=True)
    right = 2 * 128 * 8
    found = {}
    for order in ("forward", "backward", "random", "random:1", "random:2"):
        environment = {**os.environ, "FANIN_EMULATED_ORDER": order}
        done = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
        found[order] = [int(number) for number in done.stdout.split()]
        assert found[order][0] == right
    assert found["forward"] == found["backward"] == [right, right]
    for order in ("random:1", "random:2"):
        assert found[order][1] < right
    assert found["random"] == found["random:1"]
    environment = {**os.environ, "FANIN_EMULATED_ORDER": "sideways"}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "expected forward, backward, random or random:SEED" in done.stderr
