"""How the time of a training step grows with batch, width, depth and threads: a figure.

    python bench/growth.py [--out docs/growth.png] [--json FILE]
    python bench/growth.py --from FILE            # draws again what a run has written

Around one relu network, 256-256-256-10 at batch 128 without dropout, one size is changed at a time.
Losses are checked, then contestants (fanin, NumPy, JAX when installed) take turns, each in a
process of its own; points are medians. The thin line is what the multiply-adds alone take at the
measured peak.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import script
from fanin.bench import installed, peaks, race
from fanin.bench.steps import Network

BASE = {"batch": 128, "width": 256, "depth": 2}
SWEEPS = {
    "batch": [2**i for i in range(13)],
    "width": [8, 16, 32, 64, 128, 256, 512, 1024, 2048],
    "depth": [1, 2, 4, 8, 16],
    "threads": list(range(1, script.MOST + 1)),
}
CLASSES = 10
COLOURS = {"fanin": "#d1495b", "numpy": "#30638e", "jax": "#6a994e"}
NAMES = {"fanin": "fanin", "numpy": "NumPy", "jax": "JAX"}
AXES = {
    "batch": "rows in a batch",
    "width": "units in a layer",
    "depth": "hidden layers",
    "threads": "threads",
}


def network_at(batch: int, width: int, depth: int) -> Network:
    """`depth` hidden layers, all as wide as the input."""
    return Network("growth", (*(width,) * (depth + 1), CLASSES), batch)


def measure(given: Any) -> list[dict[str, Any]]:
    """One entry per point: what was changed, its value, the floor, seconds per contestant."""
    names = [name for name in COLOURS if installed(name)]
    points = []
    for sweep in given.sweeps or SWEEPS:
        for value in SWEEPS[sweep]:
            sizes = BASE | ({sweep: value} if sweep != "threads" else {})
            threads = value if sweep == "threads" else given.threads
            script.progress(f"{sweep} {value}")
            on = network_at(**sizes)
            results = race.race(on.spec, names, threads, given.slices, given.seconds)
            floor = on.step_flops / peaks.fma("float32", threads) / 1e9
            seconds = {result.contestant: result.seconds for result in results if result.slices}
            times = ", ".join(f"{name} {one * 1e6:.1f}" for name, one in seconds.items())
            print(f"{sweep:8}{value:6}  floor {floor * 1e6:.1f} us, {times}", flush=True)
            points.append(
                {"sweep": sweep, "value": value, "threads": threads, **sizes, "floor": floor,
                 "seconds": seconds}
            )  # fmt: skip
    return points


def draw(points: list[dict[str, Any]], path: str) -> None:
    """Four panels with one vertical axis, saved as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, panels = plt.subplots(1, 4, figsize=(11, 3.4), sharey=True, layout="constrained",
                                  width_ratios=[3, 3, 2, 1.4])  # fmt: skip
    for panel, sweep in zip(panels, SWEEPS, strict=True):
        own = [point for point in points if point["sweep"] == sweep]
        values = [point["value"] for point in own]
        for name, colour in COLOURS.items():
            pairs = [(p["value"], p["seconds"][name] * 1e6) for p in own if name in p["seconds"]]
            if pairs:
                panel.plot(*zip(*pairs, strict=True), "o-", color=colour, markersize=3,
                           linewidth=1.5, label=NAMES[name])  # fmt: skip
        panel.plot(values, [point["floor"] * 1e6 for point in own], color="0.45", linewidth=0.7,
                   label="multiply-adds at peak")  # fmt: skip
        panel.set(xscale="log", yscale="log", xlabel=AXES[sweep])
        panel.xaxis.set_major_locator(
            matplotlib.ticker.FixedLocator(values[:: 1 + len(values) // 8])
        )
        panel.xaxis.set_major_formatter("{x:.0f}")
        panel.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        panel.grid(axis="y", color="0.9", linewidth=0.6)
    panels[0].set_ylabel("µs per training step")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside upper center", ncols=len(labels))
    figure.savefig(path, dpi=130)


def main() -> None:
    """Measures and draws, or only draws."""
    parser = script.options(__doc__ or "", slices=5, seconds=0.1)
    parser.add_argument("--sweeps", nargs="+", choices=list(SWEEPS), help="which to measure (all)")
    parser.add_argument("--out", default="docs/growth.png", help="the picture (%(default)s)")
    parser.add_argument("--from", dest="files", nargs="+", metavar="FILE",
                        help="draw what --json has written, of one run or several")  # fmt: skip
    given = parser.parse_args()
    if given.files:
        points = [row for file in given.files for row in json.loads(Path(file).read_text())["rows"]]
    else:
        figures = script.Figures(given)
        figures.rows = points = measure(given)
        figures.save()
    if not given.sweeps:
        draw(points, given.out)


if __name__ == "__main__":
    main()
