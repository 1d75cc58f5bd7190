"""How results are compared: bit for bit, or within a bound that the caller derives."""

from __future__ import annotations

import hashlib

import numpy as np


def unit(dtype) -> float:
    """The unit roundoff u: one rounding changes a number by at most this part of it."""
    return float(np.finfo(dtype).eps) / 2


def same_bits(got: np.ndarray, expected: np.ndarray) -> None:
    """Fail unless dtype, shape and bits are equal; the bits of a NaN do not count."""
    assert isinstance(got, np.ndarray), type(got)
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    a, b = np.ascontiguousarray(got), np.ascontiguousarray(expected)
    integers = f"u{a.itemsize}"
    differ = a.view(integers) != b.view(integers)
    if a.dtype.kind == "f":
        differ &= ~(np.isnan(a) & np.isnan(b))
    if differ.any():
        place = tuple(int(i) for i in np.argwhere(differ)[0])
        raise AssertionError(
            f"{np.count_nonzero(differ)} of {differ.size} differ, the first at {place}: "
            f"got {a[place]!r}, expected {b[place]!r}"
        )


def within(got, expected, bound) -> None:
    """Fail unless |got - expected| <= bound; infinite and NaN where expected is."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape, f"shape {got.shape}, expected {expected.shape}"
    wide = np.promote_types(np.float64, expected.dtype)
    a, b = got.astype(wide), expected.astype(wide)
    bound = np.broadcast_to(np.asarray(bound, dtype=np.float64), a.shape)
    with np.errstate(invalid="ignore"):
        good = np.where(np.isfinite(b), np.abs(a - b) <= bound, a == b)
    good |= np.isnan(a) & np.isnan(b)
    if not good.all():
        place = tuple(int(i) for i in np.argwhere(~good)[0])
        raise AssertionError(
            f"{np.count_nonzero(~good)} of {good.size} beyond their bound, the first at {place}: "
            f"got {a[place]!r}, expected {b[place]!r}, bound {bound[place]:.3g}"
        )


def apart(g: np.ndarray, h: np.ndarray, floor: float = 0.0) -> float:
    """||g - h|| / (||g|| + ||h||), and 0 where both are smaller than `floor`."""
    g, h = np.asarray(g, np.float64), np.asarray(h, np.float64)
    size = np.linalg.norm(g) + np.linalg.norm(h)
    return 0.0 if size <= floor else float(np.linalg.norm(g - h) / size)


def hash_of(*arrays: np.ndarray) -> str:
    """16 hexadecimal digits that stand for the bits of these arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
