"""A whole step, cut into tasks and updating as it goes, has the bits of its pieces one by one."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import fanin
from cases import ACTIVATIONS
from compare import same_bits
from fanin.reference.loss import LossForm

THREADS = (1, 2, 3, 8)


def batches(sizes, rows, output, dtype, count=3):
    rng = np.random.default_rng(0)
    for _ in range(count):
        x = rng.standard_normal((rows, sizes[0])).astype(dtype)
        if output == "softmax":
            yield x, rng.integers(0, sizes[-1], rows)
        else:
            yield x, rng.random((rows, sizes[-1])).astype(dtype)


def compare(sizes, rows, *, optimizer=lambda: fanin.Adam(1e-2), weights=None, **settings):
    """Steps by `train_step`, at every number of threads, against loss_and_gradients and update."""
    output, dtype = settings.get("output", "softmax"), settings.get("dtype", "float32")
    net, rule = fanin.MLP(sizes, seed=3, **settings), optimizer()
    options = {} if weights is None else {"sample_weight": weights(rows)}
    losses = []
    for x, y in batches(sizes, rows, output, dtype):
        losses.append(net.loss_and_gradients(x, y, **options)[0])
        net.update(rule)
    before = fanin.get_num_threads()
    try:
        for threads in THREADS:
            fanin.set_num_threads(threads)
            twin, twin_rule = fanin.MLP(sizes, seed=3, **settings), optimizer()
            for (x, y), loss in zip(batches(sizes, rows, output, dtype), losses, strict=True):
                # a sum of loss * rows is divided by rows: two roundings
                got = twin.train_step(x, y, twin_rule, **options)
                assert abs(got - loss) <= 2 * np.finfo(float).eps * abs(loss)
            same_bits(twin.parameters, net.parameters)
            same_bits(twin.running_mean, net.running_mean)
            same_bits(twin.running_var, net.running_var)
            for name, vector in rule.state.items():
                same_bits(twin_rule.state[name], vector)
    finally:
        fanin.set_num_threads(before)


NUMBERS = (
    "mean", "std", "min", "max", "zero_fraction", "saturated_fraction", "unit_mean", "unit_zeros",
    "rows",
)  # fmt: skip


def check_monitored(sizes, rows, **settings):
    """Statistics of a step equal those of `fit`, which takes the other path for its histograms."""
    output, dtype = settings.get("output", "softmax"), settings.get("dtype", "float32")
    steps = list(batches(sizes, rows, output, dtype))
    net = fanin.MLP(sizes, seed=3, **settings)
    rule, expected, norms = fanin.Adam(1e-2), [], []
    for x, y in steps:
        options = {"epochs": 1, "batch_size": rows, "shuffle": False, "progress": False}
        expected += net.fit(x, y, optimizer=rule, **options).stats
        norms.append([(layer.gradient_norm, layer.update_norm) for layer in net.layers])
    before = fanin.get_num_threads()
    try:
        for threads in THREADS:
            fanin.set_num_threads(threads)
            twin, twin_rule = fanin.MLP(sizes, seed=3, **settings), fanin.Adam(1e-2)
            for (x, y), layers, norm in zip(steps, expected, norms, strict=True):
                twin.train_step(x, y, twin_rule, monitor=True)
                assert [(layer.gradient_norm, layer.update_norm) for layer in twin.layers] == norm
                for layer, want in zip(twin.layers, layers, strict=True):
                    for name in NUMBERS:
                        same_bits(
                            np.asarray(getattr(layer.stats, name)), np.asarray(getattr(want, name))
                        )
                    assert layer.stats.histogram is None and layer.stats.edges is None
            same_bits(twin.parameters, net.parameters)
    finally:
        fanin.set_num_threads(before)


@pytest.mark.parametrize("rows", [1, 2, 17, 64, 65, 200, 1000])
def test_monitored_rows_all_the_way(rows):
    check_monitored([13, 40, 33, 5], rows, dropout=0.3, activation="tanh")


@pytest.mark.parametrize("rows", [2, 65, 300])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_monitored_layer_by_layer(rows, dtype):
    check_monitored([13, 70, 33, 5], rows, dropout=0.3, batch_norm=True, dtype=dtype)
    check_monitored([30, 1100, 1030, 17], rows, dropout=[0.0, 0.5], dtype=dtype)
    for activation in ("tanh", "silu"):
        check_monitored([13, 70, 33, 5], rows, dropout=0.3, batch_norm="after", dtype=dtype,
                        input_dropout=0.2, activation=activation)  # fmt: skip


def test_statistics_stay_until_the_next_monitored_step():
    net, rule = fanin.MLP([6, 5, 3]), fanin.SGD(0.1)
    first, second, third = batches([6, 5, 3], 20, "softmax", "float32")
    assert net.layers[0].stats is None
    net.train_step(*first, rule, monitor=True)
    net.train_step(*second, rule)
    kept = net.layers[0].stats
    assert kept is net.layers[0].stats
    twin = fanin.MLP([6, 5, 3])
    twin.train_step(*first, fanin.SGD(0.1), monitor=True)
    same_bits(kept.unit_mean, twin.layers[0].stats.unit_mean)
    net.train_step(*third, rule, monitor=True)
    assert net.layers[0].stats is not kept


class Plain:
    """An optimizer of the user's own: gradient descent."""

    def update(self, parameters, gradients):
        parameters -= np.asarray(0.1, parameters.dtype) * gradients


OPTIMIZERS = {
    "SGD": lambda: fanin.SGD(0.1, momentum=0.9),
    "RMSprop": lambda: fanin.RMSprop(1e-3),
    "AdamW": lambda: fanin.AdamW(1e-3, weight_decay=0.1, clip_value=1e-3),
    "clipped": lambda: fanin.Adam(1e-3, clip_norm=1e-2),
    "own": Plain,
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [[3, 5, 2], [20, 1030, 7], [37, 64, 64, 3]], ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_norms(name, sizes, dtype):
    """Those of the gradient and of the change, as NumPy finds them in the vectors."""
    net, twin = (fanin.MLP(sizes, activation="tanh", l2=1e-3, dtype=dtype) for _ in range(2))
    rules = OPTIMIZERS[name](), OPTIMIZERS[name]()
    assert net.layers[0].gradient_norm is None and net.layers[0].update_norm is None
    for x, y in batches(sizes, 33, "softmax", dtype):
        before = [layer.weight.astype(np.float64) for layer in twin.layers]
        twin.loss_and_gradients(x, y)
        twin.update(rules[1])
        net.train_step(x, y, rules[0], monitor=True)
        same_bits(net.parameters, twin.parameters)
        for layer, other, weight in zip(net.layers, twin.layers, before, strict=True):
            # squares of gradients are summed in double; those of changes in the dtype, 16 lanes
            # of at most 8192 / 16 of them, each addition with half an epsilon, halved by the root
            gradient = np.linalg.norm(other.dweight.astype(np.float64))
            change = np.linalg.norm((other.weight - weight).astype(np.float64))
            assert abs(layer.gradient_norm - gradient) <= 1e-12 * gradient
            assert abs(layer.update_norm - change) <= 512 / 4 * np.finfo(dtype).eps * change
            # sums of as many squares, in whatever order
            expected = np.linalg.norm(layer.weight.astype(np.float64))
            error = layer.weight.size * np.finfo(np.float64).eps * expected
            assert abs(layer.weight_norm - expected) <= error


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize("sizes", [[3, 5, 2], [20, 1030, 7]], ids=str)
def test_norms_of_limited_steps(name, sizes):
    """The change is that of the whole step, with the proximal step and max_norm; also in `fit`."""
    settings = {"l1": 1e-2, "l1_step": "proximal", "max_norm": 1.0, "dtype": "float64"}
    nets = [fanin.MLP(sizes, **settings) for _ in range(3)]
    rules = [OPTIMIZERS[name]() for _ in nets]
    (x, y), (x2, y2) = batches(sizes, 33, "softmax", "float64", count=2)
    nets[0].train_step(x, y, rules[0])
    before = [layer.weight.copy() for layer in nets[0].layers]
    nets[0].train_step(x2, y2, rules[0])
    nets[1].train_step(x, y, rules[1])
    nets[1].train_step(x2, y2, rules[1], monitor=True)
    data = np.vstack([x, x2]), np.hstack([y, y2])
    nets[2].fit(*data, epochs=1, batch_size=33, shuffle=False, optimizer=rules[2], progress=False)
    for net in nets[1:]:
        same_bits(net.parameters, nets[0].parameters)
        for layer, other, weight in zip(net.layers, nets[0].layers, before, strict=True):
            change = np.linalg.norm(other.weight - weight)
            assert abs(layer.update_norm - change) <= 1e-12 * change
            assert layer.stats.rows == 33


@pytest.mark.parametrize("scale", [1e-30, 1e12])
def test_norms_of_gradients_whose_squares_float32_cannot_hold(scale):
    net = fanin.MLP([4, 8, 1], activation="identity", output="identity")
    x = np.full((5, 4), 1, np.float32)
    net.layers[1].weight[...] *= np.float32(scale)
    net.train_step(x, np.full(5, 3.0), fanin.SGD(0.0), monitor=True)
    found = net.layers[0].gradient_norm
    net.loss_and_gradients(x, np.full(5, 3.0))
    assert np.isfinite(found) and found > 0
    expected = np.linalg.norm(net.layers[0].dweight.astype(np.float64))
    assert abs(found - expected) <= 1e-12 * expected


def test_layers_can_be_copied_and_pickled():
    net = fanin.MLP([6, 5, 3])
    (batch,) = batches([6, 5, 3], 20, "softmax", "float32", count=1)
    for expected in (None, 20):
        for twin in (copy.deepcopy(net.layers[0]), pickle.loads(pickle.dumps(net.layers[0]))):
            same_bits(twin.weight, net.layers[0].weight)
            assert (twin.stats and twin.stats.rows) == expected
            assert twin.gradient_norm == net.layers[0].gradient_norm
        net.train_step(*batch, fanin.SGD(0.1), monitor=True)


@pytest.mark.parametrize("monitor", [1, "yes", None])
def test_monitor_is_a_bool(monitor):
    net = fanin.MLP([6, 5, 3])
    (batch,) = batches([6, 5, 3], 20, "softmax", "float32", count=1)
    with pytest.raises(TypeError, match="monitor: expected"):
        net.train_step(*batch, fanin.SGD(0.1), monitor=monitor)
    assert net.step == 0


ROWS = (1, 2, 7, 16, 17, 63, 64, 65, 129, 300, 1000)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_rows_all_the_way(rows, dropout):
    compare([13, 40, 33, 5], rows, dropout=dropout, l2=1e-3)


@pytest.mark.parametrize("rows", ROWS[1:])
def test_layer_by_layer(rows):
    """Batch norm needs all rows of a layer before the next."""
    compare([13, 70, 33, 5], rows, dropout=0.3, batch_norm=True, l1=1e-4, l2=1e-3)


@pytest.mark.parametrize("rows", ROWS[1:])
@pytest.mark.parametrize("batch_norm", ["after", ["after", "before"], [False, "after"]], ids=str)
def test_batch_norm_anywhere(rows, batch_norm):
    settings = {"batch_norm": batch_norm, "l1": 1e-4, "input_dropout": 0.2}
    compare([13, 70, 33, 5], rows, dropout=[0.3, 0.0], activation=["silu", "elu"], **settings)


# What each layer's weights obey after an update; the norms of a column are about 1.
LIMITED = {"input_dropout": 0.2, "max_norm": [0.8, None, 0.9], "l1": [1e-3, 0.0, 1e-2],
           "l1_step": "proximal", "l2": 1e-3}  # fmt: skip


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_limited_rows_all_the_way(rows, dtype):
    compare([13, 40, 33, 5], rows, dropout=0.3, dtype=dtype, **LIMITED)


@pytest.mark.parametrize("rows", [2, 65, 300])
@pytest.mark.parametrize("sizes", [[13, 70, 33, 5], [30, 1100, 1030, 17]], ids=str)
@pytest.mark.parametrize("batch_norm", [False, "after"])
def test_limited_layer_by_layer(rows, sizes, batch_norm):
    compare(sizes, rows, batch_norm=batch_norm, **LIMITED)


@pytest.mark.parametrize("rows", [1, 15, 70, 300])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_wide_layers(rows, dtype):
    """Too large to be read whole by each thread; columns and weights are cut as well."""
    compare([30, 1100, 1030, 17], rows, dropout=[0.0, 0.5], l2=1e-3, dtype=dtype)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("batch_norm", [False, True, "after"])
def test_activations(activation, batch_norm):
    compare([9, 30, 21, 4], 50, activation=activation, batch_norm=batch_norm, dropout=0.2)


@pytest.mark.parametrize("output", ["softmax", "sigmoid", "identity"])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses(output, weighted):
    weights = (lambda rows: np.linspace(0, 2, rows)) if weighted else None
    compare([9, 30, 4], 140, output=output, weights=weights)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: fanin.SGD(0.1),
        lambda: fanin.SGD(0.1, momentum=0.9, nesterov=True),
        lambda: fanin.RMSprop(1e-2),
        lambda: fanin.Adam(lambda step: 0.1 / (1 + step)),
        lambda: fanin.AdamW(1e-2, weight_decay=0.1),
        lambda: fanin.SGD(0.1, momentum=0.9, clip_norm=0.1),
        lambda: fanin.RMSprop(1e-2, clip_value=1e-3),
        lambda: fanin.AdamW(1e-2, clip_norm=0.1, clip_value=1e-2),
    ],
    ids=["sgd", "nesterov", "rmsprop", "adam", "adamw", "norm", "value", "both"],
)
@pytest.mark.parametrize("sizes", [[9, 4], [9, 30, 4], [9, 1100, 600, 4]], ids=str)
def test_optimizers(optimizer, sizes):
    compare(sizes, 70, optimizer=optimizer, l2=1e-3)
    compare(sizes, 70, optimizer=optimizer, l1=1e-2, l1_step="proximal", max_norm=1.0)


KINDS = {
    "small": ([13, 40, 33, 5], {"dropout": 0.3, "l1": 1e-4, "l2": 1e-3}),
    "batch norm": ([13, 70, 33, 5], {"dropout": 0.3, "batch_norm": True, "l2": 1e-3}),
    "wide": ([30, 1100, 1030, 17], {"dropout": 0.5, "l2": 1e-3}),
    "float64": ([13, 200, 33, 5], {"dtype": "float64", "activation": "gelu"}),
    "bfloat16": ([50, 300, 270, 7], {"precision": "bfloat16", "dropout": 0.3}),
    "after": ([13, 70, 33, 5], {"dropout": 0.3, "batch_norm": "after", "activation": "gelu"}),
    "limited": ([13, 70, 33, 5], LIMITED),
    "wide, limited": ([30, 1100, 1030, 17], LIMITED | {"batch_norm": ["after", "before"]}),
    "bfloat16, after": (
        [50, 300, 270, 7],
        {"precision": "bfloat16", "batch_norm": "after", **LIMITED},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [16, 70])
def test_the_flow_and_the_pieces(kind, rows, threads):
    """A step by either way: clip_norm wants all gradients before the first parameter changes."""
    sizes, settings = KINDS[kind]
    nets = []
    for limits in ({}, {"clip_norm": 1e9}, {"clip_value": 1e9}):
        net, rule = fanin.MLP(sizes, seed=3, **settings), fanin.Adam(1e-2, **limits)
        net.gradients[:] = np.nan
        for x, y in batches(sizes, rows, "softmax", settings.get("dtype", "float32")):
            net.train_step(x, y, rule)
        assert np.isfinite(net.gradients).all() == ("clip_norm" in limits)
        nets.append(net)
    for net in nets[1:]:
        same_bits(net.parameters, nets[0].parameters)
        same_bits(net.running_var, nets[0].running_var)


@pytest.mark.parametrize("rows", [20, 70])
def test_clip_norm_limits_the_whole_step(rows, threads):
    """By SGD: the way that the parameters go is as long as the limit says, biases included."""
    x, y = next(batches([9, 30, 4], rows, "softmax", "float64"))
    net = fanin.MLP([9, 30, 4], dtype="float64", l2=1e-3, batch_norm=True)
    before = net.parameters.copy()
    net.train_step(x, y, fanin.SGD(1.0, clip_norm=1e-3))
    assert np.linalg.norm(net.gradients) > 1e-2
    assert np.linalg.norm(net.parameters - before) == pytest.approx(1e-3, rel=1e-9)
    before = net.parameters.copy()
    net.train_step(x, y, fanin.SGD(1.0, clip_value=1e-3))
    assert np.abs(net.parameters - before).max() == pytest.approx(1e-3, rel=1e-9)


class Own(fanin.AdamW):
    """Its updates are asked for in Python, one by one."""


@pytest.mark.parametrize("limits", [{"clip_norm": 0.1}, {"clip_value": 1e-3},
                                    {"clip_norm": 0.1, "clip_value": 1e-2}], ids=str)  # fmt: skip
def test_clipping_in_fit(limits, threads):
    """Compiled steps, and a subclass's: the same bits."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200, 9)).astype(np.float32), rng.integers(0, 4, 200)
    nets = []
    for make in (fanin.AdamW, Own, lambda lr, **limits: fanin.AdamW(lambda step: lr, **limits)):
        net = fanin.MLP([9, 30, 4], dropout=0.3, batch_norm=True)
        net.fit(x, y, epochs=2, batch_size=64, optimizer=make(1e-2, **limits), progress=False)
        nets.append(net)
    for net in nets[1:]:
        same_bits(net.parameters, nets[0].parameters)
    free = fanin.MLP([9, 30, 4], dropout=0.3, batch_norm=True)
    free.fit(x, y, epochs=2, batch_size=64, optimizer=fanin.AdamW(1e-2), progress=False)
    assert not np.array_equal(free.parameters, nets[0].parameters)


@pytest.mark.parametrize("limits", [{"clip_norm": 0.05}, {"clip_value": 1e-3}], ids=str)
def test_clipping_as_in_the_reference(limits):
    """float64, ten steps of SGD: rounding errors of 1e-16 grow by far less than a millionfold."""
    nets = []
    for package in (fanin, fanin.reference):
        net = package.MLP([9, 30, 4], dtype="float64", activation="tanh", dropout=0.2, l2=1e-3)
        optimizer = package.SGD(0.5, momentum=0.9, **limits)
        for x, y in batches([9, 30, 4], 50, "softmax", "float64", count=10):
            net.train_step(x, y, optimizer)
        nets.append(net)
    assert np.abs(nets[0].parameters - nets[1].parameters).max() < 1e-10


@pytest.mark.parametrize("make", [fanin.Adam, fanin.AdamW])
def test_eps_hat_in_steps(make):
    compare([9, 30, 4], 50, optimizer=lambda: make(1e-2, eps=1e-3, eps_hat=True))
    compare([9, 70, 4], 50, optimizer=lambda: make(1e-2, eps=1e-3, eps_hat=True), batch_norm=True)


@pytest.mark.parametrize("form", [LossForm(0.5, 2.5), LossForm(3.0, 3.0, 0.2)], ids=str)
@pytest.mark.parametrize("output", ["softmax", "sigmoid", "identity"])
def test_forms_of_the_loss(output, form, monkeypatch):
    """Few columns and many: steps and their pieces, and what the reference says."""
    for sizes in ([9, 30, 4], [9, 70, 21]):
        x, y = next(batches(sizes, 50, output, "float64"))
        plain = fanin.MLP(sizes, output=output, dtype="float64").loss_and_gradients(x, y)[0]
        with monkeypatch.context() as patch:
            for package in (fanin, fanin.reference):
                patch.setattr(package.MLP, "_loss_form", form)
            compare(sizes, 50, output=output, batch_norm=True)
            compare(sizes, 50, output=output, optimizer=lambda: fanin.SGD(0.1),
                    weights=lambda rows: np.arange(rows) / 16)  # fmt: skip
            losses, nets = [], []
            for package in (fanin, fanin.reference):
                net, rule = package.MLP(sizes, output=output, dtype="float64"), package.SGD(0.1)
                losses.append([net.train_step(x, y, rule) for _ in range(3)])
                nets.append(net)
        # three steps of float64 from the same weights: some hundred roundings of 1e-16 each
        assert np.abs(nets[0].parameters - nets[1].parameters).max() < 1e-12
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)
        assert abs(losses[0][0] - plain) > 0.1 * plain


def without_fading(package, lr):
    optimizer = package.SGD(lr, momentum=0.9)
    optimizer.momentum = 1.0
    return optimizer


def test_momentum_of_one_in_steps():
    """Compiled steps have the bits of the pieces, and are as near to the reference's as above."""
    compare([9, 30, 4], 50, optimizer=lambda: without_fading(fanin, 1e-2))
    for limits in ({}, {"l1": 1e-2, "l1_step": "proximal"}):
        nets = []
        for package in (fanin, fanin.reference):
            net = package.MLP([9, 30, 4], dtype="float64", activation="tanh", **limits)
            x, y = next(batches([9, 30, 4], 200, "softmax", "float64"))
            net.fit(x, y, epochs=3, batch_size=60, optimizer=without_fading(package, 1e-2),
                    progress=False)  # fmt: skip
            nets.append(net)
        assert np.isfinite(nets[0].parameters).all()
        assert np.abs(nets[0].parameters - nets[1].parameters).max() < 1e-10
    assert (nets[0].layers[0].weight == 0).any()


@pytest.mark.parametrize("settings", [
    {}, {"batch_norm": True, "dropout": 0.2}, {"l1_step": "proximal"}, {"precision": "bfloat16"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("sizes", [[9, 30, 4], [9, 1030, 17]], ids=str)
def test_penalties_that_change(sizes, settings, threads):
    """From their step on, the bits of a network that was built with them; to none, from none."""
    net, rule = fanin.MLP(sizes, seed=3, **settings), fanin.Adam(1e-2)
    steps = list(batches(sizes, 50, "softmax", "float32", count=6))
    order = [(0.0, 0.0), (0.0, 0.3), (1e-3, 0.0), (0.0, 0.0), (2e-3, 0.1), (1e-3, 0.0)]
    for (l1, l2), (x, y) in zip(order, steps, strict=True):
        twin, twin_rule = fanin.MLP(sizes, seed=3, l1=l1, l2=l2, **settings), copy.deepcopy(rule)
        for name in ("parameters", "running_mean", "running_var", "step"):
            setattr(twin, name, getattr(net, name))
        net._set_penalties(l1, l2)
        assert {(layer.l1, layer.l2) for layer in net.layers} == {(l1, l2)}
        assert net.loss_and_gradients(x, y)[0] == twin.loss_and_gradients(x, y)[0]
        same_bits(net.gradients, twin.gradients)
        assert net.evaluate(x, y) == twin.evaluate(x, y)
        assert net.train_step(x, y, rule) == twin.train_step(x, y, twin_rule)
        same_bits(net.parameters, twin.parameters)
    again = pickle.loads(pickle.dumps(net))
    net.train_step(*steps[0], rule)
    again.train_step(*steps[0], twin_rule)
    same_bits(again.parameters, net.parameters)


def test_penalties_that_change_in_the_reference():
    """The same loss and gradients as one built with them."""
    x, y = next(batches([9, 30, 4], 50, "softmax", "float64"))
    net = fanin.reference.MLP([9, 30, 4], l1=1.0, dtype="float64")
    twin = fanin.reference.MLP([9, 30, 4], l1=1e-3, l2=0.1, dtype="float64")
    net._set_penalties(1e-3, 0.1)
    assert net.loss_and_gradients(x, y)[0] == twin.loss_and_gradients(x, y)[0]
    same_bits(net.gradients, twin.gradients)


@pytest.mark.parametrize("monitored", [False, True])
def test_penalties_of_each_step(package, monitored, threads):
    """Several steps in one call: the numbers of as many calls, each with its penalties."""
    x, y = next(batches([9, 30, 4], 47, "softmax", "float64"))
    order = np.random.default_rng(2).permutation(47)
    penalties = np.array([[0.0, 0.3], [1e-3, 0.0], [0.0, 0.0], [2e-3, 0.1], [0.0, 0.05]])
    net, twin = (package.MLP([9, 30, 4], seed=3, dtype="float64") for _ in range(2))
    rule, twin_rule = package.Adam(1e-2), package.Adam(1e-2)
    options = {"class_weight": None, "label_smoothing": 0.0, "scale": None}
    total, rows = net._train_rows(x, y, None, order, 10, rule, stats=monitored,
                                  penalties=penalties, **options)  # fmt: skip
    twin_total = 0.0
    for i, (l1, l2) in enumerate(penalties):
        chosen = order[10 * i : 10 * i + 10]
        twin._set_penalties(float(l1), float(l2))
        twin_total, some = twin._train_rows(x, y, None, chosen, 10, twin_rule, stats=False,
                                            total=twin_total, **options)  # fmt: skip
        assert some == len(chosen)
    assert (total, rows) == (twin_total, 47)
    same_bits(net.parameters, twin.parameters)
    assert {(layer.l1, layer.l2) for layer in net.layers} == {(0.0, 0.05)}
    assert net.evaluate(x, y) == twin.evaluate(x, y)
    unlike = package.MLP([9, 30, 4], seed=3, dtype="float64")
    unlike._train_rows(x, y, None, order, 10, package.Adam(1e-2), stats=False, **options)
    assert (unlike.parameters != net.parameters).any()


def test_penalties_of_steps_in_several_calls():
    """A call does 1024 steps at most, or what it can in 50 ms; the next goes on with its own."""
    x, y = next(batches([3, 4], 2500, "softmax", "float64"))
    penalties = np.column_stack([np.zeros(2500), np.linspace(0, 1, 2500)])
    nets = []
    for most in (2500, 700):
        net, rule, done = fanin.MLP([3, 4], seed=3, dtype="float64"), fanin.Adam(1e-2), 0
        while done < 2500:
            rows = np.arange(done, min(done + most, 2500))
            done += net._train_rows(x, y, None, rows, 1, rule, class_weight=None, stats=False,
                                    label_smoothing=0.0, scale=None,
                                    penalties=penalties[done:])[1]  # fmt: skip
            assert {layer.l2 for layer in net.layers} == {penalties[done - 1, 1]}
        nets.append(net)
    same_bits(nets[0].parameters, nets[1].parameters)


def test_no_penalty_below_zero():
    net = fanin.MLP([9, 30, 4], l1=0.5)
    x, y = next(batches([9, 30, 4], 20, "softmax", "float32"))
    before = net.parameters.copy()
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="penalties"):
            net._set_penalties(0.1, wrong)
        with pytest.raises(ValueError, match="penalties"):
            net._train_rows(x, y, None, None, 10, fanin.Adam(), class_weight=None,
                            label_smoothing=0.0, scale=None, stats=False,
                            penalties=np.array([[0.1, 0.0], [0.1, wrong]]))  # fmt: skip
    assert [(layer.l1, layer.l2) for layer in net.layers] == [(0.5, 0.0)] * 2
    same_bits(net.parameters, before)


def test_many_steps():
    """Now and then some steps are done by one thread, or by all, to see what is faster."""
    x, y = next(batches([9, 30, 4], 40, "softmax", "float32"))
    nets = []
    before = fanin.get_num_threads()
    for threads in THREADS:
        fanin.set_num_threads(threads)
        net, rule = fanin.MLP([9, 30, 4], dropout=0.3), fanin.Adam()
        for _ in range(300):
            net.train_step(x, y, rule)
        nets.append(net)
    fanin.set_num_threads(before)
    for net in nets[1:]:
        same_bits(net.parameters, nets[0].parameters)
