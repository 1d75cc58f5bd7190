"""The loop of fit: callbacks, losses and metrics of one's own, averages, early stopping, NaN."""

from __future__ import annotations

import io
import math
import pickle
import sys

import numpy as np
import pytest

import fanin
from compare import same_bits


def data(rows=96, classes=3):
    rng = np.random.default_rng(1)
    y = rng.integers(0, classes, rows)
    return (rng.standard_normal((rows, 5)) + y[:, None]).astype(np.float32), y


X, Y = data()


def make(package, **settings):
    return package.MLP([5, 12, 3], **settings)


def fit(net, **settings):
    return net.fit(X, Y, **{"epochs": 3, "batch_size": 16, "progress": False} | settings)


# ---- callbacks -------------------------------------------------------------------------------


def test_when_callbacks_are_called(package):
    calls = []

    class All(package.Callback):
        every = 2

        def on_fit_begin(self, net, history):
            calls.append(("fit", net.step, history.epochs))

        def on_epoch_begin(self, net, history):
            calls.append(("epoch", net.step, net.epoch))

        def on_step_end(self, net, history):
            calls.append(("step", net.step))

        def on_epoch_end(self, net, history):
            calls.append(("epoch end", net.epoch, history.epochs))

        def on_fit_end(self, net, history):
            calls.append(("end", net.step, history.epochs))

    net = make(package)
    fit(net, epochs=2, batch_size=20, callbacks=[All()])
    assert calls == [
        ("fit", 0, 0),
        ("epoch", 0, 0), ("step", 2), ("step", 4), ("epoch end", 1, 1),
        ("epoch", 5, 1), ("step", 6), ("step", 8), ("step", 10), ("epoch end", 2, 2),
        ("end", 10, 2),
    ]  # fmt: skip


def test_callbacks_change_no_bits(package):
    """Whoever looks, and however often: the training is the same."""

    class Look(package.Callback):
        def on_step_end(self, net, history):
            net.predict(X)

    options = {"dropout": 0.3, "batch_norm": True}
    nets = [make(package, **options) for _ in range(3)]
    histories = [
        fit(nets[0]),
        fit(nets[1], callbacks=[Look()]),
        fit(nets[2], callbacks=[package.AveragedWeights(0.9, every=2, swap=False)]),
    ]
    for net, history in zip(nets[1:], histories[1:], strict=True):
        same_bits(net.parameters, nets[0].parameters)
        assert history.loss == histories[0].loss


def test_losses_of_steps(package):
    """history.step_loss is what train_step returns."""
    seen = []

    class Watch(package.Callback):
        def on_step_end(self, net, history):
            seen.append(history.step_loss)

    net, twin = make(package), make(package)
    optimizer = package.Adam()
    fit(net, epochs=1, shuffle=False, callbacks=[Watch()])
    losses = [twin.train_step(X[i : i + 16], Y[i : i + 16], optimizer) for i in range(0, 96, 16)]
    # a difference of sums of 96 losses below 2, over 16
    np.testing.assert_allclose(seen, losses, rtol=0, atol=2 * 96 * 2.0**-53)


def test_stop_after_a_step(package):
    class Stop(package.Callback):
        def on_step_end(self, net, history):
            return net.step == 8

    net = make(package)
    ended = []
    history = fit(net, callbacks=[Stop(), lambda net, history: ended.append(1)])
    assert net.step == 8
    assert history.epochs == len(ended) == 1
    assert not history.stopped_early


def test_callbacks_that_raise(package):
    """The network keeps its steps and goes on."""

    class Fail(package.Callback):
        def on_step_end(self, net, history):
            if net.step == 9:
                raise ZeroDivisionError

    net = make(package)
    average = package.AveragedWeights(0.5)
    with pytest.raises(ZeroDivisionError):
        fit(net, callbacks=[Fail(), average], validation=(X, Y))
    assert net.step == 9
    twin = make(package)
    optimizer = package.Adam()
    twin.fit(X, Y, epochs=1, batch_size=16, optimizer=optimizer, progress=False)
    order = fanin.reference.random.permutation(96, 0, 1)
    for i in range(3):
        rows = order[16 * i : 16 * i + 16]
        twin.train_step(X[rows], Y[rows], optimizer)
    same_bits(net.parameters, twin.parameters)
    fit(net)


def test_what_is_no_callback(package):
    for bad, message in ((3, "expected callables"), ([package.Callback], "got the class Callback"),
                         ([lambda *_: None, "f"], "expected callables")):  # fmt: skip
        with pytest.raises(TypeError, match=rf"^callbacks: .*{message}"):
            fit(make(package), callbacks=bad)

    class Never(package.Callback):
        every = 0

    with pytest.raises(ValueError, match=r"^callbacks: every: expected an integer >= 1"):
        fit(make(package), callbacks=[Never()])
    with pytest.raises(ValueError, match=r"^callbacks: expected one AveragedWeights"):
        fit(make(package), callbacks=[package.AveragedWeights(), package.AveragedWeights()])


# ---- averaged weights ------------------------------------------------------------------------


@pytest.mark.parametrize(("decay", "every"), [(0.9, 1), (0.5, 4), (0.0, 1), (0.98, 3)])
def test_average(decay, every, package):
    """The textbook's: a = D a + (1 - D) p from a = 0, over 1 - D^t."""
    steps = []

    class Keep(package.Callback):
        def on_step_end(self, net, history):
            steps.append((net.parameters.copy(), net.running_var.copy()))

    net = make(package, dtype="float64", batch_norm=True)
    average = package.AveragedWeights(decay, every=every, swap=False)
    fit(net, callbacks=[average, Keep()])
    d = decay**every
    for place, found in ((0, average.parameters), (1, average.running_var)):
        a, t = np.zeros_like(found), 0
        for vectors in steps[every - 1 :: every]:
            a, t = d * a + (1 - d) * vectors[place], t + 1
        # eight roundings or fewer of numbers below 8 in each of the 18 steps, and what is wrong in
        # one step is not made larger by the next; 1 - D^t loses three bits at most
        assert np.abs(found).max() < 8
        np.testing.assert_allclose(found, a / (1 - d**t), rtol=0, atol=18 * 8 * 8 * 8 * 2.0**-53)
    assert average.samples == len(steps) // every


def test_how_often_by_default(package):
    for decay, every in ((0.9, 1), (0.99, 1), (0.999, 10), (0.9999, 100), (0.0, 1)):
        assert package.AveragedWeights(decay).every == every


def test_the_averaged_network_is_the_one_looked_at(package):
    """Validation, best epoch and end are of the average; the training goes on from its own."""
    average, plain = package.AveragedWeights(0.95), make(package)
    validated, raw = [], []

    def look(net, history):
        raw.append(net.parameters.copy())
        validated.append(average.network(net).evaluate(X, Y))

    fit(plain, epochs=4)
    net = make(package)
    history = fit(net, epochs=4, callbacks=[average, look], validation=(X, Y))
    assert history.val_loss == [found["loss"] for found in validated]
    assert history.val_accuracy == [found["accuracy"] for found in validated]
    same_bits(raw[-1], plain.parameters)
    same_bits(average.parameters, plain.parameters)  # they have changed places
    assert net.evaluate(X, Y) == validated[-1]
    average.swap(net)
    same_bits(net.parameters, plain.parameters)


def test_average_and_restore_best(package):
    average = package.AveragedWeights(0.8)
    kept = []

    def keep(net, history):
        kept.append(average.parameters.copy())

    net = make(package)
    rule = package.EarlyStopping("val_accuracy", patience=2)
    history = fit(net, epochs=30, callbacks=[average, keep], validation=(X, Y), early_stopping=rule)
    assert history.best_epoch < history.epochs - 1
    same_bits(net.parameters, kept[history.best_epoch])


def test_average_begins_anew(package):
    net, average = make(package), package.AveragedWeights(0.9)
    fit(net, callbacks=[average])
    again = pickle.loads(pickle.dumps(average))
    same_bits(again.parameters, average.parameters)
    fit(net, epochs=1, callbacks=[average])
    assert average.samples == 6
    with pytest.raises(ValueError, match=r"^net: expected 111 parameters, .* got one of 6$"):
        average.swap(package.MLP([2, 2]))
    for settings, told in (({"decay": 1.0}, "decay"), ({"every": 0}, "every"),
                           ({"swap": 1}, "swap")):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=rf"^{told}: expected"):
            package.AveragedWeights(**settings)


# ---- losses of one's own ---------------------------------------------------------------------


def cross_entropy(package):
    return lambda z, y: package.softmax_cross_entropy(z, y)


@pytest.mark.parametrize("output", ["softmax", "identity"])
def test_own_loss_like_the_built_in_one(output, package):
    """Cross entropy as a function trains like softmax's own, and mean squared error likewise."""
    y = Y if output == "softmax" else X[:, :3] * 0.5
    loss = cross_entropy(package) if output == "softmax" else package.mean_squared_error
    options = {"dropout": 0.3, "batch_norm": True, "l2": 1e-3, "l1": 1e-4, "dtype": "float64"}
    y = y.astype(np.float64) if output == "identity" else y
    nets = [make(package, output=output, **options) for _ in range(2)]
    histories = [
        net.fit(X, y, epochs=3, batch_size=16, progress=False, validation=(X, y), loss=given)
        for net, given in zip(nets, (None, loss), strict=True)
    ]
    # the built-in loss sums rows in another order: an ulp or so of dz in each of 18 Adam steps of
    # 1e-3, which may turn an ulp of a small gradient into 1e-3 of it
    np.testing.assert_allclose(
        nets[1].parameters, nets[0].parameters, rtol=0, atol=18 * 1e-3 * 1e-6
    )
    for name in ("loss", "val_loss", "val_accuracy", "val_r2"):
        one, other = (getattr(history, name) for history in histories)
        np.testing.assert_allclose(one, other, rtol=1e-9, err_msg=name)
    found = nets[1].evaluate(X, y, loss=loss)
    assert found["loss"] == pytest.approx(nets[1].evaluate(X, y)["loss"], rel=1e-12)


def test_own_loss_of_other_targets(package):
    """y is what was given: here two numbers a row, and the quantile of a regression."""

    def pinball(z, y):  # R. Koenker, G. Bassett, 1978: y[:, 1] is the quantile wanted
        error = y[:, :1] - z
        part = y[:, 1:]
        dz = np.where(error > 0, -part, 1 - part) / len(z)
        return np.maximum(part * error, (part - 1) * error).mean(), dz

    rng = np.random.default_rng(0)
    y = np.stack([rng.standard_normal(96), np.full(96, 0.9)], axis=1)
    net = package.MLP([5, 1], output="identity")
    history = net.fit(np.zeros((96, 5)), y, epochs=200, loss=pinball, batch_size=96,
                      optimizer=package.Adam(0.05), validation=(np.zeros((96, 5)), y),
                      progress=False)  # fmt: skip
    # the minimum lies between the 86th and the 87th of the 96 numbers; Adam is within a step of it
    low, high = np.sort(y[:, 0])[[84, 88]]
    assert low <= net.predict(np.zeros((1, 5)))[0] <= high
    assert history.val_r2 == []
    assert history.val_loss[-1] < history.val_loss[0]
    loss, gradients = net.loss_and_gradients(np.zeros((96, 5)), y, loss=pinball)
    assert loss == pytest.approx(history.val_loss[-1], rel=1e-5)  # float32
    assert net.train_step(np.zeros((96, 5)), y, package.SGD(0.0), loss=pinball) == loss
    assert gradients is net.gradients


def test_own_loss_in_float64_gradients(package):
    """Gradients of any loss, through dropout, batch norm and penalties: two-sided differences."""

    def cubic(z, y):
        return (np.abs(z) ** 3).sum() / len(z), 3 * z * np.abs(z) / len(z)

    net = make(package, dropout=0.2, batch_norm=True, l1=1e-3, l2=1e-2, activation="tanh",
               dtype="float64")  # fmt: skip
    _, gradients = net.loss_and_gradients(X, Y, loss=cubic)
    gradients = gradients.copy()
    for i in range(0, net.n_parameters, 7):
        values = []
        for sign in (1, -1):
            net.parameters[i] += sign * 1e-5
            values.append(net.loss_and_gradients(X, Y, loss=cubic)[0])
            net.parameters[i] -= sign * 1e-5
        # h^2 f''' / 6, with f''' below 1e3, and 2^-52 of a loss below 100 over h
        assert abs((values[0] - values[1]) / 2e-5 - gradients[i]) < 1e-7 * max(1, abs(gradients[i]))


BAD_LOSSES = [
    (lambda z, y: 1.0, TypeError, r"expected f\(z, y\) -> \(loss, dz\)"),
    (lambda z, y: (z, z), TypeError, "expected a number as the loss"),
    (lambda z, y: (1.0, z[:, :1]), ValueError, r"expected dz of shape \(16, 3\)"),
    (lambda z, y: (1.0, "dz"), TypeError, "expected real numbers as dz"),
    (lambda z, y: (1.0, z * 1j), TypeError, "expected real numbers as dz"),
    ("mse", TypeError, r"expected a function f\(z, y\)"),
]


@pytest.mark.parametrize("case", BAD_LOSSES, ids=lambda case: case[2][:24])
def test_what_is_no_loss(case, package):
    loss, error, message = case
    net = make(package)
    before = net.parameters.copy()
    for call in (
        lambda: fit(net, loss=loss),
        lambda: net.loss_and_gradients(X[:16], Y[:16], loss=loss),
        lambda: net.train_step(X[:16], Y[:16], package.Adam(), loss=loss),
    ):
        with pytest.raises(error, match=rf"^loss: {message}"):
            call()
    same_bits(net.parameters, before)
    fit(net)


def test_own_loss_takes_no_weights(package):
    loss = cross_entropy(package)
    for options in ({"sample_weight": np.ones(96)}, {"class_weight": [1, 1, 1]},
                    {"label_smoothing": 0.1}):  # fmt: skip
        with pytest.raises(ValueError, match=rf"^{next(iter(options))}: expected"):
            fit(make(package), loss=loss, **options)
    with pytest.raises(ValueError, match=r"^y: expected 96 rows"):
        make(package).fit(X, Y[:5], loss=loss, progress=False)
    with pytest.raises(ValueError, match=r"^validation: y: expected 96 rows"):
        fit(make(package), loss=loss, validation=(X, Y[:3]))


def test_own_loss_and_standardised_targets(package):
    """Where `fit` would standardise targets a loss of one's own is refused; steps take any y."""
    net = package.MLP([5, 1], output="identity", target_standardizer=package.Standardizer())
    y, loss = 50 + 3 * X[:, 0], package.mean_squared_error
    before = net.parameters.copy()
    told = r"^loss: expected None, as the network has a target_standardizer"
    with pytest.raises(ValueError, match=told):
        net.fit(X, y, loss=loss, progress=False)
    same_bits(net.parameters, before)
    assert net.target_standardizer.rows == 0
    net.fit(X, y, epochs=1, progress=False)
    with pytest.raises(ValueError, match=told):
        net.evaluate(X, y, loss=loss)
    column = y[:, None]
    value, gradients = net.loss_and_gradients(X, column, loss=loss)
    gradients = gradients.copy()
    assert value == pytest.approx(((net.forward(X) - column) ** 2).mean(), rel=1e-6)  # float32
    assert net.train_step(X, column, package.SGD(0.0), loss=loss) == value
    same_bits(net.loss_and_gradients(X, column, loss=loss)[1], gradients)


def test_monitor_with_an_own_loss(package):
    """Statistics and norms are made on this way, too."""
    nets = [make(package, dtype="float64") for _ in range(2)]
    losses = None, cross_entropy(package)
    histories = [fit(net, loss=loss) for net, loss in zip(nets, losses, strict=True)]
    for name in fanin.reference.history.COLUMNS:
        one, other = (history.monitor[name] for history in histories)
        # the same steps but for some ulp of dz; update_norm is as far off as Adam's steps above
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9, err_msg=name)
    assert histories[1].stats[2][0].histogram.sum() == 16 * 12


# ---- metrics ---------------------------------------------------------------------------------


def test_metrics(package):
    """f(y, prediction) of the validation data after each epoch, probabilities when asked for."""
    given = []

    def errors(y, prediction):
        given.append((y, prediction))
        return int((y != prediction).sum())

    def mean_top(y, p):
        return np.float32(p.max(axis=1).mean())

    net = make(package)
    history = fit(net, validation=(X, Y.tolist()),
                  metrics={"errors": errors, "top": (mean_top, "predict_proba")})  # fmt: skip
    assert list(history.metrics) == ["errors", "top"]
    assert history.values("errors") == [
        pytest.approx(96 * (1 - accuracy)) for accuracy in history.val_accuracy
    ]
    assert history.metrics["top"][-1] == float(np.float32(net.predict_proba(X).max(axis=1).mean()))
    same_bits(given[-1][1], net.predict(X))
    assert given[0][0].tolist() == Y.tolist()


def test_metric_of_one_output(package):
    """One column arrives as (m,), as scikit-learn's metrics want it."""
    shapes = []

    def shape(y, prediction):
        shapes.append((y.shape, prediction.shape))
        return 0.0

    net = package.MLP([5, 1], output="sigmoid")
    net.fit(X, Y > 1, validation=(X, Y > 1), epochs=1, progress=False,
            metrics={"a": shape, "b": (shape, "predict_proba")})  # fmt: skip
    assert shapes == [((96,), (96,))] * 2


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        ([len], TypeError, "expected a dict"),
        ({"loss": len}, ValueError, "expected names other than loss"),
        ({"a": "f1"}, TypeError, r"a: expected f\(y, prediction\)"),
        ({"a": (len, "proba")}, TypeError, r"a: expected f\(y, prediction\)"),
        ({"a": lambda y, p: p}, TypeError, "a: expected a number"),
    ],
)
def test_what_is_no_metric(metrics, error, message, package):
    with pytest.raises(error, match=rf"^metrics: {message}"):
        fit(make(package), validation=(X, Y), metrics=metrics)
    with pytest.raises(ValueError, match=r"^metrics: expected validation data"):
        fit(make(package), metrics={"a": lambda y, p: 0.0})


# ---- early stopping --------------------------------------------------------------------------


def told(values):
    """A metric that says these, one per epoch."""
    numbers = iter(values)
    return lambda y, prediction: next(numbers)


@pytest.mark.parametrize(("mode", "values", "best", "epochs"), [
    ("min", [3, 2, 2.5, 2.1, 1, 0], 1, 4), ("max", [1, 3, 2, 2, 9, 9], 1, 4),
    ("max", [1, math.nan, 2, 1, math.nan, 9], 2, 5), ("min", [5, 4, 3, 2, 1, 0], 5, 6),
])  # fmt: skip
def test_early_stopping_on_a_metric(mode, values, best, epochs, package):
    rule = package.EarlyStopping("told", patience=2, mode=mode)
    history = fit(make(package), epochs=6, validation=(X, Y), metrics={"told": told(values)},
                  early_stopping=rule)  # fmt: skip
    assert (history.best_epoch, history.epochs) == (best, epochs)
    assert history.stopped_early == (epochs < 6)


def test_early_stopping_on_r2(package):
    rng = np.random.default_rng(0)
    net = package.MLP([5, 64, 1], output="identity")
    history = net.fit(X, rng.standard_normal(96), validation=(X[::-1], rng.standard_normal(96)),
                      epochs=200, early_stopping=package.EarlyStopping("val_r2", patience=3),
                      batch_size=16, optimizer=package.Adam(0.01), progress=False)  # fmt: skip
    assert history.stopped_early
    assert history.best_epoch == int(np.argmax(history.val_r2)) == history.epochs - 4


@pytest.mark.parametrize("rule", [{"max_gap": 0.2}, {"max_ratio": 1.3}])
def test_training_and_validation_part(rule, package):
    """Stopped when val_loss was too far above loss for `patience` epochs in a row."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 3, 96)
    net = package.MLP([5, 64, 3])
    history = net.fit(
        X, noise, validation=(X[::-1], noise), epochs=300, batch_size=16, progress=False,
        early_stopping=package.EarlyStopping("loss", patience=4, **rule),
        optimizer=package.Adam(0.01),
    )  # fmt: skip
    assert history.stopped_early
    loss, val_loss = np.array(history.loss), np.array(history.val_loss)
    apart = val_loss - loss > 0.2 if "max_gap" in rule else val_loss / loss > 1.3
    assert apart[-4:].all()
    assert not any(apart[i : i + 4].all() for i in range(len(apart) - 4))
    assert history.epochs - 1 - history.best_epoch < 4  # the loss itself went on falling


def test_early_stopping_monitors_what_there_is(package):
    rule = package.EarlyStopping
    for stop, settings, message in (
        (rule("loss_"), {}, "did you mean 'loss'"),
        (rule("told"), {"metrics": {"told": told([1])}}, "expected mode='min' or 'max'"),
        (rule("val_r2"), {}, "unknown 'val_r2'"),
        (rule(), {"validation": None}, "expected validation data to monitor 'val_loss'"),
        (rule("loss", max_gap=1.0), {"validation": None}, "validation data for max_gap"),
    ):
        with pytest.raises(ValueError, match=rf"^early_stopping: .*{message}"):
            fit(make(package), early_stopping=stop, **{"validation": (X, Y)} | settings)


# ---- NaN -------------------------------------------------------------------------------------


def test_the_first_loss_that_is_not_finite(package):
    """Its step is in the history; with stop_on_nan it was the last one."""
    number = []

    def loss(z, y):
        number.append(len(number))
        return (math.nan if number[-1] == 8 else 1.0), np.zeros_like(z)

    net = make(package)
    history = fit(net, loss=loss)
    assert history.nonfinite_step == 8
    assert net.step == 18
    number.clear()
    net = make(package)
    with pytest.warns(UserWarning, match="the loss of step 8 was not finite"):
        history = fit(net, loss=loss, stop_on_nan=True)
    assert net.step == 9
    assert history.epochs == 1
    assert fit(make(package)).nonfinite_step is None


def test_diverging(package):
    """A learning rate far too high: the same step as in a loop of one's own."""
    x = (X * 1e3).astype(np.float32)
    net, twin = (package.MLP([5, 9, 3], output="identity") for _ in range(2))
    y = np.zeros((96, 3))
    optimizer, step = package.SGD(10.0), 0
    with np.errstate(all="ignore"):
        while math.isfinite(twin.train_step(x, y, optimizer)):
            step += 1
    assert step < 30
    with pytest.warns(UserWarning, match=f"step {step} was not finite"):
        history = net.fit(x, y, epochs=30, batch_size=96, shuffle=False, stop_on_nan=True,
                          optimizer=package.SGD(10.0), progress=False)  # fmt: skip
    assert history.nonfinite_step == step
    assert net.step == step + 1


def test_nan_does_not_stop_by_itself(package):
    """Nor does it disturb checkpoints or the monitor."""
    net = package.MLP([5, 9, 3], output="identity")
    history = net.fit(X * 1e3, np.zeros((96, 3)), epochs=4, batch_size=8, progress=False,
                      optimizer=package.SGD(10.0), validation=(X, np.zeros((96, 3))))  # fmt: skip
    assert net.step == 48
    assert history.epochs == 4
    assert history.nonfinite_step < 48
    assert np.isnan(history.monitor["std"][-1]).all()


# ---- the monitor -----------------------------------------------------------------------------


def test_monitored_steps(package):
    """The columns are what train_step(monitor=True) leaves in the layers."""
    net, twin = make(package, dropout=0.2), make(package, dropout=0.2)
    history = fit(net, epochs=2, shuffle=False)
    optimizer = package.Adam()
    assert history.monitor.steps.tolist() == list(range(12))
    table = history.monitor
    assert len(table) == 12
    for step in range(12):
        rows = slice(16 * (step % 6), 16 * (step % 6) + 16)
        twin.train_step(X[rows], Y[rows], optimizer, monitor=True)
        for i, layer in enumerate(twin.layers):
            for name in ("mean", "std", "min", "max", "zero_fraction", "saturated_fraction"):
                assert table[name][step, i] == getattr(layer.stats, name), name
            for name in ("gradient_norm", "weight_norm", "update_norm"):
                # a monitored step with its histogram takes another way through the kernels
                assert table[name][step, i] == pytest.approx(getattr(layer, name), rel=1e-6)
    same_bits(table.update_ratio, table["update_norm"] / table["weight_norm"])
    assert fit(make(package), monitor=False).monitor is None
    with pytest.raises(ValueError, match=r"^column: unknown 'sdt'; did you mean 'std'"):
        table["sdt"]


def test_the_table_stays_small(package):
    """Thinned: a grid that gets coarser, and the powers of two at the beginning."""
    net = package.MLP([5, 2])
    net.fit(X, Y % 2, epochs=3, batch_size=8, progress=False)  # it does not begin at step 0
    history = net.fit(X, Y % 2, epochs=1500, batch_size=8, progress=False)
    assert net.step == 36 + 18000
    steps, stride = history.monitor.steps - 36, history.monitor.stride
    assert 32 <= len(steps) < 512
    powers = [2**i for i in range(20) if 2**i < stride]
    assert steps.tolist() == [0, *powers, *range(stride, 18000, stride)]
    assert history.monitor["mean"].shape == (len(steps), 1)


def test_the_table_gets_full():
    table = fanin.LayerHistory(100, 1)
    layer = fanin.MLP([2, 2]).layers
    step, seen = 0, []
    while step < 5000:
        step = table.next_due(100 + step) - 100
        table.record(100 + step, layer)
        assert len(table) < 512
        seen.append(step)
        step += 1
    assert table.stride == 16
    assert (table.steps - 100).tolist() == [0, 1, 2, 4, 8, *range(16, 5009, 16)]
    assert seen[:512] == list(range(512))  # each one, until the table was full


# ---- progress, history -----------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "progress", "shown"), [
    (Terminal, "auto", "bar"), (Terminal, True, "bar"), (Terminal, False, ""),
    (io.StringIO, "auto", ""), (io.StringIO, True, "lines"), (io.StringIO, False, ""),
])  # fmt: skip
def test_progress(stream, progress, shown, package, monkeypatch):
    """A bar on a terminal, lines elsewhere when asked for, with losses and metrics."""
    pytest.importorskip("tqdm")
    text = stream()
    monkeypatch.setattr(sys, "stderr", text)
    fit(make(package), progress=progress, validation=(X, Y), metrics={"seven": lambda y, p: 7})
    found = text.getvalue()
    if shown == "lines":
        lines = found.splitlines()
        assert len(lines) == 3
        assert lines[2].startswith("epoch 3/3  loss ")
        assert "val_loss" in lines[2] and "val_accuracy" in lines[2]
        assert lines[2].endswith("  seven 7")
        assert "\r" not in found
    elif shown == "bar":
        assert "\r" in found and "288/288" in found
        assert "seven 7" in found
    else:
        assert found == ""


def test_what_a_history_was_made_with(package):
    history = fit(make(package), optimizer=package.SGD(0.5, momentum=0.25))
    assert history.optimizer == "SGD(lr=0.5, momentum=0.25, nesterov=False)"
    assert history.batch_size == 16
    assert "batch_size=16" in repr(history)
    history = fit(make(package), optimizer=package.SGD(lambda step: 0.1))
    assert "lambda" in history.optimizer and "0x" not in history.optimizer


def test_values_of_a_history(package):
    history = fit(make(package), validation=(X, Y))
    assert history.values("val_loss") is history.val_loss
    assert history.values("val_r2") == []
    with pytest.raises(ValueError, match=r"^name: unknown 'val_los'; did you mean 'val_loss'"):
        history.values("val_los")


def test_plot(package):
    """Both curves on one axis, with the chosen epoch."""
    pytest.importorskip("matplotlib")
    history = fit(make(package), validation=(X, Y))
    ax = history.plot()
    drawn = [np.asarray(line.get_ydata()).tolist() for line in ax.lines]
    assert history.loss in drawn and history.val_loss in drawn
    assert [history.val_loss[history.best_epoch]] in drawn
    assert history.plot(ax) is ax


def test_same_losses_whatever_the_slices(package):
    """A history does not depend on when the network returned to Python."""
    histories = []
    for seconds in (0.0, 1.0):
        before = fanin.reference.training.SLICE_SECONDS
        fanin.reference.training.SLICE_SECONDS = seconds
        try:
            histories.append(fit(make(package), epochs=20))
        finally:
            fanin.reference.training.SLICE_SECONDS = before
    assert histories[0].loss == histories[1].loss
