"""The network on a GPU: `MLP(..., device="cuda")`.

Settings, checks, the training loop, files and copies are those of `fanin.MLP`; the vectors are
CuPy arrays, and a step is queued on the GPU by one call of compiled code.
"""

import math
from typing import Any

import numpy as np

from .. import dense, network
from ..optimizer import COMPILED
from ..reference import arguments
from ..reference import network as reference
from ..reference.arguments import FLOAT32, Array, on_cuda
from ..reference.dropout import dropout_threshold
from ..reference.loss import ClassWeight, Loss
from ..reference.optimizer import Optimizer
from ..reference.stats import saturation_bounds
from ..reference.vectors import on_host
from .array import library_of
from .runtime import available, compiled

_ROWS_AT_ONCE = 1 << 16  # of arrays on the device, for what layers leave

_PRECISIONS = {None: 0, "bfloat16": 1, "tfloat32": 2}  # as in cpp/cuda/network.hpp


class Layer(dense.Layer):
    __doc__ = dense.Layer.__doc__

    def __setattr__(self, name: str, value: Any) -> None:
        current: Any = vars(self).get(name)
        if not on_cuda(current):
            super().__setattr__(name, value)  # refuses
        elif value is not current:
            current[...] = cupy().asarray(to_host(value), dtype=current.dtype)

    @property
    def weight_norm(self) -> float:
        return math.sqrt(float((self.weight.astype(np.float64) ** 2).sum()))


class MLP(network.MLP):
    """`fanin.MLP` on a GPU, the one that is CUDA's current device when the network is made.

    parameters, gradients, running_mean, running_var and the arrays of layers are CuPy arrays.
    Methods take NumPy arrays and arrays on the GPU (CuPy, PyTorch, JAX: whatever speaks DLPack);
    `forward`, `backward`, `predict` and `predict_proba` return what they were given.  A loss of
    your own and metrics see NumPy arrays, as on the CPU.  `fit` copies the data to the GPU once
    where there is room for them, and otherwise on the way, while the GPU computes.

    The order of rows and dropout's masks are the CPU's; sums are not made in the CPU's order, so
    results agree to rounding.  The same seed gives the same bits on the same kind of GPU.

    Not possible here, and refused with a TypeError: optimizers derived from `Optimizer` other than
    `SGD`, `RMSprop`, `Adam` and `AdamW` themselves, the reference's included.  Any object with
    `update(parameters, gradients)` for CuPy arrays will do.
    """

    device = "cuda"
    _layer = Layer
    _precisions = ("bfloat16", "tfloat32")
    _norms_of_all = True

    _fits = False  # during `fit`
    _kept: tuple[Any, ...] = ()  # the data set that lies on the device, or that has no room there

    # ---- vectors -------------------------------------------------------------------------------

    def _make_vectors(self, parameters: int, units: int) -> tuple[Any, Any, Any, Any]:
        xp = cupy()
        return (
            xp.zeros(parameters, self.dtype),
            xp.zeros(parameters, self.dtype),
            xp.zeros(units, self.dtype),
            xp.ones(units, self.dtype),
        )

    def _copy_values(self, name: str, vector: Any, values: Any) -> None:
        if values is not vector:
            xp = cupy()
            values = as_cupy(values) if on_cuda(values) else np.asarray(values)
            arguments.check_shape(name, values, vector.shape, "(the network's)")
            vector[...] = xp.asarray(values, dtype=self.dtype)

    def _set_vectors(self, vectors: dict[str, Any]) -> None:
        own = {name: getattr(self, name) for name in vectors}
        for name, values in vectors.items():
            if values.dtype != self.dtype:
                raise ValueError(f"{name}: expected {self.dtype}, got {values.dtype}")
            arguments.check_shape(name, values, own[name].shape, "(the network's)")
        there = {name: cupy().asarray(values) for name, values in vectors.items()}
        self._pending = None
        for name, values in there.items():
            own[name][...] = values

    def _exchange(self, vectors: dict[str, Array]) -> None:
        own = {name: on_host(getattr(self, name)) for name in vectors}
        self._set_vectors(vectors)
        for name, values in own.items():
            vectors[name][...] = values

    def _prepare(self, optimizer: Any) -> None:
        """Let the optimizer's moments lie on the device; those of a checkpoint are copied there."""
        if not isinstance(optimizer, Optimizer):
            return
        xp, vector = cupy(), self._parameters
        if not optimizer.state:
            optimizer.state = {
                name: xp.zeros(vector.size, self.dtype) for name in optimizer.moments
            }
        for name, moment in optimizer.state.items():
            if moment.shape != vector.shape or moment.dtype != self.dtype:
                raise ValueError(
                    f"parameters: expected {moment.size} of {moment.dtype} as in the first update, "
                    f"got {vector.size} of {self.dtype}; "
                    "use one optimizer per network, or reset()"
                )
            if not on_cuda(moment):
                optimizer.state[name] = xp.asarray(moment)

    # ---- arithmetic ----------------------------------------------------------------------------

    def _bind(self) -> None:
        cuda = compiled()
        make = cuda.NetworkFloat32 if self.dtype is FLOAT32 else cuda.NetworkFloat64
        self._compiled = make(
            self._layer_arguments(),
            network._OUTPUTS[self.output],
            self.seed,
            _PRECISIONS[self.precision],
            dropout_threshold(self.input_dropout),
            self.l1_step == "proximal",
            self._loss_form.numbers(),
            [saturation_bounds(layer.activation) for layer in self.layers],
            self._parameters,
            self._gradients,
            self._running_mean,
            self._running_var,
        )
        self._bind_stats()

    def forward(self, x: Any, training: bool = False) -> Any:
        if on_cuda(x):
            return like(x, reference.MLP.forward(self, as_cupy(x), training))
        return reference.MLP.forward(self, x, training)

    forward.__doc__ = network.MLP.forward.__doc__

    def backward(self, dout: Any) -> Any:
        if not on_cuda(dout):
            return super().backward(dout)
        with self._lock:
            there, rows = as_cupy(dout), 0 if self._pending is None else self._pending[1]
            arguments.check_shape(
                "dout", there, (rows, self.sizes[-1]), "like forward(x, training=True)'s result"
            )
            there = cupy().ascontiguousarray(there, dtype=self.dtype)
            return like(dout, self._backward(there, need_dx=True))

    backward.__doc__ = network.MLP.backward.__doc__

    def _forward(self, x: Any, training: bool, stats: bool | int = False) -> Any:
        empty = cupy().empty if on_cuda(x) else np.empty
        z = empty((len(x), self.sizes[-1]), self.dtype)
        self._compiled.forward(x, training, network._bins(stats), self.step, z)
        return z

    def _backward(self, dout: Any, need_dx: bool) -> Any:
        empty = cupy().empty if on_cuda(dout) else np.empty
        dx = empty((len(dout), self.sizes[0]), self.dtype) if need_dx else None
        self._compiled.backward(dout, dx)
        return dx

    def update(self, optimizer: Any) -> None:
        self._check_optimizer(optimizer)
        with self._lock:
            if type(optimizer) in COMPILED:
                self._prepare(optimizer)
                self._compiled.update(optimizer, optimizer.learning_rate(), optimizer.steps)
                optimizer.steps += 1
            else:
                optimizer.update(self._parameters, self._gradients)
                if self._constrains():
                    self._compiled.limit_norms()
            self.step += 1
            self._pending = None

    update.__doc__ = network.MLP.update.__doc__

    def _check_optimizer(self, optimizer: Any) -> None:
        super()._check_optimizer(optimizer)
        if isinstance(optimizer, Optimizer) and type(optimizer) not in COMPILED:
            raise TypeError(
                "optimizer: expected SGD, RMSprop, Adam or AdamW of fanin with device='cuda', or "
                "an object of your own with update(parameters, gradients) for CuPy arrays, got "
                f"{optimizer!r}"
            )

    def _as_batch(self, x: Any, training_mode: bool) -> Any:
        if not on_cuda(x):
            return super()._as_batch(x, training_mode)
        x = self._checked(x)
        if training_mode:
            self._check_rows(x)
        return x

    def _checked(self, x: Any) -> Any:
        """Return rows on the device as compiled code takes them."""
        x = as_cupy(x)
        if x.ndim != 2 or x.shape[1] != self.sizes[0]:
            hint = "; one row is x.reshape(1, -1)" if x.ndim == 1 else ""
            raise ValueError(
                f"x: expected shape (rows, {self.sizes[0]}) for a network with {self.sizes[0]} "
                f"inputs, got {x.shape}{hint}"
            )
        if x.dtype.kind not in "fiub":
            raise TypeError(f"x: expected real numbers, got {x.dtype}")
        return x if x.dtype in network._DIRECT else x.astype(self.dtype)

    def _as_step(
        self, x: Any, y: Any, sample_weight: Any, class_weight: Any, label_smoothing: Any, loss: Any
    ) -> tuple[Any, Array, Array | None, tuple[Array | None, float]]:
        y, sample_weight = to_host(y), to_host(sample_weight)
        if not on_cuda(x) or loss is not None:
            return super()._as_step(
                to_host(x), y, sample_weight, class_weight, label_smoothing, loss
            )
        x = self._checked(x)
        instead = np.broadcast_to(self.dtype.type(0), x.shape)  # to check the others by
        _, y, weight, options = super()._as_step(
            instead, y, sample_weight, class_weight, label_smoothing, loss
        )
        return x, y, weight, options

    def train_step(
        self,
        x: Any,
        y: Any,
        optimizer: Optimizer,
        *,
        sample_weight: Any = None,
        class_weight: ClassWeight | None = None,
        label_smoothing: float = 0.0,
        loss: Loss | None = None,
        monitor: bool = False,
    ) -> float:
        return reference.MLP.train_step(
            self, x, y, optimizer, sample_weight=sample_weight, class_weight=class_weight,
            label_smoothing=label_smoothing, loss=loss, monitor=monitor,
        )  # fmt: skip

    train_step.__doc__ = network.MLP.train_step.__doc__

    # ---- training and using --------------------------------------------------------------------

    def fit(self, x: Any, y: Any, **options: Any) -> Any:
        for name in ("validation", "sample_weight"):
            if isinstance(options.get(name), tuple | list):
                options[name] = tuple(map(to_host, options[name]))
            elif name in options:
                options[name] = to_host(options[name])
        with self._lock:
            self._fits = True
            try:
                return super().fit(to_host(x), to_host(y), **options)
            finally:
                self._fits, self._kept = False, ()
                self._compiled.forget()

    fit.__doc__ = network.MLP.fit.__doc__

    def _data(
        self,
        x: Any,
        y: Array,
        sample_weight: Array | None,
        batch_size: int,
        whole: bool,
    ) -> tuple[Any, Array | None, Array | None, Array | None]:
        """Take the data of `fit` to the device at the first call, if there is room.

        Then x is None: the device has what is wanted.
        """
        wanted = super()._data(x, y, sample_weight, batch_size, whole)
        if not self._fits or not whole:
            return wanted
        data = x, y, sample_weight
        if not self._kept or any(a is not b for a, b in zip(self._kept, data, strict=False)):
            self._kept = (*data, self._compiled.keep(*wanted, batch_size))
        return (None, None, None, None) if self._kept[-1] else wanted

    def _outputs(self, x: Any) -> Any:
        if not on_cuda(x):
            return super()._outputs(x)
        with self._lock:
            x = self._checked(x)
            for name in ("standardizer", "target_standardizer"):
                if getattr(self, name) is not None:
                    getattr(self, name).check_fitted(name)
            z = cupy().empty((len(x), self.sizes[-1]), self.dtype)
            for start in range(0, len(x), _ROWS_AT_ONCE):
                rows = slice(start, start + _ROWS_AT_ONCE)
                self._compiled.forward(self._scaled(x[rows]), False, -1, self.step, z[rows])
            return z

    def _scaled(self, x: Any) -> Any:
        """Return rows on the device as the network sees them."""
        scale = self.standardizer or self.input_scale
        if scale is None:
            return x
        if isinstance(scale, float):
            return x.astype(self.dtype) * self.dtype.type(scale)
        wide = np.result_type(x.dtype, self.dtype)
        shift, factor = map(cupy().asarray, scale.shift_and_factor(wide))
        return ((x.astype(wide) - shift) * factor).astype(self.dtype)

    def predict(self, x: Any) -> Any:
        return like(x, super().predict(x)) if on_cuda(x) else super().predict(x)

    predict.__doc__ = network.MLP.predict.__doc__

    def predict_proba(self, x: Any) -> Any:
        return like(x, super().predict_proba(x)) if on_cuda(x) else super().predict_proba(x)

    predict_proba.__doc__ = network.MLP.predict_proba.__doc__

    def _predictions(self, z: Any) -> Any:
        if self.target_standardizer is None or not on_cuda(z):
            return super()._predictions(z)
        return cupy().asarray(super()._predictions(on_host(z)))

    def _probabilities(self, z: Any) -> Any:
        if not on_cuda(z):
            return super()._probabilities(z)
        return cupy().asarray(super()._probabilities(on_host(z)))

    def evaluate(
        self, x: Any, y: Any, *, sample_weight: Any = None, loss: Loss | None = None
    ) -> dict[str, float]:
        return super().evaluate(
            to_host(x), to_host(y), sample_weight=to_host(sample_weight), loss=loss
        )

    evaluate.__doc__ = network.MLP.evaluate.__doc__


# ---- arrays on the device ----------------------------------------------------------------------


_there = False  # asked once: an answer takes longer than a small step


def cupy() -> Any:
    """Return CuPy; raise where it, the compiled module, a driver or a GPU is missing."""
    global _there
    if not _there:
        _there, reason = available()
        if not _there:
            raise RuntimeError(f"device: 'cuda' cannot be had here: {reason}")
    try:
        import cupy
    except ImportError as error:
        raise ImportError(
            "device='cuda' keeps its vectors in CuPy arrays; install CuPy: "
            'pip install "fanin[cuda]"'
        ) from error
    return cupy


def as_cupy(x: Any) -> Any:
    """Return a GPU's array as CuPy's, without a copy."""
    xp = cupy()
    return x if isinstance(x, xp.ndarray) else xp.from_dlpack(x)


def like(x: Any, found: Any) -> Any:
    """Return a CuPy array as an array of the library that x is from, without a copy."""
    return found if isinstance(x, cupy().ndarray) else library_of("x", x).give(found)


def to_host(x: Any) -> Any:
    """Return a GPU's array as NumPy's, and all else as it is."""
    return as_cupy(x).get() if on_cuda(x) else x
