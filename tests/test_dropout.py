"""Dropout masks: the bits docs/numerics.md defines, on every instruction set and in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fanin
from cases import DROPOUT, params
from compare import same_bits
from fanin import reference
from test_random import words_of

KEYS = [(0, 0, 0), (2**64 - 1, 2**44 - 1, 2**16 - 1), (2**32 + 3, 2**33 + 5, 7)]


def kept(rows: int, columns: int, dropout: float, key) -> np.ndarray:
    """The mask by its definition: 16 bits of the block at column c, row // 8, below a threshold."""
    threshold = min(max(round(dropout * 65536), 1), 65535) if dropout else 0
    mask = np.empty((rows, columns), bool)
    for r in range(rows):
        for c in range(columns):
            words = words_of(c | (r >> 3) << 32, *key, stream=0)
            i = r & 7
            bits = words[i & 3] & 0xFFFF if i < 4 else words[i & 3] >> 16
            mask[r, c] = bits >= threshold
    return mask


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_definition(key, isa, threads):
    expected = kept(19, 35, 0.37, key)
    same_bits(fanin.dropout_mask((19, 35), 0.37, key), expected)
    same_bits(reference.dropout_mask((19, 35), 0.37, key), expected)


@pytest.mark.parametrize("case", params(DROPOUT, "check"))
def test_reference(case, isa):
    key = (12345678901, 17, 3)
    expected = reference.dropout_mask((case.m, case.n), case.dropout, key)
    same_bits(fanin.dropout_mask((case.m, case.n), case.dropout, key), expected)


def test_many_rows(isa, threads):
    """Enough elements for several threads, against the reference."""
    key = (3, 1, 4)
    expected = reference.dropout_mask((1001, 517), 0.5, key)
    same_bits(fanin.dropout_mask((1001, 517), 0.5, key), expected)


@pytest.mark.parametrize("dropout", [0.001, 0.1, 0.2, 1 / 3, 0.5, 0.9, 0.999])
def test_rate(dropout):
    """Of a million elements the part dropped is within 5 standard deviations of the rate."""
    rate = round(dropout * 65536) / 65536
    mask = fanin.dropout_mask((1000, 1000), dropout, (1, 2, 3))
    assert abs(mask.mean() - (1 - rate)) < 5 * math.sqrt(rate * (1 - rate) / mask.size)
    # and row by row, column by column: the largest of 2000 deviations stays below 6
    for axis in (0, 1):
        deviation = (mask.mean(axis) - (1 - rate)) / math.sqrt(rate * (1 - rate) / 1000)
        if 0.05 < rate < 0.95:  # where a thousand draws are nearly normal
            assert np.abs(deviation).max() < 6


def test_thresholds(package):
    """Any rate inside (0, 1) drops at least one value of 16 bits, and keeps at least one."""
    key, shape = (0, 0, 0), (800, 800)
    rare = package.dropout_mask(shape, 1e-12, key)
    same_bits(package.dropout_mask(shape, 0.6 / 65536, key), rare)
    same_bits(package.dropout_mask(shape, 1 / 65536, key), rare)
    assert 0 < np.count_nonzero(~rare) < 40  # 640,000 / 65536 = 9.8 expected
    nearly_all = package.dropout_mask(shape, 1 - 1e-12, key)
    same_bits(package.dropout_mask(shape, 65535 / 65536, key), nearly_all)
    assert 0 < np.count_nonzero(nearly_all) < 40
    assert not (rare & nearly_all).all()
    assert package.dropout_mask(shape, 0.0, key).all()


def test_masks_are_nested(package):
    """What a lower rate drops, a higher one drops, too: both compare the same bits."""
    low, high = (package.dropout_mask((50, 60), rate, (5, 6, 7)) for rate in (0.3, 0.4))
    assert (low | ~high).all()
    assert (low & ~high).any()


@pytest.mark.parametrize("part", range(3))
def test_key(part, package):
    """Seed, step and layer each give another mask, also by their highest bits."""
    limit = (2**64, 2**44, 2**16)[part]
    masks = set()
    for value in (0, 1, limit // 2, limit - 1):
        key = [0, 0, 0]
        key[part] = value
        masks.add(package.dropout_mask((20, 20), 0.5, tuple(key)).tobytes())
    assert len(masks) == 4


def test_a_row_stays_when_rows_are_added(package):
    whole = package.dropout_mask((40, 30), 0.5, (1, 1, 1))
    for rows in (1, 7, 8, 9, 33):
        same_bits(package.dropout_mask((rows, 30), 0.5, (1, 1, 1)), whole[:rows])
        same_bits(package.dropout_mask((40, rows), 0.5, (1, 1, 1))[:, :30], whole[:, :rows][:, :30])


def test_one_row(package):
    expected = package.dropout_mask((1, 21), 0.5, (1, 1, 1))[0]
    for shape in (21, (21,), [21]):
        same_bits(package.dropout_mask(shape, 0.5, (1, 1, 1)), expected)
    assert package.dropout_mask((0, 5), 0.5, (1, 1, 1)).shape == (0, 5)
    assert package.dropout_mask(3, 0.0, None).all()
