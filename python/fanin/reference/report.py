"""A page about one training: `report` writes it, in HTML that needs nothing else.

Figures are PNGs inside the page; there are no scripts, and nothing is loaded from elsewhere.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from . import arguments, plot, saving
from .diagnosis import diagnose
from .finding import Diagnosis
from .history import History

if TYPE_CHECKING:
    from .network import MLP

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 60em; margin: 2em auto;
       padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; } td, th { padding: .15em .9em .15em 0; text-align: left;
        vertical-align: top; } th { font-weight: 600; }
pre { background: #f5f5f5; padding: .8em; overflow-x: auto; }
img { max-width: 100%; }
.finding { border-left: 4px solid #d1495b; padding: .1em 0 .1em .9em; margin: 1em 0; }
.sound { border-left: 4px solid #6a994e; padding: .1em 0 .1em .9em; }
"""


def report(
    path: str | os.PathLike[str],
    history: History,
    net: "MLP | None" = None,
    *,
    diagnosis: Diagnosis | None = None,
    title: str = "Training",
) -> None:
    """Write a page about a training: settings, curves, layers over time, findings, environment.

    The file is written beside `path` and then moved there; it needs no other file.

    Parameters
    ----------
    path : of the page, such as "run.html"
    history : what `fit` returned
    net : the network, for its table of layers
    diagnosis : what `diagnose` or `bias_variance` returned; None: diagnose(history, net)
    title : of the page

    Raises
    ------
    ImportError
        matplotlib is not installed: pip install "fanin[plot]".
    OSError
        The file cannot be written.
    TypeError, ValueError
        Not a History, no step done in it; a path, diagnosis or title of another type.
    """
    write(path, history, net, diagnosis, title, environment())


def environment() -> dict[str, str]:
    """Return what the page says of the machine and the versions."""
    import platform

    return {
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "cores": str(os.cpu_count()),
    }


def write(
    path: str | os.PathLike[str],
    history: History,
    net: "MLP | None",
    diagnosis: Diagnosis | None,
    title: str,
    environment: Mapping[str, str],
) -> None:
    """Write the page; what `report` does, with this environment."""
    saving.as_path("path", path)
    if not isinstance(title, str):
        raise TypeError(f"title: expected str, got {arguments.describe(title)}")
    if diagnosis is None:
        diagnosis = diagnose(history, net)
    elif not isinstance(diagnosis, Diagnosis):
        raise TypeError(f"diagnosis: expected Diagnosis, got {arguments.describe(diagnosis)}")
    elif not isinstance(history, History):
        raise TypeError(f"history: expected what fit returned, got {arguments.describe(history)}")
    sections = [
        ("Findings", _findings(diagnosis)),
        ("Curves", _curves(history)),
        ("Layers over time", _layers(history)),
        ("Activations of the last epoch", _histograms(history)),
        ("Network and training", _network(history, net)),
        ("Environment", _table(environment)),
    ]
    body = "\n".join(f"<h2>{name}</h2>\n{content}" for name, content in sections)
    heading = _escape(title)
    page = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{heading}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{heading}</h1>\n<p>{_escape(_training(history))}</p>\n{body}\n</body>\n</html>\n"
    )
    saving.replace(path, lambda file: file.write(page.encode()))


def _training(history: History) -> str:
    """Return the line below the title."""
    parts = [f"{history.epochs} epoch{'s' if history.epochs != 1 else ''}"]
    if history.batch_size is not None:
        parts.append(f"batch size {history.batch_size}")
    return ", ".join([*parts, history.optimizer] if history.optimizer else parts)


def _findings(diagnosis: Diagnosis) -> str:
    parts = [f"<p>{_escape(diagnosis.summary)}</p>"] if diagnosis.summary else []
    for finding in diagnosis:
        name, evidence, advice = (_escape(line) for line in str(finding).split("\n"))
        parts.append(
            f'<div class="finding"><b>{name}</b><br>{evidence.strip()}<br>{advice.strip()}</div>'
        )
    if not diagnosis:
        parts.append('<p class="sound">nothing found</p>')
    parts += [f"<p>not judged: {_escape(what)}</p>" for what in diagnosis.missing]
    return "\n".join(parts)


def _curves(history: History) -> str:
    if not history.epochs:
        return "<p>no finished epoch</p>"
    scores = [name for name in ("val_accuracy", "val_r2") if history.values(name)]
    axes = plot.new_axes(1, 1 + len(scores), size=(4.6 * (1 + len(scores)), 3.4)).reshape(-1)
    plot.plot_history(history, axes[0])
    for ax, name in zip(axes[1:], scores, strict=True):
        plot.plot_history(history, ax, metric=name.removeprefix("val_"))
    return _figure(axes, "loss by epoch")


def _layers(history: History) -> str:
    if history.monitor is None or not len(history.monitor):
        return "<p>fit(monitor=False): nothing was kept of the layers</p>"
    return _figure(plot.plot_layers(history), "layer statistics by step")


def _histograms(history: History) -> str:
    if not history.stats:
        return "<p>none were kept</p>"
    return _figure(plot.plot_activations(history), "histograms of the activations")


def _figure(axes: Any, what: str) -> str:
    import base64

    data = base64.b64encode(plot.as_png(axes)).decode()
    return f'<p><img alt="{_escape(what)}" src="data:image/png;base64,{data}"></p>'


def _network(history: History, net: "MLP | None") -> str:
    facts = {"epochs": str(history.epochs)}
    if history.best_epoch is not None:
        facts["best epoch"] = str(history.best_epoch + 1)
    for name in ("loss", "val_loss", "val_accuracy", "val_r2", *history.metrics):
        values = history.values(name)
        if values:
            facts[name] = f"{values[-1]:.5g} at the end"
            if history.best_epoch is not None:
                facts[name] += f", {values[history.best_epoch]:.5g} in the best epoch"
    if history.learning_rate:
        rates = f"{history.learning_rate[0]:.3g}", f"{history.learning_rate[-1]:.3g}"
        facts["learning rate"] = rates[0] if rates[0] == rates[1] else " to ".join(rates)
    facts["seconds"] = f"{sum(history.seconds):.3g}"
    ends = {"interrupted": history.interrupted, "stopped early": history.stopped_early}
    facts |= {name: "yes" for name, so in ends.items() if so}
    if net is not None and net.input_scale is not None:
        facts["input scale"] = f"{net.input_scale:.6g}"
    if net is not None and net.standardizer is not None:
        facts["standardizer"] = repr(net.standardizer)
    text = _table(facts)
    return text if net is None else f"<pre>{_escape(repr(net))}</pre>\n{text}"


def _table(facts: Mapping[str, str]) -> str:
    rows = (
        f"<tr><th>{_escape(name)}</th><td>{_escape(value)}</td></tr>"
        for name, value in facts.items()
    )
    return "<table>\n" + "\n".join(rows) + "\n</table>"


def _escape(text: str) -> str:
    import html  # here, as the package is imported without pages far more often

    return html.escape(text)
