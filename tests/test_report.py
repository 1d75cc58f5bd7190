"""The page about a training: complete, safe, whole or not there at all."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

import fanin
from fanin import MLP, SGD, reference


def trained(package=fanin, **options):
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = x.astype(np.float32) / 16
    net = package.MLP([64, 32, 16, 10])
    options = {"epochs": 3, "validation": (x[1400:], y[1400:]), **options}
    return net, net.fit(x[:1400], y[:1400], progress=False, **options)


class Page(HTMLParser):
    """Sees that tags are closed, and collects text and pictures."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.images, self.tags = [], "", [], set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for name, value in attributes:
            assert name not in ("href", "onload", "onclick")
            if name == "src":
                kind, data = value.split(",")
                assert kind == "data:image/png;base64"
                self.images.append(base64.b64decode(data, validate=True))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("package", [fanin, reference], ids=["fanin", "reference"])
def test_what_the_page_has(package, tmp_path):
    net, history = trained(package)
    path = tmp_path / "run.html"
    assert package.report(path, history, net) is None
    text = path.read_text()
    page = Page(text)
    for part in ("Findings", "nothing found", "Curves", "Layers over", "Activations", repr(net),
                 "best epoch", "val_accuracy", "NumPy", np.__version__,
                 "3 epochs, batch size 128, Adam(lr=0.001, "):  # fmt: skip
        assert part in page.text, part
    if package is fanin:
        assert fanin.isa() in page.text and f"threads{fanin.get_num_threads()}" in page.text
    assert len(page.images) == 3
    assert all(image.startswith(b"\x89PNG") for image in page.images)
    assert "script" not in page.tags and "link" not in page.tags
    assert not re.search(r"https?://", text)
    assert len(text) < 300_000
    assert os.listdir(tmp_path) == ["run.html"]


def test_figures_are_closed(tmp_path):
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    fanin.report(tmp_path / "run.html", *trained()[::-1])
    assert pyplot.get_fignums() == before


def test_findings_are_on_the_page(tmp_path):
    with np.errstate(all="ignore"):
        net, history = trained(optimizer=SGD(1e5))
    fanin.report(tmp_path / "run.html", history, net)
    page = Page((tmp_path / "run.html").read_text())
    finding = fanin.diagnose(history)[0]
    assert finding.name == "NaN"
    assert finding.evidence in page.text and finding.advice in page.text
    own = fanin.bias_variance(0.1, 0.3)
    fanin.report(tmp_path / "run.html", history, diagnosis=own)
    page = Page((tmp_path / "run.html").read_text())
    assert "high variance" in page.text and own.summary in page.text
    assert "NaN (layer" not in page.text


def test_text_is_escaped(tmp_path):
    net, history = trained()
    finding = fanin.Finding("<script>alert(1)</script>", "a < b & c", "<b>")
    diagnosis = fanin.Diagnosis((finding,), ("<i>",), "<u>")
    history.metrics["<img src=x>"] = [1.0, 2.0, 3.0]
    fanin.report(tmp_path / "run.html", history, net, diagnosis=diagnosis, title="<h1>&")
    page = Page((tmp_path / "run.html").read_text())
    for part in ("<script>alert(1)</script>", "a < b & c", "<i>", "<u>", "<img src=x>", "<h1>&"):
        assert part in page.text
    assert not page.tags & {"script", "i", "u"}


def test_less_than_everything(tmp_path):
    """Without monitoring, without validation, without one finished epoch."""
    net, history = trained(monitor=False, validation=None, epochs=1)
    fanin.report(tmp_path / "run.html", history, net)
    page = Page((tmp_path / "run.html").read_text())
    assert len(page.images) == 1
    assert "nothing was kept of the layers" in page.text and "not judged" in page.text
    with np.errstate(all="ignore"), pytest.warns(UserWarning, match="not finite"):
        net, history = trained(optimizer=SGD(1e8), stop_on_nan=True)
    assert history.epochs == 0
    fanin.report(tmp_path / "run.html", history, net)
    assert "no finished epoch" in Page((tmp_path / "run.html").read_text()).text


def test_an_old_page_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    net, history = trained()
    path = tmp_path / "run.html"
    path.write_text("old")
    monkeypatch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        fanin.report(path, history, net)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["run.html"]


def test_bad_input(tmp_path):
    net, history = trained()
    path = tmp_path / "run.html"
    with pytest.raises(TypeError, match="path: expected str"):
        fanin.report(3, history, net)
    with pytest.raises(TypeError, match="history: expected what fit returned"):
        fanin.report(path, net)
    with pytest.raises(TypeError, match="diagnosis: expected Diagnosis"):
        fanin.report(path, history, net, diagnosis="sound")
    with pytest.raises(TypeError, match="title: expected str"):
        fanin.report(path, history, net, title=3)
    with pytest.raises(ValueError, match="history: expected one epoch or more"):
        fanin.report(path, fanin.History())
    with pytest.raises(FileNotFoundError):
        fanin.report(tmp_path / "none" / "run.html", history, net)
    assert os.listdir(tmp_path) == []


def test_without_matplotlib(tmp_path):
    program = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import numpy as np, fanin\n"
        "net = fanin.MLP([2, 2], seed=0)\n"
        "history = net.fit(np.eye(2), np.arange(2), epochs=2, progress=False)\n"
        "print(fanin.diagnose(history).names)\n"
        "try:\n    fanin.report('run.html', history)\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert 'pip install "fanin[plot]"' in done.stdout
    assert os.listdir(tmp_path) == []


# ---- the layers' curves ----------------------------------------------------------------------


def test_the_curves_of_the_layers():
    from matplotlib import pyplot

    net, history = trained()
    axes = fanin.plot_layers(history)
    names = ("std", "gradient_norm", "update_ratio", "dead_fraction", "saturated_fraction")
    for ax, name in zip(axes, names, strict=True):
        monitor = history.monitor
        values = monitor.update_ratio if name == "update_ratio" else monitor[name]
        for layer in range(len(net.layers)):
            drawn = ax.lines[layer]
            np.testing.assert_array_equal(drawn.get_xdata(), monitor.steps)
            np.testing.assert_array_equal(drawn.get_ydata(), values[:, layer])
    pyplot.close(axes[0].figure)
    figure, own = pyplot.subplots(1, 5)
    assert list(fanin.plot_layers(history, own)) == list(own)
    with pytest.raises(ValueError, match="axes: expected 5 axes"):
        fanin.plot_layers(history, own[:2])
    pyplot.close(figure)
    with pytest.raises(ValueError, match="history: expected monitored steps"):
        fanin.plot_layers(trained(monitor=False)[1])


def test_curves_of_a_network_of_one_layer():
    from matplotlib import pyplot

    net = MLP([3, 2])
    history = net.fit(np.eye(3), np.array([0, 1, 0]), epochs=2, progress=False)
    pyplot.close(fanin.plot_layers(history)[0].figure)
