"""fanin's scikit-learn estimators beside scikit-learn's own: times and test scores, equal settings.

    python bench/estimators.py mnist.npz letter.npz magic.npz adult.npz cal_housing.npz

Without files: scikit-learn's digits alone, which are always there. A file holds x_train, y_train,
x_test, y_test, or X_train ..., or X and y (a fifth becomes test data); num_ and cat_ in place of X_
where columns are categories, or `cats`, the names of the codes in the last column. Integers as y
are classes. Inputs are scaled, and targets of a regression. MNIST: pixels / 255, hidden layers
(512, 256), 5 epochs, adam and sgd, in both dtypes; the others: default settings, float64, up to 200
epochs. The two take turns, each in a process of its own, seed by seed, with a pause in which the
other's threads fall asleep. Then `predict` of one row. An asterisk: above the limit.
"""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np

Array = Any
CONTESTANTS = ("fanin", "scikit-learn")
TABLE = {"default": ({}, "float64", 0.15)}
IMAGES = {  # settings, dtype, limit of the ratio of times
    f"{solver} {dtype}": (
        {"hidden_layer_sizes": (512, 256), "max_iter": 5, "solver": solver},
        dtype,
        limit,
    )
    for dtype in ("float32", "float64")
    for solver, limit in (("adam", 0.30), ("sgd", 0.40))
}
PREDICT_LIMIT = 0.25


def is_images(path: str) -> bool:
    return Path(path).stem == "mnist"


def runs_of(path: str) -> dict[str, Any]:
    """Name of a run: settings, dtype, limit."""
    return IMAGES if is_images(path) else TABLE


def read(path: str) -> tuple[Array, Array, Array, Array]:
    """x_train, y_train, x_test, y_test, scaled, float64."""
    from sklearn.compose import make_column_transformer
    from sklearn.datasets import load_digits
    from sklearn.impute import SimpleImputer
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    if path == "digits":
        x, y = load_digits(return_X_y=True)
        table = {"X": x, "y": y}
    else:
        with np.load(path) as file:
            table = {name.lower() if is_images(path) else name: file[name] for name in file}
    if is_images(path):
        x, y, x_test, y_test = (table[k] for k in ("x_train", "y_train", "x_test", "y_test"))
        return x / 255.0, y.astype(np.int64), x_test / 255.0, y_test.astype(np.int64)
    categories = [table["X"].shape[1] - 1] if "cats" in table else []
    if "num_train" in table:
        for part in ("train", "test"):
            table[f"X_{part}"] = np.hstack([table[f"num_{part}"], table[f"cat_{part}"]])
        categories = list(range(table["num_train"].shape[1], table["X_train"].shape[1]))
    if "X" in table:
        parts = train_test_split(table["X"], table["y"], test_size=0.2, random_state=0)
        table |= dict(zip(("X_train", "X_test", "y_train", "y_test"), parts, strict=True))
    y, y_test = table["y_train"], table["y_test"]
    if not np.issubdtype(y.dtype, np.integer):
        scaler = StandardScaler().fit(y.reshape(-1, 1).astype(np.float64))
        y, y_test = (scaler.transform(part.reshape(-1, 1)).ravel() for part in (y, y_test))
    one_each = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = make_pipeline(
        make_column_transformer((one_each, categories), remainder=SimpleImputer(strategy="median")),
        StandardScaler(),
    )
    x = columns.fit_transform(table["X_train"].astype(np.float64))
    return x, y, columns.transform(table["X_test"].astype(np.float64)), y_test


class Contestant:
    """One library's estimators on one data set, in a process of its own."""

    def __init__(self, name: str, path: str) -> None:
        if name == "fanin":
            import fanin.sklearn as library
        else:
            from sklearn import neural_network as library
        self.library, self.path = library, path
        self.data = read(path)
        self.model: Any = None

    def fit(self, run: str, seed: int) -> dict[str, float]:
        """Seconds of `fit`, the score on the test rows, and the epochs."""
        from sklearn.exceptions import ConvergenceWarning

        settings, dtype, _ = runs_of(self.path)[run]
        x, y, x_test, y_test = self.data
        x, x_test = x.astype(dtype), x_test.astype(dtype)
        classes = np.issubdtype(y.dtype, np.integer)
        kind = self.library.MLPClassifier if classes else self.library.MLPRegressor
        self.model = kind(random_state=seed, **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            begin = time.perf_counter()
            self.model.fit(x, y)
            seconds = time.perf_counter() - begin
        score = float(self.model.score(x_test, y_test))
        return {"seconds": seconds, "score": score, "epochs": self.model.n_iter_}

    def predict(self, seconds: float) -> dict[str, float]:
        """Seconds of `predict` for one row, by the model fitted last."""
        row = np.ascontiguousarray(self.data[2][:1].astype(self.model.coefs_[0].dtype))
        count, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            for _ in range(10):
                self.model.predict(row)
            count += 10
        return {"seconds": (time.perf_counter() - begin) / count}


def compare(figures: Any, given: Any, path: str) -> None:
    """All runs on one data set, then `predict`."""
    import script
    from fanin.bench import race

    name = Path(path).stem
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(race.Process(one, [__file__, "worker", one, path], given.threads))
            for one in CONTESTANTS
        ]
        for run, (_, _, limit) in runs_of(path).items():
            found: dict[str, list[Any]] = {one: [] for one in CONTESTANTS}
            for seed in range(given.seeds):
                script.progress(f"{name}, {run}, seed {seed}")
                for worker in workers:
                    time.sleep(race.PAUSE)
                    found[worker.contestant].append(worker.ask("fit", run=run, seed=seed))
            row: dict[str, Any] = {"kind": "estimator", "data": name, "run": run, "limit": limit}
            for one in CONTESTANTS:
                for key in ("seconds", "score", "epochs"):
                    row[f"{one} {key}"] = [each[key] for each in found[one]]
            ours, theirs = (row[f"{one} score"] for one in CONTESTANTS)
            a, b = (median(row[f"{one} seconds"]) for one in CONTESTANTS)
            spread = stdev(theirs) if len(theirs) > 1 else 0.0
            figures.add(
                f"{name:12}{run:13}{mean(ours):8.4f} {mean(theirs):8.4f} +- {spread:.4f} "
                f"{a:9.2f} {b:9.2f}   {script.against(a / b, limit)}",
                **row,
            )
        times: dict[str, list[float]] = {one: [] for one in CONTESTANTS}
        for _ in range(given.slices):
            for worker in workers:
                time.sleep(race.PAUSE)
                answer = worker.ask("predict", seconds=given.seconds)
                times[worker.contestant].append(answer["seconds"])
        a, b = (median(times[one]) for one in CONTESTANTS)
        figures.add(
            f"{name:12}{'one row, us':13}{'':28} {a * 1e6:9.1f} {b * 1e6:9.1f}   "
            f"{script.against(a / b, PREDICT_LIMIT)}",
            kind="predict", data=name, **times,
        )  # fmt: skip


def main() -> None:
    """All files; a worker answers for one library and one file."""
    if sys.argv[1:2] == ["worker"]:
        from fanin.bench import worker

        worker.serve(Contestant(*sys.argv[2:]))
        return
    import script

    parser = script.options(__doc__ or "", slices=7, seconds=0.1)
    parser.add_argument("data", nargs="*", metavar="FILE.npz", default=["digits"])
    parser.add_argument("--seeds", type=int, default=10, help="runs of each (10)")
    given = parser.parse_args()
    figures = script.Figures(given)
    figures.say(
        f"\nfit, {given.seeds} seeds: mean scores on test rows, with scikit-learn's spread, and "
        f"median seconds\n{'data':12}{'run':13}{'fanin':>8} {'scikit-learn':>18} {'fanin s':>9} "
        f"{'sklearn s':>9}   ratio"
    )
    for path in given.data:
        compare(figures, given, path)
    figures.save()


if __name__ == "__main__":
    main()
