"""The doctor's matrix: each fault alone raises its finding and no other, sound training none."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest

import fanin
from fanin import MLP, SGD, Adam, AdamW, RMSprop, init, reference

NAMES = [
    "unnormalised inputs", "symmetric weights", "dead units", "saturated units",
    "exploding signal", "vanishing signal", "NaN", "learning rate too high",
    "learning rate too low", "loss not falling",
]  # fmt: skip


# ---- data ------------------------------------------------------------------------------------


@functools.cache
def data(name: str) -> tuple[np.ndarray, np.ndarray, int, str]:
    """(x, y, outputs, output) of a small real data set; "raw ..." before scaling."""
    from sklearn import datasets

    rng = np.random.default_rng(0)
    kind, _, rest = name.partition(" ")
    if kind == "raw":
        load = getattr(datasets, f"load_{rest}")
        x, y = load(return_X_y=True)
        return x.astype(np.float32), y, y.max() + 1, "softmax"
    if kind == "shuffled":  # rows of x and y no longer belong together
        x, y, outputs, output = data(rest)
        return x, rng.permutation(y), outputs, output
    if kind == "moons":
        x, y = datasets.make_moons(500, noise=0.2, random_state=0)
        return x, y, 2, "softmax"
    if kind == "diabetes":
        x, y = datasets.load_diabetes(return_X_y=True)
        return scaled(x), scaled(y), 1, "identity"
    x, y, outputs, output = data(f"raw {kind}")
    x = x / np.float32(16) if kind == "digits" else scaled(x)
    return (x, y, 1, "sigmoid") if rest == "yes or no" else (x, y, outputs, output)


def scaled(x):
    return ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32)


def changed(name, change):
    x, *others = data(name)
    return change(x), *others


def constant(value):
    return lambda fan_in, fan_out, stream: np.full((fan_in, fan_out), value)


def trained(of, hidden=(64, 64), *, package=fanin, optimizer=None, epochs=15, batch_size=128,
            monitor=True, biases=0.0, **settings):  # fmt: skip
    x, y, outputs, output = data(of) if isinstance(of, str) else of
    net = package.MLP([x.shape[1], *hidden, outputs], output=output, **settings)
    for layer in net.layers[:-1]:
        if biases:
            layer.bias = np.full(layer.fan_out, biases)
    history = net.fit(
        x,
        y,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=copy.deepcopy(optimizer),
        monitor=monitor,
        progress=False,
    )
    return net, history


# ---- the matrix ------------------------------------------------------------------------------

DEEP = [100] * 10
# name of the finding, then what has this one fault
FAULTS = {
    "unnormalised inputs": [
        {"of": "raw breast_cancer"},
        {"of": "raw breast_cancer", "activation": "tanh"},
        {"of": "raw wine", "hidden": [32]},
        {"of": "raw wine", "hidden": [32], "activation": "sigmoid"},
        {"of": lambda: changed("digits", lambda x: (255 * x).astype(np.uint8))},
        {"of": lambda: changed("digits", lambda x: 1e-4 * x), "activation": "tanh"},
        {"of": lambda: changed("diabetes", lambda x: x + 100)},
        {"of": lambda: changed("moons", lambda x: 1000 * x)},
    ],
    "symmetric weights": [
        {"of": "digits", "activation": activation, "init": constant(value)}
        for activation in ("relu", "tanh", "sigmoid")
        for value in (0.0, 0.05)
    ]
    + [
        {"of": "diabetes", "init": "zeros"},
        {"of": "wine", "init": constant(0.1), "batch_norm": True},
    ],
    "dead units": [
        {"of": "digits", "biases": -10.0},
        {"of": "wine", "biases": -20.0, "hidden": [100]},
        {"of": "diabetes", "biases": -20.0},
        {"of": "moons", "biases": -10.0, "optimizer": SGD(0.1)},
    ],
    "saturated units": [
        {
            "of": "digits",
            "hidden": [300, 300],
            "activation": "tanh",
            "init": init.normal(1.0),
            "epochs": 5,
        },
        {
            "of": "digits",
            "hidden": [300, 300],
            "activation": "sigmoid",
            "init": init.normal(2.0),
            "epochs": 5,
        },
        {"of": "breast_cancer", "activation": "tanh", "init": init.normal(1.0)},
        {"of": "diabetes", "hidden": [100, 100], "activation": "tanh", "init": init.normal(1.0)},
    ],
    "exploding signal": [
        {"of": "digits", "hidden": [100] * 4, "init": init.normal(1.0)},
        {"of": "digits", "hidden": [100] * 3, "init": init.normal(1.0), "optimizer": SGD(1e-6)},
        {"of": "breast_cancer", "hidden": [100] * 4, "init": init.normal(0.6)},
        {
            "of": "diabetes",
            "hidden": [100] * 4,
            "init": init.normal(1.0),
            "activation": "leaky_relu",
        },
    ],
    "vanishing signal": [
        {
            "of": "digits",
            "hidden": DEEP,
            "activation": "tanh",
            "init": init.normal(0.01),
            "epochs": 5,
        },
        {"of": "digits", "hidden": DEEP, "init": init.normal(0.01), "epochs": 5},
        {"of": "breast_cancer", "hidden": DEEP, "init": init.normal(0.01), "optimizer": SGD(0.1)},
        {"of": "digits", "hidden": [64] * 10, "activation": "sigmoid"},
        {"of": "diabetes", "hidden": [64] * 8, "activation": "sigmoid", "optimizer": SGD(0.01)},
    ],
    "NaN": [
        {"of": "digits", "optimizer": SGD(1e5)},
        {"of": "diabetes", "optimizer": SGD(2.0)},
        {"of": "diabetes", "optimizer": SGD(10.0), "hidden": []},
        {"of": "breast_cancer yes or no", "optimizer": SGD(1e12)},
    ],
    "learning rate too high": [
        {"of": of, "optimizer": optimizer, "activation": activation}
        for activation in ("relu", "tanh", "sigmoid")
        for of, optimizer in (
            ("digits", Adam(0.3)),
            ("diabetes", Adam(1.0)),
            ("digits", SGD(30.0)),
            ("wine", Adam(1.0)),
        )
    ]
    + [{"of": "moons", "optimizer": Adam(3.0)}, {"of": "digits", "optimizer": RMSprop(1.0)}],
    "learning rate too low": [
        {"of": "digits", "optimizer": Adam(1e-6)},
        {"of": "digits", "optimizer": SGD(1e-5)},
        {"of": "breast_cancer", "optimizer": SGD(1e-5), "activation": "tanh"},
        {"of": "diabetes", "optimizer": Adam(1e-6), "hidden": [64]},
        {"of": "moons", "optimizer": SGD(1e-6, momentum=0.9), "activation": "selu"},
    ],
    "loss not falling": [
        {"of": "shuffled digits", "hidden": [16], "epochs": 5},
        {"of": "shuffled digits", "hidden": [16], "epochs": 5, "activation": "tanh"},
        {
            "of": "shuffled diabetes",
            "hidden": [],
            "init": "zeros",
            "optimizer": Adam(1e-2),
            "batch_size": 442,
        },
        {"of": "shuffled moons", "hidden": [8], "activation": "tanh"},
    ],
}
CASES = [(name, i) for name, cases in FAULTS.items() for i in range(len(cases))]


def test_the_matrix_has_every_finding():
    assert list(FAULTS) == NAMES


@pytest.mark.parametrize(("name", "i"), CASES, ids=[f"{name}-{i}" for name, i in CASES])
def test_a_fault_raises_its_finding_and_no_other(name, i):
    settings = dict(FAULTS[name][i])
    of = settings.pop("of")
    net, history = trained(of() if callable(of) else of, **settings)
    found = fanin.diagnose(history, net)
    assert found.names == [name], str(found)
    assert found[0].advice
    assert any(c.isdigit() for c in found[0].evidence)
    assert not found.missing


SETS = ["digits", "breast_cancer", "breast_cancer yes or no", "diabetes", "wine", "moons"]
SOUND = {
    "relu": {},
    "tanh": {"activation": "tanh"},
    "sigmoid": {"activation": "sigmoid"},
    "gelu": {"activation": "gelu"},
    "selu": {"activation": "selu"},
    "leaky relu": {"activation": "leaky_relu", "hidden": [200]},
    "no hidden layer": {"hidden": [], "optimizer": Adam(1e-2)},
    "one unit wide": {"hidden": [32, 1, 32], "activation": "leaky_relu", "optimizer": Adam(1e-2)},
    "batch norm": {"batch_norm": True},
    "batch norm of sigmoid": {"batch_norm": True, "activation": "sigmoid"},
    "six relu": {"hidden": [32] * 6},
    "ten tanh": {"hidden": [32] * 10, "activation": "tanh"},
    "dropout": {"hidden": [128, 128], "dropout": 0.5},
    "l2": {"l2": 1e-3, "optimizer": Adam(3e-3)},
    "SGD": {"optimizer": SGD(0.02), "epochs": 30},
    "momentum": {"optimizer": SGD(0.01, momentum=0.9), "hidden": [64]},
    "RMSprop": {"optimizer": RMSprop(1e-3)},
    "AdamW": {"optimizer": AdamW(3e-3, weight_decay=0.01), "hidden": [256]},
    "small batches": {"optimizer": Adam(3e-3), "batch_size": 16},
    "long": {"optimizer": Adam(3e-3), "epochs": 80, "hidden": [64, 32]},
    "wide": {"hidden": [500, 500], "epochs": 5},
    "float64": {"dtype": "float64"},
}


@pytest.mark.parametrize("of", SETS)
@pytest.mark.parametrize("how", SOUND)
def test_a_sound_training_raises_none(how, of):
    net, history = trained(of, **SOUND[how])
    found = fanin.diagnose(history, net)
    assert not found, str(found)
    assert not found.missing


def test_a_training_that_goes_on_raises_none():
    """What has been learned before cannot fall much further."""
    x, y, *_ = data("digits")
    net, _ = trained("digits", epochs=60)
    assert not fanin.diagnose(net.fit(x, y, epochs=3, progress=False))
    assert not fanin.diagnose(net.fit(x, y, epochs=3, progress=False, optimizer=SGD(1e-6)))


# ---- causes and effects ----------------------------------------------------------------------


def test_a_cause_names_its_effects():
    _, history = trained("raw breast_cancer", activation="tanh")
    evidence = str(fanin.diagnose(history))
    assert "seen with it: saturated units" in evidence


def test_data_and_weights_are_reported_both():
    _, history = trained("raw wine", init="zeros")
    assert fanin.diagnose(history).names == ["unnormalised inputs", "symmetric weights"]


def test_nan_is_reported_beside_its_cause():
    _, history = trained("digits", DEEP, init=init.normal(3.0), optimizer=SGD(1e6))
    assert fanin.diagnose(history).names == ["exploding signal", "NaN"]


# ---- where NaN began -------------------------------------------------------------------------


@pytest.mark.parametrize("package", [fanin, reference], ids=["fanin", "reference"])
@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize(
    "settings",
    [{}, {"activation": "gelu", "dropout": 0.2}, {"batch_norm": True}],
    ids=["relu", "gelu", "batch norm"],
)
def test_the_layer_where_nan_began(package, layer, settings):
    """One weight of a layer is made NaN before a known step."""
    x, y, *_ = data("digits")
    net = package.MLP([64, 40, 30, 10], **settings)

    class Spoil(package.Callback):
        every = 1

        def on_step_end(self, net, history):
            if net.step == 7:
                net.layers[layer].weight[3, 5] = np.nan

    history = net.fit(x[:640], y[:640], epochs=3, batch_size=64, callbacks=[Spoil()],
                      progress=False, optimizer=package.SGD(0.01))  # fmt: skip
    assert (history.nonfinite_step, history.nonfinite_layer) == (7, layer)
    finding = package.diagnose(history)[0]
    assert (finding.name, finding.step, finding.layer) == ("NaN", 7, layer)


def test_the_layer_where_nan_began_is_the_references():
    """Whatever order of steps the compiled network chooses: alone, with histogram, one's loss."""
    for options in ({}, {"monitor": False}, {"loss": lambda z, y: (float((z**2).mean()), z)}):
        found = []
        for package in (fanin, reference):
            x, y, *_ = data("digits")
            net = package.MLP([64, 50, 50, 50, 10], activation="leaky_relu")
            with np.errstate(all="ignore"):
                history = net.fit(x, y, epochs=2, optimizer=package.SGD(1e4), progress=False,
                                  **options)  # fmt: skip
            found.append((history.nonfinite_step, history.nonfinite_layer))
        assert found[0] == found[1]
        assert found[0][0] is not None


def test_a_sound_training_has_no_such_layer():
    _, history = trained("wine")
    assert history.nonfinite_step is None and history.nonfinite_layer is None


# ---- what fit keeps for it -------------------------------------------------------------------


@pytest.mark.parametrize("package", [fanin, reference], ids=["fanin", "reference"])
def test_what_the_history_keeps(package):
    x, y, *_ = data("raw wine")
    net = package.MLP([13, 20, 3])
    history = net.fit(x, y, epochs=4, batch_size=32, input_scale=0.5, progress=False)
    monitor = history.monitor
    # 178 rows of 13 columns are few enough to be looked at all; x / 2 is exact, and float64 sums
    # of 178 float32 in another order differ by 178 float64 eps at most, 4e-14
    np.testing.assert_allclose(monitor.input_mean, 0.5 * x.mean(axis=0, dtype=float), rtol=1e-13)
    np.testing.assert_allclose(monitor.input_std, 0.5 * x.std(axis=0, dtype=float), rtol=1e-11)
    assert not monitor["equal_units"].any()
    assert monitor.first == 0
    # each row has the mean since the row before; here every step has one (178 / 32 -> 6 steps)
    assert len(monitor) == len(monitor.loss)
    np.testing.assert_array_equal(monitor.steps, np.arange(24))
    rows = np.array([32] * 5 + [18])
    # the sum over an epoch is the same but for the rounding of 12 additions
    for epoch in range(4):
        mean = monitor.loss[6 * epoch :][:6] @ rows / 178
        assert mean == pytest.approx(history.loss[epoch], rel=12 * 2.3e-16 * 10)


def test_the_first_loss_is_that_of_the_drawn_weights():
    x, y, *_ = data("wine")
    net, other = MLP([13, 20, 3]), MLP([13, 20, 3])
    history = net.fit(x, y, epochs=1, batch_size=64, shuffle=False, progress=False)
    # total / rows takes back the product loss * rows: two roundings
    expected = other.loss_and_gradients(x[:64], y[:64])[0]
    assert history.monitor.loss[0] == pytest.approx(expected, rel=4.5e-16)


def test_a_checkpoint_keeps_it(tmp_path):
    x, y, *_ = data("wine")
    runs = []
    for stops in (False, True):
        path = tmp_path / f"{stops}.ckpt"
        options = {"batch_size": 16, "checkpoint": path, "progress": False}
        net = MLP([13, 20, 3])
        if stops:
            net.fit(x, y, epochs=2, **options)
            net = MLP([13, 20, 3])
        runs.append(net.fit(x, y, epochs=5, **options).monitor)
    whole, resumed = runs
    # the same rows where both monitored (how often depends on the length that was asked for)
    common = np.isin(whole.steps, resumed.steps[:16])
    assert common.sum() > 4
    assert whole.loss[0] == resumed.loss[0]
    np.testing.assert_array_equal(whole.input_mean, resumed.input_mean)
    assert len(resumed.loss) == len(resumed.steps)


# ---- without monitor, and bad input ----------------------------------------------------------


def test_without_monitor_it_says_what_it_cannot_judge():
    net, history = trained("raw wine", monitor=False, init="zeros")
    found = fanin.diagnose(history)
    assert len(found.missing) == 3
    assert all("monitor=True" in what for what in found.missing)
    assert "not judged" in str(found)
    x = data("raw wine")[0]
    found = fanin.diagnose(history, net, x=x)
    assert found.names == ["unnormalised inputs", "symmetric weights"]
    assert len(found.missing) == 1
    _, history = trained("shuffled digits", [16], monitor=False, epochs=5, optimizer=SGD(1e-4))
    assert fanin.diagnose(history).names == ["loss not falling"]


def test_inputs_are_judged_after_scaling():
    x, y, *_ = data("raw digits")
    net = MLP([64, 32, 10])
    history = net.fit(255 * x, y, epochs=3, input_scale=1 / 4080, monitor=False, progress=False)
    assert not fanin.diagnose(history, net, x=255 * x)


def test_a_standardizer_is_what_helps():
    x, y, *_ = data("raw breast_cancer")
    for monitor in (True, False):
        net = MLP([30, 64, 2], activation="tanh", standardizer=fanin.Standardizer())
        history = net.fit(x, y, epochs=10, monitor=monitor, progress=False)
        assert not fanin.diagnose(history, net)
        assert not fanin.diagnose(history, net, x=x)


def test_what_a_diagnosis_is():
    _, history = trained("wine")
    sound = fanin.diagnose(history)
    assert not sound and len(sound) == 0 and sound.names == []
    assert str(sound) == "nothing found"
    _, history = trained("digits", optimizer=SGD(1e5))
    found = fanin.diagnose(history)
    assert found and len(found) == 1
    assert [finding.name for finding in found] == ["NaN"] == [found[0].name]
    head, evidence, advice = str(found).splitlines()
    assert head.startswith("NaN (layer ")
    assert evidence.startswith("  evidence: ") and advice.startswith("  advice: ")


def test_bad_input():
    net, history = trained("wine")
    x, y, *_ = data("wine")
    with pytest.raises(TypeError, match="history: expected what fit returned"):
        fanin.diagnose(history.loss)
    with pytest.raises(ValueError, match="history: expected one epoch or more"):
        fanin.diagnose(fanin.History())
    with pytest.raises(ValueError, match=r"x: expected shape \(rows, 13\)"):
        fanin.diagnose(history, net, x=x[:, :5])
    with pytest.raises(ValueError, match="x: expected net as well"):
        fanin.diagnose(history, x=x)
    with pytest.raises(ValueError, match="human_error: expected net, x and y"):
        fanin.diagnose(history, net, x=x, y=y, human_error=0.0)


# ---- bias and variance -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("errors", "names"),
    [
        ({"train_error": 0.01, "dev_error": 0.11}, ["high variance"]),
        ({"train_error": 0.15, "dev_error": 0.16}, ["high bias"]),
        ({"train_error": 0.15, "dev_error": 0.30}, ["high bias", "high variance"]),
        ({"train_error": 0.15, "dev_error": 0.40}, ["high variance", "high bias"]),
        ({"train_error": 0.005, "dev_error": 0.01}, []),
        ({"train_error": 0.15, "dev_error": 0.165, "human_error": 0.15}, []),
        ({"train_error": 0.08, "dev_error": 0.09, "human_error": 0.075}, []),
        ({"train_error": 0.08, "dev_error": 0.09, "human_error": 0.01}, ["high bias"]),
        ({"train_error": 0.01, "train_dev_error": 0.09, "dev_error": 0.1}, ["high variance"]),
        ({"train_error": 0.01, "train_dev_error": 0.015, "dev_error": 0.1}, ["data mismatch"]),
        (
            {"train_error": 0.1, "train_dev_error": 0.11, "dev_error": 0.2},
            ["high bias", "data mismatch"],
        ),
        (
            {"train_error": 0.07, "train_dev_error": 0.1, "dev_error": 0.06},
            ["high bias", "high variance"],
        ),
        ({"train_error": 0.01, "dev_error": 0.02, "test_error": 0.08}, ["dev set overfitted"]),
        ({"train_error": 0.002, "dev_error": 0.015, "high": 0.01}, ["high variance"]),
    ],
)
def test_bias_and_variance(errors, names):
    for package in (fanin, reference):
        found = package.bias_variance(**errors)
        assert sorted(found.names) == sorted(names), str(found)
        assert str(found).startswith("errors: human ")
        assert all(finding.advice for finding in found)


def test_bias_and_variance_of_a_training():
    x, y, *_ = data("digits")
    small, wide = MLP([64, 3, 10], activation="tanh"), MLP([64, 300, 10])
    split = {"validation": (x[1000:], y[1000:]), "progress": False}
    for net, name, rows, epochs in (
        (small, "high bias", 1000, 30),
        (wide, "high variance", 60, 60),
    ):
        history = net.fit(x[:rows], y[:rows], epochs=epochs, **split)
        found = fanin.diagnose(history, net, x=x[:rows], y=y[:rows], human_error=0.0)
        assert found.names[0] == name, str(found)
        assert "training" in found.summary
    x, y, *_ = data("diabetes")
    net = MLP([10, 100, 1], output="identity")
    history = net.fit(x[:300], y[:300], validation=(x[300:], y[300:]), epochs=20, progress=False)
    found = fanin.diagnose(history, net, x=x[:300], y=y[:300], human_error=0.3)
    assert "high bias" in found.names  # R^2 of about 0.5


def test_errors_in_another_unit():
    found = fanin.bias_variance(5.0, 12.5, high=2.0)
    assert found.summary == "errors: human 0, training 5, dev 12.5"
    assert found[0].evidence == "training 5, dev 12.5: a step of 7.5 (at most 2)"


def test_what_does_not_belong_together():
    x, y, *_ = data("digits")
    net = MLP([x.shape[1], 8, 10])
    history = net.fit(x, y, epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"^net: expected .* of 2 layers, got one of 1$"):
        fanin.diagnose(history, MLP([x.shape[1], 10]))
    x = x.copy()
    x[7, 3] = np.nan
    with pytest.raises(
        ValueError, match=r"^x: expected finite numbers, got nan in row 7, column 3"
    ):
        fanin.diagnose(history, net, x=x, y=y)


def test_bad_errors():
    with pytest.raises(ValueError, match="dev_error"):
        fanin.bias_variance(0.1, -0.1)
    with pytest.raises(TypeError, match="train_error"):
        fanin.bias_variance("0.1", 0.1)
    with pytest.raises(ValueError, match="test_error"):
        fanin.bias_variance(0.1, 0.1, test_error=float("nan"))
    with pytest.raises(ValueError, match="high: expected a number > 0"):
        fanin.bias_variance(0.1, 0.1, high=0)
