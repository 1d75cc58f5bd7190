"""The doctor: what went wrong in a training, from what `fit` kept of it.

Each check looks at one kind of fault and either finds nothing or makes a `Finding` with its
numbers.  One fault has many effects: where inputs are not scaled, units saturate, then the gradient
vanishes, then the loss does not fall.  So the checks have ranks, cause before effect:

    0  unnormalised inputs, symmetric weights      facts about data and weights
    1  dead, saturated, exploding, vanishing       at the first step, before anything was learned
    2  NaN
    3  learning rate too high
    4  dead, saturated, exploding, vanishing       that came with the training
    5  learning rate too low
    6  loss not falling                            for no other reason found

The findings of the lowest rank are reported, of ranks 1 and 4 the first that was found, and NaN in
any case.  What else was found is named in the evidence as its effect.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import arguments, training
from .arguments import Array
from .bias_variance import bias_variance
from .finding import Diagnosis, Finding
from .history import History, LayerHistory

if TYPE_CHECKING:
    from .network import MLP

# ---- thresholds ------------------------------------------------------------------------------

# Inputs should have a mean near 0 and a spread near 1: LeCun, Bottou, Orr, Müller, "Efficient
# BackProp", 1998, section 4.3; the rules for initial weights assume it.  Adam bears a factor of a
# few, so we only speak of ten.  Rows of unit length with some ten thousand columns have an rms of
# 0.01 and train well, hence the wide lower bound.
LARGE_INPUTS = 10.0
SMALL_INPUTS = 1e-3
# |mean| / std of the middle column, above which the inputs' common offset, and not what tells them
# apart, is most of the signal (same section: the error surface becomes a narrow valley).
OFF_CENTRE = 10.0

# From the first hidden layer to the last one the standard deviation of activations should stay of
# the same size, and so should the gradient on its way back: Glorot & Bengio 2010, figures 6 and 7,
# He et al. 2015, section 2.2.  Sound networks of a few layers of sigmoids lose a factor of some
# 50; beyond 1000 float32 steps of the far layers are noise beside those of the near ones.
VANISHED = 1e-3
# relu layers with He's weights keep their spread within a factor of 3; a hundredfold of the
# inputs' spread means weights that are several times too large in each layer.
EXPLODED = 100.0
EXPLODED_GRADIENT = 1e3  # the reciprocal of VANISHED, for the gradient's norm on its way back

# A unit that is 0 for every row learns nothing (Maas, Hannun, Ng 2013).  Some always are; when
# half of a layer is, the layer is half as wide as it was made to be.
DEAD = 0.5
# ... told from rows enough: a unit that is on for 1 row in 10 is missed by 30 rows in 4 % of cases.
ROWS_TO_TELL = 30
# Where most elements sit where the derivative is below 4 % of its largest value (|tanh| > 0.98),
# most of the gradient is lost: Glorot & Bengio 2010, figure 3.
SATURATED = 0.5

# A step should change a layer's weights by about 1e-3 of their norm (A. Karpathy, CS231n, "Ratio
# of weights:updates").  Adam begins with ratios of some 1e-2 that are sound; only where a step
# moves a tenth, and the loss does not fall, is the step too long.
HIGH_RATIO = 0.1
# Ten times below the rule at their largest, the steps of a run of thousands still add up to
# something; a hundred times below they do not.
LOW_RATIO = 1e-4
# The least part of the loss of the first step that a training should take away.
LEAST_FALL = 0.05
# Together with such steps: a loss that rose that much above the first step's, or ends that much
# above the best epoch's (and by more than LEAST_FALL of the first), is no noise of batches.
RISEN = 1.2
RISEN_AGAIN = 2.0
# Steps that short may do for a network that had little to learn: no finding when this part of the
# loss is gone.
LITTLE_FALL = 0.5


@np.errstate(over="ignore", invalid="ignore")
def diagnose(
    history: History,
    net: "MLP | None" = None,
    *,
    x: Any = None,
    y: Any = None,
    human_error: float | None = None,
) -> Diagnosis:
    """Return what was wrong with a training, with evidence and advice.

    Findings are named "unnormalised inputs", "symmetric weights", "dead units",
    "saturated units", "exploding signal", "vanishing signal", "NaN", "learning rate too high",
    "learning rate too low" and "loss not falling"; and with human_error those of `bias_variance`.
    A cause is reported, its effects are named in its evidence.

    Parameters
    ----------
    history : what `fit` returned; with `monitor=True` (the default) all can be judged
    net : the network after it; needed where the history was not monitored, for symmetric weights
    x : (n, inputs) the training data, as given to `fit`; needed where the history was not
        monitored, for unnormalised inputs
    y : their targets; with human_error only
    human_error : the error of people or the best that can be had, 1 - accuracy or 1 - R^2, >= 0;
        asks for bias and variance, which needs net, x, y and validation data in the history

    Returns
    -------
    Diagnosis, a sequence of Finding that is false when it is empty.

    Raises
    ------
    TypeError, ValueError
        Not a History, no step done in it, a network of other layers, x of another width or with NaN
        or infinity, human_error without what it needs.

    Notes
    -----
    The thresholds are constants of `fanin.reference.diagnosis`, each with its reason: LeCun et al.
    1998, Glorot & Bengio 2010, He et al. 2015.
    """
    if not isinstance(history, History):
        raise TypeError(f"history: expected what fit returned, got {arguments.describe(history)}")
    if not history.epochs and history.nonfinite_step is None:
        raise ValueError("history: expected one epoch or more, got none")
    watched = None if history.monitor is None else history.monitor.layers
    if net is not None and watched not in (None, len(net.layers)):
        raise ValueError(
            f"net: expected the network of this history, of {watched} layers, "
            f"got one of {len(net.layers)}"
        )
    found = _Patient(history, net, x)
    candidates = [(rank, finding) for rank, finding in found.candidates() if finding is not None]
    findings = _causes(candidates)
    if human_error is None:
        return Diagnosis(tuple(findings), tuple(found.missing))
    errors = _errors(history, net, x, y, human_error)
    return Diagnosis((*findings, *errors), tuple(found.missing), errors.summary)


def _causes(candidates: list[tuple[int, Finding]]) -> list[Finding]:
    """Return the findings of the lowest rank, and NaN; with their effects in the evidence."""
    if not candidates:
        return []
    lowest = min(rank for rank, _ in candidates)
    causes = [finding for rank, finding in candidates if rank == lowest]
    causes = causes if lowest == 0 else causes[:1]
    kept = causes + [f for _, f in candidates if f.name == "NaN" and f not in causes]
    effects = [f for _, f in candidates if f.name not in {one.name for one in kept}]
    if effects:
        told = {f.name: f"{f.name} ({f.evidence})" for f in reversed(effects)}
        text = "; seen with it: " + "; ".join(reversed(told.values()))
        kept[0] = replace(kept[0], evidence=kept[0].evidence + text)
    return kept


# ---- the checks ------------------------------------------------------------------------------


class _Patient:
    """A training, as the checks look at it."""

    def __init__(self, history: History, net: "MLP | None", x: Any) -> None:
        self.history, self.net = history, net
        self.missing: list[str] = []
        self.monitor = history.monitor if history.monitor is not None else LayerHistory(0, 0)
        steps = self.monitor.steps
        end = math.inf if history.nonfinite_step is None else history.nonfinite_step
        self.rows = np.flatnonzero(steps < end)  # of the table, before anything was NaN
        self.late = self.rows[len(self.rows) // 2 :]
        self.steps = steps
        self.hidden = max(self.monitor.layers - 1, 0)
        self.watched = len(self.rows) > 0
        if history.monitor is None:
            self.missing.append(
                "signals, units and learning rate, which need fit(..., monitor=True)"
            )
        self.input_mean, self.input_std = self.monitor.input_mean, self.monitor.input_std
        if x is not None and net is not None:
            x = training.as_rows("x", x, net.sizes[0])
            arguments.check_rows("x", x)
            scale = net.standardizer or net.input_scale
            training.check_finite("x", x, net.dtype, scale)
            seen = training.some_rows(x, net.dtype, scale).astype(np.float64)
            self.input_mean, self.input_std = seen.mean(axis=0), seen.std(axis=0)
        elif x is not None:
            raise ValueError("x: expected net as well, which knows how x is scaled, got None")
        if not self.input_mean.size:
            self.missing.append("inputs, which need fit(..., monitor=True), or net and x")

    def candidates(self) -> Iterator[tuple[int, Finding | None]]:
        """Go through the checks by rank."""
        yield 0, self.inputs()
        yield 0, self.symmetric()
        if self.watched:
            start = self.rows[:1]
            yield 1, self.dead(self.monitor["dead_fraction"][start[0]], start)
            yield 1, self.saturated(start)
            yield 1, self.exploding(start)
            yield 1, self.vanishing(start)
        yield 2, self.nan()
        if self.watched:
            yield 3, self.high_rate()
            yield 4, self.dead_later()
            yield 4, self.saturated(self.late)
            yield 4, self.exploding(self.late)
            yield 4, self.vanishing(self.late)
            yield 5, self.low_rate()
        yield 6, self.loss()

    # facts about data and weights

    def inputs(self) -> Finding | None:
        varied = self.input_std > 1e-6 * np.abs(self.input_mean)  # the others are constant
        if not varied.any():
            return None
        mean, std = self.input_mean, self.input_std
        rms = math.sqrt(np.mean(mean**2 + std**2))
        offset = float(np.median(np.abs(mean[varied]) / std[varied]))
        if SMALL_INPUTS <= rms <= LARGE_INPUTS and offset <= OFF_CENTRE:
            return None
        low, high = std[varied].min(), std[varied].max()
        return Finding(
            "unnormalised inputs",
            f"root mean square {rms:.3g} (1 is usual, {SMALL_INPUTS:g} to {LARGE_INPUTS:g} is "
            f"borne), columns' standard deviations {low:.3g} to {high:.3g}, |mean| / std of the "
            f"middle column {offset:.3g} (at most {OFF_CENTRE:g})",
            "MLP(..., standardizer=Standardizer()) subtracts each column's mean and divides by its "
            "standard deviation; for bytes input_scale=1/255 will do",
            layer=0,
        )

    def symmetric(self) -> Finding | None:
        if self.watched:
            last = self.rows[-1]
            equal = self.monitor["equal_units"][last, : self.hidden] > 0
            step: int | None = int(self.steps[last])
        elif self.net is not None:
            weights = [layer.weight for layer in self.net.layers[:-1]]
            equal = np.array([w.shape[1] > 1 and bool((w == w[:, :1]).all()) for w in weights])
            step = self.net.step
        else:
            self.missing.append("symmetric weights, which need fit(..., monitor=True), or net")
            return None
        if not equal.any():
            return None
        layers = np.flatnonzero(equal)
        return Finding(
            "symmetric weights",
            f"after {step} steps all units of {_layers(layers)} still have the same weights",
            "draw initial weights at random, as init='auto' does; equal units get equal gradients "
            "and stay equal",
            layer=int(layers[0]),
            step=step,
        )

    # the signal, in some rows of the table: the first one, or those of the second half

    def middle(self, name: str, rows: Array) -> Array:
        """Return the median of a column over rows, for each layer."""
        with np.errstate(invalid="ignore"):
            return np.asarray(np.median(self.monitor[name][rows], axis=0))

    def dead_later(self) -> Finding | None:
        """Units that were 0 for all rows of the last batches of the second half's epochs.

        Where those batches had too few rows to tell, the middle of the monitored ones.
        """
        epochs = self.history.stats[len(self.history.stats) // 2 :]
        if sum(epoch[0].rows for epoch in epochs) < ROWS_TO_TELL:
            return self.dead(self.middle("dead_fraction", self.late), self.late)
        fractions = [
            np.all([stats.unit_zeros == stats.rows for stats in layer], axis=0).mean()
            for layer in zip(*epochs, strict=True)
        ]
        return self.dead(np.array(fractions), self.late)

    def dead(self, fraction: Array, rows: Array) -> Finding | None:
        worst = _worst(fraction[: self.hidden])
        if worst is None or not fraction[worst] > DEAD:
            return None
        return Finding(
            "dead units",
            f"{fraction[worst]:.0%} of layer {worst}'s units are 0 for every row "
            f"(at most {DEAD:.0%})",
            "a smaller learning rate, biases that do not start far below 0, or leaky_relu",
            layer=worst,
            step=int(self.steps[rows[0]]),
        )

    def saturated(self, rows: Array) -> Finding | None:
        fraction = self.middle("saturated_fraction", rows)
        worst = _worst(fraction[: self.hidden])
        if worst is None or not fraction[worst] > SATURATED:
            return None
        return Finding(
            "saturated units",
            f"{fraction[worst]:.0%} of layer {worst}'s activations sit where their derivative is "
            f"nearly 0 (at most {SATURATED:.0%})",
            "smaller initial weights (Glorot's for tanh and sigmoid), weight decay, batch norm, or "
            "relu",
            layer=worst,
            step=int(self.steps[rows[0]]),
        )

    def exploding(self, rows: Array) -> Finding | None:
        std = self.middle("std", rows)[: self.hidden]
        seen = self.input_mean**2 + self.input_std**2
        first = math.sqrt(seen.mean()) if seen.size and seen.mean() > 0 else math.nan
        if self.hidden and np.isfinite(first) and std.max() > EXPLODED * first:
            return self._signal(
                "exploding signal",
                f"standard deviations {first:.3g} of the inputs, {_numbers(std)} of the hidden "
                f"layers' activations (at most {EXPLODED:g} times the inputs')",
                int(std.argmax()),
                rows,
            )
        norms = self.middle("gradient_norm", rows)
        if self.hidden and norms[0] > EXPLODED_GRADIENT * norms[self.hidden] > 0:
            return self._signal(
                "exploding signal",
                f"gradient norms {_numbers(norms)} from the first layer to the last "
                f"(at most {EXPLODED_GRADIENT:g} times the last one's)",
                0,
                rows,
            )
        return None

    def vanishing(self, rows: Array) -> Finding | None:
        std, norms = self.middle("std", rows)[: self.hidden], self.middle("gradient_norm", rows)
        if self.hidden > 1 and std[-1] < VANISHED * std[0]:
            return self._signal(
                "vanishing signal",
                f"standard deviations {_numbers(std)} of the hidden layers' activations "
                f"(at least {VANISHED:g} of the first one's)",
                self.hidden - 1,
                rows,
            )
        if self.hidden > 1 and norms[0] < VANISHED * norms[self.hidden]:
            return self._signal(
                "vanishing signal",
                f"gradient norms {_numbers(norms)} from the first layer to the last "
                f"(at least {VANISHED:g} of the last one's)",
                0,
                rows,
            )
        return None

    def _signal(self, name: str, evidence: str, layer: int, rows: Array) -> Finding:
        larger = "smaller" if name == "exploding signal" else "larger"
        advice = (
            f"{larger} initial weights: init='auto' (He's for relu, Glorot's for tanh); batch "
            "norm; fewer layers, or relu in place of sigmoid"
        )
        if name == "exploding signal":
            advice += "; clip_norm"
        return Finding(name, evidence, advice, layer=layer, step=int(self.steps[rows[0]]))

    # NaN, learning rate, loss

    def nan(self) -> Finding | None:
        step, layer = self.history.nonfinite_step, self.history.nonfinite_layer
        if step is None:
            return None
        evidence = f"the loss was first not finite after {step} steps"
        if layer is not None:
            evidence += f", where the outputs of layer {layer} were the first that were not"
        if self.watched:
            ratio = self.ratios().max()
            evidence += f"; before, a step changed weights by up to {ratio:.2g} of their norm"
        return Finding(
            "NaN",
            evidence,
            "a smaller learning rate, clip_norm, scaled inputs and targets; stop_on_nan=True ends "
            "such a training at once",
            layer=layer,
            step=step,
        )

    def ratios(self) -> Array:
        """Return for each row the middle layer's update / weight.

        The first row counts when alone only: weights that begin at 0 are all update then.
        """
        with np.errstate(invalid="ignore"):
            ratio = np.median(self.monitor.update_ratio[self.rows], axis=1)
        ratio = ratio[1:] if len(ratio) > 1 else ratio
        return np.minimum(np.nan_to_num(ratio, nan=0.0, posinf=math.inf), 1e9)

    def fall(self) -> tuple[float, float, float]:
        """Return the loss of the first step, the best and the last one of an epoch."""
        losses = self.history.loss
        first = float(self.monitor.loss[0]) if self.watched else losses[0]
        finite = [loss for loss in losses if math.isfinite(loss)]
        return first, min(finite, default=math.inf), losses[-1] if losses else math.inf

    def high_rate(self) -> Finding | None:
        ratios = self.ratios()
        first, best, last = self.fall()
        highest = float(np.max(self.monitor.loss[self.rows]))
        jumped = (
            max(last, highest) > RISEN * first or last > RISEN_AGAIN * best + LEAST_FALL * first
        )
        lost = self.dead_later() or self.saturated(self.late)
        if not (ratios.max() > HIGH_RATIO and (jumped or lost)):
            return None
        row = int(self.rows[min(1 + int(ratios.argmax()), len(self.rows) - 1)])
        return Finding(
            "learning rate too high",
            f"a step changed the middle layer's weights by {ratios.max():.2g} of their norm (1e-3 "
            f"is usual, {HIGH_RATIO:g} is much), and the loss went from {first:.3g} over "
            f"{highest:.3g} to {last:.3g}",
            f"a learning rate {_power_of_ten(ratios.max() / 1e-2):g} times smaller; a warm-up; "
            "clip_norm",
            step=int(self.steps[row]),
        )

    def low_rate(self) -> Finding | None:
        ratios = self.ratios()
        first, best, last = self.fall()
        if self.monitor.first > 0 or not 0 < ratios.max() < LOW_RATIO:
            return None
        if first <= 0 or best < (1 - LITTLE_FALL) * first:
            return None
        return Finding(
            "learning rate too low",
            f"no step changed the middle layer's weights by more than {ratios.max():.2g} of their "
            f"norm (1e-3 is usual, {LOW_RATIO:g} is little), and the loss went from {first:.3g} to "
            f"{last:.3g}",
            f"a learning rate {_power_of_ten(1e-3 / ratios.max()):g} times larger",
        )

    def loss(self) -> Finding | None:
        if not self.watched and len(self.history.loss) < 2:
            self.missing.append("the loss's fall, which needs two epochs or fit(..., monitor=True)")
            return None
        first, best, last = self.fall()
        if self.monitor.first > 0 or not last > (1 - LEAST_FALL) * first or first <= 0:
            return None
        return Finding(
            "loss not falling",
            f"{first:.3g} {'at the first step' if self.watched else 'in the first epoch'}, "
            f"{best:.3g} at best, {last:.3g} at the end (at least {LEAST_FALL:.0%} should be gone)",
            "see that rows of x and y belong together, overfit a few rows first (dropout and "
            "regularisation off), then make the network larger",
            epoch=self.history.epochs,
        )


def _errors(history: History, net: "MLP | None", x: Any, y: Any, human_error: float) -> Diagnosis:
    """Return bias and variance, from the scores of training and validation data."""
    name = "val_r2" if history.val_r2 else "val_accuracy"
    scores = history.values(name)
    if net is None or x is None or y is None or not scores:
        raise ValueError(
            "human_error: expected net, x and y, and validation data in the history; "
            "bias_variance(train_error, dev_error) takes errors that you measured"
        )
    score = net.evaluate(x, y)["r2" if net.output == "identity" else "accuracy"]
    restored = history.stopped_early and history.best_epoch is not None
    dev = scores[history.best_epoch if restored and history.best_epoch is not None else -1]
    return bias_variance(max(1 - score, 0), max(1 - dev, 0), human_error=human_error)


def _worst(fraction: Array) -> int | None:
    return int(np.nan_to_num(fraction).argmax()) if fraction.size else None


def _numbers(values: Array) -> str:
    return ", ".join(f"{value:.2g}" for value in values)


def _layers(numbers: Array) -> str:
    return f"layer{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _power_of_ten(number: float) -> float:
    return 10.0 ** round(math.log10(min(max(number, 10.0), 1e6)))
