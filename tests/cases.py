"""The case list: one row per thing that is checked, differentiated or timed.

Correctness tests, the gradient check and the benchmarks all read these lists, so a new operation is
one new row, used everywhere. A row is a frozen dataclass; `str(case)` is its readable test id, and
`case.uses` says what it is for: "check" (against the reference), "grad" (two-sided differences),
"bench" (timed). `slow=True` rows run only with `pytest -m slow`.

    @pytest.mark.parametrize("case", params(GEMM, "check"))
    def test_matmul(case): ...

Sizes come from `edges`: one below, at and above every vector and tile width, and twice it plus one.
Letters as everywhere: x (m, k), w (k, n), b (n), z and a (m, n).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from fanin.bench import steps

DTYPES = ("float32", "float64")
ACTIVATIONS = (
    "identity",
    "relu",
    "leaky_relu",
    "elu",
    "selu",
    "tanh",
    "sigmoid",
    "gelu",
    "gelu_tanh",
    "silu",
    "softplus",
)
NEEDS_INPUT = ("gelu", "gelu_tanh", "silu")  # activation_backward takes z for these, a for the rest
DROPOUTS = (0.0, 0.1, 0.5, 0.9)
THREADS = (1, 2, 3, 8)

LANES = (2, 4, 8, 16)  # lanes of a vector: SSE2 and NEON, AVX2, AVX-512, float64 and float32
TILE_ROWS = (4, 6, 8, 14)  # rows of the register tiles
TILE_COLUMNS = (16, 24, 32, 48)  # columns of the register tiles
K_BLOCK = 512  # length of a chain of fused multiply-adds: part of the promise, not a tuning knob


def edges(*widths: int) -> tuple[int, ...]:
    """The sizes 1, w - 1, w, w + 1 and 2 w + 1 of every width, sorted, each once, none zero."""
    sizes = {size for w in widths for size in (1, w - 1, w, w + 1, 2 * w + 1)}
    return tuple(sorted(sizes - {0}))


class Case:
    """What the rows share; subclasses are frozen dataclasses with `uses` and `slow`."""

    uses: tuple[str, ...]
    slow: bool


C = TypeVar("C", bound=Case)


def select(cases: Iterable[C], use: str) -> list[C]:
    """The rows meant for one use: "check", "grad" or "bench"."""
    return [case for case in cases if use in case.uses]


def params(cases: Iterable[Case], use: str) -> list:
    """The same as pytest parameters, with readable ids and the marker `slow` where it belongs."""
    import pytest

    slow = (pytest.mark.slow,)
    return [
        pytest.param(case, id=str(case), marks=slow if case.slow else ())
        for case in select(cases, use)
    ]


# Memory layouts: the same values, other strides -----------------------------------------------

LAYOUTS = ("c", "f", "padded", "every_other", "reversed", "f_reversed")


def lay_out(values: np.ndarray, layout: str) -> np.ndarray:
    """A 2-D view equal to `values`, in memory of its own, laid out as named.

    c and f: contiguous rows or columns; padded: a gap between rows; every_other: a stride of two
    elements along rows and columns; reversed: both strides negative; f_reversed: its transpose.
    """
    rows, columns = values.shape
    if layout == "c":
        return np.array(values, order="C")
    if layout == "f":
        return np.array(values, order="F")
    if layout == "padded":
        view = np.full((rows, columns + 3), np.nan, values.dtype)[:, 1 : columns + 1]
    elif layout == "every_other":
        view = np.full((2 * rows, 2 * columns), np.nan, values.dtype)[::2, ::2]
    elif layout == "reversed":
        view = np.empty((rows, columns), values.dtype)[::-1, ::-1]
    elif layout == "f_reversed":
        view = np.empty((columns, rows), values.dtype)[::-1, ::-1].T
    else:
        raise ValueError(f"layout: unknown {layout!r}; known: {', '.join(LAYOUTS)}")
    view[...] = values
    return view


def sum_bound(terms: int, dtype: str) -> float:
    """Higham's gamma: a sum of `terms` products is off by at most this times the sum of |x||w|."""
    u = float(np.finfo(dtype).eps) / 2
    return terms * u / (1 - terms * u)


# Products -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gemm(Case):
    """c (m, n) = x (m, k) @ w (k, n), x and w laid out as named."""

    m: int
    k: int
    n: int
    x_layout: str = "c"
    w_layout: str = "c"
    uses: tuple[str, ...] = ("check",)
    slow: bool = False

    @property
    def flops(self) -> int:
        return 2 * self.m * self.k * self.n

    def __str__(self) -> str:
        return f"{self.m}x{self.k}x{self.n}-{self.x_layout}-{self.w_layout}"


ORIENTATIONS = tuple(itertools.product("cf", repeat=2))

# Along one size at a time, in every orientation; the zero sizes; every pair of layouts once.
_gemm_sizes = (
    *((m, 17, 19) for m in edges(*TILE_ROWS)),
    *((9, 13, n) for n in edges(*LANES, *TILE_COLUMNS)),
    *((5, k, 18) for k in (*edges(8), K_BLOCK - 1, K_BLOCK, K_BLOCK + 1, 2 * K_BLOCK + 1)),
    *((0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0), (1, 1, 1), (1, 700, 1)),
    *((33, 65, 97), (70, 513, 130), (130, 64, 257), (512, 515, 200), (256, 1030, 97)),
)
# Around every corner of every tile, k across a block edge: for `-m slow`.
_gemm_corners = itertools.product(
    edges(*TILE_ROWS), (2, 7, K_BLOCK + 1), edges(*LANES, *TILE_COLUMNS)
)
# What MEASURED figures are quoted on, the three sizes with a floor among them.
_gemm_timed = (
    (32, 64, 64),
    (64, 256, 256),
    (128, 784, 512),
    (256, 500, 500),
    (1024, 1024, 1024),
    (200, 100, 1),
)

GEMM: tuple[Gemm, ...] = (
    *(Gemm(m, k, n, *o) for (m, k, n) in _gemm_sizes for o in ORIENTATIONS),
    *(Gemm(19, 37, 53, *pair) for pair in itertools.product(LAYOUTS, repeat=2)),
    *(Gemm(m, k, n, *o, slow=True) for (m, k, n) in _gemm_corners for o in ORIENTATIONS),
    *(Gemm(*size, uses=("bench",)) for size in _gemm_timed),
    # the two products of the backward pass: dw = x.T @ dz, dx = dz @ w.T
    Gemm(500, 256, 500, "f", "c", uses=("bench",)),
    Gemm(256, 500, 500, "c", "f", uses=("bench",)),
)


# Elementwise ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Activation(Case):
    """a = f(z) and dz = da f'(z), z (m, n)."""

    kind: str
    m: int
    n: int
    uses: tuple[str, ...] = ("check", "grad")
    slow: bool = False

    def __str__(self) -> str:
        return f"{self.kind}-{self.m}x{self.n}"


ACTIVATION: tuple[Activation, ...] = (
    *(Activation(kind, 3, n) for kind in ACTIVATIONS for n in edges(*LANES)),
    *(Activation(kind, m, n) for kind in ACTIVATIONS for (m, n) in ((0, 3), (3, 0), (1, 100))),
    *(Activation(kind, 256, 500, uses=("bench",)) for kind in ACTIVATIONS),
)


@dataclass(frozen=True, slots=True)
class Dropout(Case):
    """The mask of an (m, n) activation at one dropout rate."""

    m: int
    n: int
    dropout: float
    uses: tuple[str, ...] = ("check",)
    slow: bool = False

    def __str__(self) -> str:
        return f"{self.m}x{self.n}-{self.dropout}"


DROPOUT: tuple[Dropout, ...] = (
    *(Dropout(5, n, 0.3) for n in edges(*LANES)),
    *(Dropout(m, 21, 0.3) for m in edges(8, 16)),
    *(Dropout(33, 50, rate) for rate in (*DROPOUTS, 1e-9, 1 - 1e-9)),
    *(Dropout(m, n, 0.5) for (m, n) in ((0, 4), (4, 0))),
    *(Dropout(256, 500, rate, uses=("bench",)) for rate in (0.2, 0.5)),
)


@dataclass(frozen=True, slots=True)
class Stats(Case):
    """activation_stats of an (m, n) array; bins = 0 means no histogram."""

    m: int
    n: int
    bins: int = 0
    activation: str | None = None
    uses: tuple[str, ...] = ("check",)
    slow: bool = False

    def __str__(self) -> str:
        return f"{self.m}x{self.n}-bins{self.bins}-{self.activation or 'plain'}"


STATS: tuple[Stats, ...] = (
    *(Stats(5, n, bins) for n in edges(*LANES) for bins in (0, 50)),
    *(Stats(m, 19) for m in edges(8, 16, 64)),
    *(Stats(40, 30, 7, kind) for kind in ACTIVATIONS),
    *(Stats(256, 500, bins, "tanh", uses=("bench",)) for bins in (0, 50)),
)


# Layers ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dense(Case):
    """a (m, n) = dropout(f(x (m, k) @ w (k, n) + b (n))), and back."""

    m: int
    k: int
    n: int
    activation: str = "tanh"
    dropout: float = 0.0
    bias: bool = True
    stats: bool = False
    x_layout: str = "c"
    w_layout: str = "c"
    uses: tuple[str, ...] = ("check",)
    slow: bool = False

    @property
    def forward_flops(self) -> int:
        return 2 * self.m * self.k * self.n

    @property
    def backward_flops(self) -> int:
        return 4 * self.m * self.k * self.n

    def __str__(self) -> str:
        bias = "bias" if self.bias else "nobias"
        stats = "-stats" if self.stats else ""
        layout = f"-{self.x_layout}{self.w_layout}"
        return (
            f"{self.m}x{self.k}x{self.n}-{self.activation}-{self.dropout}-{bias}{stats}"
            f"{layout if layout != '-cc' else ''}"
        )


_both = ("check", "grad")
DENSE: tuple[Dense, ...] = (
    *(
        Dense(7, 5, 9, kind, rate, stats=rate > 0, uses=_both)
        for kind in ACTIVATIONS
        for rate in (0.0, 0.4)
    ),
    *(Dense(m, 11, 13, "tanh", 0.3, stats=True) for m in edges(*TILE_ROWS)),
    *(Dense(6, 11, n, "relu", 0.3, stats=True) for n in edges(*LANES, *TILE_COLUMNS)),
    *(Dense(6, k, 13, "gelu", 0.3) for k in (1, K_BLOCK, K_BLOCK + 1)),
    *(Dense(8, 10, 12, bias=False, uses=_both),),
    *(Dense(19, 23, 29, "silu", 0.2, True, True, *o) for o in itertools.product(LAYOUTS, "cf")),
    *(Dense(m, k, n) for (m, k, n) in ((0, 3, 4), (3, 0, 4), (3, 4, 0), (1, 1, 1))),
    *(
        Dense(m, k, n, kind, rate, stats=True, slow=True)
        for (m, n) in itertools.product(edges(*TILE_ROWS), edges(*TILE_COLUMNS))
        for k in (1, K_BLOCK + 1)
        for (kind, rate) in (("tanh", 0.0), ("relu", 0.5))
    ),
    Dense(32, 64, 64, "tanh", uses=("bench",)),
    Dense(128, 784, 512, "relu", 0.2, uses=("bench",)),
    Dense(256, 500, 500, "tanh", uses=("bench",)),
    Dense(256, 500, 500, "tanh", 0.2, stats=True, uses=("bench",)),
)


@dataclass(frozen=True, slots=True)
class BatchNorm(Case):
    """Batch norm of x (m, n), in training or with the running statistics."""

    m: int
    n: int
    training: bool = True
    layout: str = "c"
    uses: tuple[str, ...] = ("check",)
    slow: bool = False

    def __str__(self) -> str:
        mode = "training" if self.training else "inference"
        return f"{self.m}x{self.n}-{mode}-{self.layout}"


BATCH_NORM: tuple[BatchNorm, ...] = (
    *(BatchNorm(6, n, mode) for n in edges(*LANES) for mode in (True, False)),
    *(BatchNorm(m, 5) for m in edges(8, 16, 64) if m > 1),
    *(BatchNorm(9, 10, True, layout) for layout in LAYOUTS),
    *(BatchNorm(m, 5, False) for m in (0, 1)),
    *(BatchNorm(12, 7, mode, uses=("grad",)) for mode in (True, False)),
    *(BatchNorm(256, 500, mode, uses=("bench",)) for mode in (True, False)),
)


@dataclass(frozen=True, slots=True)
class Loss(Case):
    """A loss of (m, n) outputs. targets: "labels" or "probabilities" (softmax), "values" (others).

    `vector` means 1-D outputs of length m (sigmoid and mean squared error only).
    """

    function: str
    m: int
    n: int
    targets: str = "values"
    sample_weight: bool = False
    class_weight: bool = False
    label_smoothing: float = 0.0
    vector: bool = False
    uses: tuple[str, ...] = ("check", "grad")
    slow: bool = False

    def __str__(self) -> str:
        extras = (
            (self.sample_weight, "sw"),
            (self.class_weight, "cw"),
            (self.label_smoothing > 0, "smooth"),
            (self.vector, "vector"),
        )
        name = f"{self.function}-{self.m}x{self.n}-{self.targets}"
        return "-".join([name, *(text for wanted, text in extras if wanted)])


_softmax = "softmax_cross_entropy"
_sigmoid = "sigmoid_cross_entropy"
_squared = "mean_squared_error"
LOSS: tuple[Loss, ...] = (
    *(
        Loss(_softmax, 7, 5, targets, sample, classes, smooth)
        for targets in ("labels", "probabilities")
        for sample in (False, True)
        for classes in (False, True)
        for smooth in (0.0, 0.1)
    ),
    *(
        Loss(_sigmoid, 7, 5, "values", sample, False, smooth, vector)
        for sample in (False, True)
        for smooth in (0.0, 0.1)
        for vector in (False, True)
    ),
    *(
        Loss(_squared, 7, 5, "values", sample, vector=vector)
        for sample in (False, True)
        for vector in (False, True)
    ),
    *(Loss(_softmax, 3, n, "labels") for n in edges(*LANES)),
    *(Loss(f, 3, n) for f in (_sigmoid, _squared) for n in edges(*LANES)),
    *(Loss(_softmax, m, 10, "labels", uses=("check",)) for m in edges(8, 16, 64)),
    *(Loss(_softmax, m, n, "labels", uses=("bench",)) for (m, n) in ((128, 10), (512, 1000))),
    *(Loss(f, 256, 500, uses=("bench",)) for f in (_sigmoid, _squared)),
)


# Optimizers -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Optimizer(Case):
    """An optimizer by class name and arguments, on a flat vector of `size` parameters."""

    name: str
    arguments: tuple[tuple[str, object], ...]
    size: int
    uses: tuple[str, ...] = ("check",)
    slow: bool = False

    def make(self, package):
        """The optimizer itself, of `package` (fanin or fanin.reference)."""
        return getattr(package, self.name)(**dict(self.arguments))

    def __str__(self) -> str:
        shown = "-".join(f"{key}={value}" for key, value in self.arguments if key != "lr")
        return f"{self.name}-{self.size}" + (f"-{shown}" if shown else "")


OPTIMIZERS: tuple[tuple[str, tuple[tuple[str, object], ...]], ...] = (
    ("SGD", (("lr", 0.1),)),
    ("SGD", (("lr", 0.1), ("momentum", 0.9))),
    ("SGD", (("lr", 0.1), ("momentum", 0.9), ("nesterov", True))),
    ("RMSprop", (("lr", 0.01),)),
    ("Adam", (("lr", 0.001),)),
    ("AdamW", (("lr", 0.001), ("weight_decay", 0.01))),
)
CLIPPED: tuple[tuple[str, tuple[tuple[str, object], ...]], ...] = (
    ("SGD", (("lr", 0.1), ("momentum", 0.9), ("clip_norm", 1.0))),
    ("RMSprop", (("lr", 0.01), ("clip_value", 0.5))),
    ("Adam", (("lr", 0.001), ("clip_norm", 0.5), ("clip_value", 0.25))),
    ("AdamW", (("lr", 0.001), ("clip_norm", 1.0))),
)
OPTIMIZER: tuple[Optimizer, ...] = (
    *(
        Optimizer(*which, size)
        for which in (*OPTIMIZERS, *CLIPPED)
        for size in (0, *edges(*LANES), 1000)
    ),
    *(Optimizer(*which, 500_000, uses=("bench",)) for which in OPTIMIZERS),
)


# Networks -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Network(steps.Network, Case):
    """An MLP and a batch: what is compared with the reference and with two-sided differences.

    What is timed has its own list, fanin.bench.steps.
    """

    batch_norm: bool | str | tuple[bool | str, ...] = False
    input_dropout: float = 0.0
    l1: float = 0.0
    l2: float = 0.0
    sample_weight: bool = False
    label_smoothing: float = 0.0
    uses: tuple[str, ...] = ("check", "grad")
    slow: bool = False

    def make(self, package, dtype: str = "float32", seed: int = 0):
        """The network itself, of `package` (fanin or fanin.reference)."""
        return package.MLP(
            list(self.sizes),
            activation=self.activation,
            output=self.output,
            dropout=self.dropout,
            batch_norm=self.batch_norm,
            input_dropout=self.input_dropout,
            l1=self.l1,
            l2=self.l2,
            dtype=dtype,
            seed=seed,
        )


def _net(name: str, **options) -> Network:
    return Network(name, **{"sizes": (6, 9, 7, 4), "batch": 11, **options})


NETWORK: tuple[Network, ...] = (
    *(_net(f"{kind}", activation=kind) for kind in ACTIVATIONS),
    *(_net(f"{out}-out", activation="tanh", output=out) for out in ("sigmoid", "identity")),
    _net("one-layer", sizes=(5, 3)),
    _net("one-output", sizes=(5, 8, 1), output="sigmoid", activation="elu"),
    _net("dropout", activation="tanh", dropout=0.4),
    _net("batch-norm", activation="tanh", batch_norm=True),
    *(
        _net(f"batch-norm-after-{kind}-{rate}", activation=kind, batch_norm="after", dropout=rate)
        for kind in ("tanh", "gelu", "relu")
        for rate in (0.0, 0.3)
    ),
    _net("batch-norm-mixed", activation="silu", batch_norm=("after", "before"), dropout=0.3),
    _net("batch-norm-in-one", activation="elu", batch_norm=(False, "after"), input_dropout=0.2),
    _net("input-dropout", activation="tanh", input_dropout=0.3),
    _net("l1", activation="tanh", l1=1e-2),
    _net("l2", activation="tanh", l2=1e-2),
    _net("weighted", activation="silu", sample_weight=True, label_smoothing=0.1),
    *(
        _net(
            f"everything-{kind}",
            activation=kind,
            dropout=0.3,
            batch_norm=True,
            l1=1e-3,
            l2=1e-2,
            sample_weight=True,
            label_smoothing=0.1,
        )
        for kind in ("tanh", "gelu", "softplus", "relu")
    ),
    _net("odd-sizes", sizes=(17, 33, 49, 5), batch=19, dropout=0.2),
    _net("deep-k", sizes=(K_BLOCK + 1, 20, 3), batch=9, activation="tanh"),
)
