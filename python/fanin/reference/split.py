"""Parts of a data set: to train on, to choose by, to test with.

What is chosen by a part looks better on it than it is, so a model is fitted on the first part,
settings are chosen on the second, and the last is looked at once.
"""

import math
import numbers
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import arguments
from .random import STREAM_SHUFFLE, order_of, random_words

_SPLIT = 1  # in place of the layer; 0 is the order of rows in `fit`
_TOO_COARSE = 0.05  # of an accuracy


def train_dev_test_split(
    *arrays: Any,
    sizes: Sequence[float] | Sequence[int] = (0.7, 0.3),
    stratify: Any = None,
    groups: Any = None,
    shuffle: bool = True,
    seed: int = 0,
) -> list[tuple[Any, ...]]:
    """Return the rows of some arrays in two or more parts, such as train, dev and test.

        (x, y), (x_dev, y_dev), (x_test, y_test) = train_dev_test_split(
            x, y, sizes=(0.6, 0.2, 0.2), stratify=y
        )
        net.fit(x, y, validation=(x_dev, y_dev))

    Every row goes to exactly one part.  Fractions of n rows become counts by largest remainder.

    Parameters
    ----------
    arrays : arrays, data frames, sparse matrices or lists, of n rows each
    sizes : of the parts: fractions with the sum 1, or integers with the sum n
    stratify : (n,) labels; each part gets of every class its share to within one row, so it may
        miss a class whose share is less than a row
    groups : (n,) labels; rows with equal ones stay together, so sizes are met only to within a
        group or so.  With `stratify` each group goes where its classes are missing most.
    shuffle : False keeps the order: the first rows (of each class) make the first part.  Without
        `stratify` and `groups` the parts are then slices, of an array or a memory map its views.
    seed : of the shuffling, 0 <= seed < 2**64; the same one gives the same parts

    Returns
    -------
    list of one tuple per part, of its piece of every array (of one array, too: a tuple of one).
    A list is cut into lists.

    Warns
    -----
    UserWarning
        A part after the first is too small to tell two models apart.  An accuracy p measured on n
        rows is uncertain by 1.96 sqrt(p (1 - p) / n) (the 95 % interval of a binomial share,
        Wald's); for p = 0.9 that is 0.59 / sqrt(n), and the warning comes where it exceeds 0.05,
        below 139 rows.

    Raises
    ------
    TypeError, ValueError
        Arrays of different lengths, sizes that do not add up, a part without rows, a class with
        fewer members than there are parts, groups too few or too large.
    """
    rows = _common_length(arrays)
    counts = _counts(sizes, rows)
    shuffle = arguments.check_bool("shuffle", shuffle)
    seed = arguments.check_integer("seed", seed, 0, arguments.SEED_LIMIT)
    labels = None if stratify is None else _numbered("stratify", stratify, rows)
    members = None if groups is None else _numbered("groups", groups, rows)
    if labels is not None:
        _check_classes(stratify, labels, len(counts))
    order = np.arange(rows)
    if shuffle:
        order = order_of(random_words(rows, (seed, 0, _SPLIT), STREAM_SHUFFLE))

    if members is not None:
        part = _by_group(order, members, labels, counts)
    elif labels is not None:
        part = _by_class(order, labels, counts)
    else:
        part = np.empty(rows, np.int64)
        part[order] = np.repeat(np.arange(len(counts)), counts)
    chosen = [order[part[order] == i] for i in range(len(counts))]
    _warn_if_small([len(rows) for rows in chosen])
    if not shuffle and labels is None and members is None:
        ends = [sum(counts[: i + 1]) for i in range(len(counts))]
        slices = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
        return [tuple(_slice(x, piece) for x in arrays) for piece in slices]
    return [tuple(_take(x, rows) for x in arrays) for rows in chosen]


# ---- arguments -------------------------------------------------------------------------------


def _common_length(arrays: tuple[Any, ...]) -> int:
    if not arrays:
        raise TypeError("arrays: expected at least one, got none")
    lengths = []
    for i, x in enumerate(arrays):
        shape = getattr(x, "shape", None)
        if (not shape and not hasattr(x, "__len__")) or not hasattr(x, "__getitem__"):
            raise TypeError(
                f"arrays[{i}]: expected an array or a list, got {arguments.describe(x)}"
            )
        lengths.append(int(shape[0]) if shape else len(x))
    if len(set(lengths)) > 1:
        raise ValueError(f"arrays: expected as many rows in each, got {lengths}")
    return lengths[0]


def _counts(sizes: Any, rows: int) -> list[int]:
    """Return how many rows each part gets."""
    if isinstance(sizes, str) or not isinstance(sizes, Sequence | np.ndarray) or len(sizes) < 2:
        raise TypeError(f"sizes: expected fractions or counts of two or more parts, got {sizes!r}")
    given = list(sizes)
    if all(isinstance(size, numbers.Integral) for size in given):
        counts = [arguments.check_integer("sizes", size, 1) for size in given]
        if sum(counts) != rows:
            raise ValueError(
                f"sizes: expected counts that sum to the {rows} rows, got {given} "
                f"with sum {sum(counts)}"
            )
        return counts
    fractions = [arguments.check_positive("sizes", size) for size in given]
    total = math.fsum(fractions)
    if abs(total - 1) > 1e-9:
        raise ValueError(f"sizes: expected fractions that sum to 1, got {given} with sum {total:g}")
    counts = largest_remainder(fractions, rows)
    if 0 in counts:
        raise ValueError(
            f"sizes: expected at least one row in each part, got {counts} of {rows} rows"
        )
    return counts


def largest_remainder(fractions: Sequence[float], total: int) -> list[int]:
    """Return integers near fractions * total with the sum `total`.

    Each is rounded down, and those with the largest remainders get one more, the first of equals
    first (Hare's method).
    """
    shares = [fraction * total for fraction in fractions]
    counts = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: counts[i] - shares[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def _numbered(name: str, labels: Any, rows: int) -> NDArray[np.int64]:
    """Return labels as numbers from 0 on, (rows,)."""
    labels = np.asarray(labels)
    if labels.shape == (rows, 1):
        labels = labels[:, 0]
    arguments.check_shape(name, labels, (rows,), "(one label per row)")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise ValueError(f"{name}: expected labels, got NaN or infinity among them")
    numbered: NDArray[np.int64] = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return numbered


def _check_classes(names: Any, labels: NDArray[np.int64], parts: int) -> None:
    members = np.bincount(labels)
    few = np.flatnonzero(members < parts)
    if few.size:
        name = np.asarray(names).reshape(-1)[np.argmax(labels == few[0])]
        raise ValueError(
            f"stratify: expected at least {parts} members of every class, one for each part, got "
            f"{members[few[0]]} of class {name!s}; join rare classes or leave stratify out"
        )


def _warn_if_small(counts: list[int]) -> None:
    small = []
    for i, count in enumerate(counts[1:], 1):
        half_width = 1.96 * math.sqrt(0.9 * 0.1 / count)
        if half_width > _TOO_COARSE:
            small.append(f"part {i} has {count} rows (+-{100 * half_width:.1f} points)")
    if small:
        warnings.warn(
            f"train_dev_test_split: too small to tell two models apart: {', '.join(small)}; so "
            "uncertain (95 %) is an accuracy near 90 % measured there. Cross-validate, or compare "
            "over several seeds",
            UserWarning,
            stacklevel=3,
        )


# ---- which row goes where --------------------------------------------------------------------


def _by_class(
    order: NDArray[np.int64], labels: NDArray[np.int64], counts: list[int]
) -> NDArray[np.int64]:
    """Return the part of each row: of every class its share to within one row.

    Shares (class, part) are rounded down; the rows left over in a class go to the parts that lack
    most.  Going through the classes in any order, this meets all sizes exactly (D. Gale, "A
    theorem on flows in networks", 1957: the shares themselves show that it can be done).
    """
    members, missing = np.bincount(labels), np.array(counts)
    table, rest = np.divmod(np.outer(members, missing), len(labels))
    missing -= table.sum(axis=0)
    for row, left in zip(table, rest, strict=True):
        up = np.lexsort((-left, -missing))[: left.sum() // len(labels)]
        row[up] += 1
        missing[up] -= 1
    part = np.empty(len(labels), np.int64)
    in_order = order[np.argsort(labels[order], kind="stable")]  # class by class
    part[in_order] = np.repeat(np.tile(np.arange(len(counts)), len(table)), table.reshape(-1))
    return part


def _by_group(
    order: NDArray[np.int64],
    members: NDArray[np.int64],
    labels: NDArray[np.int64] | None,
    counts: list[int],
) -> NDArray[np.int64]:
    """Return the part of each row; each group goes whole to the part that lacks its rows most.

    `room` (part, class) is what is missing yet.  A group g (class) goes where |room - g|^2 falls
    most, which is where room @ g is largest; without labels there is one class.
    """
    groups = int(members.max(initial=-1)) + 1
    if groups < len(counts):
        raise ValueError(f"groups: expected at least {len(counts)} of them, got {groups}")
    classes = np.zeros(len(members), np.int64) if labels is None else labels
    width = int(classes.max()) + 1
    held = np.bincount(members * width + classes, minlength=groups * width)
    held = held.reshape(groups, width).astype(np.float64)
    sizes = np.array(counts)
    room = np.outer(sizes / sizes.sum(), held.sum(axis=0))
    first = np.unique(members[order], return_index=True)[1]
    part_of = np.empty(groups, np.int64)
    for group in np.argsort(first):
        part_of[group] = place = int(np.argmax(room @ held[group]))
        room[place] -= held[group]
    empty = set(range(len(counts))) - set(part_of.tolist())
    if empty:
        raise ValueError(
            f"groups: expected groups small enough for {counts} rows, but part {min(empty)} got "
            f"none: the largest group has {int(held.sum(axis=1).max())} rows"
        )
    return part_of[members]


def _take(x: Any, rows: NDArray[np.int64]) -> Any:
    if hasattr(x, "iloc"):
        return x.iloc[rows]
    return x[rows] if hasattr(x, "shape") else [x[i] for i in rows]


def _slice(x: Any, rows: slice) -> Any:
    if hasattr(x, "iloc"):
        return x.iloc[rows]
    return x[rows] if hasattr(x, "shape") else list(x[rows])
