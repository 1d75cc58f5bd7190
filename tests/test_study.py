"""The studies: numbers against theory and the reference, figures against the numbers."""

from __future__ import annotations

import re
import sys
from dataclasses import fields

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer, load_iris

import fanin
from fanin import reference, study
from fanin.__main__ import main
from fanin.random import Stream
from fanin.study.cost import without_dropout
from fanin.study.init import RULES

U = 2.0**-53


def axes(rows=1, columns=1):
    return Figure().subplots(rows, columns)


@pytest.fixture(autouse=True)
def _no_figure_is_left():
    before = pyplot.get_fignums()
    yield
    assert pyplot.get_fignums() == before


# ---- initial weights: what the command prints ------------------------------------------------


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """The tables of `python -m fanin study init`: {activation: {block: (layers, rules)}}."""
    folder = tmp_path_factory.mktemp("figures") / "new"
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *a, **_: lines.append(" ".join(map(str, a))))
        assert main(["study", "init", "--out", str(folder)]) == 0
    found = {}
    for text in lines:
        blocks = text.split("\n\n")
        if not re.match(r"\w+, 10 layers", blocks[0]):
            continue
        activation = blocks[0].split(",")[0]
        assert blocks[0].endswith("10 layers of 500 units, 1000 rows of N(0, 1), float32, seed 0")
        found[activation] = {}
        for block in blocks[1:]:
            title, head, *rows = block.split("\n")
            assert re.split(r"  +", head) == ["layer", *RULES]
            values = [[float(n.rstrip("%")) for n in row.split()[1:]] for row in rows]
            assert [int(row.split()[0]) for row in rows] == list(range(1, 11))
            found[activation][title] = dict(zip(RULES, np.array(values).T, strict=True))
    for activation in ("tanh", "relu"):
        path = folder / f"init_{activation}.png"
        assert f"\nfigure: {path}\n" in lines
        assert 10_000 < path.stat().st_size < 80_000
    return found


STD = "standard deviation of the activations"
BACK = "norm of the gradient, of the activations"


def test_three_regimes(printed):
    """Collapse, saturation, steady spread: tanh under 0.01, 1 and Xavier; He for relu."""
    tanh, relu = printed["tanh"], printed["relu"]
    std = tanh[STD]["N(0, 0.01^2)"]
    assert std[9] < 1e-5 * std[0]
    assert (tanh["saturated activations"]["N(0, 1)"] > 90).all()  # per cent
    for rule in ("Xavier", "Glorot"):
        assert tanh[STD][rule].max() < 3 * tanh[STD][rule].min()
        assert tanh["saturated activations"][rule].max() < 5
    assert relu[STD]["He"].max() < 1.5 * relu[STD]["He"].min()
    # relu keeps half of the squares: Xavier's spread falls by sqrt(2) a layer, over nine layers
    fall = relu[STD]["Xavier"][9] / relu[STD]["Xavier"][0]
    assert 2**-4.5 / 2 < fall < 2**-4.5 * 2
    # N(0, 1) multiplies by sqrt(500 / 2) a layer
    assert relu[STD]["N(0, 1)"][9] / relu[STD]["N(0, 1)"][0] > 250**4.5 / 2
    assert "saturated activations" not in relu


def test_gradients_on_the_way_back(printed):
    tanh, relu = printed["tanh"][BACK], printed["relu"][BACK]
    for rule in RULES:
        assert tanh[rule][9] == relu[rule][9] == 1
    assert tanh["N(0, 0.01^2)"][0] < 1e-5
    assert (np.diff(tanh["N(0, 0.01^2)"]) > 0).all()
    # saturated units pass nothing, but the weights of the few others are large
    assert tanh["N(0, 1)"][0] > 1e4
    assert tanh["Xavier"].min() > 0.3 and tanh["Xavier"].max() <= 1
    assert relu["He"].min() > 0.5 and relu["He"].max() < 2
    assert relu["Xavier"][0] < 0.1


@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu"])
def test_initialisation_of_the_reference(activation):
    """The reference's network, layer by layer: the same statistics and gradients.

    A product rounds by at most 200 u of the sum of its terms' sizes, some 3e-13 of z; a tanh
    under N(0, 1) multiplies differences by less than 3.5 a layer, over ten layers by 3e5.
    """
    rows, width, depth = 100, 200, 10
    found = study.initialisation(
        activation=activation, rows=rows, width=width, dtype="float64", seed=3
    )
    for name, rule in RULES.items():
        net = reference.MLP([width] * (depth + 1), init=rule, dtype="float64", seed=3)
        a, caches = Stream(3, depth).normal((rows, width)), []
        for layer in net.layers:
            a, cache = reference.dense_forward(a, layer.weight, activation=activation, stats=True)
            caches.append(cache)
        one = found[name]
        for ours, cache in zip(one.stats, caches, strict=True):
            scale = cache.stats.std
            assert abs(ours.mean - cache.stats.mean) <= 1e-7 * scale
            assert abs(ours.std - cache.stats.std) <= 1e-7 * scale
            # an element within 1e-7 of the bound may count on either side
            flips = abs(ours.saturated_fraction - cache.stats.saturated_fraction) * rows * width
            assert flips <= 3
        da = Stream(3, depth + 1).normal((rows, width))
        da /= np.linalg.norm(da)
        for i in reversed(range(depth)):
            assert abs(one.da_norm[i] - np.linalg.norm(da)) <= 1e-7 * one.da_norm[i]
            da, dw, _ = reference.dense_backward(da, caches[i])
            assert abs(one.gradient_norm[i] - np.linalg.norm(dw)) <= 1e-7 * one.gradient_norm[i]


def test_initialisation_is_the_same_for_any_threads(threads):
    found = study.initialisation(depth=3, width=70, rows=90, seed=5)
    before = fanin.get_num_threads()
    fanin.set_num_threads(1)
    assert found.table() == study.initialisation(depth=3, width=70, rows=90, seed=5).table()
    fanin.set_num_threads(before)


def test_initialisation_of_ones_own():
    """Own rules, own rows, histograms over the activation's range."""
    x, _ = load_iris(return_X_y=True)
    rules = {"mine": lambda k, n, rng: np.full((k, n), 0.1), "zeros": "zeros"}
    found = study.initialisation(rules, activation="sigmoid", depth=3, width=7, x=x, bins=20)
    one = found["mine"]
    assert (one.std[1:] == 0).sum() == 0  # equal units, different rows
    first = 1 / (1 + np.exp(-0.1 * x.sum(axis=1)))
    # float32: a sum of four terms and a sigmoid, a few units of rounding of values below 1
    np.testing.assert_allclose(one.mean[0], first.mean(), atol=1e-6)
    np.testing.assert_allclose(found["zeros"].mean, 0.5)
    for stats in one.stats:
        assert stats.histogram.sum() == 150 * 7
        assert (stats.edges[0], stats.edges[-1], len(stats.edges)) == (0, 1, 21)
    assert (found["zeros"].da_norm[:-1] == 0).all()
    assert found.plot(axes(2, 6)).shape == (2, 6)
    by_name = study.initialisation(["he", "xavier"], depth=1, width=4, rows=5)
    assert [one.rule for one in by_name.signals] == ["he", "xavier"]


def test_a_signal_that_overflows():
    """Infinity and NaN are results, in the table and in the figure."""
    found = study.initialisation(["normal", "he"], activation="relu", depth=40, width=100, rows=10)
    assert found["normal"].std[-1] < 1e-30
    huge = study.initialisation({"huge": fanin.init.normal(10.0)}, activation="relu", depth=40,
                                width=100, rows=10)  # fmt: skip
    assert not np.isfinite(huge["huge"].std[-1])
    assert "nan" in huge.table() or "inf" in huge.table()
    figure = Figure()
    huge.plot(figure.subplots(1, 43))
    figure.canvas.draw()


def test_figure_of_initialisation():
    """Curves and bars are the study's numbers."""
    found = study.initialisation(["he", "xavier"], depth=4, width=30, rows=20)
    grid = found.plot(axes(2, 7))
    for row, one in zip(grid, found.signals, strict=True):
        for ax, stats in zip(row, one.stats, strict=False):
            heights, edges, _ = ax.patches[0].get_data()
            np.testing.assert_array_equal(edges, stats.edges)
            assert (heights > 0).tolist() == (stats.histogram > 0).tolist()
        for ax, values in zip(row[4:], (one.mean, one.std, one.da_norm), strict=True):
            np.testing.assert_array_equal(ax.get_lines()[0].get_ydata(), values)
        assert row[0].get_ylabel() == one.rule
    with pytest.raises(ValueError, match=r"^axes: expected 14 axes, got"):
        found.plot(axes(2, 6))


REFUSED = [
    ({"depth": 0}, ValueError, "depth: expected an integer >= 1"),
    ({"width": 2.5}, TypeError, "width: expected an integer"),
    ({"rows": 0}, ValueError, "rows: "),
    ({"seed": -1}, ValueError, "seed: "),
    ({"bins": 0}, ValueError, "bins: "),
    ({"activation": "tahn"}, ValueError, "activation: unknown 'tahn'; did you mean 'tanh'"),
    ({"dtype": "int8"}, ValueError, "dtype: "),
    ({"rules": "hee"}, ValueError, "init: unknown 'hee'"),
    ({"rules": []}, ValueError, "rules: expected at least one"),
    ({"x": np.zeros(3)}, ValueError, "x: expected shape"),
    ({"x": np.full((2, 2), np.nan)}, ValueError, "x: expected finite numbers"),
]


@pytest.mark.parametrize(("settings", "error", "message"), REFUSED, ids=lambda v: str(v)[:24])
def test_initialisation_refuses(settings, error, message):
    with pytest.raises(error, match=message):
        study.initialisation(**settings)


def test_unknown_rule_of_a_study():
    found = study.initialisation(["xavier"], depth=1, width=2, rows=2)
    with pytest.raises(ValueError, match=r"rule: unknown 'Xavier'; did you mean 'xavier'"):
        found["Xavier"]


# ---- the linear chain ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chains():
    return study.linear_chain(depth=50, width=100)


def test_chain_of_identities(chains):
    """c^l: a layer multiplies by c with one rounding; a norm of n squares is off by n u at most."""
    for chain in chains.chains:
        if chain.kind == "identity":
            powers = chain.factor ** np.arange(51.0)
            np.testing.assert_array_equal(chain.closed_form, powers)
            bound = (50 + 100) * U
            np.testing.assert_allclose(chain.value_norm, powers, rtol=bound)
            np.testing.assert_allclose(chain.da_norm, powers[::-1], rtol=bound)
            # an outer product of two such vectors, n^2 squares
            np.testing.assert_allclose(chain.gradient_norm, powers[49], rtol=(100 + 100**2) * U)
            if chain.factor != 1.5:  # powers of two: no rounding but the norm's own
                np.testing.assert_array_equal(chain.value_norm, powers * chain.value_norm[0])


@pytest.mark.parametrize("seed", range(5))
def test_chain_of_random_weights(seed):
    """log ||x_l|| - l log c is a sum of halves of log(chi^2_n / n), of mean -1/n and variance 2/n
    each: -l / (2 n) on average, with a deviation of sqrt(l / (2 n)).  Five of them are allowed."""
    layers, width = np.arange(51), 100
    found = study.linear_chain(depth=50, width=width, seed=seed)
    for chain in found.chains[1::2]:
        assert chain.kind == "random"
        for norms in (chain.value_norm, chain.da_norm[::-1]):
            off = np.log(norms) - layers * np.log(chain.factor)
            limit = layers / (2 * width) + 5 * np.sqrt(layers / (2 * width)) + 1e-12
            assert (np.abs(off) <= limit).all()


def test_table_and_figure_of_the_chain(chains):
    text = chains.table()
    assert text.count("\n   50 ") == 2
    assert f"{1.5**50:.2e}" in text and f"{0.5**50:.2e}" in text
    panels = chains.plot(axes(1, 2))
    for ax, name in zip(panels, ("value_norm", "da_norm"), strict=True):
        drawn = [line for line in ax.get_lines() if line.get_linestyle() == "--"]
        for line, chain in zip(drawn, chains.chains[1::2], strict=True):
            np.testing.assert_array_equal(line.get_ydata(), getattr(chain, name))
    with pytest.raises(ValueError, match=r"^axes: expected 2 axes"):
        chains.plot(axes())


def test_chain_refuses():
    with pytest.raises(ValueError, match=r"^factors\[1\]: expected a c with c\^1000 between"):
        study.linear_chain([1.0, 1.5], depth=1000)
    with pytest.raises(ValueError, match=r"^factors\[0\]: expected a number > 0, got 0"):
        study.linear_chain([0.0])
    with pytest.raises(ValueError, match=r"^factors: expected at least one number, got none"):
        study.linear_chain([])
    with pytest.raises(ValueError, match=r"^depth: "):
        study.linear_chain(depth=0)


# ---- scaled inputs ---------------------------------------------------------------------------


def cancer_features():
    """Mean radius and mean area of a nucleus: about 14 and 650."""
    x, y = load_breast_cancer(return_X_y=True)
    return x[:, [0, 3]], y.astype(float)


@pytest.mark.parametrize("real", [False, True], ids=["drawn", "breast cancer"])
def test_limits_of_the_learning_rate(real):
    """Really run: below 2 / lambda_max the cost falls, above it grows, at the rate of theory."""
    x, y = cancer_features() if real else (None, None)
    found = study.cost_contours(x, y)
    for one in (found.unscaled, found.scaled):
        eigenvalues = np.linalg.eigvalsh(one.hessian)
        assert one.limit == pytest.approx(2 / eigenvalues[-1], rel=1e-15)
        assert one.below.learning_rate == pytest.approx(0.99 * one.limit)
        assert one.above.learning_rate == pytest.approx(1.01 * one.limit)
        assert one.below.converges and one.drawn.converges
        assert not one.above.converges
        # along the steepest eigenvector the error is multiplied by 1 - 2.02, its square by 1.0404;
        # after 500 steps all else is at most 1.02^-1000 = 2.5e-9 of it, times its share before
        growth = one.above.excess[-1] / one.above.excess[-2]
        assert growth == pytest.approx(1.02**2, rel=1e-4)
        # no step below the limit raises a quadratic
        excess = one.below.excess
        assert (excess[1:] <= excess[:-1] * (1 + 1e-9) + 1e-12).all()
    assert found.unscaled.condition > 20 * found.scaled.condition
    assert found.unscaled.limit < found.scaled.limit / 20


def test_hessian_is_that_of_the_cost():
    """A quadratic's gradient is H (parameters - minimum), exactly."""
    x, y = cancer_features()
    found = study.cost_contours(x, y, steps=1)
    for one, inputs in (
        (found.unscaled, x),
        (found.scaled, (x - x.mean(axis=0)) / x.std(axis=0)),
    ):
        net = fanin.MLP([2, 1], output="identity", dtype="float64")
        net.parameters = [0.3, -0.2, 0.1]
        gradient = net.loss_and_gradients(inputs, y)[1]
        expected = one.hessian @ (net.parameters - one.minimum)
        # means of n products, and a solution whose error is the condition's times u
        bound = (len(x) + one.condition) * U * np.abs(one.hessian).max()
        np.testing.assert_allclose(gradient, expected, atol=bound)
        # the path is the network's own
        np.testing.assert_array_equal(one.below.path[0], [0, 0, 0])
        cost = np.mean(y**2) - np.mean((inputs @ one.minimum[:2] + one.minimum[2] - y) ** 2)
        assert one.below.excess[0] == pytest.approx(cost, rel=1e-6)


def test_table_and_figure_of_contours():
    found = study.cost_contours(steps=40)
    assert re.search(r"unscaled +\d.*\nscaled +\d", found.table())
    panels = found.plot(axes(1, 3))
    for ax, one in zip(panels, (found.unscaled, found.scaled), strict=False):
        np.testing.assert_array_equal(ax.get_lines()[0].get_xydata(), one.drawn.path[:31, :2])
        assert f"{one.limit:.3g}" in ax.get_title()
        assert ax.get_aspect() == 1
    np.testing.assert_array_equal(panels[2].get_lines()[0].get_ydata(), found.unscaled.drawn.excess)
    real = study.cost_contours(*cancer_features(), steps=40).plot(axes(1, 3))
    assert real[0].get_aspect() == "auto"  # a needle on equal scales


def test_contours_refuse():
    x = np.random.default_rng(0).normal(size=(20, 2))
    with pytest.raises(TypeError, match=r"^y: expected x and y together"):
        study.cost_contours(x)
    with pytest.raises(ValueError, match=r"^x: expected shape \(rows, 2\)"):
        study.cost_contours(np.ones((3, 3)), np.ones(3))
    for second in (np.full(20, 3.0), 2 * x[:, 0]):
        with pytest.raises(ValueError, match=r"^x: expected two columns that vary"):
            study.cost_contours(np.column_stack([x[:, 0], second]), x[:, 0])
    with pytest.raises(ValueError, match=r"^y: expected finite numbers"):
        study.cost_contours(x, np.full(20, np.inf))


# ---- the path over lambda --------------------------------------------------------------------


@pytest.fixture(scope="module")
def cancer():
    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    dev = np.arange(len(x)) % 2 == 1
    return (x[~dev], y[~dev]), (x[dev], y[dev])


def logistic(strength):
    return fanin.MLP([30, 2], l2=strength, seed=0)


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_path(cancer, warm):
    """Of a convex problem: a larger lambda means smaller weights and more training loss."""
    (x, y), dev = cancer
    lambdas = [1.0, 0.1, 0.01, 1e-3, 1e-4, 0.0]
    optimizer = fanin.SGD(0.1, momentum=0.9)
    found = study.regularisation_path(
        logistic, x, y, dev, lambdas, warm=warm, optimizer=optimizer, epochs=200, batch_size=len(x)
    )
    assert optimizer.steps == 0
    assert found.lambdas.tolist() == lambdas
    assert (np.diff(found.weight_norm) > 0).all()
    assert (np.diff(found.train_loss) < 0).all()
    assert found.chosen == found.dev_loss.argmin()
    assert 0 < found.chosen < 5
    assert found.network.layers[0].l2 == lambdas[found.chosen]
    plain = fanin.MLP([30, 2])
    plain.parameters = found.network.parameters
    for (rows, labels), losses, scores in (
        ((x, y), found.train_loss, found.train_score),
        (dev, found.dev_loss, found.dev_score),
    ):
        without = plain.evaluate(rows, labels)
        # the penalty is added and taken away again: a few units of rounding of float64
        assert losses[found.chosen] == pytest.approx(without["loss"], rel=1e-12)
        assert scores[found.chosen] == without["accuracy"]
    assert found.table().count("*") == 1
    assert found.score == "accuracy"


def test_warm_starts_from_the_network_before(cancer):
    (x, y), dev = cancer
    none = {"optimizer": fanin.SGD(0.0), "epochs": 1}
    found = study.regularisation_path(logistic, x, y, dev, [0.1, 0.1], **none)
    assert found.weight_norm[0] == found.weight_norm[1] > 0
    drawn = iter(range(9))
    make = lambda strength: fanin.MLP([30, 2], l2=strength, seed=next(drawn))  # noqa: E731
    cold = study.regularisation_path(make, x, y, dev, [0.1, 0.1], **none)
    warm = study.regularisation_path(make, x, y, dev, [0.1, 0.1], warm=True, **none)
    assert cold.weight_norm[0] != cold.weight_norm[1]
    assert warm.weight_norm[0] == warm.weight_norm[1]


def test_path_of_proximal_l1(cancer):
    """The share of weights that are exactly 0 grows with lambda; its penalty is taken away, too."""
    (x, y), dev = cancer
    found = study.regularisation_path(
        lambda strength: fanin.MLP([30, 2], l1=strength, l1_step="proximal"),
        x, y, dev, [0.2, 0.05, 0.01], optimizer=fanin.SGD(0.1), epochs=300, batch_size=len(x),
    )  # fmt: skip
    assert (np.diff(found.zero_fraction) < 0).all()
    assert found.zero_fraction[0] > 0.5
    plain = fanin.MLP([30, 2])
    plain.parameters = found.network.parameters
    without = plain.evaluate(*dev)["loss"]
    assert found.dev_loss[found.chosen] == pytest.approx(without, rel=1e-12)


def test_choice_of_the_path(cancer):
    """Of equal ones the largest lambda; by score where asked."""
    (x, y), dev = cancer
    none = {"optimizer": fanin.SGD(0.0), "epochs": 1}
    found = study.regularisation_path(logistic, x, y, dev, [0.1, 1.0, 0.5], by="score", **none)
    assert len(set(found.dev_score)) == 1
    assert found.chosen == 1


def test_path_of_a_regression(cancer):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4))
    y = x @ [1.0, 2.0, 0.0, 0.0] + rng.normal(size=60)
    found = study.regularisation_path(
        lambda strength: fanin.MLP([4, 1], output="identity", l2=strength),
        x[:30], y[:30], (x[30:], y[30:]), [0.0, 0.1], epochs=500, early_stopping=20,
        optimizer=fanin.Adam(0.05),
    )  # fmt: skip
    assert found.score == "r2"
    assert (found.dev_score > 0.5).all()


def test_figure_of_the_path(cancer):
    (x, y), dev = cancer
    found = study.regularisation_path(logistic, x, y, dev, [0.1, 0.0, 0.01], epochs=2)
    ax = axes()
    assert found.plot(ax) is ax
    order = [1, 2, 0]
    for line, values in zip(ax.get_lines(), (found.train_loss, found.dev_loss), strict=False):
        assert line.get_xdata().tolist() == [0.0, 0.01, 0.1]
        assert line.get_ydata().tolist() == values[order].tolist()
    assert ax.get_xscale() == "symlog"
    assert ax.get_lines()[2].get_xdata()[0] == found.lambdas[found.chosen]


def test_path_refuses(cancer):
    (x, y), dev = cancer
    for arguments, error, message in (
        ((logistic, x, y, dev, []), ValueError, "lambdas: expected at least one"),
        ((logistic, x, y, dev, [-1]), ValueError, r"lambdas\[0\]: expected a number >= 0"),
        ((logistic, x, y, x, [1]), TypeError, r"validation: expected \(x, y\)"),
        ((lambda strength: None, x, y, dev, [1]), TypeError, "make_net: expected a function"),
        ((logistic, x, y[:3], dev, [1]), ValueError, "y: expected"),
    ):
        with pytest.raises(error, match=message):
            study.regularisation_path(*arguments)
    with pytest.raises(ValueError, match="by: unknown 'los'"):
        study.regularisation_path(logistic, x, y, dev, [1], by="los")


# ---- decision boundaries ---------------------------------------------------------------------


def test_two_moons():
    x, y = study.two_moons(1001, noise=0.0, seed=4)
    assert (y == 0).sum() == 500
    # half circles about (0, 0) and (1, 1/2): cos^2 + sin^2 is 1 to some units of rounding
    np.testing.assert_allclose(np.hypot(*x[y == 0].T), 1, rtol=1e-14)
    np.testing.assert_allclose(np.hypot(*(x[y == 1] - [1, 0.5]).T), 1, rtol=1e-14)
    assert (x[y == 0, 1] >= 0).all() and (x[y == 1, 1] <= 0.5).all()
    noisy, _ = study.two_moons(1001, noise=0.1, seed=4)
    # 2002 draws of N(0, 0.1^2): the deviation of their deviation is 0.1 / sqrt(4004), five of it
    assert abs((noisy - x).std() - 0.1) < 5 * 0.1 / np.sqrt(4004)
    np.testing.assert_array_equal(study.two_moons(1001, noise=0.1, seed=4)[0], noisy)


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_boundary_of_two_classes(output):
    """Every point of the picture is the network's probability there."""
    x, y = study.two_moons(80)
    net = fanin.MLP([2, 8, 2 if output == "softmax" else 1], output=output)
    net.fit(x, y, epochs=30, optimizer=fanin.Adam(0.01), progress=False)
    ax = axes()
    assert study.decision_boundary(net, x, y, ax, resolution=30) is ax
    (image,) = ax.get_images()
    left, right, bottom, top = image.get_extent()
    points = np.stack(np.meshgrid(np.linspace(left, right, 30), np.linspace(bottom, top, 30)), -1)
    p = net.predict_proba(points.reshape(-1, 2))[:, -1].reshape(30, 30)
    np.testing.assert_array_equal(image.get_array(), p.astype(float))
    shown = np.concatenate([group.get_offsets() for group in ax.collections[-2:]])
    np.testing.assert_array_equal(shown, np.concatenate([x[y == 0], x[y == 1]]))


def test_boundary_of_three_classes():
    """Iris in two features, and a tree of scikit-learn's: whatever predicts."""
    from sklearn.tree import DecisionTreeClassifier

    x, y = load_iris(return_X_y=True)
    x = x[:, 2:]
    net = fanin.MLP([2, 8, 3], seed=0)
    net.fit(x, y, epochs=100, optimizer=fanin.Adam(0.01), progress=False)
    for model in (net, DecisionTreeClassifier(random_state=0).fit(x, y)):
        ax = study.decision_boundary(model, x, y, axes(), resolution=20)
        assert not ax.get_images()
        assert ax.get_xlim()[0] < x[:, 0].min() < x[:, 0].max() < ax.get_xlim()[1]


def test_boundary_refuses():
    x, y = study.two_moons(10)
    net = fanin.MLP([2, 2])
    with pytest.raises(ValueError, match=r"^net: expected output='softmax' or 'sigmoid'"):
        study.decision_boundary(fanin.MLP([2, 1], output="identity"), x, y, axes())
    with pytest.raises(ValueError, match=r"^x: expected shape \(rows, 2\)"):
        study.decision_boundary(net, x[:, :1], y, axes())
    with pytest.raises(ValueError, match=r"^y: expected"):
        study.decision_boundary(net, x, y[:4], axes())
    with pytest.raises(ValueError, match=r"^resolution: "):
        study.decision_boundary(net, x, y, axes(), resolution=1)


def test_boundaries():
    """Without regularisation the noise is fitted; with L2 and dropout less, and dev is better."""
    found = study.boundaries()
    assert list(found.networks) == ["no regularisation", "L2", "dropout"]
    train, dev = found.train_accuracy, found.dev_accuracy
    for name in ("L2", "dropout"):
        assert train[name] < train["no regularisation"]
        # two accuracies on the same 2000 points differ by chance by sqrt(disagreements) / 2000 at
        # most; they disagree on less than a tenth
        assert dev[name] > dev["no regularisation"] + np.sqrt(200) / 2000
    assert train["no regularisation"] - dev["no regularisation"] > 0.08
    panels = found.plot(axes(1, 3))
    assert [ax.get_title().split("\n")[0] for ax in panels] == list(found.networks)
    assert found.table().count("%") == 6


def test_boundaries_of_ones_own():
    x, y = load_iris(return_X_y=True)
    found = study.boundaries(x[:, :2], y, (x[:, :2], y), epochs=5, hidden=(4,),
                             settings={"l1": {"l1": 0.01, "activation": "tanh"}})  # fmt: skip
    net = found.networks["l1"]
    assert (net.sizes, net.layers[0].l1, net.layers[0].activation) == ([2, 4, 3], 0.01, "tanh")
    assert found.train_accuracy == found.dev_accuracy
    with pytest.raises(TypeError, match=r"^validation: expected x, y and validation together"):
        study.boundaries(x, y)


# ---- does the cost fall? ---------------------------------------------------------------------


def test_cost_falls(cancer):
    """Full-batch descent with dropout off; the network, its step and the optimizer stay."""
    (x, y), _ = cancer
    net = fanin.MLP([30, 16, 2], dropout=0.5, input_dropout=0.2, l2=0.01, seed=2)
    optimizer = fanin.SGD(0.05, momentum=0.5)
    before = net.parameters.copy()
    found = study.check_cost_falls(net, x, y, optimizer=optimizer, steps=20)
    assert found.fell and not found.rises
    assert len(found.cost) == 21
    assert (net.parameters == before).all() and net.step == net.epoch == 0
    assert optimizer.steps == 0
    # evaluation drops nothing: the same cost, rounded another way (float32 products, 30 terms)
    assert found.cost[0] == pytest.approx(net.evaluate(x, y)["loss"], rel=1e-5)
    twin = without_dropout(net)
    assert [layer.dropout for layer in twin.layers] == [0, 0] and twin.input_dropout == 0
    for _ in range(20):
        twin.train_step(x, y, optimizer)
    assert twin.evaluate(x, y)["loss"] == pytest.approx(found.cost[-1], rel=1e-5)
    assert str(found).startswith("the cost fell after every step, from ")


def test_cost_rises(cancer):
    """A learning rate that is too high: the steps are named, and marked in the figure."""
    (x, y), _ = cancer
    net = fanin.MLP([30, 16, 2], dropout=0.5, seed=2)
    found = study.check_cost_falls(net, x, y, optimizer=fanin.SGD(4.0), steps=30)
    assert not found.fell
    cost = np.array(found.cost)
    assert found.rises == (np.flatnonzero(cost[1:] > cost[:-1]) + 1).tolist()
    worst = int(np.argmax(np.diff(cost))) + 1
    assert f"first after step {found.rises[0]}, most after step {worst}, from " in str(found)
    ax = found.plot(axes())
    assert ax.get_lines()[1].get_xdata().tolist() == found.rises


def test_cost_that_is_no_number(cancer):
    (x, y), _ = cancer
    found = study.check_cost_falls(fanin.MLP([30, 16, 2]), x * 1e18, y,
                                   optimizer=fanin.SGD(1e18), steps=3)  # fmt: skip
    assert found.rises and not found.fell
    still = study.check_cost_falls(fanin.MLP([30, 2]), x, y, optimizer=fanin.SGD(0.0), steps=3)
    assert not still.rises and not still.fell
    assert "did not change" in str(still)


def test_cost_with_batch_norm(cancer):
    """In training mode: the batch's own statistics, which is the cost that descent lowers."""
    (x, y), _ = cancer
    net = fanin.MLP([30, 16, 2], dropout=0.5, batch_norm=True)
    found = study.check_cost_falls(net, x, y, optimizer=fanin.SGD(0.05), steps=20)
    assert found.fell
    assert (net.running_mean == 0).all()


# ---- the commands ----------------------------------------------------------------------------

SMALL = ["--depth", "2", "--width", "12"]


def test_other_commands(tmp_path, capsys):
    assert main(["study", "chain", *SMALL, "--out", str(tmp_path / "a" / "b")]) == 0
    assert f"\nfigure: {tmp_path / 'a' / 'b' / 'chain.png'}\n" in capsys.readouterr().out
    assert main(["study", "contours", "--out", str(tmp_path)]) == 0
    assert "scaled" in capsys.readouterr().out
    small = [*SMALL, "--rows", "9", "--activation", "gelu", "--seed", "4"]
    assert main(["study", "init", *small, "--out", str(tmp_path)]) == 0
    assert "gelu, 2 layers of 12 units, 9 rows" in capsys.readouterr().out
    assert main(["study", "boundaries", "--out", str(tmp_path)]) == 0
    assert "no regularisation" in capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == {"boundaries.png", "contours.png", "init_gelu.png"}


def test_command_without_matplotlib(tmp_path, capsys, monkeypatch):
    """The tables all the same, then one line that says what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["study", "init", *SMALL, "--rows", "9", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "tanh, 2 layers" in said.out and "relu, 2 layers" in said.out
    assert said.err.count("\n") == 1
    assert said.err.startswith("fanin study: figures need matplotlib")
    assert 'pip install "fanin[plot]"' in said.err


def test_command_refuses(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("x")
    for arguments, message in (
        (["chain", "--out", str(file)], f"--out: {file} is no folder to write to"),
        (["chain", "--depth", "5000", "--out", str(tmp_path)], "factors[0]: expected a c with"),
    ):
        assert main(["study", *arguments]) == 2
        said = capsys.readouterr()
        assert said.err.startswith(f"fanin study: {message}")
        assert not said.out


def test_everything_public_is_described():
    for name in study.__all__:
        thing = getattr(study, name)
        assert len(thing.__doc__) > 50, name
        if not isinstance(thing, type):
            for part in ("Returns", "Raises"):
                assert part in thing.__doc__, f"{name}: no {part}"
        elif name != "CostContours":
            for field in fields(thing):
                assert field.name in thing.__doc__, f"{name}.{field.name}"
