"""What options cost and gain in a training step: dropout, statistics, Python, AVX2, bfloat16.

    python bench/overheads.py [dropout] [statistics] [fit] [avx2] [bfloat16] [--json FILE]

dropout: `tanh10` with dropout 0.5 against without. statistics: steps that are monitored against
steps that are not, of `tanh10` and of a small network. fit: a step of `rl` inside `fit` against the
rivals' steps, one Python call each. avx2: the five steps with FANIN_ISA=avx2 against NumPy whose
products are held to AVX2 (OPENBLAS_CORETYPE=Haswell, set on purpose). bfloat16: `big` with
precision="bfloat16" against float32 and against PyTorch's autocast. Losses are checked, then
contestants take turns, each in a process of its own; figures are medians. An asterisk: above the
limit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import script
from fanin.bench import CONTESTANTS, fanin_step, installed, race
from fanin.bench.steps import STEPS, Network, network

ROUNDED = 2e-2  # bfloat16 has 8 bits: rounding an input changes it by up to 2^-9 = 0.2 %


class Fit:
    """`MLP.fit` over 64 batches, epoch after epoch; a repetition is a step."""

    def __init__(self, on: Network, dropout: float, threads: int, dtype: str = "float32"):
        self.made = fanin_step.Step(on, dropout, threads, dtype)
        self.batch = on.batch
        drawn = [on.data("float64", seed) for seed in range(64)]
        x, y = (np.concatenate(rows) for rows in zip(*drawn, strict=True))
        self.x, self.y = x.astype(dtype), y.astype(dtype) if y.dtype.kind == "f" else y

    def losses(self, count: int) -> list[float]:
        """The loss of a `fit` of one step."""
        first = slice(self.batch)
        return [self._fit(self.x[first], self.y[first], 1)]

    def run(self, count: int) -> None:
        """Takes so many steps: whole epochs, then a part of one."""
        epochs, rest = divmod(count * self.batch, len(self.x))
        if epochs:
            self._fit(self.x, self.y, epochs)
        if rest:
            self._fit(self.x[:rest], self.y[:rest], 1)

    def _fit(self, x: Any, y: Any, epochs: int) -> float:
        made = self.made
        history = made.net.fit(
            x, y, epochs=epochs, batch_size=self.batch, optimizer=made.optimizer, progress=False
        )
        return history.loss[-1]


class Monitored(fanin_step.Step):
    """Statistics of every layer, its gradient and its update."""

    def step(self) -> float:
        """The loss of one step."""
        x, y = self.batches[self.next]
        self.next = (self.next + 1) % len(self.batches)
        return float(self.net.train_step(x, y, self.optimizer, monitor=True))


class Bfloat16(fanin_step.Step):
    """precision="bfloat16"."""

    precision = "bfloat16"
    tolerance = ROUNDED


def autocast(on: Network, dropout: float, threads: int, dtype: str = "float32") -> Any:
    """PyTorch's step with the forward pass and the loss under bfloat16 autocast."""
    import torch

    from fanin.bench import torch_step

    made = torch_step.Step(on, dropout, threads, dtype)
    loss_of = made.loss_of

    def lower(x: Any, y: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return loss_of(x, y)

    made.loss_of = lower
    made.tolerance = ROUNDED  # type: ignore[attr-defined]
    return made


Entry = race.Entry


def own(name: str, step: str, threads: int) -> race.Entry:
    """An entry of this file."""
    return Entry(f"overheads.{name}", step, threads, script.ENVIRONMENT)


def compete(given: Any, what: str, entries: list[race.Entry]) -> dict[str, float]:
    """Seconds of a step per contestant; those left out are named."""
    script.progress(f"{what}: {', '.join(entry.contestant for entry in entries)}")
    found: dict[str, float] = {}
    for entry, result in zip(
        entries, race.compete(entries, given.slices, given.seconds), strict=True
    ):
        if result.slices:
            found[entry.contestant.removeprefix("overheads.")] = result.seconds
        else:
            print(f"{what}: {entry.contestant} {result.note}")
    return found


def dropout(figures: script.Figures, given: Any) -> None:
    """With and without take turns; each process has one of the two networks."""
    on = network("tanh10")
    names = {"without": on, "with": replace(on, dropout=0.5)}
    script.progress("dropout")
    results = race.compete(
        [Entry("fanin", one.spec, given.threads) for one in names.values()],
        given.slices,
        given.seconds,
    )
    without, dropped = (result.seconds for result in results)
    figures.add(
        f"\ndropout 0.5 on tanh10: {dropped * 1e3:.2f} ms, without {without * 1e3:.2f}; "
        f"ratio {script.against(dropped / without, 1.08)}",
        kind="dropout", with_dropout=dropped, without=without,
    )  # fmt: skip


def statistics(figures: script.Figures, given: Any) -> None:
    """All but the histogram, which `fit` takes once an epoch."""
    small = Network("8-32-32-2", (8, 32, 32, 2), 32, "tanh")
    for on, limit in ((network("tanh10"), 1.02), (small, 1.10)):
        entries = [Entry("fanin", on.spec, given.threads), own("Monitored", on.spec, given.threads)]
        found = compete(given, f"statistics {on}", entries)
        ratio = found["Monitored"] / found["fanin"]
        figures.add(
            f"statistics on {on}: {found['Monitored'] * 1e6:.1f} us, without "
            f"{found['fanin'] * 1e6:.1f}; ratio {script.against(ratio, limit)}",
            kind="statistics", step=on.name, limit=limit, **found,
        )  # fmt: skip


def fit(figures: script.Figures, given: Any) -> None:
    """One call for many steps, against one call a step."""
    names = [name for name in CONTESTANTS if installed(name) and name != "torch-compiled"]
    found = compete(
        given,
        "rl",
        [own("Fit", "rl", given.threads), *(Entry(name, "rl", given.threads) for name in names)],
    )
    rivals = {name: one for name, one in found.items() if name not in ("Fit", "fanin")}
    best = min(rivals, key=rivals.__getitem__)
    figures.add(
        f"\nrl: {found['Fit'] * 1e6:.2f} us a step inside fit, train_step "
        f"{found['fanin'] * 1e6:.2f}, best rival {best} {rivals[best] * 1e6:.1f}\n"
        f"  fit / {best}         {script.against(found['Fit'] / rivals[best], 0.07)}\n"
        f"  train_step / {best}  {script.against(found['fanin'] / rivals[best], 0.12)}",
        kind="fit", **found,
    )  # fmt: skip


def avx2(figures: script.Figures, given: Any) -> None:
    """Both held to AVX2; NumPy's own loops, tanh for one, keep what they choose."""
    for on in STEPS:
        found = compete(
            given,
            f"avx2 {on}",
            [
                Entry("fanin", on.name, given.threads, {"FANIN_ISA": "avx2"}),
                Entry("numpy", on.name, given.threads, {"OPENBLAS_CORETYPE": "Haswell"}),
            ],
        )
        ratio = found["fanin"] / found["numpy"]
        figures.add(
            f"avx2 {on.name:8} fanin {found['fanin'] * 1e3:9.4g} ms, NumPy "
            f"{found['numpy'] * 1e3:9.4g}; "
            f"ratio {script.against(ratio, 0.75 if on.name == 'big' else 0.55)}",
            kind="avx2", step=on.name, **found,
        )  # fmt: skip


def bfloat16(figures: script.Figures, given: Any) -> None:
    """`big` three ways."""
    entries = [Entry("fanin", "big", given.threads), own("Bfloat16", "big", given.threads)]
    if installed("torch"):
        entries.append(own("autocast", "big", given.threads))
    else:
        print("bfloat16: torch is not installed")
    found = compete(given, "bfloat16", entries)
    ours = found["Bfloat16"]
    lines = [
        f"\nbfloat16 on big: {ours * 1e3:.1f} ms, float32 {found['fanin'] * 1e3:.1f}; "
        f"ratio {script.against(ours / found['fanin'], 0.65)}"
    ]
    if "autocast" in found:
        torch = found["autocast"]
        lines.append(
            f"  PyTorch autocast {torch * 1e3:.1f} ms; ratio {script.against(ours / torch, 1.0)}"
        )
    figures.add("\n".join(lines), kind="bfloat16", **found)


PARTS = {
    "dropout": dropout,
    "statistics": statistics,
    "fit": fit,
    "avx2": avx2,
    "bfloat16": bfloat16,
}


def main() -> None:
    """The parts asked for, or all."""
    parser = script.options(__doc__ or "", slices=7, seconds=0.3)
    script.run(parser, PARTS)


if __name__ == "__main__":
    main()
