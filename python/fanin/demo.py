"""`python -m fanin demo`: a real training, the same one in NumPy, and what the layers do.

Two fixed recipes, chosen on splits and seeds other than the ones shown: scikit-learn's handwritten
digits, and a file of the user's own. Both are relu networks with dropout, trained by Adam with a
learning rate that falls linearly to zero.
"""

from __future__ import annotations

import argparse
import os
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import reference, runtime
from .dense import dense_forward
from .network import MLP
from .optimizer import Adam

MOST_REPEATED_STEPS = 2000  # a longer training is not repeated whole by the NumPy reference,
COMPARED_STEPS = 100  # but for so many steps
MOST_CLASSES = 100_000
MOST_ROWS = 4096  # looked at for the statistics of activations

Array = NDArray[Any]
OURS = SimpleNamespace(MLP=MLP, Adam=Adam)  # beside `reference`, which has the same names


class Unusable(ValueError):
    """Input the demo cannot train on; the message is one line for the user."""


@dataclass(frozen=True)
class Data:
    """What to train on: images as rows, labels from 0."""

    name: str
    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array
    classes: int
    input_scale: float | None
    validation: tuple[Array, Array] | None = None


@dataclass(frozen=True)
class Recipe:
    """How to train: the network between input and output, and the schedule."""

    hidden: tuple[int, ...]
    dropout: float
    learning_rate: float
    batch_size: int
    epochs: int

    def steps(self, rows: int) -> int:
        return self.epochs * -(-rows // self.batch_size)

    def schedule(self, rows: int) -> Callable[[int], float]:
        """The learning rate of each step: falling linearly, to zero after the last."""
        total = self.steps(rows)
        return lambda step: self.learning_rate * (1 - step / total)

    def network(self, mlp: type, data: Data, seed: int, dtype: str) -> Any:
        sizes = [data.x_train.shape[1], *self.hidden, data.classes]
        return mlp(sizes, activation="relu", dropout=self.dropout, seed=seed, dtype=dtype)


DIGITS = Recipe((256, 128), dropout=0.2, learning_rate=2e-3, batch_size=32, epochs=30)
FILE = Recipe((512, 256), dropout=0.2, learning_rate=1e-3, batch_size=128, epochs=10)


# Data ------------------------------------------------------------------------------------------


def digits(split: int) -> Data:
    """scikit-learn's 1797 digits of 8 x 8 pixels, a quarter of each class held out."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise Unusable(
            "the digits come with scikit-learn, which is not installed: "
            'pip install scikit-learn tqdm (or the extra, pip install ".[demo]")'
        ) from None
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        x.astype(np.uint8), y, test_size=0.25, random_state=split, stratify=y
    )
    return Data(f"digits, split {split}", x_train, y_train, x_test, y_test, 10, 1 / 16)


def from_file(path: str) -> Data:
    """The arrays of an .npz file, checked; `Unusable` says what is wrong with it."""
    try:
        if not zipfile.is_zipfile(path):
            found = "a file that is not one, or is cut short" if os.path.isfile(path) else "none"
            raise Unusable(f"{path}: expected an .npz archive of arrays, found {found}")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files if name[:2] in ("x_", "y_")}
    except Unusable:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Unusable(f"{path}: expected arrays without pickles, found: {reason}") from None

    parts = ["train", "test"]
    if "x_val" in arrays or "y_val" in arrays:
        parts.append("val")
    missing = [k for part in parts for k in (f"x_{part}", f"y_{part}") if k not in arrays]
    if missing:
        found = ", ".join(sorted(arrays)) or "none of the expected arrays"
        raise Unusable(f"{path}: {', '.join(missing)} missing; found {found}")
    pairs = {part: checked(path, part, arrays) for part in parts}

    x_train, y_train = pairs["train"]
    for part in parts[1:]:
        x = pairs[part][0]
        if x.shape[1] != x_train.shape[1]:
            raise Unusable(
                f"{path}: x_{part}: expected {x_train.shape[1]} columns as x_train, "
                f"got {x.shape[1]}"
            )
        if x.dtype != x_train.dtype:
            raise Unusable(f"{path}: x_{part}: expected {x_train.dtype} as x_train, got {x.dtype}")
    classes = int(max(y.max() for _, y in pairs.values())) + 1
    return Data(
        path.replace("\\", "/").rsplit("/", 1)[-1],
        x_train,
        y_train,
        *pairs["test"],
        max(classes, 2),
        1 / 255 if x_train.dtype == np.uint8 else None,
        pairs.get("val"),
    )


def checked(path: str, part: str, arrays: dict[str, Array]) -> tuple[Array, Array]:
    """x as (rows, pixels) and y as (rows,) labels, or `Unusable`."""
    x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
    if x.ndim < 2 or x.size == 0 or x.dtype.kind not in "buif":
        raise Unusable(
            f"{path}: x_{part}: expected one row of numbers per sample, "
            f"got {x.dtype} of shape {x.shape}"
        )
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        where = ", ".join(map(str, np.argwhere(~np.isfinite(x))[0]))
        raise Unusable(f"{path}: x_{part}: expected finite numbers, got NaN or inf at [{where}]")
    if y.ndim != 1 or y.dtype.kind not in "ui":
        raise Unusable(
            f"{path}: y_{part}: expected integer labels of shape ({len(x)},), "
            f"got {y.dtype} of shape {y.shape}"
        )
    if len(y) != len(x):
        raise Unusable(f"{path}: y_{part}: expected {len(x)} labels as x_{part}, got {len(y)}")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= MOST_CLASSES:
        raise Unusable(
            f"{path}: y_{part}: expected labels in [0, {MOST_CLASSES}), got {low} to {high}"
        )
    return x.reshape(len(x), -1), y


# Training --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """A network after training, its loss per epoch or step, and the seconds it took."""

    net: Any
    losses: list[float]
    seconds: float


def train(
    package: Any,
    data: Data,
    recipe: Recipe,
    seed: int,
    dtype: str = "float32",
    progress: str | bool = False,
) -> Trained:
    """Trains by the recipe, with the network and the optimizer of `package`."""
    net = recipe.network(package.MLP, data, seed, dtype)
    optimizer = package.Adam(recipe.schedule(len(data.x_train)))
    begin = time.perf_counter()
    try:
        history = net.fit(
            data.x_train,
            data.y_train,
            validation=data.validation,
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            optimizer=optimizer,
            input_scale=data.input_scale,
            progress=progress,
        )
    except ValueError as error:
        raise Unusable(f"{data.name}: {error}") from None
    if history.interrupted:
        raise KeyboardInterrupt
    return Trained(net, history.loss, time.perf_counter() - begin)


def first_steps(
    package: Any, data: Data, recipe: Recipe, seed: int, dtype: str, steps: int
) -> Trained:
    """The first steps of a training, over unshuffled batches."""
    net = recipe.network(package.MLP, data, seed, dtype)
    optimizer = package.Adam(recipe.schedule(len(data.x_train)))
    size = recipe.batch_size
    batches = [
        (scaled(data.x_train[at : at + size], data, dtype), data.y_train[at : at + size])
        for at in range(0, min(steps * size, len(data.x_train)), size)
    ]
    begin = time.perf_counter()
    losses = [float(net.train_step(*batches[i % len(batches)], optimizer)) for i in range(steps)]
    return Trained(net, losses, time.perf_counter() - begin)


def scaled(x: Array, data: Data, dtype: str) -> Array:
    """Rows as the network sees them in `fit`: cast, then scaled."""
    return x.astype(dtype) * np.dtype(dtype).type(data.input_scale or 1)


def difference(ours: list[float], theirs: list[float]) -> float:
    """The largest relative difference of two loss curves."""
    a, b = np.asarray(ours), np.asarray(theirs)
    return float(np.max(np.abs(a - b) / np.abs(b)))


def compare(data: Data, recipe: Recipe, seed: int, trained: Trained) -> None:
    """Does the training again with the NumPy reference and prints how the two differ."""
    total = recipe.steps(len(data.x_train))
    if total <= MOST_REPEATED_STEPS:
        what = "the same training"
        ours, theirs = trained, train(reference, data, recipe, seed)
        exact = [train(package, data, recipe, seed, "float64") for package in (OURS, reference)]
    else:
        what = f"the first {COMPARED_STEPS} steps, unshuffled,"
        ours, theirs, *exact = (
            first_steps(package, data, recipe, seed, dtype, COMPARED_STEPS)
            for dtype in ("float32", "float64")
            for package in (OURS, reference)
        )
    apart = difference(ours.losses, theirs.losses)
    apart_exact = difference(exact[0].losses, exact[1].losses)
    print(
        f"\n{what} by fanin.reference (NumPy): {theirs.seconds:.2f} s, "
        f"{theirs.seconds / ours.seconds:.1f} times fanin's {ours.seconds:.2f} s\n"
        f"largest relative difference of the loss curves: {apart_exact:.0e} in float64, "
        f"{apart:.0e} in float32\n"
        "  (same seed, same masks; sums are rounded in another order, and in float32 a relu near 0"
        "\n  now and then falls to the other side, which later steps amplify)"
    )
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        if name in os.environ:
            print(f"  ({name} is set, which slows NumPy down: unset it for a fair comparison)")


def activation_table(net: Any, data: Data) -> None:
    """Prints statistics of each layer's activations, made while the layer is computed."""
    rows = data.x_train[:MOST_ROWS]
    a = scaled(rows, data, net.parameters.dtype.name)
    print(f"\nactivations of the first {len(rows)} training samples, dropout off")
    print("layer  shape      activation     mean      std      min      max    zero  sat.  dead")
    for i, layer in enumerate(net.layers):
        options = {"activation": layer.activation, "stats": True}
        a, cache = dense_forward(a, layer.weight, layer.bias, **options)
        s = cache.stats
        assert s is not None
        shape = f"{layer.fan_in}-{layer.fan_out}"
        print(
            f"{i:5}  {shape:10} {layer.activation:10}{s.mean:9.3f}{s.std:9.3f}{s.min:9.2f}"
            f"{s.max:9.2f}{s.zero_fraction:7.1%}{s.saturated_fraction:6.1%}{len(s.dead_units):6}"
        )


def report(data: Data, recipe: Recipe, seed: int, compared: bool) -> None:
    """One training, told in full."""
    trained = train(OURS, data, recipe, seed, progress="auto")
    net, seconds = trained.net, trained.seconds
    steps = recipe.steps(len(data.x_train))
    build = runtime.build_info()
    print(f"train accuracy     {net.evaluate(data.x_train, data.y_train)['accuracy']:7.2%}")
    if data.validation:
        print(f"validation         {net.evaluate(*data.validation)['accuracy']:7.2%}")
    print(f"held-out accuracy  {net.evaluate(data.x_test, data.y_test)['accuracy']:7.2%}")
    print(
        f"time               {seconds:.2f} s for {steps} steps, {seconds / steps * 1e6:.0f} us each"
        f" ({build['isa']}, {build['threads']} threads)"
    )
    if compared:
        compare(data, recipe, seed, trained)
    activation_table(net, data)


def accuracies(name: str, count: int, one: Callable[[int], tuple[Data, Recipe, int]]) -> None:
    """Prints the held-out accuracy of several trainings, and their mean."""
    found = []
    for i in range(count):
        data, recipe, seed = one(i)
        trained = train(OURS, data, recipe, seed)
        found.append(trained.net.evaluate(data.x_test, data.y_test)["accuracy"])
        print(
            f"{name} {i}: held-out accuracy {found[-1]:.2%} ({trained.seconds:.2f} s)", flush=True
        )
    print(f"mean of {count}: {np.mean(found):.2%}")


def run(options: argparse.Namespace) -> None:
    """The demo, as its command line says."""
    if options.threads:
        try:
            runtime.set_num_threads(options.threads)
        except ValueError as error:
            raise Unusable(f"--threads: {error}") from None
    recipe = FILE if options.data else DIGITS
    if options.epochs:
        recipe = replace(recipe, epochs=options.epochs)
    data = from_file(options.data) if options.data else digits(options.seed)
    sizes = "-".join(map(str, (data.x_train.shape[1], *recipe.hidden, data.classes)))
    print(
        f"{data.name}: {len(data.x_train)} samples to train on, {len(data.x_test)} held out, "
        f"{data.classes} classes\n"
        f"MLP {sizes}, relu, dropout {recipe.dropout}, float32; Adam, learning rate "
        f"{recipe.learning_rate} falling to 0,\n{recipe.epochs} epochs, batches of "
        f"{recipe.batch_size}",
        flush=True,
    )
    if options.splits:
        accuracies("split", options.splits, lambda i: (digits(i), recipe, options.seed))
    elif options.seeds:
        accuracies("seed", options.seeds, lambda i: (data, recipe, options.seed + i))
    else:
        report(data, recipe, options.seed, not options.no_reference)
