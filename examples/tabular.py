"""Tables of numbers and categories: settings chosen on held-out rows, then scores on test rows.

    python examples/tabular.py                              # two small tables of scikit-learn's
    python examples/tabular.py adult.npz magic.npz --compare

A file holds X and y (a fifth of the rows becomes test data), or X_train, y_train, X_test, y_test.
Where columns are categories, it has num_ and cat_ arrays in place of X_, or `cats`, the names of
the codes in the last column. Integers as y are classes, anything else makes it a regression.

Missing numbers become the column's median, categories a column each; all columns are scaled, and so
are the targets of a regression. Medians and scales are those of the rows that are trained on.
Each seed holds out a fifth of the training rows of its own, on which training stops early; the
setting is chosen with the first. --compare trains scikit-learn's MLP besides, with its default
settings, on the same columns of all training rows.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import fanin

SETTINGS = (  # hidden layers, and what else an MLP takes
    ([100], {}),
    ([256, 128], {"dropout": 0.1}),
    ([256, 128], {"dropout": 0.25, "batch_norm": True}),
)


def read(path: Path):
    """Return x_train, x_test, y_train, y_test and the numbers of the columns with categories."""
    with np.load(path) as file:
        table = dict(file)
    categories = [table["X"].shape[1] - 1] if "cats" in table else []
    if "num_train" in table:
        for part in ("train", "test"):
            table[f"X_{part}"] = np.hstack([table[f"num_{part}"], table[f"cat_{part}"]])
        categories = list(range(table["num_train"].shape[1], table["X_train"].shape[1]))
    if "X" in table:
        return *split(table["X"], table["y"], 0), categories
    return *(table[name] for name in ("X_train", "X_test", "y_train", "y_test")), categories


def split(x, y, seed):
    """Hold out a fifth of the rows, and of each class a fifth."""
    return train_test_split(
        x, y, test_size=0.2, random_state=seed, stratify=y if is_classes(y) else None
    )


def is_classes(y) -> bool:
    return np.issubdtype(y.dtype, np.integer)


def inputs(categories):
    """Return what makes a network's inputs of a table's rows, by statistics of training rows."""
    one_each = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    median = SimpleImputer(strategy="median")
    filled = make_column_transformer((one_each, categories), remainder=median)
    return make_pipeline(filled, StandardScaler())


def scaled(y_train, *others):
    """Scale the targets of a regression by those of the training rows; leave classes alone."""
    if is_classes(y_train):
        return y_train, *others
    mean, std = y_train.mean(), y_train.std()
    return (*((y - mean) / std for y in (y_train, *others)),)


def train(x, y, held_out, setting, seed):
    """Train until the loss of the held-out rows gets no better."""
    hidden, options = setting
    outputs, output = (int(y.max()) + 1, "softmax") if is_classes(y) else (1, "identity")
    net = fanin.MLP([x.shape[1], *hidden, outputs], output=output, seed=seed, **options)
    patience = fanin.EarlyStopping("val_loss", patience=20)
    net.fit(x, y, validation=held_out, epochs=200, early_stopping=patience, progress=False)
    return net


def fanin_score(table, settings, seed):
    """Return the setting that is best on held-out rows, and the test score of its network."""
    x_train, x_test, y_train, y_test, categories = table
    x, x_held, y, y_held = split(x_train, y_train, seed)
    columns = inputs(categories)
    x, x_held, x_test = columns.fit_transform(x), *map(columns.transform, (x_held, x_test))
    y, y_held, y_test = scaled(y, y_held, y_test)
    nets = [train(x, y, (x_held, y_held), setting, seed) for setting in settings]
    score = "accuracy" if is_classes(y) else "r2"
    held = [net.evaluate(x_held, y_held)[score] for net in nets]
    best = int(np.argmax(held))
    return settings[best], nets[best].evaluate(x_test, y_test)[score]


def sklearn_score(table, seed):
    """Return the test score of scikit-learn's MLP."""
    x_train, x_test, y_train, y_test, categories = table
    y_train, y_test = scaled(y_train, y_test)
    mlp = (MLPClassifier if is_classes(y_train) else MLPRegressor)(random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it does 200 epochs at most
        return make_pipeline(inputs(categories), mlp).fit(x_train, y_train).score(x_test, y_test)


def report(name, seeds, run):
    """Print mean and standard deviation of the scores run(seed), and the time of one."""
    begin = time.perf_counter()
    scores = [run(seed) for seed in range(seeds)]
    each = (time.perf_counter() - begin) / seeds
    print(f"  {name:13}{np.mean(scores):.4f} +- {np.std(scores):.4f}   {each:.1f} s each")


def study(name, table, seeds, compare):
    begin = time.perf_counter()
    chosen, _ = fanin_score(table, SETTINGS, 0)
    seconds = time.perf_counter() - begin
    print(f"{name}: {len(table[0])} rows to train on, {len(table[1])} to test")
    hidden, options = chosen
    words = [f"hidden layers {hidden}", *(f"{key} {value}" for key, value in options.items())]
    print(f"  chosen of {len(SETTINGS)}: {', '.join(words)}   {seconds:.1f} s")
    report("fanin", seeds, lambda seed: fanin_score(table, [chosen], seed)[1])
    if compare:
        report("scikit-learn", seeds, lambda seed: sklearn_score(table, seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="tables, .npz")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--compare", action="store_true", help="train scikit-learn's MLP besides")
    options = parser.parse_args()
    for path in options.files:
        study(path.stem, read(path), options.seeds, options.compare)
    if not options.files:
        for name, load in (("breast cancer", load_breast_cancer), ("diabetes", load_diabetes)):
            x, y = load(return_X_y=True)
            study(name, (*split(x, y, 0), []), options.seeds, options.compare)


if __name__ == "__main__":
    main()
