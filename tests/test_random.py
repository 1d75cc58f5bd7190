"""Random bits: Random123's published answers, and a second Philox written here."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from compare import same_bits
from fanin import _core
from fanin.reference import random

# counter, key -> words: https://github.com/DEShawResearch/random123, tests/kat_vectors
ONES = 0xFFFFFFFF
KNOWN_ANSWERS = {
    "zeros": ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    "ones": ((ONES,) * 4, (ONES,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    "pi": (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
}


def philox(counter, key) -> list[int]:
    """Philox4x32-10 in Python's integers, from figure 4 of Salmon et al. 2011."""
    a, b, c, d = counter
    for i in range(10):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        k0, k1 = (key[0] + i * 0x9E3779B9) & ONES, (key[1] + i * 0xBB67AE85) & ONES
        a, b, c, d = (q >> 32) ^ b ^ k0, q & ONES, (p >> 32) ^ d ^ k1, p & ONES
    return [a, b, c, d]


def words_of(place: int, seed: int, step: int, layer: int, stream: int) -> list[int]:
    """The block of a place, with the counter laid out as docs/numerics.md says."""
    counter = place & ONES, place >> 32, layer | (step >> 32) << 16 | stream << 28, step & ONES
    return philox(counter, (seed & ONES, seed >> 32))


@pytest.mark.parametrize("which", KNOWN_ANSWERS)
def test_known_answers_reference(which):
    counter, key, words = KNOWN_ANSWERS[which]
    got = random.philox4x32(np.array(counter, np.uint32), key)
    assert " ".join(f"{word:08x}" for word in got) == words
    assert philox(counter, key) == [int(word, 16) for word in words.split()]


@pytest.mark.parametrize("which", KNOWN_ANSWERS)
def test_known_answers(which, isa):
    counter, key, words = KNOWN_ANSWERS[which]
    (got,) = _core.philox(counter, key, 1)
    assert " ".join(f"{word:08x}" for word in got) == words


@pytest.mark.parametrize("count", [0, 1, 2, 3, 15, 16, 17, 31, 33, 100])
@pytest.mark.parametrize("start", [0, 7, ONES - 8])  # the last one wraps around
def test_blocks_in_a_row(count, start, isa):
    key = 0xDEADBEEF, 0x01234567
    got = _core.philox((start, 2, 3, 4), key, count)
    expected = [philox(((start + i) & ONES, 2, 3, 4), key) for i in range(count)]
    same_bits(got, np.array(expected, np.uint32).reshape(count, 4))


@pytest.mark.parametrize("key", [(0, 0, 0), (2**64 - 1, 2**44 - 1, 2**16 - 1), (5, 2**33 + 1, 9)])
def test_words(key):
    """Even words are the lower half of a block, odd ones the upper half."""
    seed, step, layer = key
    got = random.random_words(7, key, stream=1, start=3)
    expected = []
    for e in range(3, 10):
        block = words_of(e // 2, seed, step, layer, 1)
        low, high = block[2 * (e % 2) : 2 * (e % 2) + 2]
        expected.append(low | high << 32)
    same_bits(got, np.array(expected, np.uint64))


def test_words_do_not_depend_on_the_start():
    every = random.random_words(50, (1, 2, 3), 1)
    for start, count in ((0, 1), (1, 1), (1, 48), (2, 3), (49, 1), (50, 0)):
        same_bits(random.random_words(count, (1, 2, 3), 1, start), every[start : start + count])


def test_streams_differ():
    """The same seed, step and layer give other numbers for masks, weights and shuffles."""
    draws = [random.random_words(8, (1, 2, 3), stream) for stream in range(3)]
    assert len(np.unique(np.concatenate(draws))) == 24


def test_uniform():
    u = random.uniform(200_000, (11, 0, 0), 1)
    assert u.min() > 0
    assert u.max() < 1
    # the distribution of the largest gap to the line: Kolmogorov's 1e-6 quantile is 2.6 / sqrt(n)
    gap = np.abs(np.sort(u) - (np.arange(u.size) + 0.5) / u.size).max()
    assert gap < 2.6 / np.sqrt(u.size)


def test_uniform_formula():
    """(upper 53 bits + 1/2) / 2^53, and never 1."""
    words = random.random_words(100, (3, 0, 1), 1)
    exact = [((int(word) >> 11) + 0.5) / 2**53 for word in words]
    same_bits(random.uniform(100, (3, 0, 1), 1), np.array(exact))


def test_inverse_normal_cdf():
    """AS241: a relative error of about 1e-16 (Wichura 1988); 4 ulp leave room for its roundings."""
    p = np.concatenate([10.0 ** -np.arange(1, 17), np.linspace(0.01, 0.99, 41), [0.5, 1 - 1e-12]])
    with mpmath.workdps(40):
        exact = [mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(float(q)) - 1) for q in p]
        got = random.inverse_normal_cdf(p)
        for value, truth in zip(got, exact, strict=True):
            assert abs(mpmath.mpf(float(value)) - truth) <= 4 * 2.0**-53 * abs(truth) + 1e-300


def test_normal():
    """Mean, variance and fourth moment within 5 standard errors (1, 2 and 96 over n)."""
    z = random.normal(200_000, (11, 0, 0), 1)
    n = z.size
    assert abs(z.mean()) < 5 / np.sqrt(n)
    assert abs(np.square(z).mean() - 1) < 5 * np.sqrt(2 / n)
    assert abs((z**4).mean() - 3) < 5 * np.sqrt(96 / n)


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_permutation(count):
    order = random.permutation(count, seed=7, epoch=3)
    assert order.dtype == np.int64
    same_bits(np.sort(order), np.arange(count))


def test_permutation_formula():
    words = [words_of(e // 2, 7, 3, 0, stream=2) for e in range(20)]
    values = [w[2 * (e % 2)] | w[2 * (e % 2) + 1] << 32 for e, w in enumerate(words)]
    expected = sorted(range(20), key=values.__getitem__)
    same_bits(random.permutation(20, seed=7, epoch=3), np.array(expected))
    assert not np.array_equal(random.permutation(20, 7, 3), random.permutation(20, 7, 4))


def test_stream_goes_on():
    """Two draws of a `Stream` are one draw, cut in two."""
    whole = random.Stream(5, 2).uniform(12)
    stream = random.Stream(5, 2)
    same_bits(np.concatenate([stream.uniform((2, 3)).ravel(), stream.uniform(6)]), whole)
    assert not np.array_equal(random.Stream(5, 3).uniform(12), whole)
