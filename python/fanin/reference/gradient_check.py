"""Gradient checking: gradients held against two-sided differences of the loss they belong to.

    n = (f(p + h) - f(p - h)) / 2h          error = ||a - n|| / (||a|| + ||n||)

with a the gradient that is checked and n its numeric twin, tensor by tensor, in float64.

The step h.  The difference is off by h^2 f''' / 6 because f curves and by about u |f| / h because
f is rounded.  Both are small at h = cbrt(eps) = 6e-6 of the length on which f curves.  For a
network that length is 1 in z: activations bend there.  A weight moves z by h x, so h is divided by
the root mean square of what the layer gets, where that is above 1 (bytes as inputs).  Elsewhere it
is |p|.

Where that does not agree, the entry gets a second opinion before it is called wrong: differences at
steps from 1000 h down, each half the one before, extrapolated to step 0.  The extrapolation that
changes least is taken, without a look at a:

    C. Ridders, "Accurate computation of F'(x) and F'(x) F''(x)", Advances in Engineering
    Software 4 (1982).

What rounding does to f is measured, not guessed: the fourth differences of f at points so near each
other that all else cancels,

    J. More, S. Wild, "Estimating computational noise", SIAM J. Sci. Comput. 33 (2011).

A difference below that counts as agreement: this is the floor of the relative error, which a
gradient that is zero has, too.

Kinks.  Between p - h and p + h a unit with relu, leaky_relu or selu may change its slope, where its
z crosses 0, and so does l1 |w| where w crosses 0.  The difference then is a mean of two slopes, and
nobody made an error.  The slope of elu has no jump there, but its curvature has, which costs the
difference up to h / 4.  Such steps are found by the signs of z and made up to 4096 times smaller;
then a difference on one side is tried, where no unit changes (z = 0 exactly, and the gradient is by
convention that of the off side).  Where both sides cross, the entry is left out, and counted.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from . import arguments, network, training
from .arguments import FLOAT64, Array
from .dense import Layer
from .loss import ClassWeight, Loss
from .vectors import on_host, vectors_by_name

RIGHT = 1e-7  # of a tensor: at most this is right
LOOK = 1e-5  # of one entry: more than this asks for a look
WRONG = 1e-3  # of either: more than this is a bug
ALL_UP_TO = 5000  # parameters; networks with more are checked on a sample
SAMPLE = 50  # entries of each tensor, then
WORST = 5  # entries a report names in each tensor

STEP = float(np.finfo(np.float64).eps) ** (1 / 3)
KINKED = ("relu", "leaky_relu", "elu", "selu")
_SMALLER = (1.0, 1 / 16, 1 / 256, 1 / 4096)  # steps tried where the one before crosses a kink
_HALVINGS = 10  # 1000 h at first

Function = Callable[[Array], Any]


class Entry(NamedTuple):
    """One entry of a tensor: its place, both gradients, |a - n| / (|a| + |n|) with the floor."""

    place: tuple[int, ...]
    analytic: float
    numeric: float
    error: float


@dataclass(frozen=True)
class TensorCheck:
    """What `check_gradients` found in one tensor.

    Attributes
    ----------
    layer : number of the layer, or None for a function's argument
    name : "weight", "bias", "gamma", "beta", or "x"
    shape : of the tensor
    error : ||a - n|| / max(||a|| + ||n||, floor) over the entries checked
    along : |a v - n| / max(||a||, floor) for the slope n along a random direction v = +-1, in which
        all entries move, where only a sample of them was checked; else None, and None where such
        a step cannot be made without crossing a kink
    worst : up to five entries with the largest errors of their own, the largest first
    checked, left_out : how many entries; left out are those at a kink
    rounding : of float32 networks: the largest distance of an entry of the network's own gradient
        from its float64 twin's, in units of what rounding explains; None for float64
    rounded : that entry, with the network's own gradient as `analytic`, its twin's as `numeric`
    """

    layer: int | None
    name: str
    shape: tuple[int, ...]
    error: float
    along: float | None
    worst: list[Entry]
    checked: int
    left_out: int
    rounding: float | None = None
    rounded: Entry | None = None

    @property
    def verdict(self) -> str:
        """One of "right", "look again", "wrong", "wrong when rounded" and "not checked".

        right: error and along are at most 1e-7, and no entry's error is above 1e-5.  wrong: one of
        them is above 1e-3.  Between, look again.
        """
        tensor = max(self.error, self.along or 0.0)
        entry = self.worst[0].error if self.worst else 0.0
        if not (tensor <= WRONG and entry <= WRONG):  # so that NaN is wrong
            return "wrong"
        if self.rounding is not None and not self.rounding <= 1:
            return "wrong when rounded"
        if not self.checked:
            return "not checked"
        return "right" if tensor <= RIGHT and entry <= LOOK else "look again"


@dataclass(frozen=True)
class GradientCheck:
    """The report of `check_gradients` and `check_gradient`; print it for a table.

    Attributes
    ----------
    tensors : one TensorCheck for each tensor
    loss : the value at which the gradients were taken
    noise : what rounding does to it, its standard deviation
    setting : in words: of what, and how
    """

    tensors: list[TensorCheck]
    loss: float
    noise: float
    setting: str = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether nothing was found: every tensor is right, or could not be checked."""
        return all(tensor.verdict in ("right", "not checked") for tensor in self.tensors)

    @property
    def error(self) -> float:
        """The largest relative error of a tensor."""
        return max(max(tensor.error, tensor.along or 0.0) for tensor in self.tensors)

    def __str__(self) -> str:
        """Return a table of the tensors, and the worst entries of those that are not right."""
        sampled = any(t.checked + t.left_out < math.prod(t.shape) for t in self.tensors)
        rounds = any(t.rounding is not None for t in self.tensors)
        head = ["layer", "tensor", "shape", "checked", "left out", "error", "worst entry"]
        rows = [head + ["along"] * sampled + ["rounding"] * rounds + ["verdict"]]
        for t in self.tensors:
            cells = ["" if t.layer is None else str(t.layer), t.name]
            cells += [" x ".join(map(str, t.shape)), str(t.checked), str(t.left_out)]
            cells += [f"{t.error:.1e}", f"{t.worst[0].error:.1e}"] if t.checked else ["", ""]
            if sampled:
                cells.append("" if t.along is None else f"{t.along:.1e}")
            if rounds:
                cells.append("" if t.rounding is None else f"{t.rounding:.2f}")
            rows.append([*cells, t.verdict])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [self.setting]
        for row in rows:
            cells = [cell.rjust(wide) for cell, wide in zip(row, widths, strict=True)]
            cells[1], cells[-1] = row[1].ljust(widths[1]), row[-1]
            lines.append("  ".join(cells).rstrip())
        for t in self.tensors:
            lines += _named(t)
        return "\n".join(lines)


def _named(t: TensorCheck) -> list[str]:
    """Return lines for the entries of a tensor that ask for a look."""
    where = t.name if t.layer is None else f"layer {t.layer} {t.name}"
    lines = []
    if t.verdict == "wrong when rounded" and t.rounded is not None:
        e = t.rounded
        lines.append(
            f"{where}{_show(e.place)}: the network's own gradient {e.analytic:.7g}, "
            f"in float64 {e.numeric:.7g}"
        )
    if t.verdict in ("wrong", "look again"):
        found = [e for e in t.worst if not e.error <= LOOK] or t.worst[:1]
        for e in found:
            lines.append(
                f"{where}{_show(e.place)}: analytic {e.analytic:.9g}, numeric {e.numeric:.9g}"
            )
    if t.verdict == "not checked":
        lines.append(f"{where}: every entry lies at a kink; move x or the parameters a little")
    return lines


def _show(index: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, index)) + "]"


# ---- networks --------------------------------------------------------------------------------


def check_gradients(
    net: network.MLP,
    x: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    class_weight: ClassWeight | None = None,
    label_smoothing: float = 0.0,
    loss: Loss | None = None,
    dropout: bool = True,
    eps: float | None = None,
    sample: int | None = None,
    seed: int = 0,
) -> GradientCheck:
    """Check what `net.loss_and_gradients` returns against two-sided differences of its loss.

    The differences are taken in a float64 twin: a network of the same class with the same
    parameters, settings and masks.  The gradients of a float64 network are held against them.  Of
    a float32 network it is the twin's, and then its own against the twin's, entry by entry, within
    what rounding explains: so far as the twin's gradients move when parameters and inputs move by
    the rounding of a product.  It is the same with precision="bfloat16", whose rounding is 65536
    times coarser: that finds a wrong sign or factor, not an error of a per cent.

    Everything in the loss counts: l1 and l2, weights, smoothing, batch norm in training mode; but
    not an l1 whose step is the proximal one, which is no part of the gradients.  The network is the
    same afterwards, bit for bit, running statistics and `gradients` included; only a `backward`
    that was waiting needs a new forward.

    Parameters
    ----------
    net : MLP of any class, float32 or float64
    x, y, sample_weight, class_weight, label_smoothing, loss : see `MLP.loss_and_gradients`; 16 to
        64 rows are enough.  The kinks of a loss of your own are not seen.
    dropout : keep dropout on, with the same mask in all evaluations (it changes with `net.step`
        alone); False turns it off
    eps : the step, one for all entries, and no second opinion; None chooses it for each entry
    sample : at most so many entries of each tensor; None: all of them up to 5000 parameters, else
        50 of each tensor.  In a tensor that is not checked whole, the slope along a random
        direction is checked besides, in which all entries move; where that is wrong, halving the
        direction finds an entry.
    seed : of the sample and the directions, drawn by NumPy's PCG64

    Returns
    -------
    GradientCheck

    Raises
    ------
    TypeError, ValueError
        Not a network, data as in `MLP.loss_and_gradients`, NaN or infinity in x (with row and
        column), settings out of range.
    """
    if not isinstance(net, network.MLP):
        raise TypeError(
            f"net: expected an MLP, got {arguments.describe(net)}; check_gradient takes a function"
        )
    dropout = arguments.check_bool("dropout", dropout)
    eps, sample, seed = _check_settings(eps, sample, seed)
    x = training.as_rows("x", x, net.sizes[0])
    training.check_finite("x", x, net.dtype)
    x = training.cast(x, net.dtype)  # the twin sees what the network sees
    options = {
        "sample_weight": sample_weight,
        "class_weight": class_weight,
        "label_smoothing": label_smoothing,
    }
    if loss is not None:
        options["loss"] = loss
    else:
        y = training.as_array("y", y)
        if y.dtype.kind == "f" and y.ndim:
            training.check_finite("y", y, net.dtype)
            y = training.cast(y, net.dtype)
    own = _own_gradients(net if dropout else _copy(net, type(net), False), x, y, options)
    kind = type(net) if net.device == "cpu" else network.MLP  # whose vectors NumPy can change

    wide = x.astype(np.float64)
    twin = _copy(net, kind, dropout, "float64")
    plain = _copy(net, network.MLP, dropout, "float64")  # whose activations can be seen
    value, gradients = twin.loss_and_gradients(wide, y, **options)
    if not math.isfinite(value):
        raise ValueError(f"net: expected a finite loss for this x and y, got {value}")
    gradients = gradients.copy()
    before, scales = _activations(plain, wide)

    def crossed() -> bool:
        if not before:
            return False
        plain.parameters = twin.parameters
        now, _ = _activations(plain, wide)
        return any(not np.array_equal(a, b) for a, b in zip(now, before, strict=True))

    f = _Function(lambda: twin.loss_and_gradients(wide, y, **options)[0], crossed, eps)
    f.measure_noise(twin.parameters, _generator(seed, 0))
    rounded = net.dtype != FLOAT64
    bounds = _rounding_bounds(net, twin, wide, y, options, scales, seed) if rounded else None
    if sample is None:
        sample = net.n_parameters if net.n_parameters <= ALL_UP_TO else SAMPLE
    tensors = []
    for place, (i, name, part, shape) in enumerate(_tensors(twin)):
        p, weights = twin.parameters[part], name == "weight"
        steps = STEP * np.maximum(1, np.abs(p)) / (max(1, scales[i]) if weights else 1)
        check = f.check(
            _Tensor(i, name, shape, p, (gradients if rounded else own)[part], steps,
                    pointed=weights and twin.layers[i].l1 > 0),
            sample,
            _generator(seed, 1 + place),
        )  # fmt: skip
        if bounds is not None:
            check = _with_rounding(check, own[part], gradients[part], bounds[part])
        tensors.append(check)
    return GradientCheck(
        tensors, value, f.noise, _setting(net, value, len(x), dropout, eps, sample)
    )


def _setting(
    net: network.MLP, loss: float, rows: int, dropout: bool, eps: float | None, sample: int
) -> str:
    """Return the report's first line."""
    kind = net.precision or str(net.dtype)
    parts = [f"{type(net).__name__} {net.sizes}, {kind}, {rows} rows, loss {loss:.6g}"]
    if net.input_dropout or any(layer.dropout for layer in net.layers):
        parts.append("dropout with its mask held" if dropout else "dropout off")
    if eps is not None:
        parts.append(f"eps {eps:g}")
    if any(layer.weight.size > sample for layer in net.layers):
        parts.append(f"{sample} entries of a tensor and a direction")
    return "; ".join(parts)


def _copy(
    net: network.MLP, kind: type[network.MLP], dropout: bool, dtype: str | None = None
) -> network.MLP:
    """Return a network of this class with the same parameters and settings, but these."""
    config = net._config()
    if dtype is not None:
        config.update(dtype=dtype, precision=None)
    if not dropout:
        config["dropout"], config["input_dropout"] = [0.0] * len(config["dropout"]), 0.0
    if config["l1_step"] == "proximal":
        config["l1"] = [0.0] * len(config["l1"])
    vectors = vectors_by_name(net)
    return kind._from_parts(config, {k: v.astype(config["dtype"]) for k, v in vectors.items()})


def _own_gradients(net: network.MLP, x: Array, y: Any, options: dict[str, Any]) -> Array:
    """Return the network's own gradients in float64, and leave the network as it was."""
    with net._lock:
        kept = net.running_mean.copy(), net.running_var.copy(), net.gradients.copy()
        try:
            _, gradients = net.loss_and_gradients(x, y, **options)
            return np.array(on_host(gradients), np.float64)
        finally:
            net.running_mean, net.running_var, net.gradients = kept


def _activations(net: network.MLP, x: Array) -> tuple[list[Array], list[float]]:
    """Return which units of layers with a kink are on, and each layer's root mean square input."""
    net._run(x, True, False)
    caches = [cache.dense for cache in net._caches]
    on = [cache.a > 0 for cache in caches if cache.activation in KINKED and cache.a is not None]
    return on, [_rms(cache.x) for cache in caches]


def _tensors(net: network.MLP) -> Iterator[tuple[int, str, slice, tuple[int, ...]]]:
    """Yield layer, name, place in the flat vectors and shape of each tensor, in their order."""
    place = 0
    for i, layer in enumerate(net.layers):
        for name in ("weight", "bias", "gamma", "beta"):
            tensor = getattr(layer, name)
            if tensor is not None:
                yield i, name, slice(place, place + tensor.size), tensor.shape
                place += tensor.size


def _rounding(net: network.MLP, layer: Layer) -> float:
    """Return the relative rounding of a layer: of its operands, or of k sums and a function.

    float32: a sum of k products errs by sqrt(k) u in the mean, an activation by at most 8 u; times
    4, as these are not the largest.  bfloat16: weights and activations by 2**-9 each, times 2.
    """
    return 2.0**-7 if net.precision else 4 * (math.sqrt(layer.fan_in) + 8) * 2.0**-24


def _rounding_bounds(
    net: network.MLP,
    twin: network.MLP,
    x: Array,
    y: Any,
    options: dict[str, Any],
    scales: list[float],
    seed: int,
) -> Array:
    """Return how far each entry of the network's own gradients may be from its twin's.

    The twin's gradients g are taken again with every parameter and input moved by its rounding r,
    up or down by chance, and then the other way: an activation so near a kink that rounding may
    carry it across does cross in one of the two.  With d the largest distance from g of four such,
    the bound is 2 (d + rms of the tensor's d) + depth r (|g| + s).  The last is the backward pass's
    own rounding: s is the size of what cancels in g where g is 0 for every x, such as in front of
    batch norm.  It is that of the layer's other gradients, as all are sums of one dz.
    """
    base = twin.parameters.copy()
    g = twin.loss_and_gradients(x, y, **options)[1].copy()
    r, s, d = np.empty_like(base), np.zeros_like(base), np.zeros_like(base)
    sizes = [0.0] * len(net.layers)
    for i, name, part, _ in _tensors(net):
        r[part] = _rounding(net, net.layers[i])
        s[part] = scales[i] if name == "weight" else 1.0  # dweight = x.T @ dz
        sizes[i] = max(sizes[i], _rms(g[part]) / (s[part][0] or 1.0))
    for i, _, part, _ in _tensors(net):
        s[part] *= sizes[i]
    rng = _generator(seed, -1)
    for _ in range(2):
        move, shift = r * _signs(rng, base.shape), r[0] * _signs(rng, x.shape)
        for way in (1, -1):
            twin.parameters = base * (1 + way * move)
            moved = twin.loss_and_gradients(x * (1 + way * shift), y, **options)[1]
            np.maximum(d, np.abs(moved - g), out=d)
    twin.parameters = base
    bounds = 2 * d + len(net.layers) * r * (np.abs(g) + s)
    for _, _, part, _ in _tensors(net):
        bounds[part] += 2 * _rms(d[part])
    return bounds


def _with_rounding(check: TensorCheck, own: Array, twins: Array, bounds: Array) -> TensorCheck:
    """Return the check with the entry of the network's own gradient that is farthest off."""
    away = np.abs(own - twins)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(away == 0, 0.0, away / bounds)
    worst = int(np.argmax(np.nan_to_num(ratio, nan=np.inf)))
    error = float(away[worst] / max(abs(own[worst]) + abs(twins[worst]), np.finfo(float).tiny))
    entry = Entry(_place(worst, check.shape), float(own[worst]), float(twins[worst]), error)
    return replace(check, rounding=float(ratio[worst]), rounded=entry)


# ---- functions -------------------------------------------------------------------------------


def check_gradient(
    f: Function,
    x: Array,
    gradient: Function | Any = None,
    *,
    kinks: Function | None = None,
    eps: float | None = None,
    sample: int | None = None,
    seed: int = 0,
) -> GradientCheck:
    """Check the gradient of a function of one's own against two-sided differences.

    A loss (z, y) -> (loss, dz) is checked as `check_gradient(lambda z: loss(z, y), z)`.

    Parameters
    ----------
    f : takes an array like x and returns (value, gradient); only the value where `gradient` is
        given.  It gets copies, and has to return the same for the same x.
    x : float64 array of any shape, not empty: differences in float32 have three right digits
    gradient : the gradient at x, float64 and of x's shape, or a function of x that returns it
    kinks : takes an array like x and returns an array of any shape and dtype that changes where f
        has a kink, such as `lambda z: z > 0` for relu.  Steps over a kink are made smaller, then
        left out.  Without it they are errors.
    eps, sample, seed : see `check_gradients`; here the step is chosen from |x|

    Returns
    -------
    GradientCheck of one tensor, named "x"

    Raises
    ------
    TypeError, ValueError
        x or the gradient is not float64, shapes that do not match, a value that is not one finite
        number, settings out of range.
    """
    if not callable(f):
        raise TypeError(f"f: expected a function of x, got {arguments.describe(f)}")
    if kinks is not None and not callable(kinks):
        raise TypeError(f"kinks: expected a function of x, got {arguments.describe(kinks)}")
    eps, sample, seed = _check_settings(eps, sample, seed)
    if not isinstance(x, np.ndarray) or x.dtype != FLOAT64:
        raise TypeError(
            f"x: expected an array of float64, got {arguments.describe(x)}; "
            "differences in float32 have three right digits"
        )
    arguments.check_rows("x", x)
    p = np.array(x, order="C")  # moved in place, entry by entry
    pairs = gradient is None

    def value() -> float:
        found = f(p.copy())
        if not pairs:
            return _as_value(found)
        if not isinstance(found, tuple | list) or len(found) != 2:
            raise TypeError(
                f"f: expected (value, gradient), got {arguments.describe(found)}; "
                "or give the gradient besides"
            )
        return _as_value(found[0])

    loss = value()
    if not math.isfinite(loss):
        raise ValueError(f"f: expected a finite value at x, got {loss}")
    if pairs:
        gradient = f(p.copy())[1]
    elif callable(gradient):
        gradient = gradient(p.copy())
    gradient = np.array(gradient)
    if gradient.dtype != FLOAT64:
        raise TypeError(f"gradient: expected float64, got {arguments.describe(gradient)}")
    arguments.check_shape("gradient", gradient, p.shape, "to match x")
    before = np.array(kinks(p.copy())) if kinks is not None else np.empty(0)

    def crossed() -> bool:
        return kinks is not None and not np.array_equal(before, kinks(p.copy()))

    flat = p.reshape(-1)
    size = np.maximum(np.abs(flat), _rms(flat))
    steps = STEP * np.where(size > 0, size, 1)
    function = _Function(value, crossed, eps)
    function.measure_noise(flat, _generator(seed, 0))
    if sample is None:
        sample = p.size if p.size <= ALL_UP_TO else SAMPLE
    tensor = _Tensor(None, "x", p.shape, flat, gradient.reshape(-1), steps)
    check = function.check(tensor, sample, _generator(seed, 1))
    name = getattr(f, "__name__", type(f).__name__)
    setting = f"{name} of {arguments.describe(x)}, value {loss:.6g}"
    return GradientCheck([check], loss, function.noise, setting)


def _as_value(value: Any) -> float:
    found = np.asarray(value)
    if found.size != 1 or found.dtype.kind not in "fiu":
        raise TypeError(f"f: expected one real number as value, got {arguments.describe(value)}")
    return float(found.reshape(()))


def _check_settings(eps: Any, sample: Any, seed: Any) -> tuple[float | None, int | None, int]:
    return (
        None if eps is None else arguments.check_positive("eps", eps),
        None if sample is None else arguments.check_integer("sample", sample, 1),
        arguments.check_integer("seed", seed, 0, arguments.SEED_LIMIT),
    )


# ---- differences -----------------------------------------------------------------------------


@dataclass
class _Tensor:
    """A tensor to check: its flat view p, the gradient, and the step of each entry."""

    layer: int | None
    name: str
    shape: tuple[int, ...]
    p: Array
    gradient: Array
    steps: Array
    pointed: bool = False  # the loss has |p| in it


class _Slope(NamedTuple):
    value: float
    noise: float  # what rounding may do to it


class _Function:
    """A number that depends on arrays which are moved in place and put back.

    value() returns it; crossed() says whether a kink lies between here and the start.
    """

    def __init__(
        self, value: Callable[[], float], crossed: Callable[[], bool], eps: float | None
    ) -> None:
        self.value, self.crossed, self.eps = value, crossed, eps
        self.start = value()
        self.noise = 0.0

    def measure_noise(self, p: Array, rng: "np.random.Generator") -> None:
        """Set `noise` by fourth differences over 12 points near p; at least half a last digit.

        Steps of 2**-40 leave nothing but rounding of what is smooth.  A fourth difference of
        numbers with standard deviation s has the variance 70 s^2.
        """
        before = p.copy()
        step = 2.0**-40 * np.maximum(np.abs(p), _rms(p))
        step *= _signs(rng, p.shape)
        values = []
        for k in range(1, 13):
            p[...] = before + k * step
            values.append(self.value())
        p[...] = before
        scatter = _rms(np.diff(values, 4)) / math.sqrt(70)
        self.noise = max(scatter, 2.0**-53 * abs(self.start))

    def moved(self, t: _Tensor, where: Any, sign: Any, move: float) -> float | None:
        """Return the value where t has moved along sign, or None where a kink lies between."""
        before = np.copy(t.p[where])
        after = before + move * sign
        if t.pointed and (before * after < 0).any():
            return None
        t.p[where] = after
        try:
            return None if self.crossed() else self.value()
        finally:
            t.p[where] = before

    def difference(self, t: _Tensor, where: Any, sign: Any, h: float) -> _Slope | None:
        """Return the two-sided difference, or None where a kink lies between."""
        above = self.moved(t, where, sign, h)
        below = None if above is None else self.moved(t, where, sign, -h)
        if above is None or below is None:
            return None
        return _Slope((above - below) / (2 * h), 4 * self.noise / h)

    def one_sided(self, t: _Tensor, where: Any, sign: Any, h: float) -> _Slope | None:
        """Return (4 f(p + h) - f(p + 2h) - 3 f(p)) / 2h, or its like below p, or None.

        A unit with z = 0 counts as off, and its slope is that of its off side.  So the side on
        which no unit changes is the one that the gradient is of.
        """
        if t.pointed and np.any(t.p[where] == 0):
            return None  # two-sided differences of |w| are right at w = 0, and these are not
        for side in (h, -h):
            near = self.moved(t, where, sign, side)
            far = None if near is None else self.moved(t, where, sign, 2 * side)
            if near is not None and far is not None:
                slope = (4 * near - far - 3 * self.start) / (2 * side)
                return _Slope(slope, 15 * self.noise / h)  # sqrt(16 + 1 + 9) / sqrt(2) as much
        return None

    def slope(self, t: _Tensor, where: Any, sign: Any, h: float) -> _Slope | None:
        """Return the difference with step h; across a kink with smaller ones, then on one side."""
        for difference in (self.difference, self.one_sided):
            for factor in _SMALLER if self.eps is None else _SMALLER[:1]:
                found = difference(t, where, sign, factor * h)
                if found is not None:
                    return found
        return None

    def extrapolated(self, t: _Tensor, where: Any, sign: Any, h: float) -> _Slope | None:
        """Return Ridders' extrapolation to step 0 from steps of 1000 h and less."""
        best: _Slope | None = None
        least = math.inf
        above: list[float] = []  # the extrapolations of the step before
        for halvings in range(-_HALVINGS, 2):
            found = self.difference(t, where, sign, h * 2.0**-halvings)
            if found is None:
                continue
            row = [found.value]
            for j, coarser in enumerate(above, 1):
                row.append(row[-1] + (row[-1] - coarser) / (4**j - 1))
                change = max(abs(row[-1] - row[-2]), abs(row[-1] - coarser))
                if change < least:
                    least, best = change, _Slope(row[-1], found.noise)
            above = row
        return best

    def check(self, t: _Tensor, sample: int, rng: "np.random.Generator") -> TensorCheck:
        """Check a tensor's entries, or so many of them and a direction."""
        size = t.p.size
        if self.eps is not None:
            t.steps = np.full(size, self.eps)
        chosen, along = np.arange(size), None
        if size > sample:  # one entry from each of `sample` equal parts
            ends = np.arange(sample + 1) * size // sample
            chosen = ends[:-1] + (rng.random(sample) * np.diff(ends)).astype(np.int64)
            along, place = self._along(t, _signs(rng, (size,)))
            if place is not None:
                chosen = np.union1d(chosen, place)
        slopes = {int(i): self.slope(t, i, 1.0, t.steps[i]) for i in chosen}
        found = {i: slope for i, slope in slopes.items() if slope is not None}
        left_out = len(slopes) - len(found)
        if not found:
            return TensorCheck(t.layer, t.name, t.shape, 0.0, along, [], 0, left_out)
        if self.eps is None:
            self._second_opinions(t, found)
        places = np.array(list(found))
        a = t.gradient[places]
        n, noise = np.array(list(found.values())).T
        errors = _entry_errors(a, n, noise)
        order = np.argsort(-np.nan_to_num(errors, nan=np.inf), kind="stable")[:WORST]
        worst = [
            Entry(_place(int(places[i]), t.shape), float(a[i]), float(n[i]), float(errors[i]))
            for i in order
        ]
        error = _tensor_error(a, n, noise)
        return TensorCheck(t.layer, t.name, t.shape, error, along, worst, len(found), left_out)

    def _second_opinions(self, t: _Tensor, found: dict[int, _Slope]) -> None:
        """Take again by extrapolation what disagrees, the worst first, until enough is certain."""
        places = np.array(list(found))
        a = t.gradient[places]
        n, noise = np.array(list(found.values())).T
        finite = np.isfinite(a)  # no need to ask about the others
        size = float(np.linalg.norm(a[finite]) + np.linalg.norm(n[finite]))
        limit = max(RIGHT * size, float(np.linalg.norm(noise))) / math.sqrt(len(a))
        away = np.abs(a - n)
        doubtful = finite & ~((away <= limit) & (_entry_errors(a, n, noise) <= LOOK))
        certain = 0
        for i in np.argsort(-away, kind="stable"):
            if doubtful[i] and certain < WORST:
                place = int(places[i])
                again = self.extrapolated(t, place, 1.0, t.steps[place])
                if again is not None:
                    found[place] = again
                    error = _entry_errors(a[i], again.value, again.noise)
                    certain += not error <= WRONG

    def _along(self, t: _Tensor, sign: Array) -> tuple[float | None, int | None]:
        """Return the error of the slope along a direction, and the entry that is to blame.

        All entries of t move at once, by a step that moves z as far as that of one entry does: it
        is divided by the root of the number of weights of a unit.
        """
        rows = t.shape[0] if len(t.shape) > 1 or t.layer is None else 1
        h = float(t.steps.min()) / math.sqrt(rows)

        def error(where: Any) -> float | None:
            signs, a = sign[where], t.gradient[where]
            expected, size = float(a @ signs), float(np.linalg.norm(a))
            off = None
            for attempt in (self.slope, self.extrapolated):
                found = attempt(t, where, signs, h)
                if found is None:
                    break
                off = abs(expected - found.value) / max(size, found.noise / RIGHT)
                if off <= RIGHT or self.eps is not None:
                    break
            return off

        whole = error(slice(None))
        if whole is None or whole <= RIGHT:
            return whole, None
        where = np.arange(t.p.size)
        while len(where) > 1:
            where = max(np.array_split(where, 2), key=lambda half: error(half) or 0.0)
        return whole, int(where[0])


@np.errstate(invalid="ignore")
def _tensor_error(a: Array, n: Array, noise: Array) -> float:
    """Return ||a - n|| / (||a|| + ||n||), where noise alone counts at most as RIGHT."""
    size = float(np.linalg.norm(a) + np.linalg.norm(n))
    return float(np.linalg.norm(a - n)) / max(size, float(np.linalg.norm(noise)) / RIGHT)


@np.errstate(invalid="ignore")
def _entry_errors(a: Any, n: Any, noise: Any) -> Any:
    """Return |a - n| / (|a| + |n|), where noise alone counts at most as LOOK."""
    return np.abs(a - n) / np.maximum(np.abs(a) + np.abs(n), 4 * noise / LOOK)


def _place(place: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(place, shape))


def _rms(x: Array) -> float:
    return math.sqrt(np.mean(np.square(x)))


def _generator(seed: int, place: int) -> "np.random.Generator":
    return np.random.Generator(np.random.PCG64([seed, 1 + place]))


def _signs(rng: "np.random.Generator", shape: tuple[int, ...]) -> Array:
    return np.where(rng.random(shape) < 0.5, -1.0, 1.0)
