"""What `fanin.sklearn` has beyond scikit-learn: each further keyword argument does what it says."""

import itertools
import math

import numpy as np
import pytest
import scipy.sparse
from sklearn import neural_network
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import HuberRegressor
from sklearn.preprocessing import scale
from sklearn.utils.class_weight import compute_sample_weight

import fanin
from fanin.sklearn import MLPClassifier, MLPRegressor, from_sklearn, to_sklearn
from fanin.sklearn import loss as losses

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = load_digits(return_X_y=True)
X = X / 16
XB, YB = load_breast_cancer(return_X_y=True)
XB = scale(XB)
XR, YR = load_diabetes(return_X_y=True)
XR, YR = scale(XR), scale(YR)


def classifier(**settings):
    return MLPClassifier(**{"hidden_layer_sizes": (20, 15), "random_state": 1, "max_iter": 4}
                         | settings)  # fmt: skip


def regressor(**settings):
    return MLPRegressor(**{"hidden_layer_sizes": (20,), "random_state": 1, "max_iter": 4}
                        | settings)  # fmt: skip


def weights_of(estimator):
    return estimator.network_.parameters.copy()


# ---- layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.25, [0.25, 0.0]])
def test_dropout(dropout):
    """It reaches the layers, changes the training, repeats by seed, and is off in predict."""
    a, b, plain = (classifier(dropout=d).fit(X, Y) for d in (dropout, dropout, 0.0))
    wanted = dropout if isinstance(dropout, list) else [dropout] * 2
    assert [layer.dropout for layer in a.network_.layers] == [*wanted, 0.0]
    np.testing.assert_array_equal(weights_of(a), weights_of(b))
    assert (weights_of(a) != weights_of(plain)).any()
    np.testing.assert_array_equal(a.predict_proba(X), a.predict_proba(X))


@pytest.mark.parametrize(
    ("given", "where"),
    [
        (True, ["before", "before"]),
        ("after", ["after", "after"]),
        ([False, "before"], [False, "before"]),
    ],
)
def test_batch_norm(given, where):
    estimator = classifier(batch_norm=given, max_iter=20).fit(X, Y)
    layers = estimator.network_.layers
    assert [layer.batch_norm for layer in layers] == [*where, False]
    assert (estimator.network_.running_mean != 0).any()
    for layer, intercept in zip(layers, estimator.intercepts_, strict=True):
        np.testing.assert_array_equal(intercept, layer.beta if layer.bias is None else layer.bias)
    again = MLPClassifier(**estimator.get_params()).fit(X, Y)
    np.testing.assert_array_equal(weights_of(again), weights_of(estimator))
    assert estimator.score(X, Y) > 0.7


def test_batch_norm_with_lbfgs():
    """All rows at once: the running statistics follow, and the loss falls."""
    losses = [classifier(batch_norm=True, solver="lbfgs", max_iter=n).fit(X, Y).loss_
              for n in (2, 30)]  # fmt: skip
    assert losses[1] < losses[0] / 2


def test_init():
    """A name of fanin's: the weights of a network with that init; random_state draws its seed."""
    estimator = classifier(init="he_normal", max_iter=1, solver="sgd", learning_rate_init=1e-300)
    estimator.fit(X, Y)
    twin = fanin.MLP([64, 20, 15, 10], init="he_normal", dtype="float64",
                     seed=estimator.network_.seed)  # fmt: skip
    np.testing.assert_allclose(weights_of(estimator), twin.parameters, rtol=0, atol=1e-290)
    other = classifier(init="he_normal", random_state=2, max_iter=1).fit(X, Y)
    assert other.network_.seed != estimator.network_.seed
    per_layer = classifier(init=["zeros", "he_normal", "glorot_uniform"], max_iter=1).fit(X, Y)
    assert np.isfinite(weights_of(per_layer)).all()


@pytest.mark.parametrize("activation", ["elu", "gelu", "silu", "leaky_relu", "softplus",
                                        ["tanh", "logistic"]])  # fmt: skip
def test_more_activations(activation):
    estimator = classifier(activation=activation, max_iter=20).fit(X, Y)
    names = activation if isinstance(activation, list) else [activation] * 2
    names = [name.replace("logistic", "sigmoid") for name in names]
    assert [layer.activation for layer in estimator.network_.layers] == [*names, "identity"]
    assert estimator.loss_curve_[-1] < estimator.loss_curve_[0]


# ---- the loss ------------------------------------------------------------------------------------


def test_class_weight_is_a_sample_weight():
    for weight in ("balanced", {0: 3.0, 1: 0.5}):
        by_class = classifier(class_weight=weight).fit(XB, YB)
        by_row = classifier().fit(XB, YB, sample_weight=compute_sample_weight(weight, YB))
        np.testing.assert_array_equal(weights_of(by_class), weights_of(by_row))
    both = classifier(class_weight={0: 3.0}).fit(XB, YB, sample_weight=np.full(len(YB), 2.0))
    by_row = classifier().fit(XB, YB, sample_weight=2 * compute_sample_weight({0: 3.0}, YB))
    np.testing.assert_array_equal(weights_of(both), weights_of(by_row))


def test_class_weight_helps_the_rare_class():
    rare = np.flatnonzero(YB == 0)[:20]
    rows = np.concatenate([rare, np.flatnonzero(YB == 1)])
    plain, balanced = (classifier(class_weight=w, max_iter=30).fit(XB[rows], YB[rows])
                       for w in (None, "balanced"))  # fmt: skip
    held_out = np.flatnonzero(YB == 0)[20:]
    recall = [(e.predict(XB[held_out]) == 0).mean() for e in (plain, balanced)]
    assert recall[1] > recall[0]


def test_class_weight_by_labels_of_any_kind():
    names = np.array(["malignant", "benign"])[YB]
    weight = {"malignant": 3.0, "benign": 0.5}
    named = classifier(class_weight=weight).fit(XB, names)
    # sorted names: benign is class 0
    numbered = classifier(class_weight={0: 0.5, 1: 3.0}).fit(XB, 1 - YB)
    np.testing.assert_array_equal(weights_of(named), weights_of(numbered))
    with pytest.raises(ValueError, match="not supported for partial_fit"):
        classifier(class_weight="balanced").partial_fit(XB, YB, classes=[0, 1])
    parts = classifier(class_weight=weight).partial_fit(XB, names, classes=list(weight))
    assert np.isfinite(weights_of(parts)).all()


def test_l1():
    """The penalty is in the loss and thins the weights out."""
    plain, l1 = (regressor(l1=v, max_iter=300, tol=0).fit(XR, YR) for v in (0.0, 20.0))
    assert np.abs(l1.coefs_[0]).sum() < np.abs(plain.coefs_[0]).sum() / 2
    first = regressor(l1=3.0, alpha=0.0, batch_size=len(XR), solver="sgd", max_iter=1,
                      learning_rate_init=1e-300).fit(XR, YR)  # fmt: skip
    without = regressor(alpha=0.0, batch_size=len(XR), solver="sgd", max_iter=1,
                        learning_rate_init=1e-300).fit(XR, YR)  # fmt: skip
    sum_of_sizes = sum(np.abs(w).sum() for w in first.coefs_)
    # sums of 220 numbers in float64
    assert first.loss_ - without.loss_ == pytest.approx(3 * sum_of_sizes / len(XR), rel=1e-10)


LOSSES = {
    "absolute_error": lambda e: np.abs(e),
    "log_cosh": lambda e: np.log(np.cosh(e)),
    "huber": lambda e: np.where(np.abs(e) < 0.7, e * e / 2, 0.7 * np.abs(e) - 0.7**2 / 2),
    "squared_error": lambda e: e * e / 2,
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_of_a_regression(name, weighted):
    """The stated value, and a training that makes it smaller; L-BFGS sees the same function."""
    weight = np.random.default_rng(0).uniform(0.1, 2, len(XR)) if weighted else None
    settings = {"loss": name, "alpha": 0.0, "huber_delta": 0.7, "batch_size": len(XR)}
    still = regressor(**settings, max_iter=1, solver="sgd", learning_rate_init=1e-300)
    still.fit(XR, YR, sample_weight=weight)
    value = np.average(LOSSES[name](still.predict(XR) - YR), weights=weight)
    assert still.loss_ == pytest.approx(value, rel=1e-10)  # sums of 442 numbers in float64
    for solver in ("adam", "sgd", "lbfgs"):
        trained = regressor(**settings, solver=solver, max_iter=40).fit(XR, YR, weight)
        assert trained.loss_ < 0.9 * value
        found = np.average(LOSSES[name](trained.predict(XR) - YR), weights=weight)
        assert found < 0.9 * value


@pytest.mark.parametrize("name", ["absolute_error", "log_cosh", "huber", "poisson"])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_of_losses(name, weighted, rng):
    """Two-sided differences of the value, away from kinks; h^2 and rounding leave 1e-7."""
    z, y = rng.standard_normal((7, 2)), rng.integers(0, 5, (7, 2)).astype(float)
    targets = losses.with_weights(y, rng.uniform(0.1, 2, 7) if weighted else None)
    loss = regressor(loss=name, huber_delta=0.7)._own_loss()
    _, dz = loss(z, targets)
    for index in np.ndindex(z.shape):
        h = np.zeros_like(z)
        h[index] = 1e-5
        slope = (loss(z + h, targets)[0] - loss(z - h, targets)[0]) / 2e-5
        assert slope == pytest.approx(dz[index], abs=1e-7)


def test_absolute_error_finds_the_median():
    """A network without hidden layers on a constant: its bias becomes the median, not the mean."""
    y = np.concatenate([np.zeros(60), np.full(41, 100.0)])
    x = np.zeros((len(y), 1))
    found = MLPRegressor("absolute_error", hidden_layer_sizes=(), max_iter=2000, tol=0.0,
                         random_state=0, batch_size=len(y)).fit(x, y)  # fmt: skip
    # Adam's steps of some 1e-3 around a kink; the mean is 41
    assert found.predict(x[:1])[0] == pytest.approx(0.0, abs=0.01)


def test_huber_agrees_with_scikit_learns():
    """Linear, without penalty: scikit-learn's HuberRegressor with its scale as delta."""
    y = YR.copy()
    y[::20] += 10  # outliers
    theirs = HuberRegressor(epsilon=1.5, alpha=0.0, max_iter=1000, tol=1e-9).fit(XR, y)
    ours = MLPRegressor("huber", hidden_layer_sizes=(), alpha=0.0, solver="lbfgs", max_iter=2000,
                        huber_delta=1.5 * theirs.scale_, tol=1e-9).fit(XR, y)  # fmt: skip
    # both stop at a gradient of about 1e-5 of the sum of 442 terms
    np.testing.assert_allclose(ours.coefs_[0].ravel(), theirs.coef_, atol=2e-3)


def test_a_loss_of_ones_own():
    """The function sees z and the targets, with weights as the last column."""
    seen = []

    def loss(z, y):
        seen.append(y.shape[1])
        t, w = y[:, :1], (y[:, 1:] if y.shape[1] > 1 else np.ones((len(y), 1)))
        total = w.sum()
        return float((w * (z - t) ** 2).sum() / total / 2), w * (z - t) / total

    own, named = regressor(loss=loss).fit(XR, YR), regressor().fit(XR, YR)
    # the same numbers in another order of operations
    np.testing.assert_allclose(own.loss_curve_, named.loss_curve_, rtol=1e-9)
    weight = np.linspace(0.5, 2, len(XR))
    own, named = (regressor(loss=f).fit(XR, YR, weight) for f in (loss, "squared_error"))
    np.testing.assert_allclose(own.loss_curve_, named.loss_curve_, rtol=1e-9)
    assert set(seen) == {1, 2}

    def cross_entropy(z, y):
        return fanin.softmax_cross_entropy(z, y)

    own, named = classifier(loss=cross_entropy).fit(X, Y), classifier().fit(X, Y)
    np.testing.assert_allclose(own.loss_curve_, named.loss_curve_, rtol=1e-9)
    np.testing.assert_array_equal(own.predict(X), named.predict(X))


def test_poisson_refuses_negative_targets():
    with pytest.raises(ValueError, match=r"loss='poisson' needs y >= 0, got -3"):
        regressor(loss="poisson").fit(XR, np.where(YR > 0, 1.0, -3.0))


# ---- validation and stopping ---------------------------------------------------------------------


def test_validation_set():
    """Its loss is that of the data plus the penalty of a whole batch; training does not see it."""
    rows = np.arange(len(X)) % 4 == 0
    plain = classifier(alpha=0.5).fit(X[~rows], Y[~rows])
    estimator = classifier(alpha=0.5).fit(X[~rows], Y[~rows], validation_set=(X[rows], Y[rows]))
    np.testing.assert_array_equal(weights_of(plain), weights_of(estimator))
    assert plain.validation_loss_curve_ is None
    assert len(estimator.validation_loss_curve_) == estimator.n_iter_
    p = estimator.predict_proba(X[rows])[np.arange(rows.sum()), Y[rows]]
    penalty = 0.25 * sum((w * w).sum() for w in estimator.coefs_) / 200
    assert estimator.validation_loss_curve_[-1] == pytest.approx(-np.log(p).mean() + penalty)
    assert estimator.validation_scores_ is None
    weighted = classifier().fit(X, Y, validation_set=(X[rows], Y[rows], np.ones(rows.sum())))
    unweighted = classifier().fit(X, Y, validation_set=(X[rows], Y[rows]))
    np.testing.assert_allclose(weighted.validation_loss_curve_, unweighted.validation_loss_curve_)


def test_early_stopping_by_a_validation_set():
    """All rows are trained on, the scores are those of the set, the best weights come back."""
    rows = np.arange(len(XR)) % 3 == 0
    estimator = regressor(early_stopping=True, max_iter=200, learning_rate_init=0.01)
    estimator.fit(XR[~rows], YR[~rows], validation_set=(XR[rows], YR[rows]))
    assert estimator.t_ == estimator.n_iter_ * (~rows).sum()
    assert estimator.n_iter_ < 200
    assert estimator.best_validation_score_ == max(estimator.validation_scores_)
    assert estimator.score(XR[rows], YR[rows]) == pytest.approx(estimator.best_validation_score_)
    assert len(estimator.validation_loss_curve_) == estimator.n_iter_


@pytest.mark.parametrize("loss", ["squared_error", "huber", "poisson"])
def test_validation_loss_of_every_loss(loss):
    counts = np.random.default_rng(0).poisson(3, len(XR)).astype(float)
    settings = {"loss": loss, "alpha": 0.0, "batch_size": len(XR), "shuffle": False}
    estimator = regressor(**settings).fit(XR, counts, validation_set=(XR, counts))
    # the loss after an epoch of one step is the loss that the next epoch begins with
    assert estimator.validation_loss_curve_[:-1] == pytest.approx(estimator.loss_curve_[1:])


def test_validation_sets_that_do_not_fit():
    for given, message in [
        ((X[:, :5], Y), "features"),
        ((X[:5],), r"expected \(X, y\)"),
        ((X[:5], np.full(5, 77)), "classes"),
        ((X[:5], Y[:4]), "inconsistent numbers of samples"),
    ]:
        estimator = classifier().fit(X, Y)
        before = weights_of(estimator)
        with pytest.raises(ValueError, match=message):
            estimator.set_params(warm_start=True).fit(X, Y, validation_set=given)
        np.testing.assert_array_equal(weights_of(estimator), before)


def test_a_validation_set_with_lbfgs():
    with pytest.raises(ValueError, match="validation_set: expected none with solver='lbfgs'"):
        classifier(solver="lbfgs").fit(X, Y, validation_set=(X, Y))


def test_partial_fit_with_early_stopping():
    rows = np.arange(len(XB)) % 3 == 0
    held_out = XB[rows], YB[rows]
    estimator = classifier(early_stopping=True, n_iter_no_change=3, learning_rate_init=0.01)
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        estimator.partial_fit(XB, YB, classes=[0, 1])
    for epoch in range(1, 201):
        estimator.partial_fit(XB[~rows], YB[~rows], classes=[0, 1], validation_set=held_out)
        assert len(estimator.validation_scores_) == epoch
        if estimator.stopped_early_:
            break
    assert epoch < 200
    assert estimator.score(*held_out) == max(estimator.validation_scores_)


# ---- optimizers ----------------------------------------------------------------------------------


def test_clipping():
    for limit in ({"clip_norm": 1e-3}, {"clip_value": 1e-4}):
        settings = {"solver": "sgd", "momentum": 0.0, "max_iter": 1, "batch_size": len(XR),
                    "learning_rate_init": 1.0}  # fmt: skip
        still = regressor(**settings | {"learning_rate_init": 1e-300}).fit(XR, YR)
        moved = weights_of(regressor(**settings, **limit).fit(XR, YR)) - weights_of(still)
        size = np.linalg.norm(moved) if "clip_norm" in limit else np.abs(moved).max()
        assert size == pytest.approx(next(iter(limit.values())), rel=1e-6)


@pytest.mark.parametrize(
    "optimizer", [fanin.AdamW(1e-3, weight_decay=0.1), fanin.RMSprop(1e-3), fanin.SGD(0.1),
                  fanin.Adam(fanin.schedule.Cosine(1e-2, 40))], ids=repr)  # fmt: skip
def test_optimizer_objects(optimizer):
    """The estimator trains with a copy, so that the parameter stays as it was given."""
    estimator = classifier(optimizer=optimizer, solver="lbfgs").fit(X, Y)
    assert estimator.optimizer is optimizer and optimizer.steps == 0
    assert estimator._optimizer.steps == estimator.n_iter_ * math.ceil(len(X) / 200)
    again = classifier(optimizer=optimizer).fit(X, Y)
    np.testing.assert_array_equal(weights_of(again), weights_of(estimator))
    assert estimator.loss_curve_[-1] < estimator.loss_curve_[0]
    estimator.partial_fit(X, Y)


def test_other_layers_with_as_many_parameters():
    """Refused, as often as one tries, also where the vectors are as long but divided otherwise."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 6)), np.arange(60) % 3
    estimator = MLPClassifier((7, 2), warm_start=True, max_iter=2, random_state=0).fit(x, y)
    before = weights_of(estimator)
    for sizes in ((2, 7), (4, 4, 4)):
        for _ in range(2):
            with pytest.raises(ValueError, match="cannot go on with other layers"):
                estimator.set_params(hidden_layer_sizes=sizes).fit(x, y)
    np.testing.assert_array_equal(weights_of(estimator), before)
    twins = MLPClassifier((5, 5), batch_norm=[True, False], warm_start=True, max_iter=2)
    twins.fit(rng.standard_normal((60, 5)), y).set_params(batch_norm=[False, True])
    with pytest.raises(ValueError, match="cannot go on with other layers"):
        twins.fit(x[:, :5], y)


def test_the_network_trains_on_its_own_afterwards():
    """Weights and order of an estimator's fit end with it."""
    estimator = classifier().fit(X, Y, sample_weight=np.linspace(0.1, 2, len(X)))
    network = estimator.network_
    history = network.fit(X[:50], Y[:50], epochs=2, progress=False)
    assert history.epochs == 2
    assert np.isfinite(network.train_step(X[:20], Y[:20], fanin.SGD(0.1), monitor=True))
    assert network.sample_weight is None and network.random_state is None


def test_keep_optimizer():
    """Four epochs at once, and twice two that keep Adam's moments, take the same steps."""
    settings = {"shuffle": False, "max_iter": 2, "warm_start": True}
    whole = classifier(shuffle=False, max_iter=4).fit(X, Y)
    kept, reset = (classifier(**settings, keep_optimizer=k).fit(X, Y).fit(X, Y)
                   for k in (True, False))  # fmt: skip
    np.testing.assert_array_equal(weights_of(kept), weights_of(whole))
    assert (weights_of(reset) != weights_of(whole)).any()
    theirs = neural_network.MLPClassifier(
        (20, 15), random_state=1, **settings
    ).fit(X, Y).fit(X, Y)  # fmt: skip
    np.testing.assert_allclose(reset.loss_curve_, theirs.loss_curve_, rtol=1e-6)


# ---- looking on ----------------------------------------------------------------------------------


def test_callbacks(capsys):
    seen = []

    class Watch(fanin.Callback):
        every = 3

        def on_step_end(self, net, history):
            seen.append(net.step)

    stop_after_two = [lambda net, history: history.epochs == 2, Watch()]
    estimator = classifier(callbacks=stop_after_two, max_iter=50).fit(X, Y)
    assert estimator.n_iter_ == 2 and seen == [3, 6, 9, 12, 15, 18]
    averaged = classifier(callbacks=[fanin.AveragedWeights(0.9)]).fit(X, Y)
    assert (weights_of(averaged) != weights_of(classifier().fit(X, Y))).any()


def test_monitor_and_diagnosis():
    estimator = classifier(monitor=True, max_iter=30).fit(X, Y)
    assert len(estimator.history_.monitor) >= 30
    assert isinstance(estimator.diagnose_, fanin.Diagnosis)
    dead = classifier(monitor=True, max_iter=30, learning_rate_init=30.0, solver="sgd")
    assert len(dead.fit(X, Y).diagnose_.findings) > 0
    with pytest.raises(AttributeError, match="monitor=True"):
        classifier().fit(X, Y).diagnose_  # noqa: B018
    assert not hasattr(classifier(), "diagnose_")


def test_threads():
    """At most so many while fit runs, as before afterwards, and the same bits."""
    before = fanin.get_num_threads()
    during = []
    estimators = [
        classifier(n_threads=n, callbacks=[lambda *_: during.append(fanin.get_num_threads())])
        for n in (1, 2, None)
    ]
    found = [weights_of(e.fit(X, Y)) for e in estimators]
    assert during == [1] * 4 + [2] * 4 + [before] * 4
    assert fanin.get_num_threads() == before
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_verbose(capsys):
    """True prints scikit-learn's lines on stdout, "bar" shows progress on stderr."""
    settings = {"max_iter": 3, "solver": "sgd", "learning_rate": "adaptive", "tol": 10.0,
                "n_iter_no_change": 1, "random_state": 0, "verbose": True}  # fmt: skip
    MLPClassifier(**settings).fit(X, Y)
    ours = capsys.readouterr().out
    neural_network.MLPClassifier(**settings).fit(X, Y)
    assert ours == capsys.readouterr().out
    MLPClassifier(**settings, early_stopping=True).fit(X, Y)
    ours = capsys.readouterr().out
    neural_network.MLPClassifier(**settings, early_stopping=True).fit(X, Y)
    assert ours == capsys.readouterr().out
    classifier(verbose="bar").fit(X, Y)
    shown = capsys.readouterr()
    assert shown.out == "" and "epoch 4/4" in shown.err


# ---- to and from scikit-learn --------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_from_scikit_learn_and_back(activation, dtype):
    tolerance = 20 * np.finfo(dtype).eps  # sums of 64 in another order, behind a softmax
    theirs = neural_network.MLPClassifier(
        (20, 15), activation, random_state=1, max_iter=4, alpha=0.3
    ).fit(X.astype(dtype), Y)  # fmt: skip
    ours = from_sklearn(theirs)
    x = X.astype(dtype)
    assert ours.coefs_[0].dtype == dtype
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=tolerance)
    back = to_sklearn(ours)
    np.testing.assert_array_equal(back.predict_proba(x), theirs.predict_proba(x))
    for estimator in (ours, back):
        assert estimator.alpha == 0.3 and estimator.n_iter_ == 4
        assert estimator.loss_curve_ == theirs.loss_curve_
        np.testing.assert_array_equal(estimator.predict(x), theirs.predict(x))
        estimator.partial_fit(x, Y)
    assert ours.loss_curve_ == pytest.approx(back.loss_curve_, rel=1e-4 if dtype == "float32"
                                             else 1e-9)  # fmt: skip


def test_other_kinds_carried_over():
    multilabel = np.column_stack([Y > 4, Y % 2 == 0]).astype(int)
    for y, make in itertools.product((YB, multilabel[: len(XB)]), (classifier,)):
        ours = make().fit(XB, y[: len(XB)])
        theirs = to_sklearn(ours)
        np.testing.assert_array_equal(theirs.predict(XB), ours.predict(XB))
        np.testing.assert_allclose(theirs.predict_proba(XB), ours.predict_proba(XB), atol=1e-14)
        np.testing.assert_array_equal(from_sklearn(theirs).predict(XB), ours.predict(XB))
    for loss in ("squared_error", "poisson", "huber"):
        ours = regressor(loss=loss).fit(XR, np.abs(YR))
        theirs = to_sklearn(ours)
        np.testing.assert_allclose(theirs.predict(XR), ours.predict(XR), rtol=1e-12)
        np.testing.assert_allclose(from_sklearn(theirs).predict(XR), ours.predict(XR), rtol=1e-12)


@pytest.mark.parametrize("where", ["before", "after"])
def test_batch_norm_carried_over(where):
    ours = classifier(batch_norm=where, dropout=0.2).fit(X, Y)
    theirs = to_sklearn(ours)
    # folded in float64
    np.testing.assert_allclose(theirs.predict_proba(X), ours.predict_proba(X), atol=1e-12)


def test_what_cannot_be_carried_over():
    with pytest.raises(ValueError, match="activation: expected one that scikit-learn has"):
        to_sklearn(classifier(activation="gelu").fit(X, Y))
    with pytest.raises(ValueError, match="for all layers"):
        to_sklearn(classifier(activation=["tanh", "relu"]).fit(X, Y))
    with pytest.raises(NotFittedError):
        to_sklearn(classifier())
    with pytest.raises(NotFittedError):
        from_sklearn(neural_network.MLPRegressor())
    for function in (to_sklearn, from_sklearn):
        with pytest.raises(TypeError, match="estimator: expected"):
            function(object())


# ---- sparse rows, dtypes, mistakes ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csr_array", "csc_array", "csr_matrix"])
@pytest.mark.parametrize("settings", [{}, {"early_stopping": True}, {"solver": "lbfgs"}])
def test_sparse(kind, settings):
    """The same bits as from dense rows."""
    sparse = getattr(scipy.sparse, kind)(X)
    a, b = classifier(**settings).fit(X, Y), classifier(**settings).fit(sparse, Y)
    np.testing.assert_array_equal(weights_of(a), weights_of(b))
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(sparse))


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_float32_stays(solver):
    x = X.astype(np.float32)
    estimator = classifier(solver=solver).fit(x, Y)
    assert {a.dtype for a in estimator.coefs_ + estimator.intercepts_} == {np.dtype(np.float32)}
    assert estimator.predict_proba(x).dtype == np.float32
    assert estimator.predict_proba(X).dtype == np.float64
    assert regressor(solver=solver).fit(XR.astype(np.float32), YR).predict(
        XR.astype(np.float32)
    ).dtype == np.float32  # fmt: skip


def test_settings_out_of_range():
    for settings in (
        {"dropout": 1.0}, {"dropout": "x"}, {"batch_norm": "beside"}, {"init": 3}, {"l1": -1},
        {"clip_norm": 0}, {"clip_value": -1}, {"optimizer": "adam"}, {"callbacks": None},
        {"monitor": 2}, {"n_threads": 0}, {"class_weight": "even"}, {"loss": "hinge"},
        {"verbose": "line"}, {"activation": "step"},
    ):  # fmt: skip
        (name,) = settings
        with pytest.raises(ValueError, match=f"The '{name}' parameter"):
            classifier(**settings).fit(X, Y)
    for settings, message in [
        ({"dropout": [0.1]}, "dropout"),
        ({"activation": ["relu"]}, "activation"),
        ({"batch_norm": [True]}, "batch_norm"),
        ({"init": "orthogonal"}, "init"),
        ({"dropout": 0.2, "solver": "lbfgs"}, "dropout: expected 0 with solver='lbfgs'"),
        ({"monitor": True, "solver": "lbfgs"}, "monitor: expected none with solver='lbfgs'"),
        ({"callbacks": [print], "solver": "lbfgs"}, "callbacks: expected none"),
        ({"clip_norm": 1.0, "solver": "lbfgs"}, "clip_norm: expected none"),
        ({"clip_value": 1.0, "solver": "lbfgs"}, "clip_value: expected none"),
    ]:
        with pytest.raises(ValueError, match=message):
            classifier(**settings).fit(X, Y)
