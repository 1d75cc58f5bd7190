"""Figures: what they show is what they were given; nothing outside the axes changes."""

from __future__ import annotations

import math
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

import fanin
from fanin import plot
from fanin.reference.plot import save


@pytest.fixture(autouse=True)
def _nothing_global_changes():
    """No setting, no backend; and each test begins and ends without a figure of pyplot."""
    pyplot.close("all")
    settings, backend = dict(mpl.rcParams), mpl.get_backend()
    yield
    pyplot.close("all")
    assert dict(mpl.rcParams) == settings
    assert mpl.get_backend() == backend


def axes(rows=1, columns=1):
    return Figure().subplots(rows, columns)


@pytest.fixture(scope="module")
def trained():
    """A small network that was watched, and its history."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 5)), rng.integers(0, 3, 200)
    net = fanin.MLP([5, 16, 8, 3], dropout=0.2, seed=1)
    history = net.fit(x, y, validation=(x[:50], y[:50]), epochs=8, progress=False)
    return net, history


# ---- learning curves -------------------------------------------------------------------------


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_history(trained):
    _, history = trained
    ax = axes()
    assert plot.plot_history(history, ax) is ax
    assert not pyplot.get_fignums()
    drawn = lines(ax)
    assert drawn["training"].get_ydata().tolist() == history.loss
    assert drawn["training"].get_xdata().tolist() == list(range(1, 9))
    assert drawn["validation"].get_ydata().tolist() == history.val_loss
    best = history.best_epoch
    (label,) = (name for name in drawn if name.startswith("best epoch"))
    assert label == f"best epoch, {best + 1}: {min(history.val_loss):.4g}"
    assert drawn[label].get_xydata().tolist() == [[best + 1, min(history.val_loss)]]


def test_history_of_another_metric(trained):
    """Accuracy is there for the validation data; the best epoch is the loss's."""
    _, history = trained
    drawn = lines(plot.plot_history(history, axes(), metric="accuracy"))
    assert "training" not in drawn
    assert drawn["validation"].get_ydata().tolist() == history.val_accuracy
    own = fanin.History(loss=[1.0, 2.0], metrics={"auc": [0.5, 0.75]}, best_epoch=1)
    assert lines(own.plot(axes()))["training"].get_ydata().tolist() == [1, 2]
    drawn = lines(plot.plot_history(own, axes(), metric="auc"))
    assert drawn["validation"].get_ydata().tolist() == [0.5, 0.75]
    assert "best epoch, 2: 0.75" in drawn
    with pytest.raises(ValueError, match=r"^history: expected values of 'r2' .* in none of its"):
        plot.plot_history(history, axes(), metric="r2")


def test_history_without_validation():
    history = fanin.History(loss=[3.0, 2.0, math.nan], best_epoch=1)
    drawn = lines(plot.plot_history(history, axes()))
    assert "validation" not in drawn
    assert drawn["best epoch, 2: 2"].get_xydata().tolist() == [[2, 2]]
    with pytest.raises(ValueError, match="no finished epoch"):
        plot.plot_history(fanin.History(), axes())
    for draw in (plot.plot_history, plot.plot_layers):
        with pytest.raises(TypeError, match=r"^history: expected what fit returned, got MLP"):
            draw(fanin.MLP([2, 2]))


def test_a_figure_of_its_own(trained, tmp_path):
    """Without axes a figure of pyplot is made, so that pyplot.show() shows it."""
    ax = plot.plot_history(trained[1])
    assert pyplot.get_fignums() == [ax.figure.number]
    save(ax, str(tmp_path / "curve.png"))
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert not pyplot.get_fignums()


# ---- layers ----------------------------------------------------------------------------------


def bars(ax):
    (patch,) = ax.patches
    return patch.get_data()


def test_activations(trained):
    """A network, its history and its statistics give the same figure."""
    net, history = trained
    stats = [layer.stats for layer in net.layers]
    for source in (net, history, stats):
        panels = plot.plot_activations(source, axes(1, 3))
        assert panels.shape == (3,)
        for ax, one in zip(panels, stats, strict=True):
            heights, edges, _ = bars(ax)
            np.testing.assert_array_equal(edges, one.edges)
            # counts over their sum: one rounding
            np.testing.assert_allclose(heights * one.histogram.sum(), one.histogram, rtol=1e-15)
            assert f"std {one.std:.2g}" in ax.get_title()
    assert not pyplot.get_fignums()


def test_activations_in_their_own_figure(trained):
    net, _ = trained
    panels = plot.plot_activations([layer.stats for layer in net.layers] * 3)
    assert len(panels) == 9 == len(panels[0].figure.axes)  # 2 rows of 5, the spare one removed
    assert plot.plot_activations(net.layers[0].stats).shape == (1,)


def test_zeros_are_cut(trained):
    """Relu's bar at 0 does not press the others flat, and says how many it stands for."""
    a = np.maximum(np.random.default_rng(0).normal(size=(100, 50)), 0)
    stats = fanin.activation_stats(a)
    (ax,) = plot.plot_activations(stats, axes())
    heights = bars(ax)[0]
    assert ax.get_ylim()[1] < heights.max()
    assert ax.get_ylim()[1] > np.sort(heights)[-2]
    assert [text.get_text() for text in ax.texts] == [f"{stats.zero_fraction:.0%} are 0"]


def test_activations_refused(trained):
    net, _ = trained
    with pytest.raises(ValueError, match=r"^axes: expected 3 axes, got"):
        plot.plot_activations(net, axes(1, 2))
    with pytest.raises(ValueError, match=r"^source: expected statistics of every layer, got none"):
        plot.plot_activations(fanin.MLP([2, 2]), axes())
    with pytest.raises(ValueError, match="got none"):
        plot.plot_activations(fanin.History(), axes())
    with pytest.raises(ValueError, match=r"train_step\(monitor=True\) does not"):
        plot.plot_activations(fanin.activation_stats(np.ones((2, 2)), bins=0), axes())
    with pytest.raises(TypeError, match="expected a network, a History or ActivationStats"):
        plot.plot_activations([1, 2], axes(1, 2))


def test_gradients_of_numbers():
    """What is not positive and finite leaves a gap on the logarithmic axis."""
    ax = axes()
    assert plot.plot_gradients([1e-3, 0.0, math.inf, 2.0], ax, label="before") is ax
    (line,) = ax.get_lines()
    np.testing.assert_array_equal(line.get_ydata(), [1e-3, math.nan, math.nan, 2.0])
    assert ax.get_yscale() == "log"
    assert ax.get_legend() is not None
    for wrong in ([-1.0], [], [[1.0]]):
        with pytest.raises(ValueError, match=r"^source: expected numbers >= 0, one per layer"):
            plot.plot_gradients(wrong, axes())


def test_gradients_of_a_network(trained):
    """Those of the last monitored step, which fit leaves in each layer."""
    net, history = trained
    for source, norms in (
        (net, [layer.gradient_norm for layer in net.layers]),
        (history, history.monitor["gradient_norm"][-1].tolist()),
    ):
        (line,) = plot.plot_gradients(source, axes()).get_lines()
        assert line.get_ydata().tolist() == norms
        assert line.get_xdata().tolist() == [0, 1, 2]
    for source in (fanin.MLP([2, 2]), fanin.History()):
        with pytest.raises(ValueError, match=r"^source: expected the gradient norms of a monit"):
            plot.plot_gradients(source, axes())


# ---- without matplotlib ----------------------------------------------------------------------


def test_without_matplotlib(trained, monkeypatch):
    """The error names the extra; nothing but a figure needs it."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    net, history = trained
    for draw in (
        lambda: plot.plot_history(history),
        lambda: plot.plot_activations(net),
        lambda: plot.plot_gradients([1.0]),
    ):
        with pytest.raises(ImportError, match=r'pip install "fanin\[plot\]"'):
            draw()
