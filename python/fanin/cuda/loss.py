"""Losses on a CUDA device; see `fanin.softmax_cross_entropy` and its neighbours.

The loss is a float64 array of shape () on the device: nothing waits for it, `float(loss)` does.

Labels and targets are not looked at, which would wait for the device: a row whose label is none of
0 ... n - 1 has loss and gradient 0, but for what smoothing adds, and still counts in the mean;
targets are taken as they are.
Weights are: they are copied to the host, checked, and added there.
"""

import math
from typing import Any

import numpy as np

from ..reference import arguments
from ..reference.loss import PLAIN, ClassWeight
from .array import Call

INTEGERS = ("int64", "int32", "int16", "int8", "uint8")


def softmax_cross_entropy(
    z: Any,
    labels: Any,
    *,
    sample_weight: Any = None,
    class_weight: ClassWeight | None = None,
    label_smoothing: float = 0.0,
) -> tuple[Any, Any]:
    """Return the cross entropy of softmax(z) and labels on a device, and its gradient."""
    smoothing = arguments.check_fraction("label_smoothing", label_smoothing)
    call = Call("z", z)
    array = call.array("z", z, 2)
    arguments.check_rows("z", array)
    rows, classes = array.shape
    target = call.array("labels", labels, None, dtypes=(*INTEGERS, array.dtype))
    one_number = target.dtype in INTEGERS
    shape = (rows,) if one_number else (rows, classes)
    if target.shape != shape:
        what = "class number per row" if one_number else "probability per row and class"
        raise ValueError(f"labels: expected shape {shape}, one {what}, got {target.shape}")
    if one_number:
        target = _as_int64(call, target)
    weight, host_weight = _sample_weight(call, sample_weight, rows, array.dtype)
    host_dtype = np.dtype(np.float64 if array.dtype == "float64" else np.float32)
    of_class = arguments.check_class_weight("class_weight", class_weight, classes, host_dtype)
    if one_number and of_class is not None:
        numbers = call.download(target, "labels")
        numbers = arguments.check_labels("labels", numbers, rows, classes)
        weights = of_class[numbers].astype(np.float64)
        divisor = float((weights if host_weight is None else weights * host_weight).sum())
    else:
        divisor = _total(host_weight, rows)
    return _loss(
        call, call.compiled.softmax_cross_entropy, array, call.rows(array, "z"),
        target if one_number else None,
        None if one_number else call.rows(target, "labels"),
        weight,
        None if of_class is None else call.upload(of_class, array.dtype),
        smoothing,
        divisor,
    )  # fmt: skip


def sigmoid_cross_entropy(
    z: Any, targets: Any, *, sample_weight: Any = None, label_smoothing: float = 0.0
) -> tuple[Any, Any]:
    """Return the binary cross entropy of sigmoid(z) and targets on a device, and its gradient."""
    smoothing = arguments.check_fraction("label_smoothing", label_smoothing)
    return _elementwise("sigmoid_cross_entropy", "z", z, targets, sample_weight, smoothing)


def mean_squared_error(y: Any, targets: Any, *, sample_weight: Any = None) -> tuple[Any, Any]:
    """Return the mean of (y - targets)^2 on a device, and its gradient."""
    return _elementwise("mean_squared_error", "y", y, targets, sample_weight, 0.0)


def _elementwise(
    function: str, name: str, z: Any, targets: Any, sample_weight: Any, smoothing: float
) -> tuple[Any, Any]:
    call = Call(name, z)
    array = call.array(name, z, 1 if getattr(z, "ndim", 2) == 1 else 2)
    arguments.check_rows(name, array)
    target = call.like("targets", targets, array, name)
    rows = array.shape[0]
    weight, host_weight = _sample_weight(call, sample_weight, rows, array.dtype)
    columns = [rows, array.size // rows]
    if array.ndim == 1:
        outputs = call.contiguous(name, array).reshape(columns)
        target = call.contiguous("targets", target).reshape(columns)
    else:
        outputs, target = call.rows(array, name), call.rows(target, "targets")
    divisor = _total(host_weight, rows) * columns[1]
    return _loss(
        call, getattr(call.compiled, function), array, outputs, None, target, weight, None,
        smoothing, divisor,
    )  # fmt: skip


def _loss(
    call: Call,
    function: Any,
    z: Any,
    rows: Any,
    labels: Any,
    targets: Any,
    sample_weight: Any,
    class_weight: Any,
    smoothing: float,
    divisor: float,
) -> tuple[Any, Any]:
    dz = call.empty(z.shape, z.dtype)
    number = call.empty((), "float64")
    function(
        rows,
        labels,
        targets,
        sample_weight,
        class_weight,
        smoothing,
        divisor or math.inf,  # of no weight: loss and gradient are 0
        PLAIN.numbers(),
        dz.array.reshape(list(rows.shape)),
        number.array,
        call.stream,
    )
    return call.give(number), call.give(dz)


def _as_int64(call: Call, labels: Any) -> Any:
    if labels.dtype == "int64":
        return call.contiguous("labels", labels)
    flat = labels.as_column()
    numbers = call.empty(flat.shape, "int64").array
    call.compiled.convert(flat, numbers, call.stream)
    return numbers.reshape(list(labels.shape))


def _sample_weight(call: Call, weight: Any, rows: int, dtype: str) -> tuple[Any, Any]:
    """Return weights (rows,) on the device and, checked, on the host; waits for the device."""
    if weight is None:
        return None, None
    array = call.vector("sample_weight", weight, rows, dtype, "(one weight per row)")
    host = call.download(array, "sample_weight").astype(np.float64)
    arguments.check_sample_weight("sample_weight", host, rows, host.dtype)
    return array, host


def _total(weight: Any, rows: int) -> float:
    return float(rows) if weight is None else float(weight.sum())
