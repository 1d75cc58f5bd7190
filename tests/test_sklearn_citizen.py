"""The estimators of `fanin.sklearn` among scikit-learn's tools: searches, copies, routing."""

from __future__ import annotations

import copy
import io
import multiprocessing
import os
import pickle
import subprocess
import sys
from functools import partial

import cloudpickle
import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn
from sklearn import neural_network
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    make_multilabel_classification,
)
from sklearn.ensemble import BaggingClassifier, StackingRegressor, VotingClassifier
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr
from threadpoolctl import threadpool_info, threadpool_limits

import fanin
from compare import same_bits
from fanin.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

DEADLINE = 60  # seconds after which a hang is called one
GRID = {"alpha": [1e-4, 1.0], "hidden_layer_sizes": [(20,), (30, 10)]}


def digits(rows=400):
    x, y = load_digits(return_X_y=True)
    return x[:rows] / 16, y[:rows]


def diabetes():
    x, y = load_diabetes(return_X_y=True)
    return x * 20, y


def small(kind=MLPClassifier, **settings):
    """An estimator that trains in milliseconds."""
    return kind(**{"hidden_layer_sizes": (20,), "max_iter": 6, "random_state": 2} | settings)


def same_weights(one, other):
    """Fail unless two estimators have the same bits as weights."""
    for name in ("coefs_", "intercepts_"):
        for a, b in zip(getattr(one, name), getattr(other, name), strict=True):
            same_bits(np.asarray(a), np.asarray(b))


# ---- several at once ----------------------------------------------------------------------------


def threads_of_fanin(estimator, x, y):
    """A "score": how many threads fanin would use where this runs."""
    return fanin.get_num_threads()


def test_threads_in_loky_workers():
    """A worker has the threads that joblib gives it: its share of the cores, or what it was told.

    joblib sets OMP_NUM_THREADS in the workers; fanin's default is the lesser of it and the cores.
    """
    x, y = digits(60)
    cores = fanin.build_info()["max_threads"]
    share = max(joblib.cpu_count() // 2, 1)
    for told in (cores, None):
        settings = {} if told is None else {"inner_max_num_threads": told}
        with joblib.parallel_config("loky", n_jobs=2, **settings):
            counts = cross_val_score(small(max_iter=1), x, y, cv=2, scoring=threads_of_fanin)
        assert counts.tolist() == [min(told or share, cores)] * 2


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_search(backend):
    """Two jobs find what one finds, to the bit."""
    x, y = digits()
    estimator = small(learning_rate_init=0.02, max_iter=15)
    alone = GridSearchCV(estimator, GRID, cv=2, n_jobs=1).fit(x, y)
    with joblib.parallel_config(backend):
        both = GridSearchCV(estimator, GRID, cv=2, n_jobs=2).fit(x, y)
    for column in ("mean_test_score", "rank_test_score", "split1_test_score"):
        same_bits(both.cv_results_[column], alone.cv_results_[column])
    assert both.best_params_ == alone.best_params_
    same_weights(both.best_estimator_, alone.best_estimator_)
    assert both.score(x, y) > 0.8  # of 10 classes: it has learned


def test_threads_of_a_threaded_search():
    """Python's threads share one pool: each job adds itself, none adds a pool of its own."""
    x, y = digits()

    def alive(estimator, x, y):
        return len(os.listdir("/proc/self/task"))

    small(hidden_layer_sizes=(200, 200)).fit(x, y)  # the pool has its threads from here on
    before = len(os.listdir("/proc/self/task"))
    with joblib.parallel_config("threading", n_jobs=4):
        counts = cross_val_score(
            small(hidden_layer_sizes=(200, 200), max_iter=2), x, y, cv=8, scoring=alive
        )
    # four jobs, and the three threads of multiprocessing.pool.ThreadPool that serve them
    assert max(counts) <= before + 4 + 3


def test_n_threads_of_fits_at_once():
    """The process has the number of threads of before once all fits are done, in any order."""
    x, y = digits()
    before = fanin.get_num_threads()
    fanin.set_num_threads(3)
    try:
        seen = joblib.Parallel(n_jobs=4, backend="threading")(
            joblib.delayed(fit_and_look)(x, y, n, epochs) for n, epochs in [(1, 9), (2, 1)] * 4
        )
        assert all(1 <= count <= n for n, counts in seen for count in counts)
        assert fanin.get_num_threads() == 3
        with pytest.raises(RuntimeError, match="enough"):
            small(n_threads=1, callbacks=[stop_with_an_error]).fit(x, y)
        assert fanin.get_num_threads() == 3
    finally:
        fanin.set_num_threads(before)


def fit_and_look(x, y, n, epochs):
    counts = []
    look = [lambda net, history: counts.append(fanin.get_num_threads())]
    small(n_threads=n, max_iter=epochs, callbacks=look).fit(x, y)
    return n, counts


def stop_with_an_error(net, history):
    raise RuntimeError("enough")


def blas_threads():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_lbfgs_and_the_threads_of_blas():
    """A fit's bits do not depend on them; after fits at once they are as many as before.

    Of those only the first limits them: the others agree to 1e-6, as in test_sklearn.py.
    """
    x, y = digits(100)

    def fit(epochs):
        estimator = small(solver="lbfgs", hidden_layer_sizes=(300,), max_iter=epochs)
        return estimator.fit(x, y)

    found = []
    for threads in (1, 2):  # OpenBLAS shares out sums of more than 10000 numbers
        with threadpool_limits(threads, user_api="blas"):
            found.append([fit(epochs) for epochs in (12, 2, 6)])
    before = blas_threads()
    found.append(joblib.Parallel(3, backend="threading")(map(joblib.delayed(fit), (12, 2, 6))))
    assert blas_threads() == before
    for one, other, at_once in zip(*found, strict=True):
        same_weights(one, other)
        assert at_once.loss_ == pytest.approx(one.loss_, rel=1e-6)


def in_child(connection, estimator, x, y):
    try:
        predicted = estimator.predict_proba(x)
        connection.send([predicted, *small(hidden_layer_sizes=(128, 64)).fit(x, y).coefs_])
    except BaseException as error:
        connection.send(repr(error))
    connection.close()


# Python warns of forks with threads alive; these are the pool's, which is made anew in the child.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_fork_after_fit():
    """The child of a process whose pool is at work predicts and fits the same bits."""
    x, y = digits()
    estimator = small(hidden_layer_sizes=(128, 64)).fit(x, y)
    expected = [estimator.predict_proba(x), *estimator.coefs_]
    context = multiprocessing.get_context("fork")
    for _ in range(3):
        here, there = context.Pipe(duplex=False)
        child = context.Process(target=in_child, args=(there, estimator, x, y))
        child.start()
        there.close()
        try:
            assert here.poll(DEADLINE), "the child hangs"
            for got, wanted in zip(here.recv(), expected, strict=True):
                same_bits(got, wanted)
        finally:
            child.kill()
            child.join()
    same_bits(estimator.predict_proba(x), expected[0])


# distributed's own loops and sockets, closed a moment after the test
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_search_on_dask():
    """A search on processes of a Dask cluster finds what one finds here, to the bit."""
    from distributed import Client, LocalCluster

    x, y = digits(200)
    alone = GridSearchCV(small(), GRID, cv=2, n_jobs=1).fit(x, y)
    cluster = LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    )
    with cluster, Client(cluster) as client:
        threads = client.run(lambda: __import__("fanin").get_num_threads())
        assert list(threads.values()) == [1, 1]  # what Dask sets in its workers
        with joblib.parallel_config("dask"):
            there = GridSearchCV(small(), GRID, cv=2).fit(x, y)
        pids = client.run(os.getpid)
    assert len({*pids.values(), os.getpid()}) == 3
    same_bits(there.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])
    same_weights(there.best_estimator_, alone.best_estimator_)


# ---- scikit-learn's other estimators around ours ------------------------------------------------


def around(source):
    """Name of a composition of an estimator, and what it predicts for rows it has not seen."""
    classifier = partial(small, source["classifier"], random_state=0)
    regressor = partial(small, source["regressor"], random_state=0)
    scaled = make_pipeline(StandardScaler(), classifier())
    voters = [("mlp", classifier()), ("tanh", classifier(activation="tanh")),
              ("linear", LogisticRegression(max_iter=500))]  # fmt: skip
    stack = [("mlp", regressor(max_iter=100)), ("linear", Ridge())]
    x, y = digits()
    xr, yr = diabetes()
    return {
        "pipeline": lambda: scaled.fit(x, y).predict_proba(x),
        "cross_val_predict": lambda: cross_val_predict(scaled, x, y, method="predict_proba"),
        "cross_val_score": lambda: cross_val_score(classifier(), x, y, scoring="neg_log_loss"),
        "calibrated": lambda: CalibratedClassifierCV(classifier(), cv=3).fit(x, y).predict_proba(x),
        "voting": lambda: VotingClassifier(voters, voting="soft").fit(x, y).predict_proba(x),
        "bagging": lambda: (
            BaggingClassifier(classifier(), 3, random_state=0).fit(x, y).predict_proba(x)
        ),
        "one against the rest": lambda: (
            OneVsRestClassifier(classifier()).fit(x, y).predict_proba(x)
        ),
        "learning curve": lambda: learning_curve(
            classifier(), x, y, cv=2, scoring="neg_log_loss", train_sizes=[0.5, 1.0],
            exploit_incremental_learning=True,
        )[2],
        "permutation importance": lambda: permutation_importance(
            classifier().fit(x, y), x, y, n_repeats=1, random_state=0, scoring="neg_log_loss"
        ).importances_mean,
        "partial dependence": lambda: partial_dependence(
            regressor().fit(xr, yr), xr, [2]
        )["average"],
        "random search": lambda: RandomizedSearchCV(
            classifier(), {"alpha": [1e-4, 0.1, 10.0]}, n_iter=2, cv=2, random_state=1,
            scoring="neg_log_loss",
        ).fit(x, y).cv_results_["mean_test_score"],
        "transformed target": lambda: TransformedTargetRegressor(
            regressor(), transformer=StandardScaler()
        ).fit(xr, yr).predict(xr),
        "stacking": lambda: StackingRegressor(stack, cv=2).fit(xr, yr).predict(xr),
        "several outputs": lambda: (
            MultiOutputRegressor(regressor()).fit(xr, np.c_[yr, -yr]).predict(xr)
        ),
    }  # fmt: skip


OURS = around({"classifier": MLPClassifier, "regressor": MLPRegressor})
THEIRS = around({
    "classifier": neural_network.MLPClassifier, "regressor": neural_network.MLPRegressor,
})  # fmt: skip


@pytest.mark.parametrize("name", OURS)
def test_inside_other_estimators(name):
    """What comes out is what comes out with scikit-learn's MLP inside.

    Both do the same float64 steps, few of them; 1e-6 is what fits agree to in test_sklearn.py.
    """
    np.testing.assert_allclose(OURS[name](), THEIRS[name](), rtol=1e-6, atol=1e-6)


# ---- parameters ---------------------------------------------------------------------------------


class Counting(fanin.Callback):
    """A callback of the caller's own."""

    def __init__(self):
        self.epochs = 0

    def on_epoch_end(self, network, history):
        self.epochs += 1


def own_loss(z, y):
    error = z - y
    return float((error**2).sum(axis=1).mean()), 2 * error / len(z)


FURTHER = {
    "hidden_layer_sizes": [20, 10],
    "dropout": [0.1, 0.2],
    "batch_norm": ["before", False],
    "init": "he_normal",
    "l1": 1e-4,
    "loss": own_loss,
    "clip_norm": 1.0,
    "optimizer": fanin.AdamW(1e-3, weight_decay=0.1),
    "callbacks": [Counting()],
    "monitor": True,
    "n_threads": 1,
}


def test_parameters():
    """They are kept as given, whatever they are; get_params and set_params know them all."""
    estimator = MLPRegressor(**FURTHER)
    for name, value in FURTHER.items():
        assert getattr(estimator, name) is value
        assert estimator.get_params()[name] is value
    ours, theirs = MLPRegressor().get_params(), neural_network.MLPRegressor().get_params()
    assert {name: ours[name] for name in theirs} == theirs
    assert estimator.set_params(dropout=0.5, alpha=3) is estimator
    assert estimator.dropout == 0.5 and estimator.alpha == 3
    with pytest.raises(ValueError, match="Invalid parameter 'keep_prob' for estimator MLPRegress"):
        estimator.set_params(keep_prob=0.5)
    with pytest.raises(TypeError, match="keep_prob"):
        MLPRegressor(keep_prob=0.5)
    with pytest.raises(TypeError):
        MLPRegressor("squared_error", (10,), "relu", "adam")  # keywords only, as scikit-learn's


def test_clone():
    """A clone has equal parameters, objects of its own, nothing of the training."""
    x, y = diabetes()
    estimator = MLPRegressor(**FURTHER, max_iter=3, random_state=0).fit(x, y)
    assert estimator.optimizer.steps == 0  # fit works on a copy
    assert estimator.callbacks[0].epochs == 3  # but with the callbacks themselves
    twin = clone(estimator)
    assert not hasattr(twin, "coefs_") and not hasattr(twin, "network_")
    for name in ("optimizer", "callbacks", "dropout"):
        assert getattr(twin, name) is not getattr(estimator, name)
    assert twin.loss is own_loss
    assert twin.optimizer.weight_decay == 0.1
    twin.fit(x, y)
    same_weights(twin, estimator)
    assert estimator.callbacks[0].epochs == 3
    assert twin.callbacks[0].epochs == 6  # a copy of one that had counted three
    FURTHER["callbacks"][0].epochs = 0


def test_a_fit_changes_no_parameter():
    x, y = diabetes()
    estimator = MLPRegressor(**FURTHER, max_iter=2, random_state=0)
    before = {k: (v, repr(v)) for k, v in estimator.get_params().items() if k != "callbacks"}
    estimator.fit(x, y)
    for name, (value, text) in before.items():
        assert getattr(estimator, name) is value
        assert repr(value) == text


def test_random_state_instance():
    """Numbers are drawn from the caller's generator as scikit-learn draws them."""
    x, y = digits(100)
    states = []
    for source in (neural_network.MLPClassifier, MLPClassifier):
        generator = np.random.RandomState(5)
        first = small(source, random_state=generator).fit(x, y)
        second = small(source, random_state=generator, early_stopping=True).fit(x, y)
        first.partial_fit(x, y)
        states.append([first.loss_, second.loss_, generator.randint(1 << 30)])
    assert states[0] == pytest.approx(states[1], rel=1e-9)


def test_representation():
    """Text and HTML name the class and what is not the default; scikit-learn finds the docs."""
    estimator = MLPClassifier(dropout=0.25, callbacks=[Counting()])
    assert repr(MLPClassifier()) == "MLPClassifier()"
    assert repr(estimator).startswith("MLPClassifier(callbacks=[<")
    assert "dropout=0.25" in repr(estimator)
    for html in (estimator._repr_html_(), estimator_html_repr(make_pipeline(estimator))):
        assert "MLPClassifier" in html
        assert "dropout" in html and "0.25" in html
    x, y = digits(50)
    assert "Fitted" in estimator_html_repr(small().fit(x, y))


# ---- copies and files ---------------------------------------------------------------------------


def joblib_twin(estimator):
    file = io.BytesIO()
    joblib.dump(estimator, file)
    file.seek(0)
    return joblib.load(file)


COPIES = {
    "pickle": lambda e: pickle.loads(pickle.dumps(e)),
    "pickle 2": lambda e: pickle.loads(pickle.dumps(e, protocol=2)),
    "cloudpickle": lambda e: pickle.loads(cloudpickle.dumps(e)),
    "joblib": joblib_twin,
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}
SETTINGS = {
    "default": {},
    "sgd": {"solver": "sgd", "learning_rate": "invscaling"},
    "all": {"hidden_layer_sizes": (20, 10), "dropout": 0.2, "batch_norm": True, "l1": 1e-3,
            "clip_norm": 1.0, "monitor": True, "class_weight": {3: 2.0},
            "optimizer": fanin.RMSprop(1e-3)},
    "float32": {"dtype": np.float32},
}  # fmt: skip


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("settings", SETTINGS)
def test_copies(how, settings):
    """A copy predicts the same bits, and goes on training to the same bits, on its own."""
    settings = dict(SETTINGS[settings])
    x, y = digits(200)
    x = x.astype(settings.pop("dtype", np.float64))
    estimator = small(**settings).fit(x, y)
    expected = estimator.predict_proba(x)
    twin = COPIES[how](estimator)
    same_bits(twin.predict_proba(x), expected)
    same_weights(twin, estimator)
    assert twin.coefs_[0].dtype == x.dtype
    assert twin.loss_curve_ == estimator.loss_curve_
    assert twin.n_iter_ == estimator.n_iter_ and twin.t_ == estimator.t_
    if how == "copy":  # shares what is not the network, as a copy does
        twin = copy.deepcopy(twin)
    for _ in range(2):
        twin.partial_fit(x, y)
    same_bits(estimator.predict_proba(x), expected)
    for _ in range(2):
        estimator.partial_fit(x, y)
    same_weights(twin, estimator)


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_is_penalised(how):
    """What `evaluate` says of its network has a penalty, and leaves it there."""
    x, y = digits(200)
    twin = COPIES[how](small(alpha=1.0).fit(x, y))
    strengths = [layer.l2 for layer in twin.network_.layers]
    loss = twin.network_.evaluate(x, y)["loss"]
    assert [layer.l2 for layer in twin.network_.layers] == strengths and min(strengths) > 0
    twin.network_._set_penalties(0.0, 0.0)
    assert loss > twin.network_.evaluate(x, y)["loss"]


def test_copies_of_what_was_set():
    """Weights put in the place of others are those of the copy; a copy's are not the original's."""
    x, y = digits(100)
    for make_copy in COPIES.values():
        estimator = small().fit(x, y)
        estimator.coefs_ = [c * 2 for c in estimator.coefs_]
        twin = make_copy(estimator)
        expected = estimator.predict_proba(x)
        same_bits(twin.predict_proba(x), expected)
        twin.coefs_ = [c / 2 for c in twin.coefs_]
        twin.intercepts_[0][:] += 1
        twin.predict(x)
        same_bits(estimator.predict_proba(x), expected)
        assert not np.array_equal(twin.predict_proba(x), expected)


def test_an_unfitted_copy():
    for make_copy in COPIES.values():
        twin = make_copy(MLPClassifier(dropout=0.5))
        assert twin.dropout == 0.5
        with pytest.raises(NotFittedError, match="This MLPClassifier instance is not fitted yet"):
            twin.predict(np.zeros((1, 3)))


def test_size_of_a_pickle():
    """Weights, gradients, the best weights and Adam's two moments; no row of the training data."""
    x, y = digits()
    x = np.tile(x, (20, 1))
    estimator = small(max_iter=1).fit(x, np.tile(y, 20), sample_weight=np.ones(len(x)))
    bytes_of_weights = 8 * estimator.network_.parameters.size
    assert len(pickle.dumps(estimator)) < 5 * bytes_of_weights + 16000  # and a Mersenne Twister


OTHER_SET = """
import sys, joblib, numpy as np, fanin
assert fanin.isa() == sys.argv[1]
found = {}
for name, (estimator, x, y) in joblib.load("models.joblib").items():
    found[name + " before"] = estimator.predict_proba(x)
    for i in range(2):
        estimator.partial_fit(x, y)
    found[name + " after"] = estimator.predict_proba(x)
np.savez("found.npz", **found)
"""


def test_a_file_on_another_machine(tmp_path):
    """A process with another instruction set predicts, and trains on, to the same bits."""
    settings = {"hidden_layer_sizes": (70, 30), "dropout": 0.1, "activation": "tanh"}
    models, expected = {}, {}
    for name in ("float32", "float64"):
        x, y = digits(200)
        x = x.astype(name)
        models[name] = small(**settings).fit(x, y), x, y
    joblib.dump(models, tmp_path / "models.joblib")
    for name, (estimator, x, y) in models.items():
        expected[f"{name} before"] = estimator.predict_proba(x)
        for _ in range(2):
            estimator.partial_fit(x, y)
        expected[f"{name} after"] = estimator.predict_proba(x)
    for isa in set(fanin.available_isas()) - {fanin.isa()}:
        done = subprocess.run(
            [sys.executable, "-c", OTHER_SET, isa], cwd=tmp_path,
            env=os.environ | {"FANIN_ISA": isa}, capture_output=True, text=True, timeout=DEADLINE,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        with np.load(tmp_path / "found.npz") as found:
            for name, wanted in expected.items():
                if "baseline" not in (isa, fanin.isa()):
                    same_bits(found[name], wanted)
                elif name.endswith("before"):
                    # no fused multiply-add: sums of 64, 70 and 30 products rounded otherwise
                    eps = np.finfo(wanted.dtype).eps
                    np.testing.assert_allclose(found[name], wanted, atol=2 * 164 * eps)
                else:  # Adam's steps do not get smaller with the gradients: no bound, but sense
                    assert found[name].dtype == wanted.dtype
                    assert (found[name].argmax(axis=1) == wanted.argmax(axis=1)).mean() > 0.9


# ---- pandas, names, routing ---------------------------------------------------------------------


def cancer_table():
    table = load_breast_cancer(as_frame=True)
    return table.data, table.target


def test_names_of_columns():
    x, y = cancer_table()
    estimator = small().fit(x, y)
    assert estimator.feature_names_in_.tolist() == list(x.columns)
    predicted = estimator.predict_proba(x)
    with pytest.warns(UserWarning, match="X does not have valid feature names, but MLPClassifier"):
        same_bits(estimator.predict_proba(x.to_numpy()), predicted)
    with pytest.raises(ValueError, match="feature names should match those that were passed"):
        estimator.predict(x.rename(columns={"mean radius": "radius"}))
    with pytest.raises(ValueError, match="must be in the same order as they were in fit"):
        estimator.predict(x[x.columns[::-1]])
    with pytest.raises(ValueError, match="feature names should match"):
        estimator.fit(x, y, validation_set=(x.rename(columns={"mean radius": "radius"}), y))
    unnamed = small().fit(x.to_numpy(), y)
    assert not hasattr(unnamed, "feature_names_in_")
    with pytest.warns(UserWarning, match="X has feature names, but MLPClassifier was fitted with"):
        same_bits(unnamed.predict_proba(x), predicted)


def test_set_output():
    """A scaler that hands on a DataFrame: the network sees names and trains to the same bits."""
    x, y = cancer_table()
    plain = make_pipeline(StandardScaler(), small()).fit(x, y)
    named = make_pipeline(StandardScaler(), small()).set_output(transform="pandas").fit(x, y)
    assert named[-1].feature_names_in_.tolist() == list(x.columns)
    assert not hasattr(plain[-1], "feature_names_in_")
    same_weights(named[-1], plain[-1])
    same_bits(named.predict_proba(x), plain.predict_proba(x))


@pytest.mark.parametrize("dtype", ["Float64", "Int64", "boolean", "float16"])
def test_columns_of_pandas(dtype):
    """Nullable columns are numbers; one with a hole is refused as scikit-learn refuses it."""
    x, y = cancer_table()
    x = (x > x.mean()).astype(dtype)
    same_weights(small().fit(x, y), small().fit(x.to_numpy(np.float64), y))
    if dtype in ("Float64", "Int64"):
        x.iloc[3, 0] = pd.NA
        with pytest.raises(ValueError, match="Input X contains NaN"):
            small().fit(x, y)


def test_labels_of_pandas():
    """Series, categories and strings as y: classes come back as they were."""
    x, y = cancer_table()
    names = pd.Series(np.array(["malignant", "benign"])[y])
    for given in (names, names.astype("category"), names.to_list(), names.to_numpy(object)):
        estimator = small(early_stopping=True).fit(x, given)
        assert estimator.classes_.tolist() == ["benign", "malignant"]
        assert set(estimator.predict(x)) <= {"benign", "malignant"}
        assert estimator.score(x, given) > 0.5
    frame = pd.DataFrame({"a": y, "b": 1 - y})
    assert small().fit(x, frame).predict(x).shape == (len(x), 2)


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.mark.usefixtures("routing")
def test_routing_through_a_pipeline():
    x, y = digits()
    weight = np.linspace(0.1, 2, len(y))
    scaler = StandardScaler().set_fit_request(sample_weight=False)
    requests = {"sample_weight": True, "validation_set": "held_out"}
    pipeline = make_pipeline(scaler, small().set_fit_request(**requests))
    scaled = StandardScaler().fit(x)
    held_out = scaled.transform(x[:50]), y[:50]
    pipeline.fit(x, y, sample_weight=weight, held_out=held_out)
    alone = small().fit(scaled.transform(x), y, weight, validation_set=held_out)
    same_weights(pipeline[-1], alone)
    assert pipeline[-1].validation_loss_curve_ == alone.validation_loss_curve_
    assert len(alone.validation_loss_curve_) == alone.n_iter_
    silent = make_pipeline(scaler, small())
    with pytest.raises(sklearn.exceptions.UnsetMetadataPassedError, match="sample_weight"):
        silent.fit(x, y, sample_weight=weight)
    assert small().set_partial_fit_request(classes=True) is not None


@pytest.mark.usefixtures("routing")
def test_routing_through_validation_and_search():
    x, y = digits()
    weight = np.random.default_rng(0).uniform(0.1, 2, len(y))
    held_out = x[:40], y[:40]
    asking = small().set_fit_request(sample_weight=True, validation_set=True)
    asking.set_score_request(sample_weight=True)
    params = {"sample_weight": weight, "validation_set": held_out}
    found = cross_validate(asking, x, y, cv=3, params=params, return_estimator=True,
                           return_indices=True)  # fmt: skip
    for k, estimator in enumerate(found["estimator"]):
        rows, others = (found["indices"][part][k] for part in ("train", "test"))
        expected = small().fit(x[rows], y[rows], weight[rows], validation_set=held_out)
        same_weights(estimator, expected)
        assert estimator.validation_loss_curve_ == expected.validation_loss_curve_
        assert found["test_score"][k] == expected.score(x[others], y[others], weight[others])
    search = GridSearchCV(asking, {"alpha": [0.1, 1.0]}, cv=3).fit(x, y, **params)
    expected = small(**search.best_params_).fit(x, y, weight, validation_set=held_out)
    same_weights(search.best_estimator_, expected)


# ---- prediction: what is given ------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    """Ours and scikit-learn's, with the same weights."""
    x, y = digits(200)
    ours = small().fit(x, y)
    return ours, fanin.sklearn.to_sklearn(ours), x


def full_path(monkeypatch):
    """Count the calls of scikit-learn's checks of X."""
    calls = []
    checks = fanin.sklearn.estimator.validate_data

    def counting(*args, **options):
        calls.append(options)
        return checks(*args, **options)

    monkeypatch.setattr(fanin.sklearn.estimator, "validate_data", counting)
    return calls


def test_short_path(fitted, monkeypatch):
    """A C-contiguous array of the right type takes it, any other array the full checks.

    One row or many: the same bits.
    """
    ours, _, x = fitted
    calls = full_path(monkeypatch)
    rows = np.ascontiguousarray(x[:7])
    expected = ours.predict_proba(rows)
    for i in range(7):
        same_bits(ours.predict_proba(rows[i : i + 1]), expected[i : i + 1])
    assert not calls
    wide = np.zeros((7, 128))
    wide[:, ::2] = rows
    others = [np.asfortranarray(rows), wide[:, ::2], rows.tolist(), rows.astype(">f8"),
              scipy.sparse.csr_matrix(rows), scipy.sparse.csc_array(rows), rows.view(np.ndarray),
              pd.DataFrame(rows)]  # fmt: skip
    for given in others:
        same_bits(ours.predict_proba(given), expected)
    assert len(calls) == len(others) - 1  # one of them was the array itself
    same_bits(ours.predict(rows), ours.predict(rows.tolist()))


def test_short_path_of_float32(monkeypatch):
    x, y = diabetes()
    estimator = small(MLPRegressor).fit(x.astype(np.float32), y)
    calls = full_path(monkeypatch)
    rows = x[:5].astype(np.float32)
    assert estimator.predict(rows).dtype == np.float32
    assert not calls
    assert estimator.predict(rows.astype(np.float64)).dtype == np.float64  # as scikit-learn's
    assert len(calls) == 1


def test_names_take_the_full_path(monkeypatch):
    x, y = cancer_table()
    estimator = small().fit(x, y)
    calls = full_path(monkeypatch)
    with pytest.warns(UserWarning, match="valid feature names"):
        estimator.predict(np.ascontiguousarray(x.to_numpy())[:1])
    assert len(calls) == 1


def rows_of(x):
    bad = x[:3].copy()
    bad[1, 4] = np.nan
    endless = x[:3].copy()
    endless[1, 4] = -np.inf
    return {
        "too narrow": x[:3, :-1].copy(),
        "too wide": np.hstack([x, x])[:3],
        "nan": bad,
        "infinity": endless,
        "float32 nan": bad.astype(np.float32),
        "one dimension": x[0].copy(),
        "three": x[:3, :, None].copy(),
        "none": x[:0].copy(),
        "no columns": np.zeros((3, 0)),
        "words": np.full((2, 64), "a"),
        "complex": x[:3] + 1j,
        "objects": np.full((2, 64), None),
        "nothing": None,
        "a number": 3.0,
        "sparse, too narrow": scipy.sparse.csr_matrix(x[:3, :-1]),
        "sparse nan": scipy.sparse.csr_matrix(bad),
        "ragged": [[1.0, 2.0], [3.0]],
    }


@pytest.mark.parametrize("what", rows_of(np.zeros((5, 64))))
def test_what_predict_refuses(fitted, what):
    """With scikit-learn's errors, word for word."""
    ours, theirs, x = fitted
    given = rows_of(x)[what]
    for method in ("predict", "predict_proba", "predict_log_proba"):
        with pytest.raises((ValueError, TypeError)) as expected:
            getattr(theirs, method)(given)
        with pytest.raises(type(expected.value)) as found:
            getattr(ours, method)(given)
        assert str(found.value) == str(expected.value)


def fits():
    x, y = digits(60)
    good = {"X": x, "y": y}
    hole = x.copy()
    hole[3, 3] = np.nan
    return {
        "rows": good | {"y": y[:-1]},
        "y missing": good | {"y": None},
        "nan": good | {"X": hole},
        "nan in y": good | {"y": np.where(y == 3, np.nan, y)},
        "words": good | {"X": np.full((60, 3), "a")},
        "no rows": {"X": x[:0], "y": y[:0]},
        "no columns": good | {"X": x[:, :0]},
        "one dimension": good | {"X": x[:, 0]},
        "complex": good | {"X": x + 1j},
        "weights": good | {"sample_weight": np.ones(59)},
        "weights of two dimensions": good | {"sample_weight": np.ones((60, 2))},
        "weights nan": good | {"sample_weight": np.full(60, np.nan)},
        "weights of words": good | {"sample_weight": np.full(60, "a")},
        "layers": good | {"hidden_layer_sizes": (-3,)},
        "layers of halves": good | {"hidden_layer_sizes": (10.5,)},
        "alpha": good | {"alpha": -1},
        "batch_size": good | {"batch_size": 0},
        "max_iter": good | {"max_iter": 0},
        "validation": good | {"early_stopping": True, "validation_fraction": 0.01},
        "fraction": good | {"early_stopping": True, "validation_fraction": 1.0},
        "blown up": good | {"solver": "sgd", "learning_rate_init": 1e300, "max_iter": 20},
        "random_state": good | {"random_state": "luck"},
    }


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of scikit-learn's arithmetic
@pytest.mark.parametrize("source", ["classifier", "regressor"])
@pytest.mark.parametrize("what", fits())
def test_what_fit_refuses(source, what):
    """With scikit-learn's errors, word for word, and without a trace of a fit."""
    given = fits()[what]
    data = {name: given.pop(name) for name in ("X", "y", "sample_weight") if name in given}
    kinds = {
        "classifier": (neural_network.MLPClassifier, MLPClassifier),
        "regressor": (neural_network.MLPRegressor, MLPRegressor),
    }[source]
    messages = []
    for kind in kinds:
        with pytest.raises((ValueError, TypeError)) as error:
            small(kind, **given).fit(**data)
        messages.append((type(error.value).__name__, str(error.value)))
    assert messages[1] == messages[0]


def test_after_a_refused_fit():
    """An estimator never fitted is still not; one that was predicts what it did."""
    x, y = digits(60)
    estimator = small(dropout=[0.1, 0.2])  # one hidden layer
    for _ in range(2):
        with pytest.raises(ValueError, match="dropout: expected one value, or 1 of them, got 2"):
            estimator.fit(x, y)
        with pytest.raises(NotFittedError):
            estimator.predict(x)
    estimator.set_params(dropout=0.1).fit(x, y)
    expected = estimator.predict_proba(x)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        estimator.fit(np.where(x > 0.9, np.nan, x), y)
    same_bits(estimator.predict_proba(x), expected)


def test_numpy_scalars_as_parameters():
    """As good as Python's numbers."""
    x, y = digits(60)
    given = {"max_iter": np.int64(3), "batch_size": np.int32(20), "alpha": np.float64(1e-4),
             "random_state": np.int64(2), "shuffle": np.bool_(True), "verbose": np.int64(0),
             "n_iter_no_change": np.int8(5), "hidden_layer_sizes": np.array([7, 5])}  # fmt: skip
    plain = {name: value.tolist() for name, value in given.items()}
    for solver in ("adam", "sgd", "lbfgs"):
        estimators = [MLPClassifier(solver=solver, **some).fit(x, y) for some in (given, plain)]
        same_weights(*estimators)


def test_a_column_as_y():
    """It is taken, with scikit-learn's warning, as one output."""
    x, y = digits(60)
    for kind in (MLPClassifier, MLPRegressor):
        with pytest.warns(DataConversionWarning, match="A column-vector y was passed when a 1d"):
            estimator = small(kind).fit(x, y[:, None])
        same_weights(estimator, small(kind).fit(x, y))
        assert estimator.predict(x).shape == (60,)


# ---- coefs_ and intercepts_ ---------------------------------------------------------------------


def both_with(fitted, change):
    """The probabilities of both after the same change."""
    ours, theirs, x = fitted
    found = []
    for estimator in (copy.deepcopy(ours), copy.deepcopy(theirs)):
        change(estimator)
        found.append(estimator.predict_proba(x))
    return found


def whole_lists(e):
    e.coefs_ = [c * 0.5 for c in e.coefs_]
    e.intercepts_ = tuple(i + 0.25 for i in e.intercepts_)


def one_entry(e):
    e.coefs_[1] = np.asfortranarray(e.coefs_[1] * -2.0)
    e.intercepts_[0] = (e.intercepts_[0] * 3).tolist()


def in_place(e):
    e.coefs_[0][:, 3] = 0.125
    e.coefs_[1] *= 2
    e.intercepts_[1] -= 0.5


def twice(e):
    e.coefs_[0] = e.coefs_[0] * 2
    e.predict(np.zeros((1, 64)))
    e.coefs_[0][...] *= 0.25  # of what is there now
    e.coefs_[0] = e.coefs_[0] + 0.01


@pytest.mark.parametrize("change", [whole_lists, one_entry, in_place, twice])
def test_weights_can_be_set(fitted, change):
    """Prediction and further training see them, as scikit-learn's do.

    Within rounding of sums of 64 products in float64.
    """
    before = fitted[0].predict_proba(fitted[2])
    ours, theirs = both_with(fitted, change)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert abs(ours - before).max() > 1e-3


def test_training_goes_on_from_set_weights():
    x, y = digits(200)
    found = []
    for kind in (neural_network.MLPClassifier, MLPClassifier):
        estimator = small(kind, warm_start=True).fit(x, y)
        whole_lists(estimator)
        estimator.intercepts_ = list(estimator.intercepts_)
        found.append(estimator.fit(x, y).loss_curve_)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)


def test_weights_of_wrong_shapes(fitted):
    ours, _, x = fitted
    wrong = {
        "coefs_": [ours.coefs_[:1], [*ours.coefs_, ours.coefs_[0]],
                   [ours.coefs_[0].T, ours.coefs_[1]], [1.0, 2.0]],
        "intercepts_": [[], [i[:, None] for i in ours.intercepts_], ours.intercepts_[::-1]],
    }  # fmt: skip
    expected = ours.predict_proba(x)
    for name, lists in wrong.items():
        for given in lists:
            estimator = copy.deepcopy(ours)
            setattr(estimator, name, given)
            for use, argument in ((estimator.predict, x), (pickle.dumps, estimator)):
                with pytest.raises(ValueError, match=rf"^{name}: expected arrays of shapes \["):
                    use(argument)
    same_bits(ours.predict_proba(x), expected)


# ---- training in several calls ------------------------------------------------------------------


def test_several_labels_in_parts():
    """partial_fit on several labels, also where the first part lacks one, learns what fit learns.

    A call is one epoch, as with one label; classes are the numbers of the columns.
    """
    x, y = make_multilabel_classification(n_samples=120, n_classes=4, random_state=1)
    x = StandardScaler().fit_transform(x)
    y[:60, 3] = 0
    settings = {"learning_rate_init": 0.01, "batch_size": 60, "shuffle": False}
    whole = small(max_iter=60, n_iter_no_change=60, **settings).fit(x, y)
    parts = small(**settings)
    for _ in range(60):
        parts.partial_fit(x[:60], y[:60], classes=np.arange(4))
        parts.partial_fit(x[60:], y[60:])
    same_weights(parts, whole)
    assert parts.predict(x).shape == parts.predict_proba(x).shape == y.shape
    assert (parts.predict(x) == y).mean() > 0.8
    for kind in (MLPClassifier, neural_network.MLPClassifier):
        estimator = kind()
        with pytest.raises(ValueError, match=r"has classes not in `self\.classes_`"):
            estimator.partial_fit(x, y, classes=[0, 1])  # a multilabel y has 4
        with pytest.raises(ValueError, match="classes must be passed on the first call"):
            kind().partial_fit(x, y)


def test_another_way_of_stopping():
    """Training goes on with early stopping switched on or off (scikit-learn's fails here)."""
    x, y = digits(200)
    estimator = small(early_stopping=True, warm_start=True).fit(x, y)
    assert estimator.best_loss_ is None and len(estimator.validation_scores_) == 6
    estimator.set_params(early_stopping=False).fit(x, y)
    assert estimator.best_loss_ == min(estimator.loss_curve_[6:])
    assert estimator.validation_scores_ is None and len(estimator.loss_curve_) == 12
    estimator.partial_fit(x, y)
    assert len(estimator.loss_curve_) == 13
    estimator.set_params(early_stopping=True).fit(x, y)
    assert len(estimator.validation_scores_) == 6
    assert estimator.best_validation_score_ == max(estimator.validation_scores_)


def test_another_solver():
    """After L-BFGS training goes on with Adam (scikit-learn's fails here), and the other way."""
    x, y = digits(200)
    estimator = small(solver="lbfgs", warm_start=True, alpha=0.01).fit(x, y)
    lbfgs = estimator.loss_
    estimator.set_params(solver="adam").fit(x, y)
    assert len(estimator.loss_curve_) == estimator.n_iter_ == 6
    assert abs(estimator.loss_curve_[0] - lbfgs) < 0.1 * lbfgs  # from there on
    assert estimator.partial_fit(x, y).best_loss_ == min(estimator.loss_curve_)
    adam = estimator.loss_
    assert estimator.set_params(solver="lbfgs").fit(x, y).loss_ < adam


def test_interruption(recwarn):
    """Ctrl-C ends fit with a warning and what was learned, as scikit-learn's."""
    x, y = digits(200)

    def interrupt(network, history):
        if history.epochs == 3:
            raise KeyboardInterrupt

    estimator = small(callbacks=[interrupt], warm_start=True)
    with pytest.warns(UserWarning, match="interrupted after 3 of 6 epochs"):
        estimator.fit(x, y)
    assert estimator.n_iter_ == len(estimator.loss_curve_) == 3
    estimator.set_params(callbacks=()).fit(x, y)
    assert len(estimator.loss_curve_) == 9
