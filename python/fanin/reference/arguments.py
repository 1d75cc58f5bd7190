"""Argument checks: what was expected, what was found, how to fix it.

Every public function asks one `check_...` of this file before it computes or writes anything; those
that are called very often ask only when the compiled module has refused what they were given.
The good path is a few comparisons; a message is built only when something is wrong.

TypeError: not an array, or a dtype of the wrong kind.  ValueError: a wrong shape, value or layout.
"""

import math
import numbers
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NoReturn, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Key: TypeAlias = tuple[int, int, int]
T = TypeVar("T")

FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)

ACTIVATIONS = (
    "identity", "relu", "leaky_relu", "elu", "selu", "tanh", "sigmoid",
    "gelu", "gelu_tanh", "silu", "softplus",
)  # fmt: skip
DERIVATIVE_NEEDS_INPUT = ("gelu", "gelu_tanh", "silu")  # not invertible: z is kept, not a
OUTPUTS = ("softmax", "sigmoid", "identity")

SEED_LIMIT = 1 << 64
STEP_LIMIT = 1 << 44
LAYER_LIMIT = 1 << 16
INPUT_LAYER = LAYER_LIMIT - 1  # of the key of a mask over a network's inputs

BATCH_NORMS = ("before", "after")  # the activation
L1_STEPS = ("subgradient", "proximal")

_KNOWN_ACTIVATIONS = frozenset(ACTIVATIONS)


# ---- one array -------------------------------------------------------------------------------


def check_array(name: str, x: Any, ndim: int | None) -> None:
    """Refuse `x` unless it is an aligned float32 or float64 array of `ndim` (None: any) axes."""
    if type(x) is np.ndarray and (x.ndim == ndim or ndim is None):
        dtype = x.dtype
        if (dtype is FLOAT32 or dtype is FLOAT64) and x.flags.aligned:
            return
    _check_array_slowly(name, x, ndim)


def _check_array_slowly(name: str, x: Any, ndim: int | None) -> None:
    """Say what is wrong; return when nothing is (a memory map, a private copy of a dtype)."""
    expected = f"{name}: expected {f'a {ndim}-D' if ndim else 'an'} array of float32 or float64"
    if not isinstance(x, np.ndarray):
        if on_cuda(x):
            raise TypeError(f"{expected} on the host like the others, got {describe(x)}")
        raise TypeError(
            f"{expected}, got {describe(x)}; convert it with np.asarray({name}, dtype=np.float32)"
        )
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{expected}, got a masked one; fill it with {name}.filled(value)")
    if isinstance(x, np.matrix):
        raise TypeError(f"{expected}, got a matrix; convert it with np.array({name})")
    if x.dtype != FLOAT32 and x.dtype != FLOAT64:
        if x.dtype.newbyteorder("=") in (FLOAT32, FLOAT64):
            raise ValueError(
                f"{expected} in this machine's byte order, got {x.dtype.str!r}; "
                f"convert it with {name}.astype(np.{x.dtype.name})"
            )
        raise TypeError(f"{expected}, got {describe(x)}; convert it with {name}.astype(np.float32)")
    if ndim is not None and x.ndim != ndim:
        raise ValueError(f"{expected}, got {x.ndim}-D with shape {x.shape}")
    if not x.flags.aligned:
        raise ValueError(
            f"{expected} whose address and strides are multiples of its item size, "
            f"got strides {x.strides}; copy it with np.array({name})"
        )


def on_cuda(x: Any) -> bool:
    """Whether x is another library's array in the memory of a CUDA device, as DLPack says."""
    if type(x) is np.ndarray or not hasattr(x, "__dlpack_device__"):
        return False
    try:
        return x.__dlpack_device__()[0] in (2, 13)  # CUDA's own memory, and managed memory
    except (BufferError, RuntimeError, TypeError, ValueError):
        return False  # a device that DLPack has no number for


def cuda_device(name: str, x: Any) -> int:
    """Return the number of the CUDA device that an array lies on."""
    if not on_cuda(x):
        raise TypeError(f"{name}: expected an array on a CUDA device, got {describe(x)}")
    return int(x.__dlpack_device__()[1])


def describe(x: Any) -> str:
    """Name what was found: dtype and shape of an array, else the type and a short value."""
    if on_cuda(x):
        return f"{type(x).__name__} with shape {tuple(x.shape)} on a CUDA device"
    if isinstance(x, np.ndarray):
        return f"{x.dtype} with shape {x.shape}"
    if x is None or isinstance(x, bool | numbers.Number | str):
        text = repr(x)
        return text if len(text) <= 60 else text[:57] + "..."
    return type(x).__name__


def check_dtype(name: str, x: Array, dtype: np.dtype[Any], like: str = "x") -> None:
    """Refuse `x` unless its dtype is that of the argument called `like`."""
    if x.dtype != dtype:
        raise ValueError(
            f"{name}: expected {dtype} to match {like}, got {x.dtype}; "
            f"convert it with {name}.astype(np.{dtype})"
        )


def check_shape(name: str, x: Array, shape: tuple[int, ...], why: str) -> None:
    """Refuse `x` unless it has this shape; `why` ends the message, such as "to match x"."""
    if x.shape != shape:
        raise ValueError(f"{name}: expected shape {shape} {why}, got {x.shape}")


def check_like(name: str, x: Any, other: Array, like: str) -> None:
    """Refuse `x` unless it is a float array of the shape and dtype of `other`."""
    check_array(name, x, other.ndim)
    if x.shape != other.shape:
        check_shape(name, x, other.shape, f"to match {like}")
    if x.dtype is not other.dtype:
        if on_cuda(other):
            raise TypeError(
                f"{name}: expected an array on the CUDA device of {like}, got {describe(x)}"
            )
        check_dtype(name, x, other.dtype, like)


def check_rows(name: str, x: Array) -> None:
    """Refuse an array without rows or without columns."""
    if x.size == 0:
        raise ValueError(f"{name}: expected at least one row and one column, got shape {x.shape}")


def check_out(
    out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: Iterable[tuple[str, Array]]
) -> None:
    """Refuse an `out` that cannot be written safely.

    It has this shape and dtype, is writeable, has neighbours in memory along its rows or along
    its columns, and shares no memory with itself or with one of the `inputs`.
    """
    check_array("out", out, len(shape))
    check_shape("out", out, shape, "to hold the result")
    check_dtype("out", out, dtype)
    if not out.flags.writeable:
        raise ValueError("out: expected a writeable array, got a read-only one")
    if not _dense_in_memory(out):
        raise ValueError(
            "out: expected unit stride along rows or columns and no element twice, got strides "
            f"{out.strides} for shape {out.shape}; use np.empty({out.shape}, out.dtype)"
        )
    for name, x in inputs:
        if np.may_share_memory(out, x):
            raise ValueError(f"out: expected memory apart from {name}, but they overlap")


def _dense_in_memory(x: Array) -> bool:
    if x.ndim == 1:
        return x.size <= 1 or x.strides[0] == x.itemsize
    (rows, columns), (down, across) = x.shape, (s // x.itemsize for s in x.strides)
    by_rows = (columns <= 1 or across == 1) and (rows <= 1 or abs(down) >= columns)
    by_columns = (rows <= 1 or down == 1) and (columns <= 1 or abs(across) >= rows)
    return x.size == 0 or by_rows or by_columns


def check_in_place(name: str, x: Array) -> None:
    """Refuse a 1-D array that cannot be updated in place."""
    if not x.flags.writeable:
        raise ValueError(f"{name}: expected a writeable array (it is updated in place)")
    if not x.flags.c_contiguous:
        raise ValueError(
            f"{name}: expected a contiguous array (it is updated in place), "
            f"got strides {x.strides}; use np.ascontiguousarray({name})"
        )


# ---- one number, one name --------------------------------------------------------------------


def refuse(name: str, expected: str, value: Any) -> NoReturn:
    """Raise for a value that is not what was expected."""
    wrong_type = not isinstance(value, numbers.Real) or isinstance(value, bool)
    error = TypeError if wrong_type else ValueError
    raise error(f"{name}: expected {expected}, got {describe(value)}")


def check_real(name: str, value: Any, expected: str) -> float:
    """Return a finite real number as a float; True and False are not numbers."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected {expected}, got {describe(value)}")
    number = float(value)
    if not math.isfinite(number):
        refuse(name, expected, value)
    return number


def check_nonnegative(name: str, value: Any) -> float:
    """Return a finite number >= 0 as a float."""
    number = check_real(name, value, "a number >= 0")
    return number if number >= 0 else refuse(name, "a number >= 0", value)


def check_positive(name: str, value: Any) -> float:
    """Return a finite number > 0 as a float."""
    number = check_real(name, value, "a number > 0")
    return number if number > 0 else refuse(name, "a number > 0", value)


def check_limit(name: str, value: Any) -> float | None:
    """Return a finite number > 0 as a float, or None for no limit."""
    return None if value is None else check_positive(name, value)


def check_below_one(name: str, value: Any) -> float:
    """Return a number in [0, 1) as a float."""
    if type(value) is float and 0.0 <= value < 1.0:
        return value
    number = check_real(name, value, "a number in [0, 1)")
    return number if 0.0 <= number < 1.0 else refuse(name, "a number in [0, 1)", value)


def check_fraction(name: str, value: Any) -> float:
    """Return a number in [0, 1] as a float."""
    number = check_real(name, value, "a number in [0, 1]")
    return number if 0.0 <= number <= 1.0 else refuse(name, "a number in [0, 1]", value)


def check_integer(name: str, value: Any, low: int, limit: int | None = None) -> int:
    """Return an integer in [low, limit) as an int."""
    expected = f"an integer >= {low}" + ("" if limit is None else f" and < {_power(limit)}")
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected {expected}, got {value}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected {expected}, got {describe(value)}") from None
    if number < low or (limit is not None and number >= limit):
        raise ValueError(f"{name}: expected {expected}, got {number}")
    return number


def _power(limit: int) -> str:
    is_power = limit >= LAYER_LIMIT and limit & (limit - 1) == 0
    return f"2**{limit.bit_length() - 1}" if is_power else str(limit)


def check_bool(name: str, value: Any) -> bool:
    """Return True or False as a bool."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected True or False, got {describe(value)}")
    return bool(value)


def check_choice(name: str, value: Any, known: Sequence[str]) -> str:
    """Return a known name; suggest the nearest one otherwise."""
    if type(value) is str and value in known:
        return value
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected one of {', '.join(known)}; got {describe(value)}")
    import difflib  # only a wrong name pays for it

    near = difflib.get_close_matches(value, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    raise ValueError(f"{name}: unknown {value!r}{hint} known: {', '.join(known)}")


def check_key(key: Any) -> Key:
    """Return the key (seed, step, layer) of a random stream as three ints."""
    if not isinstance(key, tuple | list) or len(key) != 3:
        raise TypeError(f"key: expected (seed, step, layer), three integers, got {key!r}")
    seed, step, layer = key
    if (
        type(seed) is type(step) is type(layer) is int
        and 0 <= seed < SEED_LIMIT and 0 <= step < STEP_LIMIT and 0 <= layer < LAYER_LIMIT
    ):  # fmt: skip
        return seed, step, layer
    return (
        check_integer("key: seed", seed, 0, SEED_LIMIT),
        check_integer("key: step", step, 0, STEP_LIMIT),
        check_integer("key: layer", layer, 0, LAYER_LIMIT),
    )


def check_dropout(dropout: Any, key: Any) -> None:
    """Refuse a dropout outside [0, 1), a broken key, and dropout without a key."""
    check_below_one("dropout", dropout)
    if key is not None:
        check_key(key)
    elif dropout > 0:
        raise ValueError(
            "key: expected (seed, step, layer) because dropout > 0, got None; "
            "the same key gives the same mask, so count step up"
        )


def per_layer(name: str, value: Any, count: int, check: Callable[[str, Any], T]) -> list[T]:
    """Return one checked value for each of `count` layers, from one for all or from a sequence."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return [check(name, value)] * count
    values = list(value)
    if len(values) != count:
        raise ValueError(f"{name}: expected one value, or {count} of them, got {len(values)}")
    return [check(f"{name}[{i}]", one) for i, one in enumerate(values)]


def check_activation(name: str, value: Any) -> str:
    """Return the name of an activation."""
    return check_choice(name, value, ACTIVATIONS)


def check_batch_norm(name: str, value: Any) -> str | Literal[False]:
    """Return where a layer has batch norm, "before" or "after" its activation, or False.

    True means "before".
    """
    if isinstance(value, bool | np.bool_):
        return "before" if value else False
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected False, 'before' or 'after', got {describe(value)}")
    return check_choice(name, value, BATCH_NORMS)


def check_float_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the dtype float32 or float64."""
    try:
        found = None if dtype is None else np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found not in (FLOAT32, FLOAT64):
        raise ValueError(f"dtype: expected 'float32' or 'float64', got {dtype!r}")
    return FLOAT32 if found == FLOAT32 else FLOAT64


def check_precision(
    precision: Any, dtype: np.dtype[Any], known: Sequence[str] = ("bfloat16",)
) -> str | None:
    """Return None, or one of those known, which all need float32."""
    if precision is None:
        return None
    name = check_choice("precision", precision, known)
    if dtype != FLOAT32:
        raise ValueError(f"precision: expected None with dtype {dtype}, got {precision!r}")
    return name


# ---- one operation ---------------------------------------------------------------------------


def check_matmul(x: Any, w: Any, out: Any) -> None:
    """Check the arguments of `matmul`."""
    check_array("x", x, 2)
    check_array("w", w, 2)
    if w.dtype is not x.dtype:
        check_dtype("w", w, x.dtype)
    if w.shape[0] != x.shape[1]:
        _refuse_inner(x, w)
    if out is not None:
        check_out(out, (x.shape[0], w.shape[1]), x.dtype, (("x", x), ("w", w)))


def _refuse_inner(x: Array, w: Array) -> NoReturn:
    raise ValueError(
        f"w: expected shape ({x.shape[1]}, n) to match x of shape {x.shape}, got {w.shape}"
    )


def check_dense_forward(
    x: Any, w: Any, b: Any, activation: Any, dropout: Any, key: Any, stats: Any, out: Any
) -> None:
    """Check the arguments of `dense_forward`."""
    check_array("x", x, 2)
    check_array("w", w, 2)
    dtype = x.dtype
    if w.dtype is not dtype:
        check_dtype("w", w, dtype)
    columns = w.shape[1]
    if w.shape[0] != x.shape[1]:
        _refuse_inner(x, w)
    if b is not None:
        check_array("b", b, 1)
        if b.dtype is not dtype:
            check_dtype("b", b, dtype)
        if b.shape[0] != columns:
            check_shape("b", b, (columns,), f"to match w of shape {w.shape}")
    check_dense_options(activation, dropout, key, stats)
    if stats:
        check_rows("x", x)
        check_rows("w", w)
    if out is not None:
        check_out(out, (x.shape[0], columns), dtype, _named(x=x, w=w, b=b))


def check_dense_options(activation: Any, dropout: Any, key: Any, stats: Any) -> None:
    """Check those arguments of `dense_forward` that are not arrays."""
    if type(activation) is not str or activation not in _KNOWN_ACTIVATIONS:
        check_choice("activation", activation, ACTIVATIONS)
    if key is not None or type(dropout) is not float or dropout != 0.0:
        check_dropout(dropout, key)
    if stats is not False and stats is not True:
        check_integer("stats", stats, 0)


def _named(**arrays: Array | None) -> list[tuple[str, Array]]:
    return [(name, x) for name, x in arrays.items() if x is not None]


def check_dense_backward(da: Any, cache: Any) -> None:
    """Check the arguments of `dense_backward`."""
    if not hasattr(cache, "has_bias"):
        raise TypeError(f"cache: expected the cache of dense_forward, got {describe(cache)}")
    check_like("da", da, cache.z if cache.a is None else cache.a, "the output of dense_forward")


def check_activation_forward(z: Any, kind: Any) -> None:
    """Check the arguments of `activation_forward`; z may have any number of dimensions."""
    check_array("z", z, None)
    if type(kind) is not str or kind not in _KNOWN_ACTIVATIONS:
        check_choice("kind", kind, ACTIVATIONS)


def check_activation_backward(da: Any, a_or_z: Any, kind: Any) -> None:
    """Check the arguments of `activation_backward`."""
    check_array("da", da, None)
    check_like("a_or_z", a_or_z, da, "da")
    if type(kind) is not str or kind not in _KNOWN_ACTIVATIONS:
        check_choice("kind", kind, ACTIVATIONS)


def check_dropout_mask(shape: Any, dropout: Any, key: Any) -> tuple[int, ...]:
    """Check the arguments of `dropout_mask`; return the shape as a tuple of one or two ints."""
    sizes = shape if isinstance(shape, tuple | list) else (shape,)
    if not 1 <= len(sizes) <= 2:
        raise ValueError(f"shape: expected n, (n,) or (m, n), got {shape!r}")
    check_dropout(dropout, key)
    return tuple(check_integer("shape", size, 0) for size in sizes)


def check_batch_norm_forward(
    x: Any, gamma: Any, beta: Any, running_mean: Any, running_var: Any,
    training: Any, momentum: Any, eps: Any,
) -> None:  # fmt: skip
    """Check the arguments of `batch_norm_forward`."""
    check_array("x", x, 2)
    vectors = (
        ("gamma", gamma), ("beta", beta),
        ("running_mean", running_mean), ("running_var", running_var),
    )  # fmt: skip
    for name, vector in vectors:
        check_array(name, vector, 1)
        if vector.dtype is not x.dtype:
            check_dtype(name, vector, x.dtype)
        if vector.shape[0] != x.shape[1]:
            check_shape(name, vector, (x.shape[1],), f"to match x of shape {x.shape}")
    check_fraction("momentum", momentum)
    check_positive("eps", eps)
    check_training_rows(x, training)
    if not training:
        return
    for name, vector in vectors[2:]:
        check_in_place(name, vector)
        for other, array in (("x", x), *vectors):
            if other != name and np.may_share_memory(vector, array):
                raise ValueError(f"{name}: expected memory apart from {other}, but they overlap")


def check_training_rows(x: Any, training: Any) -> None:
    """Refuse a batch without a variance."""
    if training and x.shape[0] < 2:
        raise ValueError(
            "x: batch normalisation needs at least 2 rows in training, "
            f"got shape {x.shape}; use larger batches or training=False"
        )


def check_batch_norm_backward(dy: Any, cache: Any) -> None:
    """Check the arguments of `batch_norm_backward`."""
    if not hasattr(cache, "x_hat"):
        raise TypeError(f"cache: expected the cache of batch_norm_forward, got {describe(cache)}")
    check_like("dy", dy, cache.x_hat, "the output of batch_norm_forward")


def check_activation_stats(a: Any, bins: Any, range: Any, activation: Any) -> None:
    """Check the arguments of `activation_stats`."""
    check_array("a", a, 1 if getattr(a, "ndim", 2) == 1 else 2)
    check_rows("a", a)
    check_stats_settings(bins, range, activation)


def check_stats_settings(bins: Any, range: Any, activation: Any) -> None:
    """Check what of `activation_stats` is not the array."""
    check_integer("bins", bins, 0)
    if activation is not None:
        check_choice("activation", activation, ACTIVATIONS)
    if range is None:
        return
    if not isinstance(range, tuple | list) or len(range) != 2:
        raise TypeError(f"range: expected (low, high) or None, got {range!r}")
    low, high = (check_real("range", end, "two finite numbers") for end in range)
    if low > high:
        raise ValueError(f"range: expected low <= high, got {range!r}")


def check_update(parameters: Any, gradients: Any) -> None:
    """Check the two flat vectors of an optimizer's update."""
    check_array("parameters", parameters, 1)
    check_like("gradients", gradients, parameters, "parameters")
    if not (parameters.flags.carray and gradients.flags.c_contiguous):
        check_in_place("parameters", parameters)
        raise ValueError(
            "gradients: expected a contiguous array, "
            f"got strides {gradients.strides}; use np.ascontiguousarray(gradients)"
        )
    if np.may_share_memory(parameters, gradients):
        raise ValueError("gradients: expected memory apart from parameters, but they overlap")


def check_decay_mask(decay_mask: Any, parameters: Array) -> None:
    """Refuse a mask that is not one bool per parameter."""
    if not isinstance(decay_mask, np.ndarray) or decay_mask.dtype != np.bool_:
        raise TypeError(f"decay_mask: expected an array of bool, got {describe(decay_mask)}")
    check_shape("decay_mask", decay_mask, parameters.shape, "to match parameters")


# ---- losses: labels, targets, weights --------------------------------------------------------


def check_labels(name: str, labels: Array, rows: int, classes: int) -> NDArray[np.int64]:
    """Return class numbers (rows,) as int64; refuse one outside 0 ... classes - 1."""
    if labels.shape != (rows,):
        fix = {(rows, 1): f"; use {name}.ravel()", (rows, classes): f"; use {name}.argmax(axis=1)"}
        raise ValueError(
            f"{name}: expected shape ({rows},), one class number per row, got {labels.shape}"
            + fix.get(labels.shape, "")
        )
    if labels.dtype == np.int64:
        unsigned = labels.view(np.uint64)  # a negative label becomes a huge one
        good = rows == 0 or np.maximum.reduce(unsigned) < classes
    else:
        good = rows == 0 or (labels.min() >= 0 and labels.max() < classes)
    if not good:
        row = int(np.flatnonzero((labels < 0) | (labels >= classes))[0])
        raise ValueError(
            f"{name}: expected class numbers from 0 to {classes - 1}, got {labels[row]} "
            f"in row {row}; np.unique({name}, return_inverse=True)[1] numbers your classes"
        )
    return labels if labels.dtype == np.int64 else labels.astype(np.int64)


def check_probabilities(name: str, q: Array, shape: tuple[int, int]) -> None:
    """Refuse rows that are not probabilities: nonnegative with sum 1 (to 1e-3)."""
    check_shape(name, q, shape, "(one probability per row and class)")
    sums = q.sum(axis=1, dtype=np.float64)
    bad = ~(np.abs(sums - 1.0) <= 1e-3) | ~(q >= 0).all(axis=1)  # ~: NaN is bad, too
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"{name}: expected nonnegative probabilities with sum 1 in each row, "
            f"got sum {sums[row]:.6g} and minimum {q[row].min():.6g} in row {row}"
        )


def check_class_targets(
    name: str, labels: Any, rows: int, classes: int, dtype: np.dtype[Any]
) -> Array:
    """Return labels (rows,) as int64, or probabilities (rows, classes) as they are."""
    kind = labels.dtype.kind if isinstance(labels, np.ndarray) else ""
    if kind in ("i", "u"):
        return check_labels(name, labels, rows, classes)
    if kind == "f" and labels.ndim == 2:
        check_array(name, labels, 2)
        check_dtype(name, labels, dtype, "z")
        check_probabilities(name, labels, (rows, classes))
        probabilities: Array = labels
        return probabilities
    raise TypeError(
        f"{name}: expected ({rows},) integers or ({rows}, {classes}) probabilities, "
        f"got {describe(labels)}; convert class numbers with np.asarray({name}).astype(np.int64)"
    )


def check_unit_range(name: str, t: Array) -> None:
    """Refuse targets outside [0, 1]; say where."""
    if t.size == 0:
        return
    if np.minimum.reduce(t, axis=None) >= 0 and np.maximum.reduce(t, axis=None) <= 1:
        return
    where = np.argwhere(~((t >= 0) & (t <= 1)))[0]
    raise ValueError(
        f"{name}: expected values in [0, 1], got {t[tuple(where)]} in row {where[0]}"
        + (f", column {where[1]}" if t.ndim == 2 else "")
    )


def check_sample_weight(name: str, weight: Any, rows: int, dtype: np.dtype[Any]) -> Array | None:
    """Return weights (rows,) in `dtype`: real, finite, nonnegative, with a positive sum."""
    if weight is None:
        return None
    if not isinstance(weight, np.ndarray) or weight.dtype.kind not in "fiub":
        raise TypeError(
            f"{name}: expected an array of {rows} real numbers, got {describe(weight)}; "
            f"convert it with np.asarray({name}, dtype=np.{dtype})"
        )
    check_shape(name, weight, (rows,), "(one weight per row)")
    return _weights(name, weight, dtype)


def check_class_weight(name: str, weight: Any, classes: int, dtype: np.dtype[Any]) -> Array | None:
    """Return weights (classes,) in `dtype`; a dict {class: weight} leaves the others at 1."""
    if weight is None:
        return None
    if isinstance(weight, Mapping):
        full = np.ones(classes)
        for label, value in weight.items():
            place = check_integer(f"{name}: class", label, 0, classes)
            full[place] = check_real(f"{name}[{label}]", value, "a number >= 0")
        weight = full
    weight = np.asarray(weight)
    if weight.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected {classes} real numbers or a dict, got {weight.dtype}")
    check_shape(name, weight, (classes,), "(one weight per class)")
    return _weights(name, weight, dtype)


def _weights(name: str, weight: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):
        weight = weight.astype(dtype, copy=False)
    if not (weight >= 0).all() or not np.isfinite(weight).all():
        place = int(np.argmax(~(weight >= 0) | ~np.isfinite(weight)))
        raise ValueError(
            f"{name}: expected finite weights >= 0, got {weight[place]} at index {place}"
        )
    if weight.size and not weight.any():
        raise ValueError(f"{name}: expected a positive sum, got only zeros")
    return weight


def check_loss_input(name: str, z: Any, ndims: tuple[int, ...]) -> None:
    """Refuse outputs that are not a nonempty float array of one of these dimensions."""
    check_array(name, z, z.ndim if getattr(z, "ndim", None) in ndims else 2)
    check_rows(name, z)


def check_binary_targets(name: str, targets: Any, z: Array) -> Array:
    """Return targets like z, values in [0, 1]; integers and bools are converted."""
    if isinstance(targets, np.ndarray) and targets.dtype.kind in "iub":
        check_shape(name, targets, z.shape, "to match z")
        check_unit_range(name, targets)
        return targets.astype(z.dtype)
    check_like(name, targets, z, "z")
    check_unit_range(name, targets)
    return np.asarray(targets)
