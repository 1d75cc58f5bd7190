"""MLP: its vectors and views, steps, training, predictions; compiled and reference alike."""

from __future__ import annotations

import contextlib
import io
import math
import sys

import numpy as np
import pytest

import fanin
from cases import ACTIVATIONS
from compare import same_bits, unit, within


def blobs(rows=300, classes=3, width=4, seed=0):
    """Points around one centre per class, and the classes: separable, not trivially."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.standard_normal((classes, width))
    y = rng.integers(0, classes, rows)
    return (centres[y] + rng.standard_normal((rows, width))).astype(np.float32), y


def small_net(package, **options):
    settings = {"sizes": [4, 8, 3], "seed": 1, **options}
    return package.MLP(settings.pop("sizes"), **settings)


# ---- vectors and layers ----------------------------------------------------------------------


PLACES = [False, True, "after", ["after", "before"], [False, "after"]]  # of batch norm
VECTORS = {False: ["bias"], "before": ["gamma", "beta"], "after": ["bias", "gamma", "beta"]}


@pytest.mark.parametrize("batch_norm", PLACES, ids=str)
def test_one_vector(batch_norm, package, dtype):
    """Layer by layer the weight in C order, then bias, gamma and beta, where there are such; all
    are views."""
    net = package.MLP([4, 8, 6, 3], batch_norm=batch_norm, dtype=dtype)
    assert net.parameters.ndim == 1
    assert net.parameters.dtype == net.gradients.dtype == dtype
    assert net.n_parameters == net.parameters.size == net.gradients.size
    place = 0
    for layer in net.layers:
        names = ["weight", *VECTORS[layer.batch_norm]]
        for name in {"weight", "bias", "gamma", "beta"} - set(names):
            assert getattr(layer, name) is getattr(layer, "d" + name) is None
        for name in names:
            view, gradient = getattr(layer, name), getattr(layer, "d" + name)
            assert np.shares_memory(view, net.parameters)
            assert np.shares_memory(gradient, net.gradients)
            net.parameters[place : place + view.size] = np.arange(view.size)
            same_bits(view.ravel(), np.arange(view.size).astype(dtype))
            place += view.size
        assert layer.weight.shape == (layer.fan_in, layer.fan_out)
    assert place == net.n_parameters
    wanted = batch_norm if isinstance(batch_norm, list) else [batch_norm] * 2
    wanted = ["before" if where is True else where for where in wanted]
    assert [layer.batch_norm for layer in net.layers] == [*wanted, False]
    assert net.batch_norm is any(wanted)
    assert (
        net.running_mean.size == net.running_var.size == np.dot([8, 6], [bool(w) for w in wanted])
    )


def test_a_view_is_used(package):
    """What is written into a layer's weight is what the next forward pass multiplies with."""
    net = package.MLP([2, 2], output="identity", dtype="float64")
    net.layers[0].weight[...] = [[1, 2], [3, 4]]
    net.layers[0].bias = [10, 20]
    same_bits(net.forward(np.array([[1.0, 1.0]])), np.array([[14.0, 26.0]]))
    net.parameters[:] = 0
    net.parameters[-1] = 5
    same_bits(net.forward(np.array([[1.0, 1.0]])), np.array([[0.0, 5.0]]))


def test_setting_a_vector_copies(package):
    net, other = small_net(package), small_net(package, seed=2)
    before = net.parameters
    net.parameters = other.parameters
    assert net.parameters is before
    same_bits(net.parameters, other.parameters)
    assert not np.shares_memory(net.parameters, other.parameters)
    same_bits(net.layers[0].weight, other.layers[0].weight)


def test_attributes(package):
    net = package.MLP(
        [4, 8, 6, 3], activation=["tanh", "relu"], dropout=[0.1, 0.2], l1=[1, 2, 3], l2=0.5,
        output="sigmoid", seed=7, input_dropout=0.25, l1_step="proximal", max_norm=[None, 2, 3.5],
    )  # fmt: skip
    assert list(net.sizes) == [4, 8, 6, 3]
    assert (net.output, net.seed, net.step, net.epoch) == ("sigmoid", 7, 0, 0)
    assert net.input_scale is None
    assert np.dtype(net.dtype) == np.float32
    assert [layer.activation for layer in net.layers] == ["tanh", "relu", "identity"]
    assert [layer.dropout for layer in net.layers] == [0.1, 0.2, 0.0]
    assert [layer.l1 for layer in net.layers] == [1, 2, 3]
    assert [layer.l2 for layer in net.layers] == [0.5] * 3
    assert [layer.max_norm for layer in net.layers] == [None, 2.0, 3.5]
    assert (net.input_dropout, net.l1_step, net.batch_norm) == (0.25, "proximal", False)
    assert [(layer.fan_in, layer.fan_out) for layer in net.layers] == [(4, 8), (8, 6), (6, 3)]


def test_repr(package):
    text = repr(package.MLP([4, 8, 3], batch_norm=True, dropout=0.25, l2=0.1, activation="tanh"))
    for part in ("4 -> 8", "8 -> 3", "tanh", "softmax", "0.25", "batch norm", "l2"):
        assert part in text
    assert all(len(line) < 80 for line in text.splitlines())
    text = repr(package.MLP([4, 8, 6, 3], batch_norm=["after", "before"], dropout=[0.5, 0.0],
                            l1=0.1, input_dropout=0.2, l1_step="proximal", max_norm=3))  # fmt: skip
    lines = text.splitlines()
    limits = "proximal l1 0.1, max_norm 3"
    assert lines[1].endswith(f"input dropout 0.2, relu, batch norm, dropout 0.5, {limits}")
    assert lines[2].endswith(f"  batch norm, relu, {limits}")


def test_no_hidden_layer(package):
    """Logistic regression: settings of hidden layers have nobody to apply to."""
    net = package.MLP([4, 3], activation="tanh", dropout=0.5, batch_norm=True)
    assert [layer.activation for layer in net.layers] == ["identity"]
    x, y = blobs()
    net.fit(x, y, epochs=20, optimizer=package.Adam(0.1), progress=False)
    assert net.evaluate(x, y)["accuracy"] > 0.9


# ---- steps -----------------------------------------------------------------------------------


def longhand_forward(net, x):
    a = x
    for layer in net.layers:
        a = a @ layer.weight + layer.bias
        if layer is not net.layers[-1]:
            a = np.tanh(a)
    return a


def test_forward(package, rng):
    net = package.MLP([4, 8, 6, 3], activation="tanh", dtype="float64")
    x = rng.standard_normal((9, 4))
    z = net.forward(x)
    assert z.shape == (9, 3)
    within(z, longhand_forward(net, x), 100 * unit("float64") * 10)  # some dozen roundings of ~1
    same_bits(net.forward(x, training=True), z)
    assert net.forward(x[:0]).shape == (0, 3)


OPTIONS = {"dropout": 0.3, "batch_norm": True, "l1": 1e-3, "l2": 1e-2}
LIMITED = {"dropout": 0.3, "batch_norm": "after", "input_dropout": 0.2, "l1": 1e-3, "l2": 1e-2,
           "l1_step": "proximal", "max_norm": [0.9, 1.1]}  # fmt: skip


@pytest.mark.parametrize("options", [{}, OPTIONS, LIMITED], ids=["plain", "everything", "limited"])
@pytest.mark.parametrize("optimizer", ["SGD", "RMSprop", "Adam", "AdamW"])
def test_own_loop_equals_train_step(options, optimizer, package, dtype):
    """forward, a loss, backward, update: bit for bit what train_step does in one call."""
    x, y = blobs(50)
    x = x.astype(dtype)
    step_net = small_net(package, dtype=dtype, **options)
    loop_net = small_net(package, dtype=dtype, **options)
    third = small_net(package, dtype=dtype, **options)
    make = getattr(package, optimizer)
    optimizers = [make(0.01) for _ in range(3)]
    for i in range(5):
        loss = step_net.train_step(x, y, optimizers[0])
        z = loop_net.forward(x, training=True)
        own_loss, dz = package.softmax_cross_entropy(z, y)
        dx = loop_net.backward(dz)
        assert dx.shape == x.shape
        loop_net.update(optimizers[1])
        third_loss, gradients = third.loss_and_gradients(x, y)
        assert gradients is third.gradients
        third.update(optimizers[2])
        # train_step divides a sum of loss * rows by the rows: two roundings
        assert third_loss == pytest.approx(loss, rel=2.0**-52, abs=0)
        for net in (loop_net, third):
            same_bits(net.parameters, step_net.parameters)
            same_bits(net.running_mean, step_net.running_mean)
            same_bits(net.running_var, step_net.running_var)
            assert net.step == step_net.step == i + 1
        if not options:
            assert own_loss == third_loss


@pytest.mark.parametrize("options", [OPTIONS, LIMITED], ids=["everything", "limited"])
def test_fit_equals_steps(options, package):
    """An epoch of fit is train_step on the shuffled rows, batch by batch."""
    x, y = blobs(50)
    net, twin = (small_net(package, **options) for _ in range(2))
    net.fit(x, y, epochs=2, batch_size=16, optimizer=package.Adam(0.01), progress=False)
    optimizer = package.Adam(0.01)
    for epoch in range(2):
        order = fanin.reference.random.permutation(50, twin.seed, epoch)
        for start in range(0, 50, 16):
            rows = order[start : start + 16]
            twin.train_step(x[rows], y[rows], optimizer)
    same_bits(net.parameters, twin.parameters)
    assert net.step == 8
    assert net.epoch == 2


def test_weights_only_decay(package):
    """AdamW leaves biases, gamma and beta alone: with zero gradients only weights shrink."""
    net = small_net(package, batch_norm=True, dtype="float64")
    net.parameters[:] = 1.0
    net.gradients[:] = 0.0
    net.update(package.AdamW(0.1, weight_decay=0.5))
    for layer in net.layers:
        within(layer.weight, np.full(layer.weight.shape, 0.95), 2 * unit("float64"))
        for name in ("bias", "gamma", "beta"):
            if getattr(layer, name) is not None:
                assert (getattr(layer, name) == 1).all(), name


def test_penalties_are_part_of_the_loss(package):
    """l2 / 2 sum w^2 + l1 sum |w| over weights, in every path; biases are free."""
    x, y = blobs(20)
    x = x.astype(np.float64)
    plain = small_net(package, dtype="float64")
    net = small_net(package, dtype="float64", l1=[0.1, 0.2], l2=[0.3, 0.4])
    plain.parameters[plain.layers[0].weight.size :][:8] = 1  # biases that are not 0
    net.parameters = plain.parameters
    penalty = sum(
        layer.l1 * np.abs(layer.weight).sum() + layer.l2 / 2 * np.square(layer.weight).sum()
        for layer in net.layers
    )
    loss, gradients = plain.loss_and_gradients(x, y)
    with_penalty, with_terms = net.loss_and_gradients(x, y)
    within(with_penalty, loss + penalty, 64 * unit("float64") * (loss + penalty))
    difference = with_terms - gradients
    expected = net.gradients * 0
    for layer, d in zip(net.layers, split(net, expected), strict=True):
        d["weight"][...] = layer.l1 * np.sign(layer.weight) + layer.l2 * layer.weight
    within(difference, expected, 8 * unit("float64") * (np.abs(gradients) + 1))
    evaluated = net.evaluate(x, y)["loss"]
    within(evaluated, loss + penalty, 64 * unit("float64") * (loss + penalty))


def split(net, vector):
    """Views of a flat vector, as a layer's parameters are."""
    place = 0
    for layer in net.layers:
        k, n = layer.fan_in, layer.fan_out
        yield {"weight": vector[place : place + k * n].reshape(k, n)}
        place += k * n + len(VECTORS[layer.batch_norm]) * n


def test_masks_hold_until_the_update(package):
    """The key of layer l's mask is (seed, step, l): the same until a step is done."""
    x, y = blobs(30)
    net = small_net(package, dropout=0.5)
    first = net.forward(x, training=True)
    same_bits(net.forward(x, training=True), first)
    assert not np.array_equal(net.forward(x), first)
    net.loss_and_gradients(x, y)
    net.update(package.SGD(0.0))
    assert not np.array_equal(net.forward(x, training=True), first)


def test_mask_of_a_layer(package):
    """The zeros of a hidden layer are those of dropout_mask with the documented key."""
    net = package.MLP([3, 40, 2], activation="identity", dropout=0.5, seed=9, output="identity")
    net.layers[0].weight = 1
    net.layers[1].weight = 0
    net.layers[1].weight[:, 0] = 1
    x = np.ones((20, 3), np.float32)
    for step in range(2):
        kept = package.dropout_mask((20, 40), 0.5, (9, step, 0))
        z = net.forward(x, training=True)
        same_bits(z[:, 0], (kept.sum(axis=1) * 6).astype(np.float32))
        net.backward(np.zeros((20, 2), np.float32))
        net.update(package.SGD(0.0))


def test_the_seed_is_the_masks_seed(package):
    """Whether a seed may be changed or not: masks are those of the seed the network shows."""
    net = package.MLP([1, 40, 1], activation="identity", dropout=0.5, seed=9, output="identity")
    net.parameters = np.ones(net.n_parameters)
    with contextlib.suppress(AttributeError):
        net.seed = 10
    kept = package.dropout_mask((20, 40), 0.5, (net.seed, 0, 0))
    z = net.forward(np.ones((20, 1), np.float32), training=True)
    same_bits(z[:, 0], (kept.sum(axis=1) * 4 + 1).astype(np.float32))


def test_batch_norm_statistics(package, rng):
    """Each training forward moves the running statistics, inference does not."""
    net = package.MLP([4, 5, 2], batch_norm=True, dtype="float64")
    x = rng.standard_normal((30, 4))
    z = x @ net.layers[0].weight
    net.forward(x)
    same_bits(net.running_mean, np.zeros(5))
    net.forward(x, training=True)
    within(net.layers[0].running_mean, 0.1 * z.mean(axis=0), 100 * unit("float64"))
    within(net.layers[0].running_var, 0.9 + 0.1 * z.var(axis=0, ddof=1), 100 * unit("float64"))
    assert np.shares_memory(net.layers[0].running_mean, net.running_mean)


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_batch_norm_after_the_activation(activation, package, rng):
    """gamma x_hat + beta of f(x @ w + b), dropout behind; its running statistics are of f."""
    net = package.MLP([4, 5, 2], activation=activation, batch_norm="after", dropout=0.5,
                      output="identity", dtype="float64", seed=3)  # fmt: skip
    layer = net.layers[0]
    layer.bias, layer.gamma, layer.beta = rng.standard_normal((3, 5))
    x = rng.standard_normal((30, 4))
    h = package.activation_forward(x @ layer.weight + layer.bias, activation)
    kept = package.dropout_mask((30, 5), 0.5, (3, 0, 0))
    x_hat = (h - h.mean(axis=0)) / np.sqrt(h.var(axis=0) + 1e-5)
    a = (layer.gamma * x_hat + layer.beta) * kept * 2
    z = a @ net.layers[1].weight
    # a mean of 30, a root, a division, some products: 200 roundings of numbers below 10
    within(net.forward(x, training=True), z, 200 * unit("float64") * 10)
    within(layer.running_mean, 0.1 * h.mean(axis=0), 100 * unit("float64"))
    within(layer.running_var, 0.9 + 0.1 * h.var(axis=0, ddof=1), 100 * unit("float64"))
    inv_std = 1 / np.sqrt(layer.running_var + 1e-5)
    y = layer.gamma * (h - layer.running_mean) * inv_std + layer.beta
    within(net.forward(x), y @ net.layers[1].weight, 200 * unit("float64") * 10)


def test_two_rows_by_hand(package):
    """Rows 1 and 3 through relu(2 x - 1) = 1, 5: x_hat = -+1, and 10 x_hat + 7 = -3, 17; by
    (1 - 1e-5 / 8) for the eps beside a variance of 4."""
    net = package.MLP([1, 1, 1], batch_norm="after", output="identity", dtype="float64")
    net.parameters[:] = [2, -1, 10, 7, 1, 0]
    z = net.forward(np.array([[1.0], [3.0]]), training=True)
    within(z, [[-3.0], [17.0]], 10 * 1.3e-6)  # 10 x_hat is off by 10 * 1e-5 / 8
    within(net.running_mean, [0.3], 4 * unit("float64"))
    within(net.running_var, [0.9 + 0.1 * 8], 4 * unit("float64"))


def test_statistics_are_of_the_activations(package):
    """With batch norm behind tanh the statistics are still tanh's, without dropout's zeros."""
    x, y = blobs(100)
    net = small_net(package, batch_norm="after", activation="tanh", dropout=0.5)
    twin = small_net(package, batch_norm="after", activation="tanh")
    weight = net.layers[0].weight.copy()
    net.train_step(x, y, package.SGD(0.1), monitor=True)
    history = twin.fit(x, y, epochs=1, batch_size=100, shuffle=False, progress=False)
    for stats in (net.layers[0].stats, history.stats[0][0]):
        h = np.tanh(x @ weight)
        # sums of 800 float32 numbers below 1, and tanh itself
        assert abs(stats.mean - h.mean()) < 20 * unit("float32")
        assert abs(stats.max - h.max()) < 20 * unit("float32")
        assert stats.zero_fraction == 0
    assert history.stats[0][0].histogram.sum() == 800


def test_input_dropout(package):
    """Inputs are dropped by the mask of layer 65535 and scaled, in training alone; so is dx."""
    net = package.MLP([40, 2], output="identity", input_dropout=0.5, seed=9, dtype="float64")
    net.layers[0].weight = [1, 2]
    x = np.arange(800.0).reshape(20, 40)
    plain = np.stack([x.sum(axis=1), 2 * x.sum(axis=1)], 1)
    for step in range(2):
        kept = package.dropout_mask((20, 40), 0.5, (9, step, 65535))
        assert not np.array_equal(kept, package.dropout_mask((20, 40), 0.5, (9, step, 0)))
        dropped = (x * kept * 2).sum(axis=1)
        same_bits(net.forward(x, training=True), np.stack([dropped, 2 * dropped], 1))
        dx = net.backward(np.ones((20, 2)))
        same_bits(dx, kept * 6.0)
        within(net.layers[0].dweight[:, 0], (x * kept * 2).sum(axis=0), 0)  # whole numbers
        same_bits(net.forward(x), plain)
        net.update(package.SGD(0.0))
    same_bits(x, np.arange(800.0).reshape(20, 40))


def test_more_layers_than_masks(package, monkeypatch):
    """Layer 65535 would drop by the mask of the inputs."""
    with pytest.raises(ValueError, match=r"^sizes: expected at most 65535 layers .* got 65536$"):
        package.MLP([1] * 65537)
    monkeypatch.setattr(fanin.reference.arguments, "INPUT_LAYER", 3)  # 65535 take half a minute
    assert len(package.MLP([1] * 4).layers) == 3
    with pytest.raises(ValueError, match=r"^sizes: expected at most 3 layers .* got 4$"):
        package.MLP([1] * 5)


def test_input_dropout_leaves_other_masks(package):
    """A hidden layer drops the same units with it and without."""
    x = np.ones((50, 6), np.float32)
    outputs = []
    for rate in (0.0, 1e-9):  # one input in 65536 is dropped: none of these 300
        assert package.dropout_mask((50, 6), rate, (4, 0, 65535)).all()
        net = package.MLP([6, 30, 3], dropout=0.5, input_dropout=rate, seed=4)
        outputs.append(net.forward(x, training=True))
    # inputs are scaled by 65536 / 65535
    within(outputs[1], outputs[0], 1e-4 * (1 + np.abs(outputs[0])))


@pytest.mark.parametrize("layout", ["columns", "strided"])
def test_input_dropout_of_any_strides(layout, package):
    x = np.random.default_rng(0).standard_normal((30, 12))
    view = np.asfortranarray(x) if layout == "columns" else np.repeat(x, 2, axis=1)[:, ::2]
    results = []
    for data in (x, view):
        net = package.MLP([12, 7, 3], input_dropout=0.3, dtype="float64")
        results.append(net.forward(data, training=True))
        results.append(net.backward(results[-1]))
    same_bits(results[2], results[0])
    same_bits(np.ascontiguousarray(results[3]), np.ascontiguousarray(results[1]))


def test_backward_needs_a_forward(package):
    x, _ = blobs(10)
    net = small_net(package)
    dz = np.zeros((10, 3), np.float32)
    with pytest.raises(RuntimeError, match="forward"):
        net.backward(dz)
    net.forward(x)
    with pytest.raises(RuntimeError, match="forward"):
        net.backward(dz)
    net.forward(x, training=True)
    net.backward(dz)
    net.update(package.SGD(0.1))
    with pytest.raises(RuntimeError, match="forward"):
        net.backward(dz)


def test_inference_between_forward_and_backward(package, rng):
    """A look at validation data between the two halves of a step does no harm."""
    x = rng.standard_normal((10, 4))
    net = small_net(package, dtype="float64", dropout=0.5)
    dz = rng.standard_normal((10, 3))
    net.forward(x, training=True)
    net.backward(dz)
    expected = net.gradients.copy()
    net.forward(x, training=True)
    net.forward(rng.standard_normal((50, 4)))
    net.predict(rng.standard_normal((3, 4)))
    net.backward(dz)
    same_bits(net.gradients, expected)


def test_backward_twice(package, rng):
    """Gradients are overwritten, not added up."""
    x, dz = rng.standard_normal((10, 4)), rng.standard_normal((10, 3))
    net = small_net(package, dtype="float64", l2=0.1)
    net.forward(x, training=True)
    net.backward(dz)
    expected = net.gradients.copy()
    net.backward(dz)
    same_bits(net.gradients, expected)


# ---- training --------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_learns_classes(activation, package):
    x, y = blobs()
    net = small_net(package, activation=activation)
    history = net.fit(x, y, epochs=20, batch_size=32, optimizer=package.Adam(0.01), progress=False)
    assert history.epochs == 20
    assert history.loss[-1] < history.loss[0]
    assert net.evaluate(x, y)["accuracy"] > 0.9


@pytest.mark.parametrize("shape", ["vector", "column", "columns"])
def test_learns_yes_or_no(shape, package):
    x, y = blobs(classes=2)
    y = {"vector": y, "column": y[:, None], "columns": np.stack([y, 1 - y], 1)}[shape]
    net = package.MLP([4, 8, 1 if y.ndim == 1 else y.shape[1]], output="sigmoid")
    net.fit(x, y, epochs=20, batch_size=32, optimizer=package.Adam(0.01), progress=False)
    assert net.evaluate(x, y)["accuracy"] > 0.95
    p = net.predict_proba(x)
    assert p.shape == (300, 2 if shape == "columns" else 1)
    assert ((p > 0) & (p < 1)).all()
    labels = net.predict(x)
    assert labels.dtype == np.int64
    assert labels.shape == (y.shape if shape == "columns" else (300,))
    same_bits(labels.reshape(300, -1), (p > 0.5).astype(np.int64))


@pytest.mark.parametrize("shape", ["vector", "columns"])
def test_learns_numbers(shape, package):
    x = np.linspace(-2, 2, 400).reshape(200, 2)
    y = np.sin(x[:, 0]) if shape == "vector" else np.sin(x)
    net = package.MLP([2, 32, 1 if y.ndim == 1 else 2], output="identity", activation="tanh")
    history = net.fit(x, y, epochs=100, batch_size=32, optimizer=package.Adam(0.01), progress=False)
    scores = net.evaluate(x, y)
    assert set(scores) == {"loss", "r2"}
    assert scores["r2"] > 0.95
    assert history.val_accuracy == []
    predicted = net.predict(x)
    assert predicted.shape == y.shape
    assert predicted.dtype == np.float32
    residual = 1 - np.mean(np.mean((predicted - y) ** 2, 0) / np.var(y, axis=0))
    # float32 outputs of about 1, squared and averaged, over a variance of about 0.5
    assert scores["r2"] == pytest.approx(residual, abs=32 * unit("float32"))


def test_probabilities_as_labels(package):
    """One-hot float targets train like labels; soft ones are accepted."""
    x, y = blobs(60)
    by_labels, by_rows = small_net(package), small_net(package)
    options = {"epochs": 2, "batch_size": 20, "progress": False}
    losses = [by_labels.fit(x, y, **options).loss, by_rows.fit(x, np.eye(3)[y], **options).loss]
    within(losses[1], losses[0], 1e-5)  # float32 roundings over six steps of losses about 1
    soft = np.full((60, 3), 1 / 3)
    assert small_net(package).fit(x, soft, **options).epochs == 2
    assert by_rows.evaluate(x, np.eye(3)[y])["accuracy"] == by_rows.evaluate(x, y)["accuracy"]


def test_history(package):
    x, y = blobs()
    net = small_net(package)
    history = net.fit(
        x, y, validation=(x[:50], y[:50]), epochs=3, batch_size=100,
        optimizer=package.SGD(lambda step: 0.1 / (1 + step)), progress=False,
    )  # fmt: skip
    assert history.epochs == 3
    for name in ("loss", "val_loss", "val_accuracy", "learning_rate", "seconds", "stats"):
        assert len(getattr(history, name)) == 3, name
    assert history.learning_rate == [0.1 / 3, 0.1 / 6, 0.1 / 9]
    assert history.val_loss[-1] == net.evaluate(x[:50], y[:50])["loss"]
    assert history.val_accuracy[-1] == net.evaluate(x[:50], y[:50])["accuracy"]
    assert history.best_epoch == int(np.argmin(history.val_loss))
    assert not history.interrupted
    assert not history.stopped_early
    assert all(seconds > 0 for seconds in history.seconds)


def test_epoch_loss(package):
    """The row-weighted mean of the steps' losses, the last batch being smaller."""
    x, y = blobs(50)
    net, twin = small_net(package, l2=0.1), small_net(package, l2=0.1)
    history = net.fit(x, y, epochs=1, batch_size=32, shuffle=False, progress=False)
    optimizer = package.Adam(1e-3)
    losses = [twin.train_step(x[r], y[r], optimizer) for r in (slice(0, 32), slice(32, 50))]
    assert history.loss == [pytest.approx((32 * losses[0] + 18 * losses[1]) / 50, rel=1e-14, abs=0)]


def test_monitor(package):
    """The statistics of the last step of an epoch: those of its last batch, before dropout."""
    x, y = blobs(50)
    net = small_net(package, dropout=0.5, dtype="float64")
    twin = small_net(package, dropout=0.5, dtype="float64")
    history = net.fit(x, y, epochs=1, batch_size=32, shuffle=False, progress=False)
    twin.train_step(x[:32], y[:32], optimizer := package.Adam(1e-3))
    _, cache = fanin.dense_forward(
        x[32:].astype(float),
        twin.layers[0].weight,
        twin.layers[0].bias,
        activation="relu",
        stats=50,
    )
    (stats,) = history.stats
    assert len(stats) == 2
    assert stats[0].rows == 18
    within(stats[0].mean, cache.stats.mean, 64 * unit("float64") * 10)
    within(stats[0].unit_mean, cache.stats.unit_mean, 64 * unit("float64") * 10)
    same_bits(stats[0].unit_zeros, cache.stats.unit_zeros)
    assert stats[0].histogram.sum() == 18 * 8
    assert net.layers[0].stats is stats[0]
    assert optimizer.steps == 1
    assert small_net(package).fit(x, y, epochs=1, monitor=False, progress=False).stats == []


def test_monitor_changes_nothing(package):
    x, y = blobs(70)
    nets = [small_net(package, **OPTIONS) for _ in range(2)]
    for net, monitor in zip(nets, (True, False), strict=True):
        net.fit(x, y, epochs=3, batch_size=16, monitor=monitor, progress=False)
    same_bits(nets[0].parameters, nets[1].parameters)


def test_early_stopping(package):
    """Patience over: the best epoch's weights and running statistics come back."""
    x, _ = blobs(60)
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 3, 60)  # nothing to learn, so validation soon gets worse
    seen = []
    net = package.MLP([4, 64, 3], batch_norm=True)
    history = net.fit(
        x, noise, validation=(x[::-1], noise), epochs=200, batch_size=16, early_stopping=3,
        optimizer=package.Adam(0.02), progress=False,
        callbacks=[lambda net, _: seen.append((net.parameters.copy(), net.running_var.copy()))],
    )  # fmt: skip
    assert history.stopped_early
    assert history.epochs == history.best_epoch + 4 < 200
    assert history.best_epoch == int(np.argmin(history.val_loss))
    same_bits(net.parameters, seen[history.best_epoch][0])
    same_bits(net.running_var, seen[history.best_epoch][1])


@pytest.mark.parametrize("monitor", ["loss", "val_loss", "val_accuracy"])
def test_early_stopping_settings(monitor, package):
    x, y = blobs()
    rule = package.EarlyStopping(monitor=monitor, patience=2, min_delta=100.0, restore_best=False)
    net = small_net(package)
    history = net.fit(x, y, validation=(x, y), epochs=50, early_stopping=rule, progress=False)
    assert history.epochs == 3  # the first is the best: nothing improves by 100
    assert history.best_epoch == 0
    assert history.stopped_early
    last = net.parameters.copy()
    assert not np.array_equal(last, small_net(package).parameters)


def test_callbacks(package):
    """Called after each epoch with net and history; True stops, after all have been called."""
    x, y = blobs()
    calls = []
    history = small_net(package).fit(
        x, y, epochs=10, progress=False,
        callbacks=[
            lambda net, history: calls.append(("a", history.epochs)) or history.epochs == 2,
            lambda net, history: calls.append(("b", net.epoch)),
        ],
    )  # fmt: skip
    assert calls == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert history.epochs == 2
    assert not history.stopped_early


def test_callback_that_raises(package):
    x, y = blobs()
    net = small_net(package)
    with pytest.raises(ZeroDivisionError):
        net.fit(x, y, progress=False, callbacks=[lambda net, history: 1 / 0])
    assert net.epoch == 1
    net.fit(x, y, epochs=1, progress=False)


def test_own_optimizer(package):
    """Anything with update(parameters, gradients) trains."""

    class Descent:
        def update(self, parameters, gradients):
            parameters -= np.float32(0.5) * gradients

    x, y = blobs()
    nets = [small_net(package) for _ in range(2)]
    for net, optimizer in zip(nets, (Descent(), package.SGD(0.5)), strict=True):
        net.fit(x, y, epochs=3, optimizer=optimizer, progress=False)
    # p - lr g in one rounding or two, over nine steps
    within(nets[0].parameters, nets[1].parameters, 1e-4)
    assert nets[0].step == nets[1].step == 9


def test_class_and_sample_weights(package):
    """Rows of weight 0 teach nothing; classes of weight 0 neither."""
    x, y = blobs()
    other = (y + 1) % 3
    weight = np.r_[np.ones(300), np.zeros(300)]
    net = small_net(package)
    net.fit(
        np.r_[x, x], np.r_[y, other], sample_weight=weight, epochs=20, batch_size=32,
        optimizer=package.Adam(0.01), progress=False,
    )  # fmt: skip
    assert net.evaluate(x, y)["accuracy"] > 0.9
    net = small_net(package)
    net.fit(x, y, class_weight={2: 0.0}, epochs=20, batch_size=32,
            optimizer=package.Adam(0.01), progress=False)  # fmt: skip
    assert (net.predict(x) != 2).all()
    assert net.evaluate(x[y != 2], y[y != 2])["accuracy"] > 0.9


@pytest.mark.parametrize("output", ["softmax", "sigmoid", "identity"])
def test_a_batch_of_no_weight(output, package, dtype):
    """Rows of weight 0 alone: loss and gradients are those of the penalties; the step is done."""
    x, y = blobs(40)
    x, y = x.astype(dtype), y if output == "softmax" else np.eye(3, dtype=dtype)[y]
    weight = np.r_[np.ones(20, dtype), np.zeros(20, dtype)]
    for l2 in (0.0, 0.25):
        net = small_net(package, output=output, dtype=dtype, l2=l2)
        loss = net._loss_and_gradients(x[20:], y[20:], weight[20:], None, 0.0)
        penalty = l2 / 2 * sum(np.square(layer.weight.astype(float)).sum() for layer in net.layers)
        within(loss, penalty, 64 * unit(dtype) * penalty)
        for layer in net.layers:
            same_bits(layer.dweight + 0, layer.weight * layer.weight.dtype.type(l2) + 0)
            assert not layer.dbias.any()
        assert net._output_loss(net.forward(x[20:]), y[20:], weight[20:]) == 0
    net, twin = (small_net(package, output=output, dtype=dtype) for _ in range(2))
    settings = {"batch_size": 20, "shuffle": False, "progress": False}
    history = net.fit(
        x, y, sample_weight=weight, epochs=1, optimizer=package.SGD(0.5), **settings
    )  # fmt: skip
    first = twin.train_step(x[:20], y[:20], package.SGD(0.5))
    assert net.step == 2
    same_bits(net.parameters, twin.parameters)
    within(history.loss[0], first / 2, 4 * unit("float64") * first)  # the mean over rows of steps


def test_weights_scale_out(package):
    """A weighted mean: ten times the weights is the same training."""
    x, y = blobs(60)
    weight = np.random.default_rng(0).random(60) + 0.5
    nets = [small_net(package, dtype="float64") for _ in range(2)]
    for net, factor in zip(nets, (1, 16), strict=True):
        net.fit(x, y, sample_weight=factor * weight, epochs=3, batch_size=20, progress=False)
    same_bits(nets[0].parameters, nets[1].parameters)


def test_label_smoothing(package):
    """Smoothed targets keep probabilities away from 1."""
    x, y = blobs()
    nets = [small_net(package) for _ in range(2)]
    for net, eps in zip(nets, (0.0, 0.3), strict=True):
        net.fit(x, y, label_smoothing=eps, epochs=100, optimizer=package.Adam(0.02), progress=False)
    sure, unsure = (np.median(net.predict_proba(x).max(axis=1)) for net in nets)
    assert sure > 0.97
    assert unsure < 0.9


def test_shuffle(package):
    """Another order each epoch, which goes on over calls of fit."""
    x, y = blobs(64)
    net, twin = small_net(package), small_net(package)
    optimizers = package.Adam(0.01), package.Adam(0.01)
    net.fit(x, y, epochs=4, batch_size=8, optimizer=optimizers[0], progress=False)
    for _ in range(4):
        twin.fit(x, y, epochs=1, batch_size=8, optimizer=optimizers[1], progress=False)
    same_bits(net.parameters, twin.parameters)
    fixed = small_net(package)
    fixed.fit(x, y, epochs=4, batch_size=8, optimizer=package.Adam(0.01), shuffle=False,
              progress=False)  # fmt: skip
    assert not np.array_equal(fixed.parameters, net.parameters)


def test_last_batch_of_one_row(package):
    """Batch norm cannot use it, so it is left out; without batch norm it is used."""
    x, y = blobs(33)
    net = small_net(package, batch_norm=True)
    net.fit(x, y, epochs=1, batch_size=16, progress=False)
    assert net.step == 2
    net = small_net(package)
    net.fit(x, y, epochs=1, batch_size=16, progress=False)
    assert net.step == 3


def test_batch_larger_than_the_data(package):
    x, y = blobs(20)
    net = small_net(package)
    assert net.fit(x, y, epochs=2, batch_size=1000, progress=False).epochs == 2
    assert net.step == 2


@pytest.mark.parametrize("progress", [True, False, "auto"])
def test_progress(progress, package, monkeypatch):
    """True shows a bar, False and a stream that is no terminal none."""
    pytest.importorskip("tqdm")
    x, y = blobs(20)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    small_net(package).fit(x, y, epochs=2, progress=progress)
    assert bool(stream.getvalue()) == (progress is True)


def test_progress_without_tqdm(package, monkeypatch, capsys):
    """Asked for and not installed: a line per epoch; not asked for: nothing."""
    monkeypatch.setitem(sys.modules, "tqdm", None)
    x, y = blobs(20)
    small_net(package).fit(x, y, epochs=2)
    assert capsys.readouterr().err == ""
    small_net(package).fit(x, y, epochs=2, progress=True)
    shown = capsys.readouterr()
    lines = (shown.out + shown.err).splitlines()
    assert len(lines) == 2
    assert "epoch 2/2" in lines[1]
    assert "loss" in lines[1]


# ---- data of every kind ----------------------------------------------------------------------


def data_of(kind: str, tmp_path):
    """The same whole numbers 0 ... 255 as another array: (x, its values as float32)."""
    values = np.random.default_rng(3).integers(0, 256, (90, 4))
    if kind == "bool":
        values = values > 127
    if kind in ("int8", "float16"):
        values = values // 2
    expected = values.astype(np.float32)
    if kind.startswith("memmap"):
        path = tmp_path / "x.npy"
        np.save(path, values.astype(kind.split()[1]))
        return np.load(path, mmap_mode="r"), expected
    if kind == "list":
        return values.tolist(), expected
    if kind == "strided":
        return np.repeat(values.astype(np.uint8), 2, axis=1)[::-1, ::2][::-1], expected
    if kind == "reversed":
        return np.ascontiguousarray(expected[::-1, ::-1])[::-1, ::-1], expected
    if kind == "fortran":
        return np.asfortranarray(expected), expected
    if kind == "misaligned":
        raw = np.empty(expected.nbytes + 1, np.uint8)[1:]
        x = raw.view(np.float32).reshape(expected.shape)
        x[...] = expected
        return x, expected
    return values.astype(kind), expected


KINDS = ["bool", "uint8", "int8", "int64", "uint16", "float16", "float32", "float64", ">f4", ">i2",
         "memmap uint8", "memmap float32", "memmap float64", "memmap >i2", "list", "strided",
         "reversed", "fortran", "misaligned"]  # fmt: skip


@pytest.mark.parametrize("scale", [None, 1 / 255])
@pytest.mark.parametrize("kind", KINDS)
def test_data_of_every_kind(kind, scale, package, tmp_path):
    """fit, evaluate and predict see the same float32 numbers whatever holds them."""
    x, values = data_of(kind, tmp_path)
    y = np.random.default_rng(4).integers(0, 3, 90)
    nets = [small_net(package, dropout=0.2) for _ in range(2)]
    histories = [
        net.fit(data, y, validation=(data, y), epochs=2, batch_size=32, input_scale=scale,
                progress=False)
        for net, data in zip(nets, (x, values), strict=True)
    ]  # fmt: skip
    assert histories[0].loss == histories[1].loss
    assert histories[0].val_loss == histories[1].val_loss
    same_bits(nets[0].parameters, nets[1].parameters)
    assert nets[0].evaluate(x, y) == nets[1].evaluate(values, y)
    same_bits(nets[0].predict_proba(x), nets[1].predict_proba(values))
    same_bits(nets[0].forward(x), nets[1].forward(values))
    optimizers = package.Adam(), package.Adam()
    steps = [net.train_step(data, y, optimizer) for net, data, optimizer
             in zip(nets, (x, values), optimizers, strict=True)]  # fmt: skip
    assert steps[0] == steps[1]


def labels_of(kind: str, y: np.ndarray, tmp_path):
    """The same labels as another array."""
    if kind == "list":
        return y.tolist()
    if kind == "strided":
        return np.repeat(y, 3)[::3]
    if kind == "reversed":
        return np.ascontiguousarray(y[::-1])[::-1]
    if kind == "memmap":
        np.save(tmp_path / "y.npy", y)
        return np.load(tmp_path / "y.npy", mmap_mode="r")
    return y.astype(kind)


@pytest.mark.parametrize("kind", ["uint8", "int8", ">i4", "uint64", "list", "strided", "reversed",
                                  "memmap"])  # fmt: skip
def test_labels_of_every_kind(kind, package, tmp_path):
    x, y = blobs(50)
    nets = [small_net(package) for _ in range(2)]
    for net, labels in zip(nets, (y, labels_of(kind, y, tmp_path)), strict=True):
        net.fit(x, labels, validation=(x, labels), epochs=2, batch_size=16, progress=False)
        net.train_step(x, labels, package.Adam())
    same_bits(nets[0].parameters, nets[1].parameters)
    assert nets[0].evaluate(x, y) == nets[1].evaluate(x, labels_of(kind, y, tmp_path))


@pytest.mark.parametrize("kind", ["bool", "uint8", "int64", "float16", "float64", "list"])
@pytest.mark.parametrize("output", ["sigmoid", "identity"])
def test_targets_of_every_kind(kind, output, package, tmp_path):
    """Zeros and ones of any real dtype, as a column or a vector."""
    x, y = blobs(50, classes=2)
    nets = [package.MLP([4, 8, 1], output=output, seed=1) for _ in range(3)]
    found = labels_of(kind, y, tmp_path)
    for net, targets in zip(nets, (y.astype(np.float32), found, np.reshape(found, (50, 1))),
                            strict=True):  # fmt: skip
        net.fit(x, targets, epochs=2, batch_size=16, progress=False)
    same_bits(nets[0].parameters, nets[1].parameters)
    same_bits(nets[0].parameters, nets[2].parameters)


def test_input_scale(package):
    """Kept, applied by predict and evaluate, not by forward and train_step."""
    _, y = blobs(90)
    bytes_ = np.random.default_rng(3).integers(0, 256, (90, 4)).astype(np.uint8)
    net = small_net(package)
    net.fit(bytes_, y, epochs=1, input_scale=1 / 255, progress=False)
    assert net.input_scale == 1 / 255
    scaled = bytes_.astype(np.float32) * np.float32(1 / 255)
    z = net.forward(scaled)
    same_bits(net.predict(bytes_), z.argmax(axis=1))
    assert not np.array_equal(net.forward(bytes_), z)
    net.fit(bytes_, y, epochs=1, progress=False)  # stays
    assert net.input_scale == 1 / 255


def test_scale_in_float64(package):
    """A float64 network multiplies in float64."""
    bytes_ = np.array([[1, 3, 7, 255]] * 4, np.uint8)
    net = small_net(package, dtype="float64")
    net.fit(bytes_, np.array([0, 1, 2, 0]), epochs=1, input_scale=1 / 255, progress=False)
    expected = net.forward(bytes_ * (1 / 255))
    same_bits(net.predict(bytes_), expected.argmax(axis=1))
    p = net.predict_proba(bytes_)
    e = np.exp(expected - expected.max(axis=1, keepdims=True))
    within(p, e / e.sum(axis=1, keepdims=True), 16 * unit("float64"))


def test_a_shorter_float(package):
    """float64 data too large for a float32 network are refused, not turned into infinity."""
    x, y = blobs(10)
    x = x.astype(np.float64)
    x[4, 2] = 1e300
    with pytest.raises(ValueError, match=r"x: .*float32.* row 4, column 2"):
        small_net(package).fit(x, y, progress=False)
    history = small_net(package, dtype="float64").fit(x, y, epochs=1, progress=False)
    assert package.diagnose(history)[0].name == "unnormalised inputs"


# ---- predictions -----------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, 4095, 4096, 4097, 9000])
def test_predict_in_parts(rows, package):
    """More rows than are computed at once, none, and the edges."""
    x, _ = blobs(rows) if rows else (np.zeros((0, 4), np.float32), None)
    net = small_net(package)
    labels, p = net.predict(x), net.predict_proba(x)
    assert labels.shape == (rows,)
    assert labels.dtype == np.int64
    assert p.shape == (rows, 3)
    assert p.dtype == np.float32
    z = net.forward(x)
    same_bits(labels, z.argmax(axis=1))
    within(p.sum(axis=1), np.ones(rows), 8 * unit("float32"))


def test_predict_proba_of_numbers(package):
    net = package.MLP([4, 2], output="identity")
    with pytest.raises(ValueError, match="predict_proba"):
        net.predict_proba(np.zeros((1, 4)))


def test_extreme_logits(package):
    """Probabilities of certain answers are 0 and 1, never NaN."""
    for output in ("softmax", "sigmoid"):
        net = package.MLP([1, 2], output=output, init=lambda k, n, rng: np.array([[1e4, -1e4]]))
        p = net.predict_proba(np.array([[1.0], [-1.0]]))
        same_bits(p, np.array([[1, 0], [0, 1]], np.float32))


def test_evaluate(package, rng):
    """Loss and accuracy by hand; dropout is off, penalties count."""
    x, y = blobs(200)
    net = small_net(package, dropout=0.5, l2=0.5)
    z = net.forward(x).astype(np.float64)
    rows = np.log(np.exp(z).sum(axis=1)) - z[np.arange(200), y]
    penalty = sum(0.25 * np.square(layer.weight.astype(float)).sum() for layer in net.layers)
    right = z.argmax(axis=1) == y
    scores = net.evaluate(x, y)
    within(
        scores["loss"], rows.mean() + penalty, 64 * unit("float32") * (np.abs(z).max() + penalty)
    )
    assert scores["accuracy"] == right.mean()
    weight = rng.random(200)
    scores = net.evaluate(x, y, sample_weight=weight)
    within(scores["accuracy"], np.average(right, weights=weight), 1e-6)  # weights in float32
    within(scores["loss"], np.average(rows, weights=weight) + penalty,
           64 * unit("float32") * (np.abs(z).max() + penalty))  # fmt: skip


def test_r2_of_constant_targets(package):
    net = package.MLP([1, 1], output="identity", init="zeros")
    x, y = np.ones((5, 1)), np.full(5, 2.0)
    assert net.evaluate(x, y)["r2"] == 0
    net.layers[0].bias = 2
    assert net.evaluate(x, y)["r2"] == 1
    assert not math.isnan(net.evaluate(x, y)["loss"])
