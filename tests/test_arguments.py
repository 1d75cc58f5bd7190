"""Refusals: which argument, what was expected, what was found; and nothing is written before.

Every function of the table below gets every kind of wrong array in every argument; the rest are
single values. Each check runs on the compiled functions and on the reference.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field

import numpy as np
import pytest

import fanin
from compare import same_bits
from fanin import _core

KEY = (1, 2, 3)


def f(*shape: int) -> np.ndarray:
    """Different float32 numbers, all in (0, 1)."""
    count = int(np.prod(shape))
    return ((np.arange(count) + 1) / (count + 1)).astype(np.float32).reshape(shape)


@dataclass
class Call:
    """A call that works: its array arguments, which of them are written, and the rest."""

    arrays: dict[str, np.ndarray]
    rest: dict[str, object] = field(default_factory=dict)
    written: tuple[str, ...] = ()
    name: str = ""

    def on(self, package, **changes):
        """Call the function of the package with some arguments replaced."""
        return function_of(package, self.name)(**{**self.arrays, **self.rest, **changes})


def function_of(package, name: str):
    """A public function, or one half of a pair or an optimizer's update as a function."""
    if name == "dense_backward":
        _, cache = package.dense_forward(f(3, 4), f(4, 5), f(5))
        return lambda da: package.dense_backward(da, cache)
    if name == "batch_norm_backward":
        _, cache = package.batch_norm_forward(f(3, 4), f(4), f(4), f(4), f(4), training=False)
        return lambda dy: package.batch_norm_backward(dy, cache)
    if name in ("SGD", "RMSprop", "Adam", "AdamW"):
        return getattr(package, name)(lr=0.1).update
    return getattr(package, name)


CALLS = {
    "matmul": Call({"x": f(3, 4), "w": f(4, 5), "out": f(3, 5)}, written=("out",)),
    "dense_forward": Call(
        {"x": f(3, 4), "w": f(4, 5), "b": f(5), "out": f(3, 5)}, written=("out",)
    ),
    "dense_backward": Call({"da": f(3, 5)}),
    "activation_forward": Call({"z": f(3, 4)}, {"kind": "tanh"}),
    "activation_backward": Call({"da": f(3, 4), "a_or_z": f(3, 4)}, {"kind": "tanh"}),
    "batch_norm_forward": Call(
        {"x": f(3, 4), "gamma": f(4), "beta": f(4), "running_mean": f(4), "running_var": f(4)},
        {"training": True},
        written=("running_mean", "running_var"),
    ),
    "batch_norm_backward": Call({"dy": f(3, 4)}),
    "softmax_cross_entropy": Call({"z": f(3, 4)}, {"labels": np.array([0, 1, 3])}),
    "sigmoid_cross_entropy": Call({"z": f(3, 4), "targets": f(3, 4)}),
    "mean_squared_error": Call({"y": f(3, 4), "targets": f(3, 4)}),
    "activation_stats": Call({"a": f(3, 4)}),
    **{
        name: Call({"parameters": f(9), "gradients": f(9)}, written=("parameters",))
        for name in ("SGD", "RMSprop", "Adam", "AdamW")
    },
}
for _name, _call in CALLS.items():
    _call.name = _name

# Integers and bools are targets of sigmoid_cross_entropy.
ALLOWED = {
    ("sigmoid_cross_entropy", "targets", "int"),
    ("sigmoid_cross_entropy", "targets", "bool"),
}
# These take arrays of any number of dimensions, or of one or two.
ANY_SHAPE = {"activation_forward", "activation_stats"}


def misaligned(a: np.ndarray) -> np.ndarray:
    raw = np.empty(a.nbytes + 1, np.uint8)[1:]
    view = raw.view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def odd_strides(a: np.ndarray) -> np.ndarray:
    """Every element aligned to a byte, six bytes apart."""
    raw = np.zeros(a.size * 6 + 8, np.uint8)
    flat = np.ndarray(a.size, a.dtype, raw.data, strides=(6,))
    flat[...] = a.ravel()
    strides = [6 * s // a.itemsize for s in a.strides]
    return np.ndarray(a.shape, a.dtype, raw.data, strides=strides)


WRONG = {
    "list": (lambda a: a.tolist(), TypeError),
    "int": (lambda a: a.astype(np.int64), TypeError),
    "bool": (lambda a: a > 0, TypeError),
    "object": (lambda a: a.astype(object), TypeError),
    "complex": (lambda a: a.astype(complex), TypeError),
    "str": (lambda a: a.astype(str), TypeError),
    "float16": (lambda a: a.astype(np.float16), TypeError),
    "longdouble": (lambda a: a.astype(np.longdouble), TypeError),
    "masked": (np.ma.masked_array, TypeError),
    "string": (lambda a: "array", TypeError),
    "number": (lambda a: 3.0, TypeError),
    "byte-swapped": (lambda a: a.astype(a.dtype.newbyteorder()), ValueError),
    "misaligned": (misaligned, ValueError),
    "odd strides": (odd_strides, ValueError),
    "float64": (lambda a: a.astype(np.float64), ValueError),
    "one more dimension": (lambda a: a[None], ValueError),
    "one less dimension": (lambda a: a[0], (TypeError, ValueError)),
    "longer": (lambda a: np.concatenate([a, a]), ValueError),
    "wider": (lambda a: np.concatenate([a, a], axis=-1), ValueError),
}


def wrong_arguments():
    for name, call in CALLS.items():
        for argument, (what, (_, error)) in itertools.product(call.arrays, WRONG.items()):
            alone = len(call.arrays) == 1 and not call.rest.get("labels") is not None
            if (name, argument, what) in ALLOWED:
                continue
            if alone and name in ANY_SHAPE and what in (
                "float64", "one more dimension", "one less dimension", "longer", "wider"
            ) and (name, what) != ("activation_stats", "one more dimension"):  # fmt: skip
                continue
            if name == "softmax_cross_entropy" and what in ("float64", "wider"):
                continue
            if (name, argument, what) == ("batch_norm_forward", "x", "longer"):
                continue
            yield pytest.param(name, argument, what, error, id=f"{name}-{argument}-{what}")


@pytest.mark.parametrize(("name", "argument", "what", "error"), list(wrong_arguments()))
def test_wrong_arrays(name, argument, what, error, package):
    call = CALLS[name]
    bad = WRONG[what][0](call.arrays[argument])
    before = {key: a.copy() for key, a in call.arrays.items()}
    with pytest.raises(error) as caught:
        call.on(package, **{argument: bad})
    message = str(caught.value)
    # a mismatch of two arguments may be told of either
    told = [argument] if error is TypeError else [*call.arrays, "labels"]
    assert re.match(rf"({'|'.join(told)}): ", message), message
    assert "expected" in message
    for key, a in call.arrays.items():
        same_bits(a, before[key])


@pytest.mark.parametrize("name", CALLS)
def test_the_calls_work(name, package):
    """The table's calls are right but for what a test changes."""
    call = Call({k: a.copy() for k, a in CALLS[name].arrays.items()}, CALLS[name].rest, name=name)
    call.on(package)
    for argument in CALLS[name].written:
        assert not np.array_equal(call.arrays[argument], CALLS[name].arrays[argument]), argument


@pytest.mark.parametrize(
    ("name", "argument"), [(n, a) for n, call in CALLS.items() for a in call.written]
)
def test_read_only_outputs(name, argument, package):
    bad = CALLS[name].arrays[argument].copy()
    bad.flags.writeable = False
    with pytest.raises(ValueError, match=rf"^{argument}: expected a writeable array"):
        CALLS[name].on(package, **{argument: bad})


def overlapping():
    """name of a call, changes that share memory, the argument told."""
    square = f(4, 4)
    yield "matmul", {"x": square, "w": f(4, 4), "out": square}, "out"
    yield "matmul", {"x": f(4, 4), "w": square, "out": square.T}, "out"
    memory = f(40)
    yield "matmul", {"x": memory[:12].reshape(3, 4), "out": memory[11:26].reshape(3, 5)}, "out"
    yield "dense_forward", {"x": square, "w": f(4, 4), "b": f(4), "out": square}, "out"
    b = f(25)
    yield "dense_forward", {"b": b[:5], "out": b[4:19].reshape(3, 5)}, "out"
    vector = f(4)
    yield "batch_norm_forward", {"running_mean": vector, "running_var": vector}, "running_mean"
    yield "batch_norm_forward", {"gamma": vector, "running_var": vector}, "running_var"
    x = f(3, 4)
    yield "batch_norm_forward", {"x": x, "running_mean": x[0]}, "running_mean"
    p = f(9)
    yield "Adam", {"parameters": p, "gradients": p}, "gradients"
    p = f(18)
    yield "SGD", {"parameters": p[:9], "gradients": p[8:17]}, "gradients"


@pytest.mark.parametrize(("name", "changes", "told"), list(overlapping()))
def test_overlapping_outputs(name, changes, told, package):
    before = {key: a.copy() for key, a in changes.items()}
    with pytest.raises(ValueError, match=rf"^{told}: .*overlap") as caught:
        CALLS[name].on(package, **changes)
    assert "expected" in str(caught.value)
    for key, a in changes.items():
        same_bits(a, before[key])


def test_outputs_that_overlap_themselves(package):
    """Rows that share elements, or a stride that is neither along rows nor columns."""
    memory = np.full(100, 7, np.float32)
    views = {
        "one row for all": np.lib.stride_tricks.as_strided(memory, (3, 5), (0, 4)),
        "rows that overlap": np.lib.stride_tricks.as_strided(memory, (3, 5), (8, 4)),
        "every other element": np.lib.stride_tricks.as_strided(memory, (3, 5), (40, 8)),
        "one number": np.lib.stride_tricks.as_strided(memory, (3, 5), (0, 0)),
    }
    for name, out in views.items():
        for call in ("matmul", "dense_forward"):
            with pytest.raises(ValueError, match=r"^out: expected"):
                CALLS[call].on(package, out=out)
            assert (memory == 7).all(), name


def test_parameters_that_are_not_contiguous(package):
    long = f(18)
    before = long.copy()
    for changes, told in (({"parameters": long[::2]}, "parameters"),
                          ({"gradients": long[::2]}, "gradients")):  # fmt: skip
        with pytest.raises(ValueError, match=rf"^{told}: expected a contiguous array"):
            CALLS["Adam"].on(package, **changes)
    with pytest.raises(ValueError, match=r"^running_mean: expected a contiguous"):
        CALLS["batch_norm_forward"].on(package, running_mean=f(8)[::2])
    same_bits(long, before)


# ---- numbers and names -----------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
NUMBERS = {
    ("dense_forward", "dropout"): ([-0.1, 1.0, 1.5, NAN, INF], ["0.5", None, True, [0.5], 0.5j]),
    ("dense_forward", "stats"): ([-1], ["yes", 0.5, None]),
    ("dense_forward", "activation"): (["tahn", "", "RELU"], [3, None]),
    ("activation_forward", "kind"): (["tahn", "softmax"], [3, None]),
    ("activation_backward", "kind"): (["tahn"], [3, None]),
    ("batch_norm_forward", "momentum"): ([-0.1, 1.1, NAN], ["0.1", None, True]),
    ("batch_norm_forward", "eps"): ([0.0, -1.0, NAN, INF], ["0.1", None]),
    ("softmax_cross_entropy", "label_smoothing"): ([-0.1, 1.1, NAN], ["0.1", None]),
    ("sigmoid_cross_entropy", "label_smoothing"): ([-0.1, 1.1, NAN], ["0.1", None]),
    ("activation_stats", "bins"): ([-1], [2.5, "50", None, True]),
    ("activation_stats", "range"): ([(1, 0), (0, NAN), (0, INF)], ["ab", 3, (0,), (0, "1")]),
    ("activation_stats", "activation"): (["tahn"], [3]),
}


@pytest.mark.parametrize(("name", "argument"), NUMBERS)
def test_numbers(name, argument, package):
    values, types = NUMBERS[name, argument]
    call = CALLS[name]
    before = {key: a.copy() for key, a in call.arrays.items()}
    extra = {"key": KEY} if argument == "dropout" else {}
    for bad, error in [*((v, ValueError) for v in values), *((t, TypeError) for t in types)]:
        with pytest.raises((TypeError, ValueError)) as caught:
            call.on(package, **{argument: bad}, **extra)
        assert isinstance(caught.value, error), (bad, caught.value)
        assert str(caught.value).startswith(f"{argument}"), (bad, caught.value)
    for key, a in call.arrays.items():
        same_bits(a, before[key])


def test_the_nearest_name(package):
    for call, argument in (("dense_forward", "activation"), ("activation_forward", "kind")):
        with pytest.raises(ValueError, match=rf"^{argument}: unknown 'tahn'; did you mean 'tanh'"):
            CALLS[call].on(package, **{argument: "tahn"})
    with pytest.raises(ValueError, match="did you mean 'softmax'"):
        package.MLP([2, 2], output="sofmax")
    with pytest.raises(ValueError, match="did you mean 'he_normal'"):
        package.MLP([2, 2], init="he_norml")
    with pytest.raises(ValueError, match="known: identity, relu"):
        package.activation_forward(f(2), "zzz")


KEYS = [
    ((-1, 0, 0), ValueError, "key: seed"),
    ((2**64, 0, 0), ValueError, "key: seed"),
    ((0, -1, 0), ValueError, "key: step"),
    ((0, 2**44, 0), ValueError, "key: step"),
    ((0, 0, 2**16), ValueError, "key: layer"),
    ((0, 0, -1), ValueError, "key: layer"),
    ((0.5, 0, 0), TypeError, "key: seed"),
    ((0, "1", 0), TypeError, "key: step"),
    ((0, 0), TypeError, "key: expected"),
    (7, TypeError, "key: expected"),
    ("abc", TypeError, "key: expected"),
    (None, ValueError, "key: expected"),
]


@pytest.mark.parametrize(("key", "error", "message"), KEYS, ids=str)
def test_key(key, error, message, package):
    with pytest.raises(error, match=rf"^{message}"):
        package.dropout_mask((2, 3), 0.5, key)
    with pytest.raises(error, match=rf"^{message}"):
        CALLS["dense_forward"].on(package, dropout=0.5, key=key)


def test_key_of_numpy_integers(package):
    key = tuple(np.array([1, 2, 3], np.uint16))
    same_bits(package.dropout_mask((5, 6), 0.5, key), package.dropout_mask((5, 6), 0.5, KEY))


@pytest.mark.parametrize("shape", [(2, 3, 4), (), (-1, 2), "ab", 2.5, (2, None)], ids=str)
def test_shape_of_a_mask(shape, package):
    with pytest.raises((TypeError, ValueError), match=r"^shape: expected"):
        package.dropout_mask(shape, 0.5, KEY)


@pytest.mark.parametrize("rate", [-0.1, 1.0, NAN, "0.5", None], ids=str)
def test_rate_of_a_mask(rate, package):
    with pytest.raises((TypeError, ValueError), match=r"^dropout: expected a number in \[0, 1\)"):
        package.dropout_mask((2, 3), rate, KEY)


def test_a_cache_that_is_none(package):
    _, dense = package.dense_forward(f(3, 4), f(4, 4))
    _, norm = package.batch_norm_forward(f(3, 4), f(4), f(4), f(4), f(4), training=False)
    for bad in (None, 3, norm):
        with pytest.raises(TypeError, match=r"^cache: expected the cache of dense_forward"):
            package.dense_backward(f(3, 4), bad)
    for bad in (None, 3, dense):
        with pytest.raises(TypeError, match=r"^cache: expected the cache of batch_norm_forward"):
            package.batch_norm_backward(f(3, 4), bad)


def test_message(package):
    """The sentence of the manual: argument, expectation, finding, remedy."""
    with pytest.raises(TypeError) as caught:
        package.matmul(np.ones((3, 4), np.int64), f(4, 5))
    assert str(caught.value) == (
        "x: expected a 2-D array of float32 or float64, got int64 with shape (3, 4); "
        "convert it with x.astype(np.float32)"
    )
    with pytest.raises(ValueError, match=re.escape(
        "w: expected shape (4, n) to match x of shape (3, 4), got (5, 6)"
    )):  # fmt: skip
        package.matmul(f(3, 4), f(5, 6))


# ---- labels, targets, weights ----------------------------------------------------------------

BAD_LABELS = [
    (np.array([0, 4, 1]), ValueError, r"from 0 to 3, got 4 in row 1"),
    (np.array([0, 1, -1]), ValueError, r"from 0 to 3, got -1 in row 2"),
    (np.array([0, 1, -1], np.int8), ValueError, r"got -1 in row 2"),
    (np.array([2**63, 1, 1], np.uint64), ValueError, r"got 9223372036854775808 in row 0"),
    (np.array([0, 1]), ValueError, r"expected shape \(3,\)"),
    (np.array([[0, 1, 2]]), ValueError, r"expected shape \(3,\)"),
    ([0, 1, 2], TypeError, "integers or"),
    (np.array([0.0, 1.0, 2.0]), TypeError, "integers or"),
    (np.array([0, 1, 2], object), TypeError, "integers or"),
    (np.array([True, False, True]), TypeError, "integers or"),
    (np.array(["a", "b", "c"]), TypeError, "integers or"),
    (np.full((3, 4), 0.25), ValueError, "float32 to match z"),
    (np.full((3, 5), 0.2, np.float32), ValueError, r"expected shape \(3, 4\)"),
    (np.full((3, 4), 0.3, np.float32), ValueError, "sum 1.2.* in row 0"),
    (np.array([[0.5, 0.5, 0, 0]] * 2 + [[1.5, -0.5, 0, 0]], np.float32), ValueError, "in row 2"),
    (np.array([[0.5, 0.5, 0, 0]] * 2 + [[NAN, 1, 0, 0]], np.float32), ValueError, "in row 2"),
    (None, TypeError, "got None"),
]


@pytest.mark.parametrize(("labels", "error", "message"), BAD_LABELS)
def test_labels(labels, error, message, package):
    with pytest.raises(error, match=rf"^labels: expected .*{message}|^labels: .*{message}"):
        package.softmax_cross_entropy(f(3, 4), labels)


@pytest.mark.parametrize("bad", [-0.1, 1.1, NAN, INF])
def test_binary_targets(bad, package):
    t = f(3, 4)
    t[2, 1] = bad
    with pytest.raises(
        ValueError, match=r"^targets: expected values in \[0, 1\], .*row 2, column 1"
    ):
        package.sigmoid_cross_entropy(f(3, 4), t)


BAD_WEIGHTS = [
    (np.array([1, -1, 1.0]), ValueError, "at index 1"),
    (np.array([1, NAN, 1.0]), ValueError, "at index 1"),
    (np.array([1, INF, 1.0]), ValueError, "at index 1"),
    (np.zeros(3), ValueError, "positive sum"),
    (np.ones(4), ValueError, "expected shape"),
    (np.ones((3, 1)), ValueError, "expected shape"),
    (np.array(["a"] * 3), TypeError, "real numbers"),
    (np.ones(3, complex), TypeError, "real numbers"),
]


@pytest.mark.parametrize(("weight", "error", "message"), BAD_WEIGHTS)
def test_weights(weight, error, message, package):
    z, labels, t = f(3, 3), np.array([0, 1, 2]), f(3, 3)
    for function, targets in (
        ("softmax_cross_entropy", labels), ("sigmoid_cross_entropy", t), ("mean_squared_error", t)
    ):  # fmt: skip
        with pytest.raises(error, match=rf"^sample_weight: .*{message}"):
            getattr(package, function)(z, targets, sample_weight=weight)
    with pytest.raises(error, match=rf"^class_weight: .*{message}"):
        package.softmax_cross_entropy(z, labels, class_weight=weight)


@pytest.mark.parametrize(
    ("weight", "error"), [({3: 1.0}, ValueError), ({-1: 1.0}, ValueError), ({"a": 1}, TypeError),
                          ({0: "1"}, TypeError), ({0: -1.0}, ValueError)], ids=str
)  # fmt: skip
def test_class_weight_of_a_dict(weight, error, package):
    with pytest.raises(error, match=r"^class_weight"):
        package.softmax_cross_entropy(f(3, 3), np.array([0, 1, 2]), class_weight=weight)


def test_sample_weight_of_a_list(package):
    with pytest.raises(TypeError, match=r"^sample_weight: expected an array"):
        package.mean_squared_error(f(3), f(3), sample_weight=[1, 2, 3])


@pytest.mark.parametrize("function", ["softmax_cross_entropy", "sigmoid_cross_entropy",
                                      "mean_squared_error"])  # fmt: skip
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)], ids=str)
def test_losses_of_nothing(function, shape, package):
    z = np.zeros(shape, np.float32)
    targets = np.zeros(shape[0], int) if function[:3] == "sof" else z.copy()
    with pytest.raises(ValueError, match=r"^[zy]: expected at least one row and one column"):
        getattr(package, function)(z, targets)


def test_statistics_of_nothing(package):
    for shape in ((0,), (0, 3), (3, 0)):
        with pytest.raises(ValueError, match=r"^a: expected at least one row"):
            package.activation_stats(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=r"^x: expected at least one row"):
        package.dense_forward(f(0, 4), f(4, 5), stats=True)


@pytest.mark.parametrize("rows", [0, 1])
def test_batch_norm_of_too_few_rows(rows, package):
    mean, var = f(4), f(4)
    with pytest.raises(ValueError, match=r"^x: .*at least 2 rows"):
        package.batch_norm_forward(f(rows, 4), f(4), f(4), mean, var, training=True)
    same_bits(mean, f(4))
    same_bits(var, f(4))


# ---- optimizers ------------------------------------------------------------------------------

BAD_SETTINGS = [
    ("SGD", {"lr": -0.1}, "lr"), ("SGD", {"lr": NAN}, "lr"), ("SGD", {"lr": "0.1"}, "lr"),
    ("SGD", {"lr": INF}, "lr"), ("SGD", {"lr": None}, "lr"),
    ("SGD", {"lr": 0.1, "momentum": 1.0}, "momentum"),
    ("SGD", {"lr": 0.1, "momentum": -0.1}, "momentum"),
    ("SGD", {"lr": 0.1, "nesterov": True}, "nesterov"),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": 1}, "nesterov"),
    ("RMSprop", {"alpha": 1.0}, "alpha"), ("RMSprop", {"eps": 0.0}, "eps"),
    ("Adam", {"betas": (1.0, 0.9)}, r"betas\[0\]"), ("Adam", {"betas": (0.9, -0.1)}, r"betas\[1\]"),
    ("Adam", {"betas": 0.9}, "betas"), ("Adam", {"betas": (0.9,)}, "betas"),
    ("Adam", {"eps_hat": 1}, "eps_hat"), ("AdamW", {"eps_hat": None}, "eps_hat"),
    ("Adam", {"eps": -1e-8}, "eps"), ("Adam", {"eps": "small"}, "eps"),
    ("AdamW", {"weight_decay": -0.1}, "weight_decay"),
    *((name, {"lr": 0.1, limit: value}, limit) for name in ("SGD", "RMSprop", "Adam", "AdamW")
      for limit in ("clip_norm", "clip_value") for value in (0.0, -1.0, NAN, INF, "1", True)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings", "told"), BAD_SETTINGS, ids=str)
def test_optimizer_settings(name, settings, told, package):
    with pytest.raises((TypeError, ValueError), match=rf"^{told}: expected"):
        getattr(package, name)(**settings)


@pytest.mark.parametrize("mask", [[True] * 9, np.ones(9), np.ones(8, bool), np.ones((9, 1), bool)],
                         ids=["list", "float", "short", "column"])  # fmt: skip
def test_decay_mask(mask, package):
    p = f(9)
    with pytest.raises((TypeError, ValueError), match=r"^decay_mask: expected"):
        package.AdamW().update(p, f(9), decay_mask=mask)
    same_bits(p, f(9))


# ---- the network -----------------------------------------------------------------------------

BAD_NETWORKS = [
    ({"sizes": [3]}, ValueError, "sizes"), ({"sizes": []}, ValueError, "sizes"),
    ({"sizes": [3, 0]}, ValueError, "sizes"), ({"sizes": [3, -2, 1]}, ValueError, "sizes"),
    ({"sizes": [3, 2.5]}, TypeError, "sizes"), ({"sizes": 3}, TypeError, "sizes"),
    ({"sizes": "34"}, TypeError, "sizes"), ({"sizes": [3, True]}, TypeError, "sizes"),
    ({"activation": "tahn"}, ValueError, "activation"),
    ({"activation": 3}, TypeError, "activation"),
    ({"activation": ["relu"]}, ValueError, "activation"),
    ({"activation": ["relu", "tahn"]}, ValueError, r"activation\[1\]"),
    ({"output": "relu"}, ValueError, "output"), ({"output": None}, TypeError, "output"),
    ({"dropout": 1.0}, ValueError, "dropout"), ({"dropout": -0.5}, ValueError, "dropout"),
    ({"dropout": "0.5"}, TypeError, "dropout"), ({"dropout": [0.5]}, ValueError, "dropout"),
    ({"dropout": [0.5, 1.5]}, ValueError, r"dropout\[1\]"),
    ({"batch_norm": 1}, TypeError, "batch_norm"), ({"batch_norm": "yes"}, ValueError, "batch_norm"),
    ({"batch_norm": None}, TypeError, "batch_norm"),
    ({"batch_norm": ["after"]}, ValueError, "batch_norm"),
    ({"batch_norm": ["after", 2]}, TypeError, r"batch_norm\[1\]"),
    ({"input_dropout": 1.0}, ValueError, "input_dropout"),
    ({"input_dropout": -0.1}, ValueError, "input_dropout"),
    ({"input_dropout": [0.1]}, TypeError, "input_dropout"),
    ({"max_norm": 0.0}, ValueError, "max_norm"), ({"max_norm": -1}, ValueError, "max_norm"),
    ({"max_norm": INF}, ValueError, "max_norm"), ({"max_norm": "3"}, TypeError, "max_norm"),
    ({"max_norm": [1.0, 2.0]}, ValueError, "max_norm"),
    ({"max_norm": [1.0, None, NAN]}, ValueError, r"max_norm\[2\]"),
    ({"l1_step": "prox"}, ValueError, "l1_step"), ({"l1_step": True}, TypeError, "l1_step"),
    ({"init": "hee"}, ValueError, "init"), ({"init": 3}, TypeError, "init"),
    ({"init": ["he", "he"]}, ValueError, "init"),
    ({"l1": -1.0}, ValueError, "l1"), ({"l2": NAN}, ValueError, "l2"),
    ({"l2": [0.1, 0.1]}, ValueError, "l2"), ({"l1": "1"}, TypeError, "l1"),
    ({"dtype": "float16"}, ValueError, "dtype"), ({"dtype": int}, ValueError, "dtype"),
    ({"dtype": "x"}, ValueError, "dtype"), ({"dtype": None}, ValueError, "dtype"),
    ({"seed": -1}, ValueError, "seed"), ({"seed": 2**64}, ValueError, "seed"),
    ({"seed": 0.5}, TypeError, "seed"), ({"seed": "0"}, TypeError, "seed"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "error", "told"), BAD_NETWORKS, ids=str)
def test_network_settings(settings, error, told, package):
    with pytest.raises((TypeError, ValueError), match=rf"^{told}: ") as caught:
        package.MLP(**{"sizes": [4, 5, 6, 3], **settings})
    assert isinstance(caught.value, error)


def fit_data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((20, 4)).astype(np.float32), rng.integers(0, 3, 20)


def with_value(x, value, *place):
    x = x.copy()
    x[place] = value
    return x


X, Y = fit_data()
BAD_FITS = {
    "x: NaN": ({"x": with_value(X, NAN, 7, 2)}, ValueError, r"^x: .*nan in row 7, column 2"),
    "x: inf": ({"x": with_value(X, -INF, 19, 3)}, ValueError, r"^x: .*-inf in row 19, column 3"),
    "x: NaN in float16": (
        {"x": with_value(X, NAN, 0, 0).astype(np.float16)}, ValueError, "^x: .*row 0, column 0"
    ),
    "x: too wide": ({"x": X[:, :3]}, ValueError, r"^x: expected shape \(rows, 4\)"),
    "x: one row": ({"x": X[0]}, ValueError, r"^x: expected shape \(rows, 4\).*reshape\(1, -1\)"),
    "x: none": ({"x": X[:0], "y": Y[:0]}, ValueError, "^x: expected at least one row"),
    "x: text": ({"x": X.astype(str)}, TypeError, "^x: expected real numbers"),
    "x: object": ({"x": X.astype(object)}, TypeError, "^x: expected real numbers"),
    "x: complex": ({"x": X.astype(complex)}, TypeError, "^x: expected real numbers"),
    "x: ragged": ({"x": [[1, 2, 3, 4], [1]]}, ValueError, "^x: expected an array"),
    "x: masked": ({"x": np.ma.masked_array(X)}, TypeError, "^x: .*masked"),
    "x: None": ({"x": None}, TypeError, "^x: expected real numbers"),
    "y: lengths": ({"y": Y[:19]}, ValueError, "^y: expected 20 rows to match x"),
    "y: label 3": ({"y": with_value(Y, 3, 11)}, ValueError, "^y: .*from 0 to 2, got 3 in row 11"),
    "y: label -1": ({"y": with_value(Y, -1, 4)}, ValueError, "^y: .*got -1 in row 4"),
    "y: floats": ({"y": Y.astype(float)}, TypeError, "^y: expected .*integers"),
    "y: strings": ({"y": Y.astype(str)}, TypeError, "^y: expected real numbers"),
    "y: two columns": ({"y": np.stack([Y, Y], 1)}, ValueError, "^y: expected shape"),
    "y: probabilities": ({"y": np.full((20, 3), 0.5)}, ValueError, "^y: .*sum 1.5.* in row 0"),
    "y: None": ({"y": None}, TypeError, "^y: expected real numbers"),
    "y: a number": ({"y": 3}, ValueError, "^y: expected 20 rows"),
    "epochs 0": ({"epochs": 0}, ValueError, "^epochs: expected an integer >= 1"),
    "epochs 1.5": ({"epochs": 1.5}, TypeError, "^epochs: expected an integer"),
    "batch_size 0": ({"batch_size": 0}, ValueError, "^batch_size: expected an integer >= 1"),
    "batch_size text": ({"batch_size": "all"}, TypeError, "^batch_size: expected an integer"),
    "optimizer": ({"optimizer": 0.1}, TypeError, "^optimizer: expected an optimizer"),
    "optimizer class": ({"optimizer": fanin.Adam}, TypeError, "^optimizer: expected"),
    "input_scale 0": ({"input_scale": 0}, ValueError, "^input_scale: expected"),
    "input_scale NaN": ({"input_scale": NAN}, (TypeError, ValueError), "^input_scale: expected"),
    "input_scale text": ({"input_scale": "1"}, TypeError, "^input_scale: expected"),
    "input_scale too large": (
        {"x": (1000 * X).astype(int), "input_scale": 1e38}, ValueError, "^x: .*too large"
    ),
    "early_stopping 0": (
        {"early_stopping": 0, "validation": (X, Y)}, ValueError, "^early_stopping: expected"
    ),
    "early_stopping without data": ({"early_stopping": 3}, ValueError, "^early_stopping: .*data"),
    "callbacks": ({"callbacks": [3]}, TypeError, "^callbacks: expected callables"),
    "progress": ({"progress": "yes"}, ValueError, "^progress: expected"),
    "monitor": ({"monitor": "yes"}, (TypeError, ValueError), "^monitor: expected"),
    "shuffle": ({"shuffle": "yes"}, (TypeError, ValueError), "^shuffle: expected"),
    "validation alone": ({"validation": X}, TypeError, "^validation: expected"),
    "validation width": ({"validation": (X[:, :2], Y)}, ValueError, "^validation: x: expected"),
    "validation labels": (
        {"validation": (X, with_value(Y, 5, 2))}, ValueError, "^validation: y: .*row 2"
    ),
    "validation NaN": (
        {"validation": (with_value(X, NAN, 3, 1), Y)}, ValueError, "^validation: x: .*row 3, col"
    ),
    "validation of nothing": ({"validation": (X[:0], Y[:0])}, ValueError, "^validation: x: .*row"),
    "sample_weight lengths": (
        {"sample_weight": np.ones(19)}, ValueError, "^sample_weight: expected shape"
    ),
    "sample_weight < 0": (
        {"sample_weight": -np.ones(20)}, ValueError, "^sample_weight: expected finite weights"
    ),
    "sample_weight text": ({"sample_weight": "balanced"}, TypeError, "^sample_weight: expected"),
    "class_weight lengths": ({"class_weight": [1, 2]}, ValueError, "^class_weight: expected shape"),
    "class_weight text": ({"class_weight": "balanced"}, TypeError, "^class_weight: expected"),
    "label_smoothing": ({"label_smoothing": 1.5}, ValueError, "^label_smoothing: expected"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_FITS)
def test_fit(what, package):
    changes, error, message = BAD_FITS[what]
    net = package.MLP([4, 5, 3], dropout=0.5)
    before = net.parameters.copy()
    optimizer = package.Adam()
    called = []
    arguments = {"x": X, "y": Y, "epochs": 1, "optimizer": optimizer, "progress": False,
                 "callbacks": [lambda net, history: called.append(1)]}  # fmt: skip
    with pytest.raises(error, match=message):
        net.fit(**{**arguments, **changes})
    same_bits(net.parameters, before)
    assert (net.step, net.epoch, net.input_scale, optimizer.steps, called) == (0, 0, None, 0, [])


BAD_TARGETS = [
    ("sigmoid", np.full((20, 3), 1.5), r"^y: expected values in \[0, 1\], .*row 0, column 0"),
    ("sigmoid", np.zeros(20), r"^y: expected shape \(20, 3\)"),
    ("identity", with_value(np.zeros((20, 3)), NAN, 5, 1), "^y: .*nan in row 5, column 1"),
    ("identity", with_value(np.zeros((20, 3)), 1e300, 5, 1), "^y: .*too large.* row 5, column 1"),
    ("identity", np.zeros((20, 2)), r"^y: expected shape \(20, 3\)"),
]


@pytest.mark.parametrize(("output", "y", "message"), BAD_TARGETS, ids=lambda v: str(v)[:8])
def test_targets_of_other_outputs(output, y, message, package):
    net = package.MLP([4, 5, 3], output=output)
    with pytest.raises(ValueError, match=message):
        net.fit(X, y, progress=False)
    assert net.step == 0


def test_options_an_output_does_not_have(package):
    for output in ("sigmoid", "identity"):
        net = package.MLP([4, 1], output=output)
        with pytest.raises(ValueError, match=r"^class_weight: "):
            net.fit(X, Y / 2, class_weight=[1.0], progress=False)
    with pytest.raises(ValueError, match=r"^label_smoothing: "):
        net.fit(X, Y / 2, label_smoothing=0.1, progress=False)
    with pytest.raises(ValueError, match=r"^early_stopping: "):
        net.fit(X, Y / 2, validation=(X, Y / 2), progress=False,
                early_stopping=package.EarlyStopping("val_accuracy"))  # fmt: skip


def test_batch_norm_needs_two_rows(package):
    net = package.MLP([4, 5, 3], batch_norm=True)
    before = net.running_mean.copy()
    for call in (
        lambda: net.fit(X[:1], Y[:1], progress=False),
        lambda: net.fit(X, Y, batch_size=1, progress=False),
        lambda: net.train_step(X[:1], Y[:1], package.Adam()),
        lambda: net.loss_and_gradients(X[:1], Y[:1]),
        lambda: net.forward(X[:1], training=True),
    ):
        with pytest.raises(ValueError, match="2 rows"):
            call()
    same_bits(net.running_mean, before)


@pytest.mark.parametrize("method", ["train_step", "loss_and_gradients"])
def test_steps(method, package):
    """What fit refuses, single steps refuse, too; NaN in x is fit's to look for."""
    net = package.MLP([4, 5, 3])
    before, gradients = net.parameters.copy(), net.gradients.copy()
    rest = (package.Adam(),) if method == "train_step" else ()
    for x, y, message in (
        (X[:, :3], Y, "^x: expected shape"),
        (X[:0], Y[:0], "^x: expected at least 1 row"),
        (X, Y[:5], "^y: expected 20 rows"),
        (X, Y + 3, "^y: .*row 0"),
        (X.astype(str), Y, "^x: expected real"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            getattr(net, method)(x, y, *rest)
    for name, bad in (("sample_weight", np.ones(3)), ("class_weight", [1]), ("label_smoothing", 2)):
        with pytest.raises((TypeError, ValueError), match=rf"^{name}: expected"):
            getattr(net, method)(X, Y, *rest, **{name: bad})
    same_bits(net.parameters, before)
    same_bits(net.gradients, gradients)
    assert net.step == 0


def test_forward_and_backward(package):
    net = package.MLP([4, 5, 3])
    for method in ("forward", "predict", "predict_proba"):
        for bad, message in ((X[:, :3], "expected shape"), (X[0], "expected shape"),
                             (X.astype(str), "real numbers"), (None, "real numbers")):  # fmt: skip
            with pytest.raises((TypeError, ValueError), match=rf"^x: .*{message}"):
                getattr(net, method)(bad)
    with pytest.raises(ValueError, match=r"^x: expected at least 1 row"):
        net.forward(X[:0], training=True)
    net.forward(X, training=True)
    gradients = net.gradients.copy()
    for bad in (np.ones((20, 4), np.float32), np.ones((19, 3), np.float32), np.ones(20), None, "a"):
        with pytest.raises((TypeError, ValueError), match=r"^dout: expected"):
            net.backward(bad)
    same_bits(net.gradients, gradients)
    net.backward(np.ones((20, 3)))  # still possible


def test_evaluate(package):
    net = package.MLP([4, 5, 3])
    for x, y, message in ((X[:0], Y[:0], "^x: expected at least one row"), (X, Y[:3], "^y: "),
                          (X, Y + 1, "^y: .*row"), (X[:, :1], Y, "^x: ")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            net.evaluate(x, y)


def test_vectors(package):
    net = package.MLP([4, 5, 3], batch_norm=True)
    for name in ("parameters", "gradients", "running_mean", "running_var"):
        with pytest.raises(ValueError, match=rf"^{name}: expected shape"):
            setattr(net, name, np.zeros(3))
    with pytest.raises(AttributeError):
        net.layers[0].dropout = 0.5
    with pytest.raises(AttributeError):
        net.layers[0].no_such_thing = 1


def test_an_optimizer_of_another_network(package):
    optimizer = package.Adam()
    package.MLP([4, 3]).train_step(X, Y, optimizer)
    net = package.MLP([4, 5, 3])
    before = net.parameters.copy()
    with pytest.raises(ValueError, match=r"^parameters: expected .* as in the first update"):
        net.train_step(X, Y, optimizer)
    with pytest.raises(ValueError, match=r"^parameters: expected"):
        package.MLP([4, 3], dtype="float64").fit(X, Y, optimizer=optimizer, progress=False)
    same_bits(net.parameters, before)


def test_early_stopping_settings(package):
    for settings, told in (({"monitor": 1}, "monitor"), ({"patience": 0}, "patience"),
                           ({"min_delta": -1}, "min_delta"), ({"mode": "up"}, "mode"),
                           ({"max_gap": 0}, "max_gap"), ({"max_ratio": 1}, "max_ratio"),
                           ({"restore_best": 1}, "restore_best")):  # fmt: skip
        with pytest.raises((TypeError, ValueError), match=rf"^{told}: "):
            package.EarlyStopping(**settings)


# ---- the machine -----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", None, True, 10**9])
def test_number_of_threads(n):
    before = fanin.get_num_threads()
    with pytest.raises((TypeError, ValueError), match=r"^n: expected an integer"):
        fanin.set_num_threads(n)
    assert fanin.get_num_threads() == before


@pytest.mark.parametrize("name", ["avx1024", "", None, 3, "AVX2"])
def test_instruction_set(name):
    before = fanin.isa()
    with pytest.raises((TypeError, ValueError), match=r"^isa: "):
        fanin.set_isa(name)
    assert fanin.isa() == before


# ---- memory safety: what Python checks, the compiled module checks again ---------------------


def unsafe():
    """Direct calls of the private module that would read or write beyond an array."""
    good, out = f(3, 4), np.zeros((3, 5), np.float32)
    yield "w too short", lambda: _core.gemm(good, f(3, 5), out)
    yield "out too small", lambda: _core.gemm(good, f(4, 5), out[:2])
    yield "out of another dtype", lambda: _core.gemm(good, f(4, 5), out.astype(float))
    yield "x of another dtype", lambda: _core.gemm(good.astype(float), f(4, 5), out)
    yield "x of integers", lambda: _core.gemm(good.astype(int), f(4, 5), out)
    yield "x byte-swapped", lambda: _core.gemm(good.astype(">f4"), f(4, 5), out)
    yield "x misaligned", lambda: _core.gemm(misaligned(good), f(4, 5), out)
    yield "x of odd strides", lambda: _core.gemm(odd_strides(good), f(4, 5), out)
    yield "x of one dimension", lambda: _core.gemm(good[0], f(4, 5), out)
    frozen = out.copy()
    frozen.flags.writeable = False
    yield "out read-only", lambda: _core.gemm(good, f(4, 5), frozen)
    square = f(4, 4)
    yield "out overlaps x", lambda: _core.gemm(square, f(4, 4), square)
    yield "activation 99", lambda: _core.activation_forward(good, good.copy(), 99, (0,) * 4, None)
    yield "no mask", lambda: _core.activation_forward(good, good.copy(), 1, (9, 0, 0, 0), None)
    short = np.zeros(2, np.uint16)
    yield "short mask", lambda: _core.activation_forward(good, good.copy(), 1, (9, 0, 0, 0), short)
    labels, form = np.array([0, 9, 1]), (1.0, 1.0, 0.0, -INF, INF)
    yield (
        "label 9",
        lambda: _core.softmax_cross_entropy(good, labels, None, None, None, 0.0, 3.0, form, None),
    )
    yield (
        "short labels",
        lambda: _core.softmax_cross_entropy(
            good, labels[:2], None, None, None, 0.0, 3.0, form, None
        ),
    )
    yield (
        "short gradients",
        lambda: _core.optimizer_update(fanin.SGD(0.1), 0.1, 0, f(9), f(8), None),
    )
    yield (
        "no moments",
        lambda: _core.optimizer_update(fanin.Adam(), 0.1, 0, f(9), f(9), None),
    )
    yield "a norm of integers", lambda: _core.norm(np.arange(9))
    yield "a norm of a matrix", lambda: _core.norm(good)
    yield "a norm of every other number", lambda: _core.norm(f(9)[::2])
    yield "short edges", lambda: _core.histogram(good, np.array([0.0, 1.0]), np.zeros(3, np.int64))


def unfit():
    """Arguments for which the compiled layer returns None, to be explained by others."""
    x, w, b, out = f(4, 4), f(4, 4), f(4), np.zeros((4, 4), np.float32)
    frozen = out.copy()
    frozen.flags.writeable = False
    yield "w too short", (x, f(3, 4), b, out)
    yield "x of one dimension", (x[0], w, b, out)
    yield "x of another dtype", (x.astype(float), w, b, out)
    yield "a list", (x.tolist(), w, b, out)
    yield "x misaligned", (misaligned(x), w, b, out)
    yield "b too long", (x, w, f(5), out)
    yield "b of every other number", (x, w, f(8)[::2], out)
    yield "out too small", (x, w, b, out[:2])
    yield "out by columns", (x, w, b, out.T)
    yield "out read-only", (x, w, b, frozen)
    yield "out overlaps x", (x, w, b, x)
    yield "out overlaps b", (x, w, out[0], out)
    yield "no rows for statistics", (x[:0], w, b, None)


@pytest.mark.parametrize(
    ("what", "arrays"), list(unfit()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_the_compiled_layer_refuses_before_it_writes(what, arrays):
    before = [None if a is None else np.array(a) for a in arrays]
    assert _core.dense_forward(*arrays, 0, (0, 0, 0, 0), True) is None
    for array, was in zip(arrays, before, strict=True):
        assert array is None or np.array_equal(array, was)


@pytest.mark.parametrize(
    ("what", "call"), list(unsafe()), ids=lambda v: v if isinstance(v, str) else ""
)
def test_the_compiled_module_is_safe_by_itself(what, call):
    with pytest.raises((TypeError, ValueError)) as refused:
        call()
    assert "incompatible function arguments" not in str(refused.value)  # the call was meant


# ---- degenerate shapes: the right result or a refusal, the same as the reference's -----------

SMALL = (0, 1, 2)


@pytest.mark.parametrize("shape", list(itertools.product(SMALL, SMALL, SMALL)), ids=str)
def test_small_shapes(shape):
    """Every operation with 0, 1 and 2 rows and columns: what NumPy says, or the same refusal."""
    m, k, n = shape
    x, w, b, a = f(m, k), f(k, n), f(n), f(m, n)
    labels = np.zeros(m, int)
    calls = {
        "matmul": lambda p: p.matmul(x, w),
        "dense": lambda p: p.dense_forward(x, w, b, activation="tanh", dropout=0.5, key=KEY)[0],
        "dense stats": lambda p: p.dense_forward(x, w, stats=3)[1].stats.unit_mean,
        "dense back": lambda p: p.dense_backward(a, p.dense_forward(x, w, b)[1]).dw,
        "mask": lambda p: p.dropout_mask((m, n), 0.5, KEY),
        "activation": lambda p: p.activation_forward(a, "gelu"),
        "back": lambda p: p.activation_backward(a, a, "gelu"),
        "norm": lambda p: p.batch_norm_forward(a, b, b, f(n), f(n), training=True)[0],
        "inference": lambda p: p.batch_norm_forward(a, b, b, b, b, training=False)[0],
        "norm back": lambda p: (
            p.batch_norm_backward(a, p.batch_norm_forward(a, b, b, b, b, training=False)[1]).dgamma
        ),
        "softmax": lambda p: p.softmax_cross_entropy(a, labels)[1],
        "sigmoid": lambda p: p.sigmoid_cross_entropy(a, a)[1],
        "squares": lambda p: p.mean_squared_error(a, a)[1],
        "stats": lambda p: p.activation_stats(a).unit_mean,
        "adam": lambda p: p.Adam().update(b.copy(), b),
    }
    for name, call in calls.items():
        outcomes = []
        for package in (fanin, fanin.reference):
            try:
                outcomes.append(call(package))
            except ValueError as error:
                outcomes.append(str(error))
        got, expected = outcomes
        if isinstance(expected, np.ndarray) and isinstance(got, np.ndarray):
            assert got.dtype == expected.dtype, name
            # a handful of roundings of numbers below 4
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6, err_msg=name)
        else:
            assert got == expected, name
