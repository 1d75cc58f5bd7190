"""One seed, one result: hashes of bits, against the stored ones of tests/data/hashes.json.

Stored values are the same for every build, so this also compares builds: with OpenMP and without,
by one compiler and another. The baseline is outside of the promise: without fma it rounds a product
before adding it, so its bits are its own; it is compared with itself.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import fanin
from cases import THREADS
from compare import hash_of, same_bits
from recipes import RECIPES, batches, hundred_steps, network, numbers, result

STORED = json.loads((Path(__file__).parent / "data" / "hashes.json").read_text())
STEPS = "steps, float32"
TRAINING = [STEPS, "steps, float64", "fit"]


def test_every_recipe_is_stored():
    assert set(STORED) == set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_stored(name, fma_isas):
    """Every set with fma gives the stored bits."""
    assert fma_isas, "this machine has no instruction set with fma"
    for isa in fma_isas:
        fanin.set_isa(isa)
        assert result(name) == STORED[name], isa


@pytest.mark.parametrize("name", TRAINING)
def test_threads(name, fma_isas, threads):
    for isa in fma_isas:
        fanin.set_isa(isa)
        assert result(name) == STORED[name], isa


@pytest.mark.parametrize("mode", ["denormals_off", "round_up"])
@pytest.mark.parametrize("name", TRAINING)
def test_the_callers_floating_point_mode(name, mode, fma_isas, oracle):
    """Denormals switched off, or another rounding, by the caller: no difference, and restored."""
    before = fanin.get_num_threads()
    try:
        for threads in (1, 2):
            fanin.set_num_threads(threads)
            for isa in fma_isas:
                fanin.set_isa(isa)
                run = RECIPES[name]()
                with oracle.mode(mode) as word:
                    found = run()
                    left = oracle.float_mode()
                assert found == STORED[name], (isa, threads)
                assert left == word
    finally:
        fanin.set_num_threads(before)


def test_denormals_are_computed(oracle, isa, threads):
    """On every thread: 40 products of 2^-7 times the smallest normal number, exactly summed."""
    tiny = np.finfo(np.float32).tiny
    x, w = np.full((300, 40), tiny), np.full((40, 500), 2.0**-7, np.float32)
    expected = np.full((300, 500), np.ldexp(tiny, -7) * np.float32(40))
    with oracle.mode("denormals_off"):
        found = fanin.matmul(x, w)
    same_bits(found, expected)
    assert expected[0, 0] > 0


def test_rounding_is_to_nearest(oracle, isa):
    """1 + 2^-25 is 1 to nearest, and the next number upwards."""
    x = np.array([[1.0, 2.0**-25]], np.float32)
    one = np.ones((2, 1), np.float32)
    with oracle.mode("round_up"):
        assert fanin.matmul(x, one)[0, 0] == 1


def test_baseline_is_one_result_too():
    """Without fma the bits are others, but still one result for any number of threads."""
    before = fanin.isa(), fanin.get_num_threads()
    found = set()
    try:
        fanin.set_isa(fanin.available_isas()[0])
        for threads in THREADS:
            fanin.set_num_threads(threads)
            found.add(result(STEPS))
    finally:
        fanin.set_isa(before[0])
        fanin.set_num_threads(before[1])
    assert len(found) == 1


def test_again():
    assert result(STEPS) == result(STEPS)


def test_the_seed_matters():
    assert hundred_steps("float32", seed=2025)() != STORED[STEPS]


@pytest.mark.parametrize("rows", [1, 2, 5, 63, 64, 65, 150])
def test_rows_do_not_depend_on_the_batch(rows, isa, threads, dtype):
    """Row i of forward and predict_proba is the same, whatever rows come along."""
    net = network(dtype)
    for batch in batches(dtype):  # so that the running statistics are not 0 and 1
        net.train_step(*batch, fanin.Adam(1e-2))
    x = numbers(150, 37, seed=9).astype(dtype)
    z, p = net.forward(x), net.predict_proba(x)
    for start in (0, 7, 150 - rows):
        part = x[start : start + rows]
        same_bits(net.forward(part), z[start : start + len(part)])
        same_bits(net.predict_proba(part), p[start : start + len(part)])
    order = np.argsort(numbers(150, seed=5))
    same_bits(net.forward(x[order]), z[order])


def test_slices_of_an_epoch_do_not_matter(monkeypatch):
    """fit comes back to Python every 50 ms; where it does so makes no difference."""
    from fanin.reference import training

    expected = result("fit")
    monkeypatch.setattr(training, "SLICE_SECONDS", 0.0)
    assert result("fit") == expected


def test_hashes_see_everything():
    """A flipped bit, another shape or dtype is another hash."""
    a = np.arange(6, dtype=np.float32)
    b = a.copy()
    b[3] = np.nextafter(b[3], 9, dtype=np.float32)
    hashes = {hash_of(v) for v in (a, b, a.reshape(2, 3), a.astype(np.float64), a.view(np.int32))}
    assert len(hashes) == 5
