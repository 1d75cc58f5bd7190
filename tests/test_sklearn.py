"""The estimators of `fanin.sklearn` beside scikit-learn's own."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import sklearn
from sklearn import neural_network
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    make_multilabel_classification,
)
from sklearn.utils.estimator_checks import check_estimator

import fanin
import fanin.sklearn

OURS = {"classifier": fanin.sklearn.MLPClassifier, "regressor": fanin.sklearn.MLPRegressor}
THEIRS = {"classifier": neural_network.MLPClassifier, "regressor": neural_network.MLPRegressor}
ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def digits():
    x, y = load_digits(return_X_y=True)
    return x, y


def cancer():
    x, y = load_breast_cancer(return_X_y=True)
    return x, y


def labels():
    return make_multilabel_classification(n_samples=300, random_state=0)


def diabetes():
    x, y = load_diabetes(return_X_y=True)
    return x, y / 50


def two_targets():
    x, y = load_diabetes(return_X_y=True)
    return x, np.column_stack([y, np.sqrt(y)]) / 50


def weights(rows):
    return np.random.default_rng(5).uniform(0.1, 3, rows)


RUNS = [
    ("classifier", digits, {}),
    ("classifier", digits, {"activation": "tanh", "hidden_layer_sizes": (30, 20), "alpha": 1.0}),
    ("classifier", digits, {"activation": "logistic", "early_stopping": True}),
    ("classifier", digits, {"activation": "identity", "batch_size": 7, "shuffle": False}),
    ("classifier", digits, {"solver": "sgd", "learning_rate": "invscaling", "power_t": 0.3}),
    ("classifier", digits, {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.5,
                            "n_iter_no_change": 1, "learning_rate_init": 0.01}),
    ("classifier", digits, {"solver": "sgd", "momentum": 1.0, "learning_rate_init": 1e-4}),
    ("classifier", digits, {"solver": "sgd", "momentum": 0.0}),
    ("classifier", digits, {"solver": "sgd", "nesterovs_momentum": False}),
    ("classifier", digits, {"weighted": True, "alpha": 0.1}),
    ("classifier", cancer, {}),  # unscaled: probabilities at their limits
    ("classifier", cancer, {"solver": "sgd", "early_stopping": True}),
    ("classifier", cancer, {"weighted": True, "early_stopping": True, "alpha": 0.1}),
    ("classifier", labels, {}),
    ("classifier", labels, {"early_stopping": True, "weighted": True}),
    ("regressor", diabetes, {}),
    ("regressor", diabetes, {"early_stopping": True, "activation": "tanh", "alpha": 0.3}),
    ("regressor", diabetes, {"loss": "poisson", "weighted": True}),
    ("regressor", two_targets, {"solver": "sgd"}),
    ("regressor", two_targets, {"weighted": True}),
    ("regressor", two_targets, {"loss": "poisson"}),
    ("regressor", two_targets, {"hidden_layer_sizes": ()}),
]  # fmt: skip


def both(kind, data, settings, **more):
    """Return scikit-learn's estimator and ours, fitted to the same data."""
    x, y = data()
    settings = {"random_state": 3, "max_iter": 5} | settings | more
    fit = {"sample_weight": weights(len(x))} if settings.pop("weighted", False) else {}
    return [source[kind](**settings).fit(x, y, **fit) for source in (THEIRS, OURS)]


@pytest.mark.parametrize(("kind", "data", "settings"), RUNS)
def test_the_same_training(kind, data, settings):
    """The stated 1e-6 on the loss curve; both compute the same steps in float64."""
    theirs, ours = both(kind, data, settings)
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-6, atol=1e-12)
    assert len(ours.loss_curve_) == ours.n_iter_ == theirs.n_iter_
    for name in ("t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(ours, name) == getattr(theirs, name)
    for name in ("best_loss_", "best_validation_score_", "loss_"):
        if getattr(theirs, name) is None:
            assert getattr(ours, name) is None
        else:
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-6)
    if theirs.validation_scores_ is None:
        assert ours.validation_scores_ is None
    else:
        np.testing.assert_allclose(ours.validation_scores_, theirs.validation_scores_, rtol=1e-6)
    for name in ("coefs_", "intercepts_"):
        for a, b in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)
    x, y = data()
    assert ours.score(x, y) == pytest.approx(theirs.score(x, y), rel=1e-6)
    if kind == "classifier":
        np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))
        assert ours.predict(x).dtype == theirs.predict(x).dtype
        np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-6)
    else:
        np.testing.assert_allclose(ours.predict(x), theirs.predict(x), rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "data"),
    [("classifier", digits), ("classifier", labels), ("regressor", two_targets)],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_lbfgs(kind, data, weighted):
    """The same iterations: both give SciPy the same function, to rounding."""
    theirs, ours = both(kind, data, {"solver": "lbfgs", "weighted": weighted, "alpha": 0.1})
    assert ours.n_iter_ == theirs.n_iter_ == 5
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=1e-6)


# ---- calls one after the other -------------------------------------------------------------------


def parts(e):
    x, y = digits()
    for i in range(0, 1700, 100):
        e.partial_fit(x[i : i + 100], y[i : i + 100], classes=range(10))


def on_from_fit(e):
    x, y = digits()
    e.fit(x, y).partial_fit(x[:300], y[:300])


def on_from_weights(e):
    x, y = digits()
    e.set_params(warm_start=True).fit(x, y)
    e.set_params(alpha=0.5, max_iter=4).fit(x, y).fit(x[:700], y[:700])


def anew(e):
    e.fit(*digits()).fit(*cancer())


def weighted(e):
    x, y = digits()
    weight = np.random.default_rng(0).integers(0, 3, len(x))
    e.fit(x, y, sample_weight=weight).partial_fit(x, y, sample_weight=weight * 1.5)


def labels_in_parts(e):
    x, y = labels()
    for i in range(0, 300, 60):  # scikit-learn issue 12505
        e.partial_fit(x[i : i + 60], y[i : i + 60], classes=range(5))


def numbers_in_parts(e):
    for _ in range(4):
        e.partial_fit(*diabetes())


def until_it_stops(e):
    x, y = digits()
    e.set_params(max_iter=60, n_iter_no_change=3, tol=5e-3).fit(x / 16, y)


SOLVERS = [
    {"solver": "adam"},
    {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.05},
    {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.05, "tol": 1e-2},
]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.get("learning_rate", "adam"))
@pytest.mark.parametrize(
    "calls",
    [parts, on_from_fit, on_from_weights, anew, weighted, labels_in_parts, numbers_in_parts,
     until_it_stops],
)  # fmt: skip
def test_the_same_after_several_calls(calls, solver):
    """Losses, books and warnings; also with a RandomState that goes on from call to call."""
    kind = "regressor" if calls is numbers_in_parts else "classifier"
    for random_state in (0, None):
        found = []
        for source in (THEIRS, OURS):
            state = np.random.RandomState(7) if random_state is None else random_state
            settings = {"hidden_layer_sizes": (20,), "max_iter": 5} | solver
            e = source[kind](random_state=state, **settings)
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                calls(e)
            found.append((e, [(w.category, str(w.message)) for w in heard]))
        (theirs, they_said), (ours, we_said) = found
        # the stated bound; both compute the same steps in float64
        np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-6, atol=1e-12)
        for name in ("n_iter_", "t_", "_no_improvement_count"):
            assert getattr(ours, name) == getattr(theirs, name)
        assert ours.best_loss_ == pytest.approx(theirs.best_loss_, rel=1e-6)
        assert [w for w in we_said if w[0] is not RuntimeWarning] == [
            w for w in they_said if w[0] is not RuntimeWarning
        ]


# ---- scikit-learn's own checks and tests ---------------------------------------------------------

# What scikit-learn's own skips as well: no decision_function; array API needs a variable to be set.
SKIPPED = {
    "check_array_api_input",
    "check_classifiers_multilabel_output_format_decision_function",
}


@pytest.mark.parametrize("estimator", [
    fanin.sklearn.MLPClassifier(max_iter=100),
    fanin.sklearn.MLPRegressor(max_iter=100),
    pytest.param(fanin.sklearn.MLPClassifier(), marks=pytest.mark.slow),
    pytest.param(fanin.sklearn.MLPRegressor(), marks=pytest.mark.slow),
    pytest.param(fanin.sklearn.MLPClassifier(solver="lbfgs"), marks=pytest.mark.slow),
    pytest.param(fanin.sklearn.MLPClassifier(solver="sgd", max_iter=50), marks=pytest.mark.slow),
    pytest.param(fanin.sklearn.MLPRegressor(solver="sgd", tol=1e-2), marks=pytest.mark.slow),
], ids=str)  # fmt: skip
def test_scikit_learns_checks(estimator):
    results = check_estimator(estimator, on_fail=None, on_skip=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert not failed
    assert {r["check_name"] for r in results if r["status"] == "skipped"} <= SKIPPED
    assert len(results) > 50


@pytest.mark.slow
@pytest.mark.parametrize("kind", OURS)
def test_no_more_is_skipped_than_for_scikit_learns_own(kind):
    ours, theirs = (check_estimator(source[kind](), on_fail=None, on_skip=None)
                    for source in (OURS, THEIRS))  # fmt: skip
    assert [r["check_name"] for r in ours] == [r["check_name"] for r in theirs]
    assert [r["status"] for r in ours] == [r["status"] for r in theirs]


def test_scikit_learns_own_tests():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "mlp_in_place", "-p", "no:cacheprovider",
               "--pyargs", "sklearn.neural_network.tests.test_mlp"]  # fmt: skip
    paths = [str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(command, cwd=Path(sklearn.__file__).parent, env=environment,
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout and "3 xfailed" in done.stdout
