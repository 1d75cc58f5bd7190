"""Losses against the formulas written out in longdouble, mpmath, and PyTorch's conventions."""

from __future__ import annotations

import copy
import itertools
import math

import mpmath
import numpy as np
import pytest
import sklearn.neural_network._base as sklearn_losses

import fanin
from cases import LAYOUTS, LOSS, Loss, lay_out, params
from compare import same_bits, unit, within
from fanin import reference
from fanin.reference.loss import LossForm


def inputs(case: Loss, dtype: str, rng) -> tuple[np.ndarray, np.ndarray, dict]:
    """Outputs, targets and keyword arguments of a case."""
    shape = (case.m,) if case.vector else (case.m, case.n)
    z = (2 * rng.standard_normal(shape)).astype(dtype)
    if case.targets == "labels":
        targets = rng.integers(0, case.n, case.m)
    elif case.targets == "probabilities":
        targets = rng.dirichlet(np.ones(case.n), case.m).astype(dtype)
    elif case.function == "sigmoid_cross_entropy":
        targets = rng.random(shape).astype(dtype)
    else:
        targets = rng.standard_normal(shape).astype(dtype)
    options = {}
    if case.sample_weight:
        options["sample_weight"] = rng.random(case.m).astype(dtype)
    if case.class_weight:
        options["class_weight"] = (0.5 + rng.random(case.n)).astype(dtype)
    if case.label_smoothing:
        options["label_smoothing"] = case.label_smoothing
    return z, targets, options


# ---- the formulas, element by element, in a wider type ---------------------------------------


def softmax_cross_entropy(z, targets, sample_weight=None, class_weight=None, label_smoothing=0.0):
    """PyTorch's CrossEntropyLoss(weight, label_smoothing), and sample weights beside it."""
    z = z.astype(np.longdouble)
    m, n = z.shape
    s = np.ones(m) if sample_weight is None else sample_weight.astype(np.longdouble)
    c = np.ones(n) if class_weight is None else np.asarray(class_weight).astype(np.longdouble)
    loss, divisor = np.longdouble(0), np.longdouble(0)
    dz = np.zeros_like(z)
    for i in range(m):
        if targets.ndim == 1:
            q = np.eye(n)[targets[i]]
            divisor += s[i] * c[targets[i]]
        else:
            q = targets[i].astype(np.longdouble)
            divisor += s[i]
        q = (1 - np.longdouble(label_smoothing)) * q + np.longdouble(label_smoothing) / n
        e = np.exp(z[i] - z[i].max())
        p = e / e.sum()
        log_p = z[i] - z[i].max() - np.log(e.sum())
        loss -= s[i] * sum(c[k] * q[k] * log_p[k] for k in range(n) if q[k] > 0)
        dz[i] = s[i] * (p * (c * q).sum() - c * q)
    return loss / divisor, dz / divisor


def sigmoid_cross_entropy(z, targets, sample_weight=None, label_smoothing=0.0):
    """PyTorch's BCEWithLogitsLoss: the mean over rows and columns."""
    z, t = z.astype(np.longdouble), targets.astype(np.longdouble)
    t = t * (1 - np.longdouble(label_smoothing)) + np.longdouble(label_smoothing) / 2
    losses = np.maximum(z, 0) - z * t + np.log1p(np.exp(-abs(z)))
    return mean_over_elements(losses, 1 / (1 + np.exp(-z)) - t, sample_weight)


def mean_squared_error(y, targets, sample_weight=None):
    """PyTorch's MSELoss: no factor 1/2."""
    error = y.astype(np.longdouble) - targets.astype(np.longdouble)
    return mean_over_elements(error**2, 2 * error, sample_weight)


def mean_over_elements(losses, d, sample_weight):
    s = np.ones(len(losses)) if sample_weight is None else sample_weight.astype(np.longdouble)
    columns = losses[0].size
    rows = losses.reshape(len(losses), -1).sum(axis=1) / columns
    return (s * rows).sum() / s.sum(), (d.T * s).T / s.sum() / columns


LONGHAND = {
    "softmax_cross_entropy": softmax_cross_entropy,
    "sigmoid_cross_entropy": sigmoid_cross_entropy,
    "mean_squared_error": mean_squared_error,
}


def bounds(case: Loss, z, targets, options) -> tuple[float, float]:
    """What rounding may do to the loss, and to an element of its gradient.

    A row's terms are sums of n exponentials, targets and products, off by (n + 8) u of the sum of
    their sizes: exp, log and the argument z - max(z) cost a few roundings each, 8 for all. A term
    is a weight times a log-probability, at most largest = max |z - max(z)| + log n + 1 in size
    (for squares: the largest square). Divided by the sum of weights, rows cannot add up to more.
    An element of dz is a difference of two products of weights and probabilities, both at most
    the largest weight, with the same (n + 8) u each; the rounded argument of exp counts as
    `largest` more of them.
    """
    rounding = (case.n + 8) * unit(z.dtype)
    m = len(z)
    s = options.get("sample_weight", np.ones(m)).astype(float)
    c = np.asarray(options.get("class_weight", np.ones(case.n))).astype(float)
    divisor = s.sum()
    if case.function == "mean_squared_error":
        error = float(np.abs(z.astype(float) - targets).max())
        return 2 * rounding * error**2, 4 * rounding * s.max() / divisor * max(error, 1)
    if case.function == "sigmoid_cross_entropy":
        columns = z[0].size
        largest = 2 * float(np.abs(z).max()) + 1
        return 2 * rounding * largest, 2 * rounding * s.max() / divisor / columns * largest
    if targets.ndim == 1:
        divisor = (s * c[targets]).sum()
    largest = float(np.ptp(z.astype(float), axis=1).max()) + math.log(case.n) + 1
    weight = (s.max() * c.max() * case.m) / divisor
    return 2 * rounding * largest * weight, 4 * rounding * s.max() * c.max() / divisor * largest


@pytest.mark.parametrize("case", params(LOSS, "check"))
def test_cases(case, dtype, isa, rng):
    z, targets, options = inputs(case, dtype, rng)
    loss, dz = getattr(fanin, case.function)(z, targets, **options)
    expected, d_expected = LONGHAND[case.function](z, targets, **options)
    loss_bound, dz_bound = bounds(case, z, targets, options)
    assert type(loss) is float
    assert dz.dtype == dtype
    within(loss, expected, loss_bound)
    within(dz, d_expected, dz_bound)


@pytest.mark.parametrize("case", params(LOSS, "check"))
def test_reference(case, dtype, rng):
    z, targets, options = inputs(case, dtype, rng)
    loss, dz = getattr(reference, case.function)(z, targets, **options)
    expected, d_expected = LONGHAND[case.function](z, targets, **options)
    loss_bound, dz_bound = bounds(case, z, targets, options)
    assert type(loss) is float
    assert dz.dtype == dtype
    within(loss, expected, loss_bound)
    within(dz, d_expected, dz_bound)


@pytest.mark.parametrize("function", LONGHAND)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(function, layout, isa, rng):
    case = next(c for c in LOSS if c.function == function and c.m == 7 and not c.vector)
    z, targets, options = inputs(case, "float32", rng)
    loss, dz = getattr(fanin, function)(z, targets, **options)
    if targets.ndim == 2:
        targets = lay_out(targets, layout)
    again, dz_again = getattr(fanin, function)(lay_out(z, layout), targets, **options)
    assert again == loss
    same_bits(dz_again, dz)


@pytest.mark.parametrize("function", LONGHAND)
@pytest.mark.parametrize("shape", [(1000, 10), (65, 1000), (3, 1), (1, 1)], ids=str)
def test_same_bits_everywhere(function, shape, dtype, fma_isas, threads, rng):
    """Equal for any number of threads, on every set with fma."""
    case = Loss(function, *shape, "labels" if function == "softmax_cross_entropy" else "values")
    z, targets, options = inputs(case, dtype, rng)
    fanin.set_num_threads(1)
    loss, dz = getattr(fanin, function)(z, targets, **options)
    fanin.set_num_threads(threads)
    for isa in fma_isas:
        fanin.set_isa(isa)
        again, dz_again = getattr(fanin, function)(z, targets, **options)
        assert again == loss
        same_bits(dz_again, dz)


# ---- numbers one can check by hand -----------------------------------------------------------


def test_softmax_by_hand(package):
    """Two classes with logits log 3 and 0: probabilities 3/4 and 1/4."""
    z = np.array([[math.log(3), 0.0]])
    for label, p in ((0, 0.75), (1, 0.25)):
        loss, dz = package.softmax_cross_entropy(z, np.array([label]))
        assert loss == pytest.approx(-math.log(p), rel=1e-15, abs=0)
        expected = np.array([[0.75, 0.25]]) - np.eye(2)[label]
        within(dz, expected, 4 * unit("float64"))


def test_weights_by_hand(package):
    """PyTorch's weighted mean: the sum of w_y loss over the sum of w_y."""
    z = np.array([[math.log(3), 0.0], [0.0, 0.0]])
    labels = np.array([0, 1])
    rows = [-math.log(0.75), math.log(2)]
    loss, _ = package.softmax_cross_entropy(z, labels, class_weight=[3, 1])
    assert loss == pytest.approx((3 * rows[0] + rows[1]) / 4, rel=1e-15, abs=0)
    loss, _ = package.softmax_cross_entropy(z, labels, sample_weight=np.array([1, 2]))
    assert loss == pytest.approx((rows[0] + 2 * rows[1]) / 3, rel=1e-15, abs=0)
    loss, _ = package.softmax_cross_entropy(
        z, labels, sample_weight=np.array([1.0, 2.0]), class_weight={0: 3}
    )
    assert loss == pytest.approx((3 * rows[0] + 2 * rows[1]) / 5, rel=1e-15, abs=0)


def test_smoothing_by_hand(package):
    """eps = 0.4 and two classes: targets 0.8 and 0.2."""
    z = np.array([[math.log(3), 0.0]])
    loss, dz = package.softmax_cross_entropy(z, np.array([0]), label_smoothing=0.4)
    expected = -0.8 * math.log(0.75) - 0.2 * math.log(0.25)
    assert loss == pytest.approx(expected, rel=1e-15, abs=0)
    within(dz, [[-0.05, 0.05]], 4 * unit("float64"))


def test_sigmoid_by_hand(package):
    z, t = np.array([[0.0, math.log(3)]]), np.array([[1.0, 0.0]])
    loss, dz = package.sigmoid_cross_entropy(z, t)
    assert loss == pytest.approx((math.log(2) + math.log(4)) / 2, rel=1e-15, abs=0)
    within(dz, [[-0.25, 0.375]], 4 * unit("float64"))
    smooth, _ = package.sigmoid_cross_entropy(z, t, label_smoothing=0.2)  # targets 0.9, 0.1
    expected = (math.log(2) + math.log(4) - 0.1 * math.log(3)) / 2
    assert smooth == pytest.approx(expected, rel=1e-15, abs=0)


def test_squares_by_hand(package):
    y, t = np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([[0.0, 0.0], [3.0, 3.0]])
    loss, dy = package.mean_squared_error(y, t)
    assert loss == (1 + 4 + 0 + 4) / 4
    same_bits(dy, np.array([[0.5, 1.0], [0.0, 1.0]]))
    loss, dy = package.mean_squared_error(y, t, sample_weight=np.array([3, 1]))
    assert loss == (3 * 2.5 + 2) / 4
    same_bits(dy, np.array([[0.75, 1.5], [0.0, 0.5]]))


def test_labels_are_probabilities_of_one_class(package, dtype, rng):
    """One-hot probabilities give the labels' loss; class weights divide otherwise (PyTorch)."""
    z = rng.standard_normal((6, 4)).astype(dtype)
    labels = rng.integers(0, 4, 6)
    one_hot = np.eye(4, dtype=dtype)[labels]
    weights = np.array([1, 2, 3, 4], dtype)
    rounding = 40 * unit(dtype)
    by_labels, _ = package.softmax_cross_entropy(z, labels)
    by_rows, _ = package.softmax_cross_entropy(z, one_hot)
    within(by_rows, by_labels, rounding * by_labels)
    by_labels, _ = package.softmax_cross_entropy(z, labels, class_weight=weights)
    by_rows, _ = package.softmax_cross_entropy(z, one_hot, class_weight=weights)
    within(by_rows * 6, by_labels * weights[labels].sum(), 6 * rounding * by_rows)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint64, ">i4", np.int64])
def test_label_dtypes(kind, package):
    z = np.arange(6, dtype=np.float32).reshape(2, 3)
    expected, d_expected = package.softmax_cross_entropy(z, np.array([2, 0]))
    loss, dz = package.softmax_cross_entropy(z, np.array([2, 0], kind))
    assert loss == expected
    same_bits(dz, d_expected)
    every_other = np.array([2, 9, 0, 9], kind)[::2]
    assert package.softmax_cross_entropy(z, every_other)[0] == expected


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64])
def test_binary_target_dtypes(kind, package):
    z = np.array([[1.0, -2.0], [0.5, 3.0]])
    t = np.array([[1.0, 0.0], [0.0, 1.0]])
    loss, dz = package.sigmoid_cross_entropy(z, t)
    again, dz_again = package.sigmoid_cross_entropy(z, t.astype(kind))
    assert again == loss
    same_bits(dz_again, dz)


# ---- the ends of the range -------------------------------------------------------------------


def exact_softmax_loss(row: np.ndarray, label: int) -> float:
    with mpmath.workdps(60):
        z = [mpmath.mpf(float(v)) for v in row]
        return float(mpmath.log(mpmath.fsum(mpmath.exp(v - z[label]) for v in z)))


@pytest.mark.parametrize("scale", [1e-8, 1.0, 30.0, 100.0, 1e4])
def test_softmax_against_mpmath(scale, package, dtype, rng):
    z = (scale * rng.standard_normal((20, 5))).astype(dtype)
    z[0] = [1e4, -1e4, 0, 1e4, -1e4]
    labels = rng.integers(0, 5, 20)
    for i in range(20):
        loss, dz = package.softmax_cross_entropy(z[i : i + 1], labels[i : i + 1])
        exact = exact_softmax_loss(z[i], labels[i])
        below = float(z[i].max()) - float(z[i, labels[i]])
        within(loss, exact, 16 * unit(dtype) * (below + 2))  # log of a sum in [1, 5], + below
        assert np.isfinite(dz).all()
        within(dz.sum(), 0, 16 * unit(dtype))


@pytest.mark.parametrize("z", [-1e4, -800.0, -100.0, -1.0, 0.0, 1.0, 100.0, 1e4])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_sigmoid_against_mpmath(z, t, package, dtype):
    z_array, t_array = np.array([z], dtype), np.array([t], dtype)
    loss, dz = package.sigmoid_cross_entropy(z_array, t_array)
    with mpmath.workdps(60):
        p = 1 / (1 + mpmath.exp(-mpmath.mpf(z)))
        exact_t = mpmath.mpf(float(t_array[0]))
        exact = mpmath.log(1 + mpmath.exp(mpmath.mpf(z))) - mpmath.mpf(z) * exact_t
        gradient = p - exact_t
    within(loss, float(exact), 8 * unit(dtype) * max(abs(z), 1))
    within(dz, [float(gradient)], 8 * unit(dtype))


def test_confident_and_right(package, dtype):
    """A right answer by far costs exp(-gap), not 0 and not NaN; a wrong one costs the gap."""
    gap = 20.0
    z = np.array([[gap, 0.0]], dtype)
    right, _ = package.softmax_cross_entropy(z, np.array([0]))
    # 1 + e^-20 has a rounding of its own: the sum is right to u, so the loss to u absolutely
    within(right, math.log1p(math.exp(-gap)), 2 * unit(dtype))
    wrong, _ = package.softmax_cross_entropy(z, np.array([1]))
    within(wrong, gap + math.log1p(math.exp(-gap)), 4 * unit(dtype) * gap)


def test_minus_infinity(package, dtype):
    """A class ruled out by a logit of -inf costs nothing unless it is the label."""
    z = np.array([[0.0, -np.inf, 0.0]], dtype)
    loss, dz = package.softmax_cross_entropy(z, np.array([0]))
    within(loss, math.log(2), 4 * unit(dtype))
    within(dz, [[-0.5, 0.0, 0.5]], 4 * unit(dtype))
    loss, _ = package.softmax_cross_entropy(z, np.array([1]))
    assert loss == math.inf


@pytest.mark.parametrize("function", LONGHAND)
def test_nan(function, package, dtype):
    """NaN in one row makes the loss NaN, and leaves the other rows' gradients alone."""
    z = np.zeros((3, 2), dtype)
    z[1, 0] = np.nan
    targets = np.array([0, 1, 0]) if function == "softmax_cross_entropy" else np.zeros_like(z)
    loss, dz = getattr(package, function)(z, targets)
    assert math.isnan(loss)
    assert np.isnan(dz[1, 0])
    assert np.isfinite(dz[[0, 2]]).all()


def test_shift_by_a_constant(package, rng):
    """Logits matter up to a constant per row: a power of two shifts these exactly."""
    z = rng.integers(-8, 8, (5, 4)).astype(np.float64)
    labels = rng.integers(0, 4, 5)
    loss, dz = package.softmax_cross_entropy(z, labels)
    for shift in (2.0**10, -(2.0**20)):
        moved, dz_moved = package.softmax_cross_entropy(z + shift, labels)
        assert moved == loss
        same_bits(dz_moved, dz)


def test_zero_weight_is_left_out(package, rng):
    """A row of weight 0 is as if it were not there: the same sum, with a zero added."""
    z = rng.standard_normal((4, 3))
    labels = rng.integers(0, 3, 4)
    weight = np.array([1.0, 0.0, 2.0, 0.5])
    keep = weight > 0
    for function, targets in itertools.product(LONGHAND, [labels]):
        if function != "softmax_cross_entropy":
            targets = (z > 0).astype(np.float64)
        f = getattr(package, function)
        loss, dz = f(z, targets, sample_weight=weight)
        fewer, dz_fewer = f(z[keep], targets[keep], sample_weight=weight[keep])
        within(loss, fewer, 8 * unit("float64") * fewer)
        within(dz[keep], dz_fewer, 8 * unit("float64"))
        same_bits(dz[~keep] == 0, np.ones((1, 3), bool))


def test_inputs_are_left_alone(package, rng):
    z, labels = rng.standard_normal((4, 3)), np.array([0, 1, 2, 0])
    before = z.copy()
    package.softmax_cross_entropy(z, labels, sample_weight=np.ones(4), class_weight=np.ones(3))
    package.sigmoid_cross_entropy(z, (z > 0).astype(float))
    package.mean_squared_error(z, z * 2)
    same_bits(z, before)


@pytest.mark.parametrize("n", [1, 10, 64, 65])
def test_weights_of_one(n, dtype, isa, rng):
    """They are no weights, to the bit."""
    z = rng.standard_normal((37, n)).astype(dtype)
    cases = [
        (fanin.softmax_cross_entropy, rng.integers(0, n, 37)),
        (fanin.sigmoid_cross_entropy, rng.random((37, n)).astype(dtype)),
        (fanin.mean_squared_error, rng.random((37, n)).astype(dtype)),
    ]
    for f, targets in cases:
        loss, dz = f(z, targets)
        weighted, dz_weighted = f(z, targets, sample_weight=np.ones(37, dtype))
        assert weighted == loss
        same_bits(dz_weighted, dz)


# ---- the form in which a network states its loss -----------------------------------------------


def stated(package, form, output, z, y, sample_weight=None, label_smoothing=0.0):
    """Loss and dz of a network whose outputs for the rows of the identity matrix are z."""

    class Net(package.MLP):
        _loss_form = form

    net = Net(list(z.shape), output=output, dtype=z.dtype)
    net.layers[0].weight = z
    options = {"sample_weight": sample_weight, "label_smoothing": label_smoothing}
    loss, _ = net.loss_and_gradients(np.eye(len(z)), y, **options)
    if label_smoothing == 0:
        evaluated = net.evaluate(np.eye(len(z)), y, sample_weight=sample_weight)["loss"]
        within(evaluated, loss, 4 * unit("float64") * abs(loss))  # a product, a division
    return loss, net.layers[0].dweight.copy()


def outputs(output, m, n, dtype, rng):
    """z, some of it far out, and what it is to be."""
    z = (rng.choice([1, 10, 60], (m, 1)) * rng.standard_normal((m, n))).astype(dtype)
    y = rng.integers(0, n, m) if output == "softmax" else rng.integers(0, 2, (m, n)).astype(dtype)
    return z, y


SHAPES = [(1, 1), (70, 3), (40, 17), (70, 64), (9, 65)]  # rows in lanes, and one by one


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("output", ["softmax", "sigmoid", "identity"])
def test_factors(output, shape, package, dtype, isa, rng):
    """Powers of two round nothing but denormals; (1, 1, 0) is the loss as it always was."""
    z, y = outputs(output, *shape, dtype, rng)
    weight = rng.integers(1, 16, len(z)) / 16  # whose sum is exact in any order
    function = {"softmax": "softmax_cross_entropy", "sigmoid": "sigmoid_cross_entropy",
                "identity": "mean_squared_error"}[output]  # fmt: skip
    targets = y if output == "softmax" else y.astype(dtype)
    loss, dz = getattr(package, function)(z, targets, sample_weight=weight)
    for form in (LossForm(), LossForm(0.5, 4.0), LossForm(8.0, 0.25)):
        value, d = stated(package, form, output, z, y, weight)
        assert value == form.value * loss
        within(d, dz * z.dtype.type(form.gradient), 4 * np.finfo(dtype).smallest_subnormal)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("output", ["softmax", "sigmoid", "identity"])
def test_scikit_learns_losses(output, weighted, shape, package, dtype, isa, rng):
    """Half the squares, the sum over columns of what is not a softmax, probabilities clipped.

    The bounds are those of `bounds`, for the same sums and factors.
    """
    m, n = shape
    z, y = outputs(output, m, n, dtype, rng)
    weight = (rng.random(m) + 0.1).astype(dtype) if weighted else None
    eps = float(np.finfo(dtype).eps)
    form = {"softmax": LossForm(1, 1, eps), "sigmoid": LossForm(n, n, eps),
            "identity": LossForm(0.5, n / 2)}[output]  # fmt: skip
    loss, dz = stated(package, form, output, z, y, weight)
    assert math.isfinite(loss)

    wide, want = z.astype(np.longdouble), y
    rounding = (n + 8) * unit(dtype)
    share = np.full((m, 1), 1 / m) if weight is None else weight[:, None] / weight.sum(dtype=float)
    if output == "identity":
        expected, p = sklearn_losses.squared_loss(y, z.astype(float), weight), z.astype(float)
        loss_bound = d_bound = rounding * float(np.abs(wide - y).max()) ** 2
    elif output == "sigmoid":
        p = (1 / (1 + np.exp(-wide))).astype(float)
        rounded = p.astype(dtype).clip(eps, 1 - eps)  # as scikit-learn has it: 1 - p cancels
        expected = sklearn_losses.binary_log_loss(y, rounded.astype(float), weight)
        d_bound = 2 * rounding * (2 * float(np.abs(z).max()) + 1)
        # sigmoid is right to 2.5 ulp, and log(1 - p) moves by those over 1 - p
        moved = np.where(y, 0, 4 * unit(dtype) / np.maximum(1 - p, eps)).sum(axis=1)
        loss_bound = n * d_bound + float((moved[:, None] * share).sum())
    else:
        e = np.exp(wide - wide.max(axis=1, keepdims=True))
        p = (e / e.sum(axis=1, keepdims=True)).astype(float)
        want = np.eye(n)[y]
        expected = sklearn_losses.log_loss(want, p.clip(eps, 1 - eps), weight)
        d_bound = loss_bound = 4 * rounding * (float(np.ptp(wide, axis=1).max()) + math.log(n) + 1)
    within(loss, expected, loss_bound)
    within(dz, (p - want) * share, share * d_bound)


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_clipping_by_hand(output, package, dtype):
    """With clip 0.25 nothing costs more than log 4 or less than log 4/3; dz does not know."""
    z = np.array([[math.log(3) + 1, 0.0], [0.0, 0.0], [0.0, math.log(3) + 1]], dtype)
    z = np.repeat(z, 9, axis=1) if output == "sigmoid" else z
    y = np.zeros(3, int) if output == "softmax" else np.zeros(z.shape)
    ends = math.log(4 / 3), math.log(4)
    # a no where z is far above 0 costs the most, and log 2 at 0
    expected = sum([ends[0], math.log(2), ends[1]]) / 3
    if output == "sigmoid":
        expected = (4 * math.log(2) + 2 * ends[1]) / 6
    loss, dz = stated(package, LossForm(clip=0.25), output, z, y)
    within(loss, expected, 8 * unit(dtype))
    same_bits(dz, stated(package, LossForm(), output, z, y)[1])


@pytest.mark.parametrize("columns", [5, 20])
def test_clipping_what_is_no_number(columns, package, dtype, isa):
    """NaN shows; an infinite loss is cut off, in the value alone."""
    eps = float(np.finfo(dtype).eps)
    form, z = LossForm(clip=eps), np.zeros((1, columns), dtype)
    z[0, 0] = -np.inf
    assert stated_at(package, form, "softmax", z, 0) == pytest.approx(-math.log(eps), rel=1e-6)
    assert stated_at(package, LossForm(), "softmax", z, 0) == math.inf
    z[0, 0] = np.nan
    assert math.isnan(stated_at(package, form, "softmax", z, 0))
    assert math.isnan(stated_at(package, form, "sigmoid", z, np.zeros_like(z)))


def stated_at(package, form, output, z, y):
    """The loss of z itself, of `training.output_loss` or its compiled twin."""

    class Net(package.MLP):
        _loss_form = form

    y = np.array([y]) if output == "softmax" else y
    return Net([1, z.shape[1]], output=output, dtype=z.dtype)._output_loss(z, y, None)


@pytest.mark.parametrize("columns", [4, 20])
def test_clipping_of_rows_and_elements(columns, package, dtype, rng):
    """Where targets are soft, each row's loss is cut, or each element's, before its weight."""
    z = (3 * rng.standard_normal((12, columns))).astype(dtype)
    weight = rng.random(12).astype(dtype)
    form, rounding = LossForm(2.0, 1.0, 0.2), 2 * (columns + 8) * unit(dtype) * 30
    soft = rng.dirichlet(np.ones(columns), 12).astype(dtype)
    labels = rng.integers(0, columns, 12)
    for y, smoothing in ((soft, 0.0), (labels, 0.1)):
        rows = [stated(package, LossForm(), "softmax", z[i : i + 1], y[i : i + 1],
                       label_smoothing=smoothing)[0] for i in range(12)]  # fmt: skip
        cut = np.clip(rows, -math.log(0.8), -math.log(0.2))
        assert (cut != rows).any()
        loss, _ = stated(package, form, "softmax", z, y, weight, smoothing)
        within(loss, 2 * np.average(cut, weights=weight), rounding)
    p = np.clip(1 / (1 + np.exp(-z.astype(float))), 0.2, 0.8)
    cut = -(soft * np.log(p) + (1 - soft) * np.log(1 - p)).mean(axis=1)
    loss, _ = stated(package, form, "sigmoid", z, soft, weight)
    within(loss, 2 * np.average(cut, weights=weight), rounding)


def test_one_loss_of_a_network(package, rng):
    """Steps, fit, validation and evaluate state it alike; penalties are added as they are; a loss
    of one's own has its own form."""

    class Net(package.MLP):
        @property
        def _loss_form(self):
            return LossForm(0.5, 1.5)

    def twice(z, y):
        error = z - y
        return float(np.square(error).mean()), 2 * error / error.size

    x, y = rng.standard_normal((40, 5)), rng.standard_normal((40, 3))
    make = {"output": "identity", "l2": 0.1, "l1": 0.01, "dtype": "float64", "seed": 2}
    net, plain = Net([5, 8, 3], **make), package.MLP([5, 8, 3], **make)
    free = package.MLP([5, 8, 3], **(make | {"l1": 0.0, "l2": 0.0}))
    squares, gradients = free.loss_and_gradients(x, y)
    with_penalty, all_gradients = plain.loss_and_gradients(x, y)
    penalty = with_penalty - squares
    rounding = 64 * unit("float64")
    loss, found = net.loss_and_gradients(x, y)
    within(loss, squares / 2 + penalty, rounding)
    within(found, all_gradients + gradients / 2, rounding * np.abs(gradients).max())
    within(net.evaluate(x, y)["loss"], loss, rounding)
    assert net.evaluate(x, y, loss=twice)["loss"] == plain.evaluate(x, y, loss=twice)["loss"]
    assert net.loss_and_gradients(x, y, loss=twice)[0] == pytest.approx(with_penalty, rel=1e-12)
    history = net.fit(x, y, validation=(x, y), epochs=1, batch_size=40, progress=False)
    within(history.loss[0], loss, rounding)
    assert history.val_loss[0] == net.evaluate(x, y)["loss"]
    again = copy.deepcopy(net)  # built anew, in the same form
    assert again.loss_and_gradients(x, y)[0] == net.loss_and_gradients(x, y)[0]
