"""Puts measured figures into docs/performance.md and docs/sklearn.md, whose tables it alone writes.

    python bench/page.py FILE.json ...

FILE is what `python -m fanin bench --json` or a script beside this one has written. A table stands
between `<!-- table NAME -->` and `<!-- end -->`; one for which no file has figures is left alone.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from fanin.bench import report

DOCS = Path(__file__).parents[1] / "docs"
PAGES = DOCS / "performance.md", DOCS / "sklearn.md"
Rows = list[dict[str, Any]]
NAMES = {"fanin": "fanin", "numpy": "NumPy", "jax": "JAX", "torch": "PyTorch",
         "torch-compiled": "PyTorch compiled", "sklearn": "scikit-learn",
         "fanin-bfloat16": "fanin, bfloat16"}  # fmt: skip


def lines(head: str, rows: list[list[str]]) -> str:
    """A table; `head` has its columns, divided by bars."""
    names = [name.strip() for name in head.split("|")]
    return "\n".join(f"| {' | '.join(row)} |" for row in [names, ["---"] * len(names), *rows])


def steps(rows: Rows) -> str:
    """Milliseconds per contestant, fanin's share of the peak, its time over the best rival's."""
    names = [name for name in NAMES if any(name in row["contestants"] for row in rows)]
    table = []
    for row in rows:
        found = row["contestants"]
        times = {name: found.get(name, {}).get("seconds") for name in names}
        best = min(one for name, one in times.items() if one and name != "fanin")
        table.append(
            [
                f"`{row['step']}`",
                *(f"{one * 1e3:.3g}" if one else "-" for one in times.values()),
                f"{times['fanin'] / best:.2f}",
                f"{found['fanin']['share_of_fma_peak']:.0%}",
            ]
        )
    head = "step | " + " | ".join(NAMES[name] for name in names)
    return lines(head + " | fanin / best rival | share of FMA peak", table)


def breakdown(rows: Rows) -> str:
    """Microseconds of all threads per step, and their shares."""
    parts = [*report.WORK, "rest"]
    return lines(
        "step | " + " | ".join(parts) + " | all, us",
        [
            [f"`{r['step']}`", *(f"{r[name] / r['all']:.1%}" for name in parts),
             f"{r['all'] * 1e6:.4g}"]
            for r in rows
        ],
    )  # fmt: skip


def products(rows: Rows) -> str:
    """One row a shape and layout; per dtype and threads time over NumPy's, share of the peak."""
    kinds = sorted({(row["dtype"], row["threads"]) for row in rows})
    at = {
        (row["m"], row["k"], row["n"], row["layout"], row["dtype"], row["threads"]): row
        for row in rows
    }
    table = []
    for shape in dict.fromkeys(key[:4] for key in at):
        cells = []
        for kind in kinds:
            row = at.get((*shape, *kind))
            cells.append(
                f"{row['fanin'] / row['numpy']:.2f} ({row['share_of_peak']:.0%})" if row else "-"
            )
        table.append([", ".join(map(str, shape[:3])), shape[3], *cells])
    return lines(
        "m, k, n | layout | " + " | ".join(f"{dtype}, {threads} T" for dtype, threads in kinds),
        table,
    )


def layer(rows: Rows) -> str:
    """The layer, plain product and NumPy."""
    return lines(
        "dtype | fanin us | `fanin.matmul` us | NumPy us | / NumPy | / matmul",
        [
            [r["dtype"], *(f"{r[name] * 1e6:.0f}" for name in ("fanin", "matmul", "numpy")),
             f"{r['fanin'] / r['numpy']:.2f}", f"{r['fanin'] / r['matmul']:.2f}"]
            for r in rows
        ],
    )  # fmt: skip


def forward(rows: Rows) -> str:
    """One row through a small network."""
    return lines(
        "dtype | fanin us | NumPy us | ratio",
        [
            [r["dtype"], f"{r['fanin'] * 1e6:.2f}", f"{r['numpy'] * 1e6:.2f}",
             f"{r['fanin'] / r['numpy']:.2f}"]
            for r in rows
        ],
    )  # fmt: skip


def accuracy(rows: Rows) -> str:
    """Seconds from process start, and the accuracies."""
    return lines(
        "contestant | median s | fastest..slowest | mean accuracy",
        [
            [NAMES[r["contestant"]], f"{median(r['seconds']):.2f}",
             f"{min(r['seconds']):.2f}..{max(r['seconds']):.2f}", f"{mean(r['accuracies']):.2%}"]
            for r in sorted(rows, key=lambda r: median(r["seconds"]))
        ],
    )  # fmt: skip


def fit(rows: Rows) -> str:
    """`fit` against scikit-learn's."""
    return lines(
        "dtype | fanin s | scikit-learn s | ratio",
        [
            [r["dtype"], f"{median(r['fanin']):.2f}", f"{median(r['sklearn']):.2f}",
             f"{median(r['fanin']) / median(r['sklearn']):.2f}"]
            for r in rows
        ],
    )  # fmt: skip


def memory(rows: Rows) -> str:
    """Megabytes above Python with NumPy and the data."""
    (r,) = rows
    return f"Measured: {(r['peak_bytes'] - r['loaded_bytes']) / 1e6:.0f} MB."


def busy(rows: Rows) -> str:
    """Default threads over one thread."""
    return lines(
        "case | one thread us | default us | ratio | one, busy | default, busy | ratio",
        [
            [r["case"], *(cell for state in ("idle", "busy") for cell in (
                f"{r[state][0] * 1e6:.4g}", f"{r[state][1] * 1e6:.4g}",
                f"{r[state][1] / r[state][0]:.2f}"))]
            for r in rows
        ],
    )  # fmt: skip


def interleaved(rows: Rows) -> str:
    """Both in turn over the sum of both alone."""
    table = []
    for row in rows:
        alone = row["times"]["step"], row["times"]["product"]
        both = row["times"]["both"]
        cells = [f"{one * 1e6:.4g}" for one in (*alone, both)]
        table.append([f"`{row['step']}`", *cells, f"{both / sum(alone):.2f}"])
    return lines("step | step us | product us | both us | both / sum", table)


def floors(rows: Rows) -> str:
    """A step's products alone and the whole step, over the rival's step."""
    names = ("numpy_products", "fanin_products", "fanin", "rival_step")
    table = []
    for r in rows:
        parts = min(r["numpy_products"], r["fanin_products"]), r["fanin"], r["limit"]
        times = [f"{r[name] * 1e6:.4g}" for name in names]
        ratios = [f"{one / r['rival_step']:.2f}" for one in parts[:2]]
        what = {"steps": "", "avx2": ", AVX2", "estimators": f", `fit`, {r['dtype']}"}[r["part"]]
        table.append(
            [f"`{r['step']}`{what}", *times, NAMES[r["rival"]], *ratios, f"{parts[2]:.2f}"]
        )
    return lines(
        "step | NumPy's products, us | fanin's | fanin's step | rival's step | rival | "
        "products / rival | fanin / rival | at most",
        table,
    )


def overheads(rows: Rows) -> str:
    """Dropout, statistics, a step inside `fit`, AVX2 and bfloat16, each with its limit."""
    table = []

    def add(what: str, ours: float, other: str, theirs: float, limit: float) -> None:
        ratio = f"{ours / theirs:.2f}"
        cells = [f"{ours * 1e3:.3g}", f"{other} {theirs * 1e3:.3g}", ratio, f"{limit:.2f}"]
        table.append([what, *cells])

    for r in rows:
        if r["kind"] == "dropout":
            add("`tanh10` with dropout 0.5", r["with_dropout"], "without", r["without"], 1.08)
        elif r["kind"] == "statistics":
            what = f"`{r['step']}` with statistics"
            add(what, r["Monitored"], "without", r["fanin"], r["limit"])
        elif r["kind"] == "fit":
            rivals = {name: r[name] for name in NAMES if name in r and name != "fanin"}
            best = min(rivals, key=rivals.__getitem__)
            add("`rl` step inside `fit`", r["Fit"], NAMES[best], rivals[best], 0.07)
            add("`rl` step, one call each", r["fanin"], NAMES[best], rivals[best], 0.12)
        elif r["kind"] == "avx2":
            limit = 0.75 if r["step"] == "big" else 0.55
            add(f"`{r['step']}`, AVX2 alone", r["fanin"], "NumPy", r["numpy"], limit)
        else:
            add("`big` in bfloat16", r["Bfloat16"], "float32", r["fanin"], 0.65)
            if "autocast" in r:
                add("`big` in bfloat16", r["Bfloat16"], "PyTorch autocast", r["autocast"], 1)
    return lines("what | ms | against, ms | ratio | at most", table)


def estimators(rows: Rows) -> str:
    """Scores and seconds of `fit` beside scikit-learn's; then one row's `predict`."""
    fits, predictions = [], []
    for r in rows:
        if r["kind"] == "predict":
            ours, theirs = median(r["fanin"]), median(r["scikit-learn"])
            cells = [f"{one * 1e6:.3g}" for one in (ours, theirs)]
            predictions.append([r["data"], *cells, f"{ours / theirs:.2f}"])
            continue
        ours, theirs = (median(r[f"{name} seconds"]) for name in ("fanin", "scikit-learn"))
        spreads = [
            f"{mean(scores):.4f} ± {stdev(scores) if len(scores) > 1 else 0:.4f}"
            for scores in (r["fanin score"], r["scikit-learn score"])
        ]
        fits.append(
            [r["data"], r["run"], *spreads, f"{ours:.3g}", f"{theirs:.3g}",
             f"{ours / theirs:.2f}", f"{r['limit']:.2f}"]
        )  # fmt: skip
    score = "score, fanin | score, scikit-learn"
    tables = [lines(f"data | run | {score} | fanin s | scikit-learn s | ratio | at most", fits)]
    if predictions:
        head = "`predict` of one row | fanin us | scikit-learn us | ratio"
        tables.append(lines(head, predictions))
    return "\n\n".join(tables)


TABLES: dict[str, tuple[Callable[[Rows], str], tuple[str, ...]]] = {
    "steps": (steps, ("steps",)),
    "breakdown": (breakdown, ("breakdown",)),
    "products": (products, ("product",)),
    "layer": (layer, ("layer",)),
    "forward": (forward, ("forward",)),
    "accuracy": (accuracy, ("accuracy",)),
    "fit": (fit, ("fit of a library",)),
    "memory": (memory, ("memory",)),
    "busy": (busy, ("busy",)),
    "interleaved": (interleaved, ("interleaved",)),
    "estimators": (estimators, ("estimator", "predict")),
    "floors": (floors, ("floor",)),
    "overheads": (overheads, ("dropout", "statistics", "fit", "avx2", "bfloat16")),
}


def read(paths: list[str]) -> Rows:
    """The rows of all files, each with its kind and threads."""
    rows = []
    for path in paths:
        found = json.loads(Path(path).read_text())
        rows += [{"kind": "steps", **row} for row in found.get("steps", ())]
        rows += [{"threads": found["threads"], **row} for row in found.get("rows", ())]
    return rows


def main() -> None:
    """Rewrites the tables that the files have figures for."""
    rows, texts = read(sys.argv[1:]), {page: page.read_text() for page in PAGES}
    for name, (table, kinds) in TABLES.items():
        own = [row for row in rows if row.get("kind") in kinds]
        if not own:
            continue
        block = f"<!-- table {name} -->\n{table(own)}\n<!-- end -->"
        found = 0
        for page, text in texts.items():
            texts[page], count = re.subn(
                rf"<!-- table {name} -->.*?<!-- end -->",
                lambda _, block=block: block,
                text,
                flags=re.DOTALL,
            )
            found += count
        print(f"{name}: {len(own)} rows{'' if found else ', but no page has such a table'}")
    for page, text in texts.items():
        page.write_text(text)


if __name__ == "__main__":
    main()
