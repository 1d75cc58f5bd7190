"""matmul equals the canonical order of oracle.c bit for bit: any size, layout, set, threads."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fanin
from cases import GEMM, ORIENTATIONS, lay_out, params, sum_bound
from compare import same_bits, within

# Below, at and above the edges of every vector and tile, and of the blocks of k.
SIZES = (*range(1, 18), *(e + d for e in (24, 32, 48, 64, 96) for d in (-1, 0, 1)))
DEPTHS = (1, 2, 3, 17, 79, 511, 512, 513, 1025)
ALL_DEPTHS = (*SIZES, 511, 512, 513, 1023, 1024, 1025)


def fused(isa: str) -> bool:
    """Whether this set has fma; the baseline multiplies and adds."""
    return isa != "baseline"


def factors(rng, m, k, n, dtype) -> tuple[np.ndarray, np.ndarray]:
    """Normal x (m, k) and w (k, n) whose exponents differ, so that every order rounds otherwise."""
    x = rng.standard_normal((m, k)) * 2.0 ** rng.integers(-8, 9, (m, k))
    return x.astype(dtype), rng.standard_normal((k, n)).astype(dtype)


@pytest.mark.parametrize("case", params(GEMM, "check"))
def test_cases(case, dtype, isa, rng, oracle):
    x, w = factors(rng, case.m, case.k, case.n, dtype)
    got = fanin.matmul(lay_out(x, case.x_layout), lay_out(w, case.w_layout))
    same_bits(got, oracle.matmul(x, w, fused=fused(isa)))


@pytest.mark.parametrize("layouts", ORIENTATIONS, ids="".join)
def test_every_size(layouts, dtype, isa, rng, oracle):
    """All pairs (m, n) of SIZES; an element depends on its row and column alone."""
    check_sizes(DEPTHS, layouts, dtype, isa, rng, oracle)


@pytest.mark.slow
@pytest.mark.parametrize("layouts", ORIENTATIONS, ids="".join)
def test_every_size_and_depth(layouts, dtype, isa, rng, oracle):
    check_sizes(ALL_DEPTHS, layouts, dtype, isa, rng, oracle)


def check_sizes(depths, layouts, dtype, isa, rng, oracle):
    most = max(SIZES)
    for k in depths:
        x, w = factors(rng, most, k, most, dtype)
        expected = oracle.matmul(x, w, fused=fused(isa))
        for m, n in itertools.product(SIZES, SIZES):
            got = fanin.matmul(lay_out(x[:m], layouts[0]), lay_out(w[:, :n], layouts[1]))
            if got.tobytes() != expected[:m, :n].tobytes():
                pytest.fail(f"({m}, {k}) @ ({k}, {n}) is not the canonical product")


# What is cut into several tasks: by rows, by columns, along k, or not at all.
SPLIT = [
    (64, 1200, 512),
    (257, 300, 131),
    (8, 2000, 900),
    (1000, 9, 70),
    (1000, 70, 3),
    (512, 600, 300),
    (512, 2100, 256),
    (3, 5000, 64),
    (1, 700, 1),
    (5000, 300, 1),
    (3000, 200, 4),
]


@pytest.mark.parametrize("size", SPLIT, ids=str)
@pytest.mark.parametrize("layouts", ORIENTATIONS, ids="".join)
def test_threads(size, layouts, isa, threads, rng, oracle):
    x, w = factors(rng, *size, "float32")
    expected = oracle.matmul(x, w, fused=fused(isa))
    x, w = lay_out(x, layouts[0]), lay_out(w, layouts[1])
    for _ in range(3):  # who computes a part is left open, so once is not enough
        same_bits(fanin.matmul(x, w), expected)


@pytest.mark.parametrize("rows", [127, 128, 150, 161])
@pytest.mark.parametrize("cols", [1, 47, 300])
def test_columns_of_x_far_apart(rows, cols, dtype, isa, rng, oracle):
    """Multiples of 2 KiB apart, as in a transposed part of a larger matrix."""
    x, w = factors(rng, rows, 600, cols, dtype)
    whole = np.full((600, 512), np.nan, dtype)
    whole[:, 3 : 3 + rows] = x.T
    same_bits(fanin.matmul(whole[:, 3 : 3 + rows].T, w), oracle.matmul(x, w, fused=fused(isa)))


# x is copied, at most 64 Ki elements at a time: the rows of many tasks, and where blocks of k end.
@pytest.mark.parametrize("far", [False, True], ids=["close", "far apart"])
@pytest.mark.parametrize("size", [(4100, 16, 70), (2100, 40, 130), (1030, 65, 64), (130, 513, 64)])
def test_transposed_x_in_strips(size, far, dtype, isa, threads, rng, oracle):
    rows, k, cols = size
    x, w = factors(rng, rows, k, cols, dtype)
    step = 512 if far else 1
    whole = np.full((k, (rows + step - 1) // step * step), np.nan, dtype)
    whole[:, :rows] = x.T
    expected = oracle.matmul(x, w, fused=fused(isa))
    same_bits(fanin.matmul(whole[:, :rows].T, w), expected)


def test_zero_strides(dtype, isa, rng, oracle):
    row = rng.standard_normal((1, 70)).astype(dtype)
    column = rng.standard_normal((70, 1)).astype(dtype)
    x, w = np.broadcast_to(row, (9, 70)), np.broadcast_to(column, (70, 33))
    same_bits(fanin.matmul(x, w), oracle.matmul(x, w, fused=fused(isa)))


def test_one_number_for_all(dtype, isa):
    """Both strides zero, a matrix that is one number in memory; 3 * 5 * 7 is exact."""
    x = np.broadcast_to(np.array(3, dtype), (4, 7))
    w = np.broadcast_to(np.array(5, dtype), (7, 20))
    same_bits(fanin.matmul(x, w), np.full((4, 20), 105, dtype))


def frames(shape, dtype):
    """Arrays an `out` may be, each inside a frame of sevens: (frame, out, its name)."""
    rows, columns = shape
    frame = np.full((rows + 4, columns + 5), 7, dtype)
    yield frame, frame[2:-2, 3:-2], "rows"
    yield frame, frame[-3:1:-1, 3:-2], "rows, last first"
    frame = np.full((columns + 5, rows + 4), 7, dtype)
    yield frame, frame[3:-2, 2:-2].T, "columns"
    yield frame, frame[-3:2:-1, 2:-2].T, "columns, last first"


@pytest.mark.parametrize(
    "size",
    [(5, 600, 37), (37, 20, 50), (1, 8, 1), (1, 9, 40), (40, 9, 3), (37, 70, 1), (37, 70, 3)],
)
@pytest.mark.parametrize("layouts", ORIENTATIONS, ids="".join)
def test_out(size, layouts, dtype, isa, rng, oracle):
    """`out` is returned, right in every layout allowed, and nothing beside it is written."""
    x, w = factors(rng, *size, dtype)
    expected = oracle.matmul(x, w, fused=fused(isa))
    x, w = lay_out(x, layouts[0]), lay_out(w, layouts[1])
    for frame, out, name in frames(expected.shape, dtype):
        frame[...] = 7
        assert fanin.matmul(x, w, out=out) is out, name
        same_bits(np.ascontiguousarray(out), expected)
        out[...] = 7
        assert (frame == 7).all(), name


@pytest.mark.parametrize("size", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0)], ids=str)
def test_nothing(size, dtype, isa):
    """No rows or columns: empty. No k: +0, also in an `out` that held something else."""
    m, k, n = size
    x, w = np.empty((m, k), dtype), np.empty((k, n), dtype)
    same_bits(fanin.matmul(x, w), np.zeros((m, n), dtype))
    same_bits(fanin.matmul(x, w, out=np.full((m, n), np.nan, dtype)), np.zeros((m, n), dtype))


def test_special_values(dtype, isa, rng, oracle):
    """Infinity, NaN, signed zeros, overflow and denormals go through as through the oracle."""
    info = np.finfo(dtype)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, info.max, -info.max, info.tiny,
                        -info.smallest_subnormal, 1.0, -1.0], dtype)  # fmt: skip
    for k in (1, 2, 3, 513):
        x = rng.choice(special, (40, k), p=[0.2, 0.2, *([0.02] * 5), 0.1, 0.1, 0.05, 0.25])
        w = rng.choice(special, (k, 50), p=[0.2, 0.2, *([0.02] * 5), 0.1, 0.1, 0.05, 0.25])
        for cols in (1, 2, 4, 50):
            with np.errstate(all="ignore"):
                expected = oracle.matmul(x, w[:, :cols], fused=fused(isa))
            same_bits(fanin.matmul(x, w[:, :cols]), expected)


def test_denormals(dtype, isa, rng, oracle):
    """Products that underflow are neither flushed nor rounded twice."""
    x, w = factors(rng, 20, 30, 40, dtype)
    x *= np.asarray(np.finfo(dtype).tiny, dtype)
    expected = oracle.matmul(x, w, fused=fused(isa))
    assert (np.abs(expected) < np.finfo(dtype).tiny).any()
    same_bits(fanin.matmul(x, w), expected)


def test_reference(dtype, rng):
    """NumPy's order is its own: both are within Higham's bound, gamma_k sum |x||w|, of exact."""
    for m, k, n in ((7, 3, 9), (33, 1025, 20)):
        x, w = factors(rng, m, k, n, dtype)
        exact = x.astype(np.longdouble) @ w.astype(np.longdouble)
        bound = sum_bound(k, dtype) * (np.abs(x).astype(float) @ np.abs(w).astype(float))
        within(fanin.reference.matmul(x, w), exact, bound)
        within(fanin.matmul(x, w), exact, bound)
