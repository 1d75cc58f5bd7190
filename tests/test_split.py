"""train_dev_test_split: every row in one part, sizes, classes, groups, the seed, the warning."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fanin
from fanin import train_dev_test_split
from fanin.reference.split import largest_remainder

LECTURE = [(0.7, 0.3), (0.6, 0.2, 0.2), (0.98, 0.01, 0.01), (0.995, 0.0025, 0.0025)]


def split(*arrays, **options):
    """Without the warning about small parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return train_dev_test_split(*arrays, **options)


@pytest.mark.parametrize("sizes", LECTURE)
@pytest.mark.parametrize("options", [{}, {"stratify": True}, {"groups": True}, {"shuffle": False}])
def test_every_row_is_in_one_part(sizes, options):
    rows, rng = 100_000, np.random.default_rng(0)
    x, y = np.arange(rows), rng.integers(0, 7, rows)
    if "stratify" in options:
        options = {"stratify": y}
    if "groups" in options:
        options = {"groups": rng.integers(0, 20_000, rows)}
    parts = train_dev_test_split(x, y, sizes=sizes, seed=3, **options)
    assert len(parts) == len(sizes)
    assert np.array_equal(np.sort(np.concatenate([part[0] for part in parts])), x)
    for (i, labels), size in zip(parts, sizes, strict=True):
        assert np.array_equal(labels, y[i])  # arrays are cut alike
        tolerance = 30 if "groups" in options else 0  # a group has 5 rows in the mean, at most 18
        assert abs(len(i) - size * rows) <= tolerance
        assert np.array_equal(i, np.sort(i)) == ("shuffle" in options)


def test_reads_like_its_docstring():
    x, y = np.arange(2000.0).reshape(1000, 2), np.arange(1000) % 3
    (a, ya), (b, yb), (c, yc) = train_dev_test_split(x, y, sizes=(600, 200, 200), stratify=y)
    assert [len(a), len(b), len(c)] == [len(ya), len(yb), len(yc)] == [600, 200, 200]
    net = fanin.MLP([2, 3])
    net.fit(a / 2000, ya, validation=(b / 2000, yb), epochs=1, progress=False)
    ((only,), (other,)) = split(y)  # one array: tuples of one
    assert len(only) == 700 and len(other) == 300


def test_one_seed_one_result():
    """The same parts for ever: of Philox words and sorting, which depend on nothing else."""
    x = np.arange(20)
    first, second = split(x, sizes=(15, 5), seed=7), split(x, sizes=(15, 5), seed=8)
    assert second[1][0].tolist() != first[1][0].tolist()
    assert first[1][0].tolist() == split(x, sizes=(0.75, 0.25), seed=7)[1][0].tolist()
    assert first[1][0].tolist() == FROZEN
    # not the order of an epoch of fit with the same seed
    assert first[0][0].tolist() != fanin.reference.random.permutation(20, 7, 0)[:15].tolist()


FROZEN = [4, 19, 9, 15, 0]


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_classes_to_within_one_row(data):
    """Every size exactly; of each class its share to within one row."""
    parts = data.draw(st.integers(2, 5))
    members = data.draw(st.lists(st.integers(parts, 40), min_size=1, max_size=8))
    rows = sum(members)
    cuts = sorted(data.draw(st.sets(st.integers(1, rows - 1), min_size=parts - 1,
                                    max_size=parts - 1)))  # fmt: skip
    sizes = np.diff([0, *cuts, rows]).tolist()
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(len(members)), members))
    found = split(y, sizes=sizes, stratify=y, seed=data.draw(st.integers(0, 9)))
    assert [len(part[0]) for part in found] == sizes
    for (labels,), size in zip(found, sizes, strict=True):
        counts = np.bincount(labels, minlength=len(members))
        assert (np.abs(counts - np.array(members) * size / rows) <= 1).all()


def test_strings_and_columns_are_labels():
    y = np.array(["yes", "no"] * 500)
    for labels in (y, y[:, None], y.tolist()):
        (_, dev) = train_dev_test_split(y, sizes=(0.8, 0.2), stratify=labels)
        assert (dev[0] == "no").sum() == 100


def test_groups_stay_together():
    rng = np.random.default_rng(1)
    groups, y = rng.integers(0, 300, 3000), rng.integers(0, 2, 3000)
    y[groups < 60] = 2  # a class that comes in groups of its own
    for options in ({}, {"stratify": y}):
        parts = train_dev_test_split(groups, y, sizes=(0.6, 0.2, 0.2), groups=groups, **options)
        seen = [set(part[0].tolist()) for part in parts]
        assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]
        largest = np.bincount(groups).max()
        for part, size in zip(parts, (1800, 600, 600), strict=True):
            assert abs(len(part[0]) - size) <= 2 * largest
            if options:  # and classes alike
                counts = np.bincount(part[1], minlength=3)
                assert (np.abs(counts - np.bincount(y) * size / 3000) <= 2 * largest).all()


def test_kinds_of_arrays(tmp_path):
    """Lists, tuples, frames, sparse matrices, memory maps: whatever takes rows."""
    sparse = pytest.importorskip("scipy.sparse")
    x = np.arange(20.0).reshape(10, 2)
    mapped = np.memmap(tmp_path / "x", np.float64, "w+", shape=(10, 2))
    mapped[...] = x

    class Frame:
        """What pandas offers: rows by position through iloc alone."""

        shape = (10, 2)

        def __init__(self):
            self.iloc = x

        def __getitem__(self, name):
            raise KeyError(name)

    matrix = sparse.csr_matrix(x)
    pieces = split(x, x.tolist(), tuple(range(10)), Frame(), matrix, mapped, sizes=(6, 4))[1]
    assert isinstance(pieces[1], list) and isinstance(pieces[2], list)
    for piece in (pieces[1], pieces[3], pieces[4].toarray(), pieces[5]):
        assert np.array_equal(piece, pieces[0])
    assert np.array_equal(x[pieces[2]], pieces[0])
    first, second = split(x, mapped, list("abcdefghij"), sizes=(6, 4), shuffle=False)
    assert np.shares_memory(first[0], x) and isinstance(second[1], np.memmap)
    assert second[2] == list("ghij")


def test_largest_remainder():
    assert largest_remainder([0.29, 0.71], 100) == [29, 71]  # though 0.29 * 100 < 29
    assert largest_remainder([1 / 3] * 3, 10) == [4, 3, 3]
    assert largest_remainder([0.995, 0.0025, 0.0025], 400) == [398, 1, 1]


def test_warning_of_small_parts():
    """1.96 sqrt(0.09 / n) > 0.05 below n = 138.3: the number is in the warning."""
    with pytest.warns(UserWarning, match=r"part 2 has 100 rows \(\+-5\.9 points\)") as caught:
        train_dev_test_split(np.zeros(1100), sizes=(800, 200, 100))
    assert "part 1" not in str(caught[0].message)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_dev_test_split(np.zeros(239), sizes=(100, 139))
    with pytest.warns(UserWarning, match="part 1 has 138"):
        train_dev_test_split(np.zeros(239), sizes=(101, 138))


BAD = [
    ({"sizes": (0.7, 0.2)}, ValueError, "sizes: expected fractions that sum to 1.* sum 0.9"),
    ({"sizes": (70, 20)}, ValueError, "sizes: expected counts that sum to the 100 rows"),
    ({"sizes": (0.999, 0.001)}, ValueError, "at least one row in each part"),
    ({"sizes": (1.5, -0.5)}, ValueError, "sizes: expected a number > 0"),
    ({"sizes": (101, -1)}, ValueError, "sizes: expected an integer >= 1"),
    ({"sizes": 0.7}, TypeError, "sizes: expected fractions or counts of two"),
    ({"sizes": (1.0,)}, TypeError, "sizes: expected fractions or counts of two"),
    ({"sizes": ("a", "b")}, TypeError, "sizes"),
    ({"stratify": np.arange(100) // 99}, ValueError,
     "stratify: expected at least 2 members of every class.* got 1 of class 1"),
    ({"stratify": np.zeros(99)}, ValueError, r"stratify: expected shape \(100,\)"),
    ({"stratify": np.full(100, np.nan)}, ValueError, "stratify: expected labels, got NaN"),
    ({"groups": np.zeros(100)}, ValueError, "groups: expected at least 2"),
    ({"groups": np.arange(100) // 99, "sizes": (0.99, 0.01)}, None, ""),
    ({"groups": np.arange(100) // 30, "sizes": (0.99, 0.01)}, ValueError,
     "groups small enough.*part 1 got none: the largest group has 30"),
    ({"shuffle": 1}, TypeError, "shuffle: expected True or False"),
    ({"seed": -1}, ValueError, "seed"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "kind", "message"), BAD)
def test_refuses(options, kind, message):
    if kind is None:
        assert [len(part[0]) for part in split(np.zeros(100), **options)] == [99, 1]
        return
    with pytest.raises(kind, match=message):
        split(np.zeros(100), **options)


def test_refuses_arrays():
    with pytest.raises(TypeError, match="arrays: expected at least one"):
        train_dev_test_split()
    with pytest.raises(TypeError, match=r"arrays\[1\]: expected an array or a list, got 3"):
        train_dev_test_split([1, 2], 3)
    with pytest.raises(ValueError, match=r"as many rows in each, got \[2, 3\]"):
        train_dev_test_split([1, 2], [1, 2, 3])
