"""Tables of numbers and categories: settings chosen on held-out rows, then scores on test rows.

    python examples/tabular.py                              # two small tables of scikit-learn's
    python examples/tabular.py adult.npz magic.npz --compare --report .

A file holds X and y (a fifth of the rows becomes test data), or X_train, y_train, X_test, y_test.
Where columns are categories, it has num_ and cat_ arrays in place of X_, or `cats`, the names of
the codes in the last column. Integers as y are classes, anything else makes it a regression.

Missing numbers become the column's median, categories a column each; all columns are scaled, and so
are the targets of a regression. Medians and scales are those of the rows that are trained on.
Each seed holds out a fifth of the training rows of its own, on which training stops early; the
setting is chosen with the first, whose network is diagnosed. --compare trains scikit-learn's MLP
besides, with its default settings, on the same columns of all training rows; --report writes a page
about the diagnosed training.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
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
    classes = y if is_classes(y) else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of few rows: hence several seeds
        kept, held = fanin.train_dev_test_split(x, y, sizes=(0.8, 0.2), stratify=classes, seed=seed)
    return kept[0], held[0], kept[1], held[1]


def is_classes(y) -> bool:
    return np.issubdtype(y.dtype, np.integer)


def inputs(categories):
    """Return what makes numbers without holes of a table's rows, by statistics of training rows."""
    one_each = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    median = SimpleImputer(strategy="median")
    return make_column_transformer((one_each, categories), remainder=median)


def train(x, y, held_out, setting, seed):
    """Train until the loss of the held-out rows gets no better; return network and history."""
    hidden, options = setting
    outputs, output = (int(y.max()) + 1, "softmax") if is_classes(y) else (1, "identity")
    net = fanin.MLP(
        [x.shape[1], *hidden, outputs],
        output=output,
        standardizer=fanin.Standardizer(),
        target_standardizer=None if is_classes(y) else fanin.Standardizer(),
        seed=seed,
        **options,
    )
    patience = fanin.EarlyStopping("val_loss", patience=20)
    return net, net.fit(
        x, y, validation=held_out, epochs=200, early_stopping=patience, progress=False
    )


def fanin_score(table, settings, seed):
    """Return the setting that is best on held-out rows, its network's test score and history."""
    x_train, x_test, y_train, y_test, categories = table
    x, x_held, y, y_held = split(x_train, y_train, seed)
    columns = inputs(categories)
    x, x_held, x_test = columns.fit_transform(x), *map(columns.transform, (x_held, x_test))
    trained = [train(x, y, (x_held, y_held), setting, seed) for setting in settings]
    score = "accuracy" if is_classes(y) else "r2"
    best = int(np.argmax([net.evaluate(x_held, y_held)[score] for net, _ in trained]))
    net, history = trained[best]
    return settings[best], net.evaluate(x_test, y_test)[score], net, history


def sklearn_score(table, seed):
    """Return the test score of scikit-learn's MLP."""
    x_train, x_test, y_train, y_test, categories = table
    mlp = (MLPClassifier if is_classes(y_train) else MLPRegressor)(random_state=seed)
    if not is_classes(y_train):
        mlp = TransformedTargetRegressor(mlp, transformer=StandardScaler())
    model = make_pipeline(inputs(categories), StandardScaler(), mlp)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it does 200 epochs at most
        return model.fit(x_train, y_train).score(x_test, y_test)


def scores(name, seeds, run):
    """Print mean and standard deviation of the scores run(seed), and the time of one."""
    begin = time.perf_counter()
    found = [run(seed) for seed in range(seeds)]
    each = (time.perf_counter() - begin) / seeds
    print(f"  {name:13}{np.mean(found):.4f} +- {np.std(found):.4f}   {each:.1f} s each")


def study(name, table, options):
    begin = time.perf_counter()
    chosen, _, net, history = fanin_score(table, SETTINGS, 0)
    seconds = time.perf_counter() - begin
    print(f"{name}: {len(table[0])} rows to train on, {len(table[1])} to test")
    hidden, others = chosen
    words = [f"hidden layers {hidden}", *(f"{key} {value}" for key, value in others.items())]
    print(f"  chosen of {len(SETTINGS)}: {', '.join(words)}   {seconds:.1f} s")
    print(f"  diagnosis: {fanin.diagnose(history, net)}")
    if options.report:
        fanin.report(options.report / f"{name}.html", history, net)
    scores("fanin", options.seeds, lambda seed: fanin_score(table, [chosen], seed)[1])
    if options.compare:
        scores("scikit-learn", options.seeds, lambda seed: sklearn_score(table, seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="tables, .npz")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--compare", action="store_true", help="train scikit-learn's MLP besides")
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="where to write pages")
    options = parser.parse_args()
    for path in options.files:
        study(path.stem, read(path), options)
    if not options.files:
        for name, load in (("breast cancer", load_breast_cancer), ("diabetes", load_diabetes)):
            x, y = load(return_X_y=True)
            study(name, (*split(x, y, 0), []), options)


if __name__ == "__main__":
    main()
