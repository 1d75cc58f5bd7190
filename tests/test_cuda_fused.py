"""Whole small networks in one kernel (cpp/cuda/fused.cu) against the float64 reference.

On the emulated module, which has 4 multiprocessors, or on a GPU. How far results may be off:

Products round their operands to a relative `unit` at most, float32's their sums instead, once for
each of up to k terms. Errors of random sign add in squares: a product is then off by sqrt(2 / 3)
unit of its norm, or sqrt(k / 3) unit where sums are rounded. From x to the first dw there are 2 L
products in a row, and activations between them, whose slopes average 1 or less. Thrice the root of
the sum of squares, 3 sqrt(2 L) sqrt(2 / 3) unit, is the bound of `tolerance`.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from cases import ACTIVATIONS, NEEDS_INPUT
from fanin import reference
from fanin.reference.dropout import dropout_mask, dropout_threshold

_cuda = pytest.importorskip("fanin._cuda", reason="fanin was built without FANIN_CUDA")
if not _cuda.emulated and _cuda.available() is not None:
    pytest.skip(f"no GPU: {_cuda.available()}", allow_module_level=True)

FLOAT32, TF32, BFLOAT16, FLOAT16 = range(4)
UNITS = {FLOAT32: 2.0**-24, TF32: 2.0**-11, BFLOAT16: 2.0**-8, FLOAT16: 2.0**-11}
PRODUCTS = pytest.mark.parametrize("product", UNITS, ids=["float32", "tf32", "bfloat16", "float16"])
LOSSES = {"identity": 0, "sigmoid": 1, "softmax": 2}
KINKED = ("relu", "leaky_relu", "selu")  # derivatives jump at 0
SEED, STEP = 2**63 + 5, 2**33 + 3
SEVERAL_TILES = 275 * _cuda.properties()["multiprocessors"]  # rows; of 128 in the largest tile


@dataclass
class Case:
    """A network in both forms, and one batch."""

    sizes: tuple[int, ...]
    rows: int
    activation: str = "tanh"
    output: str = "softmax"
    dropout: float = 0.0
    input_dropout: float = 0.0

    def __post_init__(self) -> None:
        hidden = len(self.sizes) - 2
        self.net = reference.MLP(
            self.sizes, activation=[self.activation] * hidden, output=self.output,
            dropout=[self.dropout] * hidden, input_dropout=self.input_dropout, dtype="float64",
            seed=SEED,
        )  # fmt: skip
        self.net.step = STEP
        rng = np.random.default_rng(self.rows)
        noise = 0.1 * rng.standard_normal(self.net.n_parameters)  # biases are not 0
        self.parameters = (self.net.parameters + noise).astype(np.float32)
        self.net.parameters = self.parameters
        self.x = rng.standard_normal((self.rows, self.sizes[0])).astype(np.float32)
        n = self.sizes[-1]
        if self.output == "softmax":
            self.y = rng.integers(0, n, self.rows)
        elif self.output == "sigmoid":
            self.y = rng.random((self.rows, n)).astype(np.float32)
        else:
            self.y = rng.standard_normal((self.rows, n)).astype(np.float32)

    @property
    def layers(self) -> list[tuple[int, int, int, int]]:
        kinds = [ACTIVATIONS.index(self.activation)] * (len(self.sizes) - 2) + [0]
        thresholds = [dropout_threshold(self.dropout)] * (len(self.sizes) - 2) + [0]
        pairs = itertools.pairwise(self.sizes)
        return [(k, n, a, t) for (k, n), a, t in zip(pairs, kinds, thresholds, strict=True)]

    def targets(self) -> dict[str, Any]:
        return {"labels" if self.y.ndim == 1 else "targets": self.y}

    def forward(self, product: int, **given: Any) -> Any:
        given = {"parameters": self.parameters, "x": self.x} | given
        return _cuda.fused_forward(self.layers, product, **given)

    def step(self, product: int, **given: Any) -> tuple[float, Any]:
        """The kernel's loss and gradients; `given` goes before what the case says."""
        own = {"parameters": self.parameters, "x": self.x, "batch_rows": self.rows, "step": STEP}
        return _cuda.fused_step(
            **{
                "layers": self.layers,
                "product": product,
                "seed": SEED,
                "input_threshold": dropout_threshold(self.input_dropout),
                "loss": LOSSES[self.output],
                **self.targets(),
                **own,
                **given,
            }
        )

    def tolerance(self, product: int) -> float:
        layers = len(self.sizes) - 1
        terms = max(*self.sizes, self.rows) if product == FLOAT32 else 2
        return 3 * float(np.sqrt(2 * layers * terms / 3)) * UNITS[product]

    def gradient_tolerance(self, product: int) -> float:
        """The same; but a z within the error of 0 may take the other side of a kink.

        So may a share of all units as large as the error, and each is then wrong by its whole size.
        """
        off = self.tolerance(product)
        return float(np.sqrt(off)) if self.activation in KINKED else off


def relative(got: Any, want: Any) -> float:
    """The norm of the difference over that of what is wanted; not a number never passes."""
    error = float(np.linalg.norm(got - want) / np.linalg.norm(want))
    return error if np.isfinite(error) else np.inf


def check(case: Case, product: int) -> None:
    """Forward, loss and gradients."""
    wanted = case.net.forward(case.x.astype(np.float64))
    assert relative(case.forward(product), wanted) < case.tolerance(product)
    loss, gradients = case.step(product)
    value, wanted = case.net.loss_and_gradients(case.x.astype(np.float64), case.y)
    assert abs(loss - value) < case.tolerance(product) * abs(value)
    assert gradients.dtype == np.float32
    assert relative(gradients, wanted) < case.gradient_tolerance(product)
    # A part has fewer elements for errors to average over, and may be the smaller for cancelling.
    for got, want in zip(parts(case, gradients), parts(case, wanted), strict=True):
        assert relative(got[0], want[0]) < 4 * case.gradient_tolerance(product)
        assert relative(got[1], want[1]) < 4 * case.gradient_tolerance(product)


def parts(case: Case, flat: Any) -> list[tuple[Any, Any]]:
    """dw and db of each layer."""
    found, place = [], 0
    for k, n in itertools.pairwise(case.sizes):
        w, b = flat[place : place + k * n].reshape(k, n), flat[place + k * n : place + (k + 1) * n]
        found.append((w, b))
        place += (k + 1) * n
    return found


@PRODUCTS
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: str, product: int) -> None:
    check(Case((20, 33, 24, 5), 40, activation, dropout=0.25, input_dropout=0.1), product)


@PRODUCTS
@pytest.mark.parametrize(
    "sizes",
    [(1, 1), (128, 128), (2, 1, 3), (15, 16, 17), (31, 127, 65, 2), (64, 64, 64, 64, 64),
     (54, 128, 128, 7)],
    ids=str,
)  # fmt: skip
def test_widths(sizes: tuple[int, ...], product: int) -> None:
    check(Case(sizes, 37, "sigmoid", "identity"), product)


@pytest.mark.parametrize("product", [FLOAT32, BFLOAT16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 64, 65, 129, SEVERAL_TILES])
def test_rows(rows: int, product: int) -> None:
    """One block alone, blocks of one tile and of several, last tiles that are not full."""
    check(Case((9, 40, 40, 3), rows, "tanh", dropout=0.2, input_dropout=0.2), product)


@pytest.mark.parametrize("output", LOSSES)
@pytest.mark.parametrize("rows", [30, 300])
def test_losses(output: str, rows: int) -> None:
    check(Case((7, 20, 6), rows, "silu", output), FLOAT32)


@pytest.mark.parametrize(("product", "layers"), [(FLOAT32, 4), (BFLOAT16, 7)])
def test_weights_that_do_not_fit(product: int, layers: int) -> None:
    """All of them would take 270 or 243 KB: they are brought in one layer after the other."""
    check(Case((128,) * (layers + 1), 100, "elu", "identity"), product)


def test_shared_memory_of_48_kilobytes() -> None:
    """What a launch may have without asking for more, were there no static arrays beside it."""
    check(Case((64, 48, 10), 16), FLOAT32)


def test_masks_are_those_of_the_cpu() -> None:
    """With x = 1 row r of the first dw is dz of row r, which is 0 where an element was dropped."""
    m, n, dropout = 100, 51, 0.37
    case = Case((m, n, 1), m, "identity", "identity", dropout=dropout)
    case.x = np.eye(m, dtype=np.float32)
    case.parameters = np.ones_like(case.parameters)
    case.y = np.full((m, 1), -1000, np.float32)
    dz = parts(case, case.step(FLOAT32)[1])[0][0]
    np.testing.assert_array_equal(dz != 0, dropout_mask((m, n), dropout, (SEED, STEP, 0)))


def test_weights_of_rows_and_classes() -> None:
    case = Case((12, 30, 6), 200, output="softmax", dropout=0.1)
    rng = np.random.default_rng(1)
    rows, classes = rng.random(200).astype(np.float32), rng.random(6).astype(np.float32)
    rows[:20] = 0
    loss, gradients = case.step(
        FLOAT32, sample_weight=rows, class_weight=classes, label_smoothing=0.1
    )
    value, wanted = case.net.loss_and_gradients(
        case.x, case.y, sample_weight=rows, class_weight=classes, label_smoothing=0.1
    )
    assert abs(loss - value) < case.tolerance(FLOAT32) * value
    assert relative(gradients, wanted) < case.tolerance(FLOAT32)


def test_targets_in_a_wider_array() -> None:
    case = Case((12, 30, 6), 50, output="identity")
    wider = np.full((50, 9), np.nan, np.float32)
    wider[:, 1:7] = case.y
    loss, gradients = case.step(FLOAT32)
    same, other = case.step(FLOAT32, targets=wider[:, 1:7])
    assert same == loss
    np.testing.assert_array_equal(other, gradients)


def test_probabilities_as_targets() -> None:
    case = Case((12, 30, 6), 50)
    case.y = np.random.default_rng(1).dirichlet(np.ones(6), 50).astype(np.float32)
    check(case, FLOAT32)


@pytest.mark.parametrize("rows", [20, 200])
def test_batch_of_weight_zero(rows: int) -> None:
    case = Case((12, 30, 6), rows)
    loss, gradients = case.step(FLOAT32, sample_weight=np.zeros(rows, np.float32))
    assert loss == 0
    assert not gradients.any()


def test_forms_of_the_loss() -> None:
    """Factors on the value and the gradient; a row of a softmax costs within least and most."""
    case = Case((12, 30, 6), 50)
    loss, gradients = case.step(FLOAT32)
    form = (3.0, 2.0, 0.0, -np.inf, np.inf)
    other, others = case.step(FLOAT32, form=form)
    assert abs(other - 3 * loss) < 1e-15 * other  # double, four roundings
    np.testing.assert_allclose(others, 2 * gradients, rtol=2**-22)  # of the factor and the product
    assert case.step(FLOAT32, form=(1.0, 1.0, 0.0, 7.0, 7.5))[0] == 7.0 or loss > 7
    clipped = Case((12, 30, 6), 50, output="sigmoid")
    clipped.parameters *= 40  # probabilities beyond the clip
    z = clipped.forward(FLOAT32).astype(np.float64)
    p = np.clip(1 / (1 + np.exp(-z)), 0.01, 0.99)
    wanted = -np.mean(clipped.y * np.log(p) + (1 - clipped.y) * np.log(1 - p))
    found = clipped.step(FLOAT32, form=(1.0, 1.0, 0.01, -np.inf, np.inf))[0]
    assert abs(found - wanted) < clipped.tolerance(FLOAT32) * wanted


OPTIMIZERS = {
    "sgd": (0, reference.SGD(0.1), ()),
    "momentum": (0, reference.SGD(0.1, momentum=0.9), ("momentum",)),
    "nesterov": (0, reference.SGD(0.1, momentum=0.9, nesterov=True), ("momentum",)),
    "rmsprop": (1, reference.RMSprop(0.01), ("square",)),
    "adam": (2, reference.Adam(0.01), ("mean", "square")),
    "adamw": (2, reference.AdamW(0.01, weight_decay=0.1, clip_value=1e-3), ("mean", "square")),
}


@pytest.mark.parametrize("rows", [20, 200])
@pytest.mark.parametrize("by_state", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates(name: str, by_state: bool, rows: int) -> None:
    """The step on parameters and moments, from the gradients that the kernel gives with it."""
    rule, optimizer, names = OPTIMIZERS[name]
    case = Case((12, 30, 6), rows)
    rng = np.random.default_rng(2)
    moments = {
        moment: rng.random(case.net.n_parameters).astype(np.float32) * 1e-3 for moment in names
    }
    betas = getattr(optimizer, "betas", (getattr(optimizer, "momentum", 0.0),
                                         getattr(optimizer, "alpha", 0.0)))  # fmt: skip
    lr, correction, t = optimizer.learning_rate(), 1.0, 5
    if rule == 2:
        lr, correction = lr / (1 - betas[0] ** t), 1 / np.sqrt(1 - betas[1] ** t)
    settings = (lr, *betas, getattr(optimizer, "eps", 0.0), correction,
                optimizer.learning_rate() * getattr(optimizer, "weight_decay", 0.0),
                optimizer.clip_value or np.inf)  # fmt: skip
    before = case.parameters.copy()
    state = {moment: values.astype(np.float64) for moment, values in moments.items()}
    _, gradients = case.step(
        FLOAT32,
        update=(rule, settings, getattr(optimizer, "nesterov", False)),
        first=moments.get("momentum", moments.get("mean")),
        second=moments.get("square"),
        state=(0, 3) if by_state else None,
    )
    net = case.net
    net.gradients = gradients
    optimizer.reset()
    optimizer.prepare(net.parameters, net.gradients)
    optimizer.state, optimizer.steps = state, t - 1
    net.update(optimizer)
    # Up to 8 roundings of a change, and one of the parameter.
    change = np.abs(net.parameters - before)
    off = np.abs(case.parameters - net.parameters)
    assert change.max() > 0
    assert (off <= 8 * 2**-24 * change * (1 + 2**-20) + 2**-24 * np.abs(before) * 2).all()
    for moment in names:  # a sum of two or three rounded terms of either sign
        wanted = optimizer.state[moment]
        largest = np.abs(wanted).max()
        np.testing.assert_allclose(moments[moment], wanted, rtol=0, atol=6 * 2**-24 * largest)


def test_rows_of_a_data_set() -> None:
    """Rows in any order from where the state says, converted while they are read."""
    rng = np.random.default_rng(3)
    data = rng.integers(0, 256, (90, 13), dtype=np.uint8)
    order = rng.permutation(90)
    case = Case((13, 30, 6), 40)
    case.y = rng.integers(0, 6, 90)
    chosen = order[25:65]
    wide = data.astype(np.float64) * 3 + 0.1
    shift, factor = wide.mean(0), 1 / wide.std(0)
    for given, x in (
        ({"x": data, "scale": 1 / 255}, data[chosen].astype(np.float32) * np.float32(1 / 255)),
        ({"x": wide, "shift": shift, "factor": factor}, (wide[chosen] - shift) * factor),
        (
            {"x": data, "shift": shift.astype("f4"), "factor": factor.astype("f4")},
            (data[chosen] - shift.astype("f4")) * factor.astype("f4"),
        ),
    ):
        loss, gradients = case.step(FLOAT32, rows=order, state=(25, 0), **given)
        value, wanted = case.net.loss_and_gradients(x, case.y[chosen])
        assert abs(loss - value) < case.tolerance(FLOAT32) * value
        assert relative(gradients, wanted) < case.tolerance(FLOAT32)
        case.net.parameters = case.parameters
        out = case.forward(FLOAT32, rows=chosen, **given)
        assert relative(out, case.net.forward(x)) < case.tolerance(FLOAT32)


@PRODUCTS
def test_same_bits_each_time(product: int) -> None:
    case = Case((9, 70, 70, 3), 700, dropout=0.3)
    first, second = case.step(product), case.step(product)
    assert first[0] == second[0]
    np.testing.assert_array_equal(first[1], second[1])


def test_not_a_number_shows() -> None:
    case = Case((9, 40, 3), 100)
    case.x[50, 3] = np.nan
    loss, gradients = case.step(FLOAT32)
    assert np.isnan(loss)
    assert np.isnan(gradients[: 9 * 40]).any()


def test_what_is_supported() -> None:
    assert _cuda.fused_supports([(128, 128, 1, 0), (128, 1, 0, 0)], FLOAT32)
    assert not _cuda.fused_supports([(129, 5, 0, 0)], FLOAT32)
    assert not _cuda.fused_supports([(5, 129, 1, 0), (129, 5, 0, 0)], FLOAT32)
    assert not _cuda.fused_supports([(5, 6, 1, 0), (7, 5, 0, 0)], FLOAT32)  # 6 is not 7
    assert not _cuda.fused_supports([(5, 5, 1, 0)], FLOAT32)  # an output that is activated
    assert not _cuda.fused_supports([(5, 5, 0, 100)], FLOAT32)  # or dropped
    assert not _cuda.fused_supports([(5, 5, 0, 0)] * 17, FLOAT32)
    gelu = ACTIVATIONS.index(NEEDS_INPUT[0])
    deep = [(128, 128, gelu, 0)] * 15 + [(128, 128, 0, 0)]
    assert _cuda.fused_supports(deep, BFLOAT16)
    assert not _cuda.fused_supports(deep, FLOAT32)  # z of 16 rows does not fit beside the rest


@pytest.mark.skipif(not _cuda.emulated, reason="the order of threads is the emulator's to choose")
def test_order_of_threads_does_not_matter() -> None:
    """A missing barrier is likely to change the results of one of these orders."""
    program = (
        "import sys; sys.path.insert(0, 'tests' if len(sys.argv) < 2 else sys.argv[1])\n"
        "import test_cuda_fused as t\n"
        "for rows in (20, t.SEVERAL_TILES):\n"
        "    for product in t.UNITS:\n"
        "        case = t.Case((20, 70, 33, 5), rows, 'gelu', dropout=0.2, input_dropout=0.1)\n"
        "        for found in (case.step(product)[1], case.forward(product)):\n"
        "            print(found.tobytes().hex())"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", program, os.path.dirname(__file__)],
            env=os.environ | {"FANIN_EMULATED_ORDER": order},
            capture_output=True, text=True, check=True,
        ).stdout
        for order in ("forward", "backward", "random:1", "random:2")
    ]  # fmt: skip
    assert len(found[0]) > 10000
    assert len(set(found)) == 1
