"""`MLP(device="cuda")` against the CPU's network, on a GPU or emulated; see docs/cuda.md."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import signal
import sys

import numpy as np
import pytest

import device_arrays
import fanin
from fanin import MLP, SGD, Adam, AdamW, RMSprop
from fanin.reference import training

pytestmark = pytest.mark.skipif(not fanin.cuda.available()[0], reason=fanin.cuda.available()[1])

EMULATED = fanin.cuda.available()[0] and fanin.cuda.runtime.compiled().emulated


@pytest.fixture(autouse=True)
def cupy(monkeypatch):
    """CuPy, or what stands in for it where CUDA is emulated."""
    if not EMULATED:
        return pytest.importorskip("cupy")
    import emulated_cupy

    monkeypatch.setitem(sys.modules, "cupy", emulated_cupy)
    return emulated_cupy


def data(rows=96, inputs=5, outputs=3, output="softmax", seed=0, dtype="float64"):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, inputs)).astype(dtype)
    if output == "softmax":
        return x, rng.integers(0, outputs, rows)
    if output == "sigmoid":
        return x, rng.integers(0, 2, (rows, outputs)).astype(dtype)
    return x, rng.normal(size=(rows, outputs)).astype(dtype)


def pair(sizes=(5, 9, 7, 3), **settings):
    """The same network on both devices."""
    return MLP(sizes, **settings), MLP(sizes, device="cuda", **settings)


def host(vector):
    return vector if isinstance(vector, np.ndarray) else vector.get()


def assert_close(found, expected, bound, what=""):
    """Norm-wise: |found - expected| <= bound * |expected|."""
    found, expected = host(found).astype(float), host(expected).astype(float)
    scale = np.linalg.norm(expected) or 1.0
    assert np.linalg.norm(found - expected) <= bound * scale, what


# Both round each operation to their dtype and add in another order: a step in float64 agrees to
# some hundred roundings of 1.1e-16.  Training multiplies differences of early steps; 20 steps of
# these small networks stay below a factor of 1e4.
ONE_STEP, MANY_STEPS = 1e-13, 1e-9
FLOAT32, LOWERED = 1e-5, 2e-2  # a step: issue's bounds; 8 bits of bfloat16 through three layers

SETTINGS = {
    "plain": {},
    "tanh": {"activation": "tanh"},
    "gelu, silu": {"activation": ["gelu", "silu"]},
    "dropout": {"dropout": 0.3, "input_dropout": 0.2},
    "dropout, gelu": {"dropout": 0.25, "activation": "gelu_tanh"},
    "batch norm before": {"batch_norm": "before", "dropout": 0.2},
    "batch norm before, silu": {"batch_norm": "before", "activation": "silu"},
    "batch norm after": {"batch_norm": "after", "activation": "elu"},
    "batch norm after, dropout, gelu": {
        "batch_norm": "after", "activation": "gelu", "dropout": 0.25
    },
    "batch norms": {"batch_norm": ["after", "before"], "input_dropout": 0.1},
    "l1, l2": {"l1": 1e-3, "l2": 1e-2},
    "proximal": {"l1": 1e-2, "l1_step": "proximal", "dropout": 0.1},
    "max_norm": {"max_norm": [0.8, None, 1.0], "l2": 1e-3},
}  # fmt: skip
OPTIMIZERS = {
    "sgd": lambda: SGD(0.05),
    "momentum": lambda: SGD(0.05, momentum=0.9, nesterov=True, clip_value=0.05),
    "rmsprop": lambda: RMSprop(0.003, clip_norm=0.5),
    "adam": lambda: Adam(0.01),
    "adam, eps_hat, clip_norm": lambda: Adam(0.01, eps_hat=True, clip_norm=0.3),
    "adamw": lambda: AdamW(lambda step: 0.01 / (1 + step), weight_decay=0.1),
}


@pytest.mark.parametrize(
    ("name", "output"),
    [(name, "softmax") for name in SETTINGS]
    + [("dropout", "sigmoid"), ("batch norms", "identity")],
)
def test_gradients(name, output):
    x, y = data(rows=67, output=output)
    rng = np.random.default_rng(1)
    options = {"sample_weight": rng.uniform(0.5, 2, 67)}
    if output == "softmax":
        options |= {"class_weight": [1.0, 2.0, 0.5], "label_smoothing": 0.1}
    cpu, cuda = pair(output=output, dtype="float64", seed=3, **SETTINGS[name])
    for given in ({}, options):
        expected, there = cpu.loss_and_gradients(x, y, **given)
        found, here = cuda.loss_and_gradients(x, y, **given)
        assert found == pytest.approx(expected, rel=ONE_STEP)
        assert_close(here, there, ONE_STEP)
    for vector in ("running_mean", "running_var"):
        assert_close(getattr(cuda, vector), getattr(cpu, vector), ONE_STEP)
    assert_close(cuda.forward(x), cpu.forward(x), ONE_STEP)
    z, dout = cpu.forward(x, training=True), rng.normal(size=(67, 3))
    assert_close(cuda.forward(x, training=True), z, ONE_STEP)
    assert_close(cuda.backward(dout), cpu.backward(dout), ONE_STEP)
    assert_close(cuda.gradients, cpu.gradients, ONE_STEP)


COMBINATIONS = [("plain", optimizer) for optimizer in OPTIMIZERS] + [
    (name, optimizer)
    for name in ("dropout", "batch norms", "proximal", "max_norm")
    for optimizer in ("momentum" if name == "proximal" else "adamw",)
]


@pytest.mark.parametrize(("name", "optimizer"), COMBINATIONS)
def test_steps(name, optimizer):
    """Three steps and a last one of fewer rows, twice: monitored, first of their kind, replayed."""
    x, y = data(rows=50)
    cpu, cuda = pair(dtype="float64", **SETTINGS[name])
    histories = []
    for net in (cpu, cuda):
        rule = OPTIMIZERS[optimizer]()
        histories.append(
            net.fit(x, y, epochs=2, batch_size=16, optimizer=rule, progress=False, monitor=True)
        )
        assert (net.step, rule.steps, net.epoch) == (8, 8, 2)
    expected, found = histories
    np.testing.assert_allclose(found.loss, expected.loss, rtol=MANY_STEPS)
    assert_close(cuda.parameters, cpu.parameters, MANY_STEPS)
    for ours, theirs in zip(found.stats[-1], expected.stats[-1], strict=True):
        assert ours.mean == pytest.approx(theirs.mean, rel=1e-7, abs=1e-9)
        np.testing.assert_array_equal(ours.histogram, theirs.histogram)
        np.testing.assert_array_equal(ours.unit_zeros, theirs.unit_zeros)
    for column in ("gradient_norm", "update_norm", "weight_norm"):
        np.testing.assert_allclose(
            found.monitor[column], expected.monitor[column], rtol=1e-6, atol=1e-12
        )


@pytest.mark.parametrize(("dtype", "precision", "bound"), [
    ("float64", None, 1e-9),
    # 100 steps of Adam multiply the first steps' roundings of 6e-8 (2^-11 with TF32, 2^-9 with
    # bfloat16) by some thousands; losses, means over batches, move with the square of that or less
    ("float32", None, 1e-3),
    ("float32", "tfloat32", 2e-2),
    ("float32", "bfloat16", 5e-2),
])  # fmt: skip
def test_loss_curve(dtype, precision, bound):
    """100 steps agree with the CPU's."""
    x, y = data(rows=160, dtype=dtype)
    cpu = MLP([5, 16, 3], dtype=dtype, dropout=0.1)
    cuda = MLP([5, 16, 3], dtype=dtype, precision=precision, dropout=0.1, device="cuda")
    losses = [
        net.fit(x, y, epochs=10, batch_size=16, optimizer=Adam(3e-3), progress=False,
                monitor=False).loss
        for net in (cpu, cuda)
    ]  # fmt: skip
    np.testing.assert_allclose(losses[1], losses[0], rtol=bound)
    assert losses[1][-1] < losses[1][0]


@pytest.mark.parametrize("name", SETTINGS)
def test_bfloat16(name):
    """Gradients of products in bfloat16 against float64's, layers with batch norm between."""
    x, y = data(rows=67, dtype="float32")
    wide = MLP((5, 9, 7, 3), dtype="float64", seed=3, **SETTINGS[name])
    low = MLP((5, 9, 7, 3), precision="bfloat16", seed=3, device="cuda", **SETTINGS[name])
    wide.parameters = low.parameters.get()
    expected, there = wide.loss_and_gradients(x, y)
    found, here = low.loss_and_gradients(x, y)
    assert found == pytest.approx(expected, rel=LOWERED)
    assert_close(here, there, 3 * LOWERED)
    assert_close(low.forward(x), wide.forward(x), LOWERED)
    # a step that is one kernel rounds in other places than layers do
    assert low.train_step(x, y, Adam(0.01)) == pytest.approx(expected, rel=LOWERED)


@pytest.mark.parametrize("precision", [None, "bfloat16"])
def test_replays_are_the_steps_themselves(precision):
    """Captured and replayed, or queued one by one: the same bits."""
    x, y = data(rows=72, dtype="float32")
    found = []
    for replays in (True, False):
        net = MLP([5, 9, 3], dropout=0.2, l2=1e-3, precision=precision, device="cuda",
                  batch_norm=precision is None)  # fmt: skip
        net._compiled.set_replays(replays)
        history = net.fit(x, y, epochs=2, batch_size=16, optimizer=AdamW(0.01), progress=False)
        found.append((history.loss, net.parameters.get(), net.running_var.get()))
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])
    np.testing.assert_array_equal(found[0][2], found[1][2])


@pytest.mark.parametrize(
    ("kind", "output"),
    [
        (np.uint8, "softmax"),
        (np.int32, "softmax"),
        (np.float32, "identity"),
        (np.float64, "softmax"),
    ],
)
def test_streamed_data_are_the_resident_ones(kind, output, monkeypatch):
    """Where a data set has no room on the device: the same bits, weights included."""
    rng = np.random.default_rng(5)
    x = rng.integers(0, 256, (70, 5)).astype(kind)
    y = data(70, output=output)[1]
    weight = rng.uniform(0.5, 2, 70)
    found = []
    for room in (0.9, 0.0):
        net = MLP([5, 8, 3], output=output, device="cuda")
        if room == 0.0:
            monkeypatch.setattr(type(net._compiled), "keep", lambda *_: False)
        net.fit(x, y, epochs=2, batch_size=16, input_scale=1 / 255, sample_weight=weight,
                progress=False, monitor=False)  # fmt: skip
        found.append(net.parameters.get())
    np.testing.assert_array_equal(*found)


def test_streamed_data_are_the_resident_ones_where_steps_are_undone(monkeypatch):
    """Steps queued behind a loss that is not finite are undone with the rows they were given."""
    monkeypatch.setattr(training, "SLICE_SECONDS", 1e3)  # so that ever more steps are queued
    x, y = data(rows=160, output="identity", dtype="float32")
    y[20:] = 1e30  # the second step's: a square is infinite, a gradient is not
    found = []
    for resident in (True, False):
        net = MLP([5, 8, 3], output="identity", device="cuda")
        if not resident:
            monkeypatch.setattr(type(net._compiled), "keep", lambda *_: False)
        with pytest.warns(UserWarning, match="not finite"):
            history = net.fit(x, y, shuffle=False, batch_size=16, epochs=1, optimizer=SGD(1e-30),
                              progress=False, monitor=False, stop_on_nan=True)  # fmt: skip
        assert (history.nonfinite_step, history.nonfinite_layer) == (1, 1)
        found.append(net.parameters.get())
        assert np.isfinite(found[-1]).all()
    np.testing.assert_array_equal(*found)


def test_standardizers():
    x, y = data(output="identity")
    x, y = 1000 + 3 * x, 50 * y - 7
    nets = []
    for device in ("cpu", "cuda"):
        net = MLP(
            [5, 8, 3],
            output="identity",
            dtype="float64",
            device=device,
            standardizer=fanin.Standardizer(),
            target_standardizer=fanin.Standardizer(),
        )
        net.fit(x, y, epochs=2, validation=(x, y), progress=False)
        nets.append(net)
    assert_close(nets[1].parameters, nets[0].parameters, MANY_STEPS)
    assert_close(nets[1].predict(x), nets[0].predict(x), MANY_STEPS)
    assert nets[1].evaluate(x, y)["r2"] == pytest.approx(nets[0].evaluate(x, y)["r2"], rel=1e-7)


def test_same_seed_same_bits():
    x, y = data(dtype="float32")
    found = []
    for _ in range(2):
        net = MLP([5, 9, 3], dropout=0.3, device="cuda", seed=11)
        net.fit(x, y, epochs=2, batch_size=10, progress=False)
        found.append(net.parameters.get())
    np.testing.assert_array_equal(*found)


# ---- what fit does besides -------------------------------------------------------------------


def test_fit_with_everything(tmp_path):
    x, y = data(rows=120)
    seen = []
    for device in ("cpu", "cuda"):
        net = MLP([5, 8, 3], dtype="float64", dropout=0.1, device=device)
        average = fanin.AveragedWeights(0.9, every=3)
        history = net.fit(
            x, y, validation=(x[:40], y[:40]), epochs=6, batch_size=16,
            optimizer=Adam(fanin.schedule.Cosine(0.02, steps=100)), early_stopping=4,
            callbacks=[average], checkpoint=tmp_path / f"{device}.run",
            class_weight=[1.0, 2.0, 1.0], label_smoothing=0.05, progress=False,
            metrics={"right": lambda y, p: float((y == p).mean())},
        )  # fmt: skip
        seen.append((history.loss, history.val_loss, history.metrics["right"], net))
    for ours, theirs in zip(seen[1][:3], seen[0][:3], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8)
    assert_close(seen[1][3].parameters, seen[0][3].parameters, 1e-8)


def test_a_run_goes_on_from_its_checkpoint(tmp_path):
    x, y = data(dtype="float32")

    def run(path, epochs):
        net = MLP([5, 8, 3], dropout=0.2, device="cuda")
        net.fit(x, y, epochs=epochs, batch_size=16, checkpoint=path, progress=False)
        return net.parameters.get()

    whole = run(tmp_path / "whole", 4)
    run(tmp_path / "parts", 2)
    np.testing.assert_array_equal(run(tmp_path / "parts", 4), whole)


def test_augment_and_own_loss_and_own_optimizer(cupy):
    x, y = data(output="identity")

    class Descent:
        def update(self, parameters, gradients):
            assert isinstance(parameters, cupy.ndarray)
            parameters[...] = parameters - gradients * 0.01

    def absolute(z, y):
        return float(np.abs(z - y).mean()), np.sign(z - y) / z.size

    class OnHost(Descent):
        def update(self, parameters, gradients):
            parameters -= gradients * 0.01

    nets = []
    for device, rule in (("cpu", OnHost()), ("cuda", Descent())):
        net = MLP([5, 8, 3], output="identity", dtype="float64", max_norm=1.0, device=device)
        net.fit(x, y, epochs=1, batch_size=16, augment=lambda x, rng: x + rng.normal(size=x.shape),
                progress=False)  # fmt: skip
        net.fit(x, y, epochs=1, loss=absolute, optimizer=SGD(0.01), progress=False)
        net.fit(x, y, epochs=2, batch_size=40, optimizer=rule, progress=False)
        nets.append(net)
    assert_close(nets[1].parameters, nets[0].parameters, MANY_STEPS)


def test_stop_on_nan_is_exact(monkeypatch):
    """Steps that were queued behind the one whose loss is not finite leave no trace."""
    monkeypatch.setattr(training, "SLICE_SECONDS", 1e3)  # so that whole epochs are queued at once
    x, y = data(rows=160, output="identity")
    y[100:] = 1e200  # a square is infinite, a gradient is not
    nets = []
    for device in ("cpu", "cuda"):
        net = MLP([5, 8, 3], output="identity", dtype="float64", device=device)
        net.fit(x[:96], y[:96], shuffle=False, batch_size=16, epochs=2, optimizer=Adam(0.01),
                progress=False)  # fmt: skip
        with pytest.warns(UserWarning, match="not finite"):
            history = net.fit(x, y, shuffle=False, batch_size=16, epochs=1, optimizer=SGD(1e-3),
                              progress=False, monitor=False, stop_on_nan=True)  # fmt: skip
        nets.append((net, history))
    (cpu, expected), (cuda, found) = nets
    assert found.nonfinite_step == expected.nonfinite_step == 12 + 6
    assert found.nonfinite_layer == expected.nonfinite_layer == 1
    assert cuda.step == cpu.step
    # of 1e196 now, one by one: the sum of their squares is infinite
    np.testing.assert_allclose(cuda.parameters.get(), cpu.parameters, rtol=MANY_STEPS)


@pytest.mark.parametrize("precision", [None, "bfloat16"])
@pytest.mark.parametrize("l2", [0.0, 1e-3])  # without, a step is a whole kernel
def test_steps_that_are_undone_leave_the_bits_of_those_before(precision, l2, monkeypatch):
    x, y = data(rows=160, output="identity", dtype="float32")
    y[100:] = 1e30  # a square is infinite, a gradient is not
    found = []
    for seconds in (0, 1e3):  # steps are queued one by one, or nearly all at once
        monkeypatch.setattr(training, "SLICE_SECONDS", seconds)
        net = MLP([5, 8, 3], output="identity", l2=l2, precision=precision, device="cuda")
        with pytest.warns(UserWarning, match="not finite"):
            history = net.fit(x, y, shuffle=False, batch_size=16, epochs=1, optimizer=SGD(0.05),
                              progress=False, monitor=False, stop_on_nan=True)  # fmt: skip
        assert (history.nonfinite_step, history.nonfinite_layer) == (6, 1)
        found.append(net.parameters.get())
        assert np.isfinite(found[-1]).all()
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("dtype", ["float64", "float32"])  # the latter's steps are whole kernels
def test_the_layer_that_was_not_finite(dtype, monkeypatch):
    """It is found behind a step that was replayed, too."""
    monkeypatch.setattr(training, "SLICE_SECONDS", 0)  # so that steps are queued one by one
    x, y = data(rows=160, output="identity", dtype=dtype)
    x[100:] = np.finfo(dtype).max  # a sum of five is infinite
    for device in ("cpu", "cuda"):
        net = MLP([5, 8, 6, 3], output="identity", dtype=dtype, device=device)
        net.layers[0].weight[...] = 1.0
        with pytest.warns(UserWarning, match="not finite"):
            history = net.fit(x, y, shuffle=False, batch_size=16, epochs=1, optimizer=SGD(1e-3),
                              progress=False, monitor=False, stop_on_nan=True)  # fmt: skip
        assert (history.nonfinite_step, history.nonfinite_layer) == (6, 0), device


def test_an_interrupt_ends_the_training():
    """Ctrl-C is heard between slices of steps; those that were done count."""
    x, y = data(dtype="float32")
    net, rule = MLP([5, 8, 3], device="cuda"), Adam()

    def handler(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.4)
        with pytest.warns(UserWarning, match="interrupted"):
            history = net.fit(x, y, epochs=10**6, optimizer=rule, progress=False, monitor=False)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert history.interrupted
    assert net.step == rule.steps > 0


def test_train_step_and_update():
    x, y = data()
    cpu, cuda = pair(dtype="float64", **SETTINGS["max_norm"])
    rules = RMSprop(0.01), RMSprop(0.01)
    for _ in range(3):
        losses = [
            n.train_step(x, y, r, monitor=True) for n, r in zip((cpu, cuda), rules, strict=True)
        ]
        assert losses[1] == pytest.approx(losses[0], rel=1e-11)
        for ours, theirs in zip(cuda.layers, cpu.layers, strict=True):
            assert ours.update_norm == pytest.approx(theirs.update_norm, rel=1e-9)
            assert ours.stats.std == pytest.approx(theirs.stats.std, rel=1e-9)
    for net, rule in zip((cpu, cuda), rules, strict=True):
        net.loss_and_gradients(x, y)
        net.update(rule)
        assert (net.step, rule.steps) == (4, 4)
    assert_close(cuda.parameters, cpu.parameters, MANY_STEPS)


def test_arrays_on_the_device(cupy):
    x, y = data(dtype="float32")
    net, twin = (MLP([5, 8, 3], device="cuda") for _ in range(2))
    there = cupy.asarray(x)
    for kind in (there, cupy.asarray(np.asfortranarray(x))):
        found = net.forward(kind)
        assert isinstance(found, cupy.ndarray)
        np.testing.assert_array_equal(found.get(), net.forward(x))
    for _ in range(3):
        assert net.train_step(there, cupy.asarray(y), Adam()) == twin.train_step(x, y, Adam())
    np.testing.assert_array_equal(net.predict(there).get(), twin.predict(x))
    np.testing.assert_array_equal(net.predict_proba(there).get(), twin.predict_proba(x))
    net.forward(there, training=True)
    dx = net.backward(cupy.asarray(np.ones((96, 3))))
    twin.forward(x, training=True)
    np.testing.assert_array_equal(dx.get(), twin.backward(np.ones((96, 3))))
    net.fit(there, cupy.asarray(y), validation=(there, y), epochs=1, progress=False)
    twin.fit(x, y, validation=(x, y), epochs=1, progress=False)
    np.testing.assert_array_equal(net.parameters.get(), twin.parameters.get())
    with pytest.raises(ValueError, match=r"x: expected shape \(rows, 5\)"):
        net.forward(there[:, :4])


@pytest.mark.skipif(not EMULATED, reason="the other library is one of the emulated device")
@pytest.mark.parametrize("standardizer", [None, fanin.Standardizer()])
def test_arrays_of_another_library(standardizer):
    x, y = data(dtype="float32")
    net = MLP([5, 8, 3], device="cuda", standardizer=standardizer)
    net.fit(x, y, epochs=1, progress=False, input_scale=None if standardizer else 0.5)
    there = device_arrays.asarray(x)
    for method in (net.forward, net.predict, net.predict_proba):
        found = method(there)
        assert isinstance(found, device_arrays.DeviceArray)
        # scaled before they are given to the network or by it: another rounding
        assert_close(device_arrays.asnumpy(found), method(x), FLOAT32, method.__name__)
    loss = copy.deepcopy(net).train_step(x, y, Adam())
    assert net.train_step(there, device_arrays.asarray(y), Adam()) == loss


# ---- files, copies, refusals -----------------------------------------------------------------


def test_saved_networks_load_on_either_device(tmp_path):
    x, y = data(dtype="float32")
    path = tmp_path / "net.npz"
    for device, other in (("cuda", "cpu"), ("cpu", "cuda")):
        net = MLP([5, 8, 3], batch_norm=True, device=device)
        net.fit(x, y, epochs=1, progress=False)
        net.save(path)
        found = fanin.load(path, device=other)
        assert (found.device, found.step, found.epoch) == (other, net.step, net.epoch)
        for vector in ("parameters", "running_mean", "running_var"):
            np.testing.assert_array_equal(host(getattr(found, vector)), host(getattr(net, vector)))
        assert_close(found.predict_proba(x), net.predict_proba(x), FLOAT32)
    MLP([5, 8, 3], precision="tfloat32", device="cuda").save(path)
    assert fanin.load(path).precision is None
    assert fanin.load(path, device="cuda").precision == "tfloat32"


def test_copies():
    x, y = data(dtype="float32")
    net = MLP([5, 8, 3], device="cuda")
    net.fit(x, y, epochs=1, progress=False)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert type(twin) is type(net) is fanin.cuda.MLP
        assert isinstance(twin, fanin.MLP)
        np.testing.assert_array_equal(twin.parameters.get(), net.parameters.get())
        rules = Adam(), Adam()
        assert twin.train_step(x, y, rules[0]) == copy.deepcopy(net).train_step(x, y, rules[1])
    twin.parameters = net.parameters * 2
    assert_close(twin.parameters, 2 * net.parameters.get(), 0.0)
    twin.layers[0].weight = 0.5
    assert (twin.layers[0].weight.get() == 0.5).all()
    assert (twin.parameters.get()[:40] == 0.5).all()


def test_folded_and_checked():
    x, y = data()
    net = MLP([5, 8, 3], batch_norm=True, dtype="float64", device="cuda")
    net.fit(x, y, epochs=1, progress=False)
    assert_close(net.folded().forward(x), net.forward(x), 1e-12)
    assert fanin.check_gradients(net, x[:20], y[:20]).ok


def test_what_users_change_is_seen():
    """Vectors belong to the user: what is written there by CuPy counts in the next call."""
    x = data(dtype="float32")[0]
    net = MLP([5, 8, 3], precision="bfloat16", device="cuda")
    before = net.forward(x)
    net.parameters[...] = net.parameters * 2
    assert np.abs(net.forward(x) - before).max() > 0.1


@pytest.mark.skipif(not EMULATED, reason="the emulated device's memory can be limited")
@pytest.mark.parametrize("rows", [16, 4096])
def test_out_of_memory_leaves_the_network_unharmed(rows, monkeypatch):
    x, y = data(rows=4096, inputs=64, dtype="float32")
    net = MLP([64, 128, 3], device="cuda")
    rule = Adam(0.01)
    net.train_step(x[:16], y[:16], rule)
    kept, moment = net.parameters.get(), rule.state["mean"].get()
    module = fanin.cuda.runtime.compiled()
    limit_memory = module.limit_memory
    try:
        limit_memory(1 << 16)
        with pytest.raises(MemoryError):
            net.train_step(x, y, rule)
    finally:
        limit_memory(4 << 30)
    np.testing.assert_array_equal(net.parameters.get(), kept)
    np.testing.assert_array_equal(rule.state["mean"].get(), moment)
    assert (net.step, rule.steps) == (1, 1)
    assert math.isfinite(net.train_step(x[:rows], y[:rows], rule))
    assert net.step == 2


@pytest.mark.skipif(not EMULATED, reason="the emulated device's memory can be limited")
def test_steps_that_were_done_before_memory_ended_count(monkeypatch):
    """Rows that come while the device computes find no room: the steps before are steps."""
    monkeypatch.setattr(training, "SLICE_SECONDS", 1e3)  # so that ever more rows are on the way
    x, y = data(rows=4096, inputs=256)
    module = fanin.cuda.runtime.compiled()
    made, rules = [], []

    def stream(rows):
        made.append(MLP([256, 8, 3], dtype="float64", device="cuda"))
        rules.append(Adam(0.01))
        monkeypatch.setattr(type(made[-1]._compiled), "keep", lambda *_: False)
        made[-1].fit(x[:rows], y[:rows], shuffle=False, batch_size=16, epochs=1,
                     optimizer=rules[-1], progress=False, monitor=False)  # fmt: skip

    left = module.properties(0)["free_memory"]
    stream(32)
    taken = left - module.properties(0)["free_memory"]
    try:  # room for the same once more and some steps' rows, not for the 8 MB of all
        module.limit_memory((4 << 30) - left + 2 * taken + (1 << 20))
        with pytest.raises(MemoryError):
            stream(4096)
    finally:
        module.limit_memory(4 << 30)
    assert made[1].step == rules[1].steps == made[0].step == 2
    np.testing.assert_array_equal(made[1].parameters.get(), made[0].parameters.get())


@pytest.mark.skipif(not EMULATED, reason="the emulated device's memory can be limited")
def test_a_data_set_that_has_no_room_is_not_kept():
    x, y = data(rows=4096, inputs=256, dtype="float32")
    net = MLP([256, 8, 3], device="cuda")
    module = fanin.cuda.runtime.compiled()
    used = (4 << 30) - module.properties(0)["free_memory"]
    try:
        module.limit_memory(used + (3 << 20))  # of the 4 MB that x takes
        assert not net._compiled.keep(x, y, None, None, 16)
        module.limit_memory(used + (64 << 20))  # and 32 MB on the way, at most
        assert net._compiled.keep(x, y, None, None, 16)
    finally:
        module.limit_memory(4 << 30)


@pytest.mark.skipif(not EMULATED, reason="others may take memory of a GPU meanwhile")
def test_networks_that_are_gone_leave_their_memory_to_the_next():
    x, y = data(dtype="float64")
    left = []
    for _ in range(3):
        nets = [MLP([5, 8, 3], dtype="float64", device="cuda") for _ in range(2)]
        for net in nets:
            net.train_step(x, y, Adam())
        del net, nets
        gc.collect()
        left.append(fanin.cuda.properties()["free_memory"])
    assert left[1:] == left[:1] * 2


def test_refusals():
    x, y = data(dtype="float32")
    net = MLP([5, 8, 3], device="cuda")
    with pytest.raises(TypeError, match="expected SGD, RMSprop, Adam or AdamW"):
        net.fit(x, y, optimizer=fanin.reference.Adam())
    with pytest.raises(ValueError, match="device"):
        MLP([5, 8, 3], device="gpu")
    with pytest.raises(ValueError, match="device: unknown 'cuda'; known: cpu"):
        fanin.reference.MLP([5, 8, 3], device="cuda")
    with pytest.raises(ValueError, match="precision"):
        MLP([5, 8, 3], precision="tfloat32")
    with pytest.raises(RuntimeError, match="backward"):
        net.backward(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match="y: expected class numbers"):
        net.train_step(x, y + 5, Adam())

    class Own(MLP):
        pass

    with pytest.raises(TypeError, match=r"fanin\.cuda\.MLP"):
        Own([5, 3], device="cuda")
